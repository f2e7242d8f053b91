"""What simulated clients do all day: names and small writes, in a tree small enough that they meet.

Every step is written down with what the world's truth was when it began and when it was answered; oracles read that.
"""

from __future__ import annotations

import random
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import trio
import xxhash

from s3vfs.errors import ObjectExists, ReadOnly, SessionFenced, StoreUnreachable
from s3vfs.namespace.ops import (
    AnyOp,
    Append,
    Create,
    DeclareObject,
    ExtentWrite,
    Link,
    Reap,
    Rename,
    Rmdir,
    Setattr,
    SetattrMask,
    Unlink,
    Write,
)
from s3vfs.namespace.rows import ROOT_INO, Dentry, Rows
from s3vfs.namespace.verdict import Verdict
from tests.simulation.client import Life
from tests.simulation.world import World, data_key

NAMES = (b"a", b"b", b"c", b"d", b"e")


@dataclass(slots=True)
class Step:
    """One commit as its caller saw it. `first_number` is that of its first op; `seq` 0 = no answer, or an error."""

    life: str
    sid: int
    incarnation: int
    first_number: int
    ops: Sequence[AnyOp]
    tail_before: int
    tail_after: int = 0
    seq: int = 0
    verdicts: Sequence[Verdict] = ()
    error: str = ""


@dataclass(slots=True)
class Look:
    """One fresh(): what had been committed before the time it speaks of, and what base had when it returned."""

    life: str
    promised: int
    applied: int


@dataclass
class Diary:
    steps: list[Step] = field(default_factory=list)
    looks: list[Look] = field(default_factory=list)


