"""The protocol of leases by itself: small holders and requesters straight on apply, with a journal in memory.

python -m tests.simulation.leasing --seeds 0-39 [--mutant r8-no-limit] [--trace]

No Session, no trio: programs are generators that yield seconds of mock time. Every node is a holder of some directories
and asks for those of others. What befalls them: requests that are late or lost, answers that are lost, lost races,
outages and freezes that outlast every limit, uploads that make the holder BUSY.

Oracles, checked whenever something is answered: nothing is acknowledged under a lease that is gone; a read sees
whatever was acknowledged before it began, but what a REVOKE has cost; what a read has missed appears in none
that begins after it; a queued op fails only because of a REVOKE; equal digests at equal seq.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import random
import stat
import sys
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

from s3vfs.namespace import leases, ops
from s3vfs.namespace.apply import apply_record
from s3vfs.namespace.dictionary import DictTransaction
from s3vfs.namespace.digest import DigestingTransaction
from s3vfs.namespace.ops import NumberedOp, encode_op
from s3vfs.namespace.rows import LeaseId, Rows
from s3vfs.namespace.verdict import COVERED, Context, Verdict
from s3vfs.replica.overlay import Overlay
from tests.simulation.command import run_command
from tests.simulation.mutants import Mutant
from tests.simulation.world import Violation

Program = Generator[float, None, None]  # seconds to sleep

NODES = 3
DIRECTORIES = (16, 17, 18)
CLIENTS = 2  # programs on each node
BUSY_DAY_S = 150.0  # then programs stop
LAST_S = 500.0  # and by then everything is committed
TRIP_LIMIT_S = 5.0  # R8
RECALL_LIMIT_S = 10.0
BUSY_LIMIT_S = 60.0
QUEUE_MAX = 20


@dataclass(frozen=True)
class Record:
    seq: int
    sid: int
    incarnation: int
    raw: tuple[bytes, ...]


@dataclass(frozen=True)
class Ack:
    """Told its author that it is done. `lease`: None where its record came first."""

    directory: int
    lease: LeaseId | None
    at_s: float


@dataclass(eq=False)
class Command:
    """Ops that wait for their record. `make` looks at the rows as they are then, after every lost race again; nothing
    is sent where it gives None. `ordered`: it may not overtake what was acknowledged."""

    make: Callable[[], Sequence[ops.Op] | None]
    ordered: bool
    size: int = 0  # ops in the record that is under way
    verdicts: list[Verdict] | None = None
    dropped: bool = False

    @property
    def over(self) -> bool:
        return self.dropped or self.verdicts is not None


class World:
    """Mock time, the bucket's journal, its true state, and the oracles."""

    def __init__(self, seed: int, keep_trace: bool = False) -> None:
        self.random = random.Random(seed)
        self.now_s = 0.0
        self.trace: list[str] = []
        self.count: Counter[str] = Counter()
        self._keep_trace = keep_trace
        self._ties = itertools.count()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self.journal: list[Record] = []
        self.digests: list[int] = [0]
        self._base = DictTransaction()
        self.truth = Rows(self._base)
        self.revoked: set[LeaseId] = set()
        self.acks: dict[bytes, Ack] = {}
        self.missed: dict[bytes, float] = {}  # name: when the first read was answered without it
        self._format()

    def _format(self) -> None:
        made = [ops.Create(1, b"%d" % ino, ino, stat.S_IFDIR | 0o755, 0, 0, 0, b"", 1) for ino in DIRECTORIES]
        first = (ops.Format("v", 0, 0, 0o755, 0, 0, 1), ops.Announce("first"), ops.Block(3), ops.Feature(0), *made)
        numbered = [encode_op(NumberedOp(number, None, op)) for number, op in enumerate(first, 1)]  # type: ignore[arg-type]
        self.put(Record(1, 99, 1, tuple(numbered)))

    def say(self, who: str, what: str) -> None:
        if self._keep_trace:
            self.trace.append(f"{self.now_s:8.3f} {who}: {what}")

    def call(self, delay_s: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now_s + delay_s, next(self._ties), what))

    def run(self, until_s: float) -> None:
        while self._events and self._events[0][0] <= until_s:
            self.now_s, _, what = heapq.heappop(self._events)
            what()

    def put(self, record: Record) -> bool:
        """The conditional PUT, when it arrives: whether that record is the one at its seq."""
        if record.seq <= len(self.journal):
            return self.journal[record.seq - 1] is record
        if record.seq != len(self.journal) + 1:
            raise AssertionError("a PUT behind the tail")
        self.journal.append(record)
        txn = DigestingTransaction(self._base, self.digests[-1])
        verdicts = apply_record(txn, record, record.raw)
        self.digests.append(txn.digest)
        for raw, verdict in zip(record.raw, verdicts, strict=True):
            numbered = ops.decode_op(raw)
            if numbered is not None and isinstance(numbered.op, ops.Revoke) and not verdict.errno:
                self.revoked.add((numbered.op.seq, numbered.op.index))
                self.count["revoked"] += 1
        return True

    def acknowledged(self, who: str, name: bytes, directory: int, lease: LeaseId | None) -> None:
        if lease is not None and leases.grant(self.truth, lease) is None:
            raise Violation(f"{who} acknowledged {name!r} under {lease}, which is gone")
        self.acks[name] = Ack(directory, lease, self.now_s)
        self.count["acknowledged" if lease else "committed"] += 1

    def answered(self, who: str, directory: int, began_s: float, names: set[bytes]) -> None:
        """A read of a directory that began then gave these names."""
        self.count["read"] += 1
        for name, ack in self.acks.items():
            if ack.directory == directory and ack.at_s <= began_s and name not in names:
                if not self.lost(ack.lease):
                    raise Violation(f"{who} read {directory} without {name!r}, acknowledged at {ack.at_s}")
                self.missed.setdefault(name, self.now_s)
        back = sorted(name for name in names if self.missed.get(name, began_s + 1) <= began_s)
        if back:
            raise Violation(f"{who} read {back}, which an earlier read had missed")

    def lost(self, lease: LeaseId | None) -> bool:
        return lease is not None and lease in self.revoked


