"""Group commit: ops queue here, numbered, and leave in records, one in flight (DESIGN 4).

Whatever arrives while a record is in flight shares the next one. After a lost race the same ops, with the same numbers,
are sent again on the new base. An op leaves the queue only when its fate is known. The queue is what leases will
persist, and read their overlay from. Knows no bucket: `Appender` does the sending.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import trio

from s3vfs.errors import S3vfsError, SessionError, SessionFenced, StoreUnreachable
from s3vfs.namespace.ops import AnyOp, Lease, NumberedOp, encode_op
from s3vfs.namespace.rows import Rows
from s3vfs.namespace.verdict import DUPLICATE, FENCED, Verdict
from s3vfs.session.appender import Appender, Author, Outcome
from s3vfs.session.base import Base, Fate
from s3vfs.session.courtesy import Courtesy
from s3vfs.session.options import MAX_RECORD_BYTES, MAX_RECORD_OPS

_log = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class Group:
    """The ops of one commit, numbered from `first_number`. `seq` is that of the record with its last op. Once `done`:
    `error`, or all `verdicts`."""

    size: int
    first_number: int
    background: bool
    on_done: Callable[[Group], None] | None
    done: trio.Event = field(default_factory=trio.Event)
    verdicts: list[Verdict] = field(default_factory=list)
    seq: int = 0
    error: S3vfsError | None = None
    _left: int = 0

    def leave(self, verdict: Verdict | None, seq: int) -> None:
        """One op has left the queue, with a verdict or without."""
        self._left += 1
        if verdict is not None:
            self.verdicts.append(verdict)
        if self._left >= self.size:
            self.seq = seq
            self.done.set()
            if self.on_done is not None:
                self.on_done(self)


@dataclass(frozen=True, slots=True)
class Queued:
    """One op in the queue: its number, its wire form, and whose it is."""

    number: int
    wire: bytes
    group: Group


class Pipeline:
    """The queue of one session. `next_number`: above every number that this session has used before. `note_sent` is
    called with an op's number before it, or a higher one, can be in the journal; it may raise OSError."""

    def __init__(self, base: Base, appender: Appender, next_number: int, note_sent: Callable[[int], None]) -> None:
        self._base = base
        self._appender = appender
        self._next_number = next_number
        self._note_sent = note_sent
        self._queue: deque[Queued] = deque()
        self._more = trio.Event()
        self._closed = False
        self._idle = trio.Event()
        self._idle.set()
        self._urgent = trio.Event()
        self._courtesy = Courtesy()
        base.header_listeners.append(self._courtesy.hear)
        base.state_listeners.append(self._watch)

    @property
    def queued_ops(self) -> int:
        """Ops whose fate is not known, those in flight included."""
        return len(self._queue)

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    @property
    def open(self) -> bool:
        """Whether `enqueue` takes ops."""
        return not self._closed and self._base.refusal() is None

    def enqueue(
        self,
        ops: Sequence[AnyOp],
        *,
        background: bool = False,
        lease: Lease | None = None,
        on_done: Callable[[Group], None] | None = None,
    ) -> Group:
        """Number `ops` and queue them as one group; no checkpoint. They stay together in one record where they fit.

        Raises ReadOnly, SessionFenced, or SessionError once the pipeline is closed. `on_done` is called on the trio
        thread.
        """
        refusal = self._base.refusal()
        if refusal is not None:
            raise refusal
        if self._closed:
            raise SessionError("the session is being closed")
        group = Group(len(ops), self._next_number, background, on_done)
        if not ops:
            group.leave(None, self._base.applied_seq)
            return group
        for op in ops:
            self._queue.append(Queued(self._next_number, encode_op(NumberedOp(self._next_number, lease, op)), group))
            self._next_number += 1
        if self._idle.is_set():
            self._idle = trio.Event()
        self._more.set()
        if not background:
            self._urgent.set()
        return group

    def close(self) -> None:
        """Take no more ops; what is queued goes on."""
        self._closed = True

    async def drained(self) -> None:
        """Return when the fate of every op is known."""
        await self._idle.wait()

    async def run(self) -> None:
        """Send, until cancelled."""
        while True:
            while not self._queue:
                await self._more.wait()
                self._more = trio.Event()
            await self._yield()
            await self._base.ready()
            batch = self._form()
            if batch:
                self._note(batch[-1].number)
                await self._appender.append(
                    Author(self._base.sid, self._base.incarnation),
                    [queued.wire for queued in batch],
                    background=all(queued.group.background for queued in batch),
                    conclude=partial(self._conclude, batch),
                )

    def _note(self, number: int) -> None:
        try:
            self._note_sent(number)
        except OSError as error:  # only a kill would need it: the next mount then begins a new session
            _log.warning("the local disk does not take a note of what is sent: %s", error)

    async def _yield(self) -> None:
        """Background work waits for others; what somebody waits for does not."""
        await self._base.ready()
        if all(queued.group.background for queued in self._queue):
            self._urgent = trio.Event()
            with trio.move_on_after(self._courtesy.pause_s(self._in_company())):
                await self._urgent.wait()

    def _in_company(self) -> bool:
        with self._base.read() as txn:
            return any(sid != self._base.sid for sid, _ in Rows(txn).sessions())

    def _form(self) -> list[Queued]:
        """The front of the queue, in whole groups as long as they fit; a group too large for one record is cut."""
        batch: list[Queued] = []
        taken: list[Queued] = []
        size_bytes = 0
        for queued in self._queue:
            size_bytes += len(queued.wire)
            if len(taken) == MAX_RECORD_OPS or (taken and size_bytes > MAX_RECORD_BYTES):
                return batch or taken
            if taken and queued.group is not taken[-1].group:
                batch = taken.copy()
            taken.append(queued)
        return taken

    def _conclude(self, batch: Sequence[Queued], outcome: Outcome) -> None:
        """Called while base applies the record, before anybody else hears of it."""
        if outcome.fate is Fate.WON:
            for _ in batch:
                self._queue.popleft()
            for queued, verdict in zip(batch, outcome.verdicts, strict=True):
                self._leave(queued, outcome.seq, verdict)
            if any(verdict.errno == DUPLICATE for verdict in outcome.verdicts):
                # Another record has carried these ops before: a race was called lost that had been won (R2).
                self._base.stop(SessionError(f"record {outcome.seq} repeats ops of this session"))
        elif outcome.fate is Fate.UNREADABLE:
            self._compare_with_row(batch, outcome.seq)
        if not self._queue:
            self._idle.set()

    def _leave(self, queued: Queued, seq: int, verdict: Verdict) -> None:
        if verdict.errno:
            self._base.counters.ops_rejected += 1
        else:
            self._base.counters.ops_committed += 1
        if verdict.errno == FENCED:
            queued.group.error = self._base.refusal() or SessionFenced("the session is no longer in office")
        elif verdict.errno == DUPLICATE:
            queued.group.error = SessionError("the outcome cannot be known: an op was sent twice")
        queued.group.leave(verdict, seq)

    def _compare_with_row(self, batch: Sequence[Queued], seq: int) -> None:
        """A checkpoint has replaced the record that would have told the verdicts. Where the session is still in office
        its row says how far it got; what was not applied is sent again."""
        row = None if self._base.fenced else self._base.row
        for queued in batch:
            if row is None or queued.number <= row.last_op:
                queued.group.error = StoreUnreachable(
                    "the outcome cannot be known: the record was trimmed before this client could read it"
                )
                self._queue.popleft()
                queued.group.leave(None, seq)

    def _watch(self) -> None:
        """Out of office, or stopped: nothing in the queue can be committed any more."""
        while self._queue:
            refusal = self._base.refusal()
            if refusal is None:
                return
            group = self._queue.popleft().group
            group.error = group.error or refusal
            group.leave(None, self._base.applied_seq)
        self._idle.set()
