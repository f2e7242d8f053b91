"""Which published bytes the unchanged bytes of a local file are: a map from file ranges to objects. Pure.

A working file that a kernel writes to unseen is compared with this, to find what was written; and with a newer version
of the inode, to find what others have changed meanwhile.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from s3vfs.data.layout import Part, Unit, object_entry
from s3vfs.data.ranges import RangeSet
from s3vfs.errors import Damaged
from s3vfs.namespace.ops import ExtentWrite
from s3vfs.namespace.rows import Inode, Rows


class Piece(NamedTuple):
    """File bytes [start, end) are those of `object` from `offset` on."""

    start: int
    end: int
    object: bytes
    offset: int

    def within(self, start: int, end: int) -> Piece:
        first = max(self.start, start)
        return Piece(first, min(self.end, end), self.object, self.offset + first - self.start)


@dataclass(slots=True)
class Origin:
    """`pieces`: in order, disjoint; zeros between them. `size`: of the file."""

    size: int = 0
    version: int = 0
    pieces: list[Piece] = field(default_factory=list)

    @classmethod
    def of(cls, rows: Rows, ino: int, inode: Inode) -> Origin:
        """The present version of an inode."""
        pieces = [
            Piece(offset, min(offset + extent.length, inode.size), extent.object, extent.object_offset)
            for offset, extent in rows.extents(ino, 0, inode.size)
        ]
        return cls(inode.size, inode.version, pieces)

    def within(self, start: int, end: int) -> Iterator[Piece]:
        """What of [start, end) is published, in order."""
        first = max(0, bisect_right(self.pieces, start, key=lambda piece: piece.start) - 1)
        for index in range(first, len(self.pieces)):
            piece = self.pieces[index]
            if piece.start >= end:
                return
            if piece.end > start:
                yield piece.within(start, end)

    def overlaps(self, start: int, end: int) -> bool:
        return next(self.within(start, end), None) is not None

    def clear(self, start: int, end: int) -> None:
        """Zeros there."""
        kept = [*self.within(0, start), *self.within(end, max(end, self.size))]
        self.pieces = [piece for piece in kept if piece.start < piece.end]

    def cut(self, size: int) -> None:
        """The size is set, down or up."""
        self.pieces = list(self.within(0, size))
        self.size = size

    def write(self, extents: Iterable[ExtentWrite]) -> None:
        """These have been published over it."""
        for extent in extents:
            end = extent.offset + extent.length
            self.size = max(self.size, end)
            self.clear(extent.offset, end)
            self.pieces.append(Piece(extent.offset, end, extent.object, extent.object_offset))
            self.pieces.sort()

    def differences(self, other: Origin) -> RangeSet:
        """The ranges of which the two may have other bytes."""
        changed = RangeSet((piece.start, piece.end) for piece in (*self.pieces, *other.pieces))
        others = iter(other.pieces)
        theirs = next(others, None)
        for piece in self.pieces:
            while theirs is not None and theirs.start < piece.end:
                same = piece.object == theirs.object and piece.offset - piece.start == theirs.offset - theirs.start
                if same:
                    changed.remove(max(piece.start, theirs.start), min(piece.end, theirs.end))
                if theirs.end > piece.end:
                    break
                theirs = next(others, None)
        return changed

    def parts(self, rows: Rows, start: int, end: int, sector_bytes: int) -> Iterator[Part]:
        """[start, end) as `layout.resolve` gives it, from the objects themselves. Raises Damaged for one that no row
        declares any more."""
        at = start
        for piece in self.within(start, end):
            if at < piece.start:
                yield Part(at, piece.start, None, 0)
            row = rows.object(piece.object)
            if row is None:
                raise Damaged(f"object {piece.object.hex()} is no longer declared")
            at = piece.start
            while at < piece.end:
                sector, skip = divmod(at - piece.start + piece.offset, sector_bytes)
                length = min(sector_bytes, row.size - sector * sector_bytes)
                stop = min(piece.end, at + length - skip)
                if stop <= at:
                    raise Damaged(f"an extent reaches beyond object {piece.object.hex()}")
                checksum = row.checksums[8 * sector : 8 * sector + 8]
                yield Part(
                    at, stop, Unit(object_entry(piece.object), sector, piece.object, sector, length, checksum), skip
                )
                at = stop
        if at < end:
            yield Part(at, end, None, 0)

    def own_sums(self, rows: Rows, sector_bytes: int) -> dict[int, tuple[int, bytes]]:
        """(length, checksum) of each file sector that is exactly one sector of an object."""
        sums: dict[int, tuple[int, bytes]] = {}
        for piece in self.pieces:
            if piece.start % sector_bytes or piece.offset % sector_bytes:
                continue
            row = rows.object(piece.object)
            if row is None:
                continue
            for start in range(piece.start, piece.end, sector_bytes):
                sector = (start - piece.start + piece.offset) // sector_bytes
                length = min(sector_bytes, row.size - sector * sector_bytes)
                if start + length <= piece.end and length == min(sector_bytes, self.size - start):
                    sums[start // sector_bytes] = length, row.checksums[8 * sector : 8 * sector + 8]
        return sums