@dataclass
class Stopwatch:
    """A requester's: how long the RECALL that stands has been seen standing, and any of its lease."""

    standing: LeaseId
    seen_s: float
    first_s: float

    def run_out(self, now_s: float) -> bool:
        return now_s - self.seen_s >= RECALL_LIMIT_S or now_s - self.first_s >= BUSY_LIMIT_S


class Node:
    """One session: its replica, its queue, and the engine that commits and looks at the tail."""

    def __init__(self, world: World, sid: int) -> None:
        self.world, self.sid, self.name = world, sid, f"node {sid}"
        self.random = random.Random(world.random.random())
        self.base = DictTransaction()
        self.digest = 0
        self.seq = 0
        self.overlay = Overlay()
        self.ready: dict[int, float] = {}  # queued op: when its bytes are uploaded
        self.trip_s = float("-inf")  # when the last round trip that reached the tail started
        self.frozen_until_s = 0.0
        self.outage_until_s = 0.0
        self.giving_back: set[LeaseId] = set()  # nothing is acknowledged under these any more
        self.used_s: dict[LeaseId, float] = {}
        self.commands: list[Command] = []
        self.next_ino = 0
        self._queued = itertools.count(1)
        self._wire = itertools.count(1)
        enter = Command(lambda: [ops.Announce(self.name), ops.Block(5000)], ordered=True)
        self.commands.append(enter)
        self.start(self._engine())
        self.start(self._enter(enter))

    def start(self, program: Program) -> None:
        def step() -> None:
            if self.world.now_s < self.frozen_until_s:
                self.world.call(self.frozen_until_s - self.world.now_s + self.random.uniform(0, 0.01), step)
                return
            delay_s = next(program, None)
            if delay_s is not None:
                self.world.call(delay_s, step)

        self.world.call(self.random.uniform(0, 0.5), step)

    def _enter(self, command: Command) -> Program:
        yield from self.wait(command)
        assert command.verdicts is not None
        self.next_ino = command.verdicts[1].value
        for _ in range(CLIENTS):
            self.start(self._client())

    @property
    def rows(self) -> Rows:
        return Rows(self.base)

    @property
    def view(self) -> Rows:
        return Rows(self.overlay.view(self.base))

    # -- the engine -----------------------------------------------------------------------------------------------

    def _engine(self) -> Program:
        while True:
            raw, sent, queued = self._compose()
            if raw:
                yield from self._append(tuple(raw), sent, queued)
            else:
                yield from self._look()
            yield self.random.uniform(0.02, 0.4)

    def _compose(self) -> tuple[list[bytes], list[Command], dict[int, int]]:
        """Ops on the wire, the commands among them, and the queued ones by their number there. Numbers on the wire grow
        as they are sent: a BUSY has to overtake what it excuses."""
        raw: list[bytes] = []
        sent: list[Command] = []
        queued: dict[int, int] = {}

        def add(op: ops.Op, lease: LeaseId | None = None) -> int:
            number = next(self._wire)
            raw.append(encode_op(NumberedOp(number, lease, op)))  # type: ignore[arg-type]
            return number

        pending = list(self.overlay.pending)
        while pending and self.ready[pending[0].numbered.number] <= self.world.now_s:
            first = pending.pop(0).numbered
            queued[add(first.op, first.lease)] = first.number
        for command in self.commands:
            if command.ordered and pending:
                continue
            made = command.make()
            if made is None:
                command.dropped = True
                continue
            command.size = len(made)
            for op in made:
                add(op)
            sent.append(command)
        self.commands = [command for command in self.commands if not command.dropped]
        for op in self._answers({waiting.numbered.lease for waiting in pending}):
            add(op)
        return raw, sent, queued

    def _answers(self, waiting: set[LeaseId | None]) -> list[ops.Op]:
        """To those who want leases back: RELEASE behind the last op under it, or BUSY."""
        answers: list[ops.Op] = []
        for lease in list(self.rows.leases(self.sid)):
            standing = self.rows.recall(lease)
            if standing is not None or self.world.now_s - self.used_s.get(lease, 0) > 2:
                self.giving_back.add(lease)
            if lease not in self.giving_back:
                continue
            if lease not in waiting:
                answers.append(ops.Release(*lease))
            elif standing is not None and not standing.busy:
                answers.append(ops.Busy(*lease))
                self.world.count["busy"] += 1
            elif standing is not None and self.random.random() < 0.2:
                answers.append(ops.Busy(*lease))
        return answers

    def _trip_s(self) -> float:
        """How long one way takes."""
        slow = self.world.now_s < self.outage_until_s
        return self.random.uniform(2, 12) if slow else self.random.uniform(0.01, 0.3)

    def _append(self, raw: tuple[bytes, ...], sent: list[Command], queued: dict[int, int]) -> Program:
        record = Record(self.seq + 1, self.sid, 1, raw)
        # A record that stands may be from the first try, and others after it from before the second: so it tells of the
        # tail as it was when the first one began.
        began_s = self.world.now_s
        while True:
            there_s = self._trip_s()
            answer: list[bool] = []
            lost, late = self.random.random() < 0.04, self.random.random() < 0.03
            if not lost:
                arrives_s = there_s + (self.random.uniform(5, 60) if late else 0)
                self.world.call(arrives_s, lambda answer=answer: answer.append(self.world.put(record)))  # type: ignore[misc]
            yield there_s + self._trip_s()
            if answer and self.random.random() > 0.06:  # else the answer is lost
                won = answer[0]
                break
            self.world.count["unknown"] += 1
            found: list[Record | None] = []
            yield from self._get(record.seq, found)
            if found[0] is not None:  # R2; else the same bytes again
                won = found[0] is record
                break
        if not won:
            self.world.count["lost races"] += 1
            yield from self._look()
            return
        self.trip_s = max(self.trip_s, began_s)
        self.commands = [command for command in self.commands if command not in sent]
        verdicts = self._apply(record, queued)
        place = len(queued)
        for command in sent:
            command.verdicts = verdicts[place : place + command.size]
            place += command.size

    def _get(self, seq: int, found: list[Record | None]) -> Program:
        there_s = self._trip_s()
        self.world.call(
            there_s, lambda: found.append(self.world.journal[seq - 1] if seq <= len(self.world.journal) else None)
        )
        yield there_s + self._trip_s() + 1e-6

    def _look(self) -> Program:
        """Read records until there is none."""
        while True:
            began_s = self.world.now_s
            found: list[Record | None] = []
            yield from self._get(self.seq + 1, found)
            if found[0] is None:
                self.trip_s = max(self.trip_s, began_s)
                return
            self._apply(found[0], {})

    def _apply(self, record: Record, queued: dict[int, int]) -> list[Verdict]:
        txn = DigestingTransaction(self.base, self.digest)
        verdicts = apply_record(txn, record, record.raw)
        self.seq, self.digest = record.seq, txn.digest
        if self.digest != self.world.digests[self.seq]:
            raise Violation(f"{self.name} has another digest at {self.seq}")
        own = dict(zip(queued.values(), verdicts, strict=False))
        rebuilt = self.overlay.record_applied(self.base, frozenset(txn.touched), own or None)
        for changed in rebuilt.changed:
            if changed.verdict.errno and not self.world.lost(changed.numbered.lease):
                raise Violation(f"{self.name}: {changed.numbered} came out as {changed.verdict}, and nobody revoked")
        while failed := [each.numbered.number for each in self.overlay.pending if each.verdict.errno]:
            self.world.count["spilled"] += len(failed)
            self.overlay.withdraw(self.base, failed)
        return verdicts

    # -- programs -------------------------------------------------------------------------------------------------

    def wait(self, command: Command) -> Program:
        while not command.over:
            yield 0.05

    def commit(
        self, make: Callable[[], Sequence[ops.Op] | None], *, ordered: bool
    ) -> Generator[float, None, list[Verdict]]:
        command = Command(make, ordered)
        self.commands.append(command)
        yield from self.wait(command)
        return command.verdicts or []

    def _client(self) -> Program:
        favourite = self.random.choice(DIRECTORIES)
        while self.world.now_s < BUSY_DAY_S:
            directory = favourite if self.random.random() < 0.8 else self.random.choice(DIRECTORIES)
            if self.random.random() < 0.7:
                yield from self._make(directory)
            else:
                yield from self._read(directory)
            yield self.random.choice((0.02, 0.1, 0.5, 2.0)) * self.random.random()

    def _may_answer(self) -> bool:
        """R8."""
        return self.world.now_s - self.trip_s < TRIP_LIMIT_S

    def _own(self, lease: LeaseId | None) -> bool:
        row = None if lease is None else leases.grant(self.rows, lease)
        return row is not None and row.sid == self.sid

    def _usable(self, directory: int) -> LeaseId | None:
        """The own lease on whose strength the directory may be answered for."""
        lease = leases.lease_of_directory(self.rows, directory)
        if lease is None or not self._own(lease) or lease in self.giving_back or self.rows.recall(lease) is not None:
            return None
        return lease if self._may_answer() else None

    def _create(self, directory: int, name: bytes) -> ops.Create:
        self.next_ino += 1
        return ops.Create(directory, name, self.next_ino - 1, stat.S_IFREG | 0o644, 0, 0, 0, b"", 1)

    def acknowledge(self, op: ops.Create, lease: LeaseId | None) -> None:
        number = next(self._queued)
        numbered = NumberedOp(number, lease, op)
        verdict = self.overlay.acknowledge(self.base, numbered, Context(self.seq + 1, 0, self.sid, 1))
        if verdict.errno:
            raise Violation(f"{self.name}: {op} under its own lease came out as {verdict}")
        upload_s = self.random.uniform(5, 25) if self.random.random() < 0.02 else self.random.uniform(0, 0.8)
        self.ready[number] = self.world.now_s + upload_s
        if lease is not None:
            self.used_s[lease] = self.world.now_s
        self.world.say(self.name, f"acknowledged {op.name!r} under {lease}")
        self.world.acknowledged(self.name, op.name, op.parent, lease)

    def before_grant(self, directory: int, name: bytes) -> bool:
        """Whether to acknowledge at once what a GRANT is being asked for: never (R7)."""
        return False

    def _make(self, directory: int) -> Program:
        name = b"%d-%d" % (self.sid, next(self._queued))
        polite = self.random.random() < 0.7  # else it finds out by COVERED
        while True:
            lease = self._usable(directory)
            if lease is not None and len(self.overlay) < QUEUE_MAX:
                op = self._create(directory, name)
                if leases.leases_touched(self.view, op) != {lease}:
                    raise Violation(f"{op} touches more than {lease}")
                self.acknowledge(op, lease)
                return
            other = leases.lease_of_directory(self.rows, directory)
            if other is not None and not self._own(other) and polite:
                yield from self._recall(other)
                continue
            grants = other is None and self.random.random() < 0.8
            if grants and self.before_grant(directory, name):
                yield from self.commit(lambda: [ops.Grant((directory,))], ordered=True)
                return

            def make(grants: bool = grants) -> Sequence[ops.Op]:
                return [self._create(directory, name), *([ops.Grant((directory,))] if grants else [])]

            verdicts = yield from self.commit(make, ordered=True)
            if verdicts[0].errno == COVERED:
                self.world.count["covered"] += 1
                polite = True
                continue
            if verdicts[0].errno:
                raise Violation(f"{self.name}: {name!r} came out as {verdicts[0]}")
            granted = leases.lease_of_directory(self.rows, directory)
            if granted is not None:
                self.used_s[granted] = self.world.now_s
            self.world.acknowledged(self.name, name, directory, None)
            return

    def _read(self, directory: int) -> Program:
        began_s = self.world.now_s
        while True:
            lease = leases.lease_of_directory(self.rows, directory)
            if self._usable(directory) is not None:
                break
            if self.trip_s >= began_s and (lease is None or self._own(lease)):
                break  # it has looked at the tail since
            if lease is not None and not self._own(lease):
                yield from self._recall(lease)
            yield 0.05
        names = {name for name, _ in self.view.entries(directory)}
        self.world.answered(self.name, directory, began_s, names)

    def _recall(self, lease: LeaseId) -> Program:
        """Until the lease is gone: RECALL, wait, REVOKE."""
        watch: Stopwatch | None = None
        while leases.grant(self.rows, lease) is not None:
            standing = self.rows.recall(lease)
            if standing is None:
                yield from self.commit(lambda: self._recall_op(lease), ordered=False)
                continue
            place, now_s = (standing.seq, standing.index), self.world.now_s
            if watch is None or watch.standing != place:
                watch = Stopwatch(place, now_s, now_s if watch is None else watch.first_s)
            if watch.run_out(now_s):
                yield from self.commit(lambda place=place: self._revoke_op(lease, place), ordered=False)  # type: ignore[misc]
            yield 0.2

    def _recall_op(self, lease: LeaseId) -> Sequence[ops.Op] | None:
        gone = leases.grant(self.rows, lease) is None
        return None if gone or self.rows.recall(lease) is not None else [ops.Recall(*lease)]

    def _revoke_op(self, lease: LeaseId, place: LeaseId) -> Sequence[ops.Op] | None:
        standing = self.rows.recall(lease)
        still = standing is not None and (standing.seq, standing.index) == place
        return [ops.Revoke(*lease, *place)] if still else None


