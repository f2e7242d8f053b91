"""A file system in memory that notes what it is asked, served by a process of its own through the real adapter.

    python -m tests.fuse.double MOUNTPOINT NOTES

The root has the files a and b. What happens to a request is written on it, so that a test needs no other channel:

    a lock that starts at     13: EDEADLK    14: the bucket is away    15: a bug    16: granted after a pause
                              100 and more: waits until it is withdrawn; so does an exclusive flock of b
    a lock that is tested     below 10: bytes 5 to 9 are locked by process 77
    fallocate                 mode 0x10 (ZERO_RANGE): EOPNOTSUPP
    lseek                     data begins at 4096, the hole at 8192
    setxattr                  user.there exists
    open of a                 where there is a file NOTES.backing, the kernel is to read and write that
    open of b                 where there is a file NOTES.front, the front is to take writes: NOTES.front is JSON, the
                              names of the working file and of its log, span_bytes and allow_bytes

Each call becomes a line of JSON in NOTES. So does what the front has taken; with NOTES.halt it takes no more then.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import stat
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import trio

from s3vfs.data.protocol import Taken
from s3vfs.data.rangelog import RangeLog
from s3vfs.errors import PosixError, StoreUnreachable
from s3vfs.filesystem import Caller, Conflict, Filesystem, Found, Lent, LockKind, Statistics
from s3vfs.fuse.front import NativeFront
from s3vfs.fuse.options import MountOptions
from s3vfs.fuse.passthrough import Passthrough
from s3vfs.fuse.serve import serve
from s3vfs.namespace.rows import ROOT_INO, Inode

if TYPE_CHECKING:
    from s3vfs.fuse.native._interpose import Stream

_FILES = {b"a": 2, b"b": 3}
_ROOT = Inode(stat.S_IFDIR | 0o777, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, b"")
_FILE = Inode(stat.S_IFREG | 0o666, 0, 0, 1, 16384, 0, 0, 0, 0, 0, 0, 0, 0, b"")


class Session:
    def touch(self) -> None: ...

    def listen(self, callback: Callable[..., None], *, reloaded: Callable[[], None] | None = None) -> None: ...


class Double:
    """As much of Filesystem as the tests need."""

    def __init__(self, notes: Path) -> None:
        self._notes = notes.open("a", buffering=1)
        self._backing = notes.with_suffix(".backing")
        self.passthrough = Passthrough("passthrough", notes.parent)
        self._lent: list[int] = []
        self.front = NativeFront("front", self)
        self._fronted = notes.with_suffix(".front")
        self._halt = notes.with_suffix(".halt")
        self._stream: Stream | None = None
        self._handles: dict[int, int] = {}
        self._last = 0

    def note(self, call: str, **details: Any) -> None:
        self._notes.write(json.dumps({"call": call, **details}) + "\n")

    # -- what any mount needs -----------------------------------------------------------------------------------------

    async def keep_orphans(self) -> None: ...

    def forget_handles(self) -> None:
        self.note("end", handles=len(self._handles))

    def entry_of(self, ino: int) -> None: ...

    def peek(self, ino: int) -> None: ...

    def holds(self, parent: int, name: bytes, ino: int) -> bool:
        return True

    def lineage(self, ino: int) -> list[int]:
        return [ino]

    def is_open(self, ino: int) -> bool:
        return ino in self._handles.values()

    def ino_of(self, handle: int) -> int:
        if handle not in self._handles:
            raise PosixError(errno.EBADF)
        return self._handles[handle]

    async def lookup(self, parent: int, name: bytes) -> Found:
        if name not in _FILES:
            raise PosixError(errno.ENOENT)
        return Found(_FILES[name], _FILE)

    async def getattr(self, ino: int) -> Found:
        return Found(ino, _ROOT if ino == ROOT_INO else _FILE)

    async def statfs(self) -> Statistics:
        return Statistics(4096, 1000, 1000, 1000, 1000, 255)

    async def getxattr(self, ino: int, name: bytes) -> bytes:
        self.note("getxattr", ino=ino, name=name.decode())
        raise PosixError(errno.ENODATA)

    async def open(
        self, ino: int, flags: int, caller: Caller, *, check: Callable[[], Awaitable[None]] | None = None
    ) -> int:
        self._last += 1
        self._handles[self._last] = ino
        if ino == _FILES[b"b"] and self._fronted.exists():
            self._arm()
        return self._last

    def expect_writes(self, handle: int, made: Found) -> None: ...

    def _arm(self) -> None:
        wanted = json.loads(self._fronted.read_text())
        if self._stream is None:
            self._stream = self.front.stream(_FILES[b"b"])
        log = RangeLog(wanted["log"], _FILES[b"b"], "boot", 5, left_behind=False)
        self._stream.arm_new(
            os.fsencode(wanted["file"]), os.fsencode(wanted["log"]), log.header(9), wanted["span_bytes"]
        )
        self._stream.set_plain(True)
        self.front.allow(wanted["allow_bytes"] - self.front.allow(0))

    def taken(self, taken: Taken) -> None:
        opened = [taken.fd >= 0, taken.log_fd >= 0]
        self.note("taken", ino=taken.ino, open=opened, log_end=taken.log_end, ranges=taken.ranges)
        if self._halt.exists() and self._stream is not None:
            self._stream.disarm()

    async def lend(self, handle: int, *, created: bool) -> Lent | None:
        if self._handles[handle] != _FILES[b"a"] or not self._backing.exists():
            return None
        if not self._lent:
            with self._backing.open("rb") as file:
                self._lent.append(self.passthrough.register(file.fileno()))
            self.note("registered", refused=self.passthrough.refused)
        direct = (self._backing.with_suffix(".direct")).exists()
        return Lent(self._lent[0], direct)

    async def read(self, handle: int, offset: int, length: int) -> bytes:
        self.note("read", handle=handle, offset=offset)
        return bytes(max(0, min(length, _FILE.size - offset)))

    # -- what goes through the extension ------------------------------------------------------------------------------

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
    ) -> None:
        details = {
            "handle": handle,
            "owner": owner,
            "start": start,
            "end": end,
            "kind": kind.name,
            "flock": flock,
            "wait": wait,
            "pid": pid,
        }
        self.note("lock", **details)
        if start == 13:
            raise PosixError(errno.EDEADLK)
        if start == 14:
            raise StoreUnreachable("away")
        if start == 15:
            raise KeyError("a bug")
        blocked = start >= 100 or (flock and kind is LockKind.EXCLUSIVE and self.ino_of(handle) == _FILES[b"b"])
        if start == 16:
            await trio.lowlevel.checkpoint()
        if not blocked or kind is LockKind.UNLOCK:
            return
        if not wait:
            raise PosixError(errno.EAGAIN)
        try:
            await trio.sleep_forever()
        finally:
            self.note("withdrawn", **details)

    async def test_lock(self, handle: int, owner: int, start: int, end: int, kind: LockKind) -> Conflict | None:
        self.note("test_lock", handle=handle, owner=owner, start=start, end=end, kind=kind.name)
        return Conflict(5, 9, True, 77) if start < 10 else None

    async def flush(self, handle: int, owner: int | None = None) -> None:
        self.note("flush", handle=handle, owner=owner)

    async def fsync(self, handle: int) -> None:
        self.note("fsync", handle=handle)

    async def release(self, handle: int, owner: int | None = None, *, flock: bool = False) -> None:
        self.note("release", handle=handle, owner=owner, flock=flock)
        del self._handles[handle]

    def flush_at_once(self, handle: int, owner: int | None = None) -> bool:
        return False

    def release_at_once(self, handle: int, owner: int | None = None, *, flock: bool = False) -> bool:
        return False

    async def fallocate(self, handle: int, mode: int, offset: int, length: int) -> None:
        self.note("fallocate", ino=self.ino_of(handle), mode=mode, offset=offset, length=length)
        if mode & 0x10:
            raise PosixError(errno.EOPNOTSUPP)

    async def seek(self, handle: int, offset: int, whence: int) -> int:
        self.note("seek", ino=self.ino_of(handle), offset=offset, whence=whence)
        if offset >= _FILE.size:
            raise PosixError(errno.ENXIO)
        return max(offset, 4096 if whence == os.SEEK_DATA else 8192)

    async def append(self, handle: int, data: bytes) -> int:
        self.note("append", ino=self._handles[handle], data=data.hex())
        return len(data)

    async def write(self, handle: int, offset: int, data: bytes, *, mapped: bool = False) -> int:
        self.note("write", ino=self._handles[handle], offset=offset, data=data.hex())
        return len(data)

    async def copy_range(self, source_handle: int, source_offset: int, handle: int, offset: int, length: int) -> int:
        source, target = self.ino_of(source_handle), self.ino_of(handle)
        self.note("copy_range", source=[source, source_offset], target=[target, offset], length=length)
        return length - 1

    async def setxattr(self, ino: int, name: bytes, value: bytes, caller: Caller, flags: int = 0) -> None:
        self.note("setxattr", ino=ino, name=name.decode(), value=value.hex(), uid=caller.uid, flags=flags)
        if flags == os.XATTR_CREATE and name == b"user.there":
            raise PosixError(errno.EEXIST)
        if flags == os.XATTR_REPLACE and name != b"user.there":
            raise PosixError(errno.ENODATA)


async def run(double: Double, mountpoint: str) -> None:
    """Serve until somebody unmounts, or SIGTERM cancels it."""
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:

            async def stop() -> None:
                async for _ in signals:
                    nursery.cancel_scope.cancel()

            nursery.start_soon(stop)
            await serve(
                cast(Filesystem, double),
                Session(),
                mountpoint,
                options=MountOptions(source="double"),
                ready=partial(double.note, "ready"),
                passthrough=double.passthrough,
                front=double.front,
            )
            nursery.cancel_scope.cancel()
    double.note("ended")


if __name__ == "__main__":
    trio.run(run, Double(Path(sys.argv[2])), sys.argv[1])
