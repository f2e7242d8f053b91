"""A short-lived session for a command: each commit is one record `[ANNOUNCE, ops, END]`, so nothing of it stays behind.

For `s3vfs evict`, `destroy`, `config` and the like. Serves no files and keeps no session directory.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import trio

from s3vfs.environment import Environment
from s3vfs.errors import StoreUnreachable
from s3vfs.journal.protocol import Journal
from s3vfs.namespace.ops import Announce, AnyOp, End, NumberedOp, encode_op
from s3vfs.namespace.transaction import ReadTransaction
from s3vfs.objects.protocol import Store
from s3vfs.replica.protocol import Replica
from s3vfs.session.appender import Appender, Author
from s3vfs.session.base import Base, Fate
from s3vfs.session.counters import SessionCounters
from s3vfs.session.eviction import EVICT_AFTER_S, Committed, evict, patience_s
from s3vfs.session.lifecycle import rebuild
from s3vfs.session.options import Offline, SessionOptions
from s3vfs.session.tail import Tail
from s3vfs.session.unwrapping import single_error

Evaluate = Callable[[ReadTransaction], Sequence[AnyOp]]


class Command:
    """Made by `open_command`."""

    def __init__(
        self, environment: Environment, store: Store, journal: Journal, replica: Replica, options: SessionOptions
    ) -> None:
        self._environment = environment
        self._journal = journal
        self._options = options
        self._appender: Appender | None = None
        self.base = Base(replica, SessionCounters(), environment.boottime_ns)
        self.tail = Tail(self.base, journal, options, reload=lambda: rebuild(environment, store, journal, self.base))

    async def run(self, ops: Sequence[AnyOp] | Evaluate) -> Committed:
        """Commit `ops` on the newest state; a function is evaluated again after each lost race.

        Raises ReadOnly where the journal stopped this client, StoreUnreachable after `io_timeout_s` (the ops may still
        take effect), or where the outcome cannot be known any more.
        """
        with trio.move_on_after(self._options.io_timeout_s):
            return await self._run(ops)
        raise StoreUnreachable("the bucket does not answer", hint="the command may still take effect")

    async def _run(self, ops: Sequence[AnyOp] | Evaluate) -> Committed:
        appender = await self._ready_appender()
        while True:
            await self.tail.look()
            await self.base.ready()
            refusal = self.base.refusal()
            if refusal is not None:
                raise refusal
            outcome = await appender.append(Author(self._environment.random.randrange(1, 2**63), 1), self._wires(ops))
            if outcome.fate is Fate.WON:
                return Committed(outcome.seq, outcome.verdicts[1:-1])
            if outcome.fate is Fate.UNREADABLE:
                raise StoreUnreachable("the outcome cannot be known: the record was trimmed before it could be read")

    async def _ready_appender(self) -> Appender:
        if self._appender is None:
            head = (await self._journal.refresh_head()).head
            head.require_writable()
            self._appender = Appender(
                self._environment, head.volume, head.engine.epoch, self.base, self._journal, self.tail
            )
        return self._appender

    def _wires(self, ops: Sequence[AnyOp] | Evaluate) -> list[bytes]:
        if callable(ops):
            with self.base.read() as txn:
                ops = ops(txn)
        entered = (Announce(self._options.label), *ops, End())
        return [encode_op(NumberedOp(number, None, op)) for number, op in enumerate(entered, start=1)]

    def patience_s(self, sid: int, wait_s: float) -> float:
        """See `eviction.patience_s`."""
        return patience_s(self.base, sid, wait_s)

    async def evict(self, sid: int, *, wait_s: float = EVICT_AFTER_S) -> bool:
        """See `eviction.evict`."""
        return await evict(sid, wait_s=wait_s, base=self.base, tail=self.tail, commit=self.run)


@asynccontextmanager
async def open_command(
    environment: Environment,
    store: Store,
    journal: Journal,
    replica: Replica,
    *,
    label: str = "command",
    io_timeout_s: float = 120.0,
) -> AsyncIterator[Command]:
    """A command that has caught up with the journal. `replica` may be empty or old, and stays the caller's."""
    options = SessionOptions(label=label, offline=Offline.ERROR, io_timeout_s=io_timeout_s)
    command = Command(environment, store, journal, replica, options)
    with single_error():
        async with trio.open_nursery() as nursery:
            if replica.position.seq == 0 and (await journal.refresh_head()).head.checkpoint is not None:
                await rebuild(environment, store, journal, command.base)
            nursery.start_soon(command.tail.run)
            await command.tail.look()
            yield command
            nursery.cancel_scope.cancel()


async def run_command(
    environment: Environment,
    store: Store,
    journal: Journal,
    replica: Replica,
    ops: Sequence[AnyOp] | Evaluate,
    *,
    label: str = "command",
) -> Committed:
    """Catch up and commit `ops` in one record of a session of its own. Raises as `Command.run`."""
    async with open_command(environment, store, journal, replica, label=label) as command:
        return await command.run(ops)
