"""Calls on open files: open, create, read, write, flush, fsync, release."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from s3vfs.errors import PosixError
from s3vfs.filesystem.attributes import Attributes
from s3vfs.filesystem.contracts import Caller, FileContents, FilesystemSession, Found, Lent, NewAttributes
from s3vfs.filesystem.names import Names
from s3vfs.namespace.rows import Rows

if TYPE_CHECKING:
    from typing_extensions import Buffer


@dataclass(eq=False, slots=True)
class FileHandle:
    """One open file description. `privileges_settled`: setuid and setgid have been looked after since it was opened.
    `direct`: opened with O_DIRECT, O_SYNC or O_DSYNC, or it appends: its writes are not the kernel's to place. `lent`:
    the local file that the kernel serves it from, once it is `with_kernel`. `harvested`: see `Contents.harvest`."""

    ino: int
    readable: bool
    writable: bool
    appends: bool
    caller: Caller
    readahead: Any
    privileges_settled: bool
    direct: bool
    lent: Lent | None = None
    with_kernel: bool = False
    synchronous: bool = False
    harvested: int = 0


class Files(Names, Attributes):
    """The calls that take a handle, and those that give one out."""

    def __init__(self, session: FilesystemSession, contents: FileContents, **options: Any) -> None:
        super().__init__(session, contents, **options)
        self._files: dict[int, FileHandle] = {}
        self._last_handle = 0

    # -- opening ------------------------------------------------------------------------------------------------------

    async def open(
        self, ino: int, flags: int, caller: Caller, *, check: Callable[[], Awaitable[None]] | None = None
    ) -> int:
        """A handle. `flags` as open(2), O_TRUNC included; the caller's right to open is the kernel's to check.

        `check` is called once the view is fresh and before anything has an effect: it may raise. ESTALE: the inode is
        gone, or has no name and is not open here.
        """
        writable = flags & os.O_ACCMODE != os.O_RDONLY
        if writable or flags & os.O_TRUNC:
            self._require_writable()
        await self._session.reach(ino)
        if check is not None:
            await check()
        with self._session.view() as txn:
            inode = self._inode(Rows(txn), ino)
        if not stat.S_ISREG(inode.mode):
            raise PosixError(errno.EISDIR if stat.S_ISDIR(inode.mode) else errno.ENXIO)
        handle = self._add(ino, flags, caller, linked=inode.nlink > 0)
        if flags & os.O_TRUNC:  # moves the times of an empty file, too
            try:
                await self._settle_privileges(self._files[handle])
                await self._contents.truncate(ino, 0)
                if not writable:  # no close will
                    await self._contents.publish(ino)
            except BaseException:
                self._remove(handle)
                raise
        return handle

    async def create(self, parent: int, name: bytes, mode: int, flags: int, caller: Caller) -> tuple[int, Found]:
        """A new regular file and a handle for it. EEXIST where the name is taken, with or without O_EXCL."""
        found = await self._make(parent, name, stat.S_IFREG | stat.S_IMODE(mode), 0, b"", caller)
        return self._add(found.ino, flags, caller, linked=found.inode.nlink > 0), found

    def _add(self, ino: int, flags: int, caller: Caller, *, linked: bool) -> int:
        writable = flags & os.O_ACCMODE != os.O_RDONLY
        self._contents.opened(ino, writable)
        self._orphans.opened(ino, linked=linked)
        self._last_handle += 1
        self._files[self._last_handle] = FileHandle(
            ino=ino,
            readable=flags & os.O_ACCMODE != os.O_WRONLY,
            writable=writable,
            appends=bool(flags & os.O_APPEND) and writable,
            caller=caller,
            readahead=self._contents.readahead(),
            privileges_settled=caller.uid == 0,
            synchronous=bool(flags & os.O_DSYNC),
            direct=bool(flags & (os.O_DIRECT | os.O_DSYNC)) or (bool(flags & os.O_APPEND) and writable),
        )
        return self._last_handle

    async def lend(self, handle: int, *, created: bool) -> Lent | None:
        """Right before the handle goes to the kernel: the local file that it may use for it, if any."""
        file = self._file(handle)
        try:
            file.lent = await self._contents.lend(
                file.ino,
                readable=file.readable,
                writable=file.writable,
                direct=file.direct,
                created=created,
                uid=file.caller.uid,
            )
        except BaseException:
            self._remove(handle)
            raise
        file.with_kernel = True
        return file.lent

    def expect_writes(self, handle: int, made: Found) -> None:
        """The handle of a file that was just created goes to the kernel now: writes to it may arrive without a call."""
        file = self._file(handle)
        if file.writable and file.lent is None:
            self._contents.created(file.ino, made.inode)

    def _remove(self, handle: int) -> None:
        file = self._files.pop(handle)
        if file.with_kernel:
            self._contents.returned(file.ino, lent=file.lent is not None, readable=file.readable)
        self._contents.closed(file.ino, file.writable)
        self._orphans.closed(file.ino)

    def forget_handles(self) -> None:
        """The mount has ended: nobody will use or release a handle any more (the kernel drops its last RELEASEs)."""
        for handle in list(self._files):
            self._remove(handle)

    def _file(self, handle: int) -> FileHandle:
        file = self._files.get(handle)
        if file is None:
            raise PosixError(errno.EBADF)
        return file

    def is_open(self, ino: int) -> bool:
        return self._orphans.is_open(ino)

    def ino_of(self, handle: int) -> int:
        return self._file(handle).ino

    # -- data ---------------------------------------------------------------------------------------------------------

    async def read(self, handle: int, offset: int, length: int) -> Buffer:
        """`length` bytes at `offset`, fewer only at the end of the file."""
        file = self._file(handle)
        return await self._contents.read(file.ino, offset, length, file.readahead)

    async def write(self, handle: int, offset: int, data: Buffer, *, mapped: bool = False) -> int:
        """All of `data`, at `offset`; a handle with O_APPEND writes where the file ends when the record is applied.
        `mapped`: it was stored to a mapping, which takes no privileges away on any Linux file system."""
        file = self._file(handle)
        if not file.writable:
            raise PosixError(errno.EBADF)
        if mapped:
            return await self._contents.write(file.ino, offset, data)
        if not file.privileges_settled:
            await self._settle_privileges(file)
        if file.appends:
            return await self.append(handle, data)
        count = await self._contents.write(file.ino, offset, data)
        if file.synchronous and file.lent is not None:  # the kernel sees to that only where it has pages
            await self._contents.publish(file.ino)
        return count

    async def append(self, handle: int, data: Buffer) -> int:
        """As `write` by a handle with O_APPEND, whatever it was opened with."""
        file = self._file(handle)
        if not file.writable:
            raise PosixError(errno.EBADF)
        if not file.privileges_settled:
            await self._settle_privileges(file)
        await self._contents.append(file.ino, data)
        return memoryview(data).nbytes

    async def _settle_privileges(self, file: FileHandle) -> None:
        if file.privileges_settled:
            return
        lost = self._lost_privileges(file.ino, file.caller)
        if lost:
            await self._commit_attributes(file.ino, None, None, None, lost=lost)
        file.privileges_settled = True

    async def flush(self, handle: int) -> None:
        """close(2): what was written is in the bucket and in the journal, or, under a lease, on its way there together
        with the names; or this says why not (R10)."""
        file = self._file(handle)
        if file.writable:
            await self._settle_unseen(file)
            await self._contents.close(file.ino)
            self._session.require_kept(file.ino)

    def flush_at_once(self, handle: int) -> bool:
        """As `flush`, where there is nothing to wait for. False: nothing was done. No checkpoint."""
        file = self._file(handle)
        if not file.writable:
            return True
        if self._may_owe_privileges(file) or not self._contents.close_at_once(file.ino):
            return False
        self._session.require_kept(file.ino)
        return True

    async def fsync(self, handle: int) -> None:
        """fsync(2), fdatasync(2), through any handle: what was written, and the file itself, are in the bucket."""
        file = self._file(handle)
        ino = file.ino
        if not self._read_only:
            await self._settle_unseen(file)
            await self._contents.publish(ino)
            await self._session.barrier(ino)

    async def release(self, handle: int) -> None:
        """The last reference is gone. A mapping may have written after the last close, so what is left is published."""
        file = self._file(handle)
        try:
            if file.writable:
                await self._settle_unseen(file)
                await self._contents.close(file.ino)
        finally:
            self._remove(handle)

    def release_at_once(self, handle: int) -> bool:
        """As `release`, where there is nothing to wait for. False: nothing was done. No checkpoint."""
        file = self._file(handle)
        if file.writable and (self._may_owe_privileges(file) or not self._contents.release_at_once(file.ino)):
            return False
        self._remove(handle)
        return True

    def _may_owe_privileges(self, file: FileHandle) -> bool:
        """Whether the kernel may have written what takes privileges away."""
        if file.lent is None or not file.writable or file.privileges_settled:
            return False
        try:
            return bool(self._lost_privileges(file.ino, file.caller))
        except PosixError:  # the inode is gone: whoever does without a checkpoint leaves that to who reports it
            return True

    async def _settle_unseen(self, file: FileHandle) -> None:
        """A kernel that writes by itself takes no privileges away: that is done when it is found that it has."""
        if not self._may_owe_privileges(file):
            return
        found = await self._contents.harvest(file.ino)
        if found != file.harvested:
            file.harvested = found
            await self._settle_privileges(file)

    async def _refuse_privileges(self, ino: int, new: NewAttributes, caller: Caller) -> None:
        """ETXTBSY for setuid and setgid on a file that somebody else, who is not root, may be writing to without the
        daemon: nobody would take them away before the file is closed. Whoever sets them on what he writes to himself
        loses them then."""
        if (new.mode is None and new.uid is None and new.gid is None) or not self._contents.unseen_writers(ino):
            return
        with self._session.view() as txn:
            mode = self._inode(Rows(txn), ino).mode if new.mode is None else new.mode
        if not mode & (stat.S_ISUID | stat.S_ISGID):
            return
        if self._contents.unseen_writers(ino) - {caller.uid}:
            raise PosixError(errno.ETXTBSY)
        count = await self._contents.harvest(ino)  # what was written before does not count
        for file in self._files.values():
            if file.ino == ino:
                file.harvested = count

    async def setattr(self, ino: int, new: NewAttributes, caller: Caller, *, by_handle: bool = False) -> Found:
        await self._refuse_privileges(ino, new, caller)
        found = await super().setattr(ino, new, caller, by_handle=by_handle)
        if new.mode is not None and new.mode & (stat.S_ISUID | stat.S_ISGID):
            self._contents.reconsider(ino)
            for file in self._files.values():
                if file.ino == ino:
                    file.privileges_settled = file.caller.uid == 0
        return found
