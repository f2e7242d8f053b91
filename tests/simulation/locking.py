"""Locks under the simulator: whole clients whose programs count under flock and fcntl locks.

python -m tests.simulation.locking --seeds 0-49 [--mutant no-release-at-eviction] [--trace]

Weather, kills and freezes are those of `whole`; a client that is away for too long is evicted by those who wait for it.
Oracles: no two programs believe at the same time that they hold what excludes each other, but those of a session that
the journal has ended; who gets a lock reads what the last one wrote that was told that it had let go; no count is given
twice; nobody waits for ever.
"""

from __future__ import annotations

import argparse
import errno
import os
import random
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from s3vfs.errors import PosixError, SessionError, StoreUnreachable
from s3vfs.filesystem import Filesystem, LockKind
from s3vfs.filesystem.lock_keeper import LockKeeper
from s3vfs.namespace import locks, sessions
from s3vfs.namespace.limits import INTEGER_MAX
from s3vfs.namespace.ops import Evict, Unlock, decode_op
from s3vfs.namespace.rows import ROOT_INO, Rows
from tests.simulation.client import Client, Life
from tests.simulation.command import run_command
from tests.simulation.mutants import Mutant
from tests.simulation.weather import CALM
from tests.simulation.whole import WholeHistory, run_whole
from tests.simulation.whole_workload import ROOT, Figures
from tests.simulation.world import Violation, World

STEPS = 8  # of each program of a first life
PROGRAMS = 2  # on each client
CELLS = 3  # counters in each file, each under a range of its own
CELL_BYTES = 32
FILES = (b"flock", b"fcntl")
PATIENCE_S = 300.0  # outages and freezes are at most 30 s each; nobody needs ten of them


@dataclass(eq=False)
class Belief:
    """A program that was told that it holds cells `first` to `last` of a file."""

    life: Life
    file: bytes
    first: int
    last: int
    exclusive: bool

    def excludes(self, other: Belief) -> bool:
        overlap = self.first <= other.last and other.first <= self.last
        return self.file == other.file and overlap and (self.exclusive or other.exclusive)


@dataclass
class Ledger:
    """What all programs together know. `counted[file, cell]`: who wrote each count and was told that it had let go."""

    beliefs: list[Belief] = field(default_factory=list)
    counted: dict[tuple[bytes, int], dict[int, bytes]] = field(default_factory=dict)
    attempts: Counter[tuple[bytes, int]] = field(default_factory=Counter)

    def check(self, file: bytes, cell: int, count: int, token: bytes, who: str) -> None:
        """What a holder reads is no older than what the last holder let go of."""
        counted = self.counted.get((file, cell), {})
        newest = max(counted, default=0)
        if count < newest or (count == newest and count and token != counted[count]):
            raise Violation(f"{who}: read {count} {token!r} under a lock, after {newest} {counted.get(newest)!r}")


