"""The log beside a working file: which bytes were written since the last publish. Synchronous local I/O only.

A change is in the log before it is acknowledged, and after its bytes are in the working file; both live in the page
cache, so they survive a killed daemon, not a power cut: the boot id in the header tells. Entries are 32 bytes at
multiples of 32, so that one never spans two pages and a kill cannot tear it.

    0   64  header: magic, inode, base version, xxh3_128 of the boot id, sid, xxh3 of what is before
    64  32  entry: xxh32 of the rest, kind, three numbers (see `_Kind`)
    ...

A sequential writer extends the last entry in place, so its log stays one entry long.
"""

from __future__ import annotations

import enum
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import xxhash

from s3vfs.data.backed import Seal
from s3vfs.data.pending import Pending, Share
from s3vfs.data.ranges import RangeSet
from s3vfs.errors import UnknownFeature

_MAGIC = b"S3VFSWL3"
_MAGIC_BACKED = b"S3VFSWL4"  # there are BACKED entries, which an older version must not overlook
_HEAD = struct.Struct(">8sQQ16sQ")
_CHECK = struct.Struct(">Q")
_ENTRY = struct.Struct(">IQQQ")
_ENTRY_CHECK = struct.Struct(">I")
HEADER_BYTES = 64
ENTRY_BYTES = 32
_UNSET = -(2**63)  # no time that a row can carry
_MASK = 2**64 - 1  # times may lie before 1970: they are kept as signed numbers


class _Kind(enum.IntEnum):
    WRITE = 1  # offset, length, mtime
    TRUNCATE = 2  # size, 0, mtime
    TIMES = 3  # atime, mtime, ctime; _UNSET leaves one as it was
    CAPTURE = 4  # everything before this entry is what a publish is about to commit
    PUNCH = 6  # offset, length, mtime
    EXTEND = 7  # the least size, 0, mtime
    PART = 8  # offset, length, 1 for a hole: bytes that the next SENT carries
    BACKED = 10  # size, mtime, ctime: the file may have been written to unseen since it was like that
    SENT = 9  # incarnation, op number, version * 8 + flags: a commit of what was captured has been queued


_CUT, _FINAL, _CONTENTS = 1, 2, 4  # flags of SENT, as in Share


def _encode(kind: _Kind, first: int, second: int, third: int) -> bytes:
    body = _ENTRY.pack(kind, first, second, third)
    return _ENTRY_CHECK.pack(xxhash.xxh32_intdigest(body)) + body


@dataclass(slots=True)
class Replayed:
    """What a log says. `sent`: commits of what was captured, each with its incarnation and op number; `later`: changes
    after the capture. `backed`: the file may have been written to unseen since it had this size, mtime and ctime."""

    ino: int
    base_version: int
    same_boot: bool
    sid: int
    captured: Pending
    later: Pending
    sent: list[tuple[int, int, Share]]
    backed: Seal | None = None

    def remaining(self, took_effect: Callable[[int, int, Share], bool]) -> Pending:
        """What is not in the journal, given which commits took effect there."""
        for incarnation, number, share in self.sent:
            if took_effect(incarnation, number, share):
                self.captured.settle(share)
        return self.captured.followed_by(self.later)


