"""File systems over one volume in memory: real sessions, a mock clock, and contents that only keep sizes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import trio
from trio.testing import MockClock

from s3vfs.errors import S3vfsError
from s3vfs.filesystem import Filesystem
from s3vfs.namespace.ops import Setattr, SetattrMask
from s3vfs.namespace.rows import Inode, Rows
from s3vfs.session.options import SessionOptions
from s3vfs.session.session import Session
from tests.session.volume import Place, now_ns


class SizesOnly:
    """Contents whose unpublished part is a size. `failure` is what publishing raises; `calls` what was asked."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.unpublished: dict[int, int] = {}
        self.times: dict[int, tuple[int | None, int | None]] = {}
        self.handles: dict[int, int] = {}
        self.failure: S3vfsError | None = None
        self.calls: list[tuple[Any, ...]] = []

    def readahead(self) -> None: ...

    async def lend(self, ino: int, **details: Any) -> None: ...

    def returned(self, ino: int, *, lent: bool, readable: bool) -> None: ...

    async def harvest(self, ino: int) -> int:
        return 0

    def created(self, ino: int, inode: Inode) -> None: ...

    def reconsider(self, ino: int) -> None: ...

    def lags(self, ino: int) -> bool:
        return False

    async def catch_up(self, ino: int) -> None: ...

    def unseen_writers(self, ino: int) -> frozenset[int]:
        return frozenset()

    def opened(self, ino: int, writable: bool) -> None:
        self.handles[ino] = self.handles.get(ino, 0) + 1

    def closed(self, ino: int, writable: bool) -> None:
        self.handles[ino] -= 1

    def attributes(self, ino: int, inode: Inode) -> Inode:
        size = self.unpublished.get(ino)
        return inode if size is None else msgspec.structs.replace(inode, size=size)

    def set_times(self, ino: int, atime_ns: int | None, mtime_ns: int | None) -> bool:
        if ino not in self.unpublished:
            return False
        self.times[ino] = (atime_ns, mtime_ns)
        return True

    def carries_ctime(self, ino: int) -> bool:
        return ino in self.unpublished

    def changed(self, ino: int, time_ns: int) -> None:
        self.calls.append(("changed", ino))

    def release_at_once(self, ino: int) -> bool:
        return self.close_at_once(ino)

    def close_at_once(self, ino: int) -> bool:
        return ino not in self.unpublished and self.failure is None

    async def read(self, ino: int, offset: int, length: int, readahead: Any) -> bytes:
        with self._session.view() as txn:
            inode = Rows(txn).inode(ino)
        assert inode is not None
        return bytes(max(0, min(length, self.attributes(ino, inode).size - offset)))

    async def write(self, ino: int, offset: int, data: Any) -> int:
        self.unpublished[ino] = max(self.unpublished.get(ino, 0), offset + len(data))
        return len(data)

    async def append(self, ino: int, data: Any) -> int:
        self.calls.append(("append", ino, bytes(data)))
        return 0

    async def truncate(self, ino: int, size: int) -> None:
        self.calls.append(("truncate", ino, size))
        self.unpublished[ino] = size

    async def punch(self, ino: int, offset: int, length: int) -> None:
        self.calls.append(("punch", ino, offset, length))

    async def extend(self, ino: int, size: int) -> None:
        self.calls.append(("extend", ino, size))
        if size:
            self.unpublished[ino] = max(self.unpublished.get(ino, 0), size)

    async def clone(self, source: int, source_offset: int, ino: int, offset: int, length: int) -> int:
        self.calls.append(("clone", source, source_offset, ino, offset, length))
        self.unpublished[ino] = max(self.unpublished.get(ino, 0), offset + length)
        return length

    def seek(self, ino: int, offset: int, *, data: bool) -> int | None:
        """All of it is data."""
        size = self.unpublished.get(ino, 0)
        return None if not 0 <= offset < size else offset if data else size

    def data_bytes(self, ino: int, start: int, end: int) -> int:
        return max(0, min(end, self.unpublished.get(ino, 0)) - start)

    async def publish(self, ino: int) -> None:
        self.calls.append(("publish", ino))
        if self.failure is not None:
            raise self.failure
        size = self.unpublished.pop(ino, None)
        if size is not None:
            await self._session.commit([Setattr(ino, SetattrMask.SIZE, 0, 0, 0, size, 0, 0, now_ns())])

    close = publish


class Client:
    """One mount without a kernel."""

    def __init__(self, session: Session, *, read_only: bool = False) -> None:
        self.session = session
        self.contents = SizesOnly(session)
        self.fs = Filesystem(session, self.contents, read_only=read_only)

    @property
    def records(self) -> int:
        """How many records there are."""
        return self.session.applied_seq

    def inode(self, ino: int) -> Inode | None:
        """The inode's row."""
        with self.session.view() as txn:
            return Rows(txn).inode(ino)

    def holders(self, ino: int) -> list[int]:
        with self.session.view() as txn:
            return list(Rows(txn).holders(ino))

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until it is true in this client's view; the clock runs by itself."""
        with trio.fail_after(60):
            while not condition():
                await trio.sleep(0.1)
                await self.session.fresh(0)


@asynccontextmanager
async def clients(folder: Path, count: int = 1, *, read_only: bool = False) -> AsyncIterator[list[Client]]:
    """A new volume and its clients; the last one is a read-only one where `read_only`."""
    place = Place(folder)
    await place.format()
    async with AsyncExitStack() as stack:
        made = []
        for number in range(count):
            reads_only = read_only and number == count - 1
            mount = place.client(number + 1).mount(SessionOptions(freshness_s=0), read_only=reads_only)
            made.append(Client(await stack.enter_async_context(mount), read_only=reads_only))
        async with trio.open_nursery() as nursery:
            for client in made:
                nursery.start_soon(client.fs.keep_orphans)
            yield made
            nursery.cancel_scope.cancel()


def run(folder: Path, test: Callable[..., Awaitable[None]], count: int = 1, *, read_only: bool = False) -> None:
    """Run `test(client, ...)` under a mock clock."""

    async def main() -> None:
        async with clients(folder, count, read_only=read_only) as made:
            await test(*made)

    trio.run(main, clock=MockClock(autojump_threshold=0))
