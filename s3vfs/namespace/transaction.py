"""The small sorted key-value protocol that the namespace is written against.

Implementations live elsewhere: over LMDB, over a dictionary (simulation), over base plus overlay. None of them does
anything but keep rows; a transaction is used by one thread and never across an await.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol


class ReadTransaction(Protocol):
    """A consistent view of the rows."""

    def get(self, key: bytes) -> bytes | None: ...

    def range(self, first: bytes, end: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        """Rows with first <= key < end, in key order (or backwards). Rows may not be changed while it is consumed."""
        ...


class Transaction(ReadTransaction, Protocol):
    """A view that can be changed; whether and when changes last is decided by whoever opened it."""

    def put(self, key: bytes, value: bytes) -> None: ...

    def delete(self, key: bytes) -> None:
        """Remove the row; no error where there is none."""
        ...
