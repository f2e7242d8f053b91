"""Calls by name: look up, make, link, remove, rename. What is allowed is apply's to say; this builds the ops.

Knows nothing of handles but which inodes are open here.
"""

from __future__ import annotations

import errno
import stat
from typing import NoReturn

from s3vfs.errors import PosixError
from s3vfs.filesystem.contracts import Caller, Found
from s3vfs.filesystem.core import Core, NeedsInodeNumber, is_directory
from s3vfs.namespace.limits import NAME_MAX_BYTES
from s3vfs.namespace.names import DIRECTORY
from s3vfs.namespace.ops import RENAME_EXCHANGE, RENAME_NOREPLACE, AnyOp, Create, Link, Rename, Rmdir, Unlink
from s3vfs.namespace.rows import ROOT_INO, Dentry, Inode, Rows


class Names(Core):
    """The calls that take a directory and a name."""

    async def lookup(self, parent: int, name: bytes) -> Found:
        """The inode under `name`; `.` and `..` too. ENOENT, ENOTDIR, ENAMETOOLONG, ESTALE for a directory that is
        gone."""
        if len(name) > NAME_MAX_BYTES:
            raise PosixError(errno.ENAMETOOLONG)
        with self._session.view() as txn:
            rows = Rows(txn)
            if self._session.covers(rows, parent):
                dentry = rows.dentry(parent, name)
                if dentry is None and name not in (b".", b".."):
                    return self._absent(rows, parent)
                if dentry is not None and self._session.covers(rows, dentry.ino):
                    return self._found(rows, dentry.ino)
        await self._session.reach(parent)
        with self._session.view() as txn:
            rows = Rows(txn)
            dentry = rows.dentry(parent, name)
        if dentry is not None:  # a directory may be under another lease than its parent, a linked file under none
            await self._session.reach(dentry.ino)
        with self._session.view() as txn:
            rows = Rows(txn)
            if name == b".":
                return self._found(rows, parent)
            if name == b"..":
                return self._found(rows, parent_of(rows, parent))
            dentry = rows.dentry(parent, name)
            if dentry is None:
                return self._absent(rows, parent)
            return self._found(rows, dentry.ino)

    def _absent(self, rows: Rows, parent: int) -> NoReturn:
        if not is_directory(self._inode(rows, parent)):
            raise PosixError(errno.ENOTDIR)
        raise PosixError(errno.ENOENT)

    async def mknod(self, parent: int, name: bytes, mode: int, rdev: int, caller: Caller) -> Found:
        """A regular file, device, fifo or socket by `mode`."""
        return await self._make(parent, name, mode, rdev, b"", caller)

    async def mkdir(self, parent: int, name: bytes, mode: int, caller: Caller) -> Found:
        return await self._make(parent, name, stat.S_IFDIR | stat.S_IMODE(mode), 0, b"", caller)

    async def symlink(self, parent: int, name: bytes, target: bytes, caller: Caller) -> Found:
        return await self._make(parent, name, stat.S_IFLNK | 0o777, 0, target, caller)

    async def _make(self, parent: int, name: bytes, mode: int, rdev: int, target: bytes, caller: Caller) -> Found:
        """EEXIST is the journal's answer (exact across nodes): the op says that its author saw no such name."""
        made = 0
        time_ns = self._now_ns()

        def evaluate(rows: Rows) -> AnyOp:
            nonlocal made
            if rows.dentry(parent, name) is not None:
                raise PosixError(errno.EEXIST)
            self._inode(rows, parent)
            ino = self._session.take_ino()
            if ino is None:
                raise NeedsInodeNumber
            made = ino
            return Create(parent, name, ino, mode, caller.uid, caller.gid, rdev, target, time_ns, caller.umask)

        await self._commit(evaluate, parent)
        return self._look(made)

    async def link(self, ino: int, new_parent: int, new_name: bytes) -> Found:
        """ESTALE for an inode without a name: the kernel came by an outdated one (it refuses others itself), and looks
        that name up again."""
        time_ns = self._now_ns()

        def evaluate(rows: Rows) -> AnyOp:
            return Link(ino, new_parent, new_name, time_ns)

        try:
            await self._commit(evaluate, ino, new_parent)
        except PosixError as error:
            found = self.peek(ino)
            if error.errno == errno.ENOENT and (found is None or not found.inode.nlink):
                raise PosixError(errno.ESTALE) from None
            raise
        return self._look(ino)

    async def unlink(self, parent: int, name: bytes, caller: Caller) -> None:
        time_ns = self._now_ns()

        def evaluate(rows: Rows) -> AnyOp:
            ino = self._dentry(rows, parent, name).ino
            return Unlink(parent, name, ino, caller.uid, self._orphans.is_open(ino), time_ns)

        await self._commit(evaluate, parent)

    async def rmdir(self, parent: int, name: bytes, caller: Caller) -> None:
        time_ns = self._now_ns()

        removed: tuple[int, Inode] | None = None

        def evaluate(rows: Rows) -> AnyOp:
            nonlocal removed
            ino = self._dentry(rows, parent, name).ino
            removed = ino, self._inode(rows, ino)
            return Rmdir(parent, name, ino, caller.uid, time_ns)

        await self._commit(evaluate, parent)
        if removed is not None:
            self._removed.removed(*removed, time_ns)

    async def rename(
        self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int, caller: Caller
    ) -> int:
        """renameat2(2) with RENAME_NOREPLACE or RENAME_EXCHANGE. Returns the inode that was moved."""
        if flags not in (0, RENAME_NOREPLACE, RENAME_EXCHANGE):
            raise PosixError(errno.EINVAL)
        moved = 0
        removed: tuple[int, Inode] | None = None
        time_ns = self._now_ns()

        def evaluate(rows: Rows) -> AnyOp:
            nonlocal moved, removed
            moved = self._dentry(rows, parent, name).ino
            target = rows.dentry(new_parent, new_name)
            replaced = 0 if target is None else target.ino
            directory = target is not None and target.kind == DIRECTORY and flags != RENAME_EXCHANGE
            removed = (replaced, self._inode(rows, replaced)) if directory else None
            hold = self._orphans.is_open(replaced)
            return Rename(parent, name, moved, new_parent, new_name, replaced, flags, caller.uid, hold, time_ns)

        await self._commit(evaluate, parent, new_parent)
        if removed is not None and removed[0] != moved:
            self._removed.removed(*removed, time_ns)
        return moved

    def holds(self, parent: int, name: bytes, ino: int) -> bool:
        """Whether `name` is this inode's in the present view."""
        with self._session.view() as txn:
            dentry = Rows(txn).dentry(parent, name)
        return dentry is not None and dentry.ino == ino

    def lineage(self, ino: int) -> list[int]:
        """The inode and all directories above any of its names, in the present view."""
        seen = {ino: None}
        with self._session.view() as txn:
            rows = Rows(txn)
            waiting = [ino]
            while waiting:
                for parent, _ in rows.links(waiting.pop()):
                    if parent not in seen:
                        seen[parent] = None
                        waiting.append(parent)
        return list(seen)

    def entry_of(self, ino: int) -> tuple[int, bytes] | None:
        """A (directory, name) of the inode in the present view, None for the root and where it has none."""
        with self._session.view() as txn:
            return next(Rows(txn).links(ino), None)

    def peek(self, ino: int) -> Found | None:
        """The inode as getattr would show it now, None where it is gone."""
        with self._session.view() as txn:
            inode = Rows(txn).inode(ino)
        return None if inode is None else Found(ino, self._contents.attributes(ino, inode))

    def _dentry(self, rows: Rows, parent: int, name: bytes) -> Dentry:
        dentry = rows.dentry(parent, name)
        if dentry is None:
            self._inode(rows, parent)
            raise PosixError(errno.ENAMETOOLONG if len(name) > NAME_MAX_BYTES else errno.ENOENT)
        return dentry


def parent_of(rows: Rows, directory: int) -> int:
    """`..` of a directory; the root's is the root."""
    if directory == ROOT_INO:
        return ROOT_INO
    link = next(rows.links(directory), None)
    if link is None:
        raise PosixError(errno.ESTALE)
    return link[0]
