"""The rules of POSIX as Linux keeps them, case by case: every case runs on a local directory too, and both must agree."""