class Locker:
    """One program: its descriptors and its owner."""

    def __init__(
        self, world: World, client: Client, life: Life, fs: Filesystem, number: int, ledger: Ledger, figures: Figures
    ) -> None:
        self._world = world
        self._client = client
        self._life = life
        self._fs = fs
        self._ledger = ledger
        self._count = figures.count
        self._name = f"{life.name}/{number}"
        self._generator = random.Random(f"{world.seed}/{self._name}/locks")
        self._owner = 2**63 + 1_000 * number
        self._tokens = 0
        self._handles: dict[bytes, int] = {}

    async def run(self, steps: int) -> None:
        try:
            for _ in range(steps):
                await trio.sleep(self._generator.uniform(0, 1))
                try:
                    await self._step()
                except StoreUnreachable as error:
                    self._count["unreachable"] += 1
                    self._world.say(self._name, f"unreachable: {error}")
        except SessionError as error:
            self._count["fenced"] += 1
            self._world.say(self._name, f"over: {error}")

    async def _open(self, file: bytes) -> int:
        if file not in self._handles:
            await self._fs._session.fresh(0)
            try:
                found = await self._fs.lookup(ROOT_INO, file)
                self._handles[file] = await self._fs.open(found.ino, os.O_RDWR, ROOT)
            except PosixError as error:
                if error.errno != errno.ENOENT:
                    raise
                try:
                    self._handles[file], _ = await self._fs.create(ROOT_INO, file, 0o644, os.O_RDWR, ROOT)
                except PosixError as taken:
                    if taken.errno != errno.EEXIST:
                        raise
                    return await self._open(file)
        return self._handles[file]

    async def _step(self) -> None:
        choose = self._generator
        self._owner += 1  # another process each time: nobody tidies up what is left by another
        file = choose.choice(FILES)
        first = choose.randrange(CELLS)
        last = CELLS - 1 if file == b"flock" else choose.randrange(first, CELLS)
        first = 0 if file == b"flock" else first
        belief = Belief(self._life, file, first, last, choose.random() < 0.7)
        handle = await self._open(file)
        if not await self._lock(handle, belief):
            return
        self._ledger.beliefs.append(belief)
        try:
            await self._use(handle, belief)
        finally:
            self._believes_no_more(belief)

    def _believes_no_more(self, belief: Belief) -> None:
        if belief in self._ledger.beliefs:
            self._ledger.beliefs.remove(belief)

    async def _lock(self, handle: int, belief: Belief) -> bool:
        choose = self._generator
        patience_s = choose.uniform(0.1, 5) if choose.random() < 0.15 else PATIENCE_S
        kind = LockKind.EXCLUSIVE if belief.exclusive else LockKind.SHARED
        began_s = trio.current_time()
        with trio.move_on_after(patience_s) as scope:
            try:
                await self._set(handle, belief, kind, wait=choose.random() < 0.75)
            except PosixError as error:
                if error.errno not in (errno.EAGAIN, errno.EDEADLK):
                    raise
                self._count["refused"] += 1
                return False
        if scope.cancelled_caught:
            self._count["interrupted"] += 1
            if patience_s == PATIENCE_S:
                raise Violation(f"{self._name} has waited for a lock since {began_s}")
            return False
        self._count["locked"] += 1
        self._world.say(self._name, f"has {kind.name} {belief.file!r} {belief.first}-{belief.last}")
        for other in self._ledger.beliefs if not self._mistaken() else ():
            if other.excludes(belief) and self._may_still_believe(other):
                raise Violation(f"{self._name} and {other.life.name} both hold {belief.file!r}")
        return True

    def _may_still_believe(self, other: Belief) -> bool:
        """A process that is dead believes nothing; one whose session was ended is mistaken, and cannot commit."""
        if other.life.nursery is None or other.life.nursery.cancel_scope.cancel_called:
            return False
        session = other.life.session
        with self._life.session.view() as txn:
            row = Rows(txn).session(session.sid)
        return row is not None and row.incarnation == session.incarnation

    def _mistaken(self) -> bool:
        """Whether somebody has ended this session already: whatever it believes until it hears of it, nothing of it can
        commit any more."""
        sid = self._life.session.sid
        for appeared in self._world.truth.values():
            for raw in appeared.record.ops:
                numbered = decode_op(raw)
                if numbered is not None and isinstance(numbered.op, Evict) and numbered.op.sid == sid:
                    self._count["mistaken"] += 1
                    return True
        return False

    async def _set(self, handle: int, belief: Belief, kind: LockKind, *, wait: bool = False) -> None:
        start, end = belief.first * CELL_BYTES, (belief.last + 1) * CELL_BYTES - 1
        flock = belief.file == b"flock"
        await self._fs.lock(handle, self._owner, start, end, kind, flock=flock, wait=wait, pid=1)

    async def _use(self, handle: int, belief: Belief) -> None:
        read: dict[int, int] = {}
        for cell in range(belief.first, belief.last + 1):
            data = bytes(await self._fs.read(handle, cell * CELL_BYTES, CELL_BYTES))
            count, _, token = data.rstrip(b"\0 ").partition(b" ")
            read[cell] = int(count or b"0")
            if not self._mistaken():
                self._ledger.check(belief.file, cell, read[cell], token, self._name)
        await trio.sleep(self._generator.uniform(0, 0.6))
        written: dict[int, bytes] = {}
        if belief.exclusive:
            for cell, count in read.items():
                self._tokens += 1
                written[cell] = f"{self._name}#{self._tokens}".encode()
                self._ledger.attempts[belief.file, cell] += 1
                data = (b"%d " % (count + 1) + written[cell]).ljust(CELL_BYTES)
                await self._fs.write(handle, cell * CELL_BYTES, data)
        await self._let_go(handle, belief)
        for cell, token in written.items():
            counted = self._ledger.counted.setdefault((belief.file, cell), {})
            if read[cell] + 1 in counted:
                raise Violation(f"{self._name}: {read[cell] + 1} was counted by {counted[read[cell] + 1]!r} already")
            counted[read[cell] + 1] = token
            self._count["counted"] += 1

    async def _let_go(self, handle: int, belief: Belief) -> None:
        """By unlock, or by a close."""
        self._believes_no_more(belief)
        if self._generator.random() < 0.8:
            await self._set(handle, belief, LockKind.UNLOCK)
            return
        del self._handles[belief.file]
        try:
            await self._fs.flush(handle, self._owner)
        finally:
            await self._fs.release(handle, self._owner, flock=belief.file == b"flock")

    async def audit(self) -> None:
        """Everybody has ended: every count is there, and no more than were tried."""
        for file in FILES:
            handle = await self._open(file)
            for cell in range(CELLS):
                data = bytes(await self._fs.read(handle, cell * CELL_BYTES, CELL_BYTES))
                count, _, token = data.rstrip(b"\0 ").partition(b" ")
                self._ledger.check(file, cell, int(count or b"0"), token, "at the end")
                if int(count or b"0") > self._ledger.attempts[file, cell]:
                    raise Violation(
                        f"{file!r} has counted to {count!r}, tried were {self._ledger.attempts[file, cell]}"
                    )


