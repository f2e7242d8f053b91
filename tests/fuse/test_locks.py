"""Locks through real kernels: two mounts of one volume, and programs that know of no other machine."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

Pair = tuple[Path, Path]

# Takes a lock of the kind in argv[2] on the file argv[1], says so, and holds it until its stdin ends.
_HOLDER = """
import fcntl, os, sys
descriptor = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
getattr(fcntl, sys.argv[2])(descriptor, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""

# Increments the number in the file argv[1] argv[3] times under a lock of the kind argv[2], with one descriptor and, as
# programs do, through the page cache.
_COUNTER = """
import fcntl, os, sys
lock = getattr(fcntl, sys.argv[2])
descriptor = os.open(sys.argv[1], os.O_RDWR)
for _ in range(int(sys.argv[3])):
    lock(descriptor, fcntl.LOCK_EX)
    value = int(os.pread(descriptor, 20, 0))
    os.pwrite(descriptor, b"%020d" % (value + 1), 0)
    lock(descriptor, fcntl.LOCK_UN)
"""

KINDS = pytest.mark.parametrize("kind", ["flock", "lockf"])


def lock_of(kind: str) -> Callable[[int, int], None]:
    call: Callable[[int, int], None] = getattr(fcntl, kind)
    return call


@contextmanager
def opened(path: Path, flags: int = os.O_RDWR | os.O_CREAT) -> Iterator[int]:
    descriptor = os.open(path, flags)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def holder(path: Path, kind: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the file's lock."""
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(path), kind], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.stdin.close()
        process.wait(60)
        process.stdout.close()


def refusal(call: Callable[[int, int], None], descriptor: int, operation: int) -> int:
    """The errno of a lock call that does not wait; 0: granted."""
    try:
        call(descriptor, operation | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno or -1
    return 0


@KINDS
def test_a_lock_on_one_mount_is_in_the_way_on_the_other_until_it_is_let_go(pair: Pair, kind: str) -> None:
    here, there = pair
    lock = lock_of(kind)
    with opened(here / "file") as first, opened(there / "file") as second:
        lock(first, fcntl.LOCK_SH)
        assert refusal(lock, second, fcntl.LOCK_SH) == 0
        assert refusal(lock, second, fcntl.LOCK_EX) == errno.EAGAIN
        lock(second, fcntl.LOCK_UN)
        lock(first, fcntl.LOCK_EX)
        assert refusal(lock, second, fcntl.LOCK_SH) == errno.EAGAIN
        lock(first, fcntl.LOCK_UN)
        assert refusal(lock, second, fcntl.LOCK_EX) == 0


def test_ranges_do_not_meet_where_they_do_not_overlap(pair: Pair) -> None:
    here, there = pair
    with opened(here / "file") as first, opened(there / "file") as second:
        fcntl.lockf(first, fcntl.LOCK_EX, 10, 10)
        fcntl.lockf(second, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 0)
        fcntl.lockf(second, fcntl.LOCK_EX | fcntl.LOCK_NB, 0, 20)
        assert refusal(lambda fd, op: fcntl.lockf(fd, op, 1, 19), second, fcntl.LOCK_SH) == errno.EAGAIN
        request = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        kind, _, start, length, pid = struct.unpack("hhqqi4x", fcntl.fcntl(second, fcntl.F_GETLK, request))
        assert (kind, start, length, pid) == (fcntl.F_WRLCK, 10, 10, 0)  # of a machine whose pids mean nothing here


@KINDS
def test_a_close_lets_go(pair: Pair, kind: str) -> None:
    here, there = pair
    lock = lock_of(kind)
    with opened(there / "file") as second:
        with opened(here / "file") as first:
            lock(first, fcntl.LOCK_EX)
            assert refusal(lock, second, fcntl.LOCK_EX) == errno.EAGAIN
        lock(second, fcntl.LOCK_EX)  # waits: for a flock it is the release that lets go, some time after the close


@KINDS
def test_the_next_holder_has_the_lock_when_a_process_is_killed(pair: Pair, kind: str) -> None:
    here, there = pair
    lock = lock_of(kind)
    with opened(there / "file") as second, holder(here / "file", kind) as process:
        assert refusal(lock, second, fcntl.LOCK_EX) == errno.EAGAIN
        waiter = threading.Thread(target=lock, args=(second, fcntl.LOCK_EX))
        waiter.start()
        process.kill()
        waiter.join(60)
        assert not waiter.is_alive()


@KINDS
def test_a_signal_ends_a_wait_and_the_lock_is_free_for_the_next(pair: Pair, kind: str) -> None:
    class Woken(Exception): ...

    def wake(number: int, frame: object) -> None:
        raise Woken

    here, there = pair
    lock = lock_of(kind)
    before = signal.signal(signal.SIGALRM, wake)
    try:
        with opened(there / "file") as second:
            with holder(here / "file", kind):
                signal.setitimer(signal.ITIMER_REAL, 0.3)
                with pytest.raises(Woken):
                    lock(second, fcntl.LOCK_EX)
            with opened(here / "file") as third:
                lock(third, fcntl.LOCK_EX)  # nobody stands in front of it any more
                assert refusal(lock, second, fcntl.LOCK_EX) == errno.EAGAIN
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_two_who_wait_for_each_other_are_told(pair: Pair) -> None:
    here, there = pair
    codes: list[int] = []

    def cross(descriptor: int, other: int) -> None:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX, 1, other)
        except OSError as error:
            codes.append(error.errno or -1)
            fcntl.lockf(descriptor, fcntl.LOCK_UN)

    # Two processes: threads of one own their locks together.
    script = _HOLDER.replace("getattr(fcntl, sys.argv[2])(descriptor, fcntl.LOCK_EX)", "fcntl.lockf(descriptor, 2, 1)")
    script = script.replace("sys.stdin.read()", "sys.stdin.readline(); fcntl.lockf(descriptor, 2, 1, 1)")
    with opened(there / "file") as second:
        fcntl.lockf(second, fcntl.LOCK_EX, 1, 1)
        process = subprocess.Popen(
            [sys.executable, "-c", script, str(here / "file")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        process.stdin.write("\n")
        process.stdin.flush()
        cross(second, 0)
        _, errors = process.communicate(timeout=60)
    assert (codes == [errno.EDEADLK]) != ("Errno 35" in errors)  # one of them, and the other one got its lock


@KINDS
def test_counters_are_exact_through_old_handles(pair: Pair, kind: str) -> None:
    """Also through the page cache: a lock is granted only when the kernel has dropped what the last holder outdated."""
    here, there = pair
    (here / "counter").write_bytes(b"%020d" % 0)
    rounds = 25
    processes = [
        subprocess.Popen([sys.executable, "-c", _COUNTER, str(side / "counter"), kind, str(rounds)])
        for side in (here, there, here, there)
    ]
    assert [process.wait(300) for process in processes] == [0] * 4
    assert int((here / "counter").read_bytes()) == 4 * rounds
    assert int((there / "counter").read_bytes()) == 4 * rounds


@KINDS
def test_an_old_mapping_and_an_old_size_are_renewed_by_a_lock(pair: Pair, kind: str) -> None:
    here, there = pair
    lock = lock_of(kind)
    (here / "file").write_bytes(b"old!")
    with opened(there / "file") as second, mmap.mmap(second, 4) as mapped:
        assert mapped[:] == b"old!"
        with opened(here / "file") as first:
            lock(first, fcntl.LOCK_EX)
            os.pwrite(first, b"new!", 0)
            os.ftruncate(first, 10_000)
            lock(first, fcntl.LOCK_UN)
        lock(second, fcntl.LOCK_SH)
        assert mapped[:] == b"new!"
        assert os.fstat(second).st_size == 10_000