def _weather(world: World, nodes: Sequence[Node]) -> None:
    """Now and then a node is frozen, or its requests take long; some outlast every limit."""

    def strike() -> None:
        node = world.random.choice(nodes)
        lasts_s = world.random.choice((1, 4, 7, 15, 30)) * world.random.uniform(0.7, 1.3)
        if world.random.random() < 0.6:
            node.frozen_until_s = world.now_s + lasts_s
        else:
            node.outage_until_s = world.now_s + lasts_s
        world.say(node.name, f"away for {lasts_s:.1f} s")
        if world.now_s < BUSY_DAY_S:
            world.call(world.random.uniform(2, 20), strike)

    world.call(5, strike)


def run_leasing(seed: int, *, keep_trace: bool = False) -> World:
    """One history. Raises Violation, with the trace."""
    world = World(seed, keep_trace)
    nodes = [Node(world, sid) for sid in range(1, NODES + 1)]
    _weather(world, nodes)
    try:
        world.run(LAST_S)
        for node in nodes:
            if len(node.overlay) or node.commands:
                raise Violation(f"{node.name} still has {len(node.overlay)} ops and {len(node.commands)} commands")
        for directory in DIRECTORIES:
            world.answered("at the end", directory, world.now_s, {name for name, _ in world.truth.entries(directory)})
    except Exception as error:
        error.trace = world.trace  # type: ignore[attr-defined]
        raise
    return world


