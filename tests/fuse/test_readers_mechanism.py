"""The end of handles that only read, answered by the front. The file system is a double (double.py), the extension
compiled with sanitizers."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuse.test_extra_operations import Served
from tests.mounted import eventually


@pytest.fixture
def served(built: Path, tmp_path: Path) -> Iterator[Served]:
    (tmp_path / "notes.readers").touch()
    served = Served(tmp_path, built)
    try:
        served.start()
        yield served
        served.umount()
    finally:
        served.clear()


def test_closes_and_ends_are_answered_and_told(served: Served) -> None:
    handles = [os.open(served.path / "b", os.O_RDONLY) for _ in range(5)]
    os.close(os.dup(handles[0]))
    assert not served.notes("released")
    for handle in handles:
        os.close(handle)
    eventually(lambda: len(served.notes("released")) == len(handles))
    for index in range(1000):
        os.close(os.open(served.path / "ab"[index % 2], os.O_RDONLY))
    eventually(lambda: len(served.notes("released")) == 1005)
    assert not served.notes("flush")
    assert not served.notes("release")


@pytest.mark.parametrize("lock", [fcntl.flock, fcntl.lockf])
def test_who_asks_for_a_lock_is_pythons_and_so_is_everybody_who_has_the_file(served: Served, lock: object) -> None:
    first, second, other = (os.open(served.path / name, os.O_RDONLY) for name in "bba")
    assert callable(lock)
    lock(first, fcntl.LOCK_SH)
    os.close(second)  # which gives up what the process has locked by fcntl
    eventually(lambda: served.notes("release"))
    assert len(served.notes("flush")) == 1
    os.close(first)
    eventually(lambda: len(served.notes("release")) == 2)
    os.close(other)
    eventually(lambda: served.notes("released"))
    assert len(served.notes("release")) == 2


def test_a_flock_that_python_has_not_heard_of_is_released_by_it(served: Served) -> None:
    """The kernel knows that a flock was asked for through the handle, whatever has become of that."""
    handle = os.open(served.path / "a", os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_UN)
    os.close(handle)
    eventually(lambda: served.notes("release"))
    assert not served.notes("released")
