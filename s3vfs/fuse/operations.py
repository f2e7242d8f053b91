"""The pyfuse3 adapter: each request becomes one call of Filesystem, each error an errno.

Decides only what the kernel may keep. Whatever goes wrong in a handler ends here: any exception but FUSEError would end
pyfuse3's main loop, and with it the mount.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import stat
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, TypeVar

from s3vfs.errors import PosixError
from s3vfs.filesystem import Caller, Filesystem, Found, NewAttributes
from s3vfs.fuse.attributes import fill
from s3vfs.fuse.errnos import Errnos
from s3vfs.fuse.kernel import IN_FLIGHT_S, LINGER_S, KernelCache
from s3vfs.fuse.libfuse import pyfuse3
from s3vfs.fuse.passthrough import Passthrough
from s3vfs.fuse.second_tries import OPEN_WITHIN_S, OTHER_WITHIN_S, Serving
from s3vfs.namespace.ops import RENAME_EXCHANGE

if TYPE_CHECKING:
    from typing_extensions import Buffer

# The extension sets this bit of the handle in writes of what was stored to a mapping.
_MAPPED_STORE = 1 << 63

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")
_Handler = Callable[Concatenate["Operations", _Arguments], Coroutine[Any, Any, _Result]]


class Touched(Protocol):
    """Who wants to know that the kernel may cache answers from now on."""

    def touch(self) -> None: ...


def _guarded(handler: _Handler[_Arguments, _Result]) -> _Handler[_Arguments, _Result]:
    """Errors leave as FUSEError."""

    @functools.wraps(handler)
    async def answer(self: Operations, /, *args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        try:
            return await handler(self, *args, **kwargs)
        except pyfuse3.FUSEError:
            raise
        except Exception as error:
            raise pyfuse3.FUSEError(self.errnos.of(handler.__name__, error)) from None

    return answer


def _caller(ctx: pyfuse3.RequestContext) -> Caller:
    return Caller(ctx.uid, ctx.gid, ctx.pid, ctx.umask)


class Operations(pyfuse3.Operations):
    """One mount's handlers. `now_s`: the kernel cache's clock."""

    supports_dot_lookup = True
    enable_writeback_cache = False  # the kernel would ignore sizes and times that other clients set
    enable_acl = True  # the kernel checks ACLs, and leaves their upkeep to the file system

    def __init__(
        self,
        filesystem: Filesystem,
        session: Touched,
        kernel: KernelCache,
        *,
        entry_timeout_s: float,
        attribute_timeout_s: float,
        now_s: Callable[[], float],
        passthrough: Passthrough | None = None,
    ) -> None:
        super().__init__()
        self._filesystem = filesystem
        self._session = session
        self._kernel = kernel
        self._entry_timeout_s = entry_timeout_s
        self._attribute_timeout_s = attribute_timeout_s
        self._now_s = now_s
        self._passthrough = passthrough
        self.errnos = Errnos(now_s)

    def _entry(self, found: Found, asked_s: float | None = None) -> pyfuse3.EntryAttributes:
        self._kernel.gave(found, asked_s)
        entry = pyfuse3.EntryAttributes()
        fill(entry, found)
        entry.entry_timeout = self._entry_timeout_s
        entry.attr_timeout = self._attribute_timeout_s
        return entry

    # -- names --------------------------------------------------------------------------------------------------------

    @_guarded
    async def lookup(self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        """A name that is not there raises ENOENT, which the kernel does not cache."""
        self._session.touch()
        asked_s = self._now_s()
        thread, path_name = ctx.pid, (parent_inode, name)
        second_tries = self._kernel.second_tries
        walking = second_tries.looks_up(thread, path_name)
        try:
            found = await self._filesystem.lookup(parent_inode, name)
        except PosixError as error:
            if error.errno == errno.ENOENT:
                second_tries.looked_up(thread, path_name, 0)
                raise
            second_tries.ended(thread)
            if error.errno == errno.ESTALE:  # the directory is gone
                if walking:  # the path leads there without a name (a working directory), or this one has just gone
                    raise PosixError(errno.ENOENT) from None
                second_tries.refused(thread, parent_inode, lasts_s=OTHER_WITHIN_S)
            raise
        except Exception:
            second_tries.ended(thread)
            raise
        leads_on = stat.S_ISDIR(found.inode.mode) or stat.S_ISLNK(found.inode.mode)
        second_tries.looked_up(thread, path_name, found.ino, leads_on=leads_on)
        return self._entry(found, asked_s)

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        """Nothing is kept for each node that the kernel knows, so nothing is to be forgotten."""

    @_guarded
    async def mknod(
        self, parent_inode: int, name: bytes, mode: int, rdev: int, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        return self._entry(await self._filesystem.mknod(parent_inode, name, mode, rdev, _caller(ctx)))

    @_guarded
    async def mkdir(
        self, parent_inode: int, name: bytes, mode: int, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        return self._entry(await self._filesystem.mkdir(parent_inode, name, mode, _caller(ctx)))

    @_guarded
    async def symlink(
        self, parent_inode: int, name: bytes, target: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        return self._entry(await self._filesystem.symlink(parent_inode, name, target, _caller(ctx)))

    @_guarded
    async def link(
        self, inode: int, new_parent_inode: int, new_name: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        return self._entry(await self._filesystem.link(inode, new_parent_inode, new_name))

    @_guarded
    async def unlink(self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        await self._filesystem.unlink(parent_inode, name, _caller(ctx))

    @_guarded
    async def rmdir(self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        await self._filesystem.rmdir(parent_inode, name, _caller(ctx))

    @_guarded
    async def rename(
        self,
        parent_inode_old: int,
        name_old: bytes,
        parent_inode_new: int,
        name_new: bytes,
        flags: int,
        ctx: pyfuse3.RequestContext,
    ) -> None:
        old, new = (parent_inode_old, name_old), (parent_inode_new, name_new)
        await self._filesystem.rename(*old, *new, flags, _caller(ctx))
        self._kernel.renamed(old, new, exchanged=flags == RENAME_EXCHANGE)

    # -- attributes ---------------------------------------------------------------------------------------------------

    @_guarded
    async def getattr(self, inode: int, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        self._session.touch()
        asked_s = self._now_s()
        with self._refusing(inode, ctx.pid, lasts_s=OTHER_WITHIN_S):
            return self._entry(await self._filesystem.getattr(inode), asked_s)

    @_guarded
    async def setattr(
        self,
        inode: int,
        attr: pyfuse3.EntryAttributes,
        fields: pyfuse3.SetattrFields,
        fh: int | None,
        ctx: pyfuse3.RequestContext,
    ) -> pyfuse3.EntryAttributes:
        new = NewAttributes(
            mode=attr.st_mode & 0o7777 if fields.update_mode else None,
            uid=attr.st_uid if fields.update_uid else None,
            gid=attr.st_gid if fields.update_gid else None,
            size=attr.st_size if fields.update_size else None,
            atime_ns=attr.st_atime_ns if fields.update_atime else None,
            mtime_ns=attr.st_mtime_ns if fields.update_mtime else None,
        )
        with self._refusing(inode, ctx.pid, lasts_s=OTHER_WITHIN_S):
            return self._entry(await self._filesystem.setattr(inode, new, _caller(ctx), by_handle=fh is not None))

    @_guarded
    async def readlink(self, inode: int, ctx: pyfuse3.RequestContext) -> bytes:
        """ESTALE as in `open`: an outdated name must not lead away from what is there now."""
        with self._refusing(inode, ctx.pid, lasts_s=OTHER_WITHIN_S), self._kernel.arriving() as arrived_s:
            named = self._kernel.second_tries.follows(ctx.pid, inode)

            async def check() -> None:
                if not named:
                    await self._refuse_outdated(inode, ctx.pid, arrived_s)

            return await self._filesystem.readlink(inode, check=check)

    @_guarded
    async def access(self, inode: int, mode: int, ctx: pyfuse3.RequestContext) -> bool:
        """Only asked without default_permissions."""
        return await self._filesystem.access(inode, mode, _caller(ctx))

    @_guarded
    async def statfs(self, ctx: pyfuse3.RequestContext) -> pyfuse3.StatvfsData:
        statistics = await self._filesystem.statfs()
        answer = pyfuse3.StatvfsData()
        answer.f_bsize = answer.f_frsize = statistics.block_bytes
        answer.f_blocks = statistics.blocks
        answer.f_bfree = answer.f_bavail = statistics.free_blocks
        answer.f_files = statistics.inodes
        answer.f_ffree = answer.f_favail = statistics.free_inodes
        answer.f_namemax = statistics.name_max_bytes
        return answer

    # -- files --------------------------------------------------------------------------------------------------------

    @_guarded
    async def open(self, inode: int, flags: int, ctx: pyfuse3.RequestContext) -> pyfuse3.FileInfo:
        """ESTALE when the kernel may have come here by an outdated name, or has perhaps an outdated size: it looks the
        path up again, and asks again."""
        self._session.touch()
        with self._opening(inode, ctx.pid, sized=not flags & os.O_TRUNC) as check:
            handle = await self._filesystem.open(inode, flags, _caller(ctx), check=check)
        if flags & os.O_TRUNC:
            self._kernel.wrote(inode)
        await self._kernel.attributes_withdrawn(inode)
        info = await self._file_info(handle, inode, flags)
        self._filesystem.given_out(handle)
        return info

    @contextlib.contextmanager
    def _opening(self, ino: int, thread: int, *, sized: bool = False) -> Iterator[Callable[[], Awaitable[None]]]:
        """Around an open that has just arrived. Gives a check, to be called once the view is fresh: is the name that it
        came by outdated, or (`sized`) the size that the kernel has? Threads that cannot be told apart are not sent back
        for the size: who knows when to stop?"""
        with self._refusing(ino, thread, lasts_s=OPEN_WITHIN_S), self._kernel.arriving() as arrived_s:
            second_try = self._kernel.second_tries.is_second_try(thread, ino)

            async def check() -> None:
                if not second_try:
                    await self._refuse_outdated(ino, thread, arrived_s)
                if sized and thread and not second_try and await self._kernel.size_outdated(ino):
                    raise PosixError(errno.ESTALE)

            yield check

    async def _refuse_outdated(self, ino: int, thread: int, arrived_s: float) -> None:
        """ESTALE where the kernel may have come to the inode, by a request that arrived then, by an outdated name."""
        if self._kernel.may_be_outdated(ino, arrived_s, linger_s=LINGER_S if thread else IN_FLIGHT_S):
            if not thread:
                await self._kernel.unlearned(ino)
            raise PosixError(errno.ESTALE)

    def _refusing(self, ino: int, thread: int, *, lasts_s: float) -> Serving:
        """Around a request about an inode. An ESTALE that leaves is remembered: the kernel walks the path once more."""
        return self._kernel.second_tries.serving(thread, ino, lasts_s=lasts_s)

    @_guarded
    async def create(
        self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: pyfuse3.RequestContext
    ) -> tuple[pyfuse3.FileInfo, pyfuse3.EntryAttributes]:
        """Where the name has been taken since the kernel looked, only O_EXCL makes that an error. Otherwise ESTALE: the
        kernel looks again, checks the caller's right to what it finds, and opens that."""
        self._session.touch()
        try:
            handle, found = await self._filesystem.create(parent_inode, name, mode, flags, _caller(ctx))
        except PosixError as error:
            if error.errno == errno.EEXIST and not flags & os.O_EXCL:
                self._kernel.second_tries.refused(ctx.pid, parent_inode)
                raise PosixError(errno.ESTALE) from None
            raise
        info = await self._file_info(handle, found.ino, flags, created=True)
        self._filesystem.expect_writes(handle, found)
        return info, self._entry(found)

    async def _file_info(self, handle: int, ino: int, flags: int, *, created: bool = False) -> pyfuse3.FileInfo:
        """Appending handles go around the page cache: the kernel would place the bytes at its own idea of the end. A
        handle that the kernel serves from a local file has no pages at all, and leaves none that may be kept."""
        if self._passthrough is not None:
            lent = await self._filesystem.lend(handle, created=created)
            if lent is not None:
                self._kernel.passed(ino)
                self._passthrough.carry(handle, lent.backing, direct=lent.direct)
                return pyfuse3.FileInfo(fh=handle, direct_io=lent.direct, keep_cache=False)
        direct = bool(flags & os.O_APPEND) and flags & os.O_ACCMODE != os.O_RDONLY
        return pyfuse3.FileInfo(fh=handle, direct_io=direct, keep_cache=self._kernel.keep_pages(ino))

    @_guarded
    async def read(self, fh: int, off: int, size: int) -> Buffer:  # type: ignore[override]  # any buffer will do
        return await self._filesystem.read(fh, off, size)

    @_guarded
    async def write(self, fh: int, off: int, buf: bytes) -> int:
        handle, mapped = fh & ~_MAPPED_STORE, bool(fh & _MAPPED_STORE)
        count = await self._filesystem.write(handle, off, buf, mapped=mapped)
        self._kernel.wrote(self._filesystem.ino_of(handle))
        return count

    @_guarded
    async def flush(self, fh: int) -> None:
        await self._filesystem.flush(fh)
        await self._kernel.published(self._filesystem.ino_of(fh))

    @_guarded
    async def fsync(self, fh: int, datasync: bool) -> None:
        await self._filesystem.fsync(fh)
        await self._kernel.published(self._filesystem.ino_of(fh))

    @_guarded
    async def release(self, fh: int) -> None:
        ino = self._filesystem.ino_of(fh)
        try:
            await self._filesystem.release(fh)
        finally:
            self._kernel.released(ino)

    # -- directories --------------------------------------------------------------------------------------------------

    @_guarded
    async def opendir(self, inode: int, ctx: pyfuse3.RequestContext) -> int:
        self._session.touch()
        with self._opening(inode, ctx.pid) as check:
            return await self._filesystem.opendir(inode, check=check)

    @_guarded
    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        self._session.touch()
        entry = pyfuse3.EntryAttributes()  # copied by each reply, so one will do
        entry.entry_timeout = self._entry_timeout_s
        entry.attr_timeout = self._attribute_timeout_s

        def emit(name: bytes, found: Found, position: int) -> bool:
            fill(entry, found)
            if not pyfuse3.readdir_reply(token, name, entry, position):
                return False
            self._kernel.gave(found)
            return True

        await self._filesystem.readdir(fh, start_id, emit)

    @_guarded
    async def releasedir(self, fh: int) -> None:
        await self._filesystem.releasedir(fh)

    @_guarded
    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        await self._filesystem.fsyncdir(fh)

    # -- extended attributes ------------------------------------------------------------------------------------------

    @_guarded
    async def getxattr(self, inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> bytes:
        with self._refusing(inode, ctx.pid, lasts_s=OTHER_WITHIN_S):
            return await self._filesystem.getxattr(inode, name)

    @_guarded
    async def setxattr(self, inode: int, name: bytes, value: bytes, ctx: pyfuse3.RequestContext) -> None:
        """pyfuse3 keeps the flags to itself and asks getxattr first."""
        with self._refusing(inode, ctx.pid, lasts_s=OTHER_WITHIN_S):
            await self._filesystem.setxattr(inode, name, value, _caller(ctx))

    @_guarded
    async def listxattr(self, inode: int, ctx: pyfuse3.RequestContext) -> list[bytes]:
        with self._refusing(inode, ctx.pid, lasts_s=OTHER_WITHIN_S):
            return await self._filesystem.listxattr(inode, _caller(ctx))

    @_guarded
    async def removexattr(self, inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        with self._refusing(inode, ctx.pid, lasts_s=OTHER_WITHIN_S):
            await self._filesystem.removexattr(inode, name)
