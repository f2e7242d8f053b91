"""What must be true of a history, whatever the weather was.

The witness is the journal: the truth, replayed by the same `apply` on a fresh replica. Each answer that a caller got
must be explained by it, in real time.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from s3vfs.errors import S3vfsError
from s3vfs.namespace.invariants import problems
from s3vfs.namespace.ops import Announce, AnyOp, Resume, decode_op
from s3vfs.namespace.rows import Rows
from s3vfs.namespace.verdict import DUPLICATE, FENCED, Verdict
from s3vfs.replica.memory_replica import MemoryReplica
from s3vfs.replica.protocol import Position
from tests.simulation.client import Client
from tests.simulation.workload import Diary, Step
from tests.simulation.world import PREFIX, VOLUME, Violation, World, data_key


@dataclass(frozen=True, slots=True)
class Done:
    """An op in the journal: where, by whom, and what apply said to it."""

    seq: int
    sid: int
    incarnation: int
    life: str
    number: int
    op: AnyOp
    verdict: Verdict


@dataclass
class Witness:
    """The replayed journal."""

    replica: MemoryReplica
    positions: dict[int, Position] = field(default_factory=dict)
    records: dict[int, list[Done]] = field(default_factory=dict)

    def done(self) -> Iterable[Done]:
        for record in self.records.values():
            yield from record


def replay(world: World) -> Witness:
    """Apply the truth. Raises Violation where its chain is broken (R4)."""
    witness = Witness(MemoryReplica(VOLUME))
    for seq in range(1, world.tail + 1):
        appeared = world.truth[seq]
        header = appeared.record.header
        try:
            applied = witness.replica.apply(appeared.record)
        except S3vfsError as error:
            raise Violation(
                f"R4: the journal is broken at record {seq}, written by {appeared.life}: {error}"
            ) from error
        witness.positions[seq] = witness.replica.position
        done = []
        for raw, verdict in zip(appeared.record.ops, applied.verdicts, strict=True):
            numbered = decode_op(raw)
            if numbered is None:
                raise Violation(f"record {seq} has an op that nobody can decode")
            done.append(Done(seq, header.sid, header.incarnation, appeared.life, numbered.number, numbered.op, verdict))
        witness.records[seq] = done
    return witness


def check_history(world: World, clients: Iterable[Client], diary: Diary, *, corrupting: bool = False) -> None:
    """Raises Violation. `corrupting`: clients were given wrong records, and may, or rather must, have stopped."""
    witness = replay(world)
    for client in clients:
        check_positions(client, witness, corrupting)
    check_offices(witness)
    check_nothing_twice(witness)
    check_steps(diary.steps, witness)
    for look in diary.looks:
        if look.applied < look.promised:
            raise Violation(f"{look.life}: fresh returned at record {look.applied}, promised was {look.promised}")
    check_state(world, witness)


def check_positions(client: Client, witness: Witness, may_stop: bool) -> None:
    """R4, R12: equal states at equal seq, on every life of every client."""
    if client.refusals and not may_stop:
        raise Violation(f"{client.name} did not start: {client.refusals[0]}")
    for life in client.lives:
        if life.session.fatal is not None and not may_stop:
            raise Violation(f"{life.name} stopped itself: {life.session.fatal}")
        for position in life.positions:
            if position.seq and witness.positions.get(position.seq) != position:
                raise Violation(f"R12: {life.name} had another state at record {position.seq} than the journal gives")


def check_offices(witness: Witness) -> None:
    """R13: an op takes effect only for the incarnation in office, and one incarnation is one life."""
    office: dict[int, int] = {}
    life_of: dict[tuple[int, int], str] = {}
    for done in witness.done():
        if done.verdict.errno == FENCED:
            continue
        if isinstance(done.op, Announce | Resume) and not done.verdict.errno:
            office[done.sid] = done.incarnation
        if done.life and office.get(done.sid) != done.incarnation:
            raise Violation(f"R13: record {done.seq} took effect for {done.sid:x}.{done.incarnation}, not in office")
        if done.life and life_of.setdefault((done.sid, done.incarnation), done.life) != done.life:
            raise Violation(f"R13: {done.sid:x}.{done.incarnation} was both {done.life} and another process")


def check_nothing_twice(witness: Witness) -> None:
    """R2: no op is in the journal twice."""
    for done in witness.done():
        if done.verdict.errno == DUPLICATE:
            raise Violation(f"R2: record {done.seq} repeats {done.op} of {done.sid:x}.{done.incarnation}")


def check_steps(steps: Iterable[Step], witness: Witness) -> None:
    """Every answer is explained by one record between the tail before and the tail after (linearizability by witness);
    what was refused for want of office took no effect."""
    placed: dict[tuple[int, int, int], list[Done]] = {}
    for done in witness.done():
        placed.setdefault((done.sid, done.incarnation, done.number), []).append(done)
    for step in steps:
        numbers = range(step.first_number, step.first_number + len(step.ops))
        found = [placed.get((step.sid, step.incarnation, number), []) for number in numbers]
        if step.verdicts:
            if not step.tail_before < step.seq <= step.tail_after:
                raise Violation(
                    f"{step.life}: answered with record {step.seq}, outside {step.tail_before}..{step.tail_after}"
                )
            for op, verdict, dones in zip(step.ops, step.verdicts, found, strict=True):
                if [(done.seq, done.op, done.verdict) for done in dones] != [(step.seq, op, verdict)]:
                    raise Violation(
                        f"{step.life}: answered {verdict} by record {step.seq} for {op}, the journal has "
                        f"{[(done.seq, done.verdict) for done in dones]}"
                    )
        elif step.error == "SessionFenced":
            effective = [done for dones in found for done in dones if done.verdict.errno != FENCED]
            if effective:
                raise Violation(f"{step.life}: fenced, but record {effective[0].seq} has {effective[0].op}")


def check_state(world: World, witness: Witness) -> None:
    """The rows agree with each other, and every object that they refer to is in the bucket (R9, R11)."""
    with witness.replica.read() as txn:
        rows = Rows(txn)
        for problem in problems(rows):
            raise Violation(f"the final state contradicts itself: {problem}")
        for key, _ in txn.range(b"O", b"P"):
            if world.bucket.peek(f"{PREFIX}/{data_key(key[1:])}") is None:
                raise Violation(f"R9: object {key[1:].hex()} is declared but not in the bucket")
