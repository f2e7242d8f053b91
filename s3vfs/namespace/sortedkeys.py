"""A set of keys in order, for rows that live in memory: adding, removing and finding a place cost a few microseconds
whatever the size."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Iterator

_SPLIT_ABOVE = 1024  # keys in a bucket; moving half of it in memory costs less than a Python call


class SortedKeys:
    """Keys in buckets; each bucket has a lower bound, and holds the keys up to the next bucket's."""

    __slots__ = ("_bounds", "_buckets")

    def __init__(self, keys: Iterable[bytes] = ()) -> None:
        ordered = sorted(keys)
        half = _SPLIT_ABOVE // 2
        self._buckets = [ordered[start : start + half] for start in range(0, len(ordered), half)] or [[]]
        self._bounds = [b""] + [bucket[0] for bucket in self._buckets[1:]]

    def add(self, key: bytes) -> None:
        """Add a key that is not there."""
        index = bisect_right(self._bounds, key) - 1
        bucket = self._buckets[index]
        insort(bucket, key)
        if len(bucket) > _SPLIT_ABOVE:
            half = len(bucket) // 2
            self._buckets.insert(index + 1, bucket[half:])
            self._bounds.insert(index + 1, bucket[half])
            del bucket[half:]

    def remove(self, key: bytes) -> None:
        """Remove a key that is there."""
        index = bisect_right(self._bounds, key) - 1
        bucket = self._buckets[index]
        del bucket[bisect_left(bucket, key)]
        if not bucket and index > 0:
            del self._buckets[index], self._bounds[index]

    def between(self, first: bytes, end: bytes, *, reverse: bool = False) -> Iterator[bytes]:
        """Keys with first <= key < end, in order or backwards. The set may not change meanwhile."""
        low = bisect_right(self._bounds, first) - 1
        high = bisect_right(self._bounds, end) - 1
        for index in range(high, low - 1, -1) if reverse else range(low, high + 1):
            bucket = self._buckets[index]
            start = bisect_left(bucket, first) if index == low else 0
            stop = bisect_left(bucket, end) if index == high else len(bucket)
            for position in range(stop - 1, start - 1, -1) if reverse else range(start, stop):
                yield bucket[position]

    def __iter__(self) -> Iterator[bytes]:
        for bucket in self._buckets:
            yield from bucket

    def copy(self) -> SortedKeys:
        other = SortedKeys()
        other._buckets = [bucket.copy() for bucket in self._buckets]
        other._bounds = self._bounds.copy()
        return other
