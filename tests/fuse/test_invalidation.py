"""The threads that tell the kernel."""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from s3vfs.fuse.invalidation import NAME_LANES, REPEAT_AFTER_S, Invalidator, Name
from tests.mounted import eventually


class Kernel:
    """Notes what it is told; while `busy`, a notification of a name blocks; `error` is raised by all."""

    def __init__(self) -> None:
        self.names: list[Name] = []
        self.inos: list[int] = []
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.blocked = threading.Event()
        self.error: Exception | None = None

    def invalidate_entry(self, parent: int, name: bytes) -> None:
        if not self.may_answer.is_set():
            self.blocked.set()
            self.may_answer.wait(30)
        if self.error is not None:
            raise self.error
        self.names.append((parent, name))

    def invalidate_attributes(self, ino: int) -> None:
        if self.error is not None:
            raise self.error
        self.inos.append(ino)

    def invalidate_pages(self, ino: int) -> None:
        self.invalidate_entry(ino, b"pages")


@contextmanager
def running(kernel: Kernel, entries: dict[int, Name] | None = None, *, lane_limit: int = 100) -> Iterator[Invalidator]:
    invalidator = Invalidator(kernel, (entries or {}).get, lane_limit=lane_limit)
    invalidator.start()
    try:
        yield invalidator
    finally:
        kernel.may_answer.set()
        assert invalidator.stop(10)


def test_everything_arrives() -> None:
    kernel = Kernel()
    with running(kernel) as invalidator:
        for number in range(50):
            invalidator.entry(number, b"%d" % number)
            invalidator.attributes(number)
        eventually(invalidator.settled)
        assert sorted(kernel.names) == [(number, b"%d" % number) for number in range(50)]
        assert kernel.inos == list(range(50))
        assert sorted(invalidator.delivered()) == sorted(kernel.names)
        assert list(invalidator.delivered()) == []
        assert invalidator.status() == {"waiting": 0, "delivered": 100, "collapsed": 0}


def test_what_waits_already_is_not_sent_twice() -> None:
    kernel = Kernel()
    kernel.may_answer.clear()
    with running(kernel) as invalidator:
        invalidator.entry(1, b"first")
        assert kernel.blocked.wait(10)
        for _ in range(10):
            invalidator.entry(1, b"again")
        kernel.may_answer.set()
        eventually(invalidator.settled)
        assert kernel.names == [(1, b"first"), (1, b"again")]


def test_a_name_waits_until_its_last_drop_is_delivered() -> None:
    kernel = Kernel()
    kernel.may_answer.clear()
    name = (1, b"name")
    with running(kernel) as invalidator:
        invalidator.entry(*name)
        assert kernel.blocked.wait(10)
        assert invalidator.name_waiting(*name)
        invalidator.entry(*name)  # the first drop may have come too early for what the kernel was given since
        kernel.may_answer.set()
        delivered = [eventually(lambda: next(invalidator.delivered(), None)) for _ in range(2)]
        assert delivered == [name, name]
        assert not invalidator.name_waiting(*name)


def test_a_busy_directory_holds_up_neither_attributes_nor_others() -> None:
    kernel = Kernel()
    kernel.may_answer.clear()
    with running(kernel) as invalidator:
        invalidator.entry(1, b"busy")
        assert kernel.blocked.wait(10)
        invalidator.attributes(7)
        eventually(lambda: kernel.inos == [7])


def test_too_many_names_become_their_directory() -> None:
    kernel = Kernel()
    kernel.may_answer.clear()
    directory = NAME_LANES + 1  # in the lane of 1
    with running(kernel, {directory: (1, b"directory")}, lane_limit=10) as invalidator:
        invalidator.entry(1, b"blocked")
        assert kernel.blocked.wait(10)
        for number in range(25):
            invalidator.entry(directory, b"%d" % number)
        assert invalidator.status()["waiting"] <= 11
        assert invalidator.collapsed
        kernel.may_answer.set()
        eventually(invalidator.settled)
        assert (1, b"directory") in kernel.names


