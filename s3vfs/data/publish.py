"""From a working file to the journal: what one inode's unpublished changes are as objects and ops (R9).

Order within an inode: the observed truncate, then the bytes, then the access time. Whole settled regions are objects
of their own, uploaded early where the writer allows it; everything else goes into packs. Knows no handles and no
failures' bookkeeping.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import trio

from s3vfs.data.gather import gather
from s3vfs.data.packer import Packer, Parcel
from s3vfs.data.pending import Pending
from s3vfs.data.protocol import DataSession, Limits, Sizes
from s3vfs.data.ranges import RangeSet
from s3vfs.data.upload import Uploaded, Uploader
from s3vfs.data.working import WorkingFile
from s3vfs.errors import PosixError, SessionFenced
from s3vfs.namespace.ops import AnyOp, ExtentWrite, Setattr, SetattrMask, Write
from s3vfs.namespace.rows import Rows
from s3vfs.namespace.verdict import FENCED, Verdict

_log = logging.getLogger(__name__)

# Own objects declared in one commit: 64 x 8 MiB = 512 MiB, 20 KiB of record.
_REGIONS_IN_COMMIT = 64
# Pieces of one parcel: bounds the WRITE op, about 40 bytes each.
_PIECES_IN_PARCEL = 4_096

Piece = tuple[int, int]  # [start, end) of the file


@dataclass(slots=True)
class _Early:
    """A region's upload: `changes` is the region's count when the copy was begun."""

    changes: int
    result: Uploaded | None = None
    done: trio.Event = field(default_factory=trio.Event)


def divide(dirty: RangeSet, object_bytes: int) -> tuple[list[int], list[list[Piece]]]:
    """Dirty bytes as whole regions (by index), and everything else as groups of pieces that each fit into one pack."""
    regions: list[int] = []
    groups: list[list[Piece]] = []
    room = pieces = 0
    for start, end in dirty:
        at = start
        while at < end:
            stop = min(end, (at // object_bytes + 1) * object_bytes)
            if stop - at == object_bytes:
                regions.append(at // object_bytes)
                at = stop
                continue
            if not groups or room < stop - at or pieces == _PIECES_IN_PARCEL:
                groups.append([])
                room, pieces = object_bytes, 0
            groups[-1].append((at, stop))
            room -= stop - at
            pieces += 1
            at = stop
    return regions, groups


class Publisher:
    """Publishes working files. One publish at a time for each file: the caller sees to that."""

    def __init__(
        self,
        session: DataSession,
        sizes: Sizes,
        limits: Limits,
        uploader: Uploader,
        packer: Packer,
        now_s: Callable[[], float],
    ) -> None:
        self._session = session
        self._sizes = sizes
        self._limits = limits
        self._uploader = uploader
        self._packer = packer
        self._now_s = now_s
        self._early: dict[tuple[int, int], _Early] = {}
        self._nursery: trio.Nursery | None = None

    def start(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._packer.start(nursery)

    # -- early uploads ------------------------------------------------------------------------------------------------

    def upload_settled(self, file: WorkingFile) -> None:
        """Begin the upload of whole dirty regions that nobody is writing: passed by a sequential writer, or left alone
        for `settle_s`. Returns at once."""
        size = self._sizes.object_bytes
        now_s = self._now_s()
        for index, region in file.regions.items():
            start = index * size
            key = (file.ino, index)
            early = self._early.get(key)
            if early is not None:
                if early.changes == region.changes or not early.done.is_set():
                    continue
                del self._early[key]
            passed = file.run_start <= start and file.last_end >= start + size
            if not passed and now_s - region.touched_s < self._limits.settle_s:
                continue
            if file.pending.dirty.covers(start, start + size) and not self._busy():
                self._begin(file, index)

    def _busy(self) -> bool:
        """Whether early uploads would only wait in line; publishes come first."""
        return sum(not early.done.is_set() for early in self._early.values()) >= self._limits.uploads

    def _begin(self, file: WorkingFile, index: int) -> _Early:
        assert self._nursery is not None
        region = file.regions.get(index)
        early = self._early[(file.ino, index)] = _Early(region.changes if region is not None else 0)
        self._nursery.start_soon(self._upload_region, file, index, early)
        return early

    async def _upload_region(self, file: WorkingFile, index: int, early: _Early) -> None:
        start = index * self._sizes.object_bytes
        try:
            early.result = await self._uploader.upload(
                self._sizes.object_bytes, lambda body: file.load_into(start, body)
            )
        except Exception as error:  # the publish tries again, and reports
            _log.warning("inode %d: upload of settled bytes at %d: %s", file.ino, start, error)
        finally:
            early.done.set()

    async def _region(self, file: WorkingFile, index: int) -> Uploaded:
        """The region's object: the early one where its bytes are still the present ones."""
        key = (file.ino, index)
        region = file.regions.get(index)
        changes = region.changes if region is not None else 0
        early = self._early.get(key)
        if early is not None and early.changes == changes:
            await early.done.wait()
        if early is not None and self._early.get(key) is early:
            del self._early[key]
            if early.changes == changes and early.result is not None:
                return early.result
        start = index * self._sizes.object_bytes
        return await self._uploader.upload(self._sizes.object_bytes, lambda body: file.load_into(start, body))

    def forget(self, ino: int) -> None:
        """Early uploads of this inode will not be used."""
        for key in [key for key in self._early if key[0] == ino]:
            del self._early[key]

    # -- publishing ---------------------------------------------------------------------------------------------------

    async def publish(self, file: WorkingFile) -> None:
        """Commit everything that is pending now. What could not be committed is pending again afterwards.

        Raises the store's and the session's errors, PosixError with the errno of a refused op.
        """
        if not file.pending:
            return
        captured = file.capture()
        try:
            await self._send(file, captured)
            self._finished(captured)
        finally:
            file.release(now_s=self._now_s())

    @staticmethod
    def _finished(captured: Pending) -> None:
        captured.dirty.clear()
        captured.low = captured.mtime_ns = captured.atime_ns = None
        captured.end = 0

    async def _send(self, file: WorkingFile, captured: Pending) -> None:
        regions, groups = divide(captured.dirty, self._sizes.object_bytes)
        one_commit = len(regions) <= _REGIONS_IN_COMMIT and len(groups) <= 1
        if not one_commit:
            for at in range(0, len(regions), _REGIONS_IN_COMMIT):
                await self._send_regions(file, captured, regions[at : at + _REGIONS_IN_COMMIT])
            if captured.low is not None:
                await self._commit(file, captured, RangeSet(), self._truncation(file, captured))
            await gather(partial(self._send_last, file, captured, [], group, False) for group in groups[:-1])
            regions, groups = [], groups[-1:]
        await self._send_last(file, captured, regions, groups[0] if groups else [], True)

    async def _upload_regions(self, file: WorkingFile, regions: Sequence[int]) -> dict[int, Uploaded]:
        placed: dict[int, Uploaded] = {}

        async def one(index: int) -> None:
            placed[index] = await self._region(file, index)

        await gather(partial(one, index) for index in regions)
        return placed

    async def _send_regions(self, file: WorkingFile, captured: Pending, regions: Sequence[int]) -> None:
        placed = await self._upload_regions(file, regions)
        parts = RangeSet(self._span(index) for index in regions)
        ops: list[AnyOp] = [uploaded.declare() for uploaded in placed.values()]
        ops += self._truncation(file, captured)
        ops.append(self._write(file, captured, self._own_extents(placed), parts.end))
        await self._commit(file, captured, parts, ops)
        self._remember(file, placed)

    async def _send_last(
        self, file: WorkingFile, captured: Pending, regions: Sequence[int], group: list[Piece], final: bool
    ) -> None:
        """One commit: whole regions, a truncate that is still due, one group of pieces in a pack, and, when `final`,
        size and times."""
        placed = await self._upload_regions(file, regions)
        parts = RangeSet((*(self._span(index) for index in regions), *group))
        own = self._own_extents(placed)
        declarations: list[AnyOp] = [uploaded.declare() for uploaded in placed.values()]

        def ops_at(pack: bytes, offset: int) -> list[AnyOp]:
            extents = list(own)
            for start, end in group:
                extents.append(ExtentWrite(start, end - start, pack, offset))
                offset += end - start
            ops = declarations + self._truncation(file, captured)
            size = captured.end if final else parts.end
            if extents or size > (captured.low or 0):
                ops.append(self._write(file, captured, extents, size))
            if final:
                ops += self._times(file, captured, written=bool(extents) or captured.low is not None)
            return ops

        if not group:
            await self._commit(file, captured, parts, ops_at(b"", 0))
            self._remember(file, placed)
            return

        def fill(body: memoryview) -> None:
            at = 0
            for start, end in group:
                file.load_into(start, body[at : at + end - start])
                at += end - start

        def about_to_commit(pack: bytes) -> None:
            if final:
                file.log.publishing(pack)

        foreign = file.foreign
        length = sum(end - start for start, end in group)
        parcel = Parcel(length, fill, ops_at, len(declarations) + 3, about_to_commit)
        self._conclude(file, captured, parts, await self._packer.send(parcel), foreign)
        self._remember(file, placed)

    async def _commit(self, file: WorkingFile, captured: Pending, parts: RangeSet, ops: Sequence[AnyOp]) -> None:
        if not ops:
            return
        foreign = file.foreign
        self._conclude(file, captured, parts, await self._session.commit(ops), foreign)

    def _conclude(
        self, file: WorkingFile, captured: Pending, parts: RangeSet, verdicts: Sequence[Verdict], foreign: int
    ) -> None:
        for verdict in verdicts:
            if verdict.errno == FENCED:
                raise SessionFenced("this session was evicted", hint="mount again; unpublished bytes are kept")
            if verdict.errno:
                raise PosixError(verdict.errno)
        captured.low = None
        with self._session.view() as txn:
            inode = Rows(txn).inode(file.ino)
        file.base_version = 0 if inode is None else inode.version
        file.committed(parts, keep=file.foreign == foreign)

    def _remember(self, file: WorkingFile, placed: dict[int, Uploaded]) -> None:
        """Regions whose bytes here are exactly an object's, for the cache."""
        for index, uploaded in placed.items():
            if file.valid.covers(*self._span(index)):
                file.sums[index] = uploaded.checksums

    # -- ops ----------------------------------------------------------------------------------------------------------

    def _span(self, index: int) -> Piece:
        return index * self._sizes.object_bytes, (index + 1) * self._sizes.object_bytes

    def _own_extents(self, placed: dict[int, Uploaded]) -> list[ExtentWrite]:
        size = self._sizes.object_bytes
        return [ExtentWrite(index * size, size, uploaded.object, 0) for index, uploaded in sorted(placed.items())]

    def _truncation(self, file: WorkingFile, captured: Pending) -> list[AnyOp]:
        """The observed truncate, unless a commit of this publish has carried it already."""
        if captured.low is None:
            return []
        mtime_ns = captured.ctime_ns if captured.mtime_ns is None else captured.mtime_ns
        mask = SetattrMask.SIZE | SetattrMask.MTIME
        return [Setattr(file.ino, mask, 0, 0, 0, captured.low, 0, mtime_ns, captured.ctime_ns)]

    def _write(self, file: WorkingFile, captured: Pending, extents: Sequence[ExtentWrite], size: int) -> Write:
        mtime_ns = captured.ctime_ns if captured.mtime_ns is None else captured.mtime_ns
        return Write(file.ino, tuple(extents), size, mtime_ns, captured.ctime_ns)

    def _times(self, file: WorkingFile, captured: Pending, *, written: bool) -> list[AnyOp]:
        """Times that no WRITE and no truncate has carried."""
        mask = 0
        if captured.atime_ns is not None:
            mask |= SetattrMask.ATIME
        if captured.mtime_ns is not None and not written:
            mask |= SetattrMask.MTIME
        if not mask:
            return []
        times = (captured.atime_ns or 0, captured.mtime_ns or 0)
        return [Setattr(file.ino, mask, 0, 0, 0, 0, *times, captured.ctime_ns)]
