"""Following the journal: looks at its tail, who may share them, and what happens when the bucket is silent.

A *look* reads the record after base, applies it, and goes on until none is there; it shows everything that was
committed before its last request was sent. One task does all looking. Knows no ops.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import trio

from s3vfs.errors import S3vfsError, StoreUnreachable, Trimmed
from s3vfs.journal.protocol import Journal
from s3vfs.session.base import Base, is_fatal
from s3vfs.session.options import LAST_TRY_S, READ_WINDOW, RETRY_FIRST_S, RETRY_MOST_S, Offline, SessionOptions

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Sent:
    """A request that may show the tail: when it went out, and its place in the order of all such requests."""

    number: int
    at_s: float
    boottime_ns: int = 0


class Tail:
    """`reload` replaces base by HEAD's checkpoint; it is called when base is behind the trim boundary (R5)."""

    def __init__(
        self, base: Base, journal: Journal, options: SessionOptions, reload: Callable[[], Awaitable[None]]
    ) -> None:
        self._base = base
        self._journal = journal
        self._options = options
        self._reload = reload
        self._sends = 0
        self._seen = Sent(0, -math.inf)
        self._asked_at_s: float | None = None  # the oldest request of a look since the last answer
        self._touched_at_s = -math.inf
        self._intervals_s: dict[object, float] = {}
        self._wake = trio.Event()
        self._looked = trio.Event()
        self._wanted = False
        self._resting: trio.Event | None = None  # between two attempts: ends the pause
        self._rebuild_wanted = False
        self.failure: S3vfsError | None = None

    # -- sightings ----------------------------------------------------------------------------------------------

    def sending(self) -> Sent:
        """To be called right before a request that may show the tail is sent."""
        self._sends += 1
        return Sent(self._sends, trio.current_time(), self._base.stopwatch_ns())

    def sighted(self, sent: Sent) -> None:
        """Base holds all that was committed before `sent`: a look has ended, or an own record, first sent then, won."""
        if sent.number > self._seen.number:
            self._seen = sent
        self._looked, looked = trio.Event(), self._looked
        looked.set()

    @property
    def seen_at_s(self) -> float:
        """When the youngest request was sent that showed the tail."""
        return self._seen.at_s

    @property
    def seen_at_boottime_ns(self) -> int:
        """When the youngest request that showed the tail was sent."""
        return self._seen.boottime_ns

    def seen_within(self, seconds: float) -> bool:
        """Whether the youngest request that showed the tail was sent less than `seconds` ago, as CLOCK_BOOTTIME counts
        (R8)."""
        return self._seen.number > 0 and self._base.stopwatch_ns() - self._seen.boottime_ns < seconds * 1e9

    # -- callers ------------------------------------------------------------------------------------------------

    async def fresh(self, within_s: float) -> None:
        """Return when base holds all that was committed `within_s` before this call. 0 = before this call: only
        requests sent after it began count.

        With a silent bucket: returns after `stale_after_s` (Offline.STALE), or raises StoreUnreachable after
        `io_timeout_s` (Offline.ERROR), counted from the first request without an answer. Where that was long ago, and
        nobody is asking at the moment, it asks again and waits for `LAST_TRY_S`: the bucket may be back. A client that
        stopped itself returns at once.
        """
        stale = self._options.offline is Offline.STALE
        if await self._seen_since(within_s, self._options.stale_after_s if stale else self._options.io_timeout_s):
            return
        if not stale:
            raise self._silence()

    async def look(self) -> None:
        """A new look, or StoreUnreachable after `io_timeout_s` without an answer, whatever `offline` says."""
        if not await self._seen_since(0, self._options.io_timeout_s):
            raise self._silence()

    def _silence(self) -> StoreUnreachable:
        reason = f": {self.failure}" if self.failure is not None else ""
        return StoreUnreachable(f"the bucket does not answer{reason}", hint="the mount goes on by itself when it does")

    async def _seen_since(self, within_s: float, patience_s: float) -> bool:
        began_s = trio.current_time()
        ticket = self._sends
        wanted = tried = False
        while self._base.fatal is None:
            if self._seen.number > ticket or (within_s > 0 and self._seen.at_s >= began_s - within_s):
                return True
            if tried:
                return False
            if not wanted:
                self.want()
                wanted = True
            silent_from_s = began_s if self._asked_at_s is None else self._asked_at_s
            give_up_s = silent_from_s + patience_s
            if trio.current_time() >= give_up_s:
                if self._resting is None:
                    return False
                tried = True
                self._resting.set()
                give_up_s = trio.current_time() + LAST_TRY_S
            with trio.move_on_at(give_up_s):
                await self._looked.wait()
        return True

    async def reached(self, seq: int) -> None:
        """Return when base has applied `seq` (or has stopped for good); waits for as long as that takes."""
        if self._base.applied_seq < seq:
            self.want()
        while self._base.applied_seq < seq and self._base.fatal is None:
            await self._base.changed.wait()

    async def rebuild(self) -> None:
        """Have base replaced by the newest checkpoint, by the one task that may. Raises StoreUnreachable after
        `io_timeout_s` without success; the task goes on trying then."""
        self._rebuild_wanted = True
        self.want()
        with trio.move_on_after(self._options.io_timeout_s):
            while self._rebuild_wanted and self._base.fatal is None:
                await self._base.changed.wait()
            return
        raise self._silence()

    # -- the task -----------------------------------------------------------------------------------------------

    def want(self) -> None:
        """Ask for a look as soon as the one that runs has ended."""
        self._wanted = True
        self._wake.set()

    def touch(self) -> None:
        """The kernel has asked something: until `idle_after_s` from now its caches need a young tail."""
        now_s = trio.current_time()
        idle = now_s >= self._touched_at_s + self._options.idle_after_s
        self._touched_at_s = now_s
        if idle:
            self._wake.set()

    def look_every(self, who: object, interval_s: float | None) -> None:
        """From now on `who` needs a look at least that often; None: no longer."""
        if interval_s is None:
            self._intervals_s.pop(who, None)
        elif self._intervals_s.get(who) != interval_s:
            self._intervals_s[who] = interval_s
            self._wake.set()

    async def run(self) -> None:
        """Look when asked, and every `busy_poll_s` (or `idle_poll_s`) anyway, or more often: `look_every`."""
        retry_s = RETRY_FIRST_S
        while self._base.fatal is None:
            if not self._wanted:
                with trio.move_on_at(self._due_s()):
                    await self._wake.wait()
            self._wake = trio.Event()
            if not self._wanted and trio.current_time() < self._due_s():
                continue
            self._wanted = False
            try:
                await self._look()
                retry_s = RETRY_FIRST_S
            except S3vfsError as error:
                if is_fatal(error):
                    self._base.stop(error)
                    break
                self._failed(error)
                await self._rest(retry_s)
                retry_s = min(2 * retry_s, RETRY_MOST_S)
                self._wanted = True
        self._looked.set()

    async def _rest(self, pause_s: float) -> None:
        """After a failure. Who would have to go on without a look may end it, but for the first moment."""
        await trio.sleep(min(RETRY_FIRST_S, pause_s))
        asked = self._resting = trio.Event()
        with trio.move_on_after(pause_s - RETRY_FIRST_S):
            await asked.wait()
        self._resting = None

    def _due_s(self) -> float:
        idle = trio.current_time() >= self._touched_at_s + self._options.idle_after_s
        interval_s = self._options.idle_poll_s if idle else self._options.busy_poll_s
        return self._seen.at_s + min(interval_s, *self._intervals_s.values(), math.inf)

    def _failed(self, error: S3vfsError) -> None:
        if self.failure is None:
            _log.warning("cannot follow the journal after record %d: %s", self._base.applied_seq, error)
        self.failure = error
        looked, self._looked = self._looked, trio.Event()
        looked.set()

    async def _look(self) -> None:
        """Read and apply until nothing is there. Raises S3vfsError; what was applied stays applied."""
        self._base.counters.looks += 1
        if self._base.loading or self._rebuild_wanted:  # loading: an earlier attempt has failed
            await self._reload()
            self._rebuild_wanted = False
        found = 0
        while self._base.fatal is None:
            # A client that is far behind asks for many records at once; at the tail one request is enough.
            window = max(1, min(found, READ_WINDOW))
            first = self._base.applied_seq + 1
            for seq, reading in zip(range(first, first + window), await self._read(first, window), strict=True):
                if isinstance(reading.result, Trimmed):
                    if seq > self._base.applied_seq:
                        await self._reload()
                    break
                if isinstance(reading.result, S3vfsError):
                    raise reading.result
                self._answered()
                if reading.result is None:
                    self.sighted(reading.sent)
                    return
                found += 1
                self._base.counters.records_read += 1
                self._base.counters.bytes_read += len(reading.result)
                self._base.offer(seq, reading.result)

    def _answered(self) -> None:
        self._asked_at_s = None
        if self.failure is not None:
            _log.warning("following the journal again at record %d", self._base.applied_seq)
            self.failure = None

    async def _read(self, first: int, count: int) -> list[_Reading]:
        readings = []
        async with trio.open_nursery() as nursery:
            for seq in range(first, first + count):
                reading = _Reading(self.sending())
                readings.append(reading)
                nursery.start_soon(self._read_one, seq, reading)
        return readings

    async def _read_one(self, seq: int, reading: _Reading) -> None:
        if self._asked_at_s is None:
            self._asked_at_s = reading.sent.at_s
        try:
            reading.result = await self._journal.read(seq)
        except S3vfsError as error:
            reading.result = error


@dataclass(slots=True)
class _Reading:
    """One request of a look, and its answer: a record's bytes, None where there is none, or the error."""

    sent: Sent
    result: bytes | S3vfsError | None = None
