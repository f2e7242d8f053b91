"""What the data room keeps for an inode that is open or has unpublished bytes here. State only."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import TracebackType

import trio

from s3vfs.data.working import WorkingFile
from s3vfs.errors import S3vfsError


class Storing:
    """The lock under which the working file is changed elsewhere than on the trio thread, or by what may wait in the
    middle: the front takes no writes then."""

    __slots__ = ("_lock", "_working")

    def __init__(self, working: WorkingFile) -> None:
        self._lock = trio.Lock()
        self._working = working

    def locked(self) -> bool:
        return self._lock.locked()

    async def __aenter__(self) -> None:
        """Without a checkpoint where nobody has it: opens take it, too."""
        try:
            self._lock.acquire_nowait()
        except trio.WouldBlock:
            await self._lock.acquire()
        self._working.halt()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._lock.release()


@dataclass(slots=True)
class OpenFile:
    """`readers` and `writers` count handles. `failure` is R10's: kept until the bytes are in the journal after all, or
    until it is acknowledged; `lost` when they were spilled and cannot be: every call by a handle that was open then
    fails. `untold`: such a loss, once those handles are closed, until an fsync or a writer's close has reported it to
    somebody who opened the file since. `attempt` counts publishes begun,
    `failed_attempt` is the last one that failed. `orphan`: without a link, so its bytes need not leave. `committing`:
    own commits of contents under way. `loading`: reads that have planned to take bytes from the working file and
    may not have them yet; its clean bytes stay meanwhile.
    `cached`: handles that the kernel has and asks the daemon for: through its pages, or directly."""

    ino: int
    working: WorkingFile
    readers: int = 0
    writers: int = 0
    failure: S3vfsError | None = None
    lost: bool = False
    untold: S3vfsError | None = None
    attempt: int = 0
    failed_attempt: int = -1
    pause_s: float = 0.0
    retry_at_s: float = 0.0
    committing: int = 0
    loading: int = 0
    cached: int = 0
    orphan: bool = False
    publishing: trio.Lock = field(default_factory=trio.Lock)
    storing: Storing = field(init=False)

    def __post_init__(self) -> None:
        self.storing = Storing(self.working)

    @property
    def idle(self) -> bool:
        """Nobody has it open and nothing of it is unpublished or in doubt."""
        return not (self.in_use or self.working.dirty or self.failure or self.untold)

    @property
    def in_use(self) -> bool:
        return bool(self.readers or self.writers or self.committing)
