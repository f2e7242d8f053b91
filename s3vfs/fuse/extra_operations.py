"""The native extension's adapter: each of its requests becomes one call of Filesystem, each error an errno.

Beside pyfuse3's handlers (operations.py), not below them: a request that arrives here occupies none of pyfuse3's tasks,
so any number of locks may be waited for, for hours, without holding up anything else.

A wait for a lock ends with EINTR when a signal reaches the waiter, and with ENOTCONN when the mount ends (EINTR without
a signal would reach the program as the kernel's own ERESTARTSYS). Nothing else can be interrupted: its effect may be in
the journal already.
"""

from __future__ import annotations

import errno
import fcntl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import trio

from s3vfs.errors import PosixError
from s3vfs.filesystem import TO_THE_END, Caller, Conflict, LockKind
from s3vfs.fuse.errnos import Errnos

if TYPE_CHECKING:
    from s3vfs.fuse.native._interpose import Request

# One answer holds a count below 2**32, and Linux moves no more than this in one call anyway.
_MOST_BYTES = 0x7FFFF000

_KINDS = {fcntl.LOCK_SH: LockKind.SHARED, fcntl.LOCK_EX: LockKind.EXCLUSIVE, fcntl.LOCK_UN: LockKind.UNLOCK}


class ExtraCalls(Protocol):
    """The part of Filesystem that is asked."""

    def ino_of(self, handle: int) -> int: ...

    async def lock(
        self,
        handle: int,
        owner: int,
        start: int,
        end: int,
        kind: LockKind,
        *,
        flock: bool,
        wait: bool,
        pid: int,
    ) -> None: ...

    async def test_lock(self, handle: int, owner: int, start: int, end: int, kind: LockKind) -> Conflict | None: ...

    async def flush(self, handle: int, owner: int | None = None) -> None: ...

    async def release(self, handle: int, owner: int | None = None, *, flock: bool = False) -> None: ...

    def flush_at_once(self, handle: int, owner: int | None = None) -> bool: ...

    def release_at_once(self, handle: int, owner: int | None = None, *, flock: bool = False) -> bool: ...

    async def fallocate(self, handle: int, mode: int, offset: int, length: int) -> None: ...

    async def seek(self, handle: int, offset: int, whence: int) -> int: ...

    async def copy_range(
        self, source_handle: int, source_offset: int, handle: int, offset: int, length: int
    ) -> int: ...

    async def append(self, handle: int, data: bytes) -> int: ...

    async def setxattr(self, ino: int, name: bytes, value: bytes, caller: Caller, flags: int = 0) -> None: ...


class KernelPages(Protocol):
    """The part of KernelCache that is told."""

    def wrote(self, ino: int) -> None: ...

    async def published(self, ino: int) -> None: ...

    def published_at_once(self, ino: int) -> bool: ...

    def released(self, ino: int) -> None: ...

    async def settle(self, ino: int) -> None: ...


