"""The additive digest of base (R4; docs/format.md, section 4), kept row by row."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

import xxhash

from s3vfs.namespace.scratch import ScratchTransaction
from s3vfs.namespace.transaction import Transaction

DIGEST_BYTES = 16
_MASK = (1 << 128) - 1
_pack_length = struct.Struct(">H").pack
_hash = xxhash.xxh3_128_intdigest


def row_hash(key: bytes, value: bytes) -> int:
    """What one row adds to the digest."""
    return _hash(_pack_length(len(key)) + key + value)


def digest_of(rows: Iterable[tuple[bytes, bytes]]) -> int:
    """The digest of all these rows, from nothing: 0 for no rows."""
    return sum(row_hash(key, value) for key, value in rows) & _MASK


def digest_to_bytes(digest: int) -> bytes:
    """As record headers and manifests carry it: 16 bytes, big-endian."""
    return digest.to_bytes(DIGEST_BYTES, "big")


def digest_from_bytes(data: bytes) -> int:
    return int.from_bytes(data, "big")


def merge(scratch: ScratchTransaction, txn: Transaction, digest: int) -> tuple[int, set[bytes]]:
    """Make the changes of `scratch`, which stands on `txn`, in `txn`: the digest after them, and the keys whose rows
    came, changed or went, in the end or in between. Each row is written and hashed once, however often it changed."""
    digesting = DigestingTransaction(txn, digest)
    scratch.merge_into(digesting)
    passing = {key for key, value in scratch.writes.items() if value is None}
    return digesting.digest, digesting.touched | passing


class DigestingTransaction:
    """A Transaction around another. `digest` follows every change; `touched` has each key whose row was added, changed
    or removed. A put of the value that is there already changes nothing and is not passed on."""

    __slots__ = ("_inner", "digest", "touched")

    def __init__(self, inner: Transaction, digest: int) -> None:
        self._inner = inner
        self.digest = digest
        self.touched: set[bytes] = set()

    def get(self, key: bytes) -> bytes | None:
        return self._inner.get(key)

    def range(self, first: bytes, end: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        return self._inner.range(first, end, reverse=reverse)

    def put(self, key: bytes, value: bytes) -> None:
        old = self._inner.get(key)
        if old == value:
            return
        change = row_hash(key, value)
        if old is not None:
            change -= row_hash(key, old)
        self.digest = (self.digest + change) & _MASK
        self.touched.add(key)
        self._inner.put(key, value)

    def delete(self, key: bytes) -> None:
        old = self._inner.get(key)
        if old is None:
            return
        self.digest = (self.digest - row_hash(key, old)) & _MASK
        self.touched.add(key)
        self._inner.delete(key)
