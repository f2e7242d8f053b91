"""A program that makes files one after the other, and prints what has been answered.

    python -m tests.fuse.bearer FOLDER COUNT

A line for each answer: the file's number, and made, written, owned, dated or closed. Ends with 3 where an answer is an
error.
"""

from __future__ import annotations

import os
import sys

MODE, OWNER = 0o604, (7, 8)


def data_of(number: int) -> bytes:
    """What is written to that file; nothing to every fourth."""
    return b"%d " % number * (number % 4 * 50)


def times_of(number: int) -> tuple[int, int]:
    return 1_000_000_007 * number, 2_000_000_011 * number


def run(folder: str, count: int) -> None:
    for number in range(count):
        descriptor = os.open(os.path.join(folder, f"file{number}"), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        _print(number, "made")
        if data := data_of(number):
            os.write(descriptor, data)
            _print(number, "written")
        os.fchown(descriptor, *OWNER)
        os.fchmod(descriptor, MODE)
        _print(number, "owned")
        os.utime(descriptor, ns=times_of(number))
        _print(number, "dated")
        os.close(descriptor)
        _print(number, "closed")


def _print(number: int, what: str) -> None:
    os.write(1, f"{number} {what}\n".encode())


if __name__ == "__main__":
    os.umask(0o022)
    try:
        run(sys.argv[1], int(sys.argv[2]))
    except OSError:
        sys.exit(3)
