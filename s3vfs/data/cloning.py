"""Sharing extents between files (copy_file_range): one small record, no data moved.

A CLONE speaks of what the journal has, so both files' unpublished changes go before it. Knows no handles.
"""

from __future__ import annotations

import errno

from s3vfs.data.openfile import OpenFile
from s3vfs.data.protocol import DataSession
from s3vfs.data.upkeep import Upkeep
from s3vfs.errors import PosixError
from s3vfs.namespace.limits import EXTENTS_PER_CLONE
from s3vfs.namespace.ops import Clone
from s3vfs.namespace.rows import Rows
from s3vfs.namespace.verdict import COVERED, STALE

# Lost evaluations in a row: each means that another node has changed the source meanwhile.
_ATTEMPTS = 20
# What another answer of the source's size or extents leads to.
_SOURCE_CHANGED = frozenset({STALE, errno.EINVAL, errno.E2BIG})


class Cloner:
    """One for each `Contents`."""

    def __init__(self, session: DataSession, upkeep: Upkeep) -> None:
        self._session = session
        self._upkeep = upkeep

    async def clone(self, source: OpenFile, source_offset: int, file: OpenFile, offset: int, length: int) -> int:
        """Make [offset, offset + length) of `file` the same as the source's bytes from `source_offset` on. Returns how
        many bytes were shared: fewer at the source's end, and where one op would have too many extents. In the
        journal when this returns. Two ranges of one file may not overlap.

        Raises what publishing raises, and PosixError: ESTALE for an inode that is gone, EDQUOT.
        """
        if source is not file:
            await self._upkeep.publish(source, orphans=True)
        async with self._upkeep.published(file):
            for last in (False,) * (_ATTEMPTS - 1) + (True,):
                count = self._possible(source.ino, source_offset, length)
                if not count:
                    return 0
                op = Clone(source.ino, source_offset, count, file.ino, offset, 0, self._session.environment.wall_ns())
                code = await self._commit(file, op)
                if not code:
                    return count
                if code == COVERED:
                    await self._session.clear(source.ino, file.ino)
                elif last or code not in _SOURCE_CHANGED:
                    raise PosixError(errno.ESTALE if code == errno.ENOENT else code)
            raise AssertionError("not reached")

    def _possible(self, ino: int, offset: int, length: int) -> int:
        """How much one op can share of these bytes now."""
        with self._session.view() as txn:
            rows = Rows(txn)
            inode = rows.inode(ino)
            if inode is None:
                raise PosixError(errno.ESTALE)
            end = min(offset + length, inode.size)
            for number, (start, _) in enumerate(rows.extents(ino, offset, end)):
                if number == EXTENTS_PER_CLONE:
                    return start - offset
            return max(0, end - offset)

    async def _commit(self, file: OpenFile, op: Clone) -> int:
        """The op's errno. Clean local bytes of the range stop counting before it can be in the journal."""
        working = file.working
        working.replaced(op.offset, op.offset + op.length)
        file.committing += 1
        foreign = working.foreign
        try:
            (verdict,) = await self._session.send([op]).verdicts()
        finally:
            file.committing -= 1
        if not verdict.errno and working.foreign == foreign:
            with self._session.view() as txn:
                inode = Rows(txn).inode(file.ino)
            working.base_version = 0 if inode is None else inode.version
        return verdict.errno
