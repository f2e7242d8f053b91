"""From a file's extents to the object sectors that hold them: which bytes, of which object, cached where. Pure.

A sector is the unit of caching and checksums. Where does it live in the cache? A file sector that *is* one sector of
an object (same length, both at multiples of the sector size) belongs to the file: entry `f-<ino>-<version>`, at its
file offset, so that the entry can stand for the file. Every other sector is shared or shifted, as in packs: entry
`p-<object>`, at its object offset; so is a file of less than one sector, whose pack brings its neighbours along. Extent
and size decide it; neither the format nor the object row has to say anything.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from s3vfs.errors import Damaged, UnknownFeature
from s3vfs.namespace.rows import Inode, ObjectRow, Rows


class Unit(NamedTuple):
    """One sector of an object and its place in the cache. `checksum`: the 8 bytes that the object's row declares."""

    entry: str
    slot: int
    object: bytes
    sector: int
    length: int
    checksum: bytes


class Part(NamedTuple):
    """File bytes [start, end): `skip` bytes into the sector `unit`, or zeros when that is None."""

    start: int
    end: int
    unit: Unit | None
    skip: int


def file_entry(ino: int, version: int) -> str:
    """The cache entry of one version of a file."""
    return f"f-{ino:016x}-{version:016x}"


def object_entry(object_id: bytes) -> str:
    """The cache entry of a pack."""
    return f"p-{object_id.hex()}"


def is_shared(unit: Unit) -> bool:
    """Whether it is kept for its pack, not for one file."""
    return unit.entry.startswith("p-")


def resolve(rows: Rows, ino: int, inode: Inode, start: int, end: int, sector_bytes: int) -> Iterator[Part]:
    """[start, end) of an inode as parts, in order. Raises Damaged where a row is missing or does not fit."""
    at = start
    objects: dict[bytes, ObjectRow] = {}
    for offset, extent in rows.extents(ino, start, end):
        first = max(offset, start)
        last = min(offset + extent.length, end)
        if at < first:
            yield Part(at, first, None, 0)
        row = objects.get(extent.object)
        if row is None:
            row = _row(rows, ino, extent.object)
            objects[extent.object] = row
        shift = extent.object_offset - offset
        at = first
        while at < last:
            sector, skip = divmod(at + shift, sector_bytes)
            length = min(sector_bytes, row.size - sector * sector_bytes)
            stop = min(last, at + length - skip)
            checksum = row.checksums[8 * sector : 8 * sector + 8]
            if length <= skip or len(checksum) != 8:
                raise Damaged(f"inode {ino}: the extent at {offset} reaches beyond object {extent.object.hex()}")
            head = sector * sector_bytes - shift  # where the sector begins in the file
            aligned = head % sector_bytes == 0 and inode.size >= sector_bytes
            whole = aligned and length == min(sector_bytes, inode.size - head)
            own = whole and offset <= head and head + length <= offset + extent.length
            entry = file_entry(ino, inode.version) if own else object_entry(extent.object)
            slot = head // sector_bytes if own else sector
            yield Part(at, stop, Unit(entry, slot, extent.object, sector, length, checksum), skip)
            at = stop
    if at < end:
        yield Part(at, end, None, 0)


def _row(rows: Rows, ino: int, object_id: bytes) -> ObjectRow:
    row = rows.object(object_id)
    if row is None:
        raise Damaged(f"inode {ino}: an extent points into object {object_id.hex()}, which no record declares")
    if row.codec != 0:
        raise UnknownFeature(f"object {object_id.hex()} has codec {row.codec}", hint="use a newer version of s3vfs")
    return row
