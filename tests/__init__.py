"""Tests follow the layout of the packages they test."""
