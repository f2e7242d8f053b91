"""Sets of byte ranges: sorted, merged, half-open. Pure; used for what is dirty and what is valid in a working file."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator


class RangeSet:
    """Bytes as disjoint, non-touching [start, end) ranges in order. `total_bytes` is kept, never counted again.

    A change costs O(log n + ranges touched), plus one move of the list's tail.
    """

    __slots__ = ("_ends", "_starts", "total_bytes")

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        self.total_bytes = 0
        for start, end in ranges:
            self.add(start, end)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return zip(self._starts, self._ends, strict=True)

    def __len__(self) -> int:
        """The number of ranges."""
        return len(self._starts)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RangeSet) and self._starts == other._starts and self._ends == other._ends

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"RangeSet({list(self)})"

    @property
    def end(self) -> int:
        """The end of the last range, 0 for none."""
        return self._ends[-1] if self._ends else 0

    def copy(self) -> RangeSet:
        twin = RangeSet()
        twin._starts = self._starts.copy()
        twin._ends = self._ends.copy()
        twin.total_bytes = self.total_bytes
        return twin

    def clear(self) -> None:
        self._starts.clear()
        self._ends.clear()
        self.total_bytes = 0

    def add(self, start: int, end: int) -> None:
        """Add [start, end); nothing when it is empty."""
        if start >= end:
            return
        first = bisect_left(self._ends, start)  # the first range that reaches `start`, touching included
        last = bisect_right(self._starts, end)
        if first < last:
            start = min(start, self._starts[first])
            end = max(end, self._ends[last - 1])
            self.total_bytes -= sum(self._ends[first:last]) - sum(self._starts[first:last])
        self._starts[first:last] = [start]
        self._ends[first:last] = [end]
        self.total_bytes += end - start

    def remove(self, start: int, end: int) -> None:
        """Take [start, end) out."""
        if start >= end or not self._starts:
            return
        first = bisect_right(self._ends, start)
        last = bisect_left(self._starts, end)
        if first >= last:
            return
        self.total_bytes -= sum(self._ends[first:last]) - sum(self._starts[first:last])
        left = (self._starts[first], start)
        right = (end, self._ends[last - 1])
        rest = [part for part in (left, right) if part[0] < part[1]]
        self._starts[first:last] = [part[0] for part in rest]
        self._ends[first:last] = [part[1] for part in rest]
        self.total_bytes += sum(part[1] - part[0] for part in rest)

    def update(self, other: RangeSet) -> None:
        """Add all ranges of `other`."""
        for start, end in other:
            self.add(start, end)

    def subtract(self, other: RangeSet) -> None:
        """Take all ranges of `other` out."""
        for start, end in other:
            self.remove(start, end)

    def covers(self, start: int, end: int) -> bool:
        """Whether every byte of [start, end) is in the set; true for an empty range."""
        if start >= end:
            return True
        index = bisect_right(self._starts, start) - 1
        return index >= 0 and self._ends[index] >= end

    def overlaps(self, start: int, end: int) -> bool:
        """Whether any byte of [start, end) is in the set."""
        index = bisect_right(self._ends, start)
        return start < end and index < len(self._starts) and self._starts[index] < end

    def within(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """The parts of [start, end) that are in the set, in order. The set may not change meanwhile."""
        for index in range(bisect_right(self._ends, start), len(self._starts)):
            if self._starts[index] >= end:
                return
            yield max(start, self._starts[index]), min(end, self._ends[index])

    def split(self, start: int, end: int) -> Iterator[tuple[int, int, bool]]:
        """[start, end) cut into (start, end, in the set) parts, in order."""
        at = start
        for low, high in self.within(start, end):
            if at < low:
                yield at, low, False
            yield low, high, True
            at = high
        if at < end:
            yield at, end, False
