"""Calls on an inode's attributes: stat, chmod, chown, truncate, utimensat, readlink, access, statfs."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress

import trio
from msgspec.structs import replace

from s3vfs.errors import PosixError, StoreError
from s3vfs.filesystem.contracts import Caller, Found, NewAttributes, Statistics
from s3vfs.filesystem.core import ATTRIBUTES_WITHIN_S, Core
from s3vfs.namespace.attributes import without_privileges
from s3vfs.namespace.limits import INTEGER_MAX, NAME_MAX_BYTES
from s3vfs.namespace.ops import AnyOp, Setattr, SetattrMask
from s3vfs.namespace.rows import Inode, Rows

BLOCK_BYTES = 4096
# How long stat waits for a file that is lent to the kernel to get what others have written.
CATCH_UP_S = 10.0
# Shown as free where no quota limits the volume: programs refuse to write where statfs shows little or nothing.
UNLIMITED_BYTES = 1 << 50
UNLIMITED_INODES = 1 << 40

_NOTHING = NewAttributes()


class Attributes(Core):
    """The calls that take an inode."""

    async def getattr(self, ino: int) -> Found:
        await self._session.fresh(ATTRIBUTES_WITHIN_S)
        if self._contents.lags(ino):
            with trio.move_on_after(CATCH_UP_S), suppress(StoreError):  # else the size is told before the bytes come
                await self._contents.catch_up(ino)
        return self._look(ino)

    async def setattr(self, ino: int, new: NewAttributes, caller: Caller, *, by_handle: bool = False) -> Found:
        """Change attributes. A size set by handle is published with the handle's data (close-to-open); one set by path
        has no close that would publish it, so it is published here. Times beyond what can be kept become the nearest
        that can."""
        self._require_writable()
        lost, mode = 0, new.mode
        if (new.size, new.uid, new.gid) != (None, None, None):
            lost = self._lost_privileges(ino, caller)
        if new == _NOTHING:
            # chown(2) to nobody in particular, or, by a writer who need not own the file, what goes before a write: all
            # that it does is to take privileges away.
            lost = SetattrMask.PRIVILEGES | self._lost_privileges(ino, caller)
        elif new.size is not None and mode is not None:
            # No call sets both: the kernel takes privileges away, from a mode that may no longer be the present one.
            lost, mode = lost | SetattrMask.PRIVILEGES, None
        if new.size is not None:
            await self._truncate(ino, new.size, by_handle=by_handle)
        atime_ns, mtime_ns = _representable(new.atime_ns), _representable(new.mtime_ns)
        if (atime_ns is not None or mtime_ns is not None) and self._contents.set_times(ino, atime_ns, mtime_ns):
            atime_ns = mtime_ns = None
        await self._commit_attributes(ino, mode, new.uid, new.gid, atime_ns, mtime_ns, lost=lost)
        return self._look(ino)

    async def _truncate(self, ino: int, size: int, *, by_handle: bool) -> None:
        with self._session.view() as txn:
            inode = self._inode(Rows(txn), ino)
        if not stat.S_ISREG(inode.mode):
            raise PosixError(errno.EISDIR if stat.S_ISDIR(inode.mode) else errno.EINVAL)
        if by_handle:
            await self._contents.truncate(ino, size)
            return
        if self._contents.attributes(ino, inode).size == size:
            return  # POSIX moves times only where the size changes (unlike ftruncate's)
        self._contents.opened(ino, True)
        self._orphans.opened(ino)
        try:
            await self._contents.truncate(ino, size)
            await self._contents.close(ino)
        finally:
            self._contents.closed(ino, True)
            self._orphans.closed(ino)

    async def _commit_attributes(
        self,
        ino: int,
        mode: int | None,
        uid: int | None,
        gid: int | None,
        atime_ns: int | None = None,
        mtime_ns: int | None = None,
        *,
        lost: int = 0,
    ) -> None:
        """`lost`: mask bits of the privileges that go."""
        mask = lost
        for bit, value in (
            (SetattrMask.MODE, mode),
            (SetattrMask.UID, uid),
            (SetattrMask.GID, gid),
            (SetattrMask.ATIME, atime_ns),
            (SetattrMask.MTIME, mtime_ns),
        ):
            if value is not None:
                mask |= bit
        if not mask:
            return
        time_ns = self._now_ns()

        def evaluate(rows: Rows) -> AnyOp | None:
            inode = self._inode(rows, ino)
            if self._removed.get(ino) is not None:
                permissions = stat.S_IMODE(inode.mode if mode is None else mode)
                changed = replace(
                    inode,
                    mode=stat.S_IFMT(inode.mode) | permissions,
                    uid=inode.uid if uid is None else uid,
                    gid=inode.gid if gid is None else gid,
                    atime_ns=inode.atime_ns if atime_ns is None else atime_ns,
                    mtime_ns=inode.mtime_ns if mtime_ns is None else mtime_ns,
                    ctime_ns=time_ns,
                )
                self._removed.change(ino, changed)
                return None
            return Setattr(ino, mask, mode or 0, uid or 0, gid or 0, 0, atime_ns or 0, mtime_ns or 0, time_ns)

        follows = self._contents.carries_ctime(ino)
        await self._commit(evaluate, ino, ctime_follows=follows)
        if follows:
            self._contents.changed(ino, time_ns)

    def _lost_privileges(self, ino: int, caller: Caller) -> int:
        """The mask bits of what a write, truncate or chown by `caller` must take away, 0 for nothing: setuid, and
        setgid where the group may execute or the caller is not in it (the kernel leaves this to the file system,
        FUSE_HANDLE_KILLPRIV). Not root's; and file capabilities end with the op that publishes what was written."""
        if caller.uid == 0:
            return 0
        with self._session.view() as txn:
            inode = self._inode(Rows(txn), ino)
        if stat.S_ISDIR(inode.mode) or not inode.mode & (stat.S_ISUID | stat.S_ISGID):
            return 0
        setgid = 0 if self._is_in_group(inode, caller) else SetattrMask.SETGID
        kept = without_privileges(inode.mode)
        return setgid | SetattrMask.PRIVILEGES if setgid or kept != inode.mode else 0

    def _is_in_group(self, inode: Inode, caller: Caller) -> bool:
        """Whether the caller may keep setgid; root may."""
        return caller.uid == 0 or inode.gid == caller.gid or inode.gid in self._groups_of(caller.pid)

    async def readlink(self, ino: int, *, check: Callable[[], Awaitable[None]] | None = None) -> bytes:
        """`check` as in `open`: what a path leads to is decided here, too."""
        await self._session.reach(ino)
        if check is not None:
            await check()
        with self._session.view() as txn:
            inode = self._inode(Rows(txn), ino)
        if not stat.S_ISLNK(inode.mode):
            raise PosixError(errno.EINVAL)
        return inode.target

    async def access(self, ino: int, mask: int, caller: Caller) -> bool:
        """access(2), for mounts where the kernel does not check by itself."""
        await self._session.fresh(ATTRIBUTES_WITHIN_S)
        with self._session.view() as txn:
            inode = self._inode(Rows(txn), ino)
        if mask & os.W_OK and self._read_only and (stat.S_ISREG(inode.mode) or stat.S_ISDIR(inode.mode)):
            return False
        return permits(inode, mask, caller, self._groups_of(caller.pid))

    async def statfs(self) -> Statistics:
        """With a quota the truth; without one a petabyte is free, whatever the bucket may hold. In blocks of 4 KiB."""
        with self._session.view() as txn:
            rows = Rows(txn)
            usage, volume = rows.usage(), rows.volume()
        quota_bytes = volume.quota_bytes if volume is not None else 0
        quota_inodes = volume.quota_inodes if volume is not None else 0
        used = -(-usage.bytes // BLOCK_BYTES)
        total = max(quota_bytes // BLOCK_BYTES, used) if quota_bytes else used + UNLIMITED_BYTES // BLOCK_BYTES
        inodes = max(quota_inodes, usage.inodes) if quota_inodes else usage.inodes + UNLIMITED_INODES
        return Statistics(BLOCK_BYTES, total, total - used, inodes, inodes - usage.inodes, NAME_MAX_BYTES)


def _representable(time_ns: int | None) -> int | None:
    """The nearest time that a row can carry: from 1677 to 2262."""
    return None if time_ns is None else max(-INTEGER_MAX, min(time_ns, INTEGER_MAX))


def permits(inode: Inode, mask: int, caller: Caller, groups: Collection[int]) -> bool:
    """POSIX file access permissions: owner, group or others; root may do all but execute what nobody may."""
    if caller.uid == 0:
        return not mask & os.X_OK or stat.S_ISDIR(inode.mode) or bool(inode.mode & 0o111)
    if caller.uid == inode.uid:
        granted = inode.mode >> 6
    elif caller.gid == inode.gid or inode.gid in groups:
        granted = inode.mode >> 3
    else:
        granted = inode.mode
    return mask & ~granted & 7 == 0
