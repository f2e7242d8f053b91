"""What is known of a working file that a kernel uses by itself (DESIGN 8, "Working files").

Such a file is complete: it has every byte of the inode, so that its size is the inode's. Who writes to it tells nobody;
what was written is found by reading. Nothing is concluded from times alone: a store to a mapped page need not move
them. So each sector is hashed and compared with the checksum of the copy that was published of it. Where that has
changed, what was written is told byte by byte from what was published (`origin`): other nodes may be writing to the
same sector, unheard of yet, and no byte of theirs may be overwritten that was not written here.

Local I/O only; knows no session and no bucket.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import NamedTuple

import xxhash

from s3vfs.data.origin import Origin
from s3vfs.data.ranges import RangeSet

_WRITTEN = re.compile(rb"[^\0](?:\0{0,3}[^\0])*", re.DOTALL)


class Seal(NamedTuple):
    """The local file as it was when it was last read through."""

    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, state: os.stat_result) -> Seal:
        return cls(state.st_size, state.st_mtime_ns, state.st_ctime_ns)


NEVER = Seal(-1, 0, 0)
Sums = dict[int, tuple[int, bytes]]


@dataclass(slots=True)
class Backed:
    """`origin`: of which published bytes it is the image, but for what is pending and what nobody has found yet.
    `writable`: somebody may write to it, or may have since it was last read. `sums`: (length, xxh3) by sector, of the
    copy that was last published of it, or as the object declares it. `stale`: others have changed the inode since
    `origin`. `number`: the kernel's; 0 while it is not registered. `carried`: handles that have it, `reading`: those
    that can read. `found`: counts what was found. `floor_ns`: times before this are of the local clock's last tick.
    `chosen_ns`: an mtime that was set. `uids`: of whom it was lent to for writing, but root. `idle_since_s`,
    `look_at_s`, `pause_s`: when it is looked at in the background. `claimed_bytes`: what of the cache it has taken.
    `refused`: the disk has not taken some of it."""

    sector_bytes: int
    origin: Origin
    writable: bool = False
    sums: Sums = field(default_factory=dict)
    seal: Seal = NEVER
    stale: bool = False
    number: int = 0
    carried: int = 0
    reading: int = 0
    found: int = 0
    floor_ns: int = 0
    chosen_ns: int | None = None
    uids: set[int] = field(default_factory=set)
    pins: ExitStack = field(default_factory=ExitStack)
    idle_since_s: float = 0.0
    look_at_s: float = 0.0
    pause_s: float = 0.0
    claimed_bytes: int = 0
    refused: OSError | None = None

    def times(self, state: os.stat_result) -> tuple[int, int]:
        """(mtime, ctime) to be shown of a file that has changed: the local kernel's clock goes in ticks, and a file
        must not become older than it was."""
        mtime_ns = state.st_mtime_ns
        if mtime_ns != self.chosen_ns:
            mtime_ns = max(mtime_ns, self.floor_ns)
        return mtime_ns, max(state.st_ctime_ns, self.floor_ns)

    def copied(self, start: int, body: memoryview, size: int) -> None:
        """The file's bytes from `start` on are about to be published from this copy; `size`: of the file. They are
        dirty until that has succeeded."""
        end = start + len(body)
        for sector in range(start // self.sector_bytes, -(-end // self.sector_bytes)):
            first = sector * self.sector_bytes
            last = min(first + self.sector_bytes, end)
            if first >= start and (last == first + self.sector_bytes or last >= size):
                self.sums[sector] = last - first, xxhash.xxh3_64_digest(body[first - start : last - start])
            else:
                self.sums.pop(sector, None)

    def cut(self, size: int) -> None:
        """An observed truncate."""
        self.origin.cut(size)
        for sector in [sector for sector in self.sums if sector * self.sector_bytes >= size]:
            del self.sums[sector]

    def cleared(self, start: int, end: int) -> None:
        """An observed hole."""
        self.origin.clear(start, end)
        for sector in [
            sector
            for sector in self.sums
            if sector * self.sector_bytes < end and (sector + 1) * self.sector_bytes > start
        ]:
            del self.sums[sector]

    def unlike(self, seen: Sums) -> list[int]:
        """The sectors that are not as they were published."""
        return [sector for sector, found in seen.items() if self.sums.get(sector) != found]


def data_spans(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """[start, end) of what is no hole, in order. Raises OSError."""
    at = 0
    while at < size:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
        except OSError:  # ENXIO: only a hole is left
            return
        at = min(os.lseek(fd, start, os.SEEK_HOLE), size)
        if start >= size:
            return
        yield start, at


def scan(fd: int, size: int, sector_bytes: int) -> tuple[Sums, RangeSet]:
    """The hash of each sector that is not all hole, and what of the file is data. Reads everything. Raises OSError."""
    seen: Sums = {}
    spans = RangeSet(data_spans(fd, size))
    buffer = memoryview(bytearray(min(sector_bytes, size)))
    for start, end in spans:
        for sector in range(start // sector_bytes, -(-end // sector_bytes)):
            if sector not in seen:
                first = sector * sector_bytes
                length = load(fd, first, buffer[: min(sector_bytes, size - first)])
                seen[sector] = length, xxhash.xxh3_64_digest(buffer[:length])
    return seen, spans


def load(fd: int, offset: int, target: memoryview) -> int:
    """Fill `target` as far as the file reaches. Raises OSError."""
    count = 0
    while count < len(target):
        more = os.preadv(fd, [target[count:]], offset + count)
        if not more:
            break
        count += more
    return count


def differing(ours: bytes | memoryview, theirs: bytes | memoryview) -> Iterator[tuple[int, int]]:
    """[start, end) where two buffers of one length differ. To the byte, but that up to three equal bytes between
    others count as written, too: by chance every 256th byte of what was overwritten is as before."""
    unlike = int.from_bytes(ours, "little") ^ int.from_bytes(theirs, "little")
    for match in _WRITTEN.finditer(unlike.to_bytes(len(ours), "little")):
        yield match.span()
