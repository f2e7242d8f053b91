"""A bucket in memory, for the simulator and for unit tests. Pure: its clock is passed in, it does no I/O.

Every request takes effect at one instant (after one checkpoint on the control side), so conditions are atomic.
"""

from __future__ import annotations

import threading
from bisect import bisect_left, insort
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import trio

from s3vfs.errors import ObjectExists, ObjectMissing, StoreUnreachable
from s3vfs.objects.keys import check_key, check_listing, content_etag, page_of
from s3vfs.objects.protocol import Listed, Outcome, Page, Reply
from s3vfs.objects.store import OpenedStore

if TYPE_CHECKING:
    from typing_extensions import Buffer


class MemoryBucket:
    """The shared content. `date_ns` is the bucket's own clock (round it to seconds to be like S3).

    Give each client a store of its own with `open`; all of them see the same objects. Thread-safe.
    """

    def __init__(self, date_ns: Callable[[], int]) -> None:
        self._date_ns = date_ns
        self._lock = threading.Lock()
        self._objects: dict[str, bytes] = {}
        self._keys: list[str] = []

    def open(self, prefix: str = "") -> OpenedStore:
        """A store whose keys live under `prefix` (no slashes at its ends; empty for the whole bucket)."""
        base = f"{prefix}/" if prefix else ""
        return OpenedStore(f"memory://{prefix}", MemoryControl(self, base), MemoryBulk(self, base))

    def keys(self, prefix: str = "") -> list[str]:
        """Every full key that begins with `prefix`, sorted: for oracles and tests."""
        with self._lock:
            return [key for key in self._keys if key.startswith(prefix)]

    def peek(self, key: str) -> bytes | None:
        """The body at a full key, without a request: for oracles and tests."""
        return self._objects.get(key)

    def reply(self, outcome: Outcome, body: bytes = b"", *, etag: str = "") -> Reply:
        return Reply(outcome, self._date_ns(), etag, body)

    def read(self, key: str, *, with_body: bool) -> Reply:
        check_key(key)
        with self._lock:
            body = self._objects.get(key)
        if body is None:
            return self.reply(Outcome.MISSING)
        return self.reply(Outcome.OK, body if with_body else b"", etag=content_etag(body))

    def put(self, key: str, body: bytes, *, if_absent: bool, if_match: str) -> Reply:
        check_key(key)
        with self._lock:
            current = self._objects.get(key)
            if if_absent and current is not None:
                return self.reply(Outcome.REFUSED)
            if if_match and (current is None or content_etag(current) != if_match):
                return self.reply(Outcome.REFUSED)
            if current is None:
                insort(self._keys, key)
            self._objects[key] = body
        return self.reply(Outcome.OK, etag=content_etag(body))

    def delete(self, key: str, *, if_match: str) -> Reply:
        check_key(key)
        with self._lock:
            current = self._objects.get(key)
            if current is not None:
                if if_match and content_etag(current) != if_match:
                    return self.reply(Outcome.REFUSED)
                del self._objects[key]
                del self._keys[bisect_left(self._keys, key)]
        return self.reply(Outcome.OK)

    def list_page(self, base: str, prefix: str, *, start_after: str, delimiter: str, limit: int) -> Page:
        check_listing(prefix, delimiter)
        with self._lock:
            page = page_of(
                self._keys,
                lambda key: Listed(key[len(base) :], len(self._objects[key]), content_etag(self._objects[key])),
                base + prefix,
                start_after=base + start_after if start_after else "",
                delimiter=delimiter,
                limit=limit,
            )
        return Page(page.entries, [name[len(base) :] for name in page.prefixes], page.more, page.last[len(base) :])


class MemoryControl:
    """`Control` over a MemoryBucket: one checkpoint, then the effect and the answer at once."""

    def __init__(self, bucket: MemoryBucket, base: str) -> None:
        self._bucket = bucket
        self._base = base

    async def get(self, key: str) -> Reply:
        await trio.lowlevel.checkpoint()
        return self._bucket.read(self._base + key, with_body=True)

    async def head(self, key: str) -> Reply:
        await trio.lowlevel.checkpoint()
        return self._bucket.read(self._base + key, with_body=False)

    async def put(self, key: str, body: bytes, *, if_absent: bool = False, if_match: str = "") -> Reply:
        await trio.lowlevel.checkpoint()
        return self._bucket.put(self._base + key, body, if_absent=if_absent, if_match=if_match)

    async def delete(self, key: str, *, if_match: str = "") -> Reply:
        await trio.lowlevel.checkpoint()
        return self._bucket.delete(self._base + key, if_match=if_match)

    async def list_page(self, prefix: str, *, start_after: str = "", delimiter: str = "", limit: int = 1000) -> Page:
        await trio.lowlevel.checkpoint()
        return self._bucket.list_page(self._base, prefix, start_after=start_after, delimiter=delimiter, limit=limit)

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


class MemoryBulk:
    """`Bulk` over a MemoryBucket; never blocks."""

    def __init__(self, bucket: MemoryBucket, base: str) -> None:
        self._bucket = bucket
        self._base = base

    def get_range(self, key: str, offset: int, length: int) -> Buffer:
        reply = self._bucket.read(self._base + key, with_body=True)
        if reply.outcome is Outcome.MISSING:
            raise ObjectMissing(f"no object {key}")
        part = memoryview(reply.body)[offset : offset + length]
        if len(part) != length:
            raise StoreUnreachable(f"object {key}: {len(part)} bytes at {offset} instead of {length}")
        return part

    def put_new(self, key: str, body: Sequence[Buffer]) -> None:
        reply = self._bucket.put(self._base + key, b"".join(body), if_absent=True, if_match="")
        if reply.outcome is Outcome.REFUSED:
            raise ObjectExists(f"object {key} exists already")

    def delete(self, key: str) -> None:
        self._bucket.delete(self._base + key, if_match="")

    def close(self) -> None:
        """Nothing is held."""