class RangeLog:
    """The open log of one working file, for appending. `left_behind`: there is one that counts until `start`."""

    def __init__(
        self, path: str | os.PathLike[str], ino: int, boot_id: str, sid: int, *, left_behind: bool = True
    ) -> None:
        self.name = os.fspath(path)
        self._there = left_behind
        self._ino = ino
        self._sid = sid
        self._boot = xxhash.xxh3_128_digest(boot_id.encode())
        self._fd = -1
        self._at = 0
        self.backed: Seal | None = None
        self._last: tuple[int, int] | None = None  # range of the last entry, when it is a WRITE

    def _append(self, entry: bytes) -> None:
        os.pwrite(self._fd, entry, self._at)
        self._at += ENTRY_BYTES

    @property
    def entries(self) -> int:
        return (self._at - HEADER_BYTES) // ENTRY_BYTES if self._at else 0

    @property
    def there(self) -> bool:
        """Whether there is a file of that name, as far as this log knows."""
        return self._there

    @property
    def place(self) -> tuple[int, int, int, int]:
        """Descriptor, end, and the range of the last entry, (-1, -1) where that may not grow: for who appends to the
        log beside this object, and says so by `appended`."""
        return (self._fd, self._at, *(self._last or (-1, -1)))

    def appended(self, fd: int, end: int, last: tuple[int, int]) -> None:
        """Somebody has logged writes, beginning the log where there was none."""
        self._fd, self._at, self._there = fd, end, True
        self._last = last

    def header(self, base_version: int) -> bytes:
        magic = _MAGIC if self.backed is None else _MAGIC_BACKED
        head = _HEAD.pack(magic, self._ino, base_version, self._boot, self._sid)
        return (head + _CHECK.pack(xxhash.xxh3_64_intdigest(head))).ljust(HEADER_BYTES, b"\0")

    def start(self, base_version: int, pending: Pending) -> None:
        """Begin a new log that holds `pending`, in the place of the one that is there. Atomic: old or new."""
        self._last = None
        if self._fd >= 0 and not pending and self.backed is not None:
            # In place: renaming over a log would have some file systems write it to disk at once.
            os.pwrite(self._fd, self.header(base_version) + _sealed(self.backed), 0)
            self._at = HEADER_BYTES + ENTRY_BYTES
            os.ftruncate(self._fd, self._at)
            return
        if self._fd >= 0 and not pending:
            os.ftruncate(self._fd, HEADER_BYTES)
            os.pwrite(self._fd, self.header(base_version), 0)
            self._at = HEADER_BYTES
            return
        body = self.header(base_version) + b"".join(_entries(pending))
        if self.backed is not None:
            body += _sealed(self.backed)
        if not self._there:  # nothing to replace, and nothing acknowledged that a torn header could lose
            self._fd = os.open(self.name, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            self._there = True
            os.pwrite(self._fd, body, 0)
            self._at = len(body)
            return
        beside = Path(self.name).with_suffix(".new")
        fd = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.pwrite(fd, body, 0)
            os.rename(beside, self.name)
        except BaseException:
            os.close(fd)
            raise
        self.close()
        self._fd, self._at = fd, len(body)

    def seal(self) -> None:
        """Log `backed`."""
        assert self.backed is not None
        self._append(_sealed(self.backed))
        self._last = None

    def write(self, start: int, end: int, time_ns: int) -> None:
        """Log a write; in place when it goes on where the last one ended."""
        if self._last is not None and self._last[1] == start:
            first = self._last[0]
            os.pwrite(self._fd, _encode(_Kind.WRITE, first, end - first, time_ns), self._at - ENTRY_BYTES)
            self._last = (first, end)
            return
        self._append(_encode(_Kind.WRITE, start, end - start, time_ns))
        self._last = (start, end)

    def truncate(self, size: int, time_ns: int) -> None:
        self._append(_encode(_Kind.TRUNCATE, size, 0, time_ns))
        self._last = None

    def punch(self, start: int, end: int, time_ns: int) -> None:
        self._append(_encode(_Kind.PUNCH, start, end - start, time_ns))
        self._last = None

    def extend(self, size: int, time_ns: int) -> None:
        self._append(_encode(_Kind.EXTEND, size, 0, time_ns))
        self._last = None

    def times(self, pending: Pending) -> None:
        """Log the times that `pending` now has."""
        self._append(_times(pending))
        self._last = None

    def capture(self) -> None:
        """Everything so far is about to be published."""
        self._append(_encode(_Kind.CAPTURE, 0, 0, 0))
        self._last = None

    def sent(self, incarnation: int, number: int, share: Share) -> None:
        """A commit of what was captured is queued, and will be on its way soon. Its parts and itself in one write."""
        parts = [] if share.final else [(*part, 0) for part in share.parts] + [(*hole, 1) for hole in share.holes]
        flags = _CUT * share.cut | _FINAL * share.final | _CONTENTS * share.contents
        entries = [_encode(_Kind.PART, start, end - start, hole) for start, end, hole in parts]
        entries.append(_encode(_Kind.SENT, incarnation, number, share.version << 3 | flags))
        os.pwrite(self._fd, b"".join(entries), self._at)
        self._at += len(entries) * ENTRY_BYTES
        self._last = None

    def empty(self) -> None:
        """Whatever it says does not count any more; the file stays. Raises OSError."""
        if self._fd >= 0:
            os.ftruncate(self._fd, 0)
        elif self._there:
            os.truncate(self.name, 0)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _entries(pending: Pending) -> Iterator[bytes]:
    """Entries that replay to `pending`."""
    if pending.low is not None:
        yield _encode(_Kind.TRUNCATE, pending.low, 0, pending.ctime_ns)
        if pending.end > pending.low:
            yield _encode(_Kind.TRUNCATE, pending.end, 0, pending.ctime_ns)
    for start, end in pending.holes:
        yield _encode(_Kind.PUNCH, start, end - start, pending.ctime_ns)
    for start, end in pending.dirty:
        yield _encode(_Kind.WRITE, start, end - start, pending.ctime_ns)
    if pending.end > max(pending.low or 0, pending.dirty.end):
        yield _encode(_Kind.EXTEND, pending.end, 0, pending.ctime_ns)
    if pending:
        yield _times(pending)


def _sealed(seal: Seal) -> bytes:
    return _encode(_Kind.BACKED, *(number & _MASK for number in seal))


def _times(pending: Pending) -> bytes:
    atime = _UNSET if pending.atime_ns is None else pending.atime_ns
    mtime = _UNSET if pending.mtime_ns is None else pending.mtime_ns
    return _encode(_Kind.TIMES, atime & _MASK, mtime & _MASK, pending.ctime_ns)


def replay(path: Path, boot_id: str) -> Replayed | None:
    """Read a log after a restart; None for a file that is no log. Stops at the first entry that does not hold: it was
    never acknowledged. Raises UnknownFeature for a log in the form of another version, whose bytes are to be kept."""
    raw = path.read_bytes()
    known = raw[:8] in (_MAGIC, _MAGIC_BACKED)
    if raw[:7] == _MAGIC[:7] and not known:
        raise UnknownFeature(
            f"{path} was left by another version of s3vfs, with bytes that are not published",
            hint="mount once with that version, and unmount: then everything is in the bucket",
        )
    if len(raw) < HEADER_BYTES or not known:
        return None
    _, ino, base_version, boot, sid = _HEAD.unpack_from(raw)
    if _CHECK.unpack_from(raw, _HEAD.size)[0] != xxhash.xxh3_64_intdigest(raw[: _HEAD.size]):
        return None
    same_boot = boot == xxhash.xxh3_128_digest(boot_id.encode())
    found = Replayed(ino, base_version, same_boot, sid, Pending(), Pending(), [])
    parts, holes = RangeSet(), RangeSet()
    for at in range(HEADER_BYTES, len(raw) - ENTRY_BYTES + 1, ENTRY_BYTES):
        body = raw[at + _ENTRY_CHECK.size : at + ENTRY_BYTES]
        if _ENTRY_CHECK.unpack_from(raw, at)[0] != xxhash.xxh32_intdigest(body):
            break
        kind, first, second, third = _ENTRY.unpack(body)
        if kind == _Kind.CAPTURE:
            # After an earlier one only where the disk has refused a new log: what was sent then is not told apart.
            found.captured, found.later = found.captured.followed_by(found.later), Pending()
            found.sent.clear()
        elif kind == _Kind.PART:
            (holes if third else parts).add(first, first + second)
        elif kind == _Kind.BACKED:
            found.backed = Seal(
                *(number - (_MASK + 1) if number >> 63 else number for number in (first, second, third))
            )
        elif kind == _Kind.SENT:
            cut, final, contents = (bool(third & flag) for flag in (_CUT, _FINAL, _CONTENTS))
            found.sent.append((first, second, Share(parts, holes, cut, final, contents, third >> 3)))
            parts, holes = RangeSet(), RangeSet()
        else:
            _enact(found.later, kind, first, second, third)
    return found


def _enact(layer: Pending, kind: int, first: int, second: int, third: int) -> None:
    if kind == _Kind.WRITE:
        layer.write(first, first + second, third)
    elif kind == _Kind.TRUNCATE:
        layer.truncate(first, third)
    elif kind == _Kind.PUNCH:
        layer.punch(first, first + second, third)
    elif kind == _Kind.EXTEND:
        layer.extend(first, third)
    elif kind == _Kind.TIMES:
        layer.set_times(_time(first), _time(second), third)


def _time(logged: int) -> int | None:
    time_ns = logged - (_MASK + 1) if logged >> 63 else logged
    return None if time_ns == _UNSET else time_ns
