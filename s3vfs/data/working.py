"""The one local file that holds an inode's not yet published bytes on this mount, and what is known about them.

Synchronous local I/O and bookkeeping; knows no bucket, no session and no trio. The bytes lie at file offsets in a
sparse file. Reading goes from the newest to the oldest: `pending` (not captured), `captured` (a publish is on its
way), `valid` (own published bytes that nobody has changed since), and under them the extents of the inode.

Crash matrix: bytes are written first, then the log entry, then the write is acknowledged; a kill between any two
leaves acknowledged bytes dirty and others undecided, as POSIX allows. Each commit of a publish (bytes, truncate, times;
regions that were uploaded early among them) is in the log, by its op number, before it can be in the journal; a publish
compacts the log after its last verdict. So after a kill anywhere between, the session's row tells which commits took
effect, and exactly the others are published. The same holds for a live daemon that has lost its patience: `undecided`
commits keep the capture until the journal has told. Two doubts remain. A commit that is in the journal counts as
accepted when the inode's version has moved; had it been refused (quota), and another client written to the file
within the same moments, its bytes would be dropped. And an entry that the local disk did not take is missing.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from s3vfs.data.backed import Backed, Seal
from s3vfs.data.delivery import Delivery
from s3vfs.data.pending import ENDLESS, Pending, Share
from s3vfs.data.punch import punch
from s3vfs.data.rangelog import RangeLog
from s3vfs.data.ranges import RangeSet
from s3vfs.data.spares import Spares
from s3vfs.namespace.rows import Inode

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from s3vfs.data.protocol import Stream, Taken

_log = logging.getLogger(__name__)

# A log of so many more entries than there are ranges is written anew.
_COMPACT_ENTRIES = 4096
# Checksums of one file that are handed to the cache: of its first 256 GiB. A sparse file's table would be as long as
# the file reaches, whatever it holds.
_TABLE_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class Region:
    """What is known of one object-sized, object-aligned part of the file: when it was last written (`touched_s`, trio
    time), and `changes`, a number that no earlier state of the file had, for telling whether a copy is still the
    present one."""

    changes: int
    touched_s: float


class _Changing:
    """See `WorkingFile.changing`. A class, since every write enters it."""

    __slots__ = ("_end", "_start", "_valid")

    def __init__(self, valid: RangeSet, start: int, end: int) -> None:
        self._valid = valid
        self._start = start
        self._end = end

    def __enter__(self) -> None:
        self._valid.remove(self._start, self._end)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if kind is not None:
            self._valid.remove(self._start, self._end)


@dataclass(slots=True)
class WorkingFile:
    """`base_version`: the inode's version that the clean bytes belong to. `foreign`: counts contents changed by others.
    `sums`: the checksums of regions that became objects of their own; they count where the region is `valid`.
    `undecided`: commits of `captured` whose fate is not known. `backed`: a kernel may use the file by itself; it is
    complete then. `stream`: by which the front may write to the file and its log, until anything else does. `spares`:
    files that it may use, and where its own go if they are small and no kernel has ever had them (R14)."""

    ino: int
    name: str  # of the sparse file, with its folder: a Path costs more than what is done with it
    log: RangeLog
    object_bytes: int
    base_version: int = 0
    pending: Pending = field(default_factory=Pending)
    captured: Pending | None = None
    valid: RangeSet = field(default_factory=RangeSet)
    regions: dict[int, Region] = field(default_factory=dict)
    sums: dict[int, bytes] = field(default_factory=dict)
    dirty_since_s: float = 0.0
    run_start: int = 0
    last_end: int = -1
    foreign: int = 0
    undecided: list[Delivery] = field(default_factory=list)
    fd: int = -1
    backed: Backed | None = None
    stream: Stream | None = None
    spares: Spares | None = None
    _logging: bool = False
    _reusable: bool = True
    _borrowed: bool = False
    _made: bool = False
    _changes: int = 0

    @classmethod
    def place(
        cls, name: str, ino: int, boot_id: str, sid: int, object_bytes: int, spares: Spares | None = None
    ) -> WorkingFile:
        """The working file of an inode, not opened yet. Without `spares` it is one that an earlier daemon made."""
        left_behind = spares is None
        log = RangeLog(f"{name}.log", ino, boot_id, sid, left_behind=left_behind)
        return cls(ino, name, log, object_bytes, spares=spares, _made=left_behind)

    @property
    def path(self) -> Path:
        """The sparse file."""
        return Path(self.name)

    # -- local file ---------------------------------------------------------------------------------------------------

    def open(self) -> int:
        """The descriptor of the sparse file, made when it is not there. Raises OSError."""
        if self.fd < 0:
            self.halt()  # it would make its own
            self._use_spare()
            self._made = True
            self.fd = os.open(self.name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        return self.fd

    def _use_spare(self) -> None:
        """Before either file is made."""
        if self._made or self._borrowed or self.log.there or self.spares is None:
            return
        if name := self.spares.take():
            self.name, self.log.name, self._borrowed = name, f"{name}.log", True

    def halt(self) -> None:
        """The front takes no writes any more, until it is armed again. Before anything but the front changes the file,
        its log or what is noted of it, or asks for an order among writes."""
        if self.stream is not None:
            self.stream.disarm()

    def arm(self, span_bytes: int) -> None:
        """The front takes writes, which go on here and in the log."""
        assert self.stream is not None
        assert self._logging
        assert self.backed is None
        self.stream.arm(self.fd, *self.log.place, span_bytes)

    def arm_new(self, span_bytes: int) -> bool:
        """As `arm`, for a file of which nothing is here yet; False: there is."""
        assert self.stream is not None
        if self._made or self.log.there or self._logging or self.dirty or self.backed is not None:
            return False
        self._use_spare()
        header = self.log.header(self.base_version)
        self.stream.arm_new(os.fsencode(self.name), os.fsencode(self.log.name), header, span_bytes)
        return True

    def _log(self) -> RangeLog:
        self.halt()
        if not self._logging:
            self.log.start(self.base_version, self.pending)
            self._logging = True
        return self.log

    def status(self) -> os.stat_result:
        """Of the local file, which must be there. Raises OSError."""
        return os.fstat(self.fd) if self.fd >= 0 else os.stat(self.path)

    def written_unseen(self) -> os.stat_result | None:
        """The local file's state, if a kernel may have written to it since it was last read. Raises OSError."""
        if self.backed is None or not self.backed.writable:
            return None
        state = self.status()
        return None if Seal.of(state) == self.backed.seal else state

    def taken_over(self) -> None:
        """The local file has come from elsewhere."""
        self._made, self._reusable = True, False

    def mark_backed(self) -> None:
        """From now on the log says that the file may be written to unseen: to be called before anybody can. Raises
        OSError."""
        assert self.backed is not None
        self.halt()
        self.open()
        self._reusable = False
        self.log.backed = self.backed.seal
        if self.captured is None:
            self.log.start(self.base_version, self.pending)
            self._logging = True
        else:
            self._log().seal()

    def close(self) -> None:
        """Let go of descriptors; the files stay."""
        if self.stream is not None:
            self.stream.end()
            self.stream = None
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
        self.log.close()
        self._logging = False

    def remove(self) -> None:
        """Delete both files. Only when nothing here is the only copy of anything."""
        self.close()
        if not self._made:
            self._give_back()
            return
        self._made = self._borrowed = False
        if self.backed is not None:
            self.backed.pins.close()
        for path in (self.log.name, self.name):  # a log without its bytes would have zeros published after a kill
            with suppress(FileNotFoundError):
                os.unlink(path)

    def hand_on(self) -> None:
        """As `remove`, when nobody reads the files any more: others may use them."""
        if self.spares is None or not self._reusable or not self.spares.wanted or self.fd < 0:
            self.remove()
            return
        try:
            self.log.empty()
            os.ftruncate(self.fd, 0)
        except OSError as error:
            _log.warning("%s is deleted, since it cannot be emptied: %s", self.name, error)
            self.remove()
            return
        self.close()
        self._made, self._borrowed = False, True
        self._give_back()

    def _give_back(self) -> None:
        """Files that are empty, and that nobody has open, are for others."""
        if self._borrowed:
            assert self.spares is not None
            self._borrowed = False
            self.spares.give(self.name)
            self.name = self.spares.new()
            self.log.name = f"{self.name}.log"

    # -- changes ------------------------------------------------------------------------------------------------------

    def touch(self, start: int, end: int, now_s: float) -> None:
        """Bytes of [start, end) are about to change, or have just changed: copies made of them before are outdated."""
        for index in range(start // self.object_bytes, -(-end // self.object_bytes)):
            self._changes += 1
            self.regions[index] = Region(self._changes, now_s)
            self.sums.pop(index, None)

    def _outdate(self, start: int, end: int) -> None:
        """As `touch`, for a range of any length: only regions that something is known of."""
        size = self.object_bytes
        for index in [index for index in self.regions if index * size < end and (index + 1) * size > start]:
            self._changes += 1
            self.regions[index] = Region(self._changes, self.regions[index].touched_s)
        for index in [index for index in self.sums if index * size < end and (index + 1) * size > start]:
            del self.sums[index]

    def changing(self, start: int, end: int) -> AbstractContextManager[None]:
        """Inside, bytes of [start, end) are stored and then noted by `written`. Where that fails, what is there now is
        unknown, so no clean bytes are claimed."""
        return _Changing(self.valid, start, end)

    def store(self, offset: int, data: Buffer) -> None:
        """Put the bytes into the local file: the blocking part of a write. Raises OSError (ENOSPC, EIO)."""
        fd = self.open()
        view = memoryview(data).cast("B")
        while view:
            count = os.pwrite(fd, view, offset)
            offset += count
            view = view[count:]

    def written(self, start: int, end: int, time_ns: int, now_s: float) -> None:
        """Note that the bytes stored at [start, end) count: log first, so that the write may be acknowledged after
        this. Raises OSError; then the write must fail."""
        self._log().write(start, end, time_ns)
        self._wrote(start, end, time_ns, now_s)
        self._compact()

    def taken(self, taken: Taken, now_s: float) -> None:
        """Note what the front has stored and logged."""
        self.fd, self._made = taken.fd, True
        self.log.appended(taken.log_fd, taken.log_end, (taken.last_start, taken.last_end))
        for start, end in taken.ranges:
            self._logging = True
            self._wrote(start, end, taken.time_ns, now_s)
        self._compact()

    def _wrote(self, start: int, end: int, time_ns: int, now_s: float) -> None:
        if not self.pending:
            self.dirty_since_s = now_s
        self.pending.write(start, end, time_ns)
        self.valid.remove(start, end)
        self.touch(start, end, now_s)
        if start != self.last_end:
            self.run_start = start
        self.last_end = end
        if end >= self.object_bytes:  # parts may be on their way to the bucket, whatever becomes of the file
            self._reusable = False

    def _compact(self) -> None:
        ranges = len(self.pending.dirty) + len(self.pending.holes)
        if self.log.entries > _COMPACT_ENTRIES + 4 * ranges and self.captured is None:
            self.halt()
            self.log.start(self.base_version, self.pending)

    def truncate(self, size: int, time_ns: int, now_s: float) -> None:
        """An observed truncate, down or up. Raises OSError."""
        self.halt()
        if os.fstat(self.open()).st_size > size or self.backed is not None:
            os.ftruncate(self.fd, size)
        if self.backed is not None:
            self.backed.cut(size)
        self._stamp(time_ns)
        self._log().truncate(size, time_ns)
        if not self.pending:
            self.dirty_since_s = now_s
        self.pending.truncate(size, time_ns)
        self.valid.remove(size, ENDLESS)
        for index in [index for index in self.regions if (index + 1) * self.object_bytes > size]:
            del self.regions[index]
        for index in [index for index in self.sums if (index + 1) * self.object_bytes > size]:
            del self.sums[index]

    def punch(self, start: int, end: int, time_ns: int, now_s: float) -> None:
        """Bytes [start, end) are zeros from now on; `free` gives their local space back. Raises OSError."""
        self.open()
        self._stamp(time_ns)
        self._log().punch(start, end, time_ns)
        if not self.pending:
            self.dirty_since_s = now_s
        self.pending.punch(start, end, time_ns)
        self.valid.remove(start, end)
        self._outdate(start, end)
        if self.backed is not None:
            self.backed.cleared(start, end)
        self._compact()

    def free(self, start: int, end: int) -> None:
        """Give the local space of punched bytes back; where the file system cannot, nothing happens, but for a kernel
        that reads the file itself: it finds zeros. Copies that are being made of them meanwhile get zeros, which is
        what they are about to become. Raises OSError."""
        if not punch(self.open(), start, end - start) and self.backed is not None:
            for at in range(start, end, self.backed.sector_bytes):
                self.store(at, bytes(min(self.backed.sector_bytes, end - at)))

    def extend(self, size: int, time_ns: int, now_s: float) -> None:
        """The file is at least so long from now on. Raises OSError."""
        if self.backed is not None and self.status().st_size < size:
            os.ftruncate(self.open(), size)
        self.open()
        self._stamp(time_ns)
        self._log().extend(size, time_ns)
        if not self.pending:
            self.dirty_since_s = now_s
        self.pending.extend(size, time_ns)
        self._compact()

    def found(self, ranges: RangeSet, size: int, mtime_ns: int, ctime_ns: int, now_s: float) -> None:
        """Note what a kernel has written. Raises OSError."""
        assert self.backed is not None
        self.backed.found += 1
        for start, end in ranges:
            self._log().write(start, end, ctime_ns)
            if not self.pending:
                self.dirty_since_s = now_s
            self.pending.write(start, end, ctime_ns)
            self.valid.remove(start, end)
            self.touch(start, end, now_s)
        if size > self._layered(self.backed.origin.size):
            self._log().extend(size, ctime_ns)
            self.pending.extend(size, ctime_ns)
        if not self.pending:
            self.dirty_since_s = now_s
        self.pending.set_times(None, mtime_ns, ctime_ns)
        self._log().times(self.pending)
        self._compact()

    def replaced(self, start: int, end: int) -> None:
        """Clean bytes of [start, end) are no longer the file's: a commit of this mount's has put others there."""
        self.valid.remove(start, end)
        self._outdate(start, end)

    def set_times(self, atime_ns: int | None, mtime_ns: int | None, time_ns: int) -> None:
        """utimensat on a file with unpublished changes: the times go out with them."""
        if self.backed is not None:
            self._stamp(time_ns, self.status().st_mtime_ns if mtime_ns is None else mtime_ns)
            self.backed.chosen_ns = self.status().st_mtime_ns
        self.pending.set_times(atime_ns, mtime_ns, time_ns)
        self._log().times(self.pending)

    def _stamp(self, time_ns: int, mtime_ns: int | None = None) -> None:
        """The times of what a kernel uses are those of the local file: it has changed at `time_ns`. A local kernel's
        own would be a tick older, or none where it sees no change."""
        if self.backed is not None:
            mtime_ns = time_ns if mtime_ns is None else mtime_ns
            os.utime(self.open(), ns=(self.status().st_atime_ns, mtime_ns))
            self.backed.floor_ns = time_ns

    # -- publishing ---------------------------------------------------------------------------------------------------

    def capture(self) -> Pending:
        """Everything pending becomes what a publish is about to commit. Raises OSError."""
        assert self.captured is None, "one publish at a time for each working file"
        self.halt()
        self._log().capture()
        self.captured = self.pending
        self.pending = Pending()
        return self.captured

    def committed(self, share: Share, *, keep: bool) -> None:
        """These captured changes are in the journal. `keep`: their bytes are the inode's present contents, so reading
        may go on from here."""
        assert self.captured is not None
        self.captured.settle(share)
        if not keep:
            return
        parts = share.parts.copy()
        parts.subtract(self.pending.dirty)
        parts.subtract(self.pending.holes)
        if self.pending.low is not None:
            parts.remove(self.pending.low, ENDLESS)
        self.valid.update(parts)

    def release(self, *, now_s: float) -> None:
        """The capture is over; what of it has not been committed is pending again. Raises OSError from the log; what is
        in memory is right then, and a restart publishes again what need not be."""
        assert self.captured is not None
        assert not self.undecided
        self.halt()
        rest = self.captured
        self.captured = None
        if rest:
            self.pending = rest.followed_by(self.pending)
        else:
            self.dirty_since_s = now_s
        for index in [index for index in self.regions if not self._dirty_in(index)]:
            del self.regions[index]
        if self._logging:
            self.log.start(self.base_version, self.pending)

    def _dirty_in(self, index: int) -> bool:
        return self.pending.dirty.overlaps(index * self.object_bytes, (index + 1) * self.object_bytes)

    def changed_elsewhere(self) -> None:
        """The inode's contents were changed by someone else: clean bytes here may be outdated, dirty ones stay."""
        self.halt()
        self.foreign += 1
        self.valid.clear()
        self.sums.clear()

    def sum_table(self, sector_bytes: int) -> bytes:
        """8 bytes for each sector of the file: its checksum where this file holds the whole region, else zeros."""
        count = self.object_bytes // sector_bytes * 8
        table = bytearray()
        for index, sums in sorted(self.sums.items()):
            if (index + 1) * count > _TABLE_BYTES:
                break
            if self.valid.covers(index * self.object_bytes, (index + 1) * self.object_bytes):
                table.extend(bytes(index * count - len(table)))
                table += sums
        return bytes(table)

    def discard(self) -> None:
        """Forget all unpublished changes: the inode is gone, or they are kept elsewhere. Not while it is published."""
        self.halt()
        self.pending = Pending()
        self.captured = None
        self.undecided.clear()
        self.valid.clear()
        self.sums.clear()
        self.regions.clear()
        if self.backed is not None:
            self.backed.pins.close()

    def drop_clean(self) -> None:
        """Give the disk space of clean bytes back; they are read from the bucket again. Never of a file that a kernel
        uses (R14). Where the file system cannot punch holes, nothing happens."""
        if self.backed is not None:
            return
        dropped = [(start, end - start) for start, end in self.valid]
        self.valid.clear()
        self.sums.clear()
        for start, length in dropped:
            punch(self.open(), start, length)

    def resume(self, pending: Pending, base_version: int, now_s: float) -> None:
        """Go on from what a log said. Raises OSError."""
        self.halt()
        self.pending = pending
        self.base_version = base_version
        self.dirty_since_s = now_s
        self.open()
        self.log.start(base_version, pending)
        self._logging = True
        for start, end in pending.dirty:
            self.touch(start, end, now_s)

    # -- looking ------------------------------------------------------------------------------------------------------

    @property
    def dirty(self) -> bool:
        """Whether anything here is not in the journal."""
        return bool(self.pending) or self.captured is not None

    def unpublished(self) -> RangeSet:
        """All bytes here that are not in the journal."""
        return self.pending.dirty.copy() if self.captured is None else self.captured.followed_by(self.pending).dirty

    def unpublished_over(self, inode: Inode) -> list[Pending]:
        """The changes that this row of base does not have, oldest first: those that are captured, unless the last of
        their commits has just arrived, and those since."""
        shown = any(delivery.share.final and delivery.shown_by(inode) for delivery in self.undecided)
        return [layer for layer in (None if shown else self.captured, self.pending) if layer]

    @property
    def unpublished_bytes(self) -> int:
        captured = 0 if self.captured is None else self.captured.dirty.total_bytes
        return self.pending.dirty.total_bytes + captured

    def size_over(self, published: int) -> int:
        """The file's size, given the inode's."""
        backed = self.backed
        if backed is None:
            return self._layered(published)
        here = self.status().st_size
        if not backed.stale:
            return here
        return max(self._layered(published), here if here > backed.seal.size else 0)

    def _layered(self, published: int) -> int:
        if self.captured is not None:
            published = self.captured.size_over(published)
        return self.pending.size_over(published)

    def split(self, start: int, end: int) -> Iterator[tuple[int, int, str]]:
        """[start, end) as (start, end, where) parts: "local" = read it here, "zero", "below" = ask the extents."""
        if self.backed is not None:
            yield start, end, "local"
        else:
            yield from self.layers(start, end)

    def layers(self, start: int, end: int) -> Iterator[tuple[int, int, str]]:
        """As `split`, by what is known to be written, punched and published: also of a file that is complete."""
        for low, high, where in self.pending.split(start, end):
            if where != "below":
                yield low, high, where
            elif self.captured is None:
                yield from self._split_clean(low, high)
            else:
                for first, last, inner in self.captured.split(low, high):
                    if inner != "below":
                        yield first, last, inner
                    else:
                        yield from self._split_clean(first, last)

    def _split_clean(self, start: int, end: int) -> Iterator[tuple[int, int, str]]:
        for low, high, valid in self.valid.split(start, end):
            yield low, high, "local" if valid else "below"

    def load(self, offset: int, length: int) -> bytes:
        """`length` bytes from the local file; zeros where it has a hole or ends."""
        data = os.pread(self.open(), length, offset)
        while len(data) < length:
            more = os.pread(self.fd, length - len(data), offset + len(data))
            if not more:
                return data.ljust(length, b"\0")
            data += more
        return data

    def copy_out(self, offset: int, target: memoryview) -> None:
        """As `load_into`: the one private copy that is hashed and uploaded."""
        self.load_into(offset, target)
        if self.backed is not None:
            self.backed.copied(offset, target, self.status().st_size)

    def load_into(self, offset: int, target: memoryview) -> None:
        """As `load`, into a buffer."""
        fd = self.open()
        while target:
            count = os.preadv(fd, [target], offset)
            if not count:
                target[:] = bytes(len(target))
                return
            offset += count
            target = target[count:]
