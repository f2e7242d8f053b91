"""A client of one volume: its replica follows the journal, its commits become records, its freshness is kept.

`open_session` takes office (R13) and gives a `Session`; everything above (filesystem, data, maintenance) talks to that.
Decides no POSIX rule and knows no file contents.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from functools import partial
from typing import Any

import trio

from s3vfs.environment import Environment
from s3vfs.errors import ReadOnly, S3vfsError, StoreUnreachable, Unpublished, acknowledged_lost
from s3vfs.journal.protocol import Journal
from s3vfs.namespace.ops import AnyOp, Append, Beat, End, Write
from s3vfs.namespace.rows import LeaseId, Rows
from s3vfs.namespace.transaction import ReadTransaction
from s3vfs.namespace.verdict import Verdict
from s3vfs.objects.protocol import Store
from s3vfs.replica.protocol import Replica
from s3vfs.session import front_log
from s3vfs.session.acknowledged import Acknowledged
from s3vfs.session.appender import Appender
from s3vfs.session.base import Base, Listener
from s3vfs.session.batches import Companion, Group
from s3vfs.session.counters import SessionCounters
from s3vfs.session.directory import SessionDirectory
from s3vfs.session.eviction import EVICT_AFTER_S, Committed, evict
from s3vfs.session.inodes import InodeNumbers
from s3vfs.session.leases import Leases
from s3vfs.session.lifecycle import Office, Registrar, rebuild
from s3vfs.session.options import SessionOptions
from s3vfs.session.pipeline import Pipeline
from s3vfs.session.pledge import Pledge
from s3vfs.session.presence import Presence
from s3vfs.session.reliant import Reliant
from s3vfs.session.spill import Spill
from s3vfs.session.tail import Tail
from s3vfs.session.unwrapping import single_error

_log = logging.getLogger(__name__)


class Session:
    """Made by `open_session`. Methods are for the trio thread; those without `async` are no checkpoints."""

    def __init__(
        self,
        environment: Environment,
        store: Store,
        journal: Journal,
        replica: Replica,
        directory: SessionDirectory | None,
        options: SessionOptions,
    ) -> None:
        self.environment = environment
        self.store = store
        self.journal = journal
        self.options = options
        self.counters = SessionCounters()
        self.resumed = False
        self.base = Base(replica, self.counters, environment.boottime_ns)
        self._directory = directory
        self.tail = Tail(self.base, journal, options, reload=lambda: rebuild(environment, store, journal, self.base))
        self._appender: Appender | None = None
        self._pipeline: Pipeline | None = None
        self._inodes: InodeNumbers | None = None
        self._leases: Leases | None = None
        self._acknowledged: Acknowledged | None = None
        self._presence: Presence | None = None
        self._objects = 0
        self._former: tuple[tuple[int, int], ...] = ()
        self._pins: dict[int, int] = {}

    # -- who and where ------------------------------------------------------------------------------------------

    @property
    def sid(self) -> int:
        """0 for a read-only session, which has none."""
        return self.base.sid

    @property
    def incarnation(self) -> int:
        return self.base.incarnation

    @property
    def applied_seq(self) -> int:
        return self.base.applied_seq

    @property
    def fatal(self) -> S3vfsError | None:
        """Why this client has stopped itself (R3, R4): reads go on, commits raise ReadOnly."""
        return self.base.fatal

    @property
    def fenced(self) -> bool:
        """The session is no longer in office: nothing of it can commit any more (R13)."""
        return self.base.fenced

    @property
    def read_only(self) -> bool:
        return self._pipeline is None or self.base.fatal is not None

    def refusal(self) -> S3vfsError | None:
        """Why nothing can be committed any more (SessionFenced, ReadOnly), a new exception each time; None while it
        can."""
        return self.base.refusal()

    # -- reading ------------------------------------------------------------------------------------------------

    def view(self) -> AbstractContextManager[ReadTransaction]:
        """What this client sees: base, and above it what was acknowledged ahead of its record (R12). Never across an
        await. While a checkpoint is loaded it is what was seen before: `fresh` tells old from young, as when the bucket
        is silent."""
        base = self.base.read()
        return base if self._acknowledged is None else self._acknowledged.seen_through(base)

    def covers(self, rows: Rows, ino: int) -> bool:
        """Whether an own lease, relied on now, says that these rows, of a view, have all that anybody has been told of
        the inode (and, for a directory, of its entries)."""
        return self._leases is not None and self._leases.covering(rows, ino) is not None

    async def reach(self, *inos: int, within_s: float | None = None) -> None:
        """Return when the view has all that anybody has been told of these inodes (and, for directories, of their
        entries): at once where an own lease says so, else after `fresh` and, where another session's lease covers one,
        once that has been given back. Raises as `fresh` and `commit`."""
        if self._leases is None:
            await self.fresh(within_s)
            return
        with self.view() as txn:
            rows = Rows(txn)
            if all(self._leases.covering(rows, ino) is not None for ino in inos):
                return
        await self.fresh(within_s)
        await self.clear(*inos)

    async def clear(self, *inos: int) -> None:
        """Return when no other session's lease covers any of them, as far as this client knows. Raises as `commit`."""
        if self._leases is not None and self.base.refusal() is None:
            for ino in inos:
                await self._leases.clear(ino)

    async def fresh(self, within_s: float | None = None) -> None:
        """Return when a look at the tail that was sent after now - `within_s` (default: the freshness option) has been
        applied; 0 = after this call began. Raises StoreUnreachable with `--offline error`; see `Tail.fresh`."""
        await self.tail.fresh(self.options.freshness_s if within_s is None else within_s)

    def touch(self) -> None:
        """The kernel has asked something and may cache the answer: the tail is read every 0.5 s for the next 30 s."""
        self.tail.touch()

    def look_every(self, who: object, interval_s: float | None) -> None:
        """From now on `who` needs a look at the tail at least that often; None: no longer."""
        self.tail.look_every(who, interval_s)

    def listen(self, callback: Listener, *, reloaded: Callable[[], None] | None = None) -> None:
        """`callback(changes, own)` after each applied record, on the trio thread, without a checkpoint; `own`: the
        record was this session's. `reloaded()`: base was replaced as a whole, anything may have changed. They may not
        raise."""
        self.base.listeners.append(callback)
        if reloaded is not None:
            self.base.reload_listeners.append(reloaded)

    @contextmanager
    def pin(self) -> Iterator[int]:
        """While inside, `low` stays at or below the seq that base has now: extents read from that view stay readable
        (R11). Gives that seq."""
        seq = self.applied_seq
        self._pins[seq] = self._pins.get(seq, 0) + 1
        try:
            yield seq
        finally:
            self._pins[seq] -= 1
            if not self._pins[seq]:
                del self._pins[seq]

    @property
    def low(self) -> int:
        return min(self._pins, default=self.applied_seq)

    # -- writing ------------------------------------------------------------------------------------------------

    def enqueue(self, ops: Sequence[AnyOp], *, background: bool = False) -> Group:
        """Queue `ops` as one group, numbered and in order, and return at once, without a checkpoint.

        Raises ReadOnly or SessionFenced. `wait` gives the result.
        """
        if self._pipeline is None:
            raise ReadOnly("this mount is read-only")
        return self._pipeline.enqueue(ops, background=background)

    async def wait(self, group: Group) -> Committed:
        """The result of `enqueue`, when its record has been applied.

        Raises SessionFenced and ReadOnly; StoreUnreachable after `io_timeout_s`, or where the outcome cannot be known
        any more: the ops may have taken effect, or may still do so. Cancelling gives up waiting only.
        """
        with trio.move_on_after(self.options.io_timeout_s):
            await group.done.wait()
        if not group.done.is_set():
            failure = self._appender.failure if self._appender is not None else None
            reason = f": {failure}" if failure is not None else ""
            raise StoreUnreachable(
                f"the bucket has not taken a change for {self.options.io_timeout_s:g} s{reason}",
                hint="it may still take effect when the bucket answers again",
            )
        if group.error is not None:
            raise type(group.error)(group.error.message, hint=group.error.hint)
        return Committed(group.seq, group.verdicts)

    async def commit(self, ops: Sequence[AnyOp], *, background: bool = False) -> list[Verdict]:
        """`enqueue`, before the first checkpoint, and `wait`: one verdict for each op, once its record is applied."""
        return list((await self.wait(self.enqueue(ops, background=background))).verdicts)

    def send(self, ops: Sequence[AnyOp]) -> Pledge:
        """As `commit`, in two halves: queued before the first checkpoint, and numbered; the result can be asked for
        again. For contents of files: where nobody else is, the leases of their directories are asked for as well."""
        inos = [op.ino for op in ops if isinstance(op, Write | Append)]
        leases, pipeline = self._leases, self._pipeline
        if inos and leases is not None and leases.enabled and pipeline is not None and pipeline.open:
            with self.view() as txn:
                wishes = leases.wish_for_files(Rows(txn), inos)
            if wishes:
                pipeline.enqueue(wishes, background=True)
        return Pledge(self.enqueue(ops), self.wait)

    # -- ahead of the record ------------------------------------------------------------------------------------------

    def acknowledge(self, op: AnyOp, *, ctime_follows: bool = False) -> Verdict | None:
        """Take `op` at once where leases allow it: see `Acknowledged.acknowledge`. No checkpoint."""
        if self._acknowledged is None:
            return None
        return self._acknowledged.acknowledge(op, ctime_follows=ctime_follows)

    def wish(self, rows: Rows, directories: Sequence[int]) -> list[AnyOp]:
        """Ops to send before one that touches these directories, to have them leased: see `Leases.wish`."""
        return [] if self._leases is None else self._leases.wish(rows, directories)

    def answered(self, op: AnyOp, lease: LeaseId, *, ctime_follows: bool = False) -> None:
        """Take an op that was answered under that lease: see `Acknowledged.answered`. No checkpoint."""
        assert self._acknowledged is not None
        self._acknowledged.answered(op, lease, ctime_follows=ctime_follows)

    def relied_on_until_ns(self) -> int:
        """See `Acknowledged.relied_on_until_ns`."""
        return 0 if self._acknowledged is None else self._acknowledged.relied_on_until_ns()

    def lease_of(self, directory: int) -> LeaseId | None:
        """See `Acknowledged.lease_of`."""
        return None if self._acknowledged is None else self._acknowledged.lease_of(directory)

    def rely(self, reliant: Reliant, give_back: Callable[[], int]) -> int:
        """From now on `reliant` answers by itself, and takes inode numbers ahead of need (`take_new_ino`), of which
        `give_back` returns the lowest. A descriptor of where it writes its answers down; the caller closes it.
        Raises ReadOnly, OSError."""
        pipeline, acknowledged, leases = self._pipeline, self._acknowledged, self._leases
        if pipeline is None or acknowledged is None or leases is None or self._inodes is None:
            raise ReadOnly("this mount is read-only")
        log_fd = front_log.create(acknowledged.folder, self.sid, self.incarnation, self.environment.boot_id)
        leases.reliant = reliant
        self._inodes.give_back = give_back

        def estrange(inos: Collection[int]) -> None:
            for ino in inos:
                reliant.estrange(ino)

        pipeline.unsettled = estrange
        self.base.state_listeners.append(reliant.distrust)
        self.base.before_loading = reliant.distrust
        return log_fd

    def close_of(self, ino: int) -> LeaseId | None:
        """The lease under which a close of the file is acknowledged, its bytes to come along with the next batch
        (`accompany`); None: the close waits for its record."""
        return None if self._acknowledged is None else self._acknowledged.close_of(ino)

    def note_close(self, ino: int, lease: LeaseId) -> None:
        """As `close_of`, again, for a close that could not be sent along."""
        if self._acknowledged is not None:
            self._acknowledged.note_close(ino, lease)

    def closed_under(self, ino: int) -> tuple[LeaseId | None, bool]:
        """See `Acknowledged.closed_under`."""
        return (None, False) if self._acknowledged is None else self._acknowledged.closed_under(ino)

    def accompany(self, companion: Companion) -> None:
        """From now on `companion` sends along the bytes of acknowledged closes, those of a former daemon included."""
        if self._pipeline is not None and self._acknowledged is not None:
            self._pipeline.companion = companion
            self._acknowledged.taken_up()
            self._pipeline.wake()

    def send_along(self, ops: Sequence[AnyOp], leases: Sequence[LeaseId | None]) -> Pledge:
        """As `send`, into the batch that is being closed."""
        if self._pipeline is None:
            raise ReadOnly("this mount is read-only")
        return Pledge(self._pipeline.along(ops, leases), self.wait)

    def press(self) -> None:
        """Commit what was acknowledged now."""
        if self._pipeline is not None:
            self._pipeline.press()

    async def barrier(self, *inos: int) -> None:
        """Return when everything that was acknowledged before is in the journal. Raises as `commit`, and EIO where
        acknowledged changes of one of these inodes were lost (R10)."""
        pipeline, acknowledged = self._pipeline, self._acknowledged
        if pipeline is not None and acknowledged is not None and (len(acknowledged) or pipeline.companion.due()):
            await self.commit([Beat()])
        self.require_kept(*inos)

    def lost(self, ino: int) -> str | None:
        """Why an acknowledged change that names this inode was lost, if so."""
        return None if self._acknowledged is None else self._acknowledged.lost(ino)

    def require_kept(self, *inos: int) -> None:
        """Raises EIO where acknowledged changes of one of these inodes were lost (R10)."""
        for ino in inos:
            if (reason := self.lost(ino)) is not None:
                raise acknowledged_lost(reason)

    def landed(self, incarnation: int, number: int) -> bool:
        """Whether op `number` that this session sent as `incarnation` is in the journal, whatever its verdict. For a
        former incarnation the answer is final: what was not there when it was replaced will never be (R13)."""
        if incarnation == self.incarnation:
            return self.base.row is not None and self.base.row.last_op >= number
        return dict(self._former).get(incarnation, 0) >= number

    async def commit_record(self, ops: Sequence[AnyOp]) -> Committed:
        """As `commit`, with the seq of the record."""
        return await self.wait(self.enqueue(ops))

    def take_ino(self) -> int | None:
        """The next inode number of this incarnation, for a CREATE that is enqueued before the next checkpoint; None:
        `await reserve_inos()`, evaluate again, take again. See `session.inodes`."""
        return None if self._inodes is None else self._inodes.take()

    def take_new_ino(self) -> int | None:
        """As `take_ino`, for who has called `rely`."""
        return None if self._inodes is None else self._inodes.take_new()

    async def reserve_inos(self) -> None:
        """Return when `take_ino` has a number. Raises ReadOnly, SessionFenced, and StoreUnreachable after
        `io_timeout_s`."""
        if self._inodes is None:
            raise ReadOnly("this mount is read-only")
        with trio.move_on_after(self.options.io_timeout_s) as scope:
            await self._inodes.reserve()
        if scope.cancelled_caught:
            raise StoreUnreachable("the bucket does not answer, so there are no inode numbers")

    async def new_ino(self) -> int:
        """A number for a CREATE that is enqueued before the caller's next checkpoint."""
        while (ino := self.take_ino()) is None:
            await self.reserve_inos()
        return ino

    def new_object(self) -> bytes:
        """A 16-byte object id that no session has ever used: sid, incarnation, number."""
        self._objects += 1
        return self.sid.to_bytes(8, "big") + self.incarnation.to_bytes(4, "big") + self._objects.to_bytes(4, "big")

    async def evict(self, sid: int, *, wait_s: float = EVICT_AFTER_S) -> bool:
        """End another session that does not answer within `wait_s`: see `eviction.evict`."""
        return await evict(sid, wait_s=wait_s, base=self.base, tail=self.tail, commit=self.commit_record)

    # -- beginning and end --------------------------------------------------------------------------------------

    async def start(self, nursery: trio.Nursery) -> None:
        """Catch up, take office, catch up again: only then may the session serve (DESIGN 8)."""
        if self.applied_seq == 0 and (await self.journal.refresh_head()).head.checkpoint is not None:
            await rebuild(self.environment, self.store, self.journal, self.base)
        nursery.start_soon(self.tail.run)
        await self.tail.look()
        if self._directory is None:
            return
        head = (await self.journal.refresh_head()).head
        head.require_writable()
        self._appender = Appender(self.environment, head.volume, head.engine.epoch, self.base, self.journal, self.tail)
        registrar = Registrar(
            self.environment, self.base, self._appender, self.tail, self._directory, self.options.label
        )
        identity = await self.environment.run(self._directory.read_identity)
        office = await registrar.take_office(identity)
        if office is None:
            _log.error("the session of %s cannot go on; a new one begins", self._directory.path)
            await self.tail.rebuild()
            await self.tail.look()
            office = await registrar.take_office(None)
        assert office is not None  # an announcement is repeated until it holds
        self.resumed, self._former = office.resumed, office.former
        row = self.base.row
        assert row is not None
        note_sent = partial(self._directory.note_sent, office.sid, office.incarnation)
        self._pipeline = Pipeline(self.base, self._appender, office.first_number, note_sent)
        await self._begin_leases(office, self._pipeline, self._directory)
        assert self._acknowledged is not None
        self._inodes = InodeNumbers(self._pipeline, row, self._acknowledged.last_ino)
        self._presence = Presence(self.store.control, office.sid, office.incarnation, self.options.label)
        found_low = await self._presence.found_low() if office.resumed else None
        await self._presence.write(self.low if found_low is None else min(found_low, self.low))
        self.base.state_listeners.append(self._answer_challenge)
        nursery.start_soon(self._pipeline.run)
        if self._leases is not None and self._acknowledged is not None:
            nursery.start_soon(self._leases.run)
            nursery.start_soon(self._acknowledged.run)
        nursery.start_soon(self._keep_low, self._presence)
        await self.tail.look()
        self._answer_challenge()

    async def _begin_leases(self, office: Office, pipeline: Pipeline, directory: SessionDirectory) -> None:
        self._leases = Leases(self.base, self.tail, pipeline, self.commit_record)
        self._leases.enabled = self.options.leases
        spill = Spill(directory.spill)
        self._acknowledged = Acknowledged(self.environment, self.base, pipeline, self._leases, directory.queue, spill)
        await self._acknowledged.take_up(office.former)
        self._leases.take_up(copied=office.copied)

    def _answer_challenge(self) -> None:
        """Somebody doubts that this session is alive: any record of it answers."""
        row = self.base.row
        doubted = row is not None and row.challenge > row.last_seq
        if doubted and self._pipeline is not None and self._pipeline.open and not self._pipeline.queued_ops:
            self._pipeline.enqueue([Beat()])

    async def _keep_low(self, presence: Presence) -> None:
        while True:
            await trio.sleep(self.options.low_interval_s)
            if self.low > presence.written_low and not self.base.fenced:
                try:
                    await presence.write(self.low)
                except S3vfsError as error:
                    _log.warning("cannot rewrite the session object: %s", error)

    async def aclose(self) -> None:
        """Drain, append END, remove the session object and the identity. Idempotent.

        Raises Unpublished when the queue does not drain within `io_timeout_s`: the session stays, to be resumed. A
        session that is fenced or has stopped itself ends without END, and keeps its identity so that the next mount
        spills.
        """
        pipeline = self._pipeline
        if pipeline is None or self._directory is None or pipeline.closed:
            return
        ending = None
        if self._leases is not None and self.base.refusal() is None:
            await self._leases.may_end()
        if self.base.refusal() is None:
            ending = pipeline.enqueue([End()])
            ending.on_done = lambda group: self.base.leave_office() if group.error is None else None
        pipeline.close()
        with trio.move_on_after(self.options.io_timeout_s):
            await pipeline.drained()
        if self._acknowledged is not None:
            await self._acknowledged.keep_lost()
        if pipeline.queued_ops:
            raise Unpublished(
                f"{pipeline.queued_ops} changes are not in the bucket yet", hint="mount again to go on with them"
            )
        if ending is not None and ending.error is None:
            if self._presence is not None:
                await self._presence.remove()
            await self.environment.run(self._directory.remove_identity)
            if self._acknowledged is not None:
                self._acknowledged.ended()

    def status(self) -> dict[str, Any]:
        """Everything a user may want to know of it, in plain values."""
        queued = self._pipeline.queued_ops if self._pipeline is not None else 0
        return {
            "sid": f"{self.sid:016x}",
            "incarnation": self.incarnation,
            "resumed": self.resumed,
            "read_only": self.read_only,
            "fenced": self.fenced,
            "fatal": str(self.fatal) if self.fatal is not None else None,
            "applied_seq": self.applied_seq,
            "low": self.low,
            "queued_ops": queued,
            "acknowledged_ops": len(self._acknowledged) if self._acknowledged is not None else 0,
            "leases": len(self._leases.held) if self._leases is not None else 0,
            "leases_recalled": self._leases.recalled if self._leases is not None else 0,
            "tail_age_s": round(trio.current_time() - self.tail.seen_at_s, 3),
            "failure": str(self.tail.failure) if self.tail.failure is not None else None,
            "append_failure": str(self._appender.failure) if self._appender and self._appender.failure else None,
            "round_trip_us": self.journal.round_trip_us,
            "spilled": [str(spilled.folder) for spilled in self.spill.list()] if self.spill is not None else [],
            "counters": self.counters.as_dict(),
        }

    @property
    def spill(self) -> Spill | None:
        """Where work that cannot go on is kept; None for a read-only session."""
        return None if self._directory is None else Spill(self._directory.spill)


@asynccontextmanager
async def open_session(
    environment: Environment,
    store: Store,
    journal: Journal,
    replica: Replica,
    directory: SessionDirectory | None,
    options: SessionOptions | None = None,
) -> AsyncIterator[Session]:
    """A session in office; read-only, without any trace in the bucket, when `directory` is None.

    The block's normal end closes it (`Session.aclose`). An exception, cancellation included, abandons it as a crash
    would: the next one in the same directory resumes it. `replica` and `directory` stay the caller's to close.
    """
    session = Session(environment, store, journal, replica, directory, options or SessionOptions())
    with single_error():
        async with trio.open_nursery() as nursery:
            await session.start(nursery)
            yield session
            await session.aclose()
            nursery.cancel_scope.cancel()