class ExtraOperations:
    """One mount's. `begin` is what the extension calls; it answers while `serving` is entered."""

    def __init__(self, filesystem: ExtraCalls, kernel: KernelPages, errnos: Errnos) -> None:
        self._filesystem = filesystem
        self._kernel = kernel
        self._errnos = errnos
        self._nursery: trio.Nursery | None = None
        self._waits: set[trio.CancelScope] = set()
        self._ending = False
        self._calls: dict[str, Callable[..., Awaitable[object]]] = {
            "flock": self._flock,
            "getlk": self._getlk,
            "setlk": self._setlk,
            "fallocate": self._fallocate,
            "lseek": self._lseek,
            "copy_file_range": self._copy_file_range,
            "append": self._append,
            "flush": self._flush,
            "release": self._release,
            "setxattr": self._setxattr,
        }
        self._at_once: dict[str, Callable[..., bool]] = {
            "flush": self._flush_at_once,
            "release": self._release_at_once,
        }

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Around pyfuse3's main loop. Leaving it ends the waits and answers everything else first; cancelled, it
        answers what is left with ENOTCONN."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                yield
            finally:
                self._ending = True
                for wait in self._waits:
                    wait.cancel()

    def waiting(self) -> int:
        """How many locks are being waited for."""
        return len(self._waits)

    def begin(self, call: str, request: Request, *arguments: Any) -> None:
        """The extension's callable: returns at once."""
        assert self._nursery is not None, "requests arrive while the main loop runs"
        at_once = self._at_once.get(call)
        if at_once is not None and self._done_at_once(at_once, arguments):
            request.reply_error(0)
        else:
            self._nursery.start_soon(self._answer, call, request, arguments, name=call)

    @staticmethod
    def _done_at_once(at_once: Callable[..., bool], arguments: tuple[Any, ...]) -> bool:
        """A task costs more than most closes, so those that wait for nothing get none."""
        try:
            return at_once(*arguments)
        except Exception:
            return False  # the task meets it again, and reports it

    async def _answer(self, call: str, request: Request, arguments: tuple[Any, ...]) -> None:
        try:
            await self._calls[call](request, *arguments)
        except Exception as error:
            code = self._errnos.of(call, error)
            if not request.answered:
                request.reply_error(code)
        finally:
            if not request.answered:  # cancelled
                request.reply_error(errno.ENOTCONN)

    @contextmanager
    def _wait(self) -> Iterator[None]:
        """For what may take for ever: raises ENOTCONN when the mount ends."""
        with trio.CancelScope() as scope:
            self._waits.add(scope)
            try:
                if self._ending:
                    scope.cancel()
                yield
            finally:
                self._waits.discard(scope)
        if scope.cancelled_caught:
            raise PosixError(errno.ENOTCONN)

    # -- locks --------------------------------------------------------------------------------------------------------

    async def _flock(self, request: Request, handle: int, owner: int, operation: int) -> None:
        kind = _KINDS.get(operation & ~fcntl.LOCK_NB)
        if kind is None:
            raise PosixError(errno.EINVAL)
        wait = not operation & fcntl.LOCK_NB
        await self._lock(request, handle, owner, 0, TO_THE_END, kind, flock=True, wait=wait, pid=request.pid)

    async def _setlk(
        self, request: Request, handle: int, owner: int, kind: int, start: int, end: int, pid: int, wait: int
    ) -> None:
        await self._lock(
            request, handle, owner, start, end, LockKind(kind), flock=False, wait=bool(wait), pid=pid or request.pid
        )

    async def _lock(
        self,
        request: Request,
        handle: int,
        owner: int,
        start: int,
        end: int,
        kind: LockKind,
        *,
        flock: bool,
        wait: bool,
        pid: int,
    ) -> None:
        if kind is LockKind.UNLOCK or not wait:
            await self._filesystem.lock(handle, owner, start, end, kind, flock=flock, wait=False, pid=pid)
        else:
            with self._wait(), trio.CancelScope() as interruptible:
                request.when_interrupted(interruptible.cancel)
                await self._filesystem.lock(handle, owner, start, end, kind, flock=flock, wait=True, pid=pid)
            if interruptible.cancelled_caught:
                raise PosixError(errno.EINTR)
        if kind is not LockKind.UNLOCK:
            with self._wait():  # under the lock, old handles see what the last holder wrote
                await self._kernel.settle(self._filesystem.ino_of(handle))
        request.reply_error(0)

    async def _getlk(self, request: Request, handle: int, owner: int, kind: int, start: int, end: int) -> None:
        conflict = await self._filesystem.test_lock(handle, owner, start, end, LockKind(kind))
        if conflict is None:
            request.reply_lock(LockKind.UNLOCK, start, end, 0)
        else:
            held = LockKind.EXCLUSIVE if conflict.exclusive else LockKind.SHARED
            request.reply_lock(held, conflict.start, conflict.end, conflict.pid)

    # -- ranges of files ----------------------------------------------------------------------------------------------

    async def _fallocate(self, request: Request, handle: int, mode: int, offset: int, length: int) -> None:
        await self._filesystem.fallocate(handle, mode, offset, length)
        self._kernel.wrote(self._filesystem.ino_of(handle))
        request.reply_error(0)

    async def _lseek(self, request: Request, handle: int, offset: int, whence: int) -> None:
        request.reply_offset(await self._filesystem.seek(handle, offset, whence))

    async def _copy_file_range(
        self,
        request: Request,
        source_handle: int,
        source_offset: int,
        handle: int,
        offset: int,
        length: int,
        flags: int,
    ) -> None:
        if flags:
            raise PosixError(errno.EINVAL)
        count = await self._filesystem.copy_range(
            source_handle, source_offset, handle, offset, min(length, _MOST_BYTES)
        )
        self._kernel.wrote(self._filesystem.ino_of(handle))
        request.reply_count(count)

    async def _append(self, request: Request, handle: int, data: bytes) -> None:
        """A write by a handle that has O_APPEND now, since its open or since fcntl(2). A handle that was opened without
        it uses the page cache, and the kernel has put the bytes where it believes the end to be; where others have
        moved that, the attributes that it asks for next make it drop its pages."""
        count = await self._filesystem.append(handle, data)
        self._kernel.wrote(self._filesystem.ino_of(handle))
        request.reply_count(count)

    # -- the end of handles -------------------------------------------------------------------------------------------

    async def _flush(self, request: Request, handle: int, owner: int) -> None:
        """A close of one descriptor: its process has no fcntl lock on the file any more."""
        await self._filesystem.flush(handle, owner)
        await self._kernel.published(self._filesystem.ino_of(handle))
        request.reply_error(0)

    async def _release(self, request: Request, handle: int, owner: int, flock: int) -> None:
        """The last descriptor of a handle is gone. `flock`: a flock was ever asked for through it."""
        ino = self._filesystem.ino_of(handle)
        try:
            await self._filesystem.release(handle, owner, flock=bool(flock))
        finally:
            self._kernel.released(ino)
        request.reply_error(0)

    def _flush_at_once(self, handle: int, owner: int) -> bool:
        ino = self._filesystem.ino_of(handle)
        return self._filesystem.flush_at_once(handle, owner) and self._kernel.published_at_once(ino)

    def _release_at_once(self, handle: int, owner: int, flock: int) -> bool:
        ino = self._filesystem.ino_of(handle)
        if not self._filesystem.release_at_once(handle, owner, flock=bool(flock)):
            return False
        self._kernel.released(ino)
        return True

    # -- extended attributes ------------------------------------------------------------------------------------------

    async def _setxattr(self, request: Request, ino: int, name: bytes, value: bytes, flags: int) -> None:
        """With its flags; pyfuse3 would ask getxattr first, and somebody else might come in between."""
        await self._filesystem.setxattr(ino, name, value, Caller(request.uid, request.gid, request.pid), flags)
        request.reply_error(0)