class Workload:
    """The work of one task of one life."""

    def __init__(self, world: World, life: Life, generator: random.Random, diary: Diary) -> None:
        self._world = world
        self._life = life
        self._session = life.session
        self._generator = generator
        self._diary = diary

    async def run(self, steps: int, pause_s: float) -> None:
        """Raises SessionFenced and ReadOnly: the life is over then."""
        for _ in range(steps):
            await trio.sleep(self._generator.uniform(0, 2 * pause_s))
            try:
                await self._step()
            except StoreUnreachable as error:
                self._world.say(self._life.name, f"unreachable: {error}")

    async def _step(self) -> None:
        self._session.touch()
        await self._fresh(self._generator.choice((0.0, 0.1)))
        make = self._generator.choice(
            (self._create, self._create, self._write, self._write, self._append, self._unlink, self._rename)
            + (self._rename, self._link, self._truncate, self._rmdir, self._reap)
        )
        if make in (self._write, self._append):
            await self._with_object(make)
            return
        for _ in range(3):
            ops = make()
            if ops is None:
                await self._session.reserve_inos()
            else:
                if ops:
                    await self._commit(ops)
                return

    async def _fresh(self, within_s: float) -> None:
        promised = self._world.tail_at(trio.current_time() - within_s)
        if within_s == 0:
            promised = self._world.tail
        await self._session.fresh(within_s)
        if self._session.fatal is None:  # else reads go on with what is there (R4)
            self._diary.looks.append(Look(self._life.name, promised, self._session.applied_seq))

    async def _commit(self, ops: Sequence[AnyOp]) -> None:
        """No await before the commit: `ops` hold numbers that were just taken."""
        group = self._session.enqueue(ops)
        session = self._session
        step = Step(self._life.name, session.sid, session.incarnation, group.first_number, ops, self._world.tail)
        self._diary.steps.append(step)
        try:
            committed = await self._session.wait(group)
        except (SessionFenced, ReadOnly, StoreUnreachable) as error:
            step.error = type(error).__name__
            raise
        step.seq, step.verdicts, step.tail_after = committed.seq, committed.verdicts, self._world.tail
        self._world.say(self._life.name, f"{ops[-1]} -> {committed.seq} {[v.errno for v in committed.verdicts]}")

    async def _with_object(self, make: Callable[[bytes, int], list[AnyOp]]) -> None:
        """R9: the object first, then the ops that name it."""
        object_id = self._session.new_object()
        body = self._generator.randbytes(self._generator.randrange(1, 5000))
        for attempt in range(6):
            try:
                await self._session.environment.run(self._session.store.bulk.put_new, data_key(object_id), [body])
                break
            except ObjectExists:
                # Nobody else uses this id: an earlier attempt of ours has succeeded.
                break
            except StoreUnreachable:
                if attempt == 5:
                    raise
        ops = make(object_id, len(body))
        if ops:
            declare = DeclareObject(object_id, len(body), len(body), 0, b"", b"", xxhash.xxh3_64_digest(body))
            await self._commit([declare, *ops])

    # -- evaluating ---------------------------------------------------------------------------------------------

    def _now_ns(self) -> int:
        return self._session.environment.wall_ns()

    def _entries(self, rows: Rows) -> list[tuple[int, bytes, Dentry]]:
        """Every name of the tree: (parent, name, entry)."""
        found, waiting = [], [ROOT_INO]
        while waiting:
            parent = waiting.pop()
            for name, entry in rows.entries(parent):
                found.append((parent, name, entry))
                if entry.kind == stat.S_IFDIR >> 12:
                    waiting.append(entry.ino)
        return found

    def _tree(self) -> list[tuple[int, bytes, Dentry]]:
        with self._session.view() as txn:
            return self._entries(Rows(txn))

    def _some(self, directory: bool) -> tuple[int, bytes, Dentry] | None:
        chosen = [found for found in self._tree() if (found[2].kind == stat.S_IFDIR >> 12) == directory]
        return self._generator.choice(chosen) if chosen else None

    def _place(self) -> tuple[int, bytes]:
        parents = [ROOT_INO, ROOT_INO] + [e.ino for _, _, e in self._tree() if e.kind == stat.S_IFDIR >> 12]
        return self._generator.choice(parents), self._generator.choice(NAMES)

    def _create(self) -> list[AnyOp] | None:
        """None: an inode number is needed first."""
        parent, name = self._place()
        ino = self._session.take_ino()
        if ino is None:
            return None
        mode = self._generator.choice((stat.S_IFREG | 0o644, stat.S_IFREG | 0o600, stat.S_IFDIR | 0o755))
        return [Create(parent, name, ino, mode, 0, 0, 0, b"", self._now_ns())]

    def _link(self) -> list[AnyOp]:
        source = self._some(directory=False)
        if source is None:
            return []
        parent, name = self._place()
        return [Link(source[2].ino, parent, name, self._now_ns())]

    def _unlink(self) -> list[AnyOp]:
        found = self._some(directory=False)
        if found is None:
            return []
        parent, name, entry = found
        return [Unlink(parent, name, entry.ino, 0, self._generator.random() < 0.2, self._now_ns())]

    def _rmdir(self) -> list[AnyOp]:
        found = self._some(directory=True)
        if found is None:
            return []
        parent, name, entry = found
        return [Rmdir(parent, name, entry.ino, 0, self._now_ns())]

    def _rename(self) -> list[AnyOp]:
        found = self._some(directory=self._generator.random() < 0.3)
        if found is None:
            return []
        parent, name, entry = found
        new_parent, new_name = self._place()
        with self._session.view() as txn:
            replaced = Rows(txn).dentry(new_parent, new_name)
        return [
            Rename(
                parent,
                name,
                entry.ino,
                new_parent,
                new_name,
                replaced.ino if replaced else 0,
                self._generator.choice((0, 0, 0, 1, 2)),
                0,
                False,
                self._now_ns(),
            )
        ]

    def _truncate(self) -> list[AnyOp]:
        found = self._some(directory=False)
        if found is None:
            return []
        size = self._generator.randrange(6000)
        return [Setattr(found[2].ino, SetattrMask.SIZE, 0, 0, 0, size, 0, 0, self._now_ns())]

    def _reap(self) -> list[AnyOp]:
        with self._session.view() as txn:
            orphans = [ino for ino, _ in Rows(txn).orphans()]
        return [Reap(ino) for ino in orphans[:3]]

    def _write(self, object_id: bytes, length: int) -> list[AnyOp]:
        found = self._some(directory=False)
        if found is None:
            return []
        offset, now_ns = self._generator.randrange(4000), self._now_ns()
        extent = ExtentWrite(offset, length, object_id, 0)
        return [Write(found[2].ino, (extent,), offset + length, now_ns, now_ns)]

    def _append(self, object_id: bytes, length: int) -> list[AnyOp]:
        found = self._some(directory=False)
        if found is None:
            return []
        return [Append(found[2].ino, length, object_id, 0, self._now_ns(), self._now_ns())]