class LockHistory(WholeHistory):
    """As `WholeHistory`, with lockers for programs."""

    def __init__(self, world: World, root: Path, *, leases: bool) -> None:
        super().__init__(world, root, leases=leases)
        self._ledger = Ledger()

    async def _day(self, client: Client, steps: int, life: Life, filesystem: Filesystem) -> None:
        def locker(number: int) -> Locker:
            return Locker(self._world, client, life, filesystem, number, self._ledger, self.figures)

        if client.way.climate is CALM and not self._running:  # the last meeting
            await locker(0).audit()
            return
        async with trio.open_nursery() as workers:
            for number in range(PROGRAMS):
                workers.start_soon(locker(number).run, steps * STEPS // 12)
        await self._check_nothing_left(life)
        for name, value in filesystem.lock_status().items():
            self.figures.count[name] += value if name not in ("held", "waiting") else 0

    async def _check_nothing_left(self, life: Life) -> None:
        """All programs have let go, or were interrupted: no lock is held, and nothing waited for, by nobody."""
        session = life.session
        began_s = trio.current_time()
        while session.refusal() is None:
            await session.fresh(float("inf"))
            with session.view() as txn:
                rows = Rows(txn)
                left: list[object] = [held for _, held in rows.all_locks() if held.sid == session.sid]
                left += [waiting for waiting in rows.all_waits() if waiting.row.sid == session.sid]
            if not left:
                return
            if trio.current_time() - began_s > PATIENCE_S:
                raise Violation(f"{life.name}: nobody wants {left}")
            await trio.sleep(0.5)


# -- mutants ----------------------------------------------------------------------------------------------------------


def _grant_without_looking() -> Sequence[tuple[Any, str, Any]]:
    return [(locks, "conflict", lambda one, other: False)]


def _unlock_before_publish() -> Sequence[tuple[Any, str, Any]]:
    async def give_back(self: LockKeeper, ino: int, number: int, start: int = 0, end: int = INTEGER_MAX) -> None:
        await self._session.commit([Unlock(ino, number, start, end, number & 1)])
        await self._contents.publish(ino)

    return [(LockKeeper, "give_back", give_back)]


def _no_release_at_eviction() -> Sequence[tuple[Any, str, Any]]:
    return [(sessions, "release_session_locks", lambda rows, sid: None)]


def _resume_lets_go_at_once() -> Sequence[tuple[Any, str, Any]]:
    return [(sessions, "release_session_waits", locks.release_session_locks)]


LOCK_MUTANTS = {
    "grant-without-looking": Mutant("6", "locks are granted whoever holds them", _grant_without_looking),
    "unlock-before-publish": Mutant("6", "a lock is let go before its bytes are published", _unlock_before_publish),
    "no-release-at-eviction": Mutant("6", "the locks of an evicted session stay", _no_release_at_eviction),
    "resume-lets-go": Mutant(
        "6", "a session that is resumed has lost its locks before it publishes", _resume_lets_go_at_once
    ),
}


def run_locking(seed: int, *, keep_trace: bool = False) -> tuple[Figures, list[str]]:
    """One history: its figures and its trace. Raises Violation."""
    return run_whole(seed, keep_trace=keep_trace, kind=LockHistory)


def _history(seed: int, arguments: argparse.Namespace) -> tuple[Counter[str], list[str]]:
    figures, trace = run_locking(seed, keep_trace=arguments.trace)
    return figures.count, trace


if __name__ == "__main__":
    sys.exit(run_command("tests.simulation.locking", __doc__, LOCK_MUTANTS, _history))
