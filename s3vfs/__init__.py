"""A shared POSIX file system whose only server is a bucket (docs/architecture.md)."""

__version__ = "0.1.0"
