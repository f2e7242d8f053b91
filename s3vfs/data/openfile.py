"""What the data room keeps for an inode that is open or has unpublished bytes here. State only."""

from __future__ import annotations

from dataclasses import dataclass, field

import trio

from s3vfs.data.working import WorkingFile
from s3vfs.errors import S3vfsError


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
    storing: trio.Lock = field(default_factory=trio.Lock)

    @property
    def idle(self) -> bool:
        """Nobody has it open and nothing of it is unpublished or in doubt."""
        return not (self.in_use or self.working.dirty or self.failure or self.untold)

    @property
    def in_use(self) -> bool:
        return bool(self.readers or self.writers or self.committing)
