"""What sessions and maintenance ask of a journal, whatever engine keeps it (DESIGN section 4)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from s3vfs.journal.head import Head, HeadState


@dataclass(frozen=True, slots=True)
class TrimReport:
    """What one `trim` did: the boundary afterwards, and how many keys it deleted."""

    boundary: int
    deleted: int


class Journal(Protocol):
    """A totally ordered log of records, seq 1 and up, without holes between the trim boundary and its tail.

    Answers are already resolved (R2) and trusted (R5) when they are returned. Every method but `head` is a checkpoint
    and may raise StoreError, Damaged (R4) and UnknownFeature. Methods may run concurrently.
    """

    @property
    def round_trip_us(self) -> int:
        """Moving average over appends and looks at the tail, microseconds; 0 before the first."""
        ...

    async def append(self, seq: int, data: bytes, batch: bytes) -> bool:
        """True: `data` is record `seq`. False: another's record is. `batch` is the batch uuid in `data`'s header.

        Does not give up while the store is out of reach: cancel it for that. After cancellation, or any exception but
        Trimmed, the fate of `data` is unknown, even if the exception is StoreDenied (an earlier attempt may have
        succeeded, or may yet): keep the bytes, and call `append` again with the same seq and the same bytes, in this
        process or a later one. Nothing else may be appended at this seq before that has answered.

        Raises Trimmed where the boundary is above `seq`: whether the record had been committed before that shows in
        the session's row of a checkpoint, not here.
        """
        ...

    async def read(self, seq: int) -> bytes | None:
        """Record `seq`; None where it is not there yet. Raises Trimmed."""
        ...

    async def read_many(self, first: int, count: int) -> list[bytes]:
        """Records `first` and up, at most `count`, ending before the first that is not there yet; several requests at
        once, for catching up. All of them are in memory together. Raises Trimmed."""
        ...

    async def tail(self, known: int) -> int:
        """The highest seq, where `known` is one that exists (or 0, or the boundary less one): at least the tail as it
        was when the call began. Raises Trimmed where `known` + 1 is."""
        ...

    def head(self) -> HeadState:
        """The newest look at HEAD. Raises RuntimeError before there was one: call `refresh_head` first."""
        ...

    async def refresh_head(self) -> HeadState:
        """Read HEAD now."""
        ...

    async def update_head(self, change: Callable[[Head], Head]) -> Head:
        """Rewrite HEAD as `change` says, and return what it then said; `generation` and `writer` are set here.

        `change` is called again whenever someone else was faster, and also when an own earlier rewrite may be in HEAD
        already below another's: it must be pure, and return its argument unchanged where there is nothing to do.
        Cancelled or failed, the rewrite may still take effect.
        """
        ...

    async def trim(self, below: int) -> TrimReport:
        """One round of trimming (R5) towards boundary `below`, bounded by the checkpoint that HEAD names.

        Deletes what steps an hour old allow, dates steps that were seen, and makes a new step where `below` is above
        the boundary. Safe when several clients do it. Any error ends it; the next call goes on.
        """
        ...
