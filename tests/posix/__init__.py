"""The rules of POSIX as Linux keeps them, case by case: each also runs on a local directory, and both agree."""
