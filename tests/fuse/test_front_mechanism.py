"""What the front takes, stores and logs, and what it leaves to Python. The file system is a double (double.py), the
extension compiled with sanitizers."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from s3vfs.data.rangelog import replay
from tests.fuse.test_extra_operations import Served, opened
from tests.mounted import eventually

SPAN = 1 << 20


class Fronted:
    """A mounted double whose file b the front may write to."""

    def __init__(self, served: Served, folder: Path) -> None:
        self.served = served
        self._folder = folder
        self.file, self.log = folder / "working", folder / "working.log"
        self.path = served.path / "b"

    def allow(self, *, file: Path | None = None, span_bytes: int = SPAN, allow_bytes: int = SPAN) -> None:
        """From the next open on."""
        wanted = {"file": str(file or self.file), "log": str(self.log)}
        (self._folder / "notes.front").write_text(
            json.dumps({**wanted, "span_bytes": span_bytes, "allow_bytes": allow_bytes})
        )

    def halt(self) -> None:
        (self._folder / "notes.halt").touch()

    def taken(self) -> list[Any]:
        """The ranges that Python has been told of so far."""
        return [tuple(span) for note in self.served.notes("taken") for span in note["ranges"]]

    def logged(self) -> list[tuple[int, int]]:
        """What a restart would find."""
        found = replay(self.log, "boot")
        assert found is not None
        assert (found.ino, found.base_version, found.sid, found.same_boot) == (3, 9, 5, True)
        return list(found.later.dirty)


@pytest.fixture
def fronted(built: Path, tmp_path: Path) -> Iterator[Fronted]:
    served = Served(tmp_path, built)
    try:
        served.start()
        fronted = Fronted(served, tmp_path)
        fronted.allow()
        yield fronted
        served.umount()
    finally:
        served.clear()


def test_writes_are_stored_and_logged_before_anybody_else_knows(fronted: Fronted) -> None:
    with opened(fronted.path) as descriptor:
        assert os.pwrite(descriptor, b"first", 0) == 5
        assert os.pwrite(descriptor, b"second", 5) == 6
        assert os.pwrite(descriptor, b"far", 5000) == 3
        assert os.pwrite(descriptor, b"back", 100) == 4
        assert fronted.logged() == [(0, 11), (100, 104), (5000, 5003)]
        local = fronted.file.read_bytes()
        assert (local[:11], local[100:104], local[5000:]) == (b"firstsecond", b"back", b"far")
    eventually(lambda: sum(end - start for start, end in fronted.taken()) == 18)
    assert not fronted.served.notes("write")


def test_a_sequential_writer_has_one_entry(fronted: Fronted) -> None:
    with opened(fronted.path) as descriptor:
        for index in range(500):
            assert os.pwrite(descriptor, b"%04d" % index, 4 * index) == 4
        assert fronted.log.stat().st_size == 64 + 32
        assert fronted.logged() == [(0, 2000)]
    assert fronted.file.read_bytes() == b"".join(b"%04d" % index for index in range(500))
    eventually(lambda: fronted.taken()[-1][1] == 2000)
    assert not fronted.served.notes("write")


def test_more_ranges_than_it_remembers_are_told_of_in_parts(fronted: Fronted) -> None:
    with opened(fronted.path) as descriptor:
        for index in range(200):
            os.pwrite(descriptor, b"x", 10 * index)
    local = fronted.file.read_bytes()
    arrived = {note["offset"] for note in fronted.served.notes("write")}  # Python's, once sixteen are remembered
    taken = {start for start, _ in fronted.taken()}
    assert taken | arrived == {10 * index for index in range(200)}
    assert taken
    assert all(local[start : start + 1] == b"x" for start in taken)
    assert {start for start, _ in fronted.logged()} == taken


def test_what_needs_a_decision_is_left_to_python(fronted: Fronted) -> None:
    """Synchronous and appending writes, other inodes, what reaches a multiple of the span, and more than is allowed."""
    fronted.allow(span_bytes=8192, allow_bytes=6000)
    with opened(fronted.path, os.O_RDWR | os.O_DSYNC) as descriptor:
        os.pwrite(descriptor, b"synchronous", 0)
    with opened(fronted.path, os.O_RDWR | os.O_APPEND) as descriptor:
        os.write(descriptor, b"appended")
    with opened(fronted.served.path / "a") as descriptor:
        os.pwrite(descriptor, b"another", 0)
    with opened(fronted.path) as descriptor:
        os.pwrite(descriptor, bytes(100), 8092)
        os.pwrite(descriptor, bytes(4000), 0)
        os.pwrite(descriptor, bytes(4000), 20_480)
        os.pwrite(descriptor, bytes(1000), 4000)
        eventually(lambda: sum(end - start for start, end in fronted.taken()) == 5000)
    written = [(note["ino"], note["offset"], len(note["data"]) // 2) for note in fronted.served.notes("write")]
    assert written[:3] == [(3, 0, 11), (2, 0, 7), (3, 8092, 100)]
    assert sum(length for _, _, length in written[3:]) == 4000
    assert min(offset for _, offset, _ in written[3:]) == 20_480
    assert [note["data"] for note in fronted.served.notes("append")] == [b"appended".hex()]


def test_writes_of_another_size_than_a_page_or_a_request_are_whole(fronted: Fronted) -> None:
    data = os.urandom(700_001)
    with opened(fronted.path) as descriptor:
        for start in range(0, len(data), 70_000):
            assert os.pwrite(descriptor, data[start : start + 70_000], start) == len(data[start : start + 70_000])
    assert fronted.file.read_bytes() == data
    assert not fronted.served.notes("write")


def test_it_takes_nothing_from_the_moment_on_that_it_is_halted(fronted: Fronted) -> None:
    fronted.halt()
    with opened(fronted.path) as descriptor:
        os.pwrite(descriptor, b"taken", 0)
        eventually(lambda: fronted.taken() == [(0, 5)])
        os.pwrite(descriptor, b"arrives", 5)
    assert [note["offset"] for note in fronted.served.notes("write")] == [5]
    assert fronted.file.read_bytes() == b"taken"


@pytest.mark.parametrize("where", ["/dev/full", "/proc/nowhere"])
def test_what_the_disk_refuses_python_tries_again(fronted: Fronted, where: str) -> None:
    """And from then on all: it is Python's to say what is wrong."""
    fronted.allow(file=Path(where))
    with opened(fronted.path) as descriptor:
        os.pwrite(descriptor, b"refused", 0)
        os.pwrite(descriptor, b"more", 7)
    assert [note["offset"] for note in fronted.served.notes("write")] == [0, 7]
    assert fronted.taken() == []
    told = [note["open"] for note in fronted.served.notes("taken")]
    assert told == ([[True, True]] if where == "/dev/full" else [])
    assert fronted.log.exists() == (where == "/dev/full")


