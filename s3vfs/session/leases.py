"""The leases of one session, and what others hold (DESIGN 6, R6 to R8).

*As a holder*: which leases are in force, whether they may be relied on now (R8), what to do when one is recalled: stop
acknowledging under it, have everything acknowledged go out at once, and give it back in the same record. A lease that
is *ending* is relied on no more, from that moment. Recall handling waits for nobody and holds no lock.
*As a reader*: RECALL what another session holds, wait until it is given back, REVOKE it where no sign of life comes.

Knows rows and ops; what the ops of acknowledged work are, and where its bytes lie, is the pipeline's and the data
room's.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import trio

from s3vfs.namespace.changes import Changes
from s3vfs.namespace.features import LEASES
from s3vfs.namespace.leases import covering, lease_of_directory
from s3vfs.namespace.limits import COVERED_LINKS_MAX
from s3vfs.namespace.ops import AnyOp, Beat, Busy, Feature, Grant, Recall, Release, Revoke
from s3vfs.namespace.rows import LeaseId, Rows
from s3vfs.session.base import Base
from s3vfs.session.eviction import Committed
from s3vfs.session.options import (
    BESIDE_IDLE_S,
    BUSY_AFTER_S,
    COMPANY_S,
    LEASE_IDLE_S,
    LEASE_LOOK_S,
    LEASE_STRENGTH_S,
    RECALL_LIMIT_S,
    RECALL_PATIENCE_S,
    SHY_FIRST_S,
    SHY_MOST_S,
)
from s3vfs.session.reliant import NobodyRelies, Reliant
from s3vfs.session.tail import Tail
from s3vfs.session.walk import Walk, ahead, first

if TYPE_CHECKING:
    from s3vfs.session.pipeline import Pipeline

_log = logging.getLogger(__name__)

_TICK_S = 0.5
# How often somebody who waits for a lease looks at the tail.
_WAITING_LOOK_S = 0.05
# Files of one commit whose directories are asked for.
_FILES_LOOKED_AT = 100
# Directories remembered as shared with others; beyond that the oldest are forgotten.
_MEMORY = 10_000


@dataclass(slots=True)
class Held:
    """An own lease. `ending_since_s`: since then it is relied on no more, and RELEASE is due. `recalled`: somebody
    waits. `said_busy_s`: when BUSY was sent last. `used`: it has been of use at all."""

    used_at_s: float
    used: bool = False
    ending_since_s: float | None = None
    recalled: bool = False
    said_busy_s: float = 0.0


@dataclass(slots=True)
class _Shyness:
    """A directory that others want, too: nothing is taken there until `until_s`."""

    until_s: float
    pause_s: float


class Leases:
    """`commit` appends ops and waits, with the seq; only `clear` uses it."""

    def __init__(
        self,
        base: Base,
        tail: Tail,
        pipeline: Pipeline,
        commit: Callable[[Sequence[AnyOp]], Awaitable[Committed]],
    ) -> None:
        self._base = base
        self._tail = tail
        self._pipeline = pipeline
        self._commit = commit
        self._held: dict[LeaseId, Held] = {}
        self._shy: dict[int, _Shyness] = {}
        self._touched: dict[int, float] = {}
        self._walk = Walk()
        self._asking: set[LeaseId] = set()
        self._work = trio.Event()
        self.enabled = True
        self._not_before_s = -math.inf
        self.withheld = False  # until the bytes of acknowledged closes can come along
        self.reliant: Reliant = NobodyRelies()
        pipeline.conclusion = self._conclusion
        base.listeners.append(self._note_company)

    # -- as a holder --------------------------------------------------------------------------------------------------

    @property
    def held(self) -> Collection[LeaseId]:
        return self._held.keys()

    @property
    def recalled(self) -> int:
        return sum(held.recalled for held in self._held.values())

    def take_up(self, *, copied: bool = False) -> None:
        """Leases of a former incarnation: its queue goes on under them, and then they are given back. `copied`: it may
        be alive elsewhere, and rely on them for as long as it has not heard of its end (R8)."""
        if copied:
            self._not_before_s = trio.current_time() + LEASE_STRENGTH_S
        with self._base.read() as txn:
            leases = list(Rows(txn).leases(self._base.sid))
        for lease in leases:
            self._held[lease] = Held(trio.current_time())
            self._end(lease)

    def strong(self) -> bool:
        """R8: whether leases may be relied on now. Not under a CHALLENGE: its author may end the session although it
        sees the tail, where only its answer cannot go out."""
        return not self._challenged() and self._tail.seen_within(LEASE_STRENGTH_S)

    def strong_until_ns(self) -> int:
        """How long leases may be relied on if nothing more is heard, by CLOCK_BOOTTIME; 0: they may not."""
        return int(self._tail.seen_at_boottime_ns + LEASE_STRENGTH_S * 1e9) if self.strong() else 0

    def _challenged(self) -> bool:
        row = self._base.row
        return row is None or row.challenge > row.last_seq

    def relied_on(self, leases: Iterable[LeaseId | None]) -> bool:
        """Whether all of these are own leases in force, which may be relied on now. It counts as their use."""
        now_s = trio.current_time()
        for lease in leases:
            held = self._held.get(lease) if lease is not None else None
            if held is None or held.ending_since_s is not None:
                return False
            held.used_at_s, held.used = now_s, True
        return self.strong()

    def use(self, lease: LeaseId) -> None:
        """It was relied on."""
        held = self._held.get(lease)
        if held is not None:
            held.used_at_s, held.used = trio.current_time(), True

    def covering(self, rows: Rows, ino: int) -> LeaseId | None:
        """The own lease that covers the inode and may be relied on now."""
        lease = covering(rows, ino) if self._held else None
        return lease if lease is not None and self.relied_on([lease]) else None

    def wish(self, rows: Rows, directories: Iterable[int]) -> list[AnyOp]:
        """What to send before an op that touches these directories, to have them leased, and those that a walker comes
        to next; nothing where others have been there lately."""
        directories = list(dict.fromkeys(directories))
        if not self.enabled or not all(self._undisturbed(directory) for directory in directories):
            return []
        return self._ask_for(rows, directories)

    def wish_for_files(self, rows: Rows, inos: Iterable[int]) -> list[AnyOp]:
        """As `wish`, before contents of these files: the directories that they are in, each by itself. One file that is
        edited again and again is then under a lease, too."""
        parents = {
            parent: None
            for ino in islice(inos, _FILES_LOOKED_AT)
            for parent, _ in islice(rows.links(ino), COVERED_LINKS_MAX)
        }
        return self._ask_for(rows, [parent for parent in parents if self._undisturbed(parent)])

    def _undisturbed(self, directory: int) -> bool:
        """Others have not been there lately."""
        now_s = trio.current_time()
        shy = self._shy.get(directory)
        touched_s = self._touched.get(directory, -COMPANY_S)
        return (shy is None or now_s >= shy.until_s) and now_s >= touched_s + COMPANY_S

    def _ask_for(self, rows: Rows, directories: Sequence[int]) -> list[AnyOp]:
        wanted = [
            directory
            for directory in directories
            if lease_of_directory(rows, directory) is None and rows.inode(directory) is not None
        ]
        if not wanted:
            return []
        grants: list[AnyOp] = [Grant(tuple(wanted))]
        if guessed := self._guess(rows, wanted):
            grants.append(Grant(guessed))  # by itself: all or none, and a guess may be outdated
        volume = rows.volume()
        switched_on = volume is not None and volume.features >> LEASES & 1
        return grants if switched_on else [Feature(LEASES), *grants]

    def _guess(self, rows: Rows, wanted: Sequence[int]) -> tuple[int, ...]:
        """What to ask for beside these directories, where somebody walks a tree."""
        before = self._walk.guessed
        used = any(self._was_of_use(rows, directory) for directory in before)
        count = self._walk.goes_on(rows, wanted, trio.current_time(), used=used)
        if count:
            free = (
                directory
                for directory in ahead(rows, wanted[0])
                if lease_of_directory(rows, directory) is None and self._undisturbed(directory)
            )
            self._walk.guessed = first(free, count, [*wanted, *before])  # those may be on their way
        return self._walk.guessed

    def _was_of_use(self, rows: Rows, directory: int) -> bool:
        """Whether it has been removed since, or changed under the lease that it came under."""
        lease = lease_of_directory(rows, directory)
        held = None if lease is None else self._held.get(lease)
        return held.used if held is not None else rows.inode(directory) is None

    def hear(self, changes: Changes) -> None:
        """A record has changed leases: ours among them? Called before anybody acts on that record."""
        if self._held and self._challenged():
            self.reliant.distrust()
        touched = changes.leases | changes.recalls
        if not touched:
            return
        with self._base.read() as txn:
            rows = Rows(txn)
            for lease in touched:
                row = rows.grant(lease)
                if row is None or row.sid != self._base.sid:
                    if self._held.pop(lease, None) is not None:
                        self.reliant.lease_over(lease)
                        self._look_often()
                    continue
                if lease not in self._held:
                    self._held[lease] = Held(trio.current_time())
                    self._look_often()
                if rows.recall(lease) is not None and not self._held[lease].recalled:
                    self._held[lease].recalled = True
                    self._become_shy(rows.directories(lease))
                    self._end(lease)
                    self._end_beside(rows, lease)

    def reloaded(self) -> None:
        """A checkpoint has replaced base: own leases may have come or gone unseen."""
        self.reliant.distrust()
        with self._base.read() as txn:
            rows = Rows(txn)
            for lease in list(self._held):
                row = rows.grant(lease)
                if row is None or row.sid != self._base.sid:
                    del self._held[lease]
                elif rows.recall(lease) is not None:
                    self._held[lease].recalled = True
                    self._end(lease)
            for lease in rows.leases(self._base.sid):
                if lease not in self._held:
                    self._held[lease] = Held(trio.current_time())
        self._look_often()

    def _end(self, lease: LeaseId) -> None:
        held = self._held[lease]
        if held.ending_since_s is None:
            held.ending_since_s = trio.current_time()
            self.reliant.lease_over(lease)
        self._pipeline.wake()
        self._pipeline.press()
        self._look_often()

    def _end_beside(self, rows: Rows, recalled: LeaseId) -> None:
        """Who walks a tree wants the directories beside that one next: those that are not used just now go with it, so
        that one RECALL does for all."""
        beside = _parents(rows, recalled)
        now_s = trio.current_time()
        for lease, held in self._held.items():
            idle = held.ending_since_s is None and now_s - held.used_at_s >= BESIDE_IDLE_S
            if idle and not beside.isdisjoint(_parents(rows, lease)):
                self._end(lease)

    async def may_end(self) -> None:
        """Return when nobody else relies on these leases any more."""
        if self._held:
            await trio.sleep_until(max(self._not_before_s, trio.current_time()))

    def _conclusion(self) -> Callable[[Collection[LeaseId]], list[AnyOp]]:
        """A batch is being closed: everything acknowledged under leases that are ending is in it, or before it."""
        ending = [lease for lease, held in self._held.items() if held.ending_since_s is not None]

        def last_ops(unsent: Collection[LeaseId]) -> list[AnyOp]:
            if self.withheld or trio.current_time() < self._not_before_s:
                return []
            return [Release(*lease) for lease in ending if lease not in unsent and lease in self._held]

        return last_ops

    def _become_shy(self, directories: Iterable[int]) -> None:
        now_s = trio.current_time()
        for count, directory in enumerate(directories):
            if count == _MEMORY:
                break
            shy = self._shy.get(directory)
            again = shy is not None and now_s < shy.until_s + SHY_MOST_S
            pause_s = min(2 * shy.pause_s, SHY_MOST_S) if shy is not None and again else SHY_FIRST_S
            self._shy[directory] = _Shyness(now_s + pause_s, pause_s)
        while len(self._shy) > _MEMORY:
            del self._shy[next(iter(self._shy))]

    def _note_company(self, changes: Changes, own: bool) -> None:
        if own:
            return
        now_s = trio.current_time()
        for directory, _ in changes.dentries:
            self._touched.pop(directory, None)
            self._touched[directory] = now_s
        while len(self._touched) > _MEMORY:
            del self._touched[next(iter(self._touched))]

    def _look_often(self) -> None:
        self._tail.look_every(self, LEASE_LOOK_S if self._held else None)
        self._work.set()

    async def run(self) -> None:
        """Give back what is not used, say BUSY where giving back takes long; until cancelled."""
        while True:
            if not self._held:
                await self._work.wait()
                self._work = trio.Event()
            now_s = trio.current_time()
            if self._challenged():
                self._pipeline.interject(Beat())  # where the record that would answer waits for uploads
            for lease, held in list(self._held.items()):
                if held.ending_since_s is None:
                    if now_s - held.used_at_s >= LEASE_IDLE_S:
                        self._end(lease)
                    continue
                silent_s = now_s - max(held.ending_since_s, held.said_busy_s)
                if held.recalled and silent_s >= BUSY_AFTER_S and self._pipeline.interject(Busy(*lease)):
                    held.said_busy_s = now_s
                self._pipeline.wake()  # what could not be sent with the last batch is tried again
            await trio.sleep(_TICK_S)

    # -- as a reader --------------------------------------------------------------------------------------------------

    def foreign(self, ino: int) -> LeaseId | None:
        """The lease of another session that covers the inode, as base knows it."""
        with self._base.read() as txn:
            rows = Rows(txn)
            volume = rows.volume()
            if volume is None or not volume.features >> LEASES & 1:
                return None
            lease = covering(rows, ino)
            row = None if lease is None else rows.grant(lease)
        return None if row is None or row.sid == self._base.sid else lease

    async def clear(self, ino: int) -> None:
        """Return when no other session's lease covers the inode, as far as base shows: then base has all that was
        acknowledged under it. Raises what `commit` raises, and StoreUnreachable."""
        while (lease := self.foreign(ino)) is not None:
            await self._recall(lease)

    async def _recall(self, lease: LeaseId) -> None:
        """Return when the lease is gone, or when somebody else may ask on."""
        if lease in self._asking:
            changed = self._base.changed
            with trio.move_on_after(_TICK_S):
                await changed.wait()
            return
        self._asking.add(lease)
        self._tail.look_every((self, lease), _WAITING_LOOK_S)
        try:
            await self._ask_back(lease)
        finally:
            self._asking.discard(lease)
            self._tail.look_every((self, lease), None)

    async def _ask_back(self, lease: LeaseId) -> None:
        committed = await self._commit([Recall(*lease)])
        began_s = sign_s = trio.current_time()
        last_seq = committed.seq
        while True:
            changed = self._base.changed
            with self._base.read() as txn:
                rows = Rows(txn)
                row, standing = rows.grant(lease), rows.recall(lease)
                holder = None if row is None else rows.session(row.sid)
            if row is None or row.sid == self._base.sid:
                return
            now_s = trio.current_time()
            if holder is not None and holder.last_seq > last_seq:
                last_seq, sign_s = holder.last_seq, now_s
            give_up_s = min(sign_s + RECALL_PATIENCE_S, began_s + RECALL_LIMIT_S)
            if now_s < give_up_s:
                with trio.move_on_at(give_up_s):
                    await changed.wait()
                continue
            await self._tail.look()  # a sign may be there already
            with self._base.read() as txn:
                rows = Rows(txn)
                row, newest = rows.grant(lease), rows.recall(lease)
                holder = None if row is None else rows.session(row.sid)
            if row is None:
                return
            patient = trio.current_time() < began_s + RECALL_LIMIT_S
            if patient and (newest != standing or (holder is not None and holder.last_seq > last_seq)):
                continue
            if newest is not None:
                _log.warning("the holder of lease %d.%d does not answer: revoking it", *lease)
                await self._commit([Revoke(*lease, newest.seq, newest.index)])
            sign_s = trio.current_time() - RECALL_PATIENCE_S  # refused: look at once what stands now


def _parents(rows: Rows, lease: LeaseId) -> set[int]:
    """Where the directory lies that the lease was given for first: those made below it have come under it later."""
    row = rows.grant(lease)
    return set() if row is None else {parent for parent, _ in rows.links(row.root)}
