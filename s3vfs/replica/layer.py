"""Rows in memory that hide those of a base: what the overlay keeps, and the view through it. Decides nothing."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator

from s3vfs.namespace.transaction import ReadTransaction
from s3vfs.replica.protocol import Row

# Up to so many keys are taken out of the sorted lists one by one; for more, whole lists are filtered once.
_SINGLE_REMOVALS = 32


class Layer:
    """Values by key, None = deleted, each with the serial number of who wrote it last.

    Keys are kept sorted within their first byte: new inodes then append to their lists, where one list for all would
    move most of 50,000 keys at each insertion.

    `rows` has what stands here: (value, serial) by key; a key that it lacks shows the base's row. It is changed through
    the methods only.
    """

    __slots__ = ("_keys", "rows")

    def __init__(self) -> None:
        self.rows: dict[bytes, tuple[bytes | None, int]] = {}
        self._keys: dict[int, list[bytes]] = {}

    def __len__(self) -> int:
        return len(self.rows)

    def __contains__(self, key: bytes) -> bool:
        return key in self.rows

    def set(self, key: bytes, value: bytes | None, serial: int) -> None:
        if key not in self.rows:
            insort(self._keys.setdefault(key[0], []), key)
        self.rows[key] = (value, serial)

    def remove(self, keys: Iterable[bytes]) -> None:
        """Let the base's rows show again; keys that are not in the layer are passed over."""
        removed: dict[int, list[bytes]] = {}
        for key in keys:
            if self.rows.pop(key, None) is not None:
                removed.setdefault(key[0], []).append(key)
        for tag, gone in removed.items():
            ordered = self._keys[tag]
            if len(gone) <= _SINGLE_REMOVALS:
                for key in gone:
                    del ordered[bisect_left(ordered, key)]
            else:
                self._keys[tag] = [key for key in ordered if key in self.rows]

    def values(self) -> dict[bytes, bytes | None]:
        return {key: value for key, (value, _) in self.rows.items()}

    def keys_between(self, first: bytes, end: bytes) -> list[bytes]:
        """Keys of the layer with first <= key < end, in order."""
        found: list[bytes] = []
        if first < end and self._keys:
            low, high = first[0] if first else 0, end[0]
            tags = (low,) if low == high else [tag for tag in sorted(self._keys) if low <= tag <= high]
            for tag in tags:  # mostly one: rows of one kind
                keys = self._keys.get(tag, ())
                start = bisect_left(keys, first)
                if start < len(keys) and keys[start] < end:
                    found += keys[start : bisect_left(keys, end, start)]
        return found


class LayeredView:
    """A ReadTransaction: the layer's rows above the base's. Neither may change while a range is consumed."""

    __slots__ = ("_base", "_get", "_layer")

    def __init__(self, base: ReadTransaction, layer: Layer) -> None:
        self._base = base
        self._layer = layer
        self._get = layer.rows.get

    def get(self, key: bytes) -> bytes | None:
        found = self._get(key)
        return self._base.get(key) if found is None else found[0]

    def range(self, first: bytes, end: bytes, *, reverse: bool = False) -> Iterator[Row]:
        own = self._layer.keys_between(first, end)
        base = self._base.range(first, end, reverse=reverse)
        if not own:
            return base
        if not reverse:
            own.reverse()  # so that the next one is at the end
        return self._merged(own, base, reverse)

    def _merged(self, own: list[bytes], base: Iterator[Row], reverse: bool) -> Iterator[Row]:
        for row in base:
            key = row[0]
            while own and (own[-1] > key if reverse else own[-1] < key):
                yield from self._row(own.pop())
            if own and own[-1] == key:
                yield from self._row(own.pop())
            else:
                yield row
        while own:
            yield from self._row(own.pop())

    def _row(self, key: bytes) -> tuple[Row, ...]:
        """The layer's row, or nothing where it deletes one."""
        found = self._get(key)
        return () if found is None or found[0] is None else ((key, found[0]),)
