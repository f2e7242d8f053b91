"""A layer of changes in memory above rows that are only read.

Used to try ops for their verdict, and to keep acknowledged ops apart from base (R12). The layer remembers what was
read and written through it, so that its owner can tell whether a foreign change concerns it: an op names the rows
that it depends on by reading them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator

from s3vfs.namespace.sortedkeys import SortedKeys
from s3vfs.namespace.transaction import ReadTransaction, Transaction


class KeyRange:
    """Keys with first <= key < end whose rows, or absence, have been looked at."""

    __slots__ = ("end", "first")

    def __init__(self, first: bytes, end: bytes) -> None:
        self.first = first
        self.end = end

    def __contains__(self, key: bytes) -> bool:
        return self.first <= key < self.end

    def __repr__(self) -> str:
        return f"KeyRange({self.first!r}, {self.end!r})"


class ScratchTransaction:
    """A Transaction whose writes stay in memory. `writes` has the new value of each written key, None for a deletion;
    `reads` the keys asked for below the layer, `ranges` the stretches of keys that were walked, as far as they were
    consumed. `base` may change under the layer only together with a new layer."""

    __slots__ = ("_base", "_keys", "ranges", "reads", "writes")

    def __init__(self, base: ReadTransaction) -> None:
        self._base = base
        self._keys: SortedKeys | None = None  # of `writes`, once somebody asks for their order
        self.writes: dict[bytes, bytes | None] = {}
        self.reads: set[bytes] = set()
        self.ranges: list[KeyRange] = []

    def get(self, key: bytes) -> bytes | None:
        if key in self.writes:
            return self.writes[key]
        self.reads.add(key)
        return self._base.get(key)

    def put(self, key: bytes, value: bytes) -> None:
        self._write(key, value)

    def delete(self, key: bytes) -> None:
        self._write(key, None)

    def _write(self, key: bytes, value: bytes | None) -> None:
        if self._keys is not None and key not in self.writes:
            self._keys.add(key)
        self.writes[key] = value

    def _ordered(self) -> SortedKeys:
        if self._keys is None:
            self._keys = SortedKeys(self.writes)
        return self._keys

    def range(self, first: bytes, end: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        # The stretch grows row by row: whoever stops at the first row does not depend on those after it.
        seen = KeyRange(end, end) if reverse else KeyRange(first, first)
        self.ranges.append(seen)
        for key, value in self._merged(first, end, reverse):
            if reverse:
                seen.first = key
            else:
                seen.end = key + b"\0"
            if value is not None:
                yield key, value
        seen.first, seen.end = first, end

    def _merged(self, first: bytes, end: bytes, reverse: bool) -> Iterator[tuple[bytes, bytes | None]]:
        """Rows of the base and of the layer in order, the layer's hiding the base's; None = deleted."""
        writes = self.writes
        if not writes:
            yield from self._base.range(first, end, reverse=reverse)
            return
        own_keys = self._ordered().between(first, end, reverse=reverse)
        own = next(own_keys, None)
        for key, value in self._base.range(first, end, reverse=reverse):
            while own is not None and (own > key if reverse else own < key):
                yield own, writes[own]
                own = next(own_keys, None)
            if own == key:
                yield key, writes[key]
                own = next(own_keys, None)
            else:
                yield key, value
        while own is not None:
            yield own, writes[own]
            own = next(own_keys, None)

    def concerned_by(self, changed: Iterable[bytes]) -> bool:
        """Whether one of these keys was read, walked over or written through this layer."""
        keys = sorted(changed)
        if any(key in self.writes or key in self.reads for key in keys):
            return True
        for seen in self.ranges:
            position = bisect_left(keys, seen.first)
            if position < len(keys) and keys[position] < seen.end:
                return True
        return False

    def merge_into(self, txn: Transaction) -> None:
        """Make the layer's changes in `txn`, in key order."""
        for key in self._ordered():
            value = self.writes[key]
            if value is None:
                txn.delete(key)
            else:
                txn.put(key, value)
