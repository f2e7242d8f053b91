"""Group commit: ops queue here, numbered, and leave in records, one in flight (DESIGN 4).

Whatever arrives while a record is in flight shares the next one. After a lost race the same ops, with the same numbers,
are sent again on the new base. An op leaves the queue only when its fate is known. Knows no bucket: `Appender` does the
sending.

Acknowledged ops (under a lease) are *staged* first. Nobody waits for them, so they gather for `COMMIT_AFTER_S`, unless
somebody presses. Then the batch is *closed*: the companion, which is the data room, uploads the bytes of all files
whose close was acknowledged before, and sends their ops along, behind those of the batch. All of it is one record. So
no crash shows a name without the bytes that were closed under it, and names wait for no upload. Numbers for what comes
along are set aside when the batch is closed, since those that are staged meanwhile come later. What is not acknowledged
goes through the same line whenever something is in it, and presses.
"""

from __future__ import annotations

import logging
import math
from collections import Counter, deque
from collections.abc import Callable, Collection, Sequence
from functools import partial

import trio

from s3vfs.errors import SessionError, SessionFenced, StoreUnreachable
from s3vfs.namespace.ops import AnyOp, Lease, NumberedOp, encode_op, inodes_of
from s3vfs.namespace.rows import Rows
from s3vfs.namespace.verdict import DUPLICATE, FENCED, Verdict
from s3vfs.session.appender import Appender, Author, Outcome
from s3vfs.session.base import Base, Fate
from s3vfs.session.batches import Batch, Companion, Group, Nobody, Queued
from s3vfs.session.courtesy import Courtesy
from s3vfs.session.options import (
    BATCH_BYTES,
    BATCH_OPS,
    COMMIT_AFTER_S,
    MAX_RECORD_BYTES,
    MAX_RECORD_OPS,
    NUMBERS_ALONG,
    NUMBERS_BEFORE,
)

_log = logging.getLogger(__name__)


