"""Changing one inode's extents: a plan is made from reading only, and then carried out or dropped.

A plan cuts byte ranges out of what is there, by splitting, and puts new extents in. It keeps X and R rows one to one,
and the objects' references, live bytes and condemnation right.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from msgspec.structs import replace

from s3vfs.namespace.ops import ExtentWrite
from s3vfs.namespace.rows import (
    Extent,
    Inode,
    MutableRows,
    ObjectRow,
    Reference,
    Rows,
    extent_key,
    object_key,
    reference_key,
)

Range = tuple[int, int]  # [start, end) in bytes of the file
Placed = tuple[int, Extent]  # file offset and extent


@dataclass(slots=True)
class ExtentPlan:
    """What will change. `more_bytes` is the change of the inode's allocated bytes."""

    ino: int
    removed: list[Placed] = field(default_factory=list)
    placed: list[Placed] = field(default_factory=list)
    more_bytes: int = 0

    def make(self, rows: MutableRows, seq: int) -> None:
        """Write it. An object that loses its last reference here is condemned by the record `seq`."""
        ino = self.ino
        changes: dict[bytes, list[int]] = {}
        for offset, extent in self.removed:
            rows.delete(extent_key(ino, offset))
            rows.delete(reference_key(extent.object, ino, offset))
            change = changes.setdefault(extent.object, [0, 0])
            change[0] -= 1
            change[1] -= extent.length
        for offset, extent in self.placed:
            rows.put(extent_key(ino, offset), extent)
            rows.put(reference_key(extent.object, ino, offset), Reference(extent.length, extent.object_offset))
            change = changes.setdefault(extent.object, [0, 0])
            change[0] += 1
            change[1] += extent.length
        for object_id, (references, live_bytes) in changes.items():
            row = rows.object(object_id)
            if row is None or not (references or live_bytes):
                continue
            left = row.references + references
            rows.put(
                object_key(object_id),
                replace(
                    row,
                    references=left,
                    live_bytes=row.live_bytes + live_bytes,
                    condemned=row.condemned if left else seq,
                ),
            )


def plan_extents(rows: Rows, ino: int, inode: Inode, cuts: Sequence[Range], new: list[Placed]) -> ExtentPlan:
    """Remove the ranges `cuts` (sorted, disjoint) from the inode's extents and add `new`, which lies inside them."""
    plan = ExtentPlan(ino, placed=new, more_bytes=sum(extent.length for _, extent in new))
    overlapped: dict[int, Extent] = {}
    if inode.allocated:
        for start, end in cuts:
            if start < inode.size:  # no extent reaches beyond the size
                overlapped.update(rows.extents(ino, start, end))
    if not overlapped:
        return plan
    plan.placed = list(new)
    starts = [start for start, _ in cuts]
    for offset, extent in overlapped.items():
        plan.removed.append((offset, extent))
        left = offset
        end = offset + extent.length
        for cut_start, cut_end in cuts[max(bisect_right(starts, offset) - 1, 0) : bisect_left(starts, end)]:
            if left < cut_start:
                plan.placed.append((left, part(offset, extent, left, cut_start)))
                plan.more_bytes += cut_start - left
            left = max(left, cut_end)
        if left < end:
            plan.placed.append((left, part(offset, extent, left, end)))
            plan.more_bytes += end - left
        plan.more_bytes -= extent.length
    return plan


def part(offset: int, extent: Extent, start: int, end: int) -> Extent:
    """The piece of an extent at `offset` that covers the file bytes [start, end), which lie inside it."""
    return Extent(end - start, extent.object, extent.object_offset + start - offset)


def disjoint(extents: Iterable[ExtentWrite]) -> list[Placed]:
    """The extents of one op sorted and without overlaps: where two overlap, the later one wins."""
    placed = [(e.offset, Extent(e.length, e.object, e.object_offset)) for e in extents]
    if all(a[0] + a[1].length <= b[0] for a, b in pairwise(placed)):
        return placed
    result: list[Placed] = []
    for offset, extent in placed:
        end = offset + extent.length
        low = bisect_left(result, offset, key=lambda p: p[0] + p[1].length)
        high = bisect_left(result, end, key=lambda p: p[0])
        middle: list[Placed] = []
        for other, old in result[low:high]:
            if other < offset:
                middle.append((other, part(other, old, other, offset)))
        middle.append((offset, extent))
        for other, old in result[low:high]:
            if other + old.length > end:
                middle.append((end, part(other, old, end, other + old.length)))
        result[low:high] = [p for p in middle if p[1].length]
    return result


def usable(row: ObjectRow | None, start: int, length: int) -> bool:
    """Whether a new extent may point at these bytes of the object."""
    return row is not None and row.condemned == 0 and start + length <= row.size