def test_names_in_the_root_are_never_given_up() -> None:
    kernel = Kernel()
    kernel.may_answer.clear()
    with running(kernel, lane_limit=10) as invalidator:
        for number in range(50):
            invalidator.entry(1, b"%d" % number)
        kernel.may_answer.set()
        eventually(invalidator.settled)
        assert len(kernel.names) == 50


@pytest.mark.parametrize(("code", "logged"), [(errno.ENOENT, False), (errno.ENOTCONN, False), (errno.EIO, True)])
def test_the_thread_survives_what_the_kernel_says(code: int, logged: bool, caplog: pytest.LogCaptureFixture) -> None:
    kernel = Kernel()
    kernel.error = OSError(code, "no")
    with running(kernel) as invalidator:
        invalidator.entry(1, b"x")
        invalidator.attributes(1)
        eventually(invalidator.settled)
        kernel.error = None
        invalidator.entry(1, b"y")
        eventually(invalidator.settled)
        assert kernel.names == [(1, b"y")]
    assert bool(caplog.records) == logged


def test_attributes_that_the_kernel_did_not_have_are_dropped_again() -> None:
    """A reply on its way may bring them, older than the change, after the kernel was told."""
    kernel = Kernel()
    kernel.error = OSError(errno.ENOENT, "not there")
    with running(kernel) as invalidator:
        invalidator.attributes(1)
        eventually(invalidator.settled)
        kernel.error = None
        eventually(lambda: kernel.inos == [1])
        invalidator.repeat_attributes(1)
        invalidator.attributes(2)
        eventually(invalidator.settled)
        assert kernel.inos == [1, 2]


def test_what_an_open_had_dropped_again_is_not_dropped_once_more() -> None:
    """It would spoil the answer to what the kernel asks for then."""
    kernel = Kernel()
    kernel.error = OSError(errno.ENOENT, "not there")
    with running(kernel) as invalidator:
        invalidator.attributes(1)
        eventually(invalidator.settled)
        kernel.error = None
        invalidator.repeat_attributes(1)
        eventually(lambda: kernel.inos == [1])
        kernel.error = OSError(errno.ENOENT, "not there")
        invalidator.attributes(2)
        eventually(lambda: invalidator.status()["delivered"] == 3 + len(REPEAT_AFTER_S))
        assert kernel.inos == [1]


def test_attributes_that_nobody_ever_asks_for_are_given_up_but_dropped_at_an_open() -> None:
    kernel = Kernel()
    kernel.error = OSError(errno.ENOENT, "not there")
    with running(kernel) as invalidator:
        invalidator.attributes(1)
        eventually(lambda: invalidator.status()["delivered"] == 1 + len(REPEAT_AFTER_S))
        eventually(invalidator.settled)
        kernel.error = None
        invalidator.repeat_attributes(1)
        eventually(invalidator.settled)
        assert kernel.inos == [1]


def test_the_end_does_not_wait_for_ever() -> None:
    kernel = Kernel()
    kernel.may_answer.clear()
    invalidator = Invalidator(kernel, lambda _: None)
    invalidator.start()
    invalidator.entry(1, b"stuck")
    assert kernel.blocked.wait(10)
    assert not invalidator.stop(0.01)
    kernel.may_answer.set()
    assert invalidator.stop(10)
    assert Invalidator(kernel, lambda _: None).stop(1)  # one that never began


def test_whoever_waits_for_pages_hears_when_they_are_gone_and_holds_up_no_name() -> None:
    kernel = Kernel()
    with running(kernel) as invalidator:
        kernel.may_answer.clear()
        dropped = threading.Event()
        invalidator.pages(5, dropped.set)
        assert kernel.blocked.wait(10)
        invalidator.attributes(5)
        eventually(lambda: kernel.inos == [5])
        assert not dropped.is_set()
        kernel.may_answer.set()
        assert dropped.wait(10)
        assert kernel.names == [(5, b"pages")]


def test_pages_that_the_kernel_does_not_have_are_gone() -> None:
    kernel = Kernel()
    kernel.error = OSError(errno.ENOENT, "no such inode")
    with running(kernel) as invalidator:
        dropped = threading.Event()
        invalidator.pages(5, dropped.set)
        assert dropped.wait(10)
