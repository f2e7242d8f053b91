"""Rows in memory: a dictionary and its keys in order. The transaction of the simulator, of tests and of small tools.

Nothing here lasts or is shared between threads; `copy` gives an independent set of rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from s3vfs.namespace.sortedkeys import SortedKeys


class DictTransaction:
    """A Transaction over a dictionary."""

    __slots__ = ("_keys", "_rows")

    def __init__(self, rows: Iterable[tuple[bytes, bytes]] = ()) -> None:
        self._rows: dict[bytes, bytes] = dict(rows)
        self._keys = SortedKeys(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def get(self, key: bytes) -> bytes | None:
        return self._rows.get(key)

    def range(self, first: bytes, end: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        rows = self._rows
        for key in self._keys.between(first, end, reverse=reverse):
            yield key, rows[key]

    def put(self, key: bytes, value: bytes) -> None:
        if key not in self._rows:
            self._keys.add(key)
        self._rows[key] = value

    def delete(self, key: bytes) -> None:
        if self._rows.pop(key, None) is not None:
            self._keys.remove(key)

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
