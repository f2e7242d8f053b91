"""Sending one record and learning its fate: the only caller of `journal.append` on this client.

One record at a time. Its bytes are made on the base of that moment and never change until the journal has shown what
became of them. Knows nothing of queues: who sends decides what to do after a lost race.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import trio

from s3vfs.environment import Environment
from s3vfs.errors import S3vfsError, Trimmed
from s3vfs.journal.protocol import Journal
from s3vfs.journal.record import APPLY_VERSION, Header, encode_record
from s3vfs.namespace.verdict import Verdict
from s3vfs.session.base import Base, Expected, Fate, is_fatal
from s3vfs.session.options import KNOWN_FATE_GRACE_S, RETRY_FIRST_S, RETRY_MOST_S
from s3vfs.session.tail import Tail

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Author:
    """In whose name a record is written: `sid` and `incarnation` of its header."""

    sid: int
    incarnation: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of the record at `seq`. `verdicts`: one for each op when `fate` is WON."""

    fate: Fate
    seq: int
    verdicts: Sequence[Verdict] = ()


class Appender:
    """`volume` and `epoch` go into every header."""

    def __init__(
        self, environment: Environment, volume: bytes, epoch: int, base: Base, journal: Journal, tail: Tail
    ) -> None:
        self._environment = environment
        self._volume = volume
        self._epoch = epoch
        self._base = base
        self._journal = journal
        self._tail = tail
        self._losses = 0
        self.failure: S3vfsError | None = None

    async def append(
        self,
        author: Author,
        ops: Sequence[bytes],
        *,
        background: bool = False,
        conclude: Callable[[Outcome], None] | None = None,
    ) -> Outcome:
        """Send `ops` (wire forms) as the next record, once. Returns when its fate is known and base has passed it;
        PENDING when the client stopped itself meanwhile (R4).

        The record is built before the first checkpoint. `conclude` is called in the very step in which base passes the
        record, before listeners are.
        """
        position = self._base.replica.position
        header = Header(
            apply_version=APPLY_VERSION,
            features=self._base.features,
            volume=self._volume,
            epoch=self._epoch,
            seq=position.seq + 1,
            previous=position.record_hash,
            digest=position.digest,
            sid=author.sid,
            incarnation=author.incarnation,
            batch=self._environment.new_uuid(),
            author_time_ns=self._environment.wall_ns(),
            round_trip_us=self._journal.round_trip_us,
            losses=self._losses,
            background=background,
        )
        data = encode_record(header, ops)
        outcome = Outcome(Fate.PENDING, header.seq)
        scope = trio.CancelScope()

        def settled(fate: Fate, verdicts: Sequence[Verdict]) -> None:
            nonlocal outcome
            outcome = Outcome(fate, header.seq, verdicts)
            self._count(fate, len(data))
            # An own record in base needs no answer any more; a lost one is given time to end in good order.
            scope.deadline = trio.current_time() + (KNOWN_FATE_GRACE_S if fate is Fate.LOST else 0)
            if conclude is not None:
                conclude(outcome)

        self._base.expected = Expected(header.seq, header.batch, settled)
        try:
            with scope:
                await self._send(header.seq, header.batch, data)
        finally:
            self._base.expected = None
        return outcome

    def _count(self, fate: Fate, size_bytes: int) -> None:
        if fate is Fate.WON:
            self._losses = 0
            self._base.counters.records_won += 1
            self._base.counters.bytes_won += size_bytes
        elif fate is Fate.LOST:
            self._losses += 1
            self._base.counters.records_lost += 1

    async def _send(self, seq: int, batch: bytes, data: bytes) -> None:
        """Until base has passed `seq`; the same bytes at the same seq each time (R2)."""
        retry_s = RETRY_FIRST_S
        sent = self._tail.sending()  # the first request: it may be the one that took effect
        while self._base.applied_seq < seq and self._base.fatal is None:
            try:
                won = await self._journal.append(seq, data, batch)
                self.failure = None
                if won:
                    self._base.offer(seq, data)
                    self._tail.sighted(sent)
                else:
                    await self._tail.reached(seq)
            except Trimmed:
                await self._tail.reached(seq)
            except S3vfsError as error:
                if is_fatal(error):
                    self._base.stop(error)
                    return
                self._failed(seq, error)
                await trio.sleep(retry_s)
                retry_s = min(2 * retry_s, RETRY_MOST_S)

    def _failed(self, seq: int, error: S3vfsError) -> None:
        if self.failure is None:
            _log.warning("cannot append record %d, trying again: %s", seq, error)
        self.failure = error