# -- mutants ----------------------------------------------------------------------------------------------------------

_refusal = leases.refusal


def _names_off() -> Sequence[tuple[Any, str, Any]]:
    return [(leases, "refusal", lambda rows, named, op, sid: _refusal(rows, None, op, sid))]


def _touch_off() -> Sequence[tuple[Any, str, Any]]:
    return [(leases, "refusal", lambda rows, named, op, sid: _refusal(rows, named, ops.Beat(), sid))]


def _before_grant() -> Sequence[tuple[Any, str, Any]]:
    def before_grant(self: Node, directory: int, name: bytes) -> bool:
        self.acknowledge(self._create(directory, name), None)
        return True

    return [(Node, "before_grant", before_grant)]


def _no_limit() -> Sequence[tuple[Any, str, Any]]:
    return [(Node, "_may_answer", lambda self: True)]


def _no_wait() -> Sequence[tuple[Any, str, Any]]:
    return [(Stopwatch, "run_out", lambda self, now_s: True)]


def _release_first() -> Sequence[tuple[Any, str, Any]]:
    answers = Node._answers
    return [(Node, "_answers", lambda self, waiting: answers(self, set()))]


LEASE_MUTANTS = {
    "r6-names": Mutant("6", "ops under a revoked lease are applied", _names_off),
    "r6-touch": Mutant("6", "what another session's lease covers is changed", _touch_off),
    "r7-before-grant": Mutant("7", "ops are acknowledged while their GRANT is under way", _before_grant),
    "r8-no-limit": Mutant("8", "a holder answers however long it has not seen the tail", _no_limit),
    "release-first": Mutant("7", "a lease is given back before what was acknowledged under it", _release_first),
    "no-wait": Mutant("8", "a lease is revoked as soon as it is recalled", _no_wait),
}


def _history(seed: int, arguments: argparse.Namespace) -> tuple[Counter[str], list[str]]:
    world = run_leasing(seed, keep_trace=arguments.trace)
    return world.count, world.trace


if __name__ == "__main__":
    sys.exit(run_command("tests.simulation.leasing", __doc__, LEASE_MUTANTS, _history))
