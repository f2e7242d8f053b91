"""What the pipeline is made of: groups of ops that somebody waits for, batches that become one record, and who brings
work along."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import trio

from s3vfs.errors import S3vfsError
from s3vfs.namespace.ops import Lease
from s3vfs.namespace.verdict import Verdict


@dataclass(eq=False, slots=True)
class Group:
    """The ops of one commit, numbered from `first_number`. `seq` is that of the record with its last op. Once `done`:
    `error`, or all `verdicts`. `inos`: what its ops name, while somebody waits for it."""

    size: int
    first_number: int
    background: bool
    on_done: Callable[[Group], None] | None
    inos: tuple[int, ...] = ()
    done: trio.Event = field(default_factory=trio.Event)
    verdicts: list[Verdict] = field(default_factory=list)
    seq: int = 0
    error: S3vfsError | None = None
    _left: int = 0

    def leave(self, verdict: Verdict | None, seq: int) -> bool:
        """One op has left the queue, with a verdict or without. Whether it was the last."""
        self._left += 1
        if verdict is not None:
            self.verdicts.append(verdict)
        if self._left < self.size:
            return False
        self.seq = seq
        self.done.set()
        if self.on_done is not None:
            self.on_done(self)
        return True


class Queued(NamedTuple):
    """One op in the queue: its number, its wire form, whose it is, and what may not be torn apart: its group, or the
    batch that it was staged in."""

    number: int
    wire: bytes
    group: Group
    unit: object


@dataclass(eq=False, slots=True)
class Batch:
    """Ops that become one record. `before`: numbers below theirs, for what must overtake them. `along`: numbers above
    theirs, for what comes along."""

    before: int
    staged: list[Queued] = field(default_factory=list)
    size_bytes: int = 0
    since_s: float = 0.0
    along: int = 0
    along_end: int = 0
    urgent: bool = False
    part: int = 0  # of the log on disk
    left: int = 0
    abandoned: bool = False


class Companion(Protocol):
    """Who has work that must be in the journal together with acknowledged ops."""

    def due(self) -> bool:
        """Whether there is such work now."""
        ...

    async def gather(self) -> Collection[Lease]:
        """Send along (`Pipeline.along`) everything that was due at the call; the leases of what could not be sent. Does
        not wait for any record."""
        ...


class Nobody:
    """A companion without work."""

    def due(self) -> bool:
        return False

    async def gather(self) -> Collection[Lease]:
        return ()
