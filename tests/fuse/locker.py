"""A program that uses locks, for tests: one process, told what to do line by line, or counting under a lock.

    python -m tests.fuse.locker talk FILE               reads commands from stdin, answers each with a line
    python -m tests.fuse.locker count FILE KIND ROUNDS  adds 1 to the number in FILE, ROUNDS times; KIND: flock, fcntl

Commands of `talk`: KIND OPERATION [START LENGTH], with OPERATION of sh, ex, un, try-sh, try-ex; read; write TEXT; stamp
(mtime 1); open; close. The answer is `ok`, the name of an errno, or what was read.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import sys

_OPERATIONS = {
    "sh": fcntl.LOCK_SH,
    "ex": fcntl.LOCK_EX,
    "un": fcntl.LOCK_UN,
    "try-sh": fcntl.LOCK_SH | fcntl.LOCK_NB,
    "try-ex": fcntl.LOCK_EX | fcntl.LOCK_NB,
}


class Interrupted(Exception):
    pass


def interrupt(*_: object) -> None:
    raise Interrupted


def lock(kind: str, descriptor: int, operation: int, start: int = 0, length: int = 0) -> None:
    if kind == "flock":
        fcntl.flock(descriptor, operation)
    else:
        fcntl.lockf(descriptor, operation, length, start)


def count(path: str, kind: str, rounds: int) -> None:
    descriptor = os.open(path, os.O_RDWR)
    for _ in range(rounds):
        lock(kind, descriptor, fcntl.LOCK_EX)
        number = int(os.pread(descriptor, 20, 0) or b"0")
        os.pwrite(descriptor, b"%d" % (number + 1), 0)
        lock(kind, descriptor, fcntl.LOCK_UN)
    os.close(descriptor)


def talk(path: str) -> None:
    signal.signal(signal.SIGUSR1, interrupt)
    descriptors = [os.open(path, os.O_RDWR)]
    print("ready", flush=True)
    for line in sys.stdin:
        try:
            answer = _obey(path, descriptors, line.split())
        except OSError as error:
            answer = "EDEADLK" if error.errno == errno.EDEADLK else errno.errorcode[error.errno or 0]
        except Interrupted:
            answer = "EINTR"
        print(answer, flush=True)


def _obey(path: str, descriptors: list[int], words: list[str]) -> str:
    descriptor = descriptors[-1]
    match words:
        case [("flock" | "fcntl") as kind, operation, *place]:
            lock(kind, descriptor, _OPERATIONS[operation], *map(int, place))
        case ["read"]:
            return os.pread(descriptor, 1 << 20, 0).decode() or "nothing"
        case ["write", text]:
            os.pwrite(descriptor, text.encode(), 0)
        case ["stamp"]:
            os.utime(descriptor, ns=(1, 1))
        case ["open"]:
            descriptors.append(os.open(path, os.O_RDWR))
        case ["close"]:
            os.close(descriptors.pop())
        case _:
            return "what?"
    return "ok"


if __name__ == "__main__":
    if sys.argv[1] == "count":
        count(sys.argv[2], sys.argv[3], int(sys.argv[4]))
    else:
        talk(sys.argv[2])