class Pipeline:
    """The queue of one session. `next_number`: above every number that this session has used before. `note_sent` is
    called with an op's number before it, or a higher one, can be in the journal; it may raise OSError."""

    def __init__(self, base: Base, appender: Appender, next_number: int, note_sent: Callable[[int], None]) -> None:
        self._base = base
        self._appender = appender
        self._next_number = next_number
        self._note_sent = note_sent
        self._queue: deque[Queued] = deque()
        self._in_flight: Sequence[Queued] = ()
        self._batch: Batch | None = None  # being staged
        self._closing: Batch | None = None
        self._pressed = False
        self._stir = trio.Event()
        self._more = trio.Event()
        self._closed = False
        self._idle = trio.Event()
        self._idle.set()
        self._urgent = trio.Event()
        self._awaited: Counter[int] = Counter()
        self._courtesy = Courtesy()
        self.companion: Companion = Nobody()
        # The log on disk: called when a batch is closed, and with what that gave once the fate of all its ops is known.
        self.cut: Callable[[], int] = lambda: 0
        self.settled: Callable[[int], None] = lambda part: None
        # Called before ops that may yet be refused are queued, with the inodes that they name.
        self.unsettled: Callable[[Collection[int]], None] = lambda inos: None
        # Called when a batch is closed; what it returns makes, once everything else is in the batch, its last ops.
        self.conclusion: Callable[[], Callable[[Collection[Lease]], list[AnyOp]]] = lambda: lambda unsent: []
        base.header_listeners.append(self._courtesy.hear)
        base.state_listeners.append(self._watch)

    @property
    def queued_ops(self) -> int:
        """Ops whose fate is not known, those in flight included."""
        staged = sum(len(batch.staged) for batch in (self._batch, self._closing) if batch is not None)
        return len(self._queue) + staged

    @property
    def in_flight(self) -> list[int]:
        """The numbers of the ops in the record that is under way, in its order."""
        return [queued.number for queued in self._in_flight]

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    @property
    def open(self) -> bool:
        """Whether `enqueue` takes ops."""
        return not self._closed and self._base.refusal() is None

    @property
    def awaiting(self) -> bool:
        """Whether any op is queued that is not acknowledged, so may yet be refused."""
        return bool(self._awaited)

    def awaits(self, inos: Collection[int]) -> bool:
        """Whether such an op names one of these inodes."""
        return bool(self._awaited) and any(ino in self._awaited for ino in inos)

    # -- queueing -----------------------------------------------------------------------------------------------------

    def enqueue(
        self,
        ops: Sequence[AnyOp],
        *,
        background: bool = False,
        on_done: Callable[[Group], None] | None = None,
    ) -> Group:
        """Number `ops` and queue them as one group, behind everything that was staged; no checkpoint. They stay
        together in one record where they fit.

        Raises ReadOnly, SessionFenced, or SessionError once the pipeline is closed. `on_done` is called on the trio
        thread.
        """
        self._require_open()
        group = Group(len(ops), self._next_number, background, on_done, _inodes_of(ops))
        if not ops:
            group.leave(None, self._base.applied_seq)
            return group
        self._await(group.inos)
        if self._batch is None and self._closing is None and not self.companion.due():
            self._queue.extend(self._numbered(ops, group, group))
            self._more.set()
            if not background:
                self._urgent.set()
        else:
            batch = self._staging()
            group.first_number = self._next_number
            self._add(batch, self._numbered(ops, group, batch))
            if not background:
                self.press()
        self._busy()
        return group

    def _await(self, inos: Collection[int]) -> None:
        if inos:
            self._awaited.update(inos)
            self.unsettled(inos)

    def next_staged(self) -> int:
        """The number that the next `stage` will use."""
        self._staging()
        return self._next_number

    def stage(self, numbered: NumberedOp, wire: bytes, on_done: Callable[[Group], None]) -> None:
        """Queue an op that has been acknowledged, under the number that `next_staged` gave."""
        assert numbered.number == self._next_number
        batch = self._staging()
        group = Group(1, numbered.number, True, on_done)
        self._next_number += 1
        self._add(batch, [Queued(numbered.number, wire, group, batch)])
        self._busy()

    @property
    def first_open(self) -> int | None:
        """The number from which on staged ops may still be exchanged (`restage`); None: nothing is staged."""
        batch = self._batch
        return batch.staged[0].number if batch is not None and batch.staged else None

    def restage(self, numbered: NumberedOp, wire: bytes, on_done: Callable[[Group], None]) -> None:
        """Another op in the place of the one that `stage` has queued under the same number, `first_open` or later."""
        batch = self._batch
        assert batch is not None
        at = numbered.number - batch.staged[0].number  # numbers of an open batch follow one another
        before = batch.staged[at]
        assert before.number == numbered.number
        before.group.on_done = on_done
        batch.staged[at] = Queued(before.number, wire, before.group, batch)
        batch.size_bytes += len(wire) - len(before.wire)

    def along(self, ops: Sequence[AnyOp], leases: Sequence[Lease | None]) -> Group:
        """Queue `ops`, each naming its lease, into the batch that is being closed; behind it where it has been closed
        meanwhile. What is done under a lease is as good as acknowledged: nobody has to wait for it (`awaits`)."""
        self._require_open()
        batch = self._closing
        if batch is None or batch.along + len(ops) > batch.along_end:
            batch = self._staging()
            first, self._next_number = self._next_number, self._next_number + len(ops)
            self.press()
        else:
            first, batch.along = batch.along, batch.along + len(ops)
        unleased = [op for op, lease in zip(ops, leases, strict=True) if lease is None]
        group = Group(len(ops), first, True, None, _inodes_of(unleased))
        self._await(group.inos)
        wires = [
            encode_op(NumberedOp(first + index, lease, op))
            for index, (op, lease) in enumerate(zip(ops, leases, strict=True))
        ]
        self._add(batch, [Queued(first + index, wire, group, batch) for index, wire in enumerate(wires)])
        self._busy()
        return group

    def interject(self, op: AnyOp) -> bool:
        """Send an op before the batch that is being closed, while that waits for its uploads. False: nothing waits
        there, or something is on its way anyway."""
        batch = self._closing
        if batch is None or self._queue or not batch.staged or batch.before >= batch.staged[0].number or not self.open:
            return False
        group = Group(1, batch.before, True, None)
        wire = encode_op(NumberedOp(batch.before, None, op))
        self._queue.append(Queued(batch.before, wire, group, group))
        batch.before += 1
        self._more.set()
        self._urgent.set()
        self._busy()
        return True

    def press(self) -> None:
        """Somebody waits for what is staged, or for what is due at the companion."""
        self._pressed = True
        self._stir.set()
        self._urgent.set()

    def wake(self) -> None:
        """The companion has got work, or the conclusion has."""
        self._staging()
        self._busy()
        self._stir.set()

    def _require_open(self) -> None:
        refusal = self._base.refusal()
        if refusal is not None:
            raise refusal
        if self._closed:
            raise SessionError("the session is being closed")

    def _numbered(self, ops: Sequence[AnyOp], group: Group, unit: object) -> list[Queued]:
        first, self._next_number = self._next_number, self._next_number + len(ops)
        return [
            Queued(first + index, encode_op(NumberedOp(first + index, None, op)), group, unit)
            for index, op in enumerate(ops)
        ]

    def _staging(self) -> Batch:
        if self._batch is None:
            self._batch = Batch(before=self._next_number, since_s=trio.current_time())
            self._next_number += NUMBERS_BEFORE
            self._stir.set()
        return self._batch

    def _add(self, batch: Batch, items: Sequence[Queued]) -> None:
        batch.staged += items
        batch.size_bytes += sum(len(queued.wire) for queued in items)
        if len(batch.staged) >= BATCH_OPS or batch.size_bytes >= BATCH_BYTES:
            self._stir.set()

    def _busy(self) -> None:
        if self._idle.is_set():
            self._idle = trio.Event()

    def close(self) -> None:
        """Take no more ops; what is queued goes on."""
        self._closed = True
        self.press()

    async def drained(self) -> None:
        """Return when the fate of every op is known."""
        await self._idle.wait()

    # -- closing batches ----------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Close batches and send, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._close_batches)
            await self._send()

    async def _close_batches(self) -> None:
        while True:
            due_s = self._due_s()
            if due_s > trio.current_time():
                with trio.move_on_at(due_s):
                    await self._stir.wait()
                self._stir = trio.Event()
            else:
                await self._close_batch()

    def _due_s(self) -> float:
        batch = self._batch
        # One sealed batch may wait while another is under way: then the next upload overlaps with its record.
        waiting = {id(queued.unit) for queued in self._queue if isinstance(queued.unit, Batch)}
        if batch is None or len(waiting) >= 2:
            return math.inf
        if self._pressed or len(batch.staged) >= BATCH_OPS or batch.size_bytes >= BATCH_BYTES:
            return -math.inf
        return batch.since_s + COMMIT_AFTER_S

    async def _close_batch(self) -> None:
        batch = self._batch
        assert batch is not None
        batch.urgent = self._pressed
        self._batch, self._closing, self._pressed = None, batch, False
        batch.along, batch.along_end = self._next_number, self._next_number + NUMBERS_ALONG
        self._next_number = batch.along_end
        batch.part = self.cut()
        conclude = self.conclusion()
        try:
            unsent = await self.companion.gather()
            last = conclude(unsent) if self.open and not batch.abandoned else []
            if last:
                group = Group(len(last), batch.along, True, None)
                wires = [encode_op(NumberedOp(batch.along + index, None, op)) for index, op in enumerate(last)]
                batch.staged += [Queued(batch.along + index, wire, group, batch) for index, wire in enumerate(wires)]
        finally:
            self._closing = None
        if not batch.abandoned:
            self._queue.extend(batch.staged)
            batch.left = len(batch.staged)
            batch.staged = []  # each holds the batch: together they would be the collector's
            if not batch.left:
                self.settled(batch.part)
        self._more.set()
        self._note_idle()

    def _note_idle(self) -> None:
        if not self._queue and self._batch is None and self._closing is None:
            self._idle.set()

    # -- sending ------------------------------------------------------------------------------------------------------

    async def _send(self) -> None:
        while True:
            while not self._queue:
                await self._more.wait()
                self._more = trio.Event()
            await self._yield()
            await self._base.ready()
            batch = self._form()
            if batch:
                self._note(batch[-1].number)
                self._in_flight = batch
                try:
                    await self._appender.append(
                        Author(self._base.sid, self._base.incarnation),
                        [queued.wire for queued in batch],
                        background=all(queued.group.background for queued in batch),
                        conclude=partial(self._conclude, batch),
                    )
                finally:
                    self._in_flight = ()
                self._stir.set()

    def _note(self, number: int) -> None:
        try:
            self._note_sent(number)
        except OSError as error:  # only a kill would need it: the next mount then begins a new session
            _log.warning("the local disk does not take a note of what is sent: %s", error)

    async def _yield(self) -> None:
        """Background work waits for others; what somebody waits for does not."""
        await self._base.ready()
        if not self._pressed and not any(_urgent(queued) for queued in self._queue):
            self._urgent = trio.Event()
            with trio.move_on_after(self._courtesy.pause_s(self._in_company())):
                await self._urgent.wait()

    def _in_company(self) -> bool:
        with self._base.read() as txn:
            return any(sid != self._base.sid for sid, _ in Rows(txn).sessions())

    def _form(self) -> list[Queued]:
        """The front of the queue, in whole units as long as they fit; a unit too large for one record is cut."""
        batch: list[Queued] = []
        taken: list[Queued] = []
        size_bytes = 0
        for queued in self._queue:
            size_bytes += len(queued.wire)
            if len(taken) == MAX_RECORD_OPS or (taken and size_bytes > MAX_RECORD_BYTES):
                return batch or taken
            if taken and queued.unit is not taken[-1].unit:
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
        self._note_idle()

    def _leave(self, queued: Queued, seq: int, verdict: Verdict | None) -> None:
        if verdict is not None and verdict.errno:
            self._base.counters.ops_rejected += 1
        elif verdict is not None:
            self._base.counters.ops_committed += 1
        if verdict is not None and verdict.errno == FENCED:
            queued.group.error = self._base.refusal() or SessionFenced("the session is no longer in office")
        elif verdict is not None and verdict.errno == DUPLICATE:
            queued.group.error = SessionError("the outcome cannot be known: an op was sent twice")
        if queued.group.leave(verdict, seq):
            for ino in queued.group.inos:
                self._awaited[ino] -= 1
                if not self._awaited[ino]:
                    del self._awaited[ino]
        if isinstance(queued.unit, Batch):
            queued.unit.left -= 1
            if queued.unit.left == 0:
                self.settled(queued.unit.part)

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
                self._leave(queued, seq, None)

    def _watch(self) -> None:
        """Out of office, or stopped: nothing in the queue can be committed any more."""
        refusal = self._base.refusal()
        if refusal is None:
            return
        left = [*self._queue]
        self._queue.clear()
        for batch in (self._closing, self._batch):
            if batch is not None:
                left += batch.staged
                batch.abandoned = True
                batch.left = len(batch.staged)
                batch.part = batch.part or self.cut()
                batch.staged = []
        self._batch = None
        for queued in left:
            queued.group.error = queued.group.error or self._base.refusal() or refusal
            self._leave(queued, self._base.applied_seq, None)
        self._stir.set()
        self._note_idle()


def _inodes_of(ops: Sequence[AnyOp]) -> tuple[int, ...]:
    return tuple({ino for op in ops for ino in inodes_of(op)})


def _urgent(queued: Queued) -> bool:
    """Whether somebody waits for its record."""
    return not queued.group.background or (isinstance(queued.unit, Batch) and queued.unit.urgent)
