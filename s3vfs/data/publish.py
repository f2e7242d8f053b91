"""From a working file to the journal: what one inode's unpublished changes are as objects and ops (R9).

Order within an inode: the observed truncate, then the holes, then the bytes, then the access time. Whole settled
regions are objects of their own, uploaded early where the writer allows it; everything else goes into packs. Knows no
handles and no failures' bookkeeping.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice

import trio

from s3vfs.data.backed import Backed
from s3vfs.data.delivery import Delivery
from s3vfs.data.gather import gather
from s3vfs.data.origin import Origin
from s3vfs.data.packer import Packer, Parcel
from s3vfs.data.pending import Pending, Share
from s3vfs.data.protocol import DataSession, Limits, Pledge, Sizes
from s3vfs.data.ranges import RangeSet
from s3vfs.data.upload import Uploaded, Uploader
from s3vfs.data.working import WorkingFile
from s3vfs.errors import PosixError, SessionFenced, StoreUnreachable
from s3vfs.namespace.ops import AnyOp, ExtentWrite, Punch, Setattr, SetattrMask, Write
from s3vfs.namespace.rows import Inode, Rows
from s3vfs.namespace.verdict import FENCED, Verdict

_log = logging.getLogger(__name__)

# Own objects declared in one commit: 64 x 8 MiB = 512 MiB, 20 KiB of record.
_REGIONS_IN_COMMIT = 64
# Pieces of one parcel: bounds the WRITE op, about 40 bytes each.
ONE_COMMIT_PIECES = 4_096
# Holes of one commit, an op each; a record takes 10,000 (docs/format.md, 8), others want room in it.
ONE_COMMIT_HOLES = 1_000

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
            if not groups or room < stop - at or pieces == ONE_COMMIT_PIECES:
                groups.append([])
                room, pieces = object_bytes, 0
            groups[-1].append((at, stop))
            room -= stop - at
            pieces += 1
            at = stop
    return regions, groups


def _one_commit(regions: Sequence[int], groups: Sequence[list[Piece]]) -> bool:
    return len(regions) <= _REGIONS_IN_COMMIT and len(groups) <= 1


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
        send: Callable[[Sequence[AnyOp]], Pledge],
    ) -> None:
        """`send`: queues ops, as the packer's does."""
        self._session = session
        self._queue = send
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
                self._sizes.object_bytes, lambda body: file.copy_out(start, body)
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
        return await self._uploader.upload(self._sizes.object_bytes, lambda body: file.copy_out(start, body))

    def forget(self, ino: int) -> None:
        """Early uploads of this inode will not be used."""
        for key in [key for key in self._early if key[0] == ino]:
            del self._early[key]

    # -- publishing ---------------------------------------------------------------------------------------------------

    async def publish(self, file: WorkingFile) -> None:
        """Commit everything that is pending now. What could not be committed is pending again afterwards; what was
        sent, and may still take effect, is decided first by the next publish.

        Raises the store's and the session's errors, PosixError with the errno of a refused op.
        """
        if file.captured is not None:
            try:
                await self.decide(file)
            except PosixError as error:
                _log.info("inode %d: an earlier commit was refused: %s", file.ino, error)
        if not file.pending:
            return
        captured = file.capture()
        try:
            await self._send(file, captured)
        finally:
            self._release(file)

    def begin(self, file: WorkingFile) -> tuple[Parcel, Delivery] | None:
        """The first half of `publish`, for a file of which all that is pending is one parcel; `end` is the other, once
        the parcel, which the caller puts into the packer, is done. None for any other file; nothing has happened then.
        No checkpoint. Raises OSError."""
        if file.captured is not None or file.pending.holes or not file.pending.dirty:
            return None
        regions, groups = divide(file.pending.dirty, self._sizes.object_bytes)
        if regions or len(groups) > 1:
            return None
        captured = file.capture()
        try:
            parcel, delivery = self._parcel(file, captured, {}, (), groups[0], final=True)
        except BaseException:
            self._release(file)
            raise
        file.undecided.append(delivery)
        return parcel, delivery

    def end(self, file: WorkingFile, parcel: Parcel, delivery: Delivery) -> None:
        """See `begin`. Raises as `publish`."""
        try:
            if parcel.error is not None:
                self._unanswered(file, delivery, parcel.error)
            else:
                file.undecided.remove(delivery)
            self._settle(file, delivery, parcel.verdicts)
        finally:
            self._release(file)

    def _release(self, file: WorkingFile) -> None:
        if file.captured is not None and not file.undecided:
            file.release(now_s=self._now_s())

    async def decide(self, file: WorkingFile) -> None:
        """Learn what became of the commits of an earlier publish. What was refused, or never sent, is pending again.
        Raises StoreUnreachable while that cannot be known, PosixError when one was refused."""
        refused: PosixError | None = None
        for delivery in tuple(file.undecided):
            try:
                await self._conclude(file, delivery, delivery.ask_again)
            except PosixError as error:
                refused = error
            except StoreUnreachable:
                if delivery in file.undecided:
                    raise
        self._release(file)
        if refused is not None:
            raise refused

    def at_once(self, file: WorkingFile) -> bool:
        """Whether `publish`, begun now, would take one commit."""
        if file.captured is not None or len(file.pending.holes) > ONE_COMMIT_HOLES:
            return False
        return _one_commit(*divide(file.pending.dirty, self._sizes.object_bytes))

    async def _send(self, file: WorkingFile, captured: Pending) -> None:
        while len(captured.holes) > ONE_COMMIT_HOLES:
            await self._send_cuts(file, captured)
        regions, groups = divide(captured.dirty, self._sizes.object_bytes)
        if not _one_commit(regions, groups):
            for at in range(0, len(regions), _REGIONS_IN_COMMIT):
                await self._send_regions(file, captured, regions[at : at + _REGIONS_IN_COMMIT])
            await self._send_cuts(file, captured)
            await gather(partial(self._send_last, file, captured, [], group, False) for group in groups[:-1])
            regions, groups = [], groups[-1:]
        await self._send_last(file, captured, regions, groups[0] if groups else [], True)

    async def _send_cuts(self, file: WorkingFile, captured: Pending) -> None:
        """The truncate and the next holes, in a commit of their own."""
        share = self._share(file, captured, RangeSet(), final=False)
        await self._commit(file, share, self._cuts(file, captured))

    async def _upload_regions(self, file: WorkingFile, regions: Sequence[int]) -> dict[int, Uploaded]:
        placed: dict[int, Uploaded] = {}
        if not regions:
            return placed

        async def one(index: int) -> None:
            placed[index] = await self._region(file, index)

        await gather(partial(one, index) for index in regions)
        return placed

    async def _send_regions(self, file: WorkingFile, captured: Pending, regions: Sequence[int]) -> None:
        placed = await self._upload_regions(file, regions)
        parts = RangeSet(self._span(index) for index in regions)
        ops: list[AnyOp] = [uploaded.declare() for uploaded in placed.values()]
        ops += self._cuts(file, captured)
        own = self._own_extents(placed)
        ops.append(self._write(file, captured, own, parts.end))
        await self._commit(file, self._share(file, captured, parts, final=False), ops, own)
        self._remember(file, placed)

    async def _send_last(
        self, file: WorkingFile, captured: Pending, regions: Sequence[int], group: list[Piece], final: bool
    ) -> None:
        """One commit: whole regions, a truncate and holes that are still due, one group of pieces in a pack, and, when
        `final`, size and times."""
        placed = await self._upload_regions(file, regions)
        parcel, delivery = self._parcel(file, captured, placed, regions, group, final=final)
        if group:
            await self._conclude(file, delivery, partial(self._packer.send, parcel))
        else:
            await self._commit(file, delivery.share, parcel.ops(b"", 0), self._own_extents(placed))
        self._remember(file, placed)

    def _parcel(
        self,
        file: WorkingFile,
        captured: Pending,
        placed: dict[int, Uploaded],
        regions: Sequence[int],
        group: list[Piece],
        *,
        final: bool,
    ) -> tuple[Parcel, Delivery]:
        """See `_send_last`; without a group there is nothing to pack, only ops."""
        parts = RangeSet((*(self._span(index) for index in regions), *group))
        own = self._own_extents(placed)
        declarations: list[AnyOp] = [uploaded.declare() for uploaded in placed.values()]

        def ops_at(pack: bytes, offset: int) -> list[AnyOp]:
            extents = list(own)
            for start, end in group:
                extents.append(ExtentWrite(start, end - start, pack, offset))
                offset += end - start
            delivery.extents = extents
            ops = declarations + self._cuts(file, captured)
            size = captured.end if final else parts.end
            if extents or size > (captured.low or 0):
                ops.append(self._write(file, captured, extents, size))
            if final:
                cut = captured.low is not None and not captured.holes
                ops += self._times(file, captured, written=bool(extents) or cut)
            return ops

        def fill(body: memoryview) -> None:
            at = 0
            for start, end in group:
                file.copy_out(start, body[at : at + end - start])
                at += end - start

        length = sum(end - start for start, end in group)
        parcel = Parcel(length, fill, ops_at, len(declarations) + len(captured.holes) + 3)
        delivery = Delivery(self._share(file, captured, parts, final=final), file.foreign, parcel=parcel)
        parcel.sent = partial(self._note, file, delivery)
        return parcel, delivery

    def _share(self, file: WorkingFile, captured: Pending, parts: RangeSet, *, final: bool) -> Share:
        cut = captured.low is not None
        holes = self._next_holes(captured)
        with self._session.view() as txn:
            rows = Rows(txn)
            inode = rows.inode(file.ino)
            bites = any(next(rows.extents(file.ino, start, end), None) is not None for start, end in holes)
        grows = final and inode is not None and captured.end > inode.size
        contents = bool(parts) or cut or bites or grows
        return Share(parts, holes, cut, final, contents, 0 if inode is None else inode.version)

    @staticmethod
    def _next_holes(captured: Pending) -> RangeSet:
        return RangeSet(islice(captured.holes, ONE_COMMIT_HOLES))

    async def _commit(
        self, file: WorkingFile, share: Share, ops: Sequence[AnyOp], extents: Sequence[ExtentWrite] = ()
    ) -> None:
        if not ops:
            file.committed(share, keep=False)
            return
        delivery = Delivery(share, file.foreign, extents, pledge=self._queue(ops))
        self._note(file, delivery)
        await self._conclude(file, delivery, delivery.ask_again)

    def _note(self, file: WorkingFile, delivery: Delivery) -> None:
        """Before the commit can be on its way: the process may be killed from now on."""
        if file.captured is None:
            return  # let go of meanwhile: the inode is gone, or its bytes are spilled
        try:
            file.log.sent(self._session.incarnation, delivery.number, delivery.share)
        except OSError as error:  # it is queued, and goes on
            _log.warning("inode %d: a kill now would publish its bytes twice: %s", file.ino, error)

    async def _conclude(
        self, file: WorkingFile, delivery: Delivery, answer: Callable[[], Awaitable[Sequence[Verdict]]]
    ) -> None:
        """Wait for the answer and draw the consequences. While there is none, the delivery stays undecided."""
        if delivery not in file.undecided:
            file.undecided.append(delivery)
        verdicts: Sequence[Verdict] = ()
        try:
            verdicts = await answer()
        except Exception as error:
            self._unanswered(file, delivery, error)
        else:
            file.undecided.remove(delivery)
        self._settle(file, delivery, verdicts)

    def _unanswered(self, file: WorkingFile, delivery: Delivery, error: Exception) -> None:
        """Raises the error, unless the journal tells that the delivery has arrived all the same."""
        if delivery.on_its_way:
            raise error
        file.undecided.remove(delivery)
        if not isinstance(error, StoreUnreachable) or not self._unheard(file.ino, delivery):
            raise error

    def _settle(self, file: WorkingFile, delivery: Delivery, verdicts: Sequence[Verdict]) -> None:
        for verdict in verdicts:
            if verdict.errno == FENCED:
                raise SessionFenced("this session was evicted", hint="mount again; unpublished bytes are kept")
            if verdict.errno:
                raise PosixError(verdict.errno)
        with self._session.view() as txn:
            rows = Rows(txn)
            inode = rows.inode(file.ino)
            file.base_version = 0 if inode is None else inode.version
            if file.backed is not None and inode is not None:
                self._follow(rows, file, file.backed, inode, delivery)
        file.committed(delivery.share, keep=file.foreign == delivery.foreign)

    def _follow(self, rows: Rows, file: WorkingFile, backed: Backed, inode: Inode, delivery: Delivery) -> None:
        """What a kernel uses is an image of what has been published now; where others have published too, of nothing
        that a restart could name."""
        if backed.stale:
            backed.origin.write(delivery.extents)
            file.base_version = 0
            return
        backed.origin = Origin.of(rows, file.ino, inode)
        backed.pins.close()
        if backed.origin.pieces:
            backed.pins.enter_context(self._session.pin())

    def _unheard(self, ino: int, delivery: Delivery) -> bool:
        number = delivery.number
        return number > 0 and self.took_effect(ino, self._session.incarnation, number, delivery.share)

    def took_effect(self, ino: int, incarnation: int, number: int, share: Share) -> bool:
        """Whether a commit whose verdicts nobody has heard took effect: it is in the journal, and where it changes
        contents the inode's version has moved since it was sent."""
        if not self._session.landed(incarnation, number):
            return False
        with self._session.view() as txn:
            inode = Rows(txn).inode(ino)
        return inode is None or not share.contents or inode.version > share.version

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

    def _cuts(self, file: WorkingFile, captured: Pending) -> list[AnyOp]:
        """The observed truncate and the next holes, unless a commit of this publish has carried them already."""
        ops: list[AnyOp] = []
        if captured.low is not None:
            mtime_ns = captured.ctime_ns if captured.mtime_ns is None else captured.mtime_ns
            mask = SetattrMask.SIZE | SetattrMask.MTIME
            ops.append(Setattr(file.ino, mask, 0, 0, 0, captured.low, 0, mtime_ns, captured.ctime_ns))
        for start, end in self._next_holes(captured):
            ops.append(Punch(file.ino, start, end - start, captured.ctime_ns))
        return ops

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
