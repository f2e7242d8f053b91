"""Rows in memory: a dictionary and its keys in order. The transaction of the simulator, of tests and of small tools.

Nothing here lasts or is shared between threads; `copy` gives an independent set of rows.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator


class DictTransaction:
    """A Transaction over a dictionary. An insertion moves the tail of one list: cheap up to some 100,000 rows."""

    __slots__ = ("_keys", "_rows")

    def __init__(self, rows: Iterable[tuple[bytes, bytes]] = ()) -> None:
        self._rows: dict[bytes, bytes] = dict(rows)
        self._keys: list[bytes] = sorted(self._rows)

    def __len__(self) -> int:
        return len(self._keys)

    def get(self, key: bytes) -> bytes | None:
        return self._rows.get(key)

    def range(self, first: bytes, end: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        keys, rows = self._keys, self._rows
        low, high = bisect_left(keys, first), bisect_left(keys, end)
        for position in range(high - 1, low - 1, -1) if reverse else range(low, high):
            key = keys[position]
            yield key, rows[key]

    def put(self, key: bytes, value: bytes) -> None:
        if key not in self._rows:
            insort(self._keys, key)
        self._rows[key] = value

    def delete(self, key: bytes) -> None:
        if self._rows.pop(key, None) is not None:
            del self._keys[bisect_left(self._keys, key)]

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """All rows in key order."""
        rows = self._rows
        return ((key, rows[key]) for key in self._keys)

    def copy(self) -> DictTransaction:
        """Independent rows with equal content."""
        other = DictTransaction()
        other._rows = self._rows.copy()
        other._keys = self._keys.copy()
        return other
