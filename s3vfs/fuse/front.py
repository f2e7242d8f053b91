"""The front of one mount: requests that the native extension answers while it reads them, and how pyfuse3 reads.

The extension (native/front.c) hands on what it does not answer. Whatever it has taken it tells, before pyfuse3 goes
on; from here that goes to the room that has the bytes, and to what remembers of the kernel's caches.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Any, Protocol

import trio

from s3vfs.data.protocol import Stream, Taken
from s3vfs.errors import ReadOnly
from s3vfs.filesystem import Birth, Births, Found, Readers
from s3vfs.fuse.attributes import BLOCK_SIZE_BYTES
from s3vfs.fuse.libfuse import interpose, missing, pyfuse3
from s3vfs.namespace.rows import Inode, LeaseId
from s3vfs.session.front_log import FILE_BYTES, HEADER_BYTES
from s3vfs.session.reliant import Reliant

_log = logging.getLogger(__name__)


class Taking(Protocol):
    """The part of Contents that is told."""

    def taken(self, taken: Taken) -> None: ...

    def unprepare(self, ino: int) -> None: ...


class Bearing(Protocol):
    """The part of Filesystem that is told."""

    ahead: Births | None
    readers: Readers | None

    def born(self, taken: Taken, birth: Birth) -> Found | None: ...

    def released(self, handle: int) -> None: ...

    def ino_of(self, handle: int) -> int: ...

    def rely(self, *, again: bool = True) -> None: ...


class Reckoning(Protocol):
    """The part of KernelCache that is told."""

    def wrote(self, ino: int) -> None: ...

    def released(self, ino: int) -> None: ...

    def gave_newborn(self, ino: int, *, parent: int, given: tuple[int, ...] | None, found: Found | None) -> None: ...


class RelyingSession(Protocol):
    """The part of a session that is relied on."""

    def rely(self, reliant: Reliant, give_back: Callable[[], int]) -> int: ...

    def touch(self) -> None: ...


class NativeFront:
    """`refused`: why there is none, for people; empty where there is."""

    def __init__(self, io: str, contents: Taking) -> None:
        self._native: Any = interpose  # None: `refused` says why, and nothing is asked of it
        self._contents = contents
        self._makes = io in ("auto", "front")
        self._filesystem: Bearing | None = None
        self._session: RelyingSession | None = None
        self._kernel: Reckoning | None = None
        self.refused = ""
        if io == "python":
            self.refused = "not asked for (--io python)"
        elif self._native is None:
            self.refused = f"the native extension is missing ({missing})"

    @property
    def available(self) -> bool:
        return not self.refused

    def stream(self, ino: int) -> Stream:
        """Raises ValueError for an inode that has one."""
        stream: Stream = self._native.Stream(ino)
        return stream

    def allow(self, more_bytes: int) -> int:
        allowed: int = self._native.allow(more_bytes)
        return allowed

    def noted(self, *told: Any) -> None:
        """What the extension calls, with the fields of `Taken`, and with those of a `Birth` or None; or with the
        handles of readers that have ended."""
        try:
            self._hear(*told)
        except Exception:
            _log.exception("what the front has done is not heard of; the next mount takes it up")
            raise

    def _hear(self, *told: Any) -> None:
        if len(told) == 1:
            self._ended(told[0])
            return
        *stored, news = told
        taken = Taken(*stored)
        if news is None:
            self._contents.taken(taken)
            if self._kernel is not None:
                self._kernel.wrote(taken.ino)
            return
        birth = Birth(*news)
        assert self._filesystem is not None
        assert self._kernel is not None
        assert self._session is not None
        self._session.touch()
        found = self._filesystem.born(taken, birth)
        self._kernel.gave_newborn(
            taken.ino,
            parent=birth.parent if birth.name is not None else 0,
            given=birth.given,
            found=found,
        )
        self._filesystem.rely(again=False)

    def _ended(self, handles: Sequence[int]) -> None:
        assert self._filesystem is not None
        assert self._kernel is not None
        for handle in handles:
            ino = self._filesystem.ino_of(handle)
            self._filesystem.released(handle)
            self._kernel.released(ino)

    # -- files that it makes by itself --------------------------------------------------------------------------------

    def serve(
        self, filesystem: Bearing, session: RelyingSession, kernel: Reckoning, *, entry_ns: int, attributes_ns: int
    ) -> None:
        """Before the mount: who is told, and, unless writers get the files themselves (`--io passthrough`), let it make
        files. `entry_ns`, `attributes_ns`: how long the kernel may keep names and attributes."""
        self._filesystem, self._session, self._kernel = filesystem, session, kernel
        if self.available:
            filesystem.readers = self
        if not self._makes or not self.available:
            return
        try:
            log_fd = session.rely(self, self._unstock)
        except (ReadOnly, OSError) as error:
            _log.info("files are made by the daemon alone: %s", error)
            return
        try:
            self._native.write_down(log_fd, HEADER_BYTES, FILE_BYTES)
        finally:
            os.close(log_fd)
        self._native.replies(entry_ns, attributes_ns, BLOCK_SIZE_BYTES)
        filesystem.ahead = self

    def _unstock(self) -> int:
        """The lowest inode number of a prepared file, which is for something else; 0: there is none."""
        ino: int = self._native.unstock()
        if ino:
            self._contents.unprepare(ino)
        return ino

    def reader(self, ino: int, handle: int) -> None:
        self._native.reader(ino, handle)

    def no_readers(self, ino: int) -> None:
        self._native.no_readers(ino)

    def knows(self, directory: int) -> bool:
        known: bool = self._native.knows(directory)
        return known

    def directory(self, ino: int, lease: LeaseId, names: Iterable[bytes]) -> None:
        self._native.directory(ino, *lease, names)

    def show(self, ino: int, inode: Inode) -> None:
        times = (inode.atime_ns, inode.mtime_ns, inode.ctime_ns)
        self._native.show(ino, inode.mode, inode.uid, inode.gid, inode.nlink, *times)

    def trust(self, until_ns: int, closing_bytes: int, file_bytes: int) -> None:
        self._native.trust(until_ns, closing_bytes, file_bytes)

    def stocked(self) -> int:
        count: int = self._native.stocked()
        return count

    def stock(self, stream: Stream) -> None:
        self._native.stock(stream)

    def named(self, directory: int, name: bytes) -> None:
        self._native.named(directory, name)

    def estrange(self, ino: int) -> None:
        self._native.estrange(ino)

    def lease_over(self, lease: LeaseId) -> None:
        self._native.lease_over(*lease)

    def distrust(self) -> None:
        self._native.distrust()

    def counts(self) -> dict[str, int]:
        """What was answered without Python."""
        return {} if self._native is None else self._native.front_counts()


# -- how pyfuse3 waits for a request ----------------------------------------------------------------------------------


class ReadLock(trio.abc.Instrument):
    """In the place of the trio.Lock under which pyfuse3's tasks read, one at a time.

    A task that comes back for the next request goes first, if nobody reads: trio's lock would give it to those who have
    waited longer, at the price of a turn of its loop for every request, where one task can do it all. One who waits is
    woken when somebody has read and does not come back before it lets others run: it may be held up by its request, or
    have ended. (Woken by each request instead, they would wait again at once for most of them, at the price of a turn,
    too.) Woken in vain, it waits again.

    To be made in the run of trio that uses it, whose steps it hears of.
    """

    def __init__(self) -> None:
        self._lot = trio.lowlevel.ParkingLot()
        self._held = False
        self._waking = False
        self._left = False  # by a task whose step has not ended yet
        trio.lowlevel.add_instrument(self)

    async def __aenter__(self) -> None:
        while self._held:
            try:
                await self._lot.park()
            finally:
                self._waking = False
        self._held = True
        self._left = False

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._held = False
        self._left = True

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        """trio's: a task, perhaps the one that has read, waits for something, or has ended."""
        if self._left:
            self._left = False
            if not self._waking and self._lot:
                self._waking = True
                self._lot.unpark()


async def _wait_readable(fd: int) -> None:
    """Whether anything is there is found out by reading it, unless that was in vain just now. But other tasks get their
    turn every now and then, however many requests there are."""
    assert interpose is not None
    if not interpose.more():
        await trio.lowlevel.wait_readable(fd)
        interpose.turned()


class _LowLevel:
    wait_readable = staticmethod(_wait_readable)

    def __getattr__(self, name: str) -> Any:
        return getattr(trio.lowlevel, name)


class _Trio:
    Lock = ReadLock
    lowlevel = _LowLevel()

    def __getattr__(self, name: str) -> Any:
        return getattr(trio, name)


def read_eagerly() -> None:
    """Have pyfuse3 wait in this way: it takes trio from its module's attribute, which others may replace
    (`pyfuse3.asyncio` does). Only with the extension, whose reading does not block."""
    pyfuse3.trio = _Trio()  # type: ignore[attr-defined]  # its stub does not show it
