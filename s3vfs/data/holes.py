"""Which parts of a file hold data, and which are holes: for SEEK_DATA, SEEK_HOLE, block counts and quota. Pure.

Data is what takes space: bytes of an extent, and bytes of the working file that were written. Zeros that a program
wrote are data; what was never written, was punched, or lies behind an extension is a hole.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from s3vfs.data.pending import ENDLESS, Pending
from s3vfs.data.working import WorkingFile
from s3vfs.namespace.rows import Rows


def spans(rows: Rows, ino: int, working: WorkingFile | None, start: int, end: int) -> Iterator[tuple[int, int, bool]]:
    """[start, end) as (start, end, is data) parts, in order. Neighbours may be alike. Lazy: a caller may stop early."""
    if working is None:
        yield from _published(rows, ino, start, end)
        return
    for low, high, where in working.layers(start, end):
        if where == "below":
            yield from _published(rows, ino, low, high)
        else:
            yield low, high, where == "local"


def _published(rows: Rows, ino: int, start: int, end: int) -> Iterator[tuple[int, int, bool]]:
    at = start
    for offset, extent in rows.extents(ino, start, end):
        first, last = max(offset, start), min(offset + extent.length, end)
        if at < first:
            yield at, first, False
        yield first, last, True
        at = last
    if at < end:
        yield at, end, False


def seek(
    rows: Rows, ino: int, working: WorkingFile | None, offset: int, published_size: int, *, data: bool
) -> int | None:
    """The next offset, from `offset` on, in data or else in a hole; the end of the file counts as a hole. None:
    `offset` is not inside the file, or there is no more data."""
    size = published_size if working is None else working.size_over(published_size)
    if not 0 <= offset < size:
        return None
    for start, _, is_data in spans(rows, ino, working, offset, size):
        if is_data == data:
            return start
    return None if data else size


def data_bytes(rows: Rows, ino: int, working: WorkingFile | None, start: int, end: int) -> int:
    """How many bytes of [start, end) take space."""
    return sum(last - first for first, last, is_data in spans(rows, ino, working, start, end) if is_data)


def hidden_bytes(rows: Rows, ino: int, layers: Sequence[Pending]) -> int:
    """Bytes of extents that the holes and truncates of unpublished changes have taken away."""
    ranges: list[tuple[int, int]] = []
    for layer in layers:
        ranges += layer.holes
        if layer.low is not None:
            ranges.append((layer.low, ENDLESS))
    hidden = reached = 0
    for start, end in sorted(ranges):
        hidden += data_bytes(rows, ino, None, max(start, reached), max(end, reached))
        reached = max(reached, end)
    return hidden
