"""The journal kept in a bucket: one object a record, created by conditional PUT (DESIGN section 4; R1, R2, R4, R5).

Answers leave this module resolved (whose record is it?) and trusted (was it not below the trim boundary when it was
given?). It does not know what records mean.

Trust: an answer whose Date is less than ten minutes after the Date of our last look at HEAD is good by itself, since
records are deleted an hour after their step. Any other answer is followed by a look at HEAD *begun after it*: if the
boundary is then still not above the seq, nothing at that seq had been deleted when the answer was given, whatever
the Dates say. A PUT that won at a trimmed key has made an object that nobody will ever trust; it stays, for the next
trimmer to delete, because to tell it from the real record that others may still be reading would take the hour.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace

import trio

from s3vfs.environment import Environment
from s3vfs.errors import Damaged, StoreUnreachable, Trimmed, UnknownFeature
from s3vfs.journal.conditional import Backoff, occupy
from s3vfs.journal.head import Head, HeadState, encode_head, parse_head
from s3vfs.journal.keys import HEAD_KEY, record_key
from s3vfs.journal.protocol import TrimReport
from s3vfs.journal.record import decode_record, record_hash
from s3vfs.journal.trimming import date_steps, delete_below, drop_finished, due_step, raise_boundary
from s3vfs.objects.protocol import Control, Outcome

PARALLEL_READS = 16
REMEMBERED_HASHES = 4096  # enough for every record that is in flight or read twice; 16 bytes each
ROUND_TRIP_WEIGHT = 8  # the newest sample counts one eighth: about ten samples of memory


class BucketJournal:
    """Implements `Journal` (protocol.py) over a control store.

    `control` is the volume's place in the bucket, `volume` its uuid (16 bytes). All state belongs to the trio thread.
    """

    def __init__(self, control: Control, volume: bytes, environment: Environment) -> None:
        self._control = control
        self._volume = volume
        self._environment = environment
        self._state: HeadState | None = None
        self._state_turn = 0  # when the look that is `_state` began, in turns
        self._turn = 0  # counts looks and answers: tells what began after what, without any clock
        self._head_lock = trio.Lock()
        self._hashes: OrderedDict[int, bytes] = OrderedDict()
        self._highest = 0  # the highest record that we have a trusted answer about
        self._round_trip_ns = 0
        self._cleaned_step = 0

    @property
    def round_trip_us(self) -> int:
        return self._round_trip_ns // 1000

    # -- records ------------------------------------------------------------------------------------------------------

    async def append(self, seq: int, data: bytes, batch: bytes) -> bool:
        state = await self._known_head()
        state.head.require_writable()
        _refuse_trimmed(seq, state)
        seen = self._hashes.get(seq)
        if seen is not None:
            await trio.lowlevel.checkpoint()
            return seen == record_hash(data)
        highest = self._highest
        answer = await occupy(self._control, record_key(seq), data, self._environment)
        backoff = Backoff(self._environment.random)
        while True:
            try:
                await self._trust(seq, answer.date_ns)
                break
            except StoreUnreachable as error:
                # R5 wants HEAD before the answer counts; the record's fate is settled, so only HEAD is asked again.
                await backoff.pause(error)
        if answer.created:
            self._measure(answer.round_trip_ns)
            if seq <= highest:
                await self._vanished(seq)
        self._remember(seq, answer.body)
        if not answer.own and _batch_of(answer.body) == batch:
            raise Damaged(f"record {seq} has this session's batch uuid and other bytes", hint=_STOP)
        return answer.own

    async def read(self, seq: int) -> bytes | None:
        _refuse_trimmed(seq, await self._known_head())
        highest = self._highest
        started_ns = self._environment.boottime_ns()
        reply = await self._control.get(record_key(seq))
        if reply.outcome is Outcome.OK:
            await self._trust(seq, reply.date_ns)
            self._remember(seq, reply.body)
            return reply.body
        self._measure(self._environment.boottime_ns() - started_ns)
        if seq <= highest:
            await self._vanished(seq)
        await self._trust(seq, reply.date_ns)
        return None

    async def read_many(self, first: int, count: int) -> list[bytes]:
        _refuse_trimmed(first, await self._known_head())
        end = first + count
        results: dict[int, bytes | Exception | None] = {}
        waiting = iter(range(first, end))

        async def worker() -> None:
            nonlocal end
            for seq in waiting:
                if seq >= end:
                    return
                try:
                    results[seq] = await self.read(seq)
                except Exception as error:  # raised below, in the order of seq, and bare instead of in a group
                    results[seq] = error
                if not isinstance(results[seq], bytes):
                    end = min(end, seq)

        async with trio.open_nursery() as nursery:
            for _ in range(min(PARALLEL_READS, count)):
                nursery.start_soon(worker)
        found: list[bytes] = []
        for seq in range(first, first + count):
            result = results[seq]
            if isinstance(result, Exception):
                raise result
            if result is None:
                break
            found.append(result)
        return found

    async def tail(self, known: int) -> int:
        # Records have no holes above the boundary, so doubling steps and then halving find the last one.
        lowest = known + 1
        _refuse_trimmed(lowest, await self._known_head())
        low, step = max(known, self._highest), 1
        while await self._exists(low + step, lowest):
            low, step = low + step, 2 * step
        high = low + step
        while high - low > 1:
            middle = (low + high) // 2
            if await self._exists(middle, lowest):
                low = middle
            else:
                high = middle
        return low

    async def _exists(self, seq: int, lowest: int) -> bool:
        """Whether record `seq` is there; trusted for `lowest` <= seq."""
        highest = self._highest
        started_ns = self._environment.boottime_ns()
        reply = await self._control.head(record_key(seq))
        self._measure(self._environment.boottime_ns() - started_ns)
        await self._trust(lowest, reply.date_ns)
        if reply.outcome is Outcome.OK:
            self._highest = max(self._highest, seq)
            return True
        if seq <= highest:
            await self._vanished(seq)
        return False

    def _remember(self, seq: int, body: bytes) -> None:
        """Note a trusted record; raises Damaged where this seq has had other bytes before (R4)."""
        digest = record_hash(body)
        if self._hashes.setdefault(seq, digest) != digest:
            raise Damaged(f"record {seq} has had two contents", hint=_STOP)
        self._hashes.move_to_end(seq)
        if len(self._hashes) > REMEMBERED_HASHES:
            self._hashes.popitem(last=False)
        self._highest = max(self._highest, seq)

    async def _vanished(self, seq: int) -> None:
        """A record that must exist was not there: it has been trimmed since, or the journal has a hole (R4)."""
        _refuse_trimmed(seq, await self._head_from_now())
        raise Damaged(f"record {seq} is missing from the journal, though later ones exist or it was read", hint=_STOP)

    def _measure(self, sample_ns: int) -> None:
        if self._round_trip_ns:
            self._round_trip_ns += (sample_ns - self._round_trip_ns) // ROUND_TRIP_WEIGHT
        else:
            self._round_trip_ns = sample_ns

    # -- trust (R5) ---------------------------------------------------------------------------------------------------

    async def _trust(self, seq: int, date_ns: int) -> None:
        """Return when the answer about `seq` that came with this Date just now may be believed; else raise Trimmed."""
        state = await self._known_head()
        if not state.vouches_for(date_ns):
            state = await self._head_from_now()
        _refuse_trimmed(seq, state)

    async def _known_head(self) -> HeadState:
        return self._state or await self.refresh_head()

    async def _head_from_now(self) -> HeadState:
        """A look at HEAD that began after this call; callers that come together share one."""
        self._turn += 1
        called = self._turn
        async with self._head_lock:
            if self._state is not None and self._state_turn > called:
                return self._state
            return await self.refresh_head()

    # -- HEAD ---------------------------------------------------------------------------------------------------------

    def head(self) -> HeadState:
        if self._state is None:
            raise RuntimeError("HEAD has not been read yet")
        return self._state

    async def refresh_head(self) -> HeadState:
        self._turn += 1
        turn, before = self._turn, self._state
        reply = await self._control.get(HEAD_KEY)
        if reply.outcome is not Outcome.OK:
            raise Damaged("HEAD is missing from the volume", hint=_STOP)
        head = parse_head(reply.body)
        if head.volume != self._volume:
            raise Damaged(f"HEAD belongs to volume {head.volume.hex()}, not {self._volume.hex()}", hint=_STOP)
        head.require_readable()
        if before and (head.generation < before.head.generation or head.boundary < before.head.boundary):
            raise Damaged(f"HEAD went back from generation {before.head.generation} to {head.generation}", hint=_STOP)
        return self._keep(HeadState(head, reply.etag, reply.date_ns), turn)

    async def update_head(self, change: Callable[[Head], Head]) -> Head:
        writer = self._environment.new_uuid().hex()
        backoff = Backoff(self._environment.random)
        while True:
            try:
                state = await self.refresh_head()
            except StoreUnreachable as error:
                await backoff.pause(error)
                continue
            if state.head.writer == writer:
                return state.head
            state.head.require_writable()
            changed = change(state.head)
            if changed == state.head:
                return state.head
            changed = replace(changed, generation=state.head.generation + 1, writer=writer)
            self._turn += 1
            turn = self._turn
            try:
                reply = await self._control.put(HEAD_KEY, encode_head(changed), if_match=state.etag)
            except StoreUnreachable as error:
                await backoff.pause(error)
                continue
            if reply.outcome is Outcome.OK:
                self._keep(HeadState(changed, reply.etag, reply.date_ns), turn)
                return changed
            await backoff.pause()

    async def trim(self, below: int) -> TrimReport:
        shown = await self.refresh_head()
        shown.head.require_writable()
        due, deleted = due_step(shown), 0
        if due and due.step > self._cleaned_step:
            deleted = await delete_below(self._control, due.boundary)
            self._cleaned_step = due.step
        finished = due.step if due else 0

        def advance(head: Head) -> Head:
            return drop_finished(raise_boundary(date_steps(head, shown), below), finished)

        head = shown.head if advance(shown.head) == shown.head else await self.update_head(advance)
        return TrimReport(head.boundary, deleted)

    def _keep(self, state: HeadState, turn: int) -> HeadState:
        """Hold on to `state`, a look begun at `turn`, unless a newer one is known; returns `state`."""
        known = self._state
        if known is None or (state.head.generation, turn) > (known.head.generation, self._state_turn):
            self._state, self._state_turn = state, turn
        return state


_STOP = "stop writing to this volume and run s3vfs fsck"


def _refuse_trimmed(seq: int, state: HeadState) -> None:
    if seq < state.head.boundary:
        raise Trimmed(f"record {seq} has been trimmed; records begin at {state.head.boundary}")


def _batch_of(data: bytes) -> bytes | None:
    """The batch uuid of a record, None where it cannot be read: whoever applies it will say why."""
    try:
        return decode_record(data).header.batch
    except (Damaged, UnknownFeature):
        return None
