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
    look-up of births         where there is a file NOTES.births, the front is to make files in the root: it has as many
                              in stock, from inode 100 on, may rely on lease 7.1 for a minute, and may close a MiB
    getxattr                  user.strange: estranges inode 100; user.over: lease 7.1 is over; user.distrust: nothing
                              is relied on any more; user.expire: leases may be relied on until a moment ago
    open                      where there is a file NOTES.readers, the front is to answer the end of each handle; a lock
                              that is asked for makes it forget that inode's
    a birth                   with NOTES.bug, what the front tells of it meets a bug

Each call becomes a line of JSON in NOTES. So does what the front has taken; with NOTES.halt it takes no more then.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import stat
import sys
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import trio

from s3vfs.data.protocol import Taken
from s3vfs.data.rangelog import RangeLog
from s3vfs.errors import PosixError, StoreUnreachable
from s3vfs.filesystem import (
    Birth,
    Births,
    Caller,
    Conflict,
    Filesystem,
    Found,
    Lent,
    LockKind,
    NewAttributes,
    Readers,
    Statistics,
)
from s3vfs.filesystem.newborns import RELEASED
from s3vfs.fuse.front import NativeFront
from s3vfs.fuse.options import MountOptions
from s3vfs.fuse.passthrough import Passthrough
from s3vfs.fuse.serve import serve
from s3vfs.namespace.rows import ROOT_INO, Inode
from s3vfs.session import front_log
from s3vfs.session.reliant import Reliant

if TYPE_CHECKING:
    from s3vfs.fuse.native._interpose import Stream

_FILES = {b"a": 2, b"b": 3}
_ROOT = Inode(stat.S_IFDIR | 0o777, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, b"")
_FILE = Inode(stat.S_IFREG | 0o666, 0, 0, 1, 16384, 0, 0, 0, 0, 0, 0, 0, 0, b"")


class Session:
    """`folder`: where the front writes down what it answers."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def touch(self) -> None: ...

    def rely(self, reliant: Reliant, give_back: Callable[[], int]) -> int:
        return front_log.create(self._folder, 5, 1, "boot")

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
        self.folder = notes.parent
        self.ahead: Births | None = None
        self.walked: Callable[[], bool] = lambda: False
        self.readers: Readers | None = None
        self._readers = notes.with_suffix(".readers")
        self._births = notes.with_suffix(".births")
        self._bug = notes.with_suffix(".bug")
        self._stock: list[Stream] = []

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
        if name == b"births" and self._births.exists():
            self._teach(int(self._births.read_text()))
        if name not in _FILES:
            self.note("lookup", name=name.decode())
            raise PosixError(errno.ENOENT)
        return Found(_FILES[name], _FILE)

    async def getattr(self, ino: int) -> Found:
        return Found(ino, _ROOT if ino == ROOT_INO else _FILE)

    async def statfs(self) -> Statistics:
        return Statistics(4096, 1000, 1000, 1000, 1000, 255)

    async def getxattr(self, ino: int, name: bytes) -> bytes:
        self.note("getxattr", ino=ino, name=name.decode())
        if name == b"user.strange":
            self.front.estrange(100)
        elif name == b"user.over":
            self.front.lease_over((7, 1))
        elif name == b"user.distrust":
            self.front.distrust()
        elif name == b"user.expire" and self.ahead is not None:
            self.ahead.trust(time.clock_gettime_ns(time.CLOCK_BOOTTIME) - 1, 1 << 20, 1 << 20)
        raise PosixError(errno.ENODATA)

    async def open(
        self, ino: int, flags: int, caller: Caller, *, check: Callable[[], Awaitable[None]] | None = None
    ) -> int:
        self._last += 1
        self._handles[self._last] = ino
        if ino == _FILES[b"b"] and self._fronted.exists():
            self._arm()
        return self._last

    def _teach(self, count: int) -> None:
        assert self.ahead is not None
        self.ahead.directory(ROOT_INO, (7, 1), _FILES)
        self.ahead.show(ROOT_INO, _ROOT)
        self.ahead.trust(time.clock_gettime_ns(time.CLOCK_BOOTTIME) + 60 * 10**9, 1 << 20, 1 << 20)
        self.front.allow((1 << 20) - self.front.allow(0))
        for ino in range(100, 100 + count):
            stream = self.front.stream(ino)
            log = RangeLog(self.folder / f"{ino}.log", ino, "boot", 5, left_behind=False)
            paths = (os.fsencode(self.folder / f"{ino}"), os.fsencode(log.name))
            stream.arm_new(*paths, log.header(1), 1 << 20)
            stream.set_plain(True)
            self._stock.append(stream)
            self.ahead.stock(stream)

    def born(self, taken: Taken, birth: Birth) -> Found | None:
        details = birth._asdict() | {"name": None if birth.name is None else birth.name.decode()}
        self.note("born", ino=taken.ino, ranges=taken.ranges, **details)
        if self._bug.exists():
            raise KeyError("a bug")
        if birth.name is not None:
            self._handles[birth.handle] = taken.ino
        if birth.what & RELEASED:
            del self._handles[birth.handle]
        return None

    def given_out(self, handle: int) -> None:
        if self._readers.exists() and self.readers is not None:
            self.readers.reader(self._handles[handle], handle)

    def released(self, handle: int) -> None:
        self.note("released", ino=self._handles.pop(handle))

    def rely(self, *, again: bool = True) -> None: ...

    def unprepare(self, ino: int) -> None:
        self.note("unprepare", ino=ino)

    async def setattr(self, ino: int, new: NewAttributes, caller: Caller, *, by_handle: bool = False) -> Found:
        self.note("setattr", ino=ino, mode=new.mode)
        return Found(ino, _FILE)

    async def create(self, parent: int, name: bytes, mode: int, flags: int, caller: Caller) -> tuple[int, Found]:
        self.note("create", name=name.decode())
        raise PosixError(errno.EROFS)

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
        if self.readers is not None:
            self.readers.no_readers(self.ino_of(handle))
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
                Session(double.folder),
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