def test_capabilities_are_known_and_other_attributes_asked_for(fronted: Fronted) -> None:
    names = ["security.capability", "user.other", "security.capabilit", "security.capability2"]
    with opened(fronted.path) as descriptor:
        for name in names:
            with pytest.raises(OSError, match=os.strerror(errno.ENODATA)):
                os.getxattr(descriptor, name)
    assert [note["name"] for note in fronted.served.notes("getxattr")] == names[1:]


def test_an_inode_has_one_stream() -> None:
    from s3vfs.fuse.libfuse import interpose

    assert interpose is not None
    first = interpose.Stream(77)
    with pytest.raises(ValueError, match="has a stream"):
        interpose.Stream(77)
    first.end()
    again = interpose.Stream(77)
    del again
    interpose.Stream(77)


def test_a_stream_is_armed_with_files_only() -> None:
    from s3vfs.fuse.libfuse import interpose

    assert interpose is not None
    stream = interpose.Stream(78)
    with pytest.raises(ValueError, match="no such"):
        stream.arm(-1, 3, 64, -1, -1, SPAN)
    with pytest.raises(ValueError, match="head"):
        stream.arm_new(b"/a", b"/b", b"short", SPAN)
    assert not stream.armed
    stream.arm_new(b"/a", b"/b", bytes(64), SPAN)
    assert stream.armed
    stream.disarm()
    assert not stream.armed
