"""The one place where base changes: the next journal record, or a whole checkpoint (R12).

Decides who hears of it: the appender whose record it is, the session (is it still in office? was it challenged?), and
the listeners that keep caches. All on the trio thread, without a checkpoint inside, so whoever reads `applied_seq` and
acts before its next await acts on that state. Knows no bucket.
"""

from __future__ import annotations

import enum
import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import trio

from s3vfs.errors import Damaged, ReadOnly, S3vfsError, SessionFenced, UnknownFeature
from s3vfs.journal.record import Header, decode_record, record_hash
from s3vfs.namespace.changes import Changes
from s3vfs.namespace.rows import Rows, SessionRow, session_key
from s3vfs.namespace.transaction import ReadTransaction
from s3vfs.namespace.verdict import Verdict
from s3vfs.replica.protocol import Applied, Replica, loading_error
from s3vfs.session.counters import SessionCounters

_log = logging.getLogger(__name__)

Listener = Callable[[Changes, bool], None]


class Fate(enum.Enum):
    """What became of a record that was sent."""

    PENDING = "pending"
    WON = "won"
    LOST = "lost"
    UNREADABLE = "unreadable"  # a checkpoint has replaced base, which may contain it: the session's row tells


@dataclass(frozen=True, slots=True)
class Expected:
    """An own record that has been sent; `settle` is called once, when base passes `seq`."""

    seq: int
    batch: bytes
    settle: Callable[[Fate, Sequence[Verdict]], None]


