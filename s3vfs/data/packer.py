"""Packs: pieces of many files in one object and one commit (DESIGN 8, "small files are packed").

Parcels that arrive while a pack is on its way share the next one, in the order in which they came. Knows nothing of
files: a parcel says how to fill its bytes and which ops to commit once its place is known.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NoReturn

import trio

from s3vfs.data.failures import LocalDiskError, local_disk
from s3vfs.data.protocol import Pledge
from s3vfs.data.upload import Uploaded, Uploader
from s3vfs.errors import Unpublished
from s3vfs.namespace.ops import AnyOp
from s3vfs.namespace.verdict import Verdict

# Packs under way at the same time, when whole packs are waiting. One alone waits for company.
_PARALLEL = 4
# Ops of one commit; a record takes 10,000 (docs/format.md, 8), others want room in it.
_PACK_OPS = 4_000


@dataclass(slots=True)
class Parcel:
    """`fill` copies its `length` bytes into the pack, in a worker thread. `ops(object, offset)` are its ops, given
    where it lies, none of them a declaration; `weight` is about how many. `sent` is called once they are queued, before
    they can be on their way; `pledge` is there from then on."""

    length: int
    fill: Callable[[memoryview], None]
    ops: Callable[[bytes, int], Sequence[AnyOp]]
    weight: int = 1
    sent: Callable[[], None] | None = None
    pledge: Pledge | None = None
    first: int = 0
    share: int = 0
    done: trio.Event = field(default_factory=trio.Event)
    verdicts: list[Verdict] = field(default_factory=list)
    error: Exception | None = None

    def own(self, verdicts: list[Verdict]) -> list[Verdict]:
        """Its share of the pack's verdicts."""
        return verdicts[self.first : self.first + self.share]

    def over(self) -> None:
        """It has its `verdicts`, or its `error`. What it was made of goes: it may hold the parcel in turn, and of each
        file that would be some sixty objects for the collector, which holds up every request."""
        self.fill, self.ops, self.sent = _spent, _spent, None
        self.done.set()


def _spent(*_: object) -> NoReturn:
    raise AssertionError("a parcel is packed once")


class Packer:
    """Gathers parcels into packs, uploads and commits them. Works inside the nursery given to `start`."""

    def __init__(self, send: Callable[[Sequence[AnyOp]], Pledge], uploader: Uploader, object_bytes: int) -> None:
        """`send`: queues ops, see `DataSession.send`."""
        self._send = send
        self._uploader = uploader
        self._object_bytes = object_bytes
        self._waiting: deque[Parcel] = deque()
        self._waiting_bytes = 0
        self._uploading = 0
        self._nursery: trio.Nursery | None = None
        self.packs = 0

    def start(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery

    async def send(self, parcel: Parcel) -> list[Verdict]:
        """Returns the verdicts of the parcel's ops, after their record. Raises what the upload or the commit raised."""
        await self.put([parcel])
        await parcel.done.wait()
        if parcel.error is not None:
            raise parcel.error
        return parcel.verdicts

    async def put(self, parcels: Sequence[Parcel]) -> None:
        """Send parcels in this order, and return at once: `done` tells when one has `verdicts`, or its `error`."""
        for parcel in parcels:
            assert 0 < parcel.length <= self._object_bytes
            self._waiting.append(parcel)
            self._waiting_bytes += parcel.length
        await trio.lowlevel.checkpoint()  # others that are ready now come along
        self._dispatch()

    def _dispatch(self) -> None:
        assert self._nursery is not None, "the packer has not been started"
        while self._waiting and (
            self._uploading == 0 or (self._waiting_bytes >= self._object_bytes and self._uploading < _PARALLEL)
        ):
            parcels: list[Parcel] = []
            total = weight = 0
            while self._waiting and total + self._waiting[0].length <= self._object_bytes:
                if parcels and weight + self._waiting[0].weight > _PACK_OPS:
                    break
                parcel = self._waiting.popleft()
                total += parcel.length
                weight += parcel.weight
                parcels.append(parcel)
            self._waiting_bytes -= total
            self._uploading += 1
            self._nursery.start_soon(self._deliver, parcels, total)

    async def _deliver(self, parcels: list[Parcel], total: int) -> None:
        try:
            uploading = True
            try:
                pack = await self._uploader.upload(total, lambda body: _fill(parcels, body), keep=True)
                self.packs += 1
                self._uploading -= 1
                uploading = False
                self._dispatch()
                await self._commit(parcels, pack)
            finally:
                if uploading:
                    self._uploading -= 1
        except Exception as error:  # each sender gets it
            for parcel in parcels:
                parcel.error = error
            self._dispatch()
        except BaseException:
            for parcel in parcels:
                parcel.error = Unpublished("the mount ended before the bytes were committed")
            raise
        finally:
            for parcel in parcels:
                parcel.over()

    async def _commit(self, parcels: list[Parcel], pack: Uploaded) -> None:
        ops: list[AnyOp] = [pack.declare()]
        offset = 0
        for parcel in parcels:
            parcel.first = len(ops)
            if parcel.error is None:
                ops += parcel.ops(pack.object, offset)
            parcel.share = len(ops) - parcel.first
            offset += parcel.length
        pledge = self._send(ops)
        for parcel in parcels:
            if parcel.error is None:
                parcel.pledge = pledge
                if parcel.sent is not None:
                    parcel.sent()
        verdicts = await pledge.verdicts()
        for parcel in parcels:
            parcel.verdicts = parcel.own(verdicts)


def _fill(parcels: list[Parcel], body: memoryview) -> None:
    """Every parcel's bytes, in order. One that cannot be read keeps its place, dead, and does not hold up the
    others."""
    offset = 0
    for parcel in parcels:
        try:
            with local_disk():
                parcel.fill(body[offset : offset + parcel.length])
        except LocalDiskError as error:
            parcel.error = error
        offset += parcel.length
