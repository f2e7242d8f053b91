"""From bytes to an object in the bucket: one private copy, its checksums, one conditional PUT (DESIGN 8, R2).

Knows nothing of files and ops: a caller says how to fill a buffer. Each object is read once into a buffer; the xxh3 of
its sectors and the PUT are both of that copy, in one visit to a worker thread.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import trio
import xxhash

from s3vfs.data.buffers import Buffers
from s3vfs.data.protocol import DataSession, Limits, Sizes, data_key
from s3vfs.errors import ObjectExists, ObjectMissing, StoreUnreachable
from s3vfs.namespace.ops import DeclareObject

_log = logging.getLogger(__name__)
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 5.0


class _Spoiled(StoreUnreachable):
    """A key is occupied by something that is not what was put there."""


@dataclass(frozen=True, slots=True)
class Uploaded:
    """An object that is in the bucket but in no record yet. Undeclared for ever, it is garbage, found by collection."""

    object: bytes
    size_bytes: int
    checksums: bytes

    def declare(self) -> DeclareObject:
        """The op that makes it known (R9)."""
        return DeclareObject(self.object, self.size_bytes, self.size_bytes, 0, b"", b"", self.checksums)


@dataclass(slots=True)
class _Shipment:
    """An object on its way. `body` is the private copy, once `checksums` is there."""

    object: bytes
    body: memoryview
    fill: Callable[[memoryview], None]
    keep: bool
    checksums: bytes = b""


def sector_checksums(data: memoryview, sector_bytes: int) -> bytes:
    """xxh3 of each sector, big-endian, in order; the last may be short."""
    return b"".join(xxhash.xxh3_64_digest(data[at : at + sector_bytes]) for at in range(0, len(data), sector_bytes))


class Uploader:
    """Bounded parallel uploads. `keep(object, checksums, bytes)` is called in the worker thread with every uploaded
    object that asks for it, so that a cache may have it without fetching; it may not raise."""

    def __init__(
        self,
        session: DataSession,
        sizes: Sizes,
        limits: Limits,
        keep: Callable[[bytes, bytes, memoryview], None],
    ) -> None:
        self._session = session
        self._sizes = sizes
        self._limits = limits
        self._keep = keep
        self.buffers = Buffers(limits.uploads, sizes.object_bytes)
        self.puts = 0
        self.put_bytes = 0

    async def upload(self, length: int, fill: Callable[[memoryview], None], *, keep: bool = False) -> Uploaded:
        """Put `length` bytes into a new object. `fill` runs in a worker thread, once.

        An unclear answer is repeated with the same bytes at the same key until it is clear. A key that turns out to
        hold anything else, as a request that broke off leaves it on some servers, is garbage: the bytes go to another.
        After `io_timeout_s` StoreUnreachable is raised. Raises the store's other errors at once.
        """
        run = self._session.environment.run
        give_up_s = trio.current_time() + self._limits.io_timeout_s
        async with self.buffers.lend() as buffer:
            shipment = _Shipment(self._session.new_object(), buffer[:length], fill, keep)
            pause_s = _FIRST_PAUSE_S
            while True:
                try:
                    await run(self._ship, shipment)
                    break
                except (_Spoiled, StoreUnreachable) as error:
                    if trio.current_time() + pause_s > give_up_s:
                        raise
                    if isinstance(error, _Spoiled):
                        _log.warning("object %s goes to another key: %s", shipment.object.hex(), error)
                        shipment.object = self._session.new_object()
                    else:
                        _log.info("the upload of object %s is tried again: %s", shipment.object.hex(), error)
                    await trio.sleep(pause_s)
                    pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            self.puts += 1
            self.put_bytes += length
            return Uploaded(shipment.object, length, shipment.checksums)

    def _ship(self, shipment: _Shipment) -> None:
        """In a worker thread: copy and hash at the first attempt only, then the PUT."""
        if not shipment.checksums:
            shipment.fill(shipment.body)
            shipment.checksums = sector_checksums(shipment.body, self._sizes.sector_bytes)
        self._put(data_key(shipment.object), shipment.body)
        if shipment.keep:
            self._keep(shipment.object, shipment.checksums, shipment.body)

    def _put(self, key: str, body: memoryview) -> None:
        bulk = self._session.store.bulk
        try:
            bulk.put_new(key, [body])
        except ObjectExists:
            # Our own PUT whose answer was lost has these bytes; ids are never used twice, so nobody else's are here.
            try:
                found = memoryview(bulk.get_range(key, 0, len(body)))
            except (ObjectMissing, StoreUnreachable) as error:
                raise _Spoiled(f"{key} is occupied, and cannot be read back: {error}") from error
            if found != body:
                raise _Spoiled(f"{key} holds other bytes than were put there") from None
