"""Files that the front makes by itself: what it answers, writes down and tells, and what it leaves to Python. The file
system is a double (double.py), the extension compiled with sanitizers."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from s3vfs.data.rangelog import replay
from s3vfs.filesystem.newborns import RELEASED
from s3vfs.namespace.ops import Create, Setattr, SetattrMask
from s3vfs.session.front_log import CHANGED, CLOSED, MADE, Answered, answered
from tests.fuse.test_extra_operations import Note, Served
from tests.mounted import eventually

LEASE = (7, 1)
FIRST = 100
NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL


class Bearing:
    """A mounted double in whose root the front may make files."""

    def __init__(self, served: Served, folder: Path) -> None:
        self.served = served
        self.path = served.path
        self.folder = folder

    def teach(self, count: int = 3) -> None:
        (self.folder / "notes.births").write_text(str(count))
        assert not (self.path / "births").exists()
        self.served.forget()

    def tell(self, what: str) -> None:
        """See the double."""
        with pytest.raises(OSError, match=os.strerror(errno.ENODATA)):
            os.getxattr(self.path / "b", f"user.{what}")
        self.served.forget()

    def births(self, until: int = RELEASED) -> list[Note]:
        """What was told, once something of `until` has been."""
        return eventually(lambda: (told := self.served.notes("born")) and told[-1]["what"] & until and told)

    def written_down(self) -> list[Answered]:
        sid, answers = answered(self.folder, "boot")
        assert sid == 5
        return answers

    def python(self) -> set[str]:
        """Which calls have arrived there."""
        return {note["call"] for note in self.served.notes()} - {"born", "lookup", "taken"}


@pytest.fixture
def bearing(built: Path, tmp_path: Path) -> Iterator[Bearing]:
    served = Served(tmp_path, built)
    try:
        served.start()
        bearing = Bearing(served, tmp_path)
        bearing.teach()
        yield bearing
        served.umount()
    finally:
        served.clear()


def test_a_file_is_made_written_dated_and_closed_without_python(bearing: Bearing) -> None:
    descriptor = os.open(bearing.path / "new", NEW, 0o640)
    os.write(descriptor, b"first")
    os.fchmod(descriptor, 0o600)
    os.utime(descriptor, ns=(5, -6))
    os.fchown(descriptor, 7, 8)
    state = os.fstat(descriptor)
    os.close(descriptor)
    told = bearing.births()
    assert bearing.python() == set()
    assert [note["name"] for note in told if note["what"] & MADE] == ["new"]
    assert told[0]["parent"] == 1
    assert told[0]["lease"] == list(LEASE)
    assert told[0]["made"] == [stat.S_IFREG | 0o640, 0, 0]
    assert told[-1]["now"] == [stat.S_IFREG | 0o600, 7, 8]
    changed = 0
    for note in told:
        changed |= note["changed"]
    assert changed == (SetattrMask.MODE | SetattrMask.UID | SetattrMask.GID | SetattrMask.ATIME | SetattrMask.MTIME)
    assert sum(note["what"] & CLOSED for note in told) == CLOSED
    # The bytes are told of with other news, or by themselves.
    assert [span for note in bearing.served.notes() for span in note.get("ranges", ())] == [[0, 5]]
    assert (stat.S_IMODE(state.st_mode), state.st_uid, state.st_gid, state.st_size) == (0o600, 7, 8, 5)
    assert (state.st_atime_ns, state.st_mtime_ns, state.st_blocks, state.st_nlink) == (5, -6, 8, 1)
    assert state.st_ctime_ns == told[-1]["changed_ns"] + 1  # the op that sets atime comes after that with the bytes
    assert (bearing.folder / "100").read_bytes() == b"first"
    assert eventually(lambda: bearing.written_down() == [])  # once all of it is told it need not be kept


@pytest.mark.parametrize("dated", [False, True])
def test_ctime_follows_from_the_ops_that_it_will_take(bearing: Bearing, dated: bool) -> None:
    """Times of the empty file are an op after the CREATE. So the mode that comes after the bytes is one, too, at whose
    time the op that publishes them comes a moment later; else the CREATE says it."""
    descriptor = os.open(bearing.path / "new", NEW, 0o640)
    if dated:
        os.utime(descriptor, ns=(5, 6))
        bearing.births(CHANGED)
    os.write(descriptor, b"first")
    os.fchmod(descriptor, 0o600)
    shown = os.fstat(descriptor).st_ctime_ns
    os.close(descriptor)
    told = bearing.births()
    assert bearing.python() == set()
    assert shown == told[-1]["changed_ns"] + dated


def test_the_umask_counts(bearing: Bearing) -> None:
    before = os.umask(0o027)
    try:
        os.close(os.open(bearing.path / "new", NEW, 0o666))
    finally:
        os.umask(before)
    assert bearing.births()[0]["made"][0] == stat.S_IFREG | 0o640


def test_what_is_answered_is_written_down_before(bearing: Bearing) -> None:
    """What the front told has met a bug, as if the daemon had been killed there."""
    (bearing.folder / "notes.bug").touch()
    descriptor = os.open(bearing.path / "a rather long name, not of a multiple of 8", NEW, 0o644)
    os.fchmod(descriptor, 0o600)
    os.utime(descriptor, ns=(1, 2))
    os.close(descriptor)
    descriptor = os.open(bearing.path / "second", NEW, 0o644)
    os.write(descriptor, b"x" * 1000)
    os.fchown(descriptor, 7, 8)
    os.utime(descriptor, ns=(3, 4))
    os.close(descriptor)
    bearing.births()
    made, changed, dated, closed, second, owned, closed_too = bearing.written_down()
    assert isinstance(made.op, Create)
    assert (made.op.name, made.op.ino) == (b"a rather long name, not of a multiple of 8", FIRST)
    assert isinstance(changed.op, Setattr)
    assert (changed.op.mask, changed.op.mode) == (SetattrMask.MODE, 0o600)
    assert isinstance(dated.op, Setattr)
    assert (dated.op.mask, dated.op.atime_ns, dated.op.mtime_ns) == (SetattrMask.ATIME | SetattrMask.MTIME, 1, 2)
    assert made.op.time_ns < changed.op.time_ns < dated.op.time_ns
    assert closed == Answered(FIRST, LEASE, None)
    assert second.ino == FIRST + 1
    assert isinstance(owned.op, Setattr)
    assert (owned.op.mask, owned.op.uid, owned.op.gid) == (SetattrMask.UID | SetattrMask.GID, 7, 8)
    assert closed_too == Answered(FIRST + 1, LEASE, None)
    log = replay(bearing.folder / "101.log", "boot")  # times of what has bytes are written down beside those
    assert log is not None
    assert (list(log.later.dirty), log.later.atime_ns, log.later.mtime_ns) == ([(0, 1000)], 3, 4)


def test_a_full_page_leaves_the_rest_to_python(bearing: Bearing) -> None:
    (bearing.folder / "notes.bug").touch()  # nothing is ever told, so nothing is ever given up
    descriptor = os.open(bearing.path / "new", NEW, 0o644)
    count = 0
    while "setattr" not in bearing.python():
        os.fchmod(descriptor, 0o600 + count % 2)
        count += 1
        assert count < 2000
    assert count > 500
    assert len(bearing.written_down()) == count
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):  # Python has never heard of it
        os.close(descriptor)


def test_a_name_that_may_be_there_is_asked_for(bearing: Bearing) -> None:
    os.close(os.open(bearing.path / "new", NEW, 0o644))
    bearing.births()
    bearing.served.forget()
    with pytest.raises(OSError, match=os.strerror(errno.EROFS)):
        os.open(bearing.path / "new", NEW, 0o644)
    assert bearing.python() == {"create"}
    assert {note["name"] for note in bearing.served.notes("lookup")} == {"new"}
    assert not (bearing.path / "other").exists()
    assert {note["name"] for note in bearing.served.notes("lookup")} == {"new"}


@pytest.mark.parametrize(
    ("flags", "mode"),
    [
        (NEW | os.O_APPEND, 0o644),
        (NEW | os.O_SYNC, 0o644),
        (NEW | os.O_DIRECT, 0o644),
        (os.O_RDONLY | os.O_CREAT | os.O_EXCL, 0o644),
        (NEW, 0o4755),
        (NEW, 0o2755),
        (NEW, 0o1755),
    ],
)
def test_what_needs_a_decision_is_made_by_python(bearing: Bearing, flags: int, mode: int) -> None:
    with pytest.raises(OSError, match=os.strerror(errno.EROFS)):
        os.open(bearing.path / "new", flags, mode)
    assert bearing.python() == {"create"}


def test_privileges_sizes_and_nothing_at_all_are_set_by_python(bearing: Bearing) -> None:
    for change in (
        lambda descriptor: os.fchmod(descriptor, 0o4755),
        lambda descriptor: os.ftruncate(descriptor, 100),
        lambda descriptor: os.fchown(descriptor, -1, -1),
    ):
        bearing.served.forget()
        descriptor = os.open(bearing.path / f"new{id(change)}", NEW, 0o644)
        change(descriptor)
        assert "setattr" in bearing.python()
        os.close(descriptor)


def test_a_file_with_holes_is_shown_by_python(bearing: Bearing) -> None:
    descriptor = os.open(bearing.path / "new", NEW, 0o644)
    os.pwrite(descriptor, b"x", 5000)
    os.fchmod(descriptor, 0o600)
    assert bearing.python() == {"setattr"}
    os.close(descriptor)


def test_nothing_is_made_without_stock(bearing: Bearing) -> None:
    for index in range(3):
        os.close(os.open(bearing.path / f"new{index}", NEW, 0o644))
    with pytest.raises(OSError, match=os.strerror(errno.EROFS)):
        os.open(bearing.path / "new3", NEW, 0o644)


@pytest.mark.parametrize("reason", ["strange", "over", "distrust", "expire"])
def test_a_file_that_others_have_a_say_in_is_pythons(bearing: Bearing, reason: str) -> None:
    descriptor = os.open(bearing.path / "new", NEW, 0o644)
    bearing.births(MADE)
    bearing.tell(reason)
    os.fchmod(descriptor, 0o600)
    assert not (bearing.path / "other").exists()
    os.close(descriptor)
    eventually(lambda: bearing.served.notes("release") or bearing.served.notes("born"))
    released = {"release"} if reason != "expire" else set()  # which acknowledges nothing
    assert bearing.python() == {"setattr", "flush"} | released
    # Its directory is, too, unless it is about the file alone.
    assert len(bearing.served.notes("lookup")) == (reason != "strange")


def test_another_lease_is_none_of_its_business(bearing: Bearing) -> None:
    descriptor = os.open(bearing.path / "new", NEW, 0o644)
    bearing.births(MADE)
    bearing.tell("other")
    os.fchmod(descriptor, 0o600)
    os.close(descriptor)
    bearing.births()
    assert bearing.python() == set()


def test_too_many_bytes_are_closed_by_python(bearing: Bearing) -> None:
    for index, size in enumerate((700_000, 700_000)):
        bearing.served.forget()
        descriptor = os.open(bearing.path / f"new{index}", NEW, 0o644)
        for at in range(0, size, 100_000):
            os.pwrite(descriptor, bytes(100_000), at)
        os.close(descriptor)
        eventually(lambda: bearing.served.notes("release") or bearing.served.notes("born"))
        assert ("flush" in bearing.python()) == (index == 1)
