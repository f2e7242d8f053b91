"""`python -m s3vfs`: the same as the command s3vfs."""

import sys

from s3vfs.cli import main

if __name__ == "__main__":
    sys.exit(main())
