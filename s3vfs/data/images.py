"""A file that is lent to the kernel stays an image of its inode: with what was written here, which nobody tells, and
with what other mounts have written. Knows nothing of who has it and how it ends: that is `lending`'s.

What was written is found by reading (`backed`). What others have written is written into the file itself; what was
written here and is not published yet stays.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence

import trio
import xxhash

from s3vfs.data.backed import Backed, Seal, Sums, differing, load, scan
from s3vfs.data.failures import NotWrittenBack, local_disk
from s3vfs.data.fetch import Fetcher
from s3vfs.data.layout import Part
from s3vfs.data.openfile import OpenFile
from s3vfs.data.origin import Origin
from s3vfs.data.protocol import DataSession, Limits, Sizes
from s3vfs.data.punch import punch
from s3vfs.data.ranges import RangeSet
from s3vfs.data.writeback import check_written_back
from s3vfs.errors import S3vfsError
from s3vfs.namespace.rows import Inode, Rows

_log = logging.getLogger(__name__)

# What local file systems have holes of.
_BLOCK_BYTES = 4096
# Versions that may overtake each other while a file follows them.
_ATTEMPTS = 20


class Images:
    """One for each `Contents`. `wake()`: something is dirty."""

    def __init__(
        self, session: DataSession, fetcher: Fetcher, sizes: Sizes, limits: Limits, wake: Callable[[], None]
    ) -> None:
        self._session = session
        self._fetcher = fetcher
        self._sizes = sizes
        self._limits = limits
        self._wake = wake

    # -- what was written ---------------------------------------------------------------------------------------------

    async def harvest(self, file: OpenFile, *, quick: bool = False) -> None:
        """Find what was written unseen: it is pending afterwards. `quick`: not where size and times are as before.
        Raises NotWrittenBack where what can be read is not all that was written."""
        backed = file.working.backed
        if backed is not None and backed.writable and not file.lost:
            async with file.storing:
                if file.working.backed is backed and not file.lost:
                    with local_disk():
                        await self._harvest(file, backed, quick=quick)

    async def harvest_to_spill(self, file: OpenFile) -> None:
        """As `harvest`, by who has `storing`. What was published cannot be had any more, perhaps: then all that looks
        changed counts."""
        backed = file.working.backed
        if backed is None or not backed.writable:
            return
        try:
            await self._harvest(file, backed, whatever_is_there=True)
        except S3vfsError as error:
            _log.warning("inode %d: what was written is told from what was published by sectors: %s", file.ino, error)
            backed.stale, backed.origin = False, Origin()
            await self._harvest(file, backed, whatever_is_there=True)

    @staticmethod
    def _require_kept(file: OpenFile, backed: Backed) -> None:
        """Raises NotWrittenBack, from then on always."""
        if backed.refused is None:
            try:
                check_written_back(file.working.open())
            except OSError as error:
                backed.refused = error
        if backed.refused is not None:
            raise NotWrittenBack(backed.refused)

    async def _harvest(
        self, file: OpenFile, backed: Backed, *, quick: bool = False, whatever_is_there: bool = False
    ) -> None:
        working = file.working
        state = working.status()
        seal = Seal.of(state)
        if quick and seal == backed.seal:
            return
        if not whatever_is_there:
            self._require_kept(file, backed)
        seen, spans = await self._scan(file, state.st_size)
        ranges, doubtful = self._sort(file, backed, seen, spans)
        for sector in doubtful:
            await self._compare(file, backed, sector, spans, ranges)
        self._note(file, backed, ranges, state)

    def harvest_at_once(self, file: OpenFile) -> bool:
        """As `harvest`, where nothing has to be waited for: the file is small, and nothing of it was published before.
        False: nothing was done. No checkpoint. Raises OSError, and as `harvest`."""
        working, backed = file.working, file.working.backed
        if backed is None or not backed.writable:
            return True
        if file.lost or file.storing.locked():
            return False
        state = working.status()
        if state.st_size > self._limits.inline_bytes:
            return False
        self._require_kept(file, backed)
        seen, spans = scan(working.open(), state.st_size, self._sizes.sector_bytes)
        ranges, doubtful = self._sort(file, backed, seen, spans)
        if doubtful:
            return False
        self._note(file, backed, ranges, state)
        return True

    def _note(self, file: OpenFile, backed: Backed, ranges: RangeSet, state: os.stat_result) -> None:
        """These were written. `state`: of the local file, from before it was read."""
        seal = Seal.of(state)
        self._without_holes(file, ranges)
        if ranges or (seal.size, seal.mtime_ns) != (backed.seal.size, backed.seal.mtime_ns):
            file.working.found(ranges, state.st_size, *backed.times(state), trio.current_time())
            self._wake()
        backed.seal = seal
        file.working.log.backed = seal

    def _without_holes(self, file: OpenFile, ranges: RangeSet) -> None:
        """Holes are told to the byte, but the local file system has them by blocks: zeros in the rest of a block, and
        in what was punched, are no data."""
        ranges.subtract(file.working.pending.dirty)
        holes = file.working.pending.holes
        rests = [piece for piece in ranges if piece[1] - piece[0] < _BLOCK_BYTES]
        for start, end in rests + [piece for hole in holes for piece in ranges.within(*hole)]:
            if not any(file.working.load(start, end - start)):
                ranges.remove(start, end)

    async def _scan(self, file: OpenFile, size: int) -> tuple[Sums, RangeSet]:
        fd = file.working.open()
        if size <= self._limits.inline_bytes:
            return scan(fd, size, self._sizes.sector_bytes)
        file.loading += 1
        try:
            return await self._session.environment.run(scan, fd, size, self._sizes.sector_bytes)
        finally:
            file.loading -= 1

    def _sort(self, file: OpenFile, backed: Backed, seen: Sums, spans: RangeSet) -> tuple[RangeSet, list[int]]:
        """The ranges that have changed, and the sectors of which that cannot be said without what was published."""
        sector_bytes = self._sizes.sector_bytes
        ranges, doubtful = RangeSet(), []
        for sector in backed.unlike(seen):
            start = sector * sector_bytes
            end = start + seen[sector][0]
            if file.working.pending.dirty.covers(start, end):
                continue
            if backed.origin.overlaps(start, end):
                doubtful.append(sector)
            else:
                for first, last in spans.within(start, end):
                    ranges.add(first, last)
        return ranges, doubtful

    async def _compare(self, file: OpenFile, backed: Backed, sector: int, spans: RangeSet, ranges: RangeSet) -> None:
        """Add to `ranges` what of the sector is not as it was published."""
        start = sector * self._sizes.sector_bytes
        end = min(start + self._sizes.sector_bytes, file.working.status().st_size)
        published = await self._published(backed.origin, start, end)
        ours = memoryview(bytearray(end - start))
        load(file.working.open(), start, ours)
        fresh = RangeSet(spans.within(start, end))
        changed = False
        for piece in backed.origin.within(start, end):
            fresh.remove(piece.start, piece.end)
            part = slice(piece.start - start, piece.end - start)
            for first, last in differing(ours[part], published[part]):
                ranges.add(piece.start + first, piece.start + last)
                changed = True
        self._without_holes(file, fresh)
        ranges.update(fresh)
        if not (changed or fresh):
            backed.sums[sector] = len(ours), xxhash.xxh3_64_digest(ours)

    async def _published(self, origin: Origin, start: int, end: int) -> memoryview:
        """The bytes of `origin`, from cache or bucket. Raises what fetching raises."""
        target = memoryview(bytearray(end - start))
        with self._session.view() as txn:
            parts = list(origin.parts(Rows(txn), start, end, self._sizes.sector_bytes))
        await self._fetch(parts, start, target)
        return target

    async def _fetch(self, parts: Sequence[Part], base: int, target: memoryview) -> None:
        units = list(dict.fromkeys(part.unit for part in parts if part.unit is not None))
        sectors = dict(zip(units, await self._fetcher.sectors(units), strict=True))
        for part in parts:
            if part.unit is not None:
                place = target[part.start - base : part.end - base]
                place[:] = memoryview(sectors[part.unit])[part.skip : part.skip + len(place)]

    # -- what others have written -------------------------------------------------------------------------------------

    async def catch_up(self, file: OpenFile) -> None:
        """Write what others have changed into a file that is lent; what was written here and is not published yet
        stays. Raises what fetching raises."""
        backed = file.working.backed
        if backed is None or not backed.stale or file.lost:
            return
        async with file.publishing, file.storing:
            if file.working.backed is backed and backed.stale:
                with local_disk(), self._session.pin():
                    await self._catch_up(file, backed)

    async def _catch_up(self, file: OpenFile, backed: Backed) -> None:
        if backed.writable:
            await self._harvest(file, backed)
        for _ in range(_ATTEMPTS):
            with self._session.view() as txn:
                rows = Rows(txn)
                inode = rows.inode(file.ino)
                if inode is None:
                    return
                origin = Origin.of(rows, file.ino, inode)
            backed.stale = False
            try:
                await self._apply(file, origin.differences(backed.origin), origin)
            except BaseException:
                backed.stale = True
                raise
            self._adopt_version(file, backed, origin, inode)
            if not backed.stale:
                return

    async def _apply(self, file: OpenFile, changed: RangeSet, origin: Origin) -> None:
        """The bytes of `origin` where those have changed, and nothing here is unpublished."""
        working = file.working
        size = origin.size
        for layer in (working.captured, working.pending):
            if layer is not None:
                changed.subtract(layer.dirty)
                changed.subtract(layer.holes)
                if layer.low is not None:
                    changed.remove(layer.low, max(layer.low, changed.end))
                size = layer.size_over(size)
        fd = working.open()
        if working.status().st_size != size:
            os.ftruncate(fd, size)
        changed.remove(size, max(size, changed.end))
        step = self._limits.fetch_bytes
        for start, end in changed:
            if not origin.overlaps(start, end) and punch(fd, start, end - start):
                continue
            for at in range(start, end, step):
                body = await self._published(origin, at, min(at + step, end))
                await self._session.environment.run(working.store, at, body)

    def _adopt_version(self, file: OpenFile, backed: Backed, origin: Origin, inode: Inode) -> None:
        """The file is an image of `origin` now."""
        working = file.working
        changed = origin.differences(backed.origin)
        for sector in list(backed.sums):
            start = sector * self._sizes.sector_bytes
            if changed.overlaps(start, start + self._sizes.sector_bytes):
                del backed.sums[sector]
        with self._session.view() as txn:
            backed.sums.update(origin.own_sums(Rows(txn), self._sizes.sector_bytes))
        backed.origin = origin
        if not working.dirty:
            state = working.status()
            os.utime(working.path, ns=(state.st_atime_ns, inode.mtime_ns))
            backed.chosen_ns = working.status().st_mtime_ns
        backed.floor_ns = max(backed.floor_ns, inode.ctime_ns)
        backed.seal = Seal.of(working.status())
        working.base_version = origin.version
        backed.pins.close()
        if backed.writable:
            if origin.pieces:
                backed.pins.enter_context(self._session.pin())
            working.mark_backed()
