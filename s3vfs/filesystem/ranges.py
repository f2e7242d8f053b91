"""Calls on byte ranges of open files: fallocate(2), lseek(2) with SEEK_DATA and SEEK_HOLE, copy_file_range(2).

Nothing is ever reserved in a bucket: allocating only makes a file longer, after a look at the quota.
"""

from __future__ import annotations

import errno
import os

from s3vfs.errors import PosixError
from s3vfs.filesystem.files import FileHandle, Files
from s3vfs.namespace.accounting import exceeds_quota
from s3vfs.namespace.limits import INTEGER_MAX
from s3vfs.namespace.rows import Rows

# fallocate(2): bits of its mode.
KEEP_SIZE = 0x01
PUNCH_HOLE = 0x02
ZERO_RANGE = 0x10

_MODES = frozenset({0, KEEP_SIZE, PUNCH_HOLE | KEEP_SIZE, ZERO_RANGE, ZERO_RANGE | KEEP_SIZE})


class Ranges(Files):
    """The calls on ranges."""

    async def fallocate(self, handle: int, mode: int, offset: int, length: int) -> None:
        """Mode 0 and KEEP_SIZE allocate, PUNCH_HOLE with KEEP_SIZE makes a hole, ZERO_RANGE makes zeros (a hole, too);
        without KEEP_SIZE the file is at least `offset + length` long afterwards. All move mtime. As writes, this is in
        the journal after fsync or close.

        EOPNOTSUPP for other modes, EINVAL, EFBIG, EBADF for a handle that may not write, EDQUOT where what would have
        to be allocated exceeds the quota.
        """
        file = self._file(handle)
        if mode not in _MODES:
            raise PosixError(errno.EOPNOTSUPP)
        if offset < 0 or length <= 0:
            raise PosixError(errno.EINVAL)
        if not file.writable:
            raise PosixError(errno.EBADF)
        end = offset + length
        if end > INTEGER_MAX:
            raise PosixError(errno.EFBIG)
        self._require_writable()
        if not mode & PUNCH_HOLE:
            self._check_room(file.ino, offset, end)
        await self._settle_privileges(file)
        if mode & (PUNCH_HOLE | ZERO_RANGE):
            await self._contents.harvest(file.ino)  # what was written before it is not found after it
            await self._contents.punch(file.ino, offset, length)
        # Whatever it does, it moves mtime and ctime, as on ext4, xfs and tmpfs.
        await self._contents.extend(file.ino, 0 if mode & KEEP_SIZE else end)

    def _check_room(self, ino: int, start: int, end: int) -> None:
        with self._session.view() as txn:
            rows = Rows(txn)
            inode = self._inode(rows, ino)
            if inode.nlink and exceeds_quota(rows, end - start, 0):  # only then is it worth counting
                more = end - start - self._contents.data_bytes(ino, start, end)
                if exceeds_quota(rows, more, 0):
                    raise PosixError(errno.EDQUOT)

    async def seek(self, handle: int, offset: int, whence: int) -> int:
        """SEEK_DATA, SEEK_HOLE: exact to the byte; the end of the file is a hole. ENXIO for an offset that is not
        inside the file, or behind its last data; EINVAL for another whence."""
        file = self._file(handle)
        if whence not in (os.SEEK_DATA, os.SEEK_HOLE):
            raise PosixError(errno.EINVAL)
        await self._contents.harvest(file.ino)
        found = self._contents.seek(file.ino, offset, data=whence == os.SEEK_DATA)
        if found is None:
            raise PosixError(errno.ENXIO)
        return found

    async def copy_range(self, source_handle: int, source_offset: int, handle: int, offset: int, length: int) -> int:
        """copy_file_range(2): the target shares the source's extents, no data are moved, and it is in the journal when
        this returns. Returns the number of bytes: fewer at the source's end, 0 behind it, or after very many extents.

        EBADF for a handle that may not read or write, or that appends; EINVAL for overlapping ranges of one file;
        EFBIG, EDQUOT.
        """
        source, target = self._file(source_handle), self._file(handle)
        if not source.readable or not target.writable or target.appends:
            raise PosixError(errno.EBADF)
        if source_offset < 0 or offset < 0 or length < 0:
            raise PosixError(errno.EINVAL)
        self._require_writable()
        length = min(length, self._size(source) - source_offset)
        if length > 0 and offset >= INTEGER_MAX:
            raise PosixError(errno.EFBIG)
        length = min(length, INTEGER_MAX - offset)
        if length <= 0:
            return 0
        if source.ino == target.ino and abs(source_offset - offset) < length:
            raise PosixError(errno.EINVAL)
        await self._settle_privileges(target)
        return await self._contents.clone(source.ino, source_offset, target.ino, offset, length)

    def _size(self, file: FileHandle) -> int:
        return self._look(file.ino).inode.size