@dataclass(slots=True)
class Base:
    """`sid` 0: no session (read-only, or not announced yet). `fatal` is set once, by R3 or R4: from then on base stays
    where it is. `fenced`: the session is no longer in office (R13)."""

    replica: Replica
    counters: SessionCounters
    stopwatch_ns: Callable[[], int]
    sid: int = 0
    incarnation: int = 0
    fatal: S3vfsError | None = None
    fenced: bool = False
    loading: bool = False
    expected: Expected | None = None
    row: SessionRow | None = None
    changed: trio.Event = field(default_factory=trio.Event)
    listeners: list[Listener] = field(default_factory=list)
    reload_listeners: list[Callable[[], None]] = field(default_factory=list)
    header_listeners: list[Callable[[Header, bool], None]] = field(default_factory=list)
    state_listeners: list[Callable[[], None]] = field(default_factory=list)
    # The overlay follows before anybody can look through it: called with each applied record, and whether it is ours.
    follow: Callable[[Applied, bool], Changes | None] | None = None
    follow_reload: Callable[[], None] | None = None
    before_loading: Callable[[], None] = lambda: None

    @property
    def applied_seq(self) -> int:
        return self.replica.position.seq

    @property
    def features(self) -> int:
        """What FEATURE ops have switched on; 0 while a checkpoint is loaded."""
        if self.loading:
            return 0
        with self.read() as txn:
            volume = Rows(txn).volume()
        return 0 if volume is None else volume.features

    def offer(self, seq: int, data: bytes) -> None:
        """Apply `data` if it is the next record; nothing happens where `seq` is applied already or out of reach.

        A record that contradicts base, or that this program is too old for, ends in `stop` (R3, R4). Raises S3vfsError
        where the local disk does not take it, or while a checkpoint is loaded: base is unchanged, offer again later.
        """
        if self.loading:
            raise loading_error()
        if self.fatal is not None:
            return
        position = self.replica.position
        if seq == position.seq and record_hash(data) != position.record_hash:
            self.stop(Damaged(f"record {seq} has two contents"))
        if seq != position.seq + 1:
            return
        began_ns = self.stopwatch_ns()
        try:
            record = decode_record(data)
            if record.header.seq != seq:
                raise Damaged(f"the record at {seq} says that it is {record.header.seq}")
            applied = self.replica.apply(record)
        except S3vfsError as error:
            if not is_fatal(error):
                raise
            self.stop(error)
            return
        self.counters.apply_s += (self.stopwatch_ns() - began_ns) / 1e9
        expected = self.expected
        own = expected is not None and record.header.batch == expected.batch and record.header.seq == expected.seq
        again = self.follow(applied, own) if self.follow is not None else None
        self._settle(record.header, applied, own)
        if self.sid and session_key(self.sid) in applied.keys:
            self._look_at_office()
            self._state_changed()
        for hear_header in tuple(self.header_listeners):
            hear_header(record.header, own)
        for hear in tuple(self.listeners):
            hear(applied.changes, own)
        if again is not None:
            for hear in tuple(self.listeners):
                hear(again, False)
        self._notify()

    def _settle(self, header: Header, applied: Applied, own: bool) -> None:
        expected = self.expected
        if expected is not None and header.seq == expected.seq:
            self.expected = None
            expected.settle(Fate.WON if own else Fate.LOST, applied.verdicts if own else ())

    def _look_at_office(self) -> None:
        """Does the journal still know this session as what it says it is (R13)?"""
        if not self.sid:
            return
        self.row = self.session_row(self.sid)
        if (self.row is None or self.row.incarnation != self.incarnation) and not self.fenced:
            self.fenced = True
            _log.error("session %016x, incarnation %d, is no longer in office", self.sid, self.incarnation)

    def read(self) -> AbstractContextManager[ReadTransaction]:
        """A view of base; of what it was before, while a checkpoint is being loaded. Raises S3vfsError while there is
        nothing yet that it could show: wait for `ready`."""
        if self.loading and not self.applied_seq:
            raise loading_error()
        return self.replica.read()

    def session_row(self, sid: int) -> SessionRow | None:
        with self.read() as txn:
            return Rows(txn).session(sid)

    def take_office(self, sid: int, incarnation: int) -> None:
        """From now on this client is that session; its ANNOUNCE or RESUME has been applied."""
        self.sid, self.incarnation, self.fenced = sid, incarnation, False
        self._look_at_office()
        self._state_changed()

    def leave_office(self) -> None:
        """The session ends itself: what happens to its row is no news."""
        self.sid = 0

    def begin_loading(self) -> None:
        """Base is about to be replaced: no record is applied until `reloaded` or `loading_failed`."""
        self.before_loading()
        self.loading = True

    def loading_failed(self) -> None:
        """Loading has left base as it was. An empty base must never look like missing files."""
        self.loading = self.applied_seq == 0
        self._notify()

    def reloaded(self) -> None:
        """A checkpoint has replaced base."""
        self.loading = False
        self.counters.reloads += 1
        self._look_at_office()
        expected = self.expected
        if expected is not None and expected.seq <= self.applied_seq:
            self.expected = None
            expected.settle(Fate.UNREADABLE, ())
        if self.follow_reload is not None:
            self.follow_reload()
        self._state_changed()
        for hear in tuple(self.reload_listeners):
            hear()
        self._notify()

    def stop(self, error: S3vfsError) -> None:
        """The journal contradicts itself or needs a newer program: read-only from here on, loudly (R3, R4)."""
        if self.fatal is None:
            self.fatal = error
            _log.error("stopped at record %d, read-only from now on: %s", self.applied_seq, error)
            self._state_changed()
            self._notify()

    async def ready(self) -> None:
        """Return when base takes records; at once where no checkpoint is being loaded."""
        while self.loading and self.fatal is None:
            await self.changed.wait()

    def refusal(self) -> S3vfsError | None:
        """Why nothing can be committed any more, if so: a fresh exception for each who asks."""
        if self.fatal is not None:
            return ReadOnly(f"this client stopped itself: {self.fatal}", hint="see the log; reads go on")
        if self.fenced:
            return SessionFenced(
                f"session {self.sid:016x} was ended by others or taken over",
                hint="unpublished work is kept in the spill directory; mount again",
            )
        return None

    def _state_changed(self) -> None:
        for hear in tuple(self.state_listeners):
            hear()

    def _notify(self) -> None:
        event, self.changed = self.changed, trio.Event()
        event.set()


def is_fatal(error: S3vfsError) -> bool:
    """Errors that no repetition mends: they stop the client (R3, R4)."""
    return isinstance(error, Damaged | UnknownFeature)
