"""The front of one mount: requests that the native extension answers while it reads them, and how pyfuse3 reads.

The extension (native/front.c) hands on what it does not answer. Whatever it has taken it tells, before pyfuse3 goes
on; from here that goes to the room that has the bytes, and to what remembers of the kernel's caches.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

import trio

from s3vfs.data.protocol import Taken
from s3vfs.fuse.libfuse import interpose, missing, pyfuse3

if TYPE_CHECKING:
    from s3vfs.fuse.native._interpose import Stream


class Taking(Protocol):
    """The part of Contents that is told."""

    def taken(self, taken: Taken) -> None: ...


class NativeFront:
    """`refused`: why there is none, for people; empty where there is. `wrote`: who else is told of an inode that was
    written to."""

    def __init__(self, io: str, contents: Taking) -> None:
        self._contents = contents
        self.wrote: Callable[[int], None] = lambda _: None
        self.refused = ""
        if io == "python":
            self.refused = "not asked for (--io python)"
        elif interpose is None:
            self.refused = f"the native extension is missing ({missing})"

    @property
    def available(self) -> bool:
        return not self.refused

    def stream(self, ino: int) -> Stream:
        """Raises ValueError for an inode that has one."""
        assert interpose is not None
        stream: Stream = interpose.Stream(ino)
        return stream

    def allow(self, more_bytes: int) -> int:
        assert interpose is not None
        allowed: int = interpose.allow(more_bytes)
        return allowed

    def noted(self, *told: Any) -> None:
        """What the extension calls, with the fields of `Taken`."""
        taken = Taken(*told)
        self._contents.taken(taken)
        self.wrote(taken.ino)

    def counts(self) -> dict[str, int]:
        """What was answered without Python."""
        return {} if interpose is None else interpose.front_counts()


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
