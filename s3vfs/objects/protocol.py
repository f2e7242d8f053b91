"""What the rest of s3vfs asks of a bucket: two small protocols, and the values that travel through them.

*Control* is for the keys that order everything (journal, HEAD, volume.json, manifests, sessions): small bodies,
conditional, asynchronous on trio, with the store's own clock in every answer. *Bulk* is for immutable bytes (data
objects, checkpoint segments): synchronous and thread-safe, called from worker threads.

Keys are `str`, relative to the volume's prefix, without a leading slash. No implementation repeats a conditional PUT
by itself (R1): after `StoreUnreachable` the outcome is unknown, and the caller resolves it by reading the key (R2).
Unconditional reads may be repeated inside within the given time-out.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from typing_extensions import Buffer


class Outcome(enum.Enum):
    """The store's answer, when it was a clear one."""

    OK = "ok"
    MISSING = "missing"  # 404
    REFUSED = "refused"  # 412: the condition did not hold
    CONFLICT = "conflict"  # 409: a concurrent request was in the way; nothing is known


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer. `date_ns`: the store's clock (its Date header; whole seconds on S3), nanoseconds since the epoch."""

    outcome: Outcome
    date_ns: int
    etag: str = ""
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Listed:
    """One key of a listing. `etag` is empty where the store would have to read the body to know it (file://)."""

    key: str
    size_bytes: int
    etag: str


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a listing, in key order (UTF-8 bytes). `prefixes` is filled when a delimiter was given: each ends
    with it, and counts against the limit as an entry does. `more`: ask again with `start_after` = `last`; where
    `last` is one of the prefixes, everything below it is passed over.

    What servers with a tree inside (SeaweedFS) do otherwise, and what no caller may therefore count on: the order of
    keys that go on after a sibling directory's name with a character below "/" ("a.txt" beside "a/b"); that a prefix
    vanishes at once with its last key."""

    entries: Sequence[Listed]
    prefixes: Sequence[str]
    more: bool
    last: str


class Control(Protocol):
    """Conditional single-object requests. Raises StoreUnreachable, StoreThrottled, StoreDenied, BucketMissing."""

    async def get(self, key: str) -> Reply:
        """OK with body and ETag, or MISSING."""
        ...

    async def head(self, key: str) -> Reply:
        """OK with ETag and no body, or MISSING."""
        ...

    async def put(self, key: str, body: bytes, *, if_absent: bool = False, if_match: str = "") -> Reply:
        """OK with the new ETag; REFUSED or CONFLICT when conditional. One request, never repeated inside (R1).

        `if_match` on a key that is not there is REFUSED.
        """
        ...

    async def delete(self, key: str, *, if_match: str = "") -> Reply:
        """OK (also where nothing was there, as on S3), or REFUSED."""
        ...

    async def list_page(self, prefix: str, *, start_after: str = "", delimiter: str = "", limit: int = 1000) -> Page:
        """Keys that begin with `prefix`, after `start_after`. `delimiter` is "" or "/"; `limit` is at most 1000."""
        ...

    async def aclose(self) -> None: ...


class Bulk(Protocol):
    """Immutable bytes. Every method blocks: call it through a thread runner. Raises as Control, and as documented."""

    def get_range(self, key: str, offset: int, length: int) -> Buffer:
        """Exactly `length` bytes from `offset`. Raises ObjectMissing; StoreUnreachable when the answer is short."""
        ...

    def put_new(self, key: str, body: Sequence[Buffer]) -> None:
        """PUT of the concatenated buffers with If-None-Match: *. Raises ObjectExists when the key is occupied."""
        ...

    def delete(self, key: str) -> None:
        """Remove the key; no error where nothing was there."""
        ...

    def close(self) -> None: ...


class Store(Protocol):
    """One volume's place in one bucket: both protocols under one prefix. `url` is safe to print (no credentials)."""

    url: str
    control: Control
    bulk: Bulk

    async def aclose(self) -> None: ...
