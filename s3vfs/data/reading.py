"""Bytes out: where each of them lies, taken from there, and what is likely to be wanted next set on its way.

From the newest to the oldest: the working file, the extents of the inode by way of the cache, the bucket.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

import trio

from s3vfs.data.cache import Cache
from s3vfs.data.failures import again, local_disk
from s3vfs.data.fetch import DamagedSector, Fetcher
from s3vfs.data.layout import Part, resolve
from s3vfs.data.neighbours import Neighbours
from s3vfs.data.openfile import OpenFile
from s3vfs.data.protocol import DataSession, Limits, Sizes
from s3vfs.data.readahead import Readahead
from s3vfs.data.whereabouts import path_of
from s3vfs.errors import Damaged, ObjectMissing, PosixError
from s3vfs.namespace.rows import Rows

if TYPE_CHECKING:
    from typing_extensions import Buffer

_log = logging.getLogger(__name__)


class Reader:
    """One for each `Contents`, working on its files."""

    def __init__(
        self,
        session: DataSession,
        files: Mapping[int, OpenFile],
        cache: Cache,
        fetcher: Fetcher,
        neighbours: Neighbours,
        sizes: Sizes,
        limits: Limits,
    ) -> None:
        self._session = session
        self._files = files
        self._cache = cache
        self._fetcher = fetcher
        self._neighbours = neighbours
        self._sizes = sizes
        self._limits = limits

    async def read(self, ino: int, offset: int, length: int, readahead: Readahead | None = None) -> Buffer:
        """See `Contents.read`."""
        file = self._files.get(ino)
        if file is not None and file.lost and file.failure is not None:
            raise again(file.failure)
        try:
            try:
                return await self._read(file, ino, offset, length, readahead)
            except ObjectMissing:
                # The extents may be outdated: look at the tail once (DESIGN 8).
                await self._session.fresh(0)
                return await self._read(file, ino, offset, length, readahead)
        except ObjectMissing as error:
            _log.error("%s: %s: an object is missing: %s", self._session.store.url, os.fsdecode(self._path(ino)), error)
            raise Damaged(f"{os.fsdecode(self._path(ino))}: {error}") from error
        except DamagedSector as error:
            path = os.fsdecode(self._path(ino))
            _log.error(
                "%s: %s: object %s, sector %d does not match its checksum",
                self._session.store.url, path, error.key, error.unit.sector,
            )  # fmt: skip
            raise

    async def _read(
        self, file: OpenFile | None, ino: int, offset: int, length: int, readahead: Readahead | None
    ) -> Buffer:
        with self._session.pin(), local_disk():
            parts = self._plan(file, ino, offset, length)
            if not parts:
                await trio.lowlevel.checkpoint()
                return b""
            end = parts[-1][0].end
            if readahead is not None:
                self._read_ahead(file, ino, readahead, offset, end)
            if not offset:
                self._neighbours.come_to(ino, [part.unit for part, _ in parts if part.unit is not None])
            out = bytearray(end - offset)
            target = memoryview(out)
            missing = await self._take_local(file, parts, offset, target)
            if not missing:
                await trio.lowlevel.checkpoint()
                return out
            units = list(dict.fromkeys(part.unit for part in missing if part.unit is not None))
            sectors = dict(zip(units, await self._fetcher.sectors(units), strict=True))
            for part in missing:
                if part.unit is not None:
                    whole = memoryview(sectors[part.unit])
                    place = target[part.start - offset : part.end - offset]
                    place[:] = whole[part.skip : part.skip + len(place)]
            return out

    async def _take_local(
        self, file: OpenFile | None, parts: list[tuple[Part, bool]], offset: int, target: memoryview
    ) -> list[Part]:
        """Fill in what the working file and the cache have; the parts that are left."""
        missing: list[Part] = []
        if file is not None:
            file.loading += 1
        try:
            for part, local in parts:
                place = target[part.start - offset : part.end - offset]
                if local and file is not None:
                    if len(place) <= self._limits.inline_bytes:
                        file.working.load_into(part.start, place)
                    else:
                        await self._session.environment.run(file.working.load_into, part.start, place)
                elif part.unit is not None and not self._cache.read_verified(part.unit, part.skip, place):
                    missing.append(part)
        finally:
            if file is not None:
                file.loading -= 1
        return missing

    def _plan(self, file: OpenFile | None, ino: int, offset: int, length: int) -> list[tuple[Part, bool]]:
        """[offset, offset + length) within the file as parts; true for those in the working file."""
        with self._session.view() as txn:
            rows = Rows(txn)
            inode = rows.inode(ino)
            if inode is None:
                raise PosixError(errno.ESTALE)
            working = None if file is None else file.working
            size = inode.size if working is None else working.size_over(inode.size)
            end = min(offset + length, size)
            if end <= offset:
                return []
            sector_bytes = self._sizes.sector_bytes
            if working is None:
                return [(part, False) for part in resolve(rows, ino, inode, offset, end, sector_bytes)]
            parts: list[tuple[Part, bool]] = []
            for low, high, where in working.split(offset, end):
                if where == "below":
                    parts += [(part, False) for part in resolve(rows, ino, inode, low, high, sector_bytes)]
                else:
                    parts.append((Part(low, high, None, 0), where == "local"))
            return parts

    def _read_ahead(self, file: OpenFile | None, ino: int, readahead: Readahead, offset: int, end: int) -> None:
        first, last = readahead.advance(offset, end)
        if first < last:
            parts = self._plan(file, ino, first, last - first)
            planned = parts[-1][0].end if parts else first
            readahead.end_of_file = planned if planned < last else None
            units = dict.fromkeys(part.unit for part, _ in parts if part.unit is not None)
            self._fetcher.begin([unit for unit in units if not self._cache.knows(unit)])

    def _path(self, ino: int) -> bytes:
        with self._session.view() as txn:
            return path_of(Rows(txn), ino)
