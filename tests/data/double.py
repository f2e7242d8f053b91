"""A volume in memory for the data room's tests: real rows, the real apply, a "journal" that is one list of commits.

Several `Client`s share one `Volume`; each is what `data.protocol.DataSession` asks for. Files are made with
`make_file`.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trio

from s3vfs.environment import Environment
from s3vfs.errors import S3vfsError, SessionFenced, StoreUnreachable
from s3vfs.namespace.apply import apply_op
from s3vfs.namespace.changes import Changes, changes_of
from s3vfs.namespace.dictionary import DictTransaction
from s3vfs.namespace.digest import DigestingTransaction
from s3vfs.namespace.ops import (
    Announce,
    AnyOp,
    Block,
    Create,
    DeclareObject,
    Format,
    NumberedOp,
    Punch,
    Setattr,
    SetattrMask,
    Unlink,
    Write,
)
from s3vfs.namespace.rows import ROOT_INO, Inode, LeaseId, Rows
from s3vfs.namespace.transaction import ReadTransaction
from s3vfs.namespace.verdict import COVERED, Context, Verdict
from s3vfs.objects.memory import MemoryBucket
from s3vfs.objects.protocol import Store
from s3vfs.objects.runner import InlineRunner, Runner

Listener = Callable[[Changes, bool], None]


class Volume:
    """Base, and who listens to it."""

    def __init__(self) -> None:
        self.rows = DictTransaction()
        self.bucket = MemoryBucket(lambda: 0)
        self.seq = 0
        self.clients: list[Client] = []
        self.mounts = 0
        self.records: list[Sequence[AnyOp]] = []
        self.numbers = itertools.count(1)
        self.landed: set[int] = set()
        self.sids: dict[Path, int] = {}
        self.apply([Format("volume", 0, 0, 0o755, 0, 0, 1)], None)
        _, block = self.apply([Announce("author of names"), Block(60_000)], None)
        self._inos = itertools.count(block.value)

    def apply(self, ops: Sequence[AnyOp], author: Client | None) -> list[Verdict]:
        """One record."""
        self.seq += 1
        txn = DigestingTransaction(self.rows, 0)
        sid = 1 if author is None else author.sid
        verdicts = [
            apply_op(txn, NumberedOp(1, None, op), Context(self.seq, index, sid, 1)) for index, op in enumerate(ops)
        ]
        self.records.append(ops)
        changes = changes_of(txn.touched)
        for client in self.clients:
            for hear in client.listeners:
                hear(changes, client is author)
        return verdicts

    def make_file(self, name: bytes = b"") -> int:
        """A new empty file in the root directory."""
        ino = next(self._inos)
        (verdict,) = self.apply([Create(ROOT_INO, name or b"file%d" % ino, ino, 0o100644, 0, 0, 0, b"", 1)], None)
        assert not verdict.errno
        return ino

    def unlink(self, ino: int, *, hold: bool = True) -> None:
        """Remove the only link of a file."""
        ((parent, name),) = Rows(self.rows).links(ino)
        (verdict,) = self.apply([Unlink(parent, name, ino, 0, hold, 1)], None)
        assert not verdict.errno

    def punch(self, ino: int, offset: int, length: int) -> None:
        """Another node makes a hole."""
        (verdict,) = self.apply([Punch(ino, offset, length, 5)], None)
        assert not verdict.errno

    def inode(self, ino: int) -> Inode:
        inode = Rows(self.rows).inode(ino)
        assert inode is not None
        return inode

    def writes(self) -> list[Write]:
        """Every WRITE in the journal."""
        return [op for record in self.records for op in record if isinstance(op, Write)]

    def declared(self) -> list[DeclareObject]:
        return [op for record in self.records for op in record if isinstance(op, DeclareObject)]


@dataclass(eq=False)
class Pledge:
    """Ops that are applied when they are first asked for. While the client's `unheard` is set, the answer does not
    come in time."""

    client: Client
    ops: Sequence[AnyOp]
    number: int
    settled: bool = False
    answer: list[Verdict] | None = None

    async def verdicts(self) -> list[Verdict]:
        client = self.client
        await trio.lowlevel.checkpoint()
        if self.answer is None:
            if client.refuse is not None:
                self.settled = True
                raise client.refuse
            if client.covered:
                client.covered -= 1
                self.answer = [Verdict(COVERED) for _ in self.ops]
                self.settled = True
                return self.answer
            client.volume.landed.add(self.number)
            self.answer = client.volume.apply(self.ops, client)
        await trio.lowlevel.checkpoint()
        if client.unheard:
            raise StoreUnreachable("no answer in time")
        if client.before_answer is not None:
            client.before_answer()
        if client.never_answer:
            await trio.sleep_forever()
        self.settled = True
        return self.answer


@dataclass
class Client:
    """One mount's session. `refuse` is raised by the next commits while it is set; `never_answer`: they are applied,
    and nobody hears of it; `unheard`: they are applied, and it becomes known later. `covered`: so many commits meet
    another session's lease."""

    volume: Volume
    store: Store
    environment: Environment
    sid: int = 1
    listeners: list[Listener] = field(default_factory=list)
    refuse: S3vfsError | None = None
    never_answer: bool = False
    unheard: bool = False
    before_answer: Callable[[], object] | None = None
    covered: int = 0
    incarnation: int = 1
    looks: int = 0
    on_fresh: Callable[[], None] | None = None
    _objects: int = 0

    def __post_init__(self) -> None:
        self.sid = 2 + self.volume.mounts
        self.incarnation = 1 + self.volume.mounts
        self.volume.mounts += 1
        self.volume.clients.append(self)

    @contextmanager
    def view(self) -> Iterator[ReadTransaction]:
        yield self.volume.rows

    @contextmanager
    def pin(self) -> Iterator[int]:
        yield self.volume.seq

    def refusal(self) -> S3vfsError | None:
        return self.refuse if isinstance(self.refuse, SessionFenced) else None

    def send(self, ops: Sequence[AnyOp]) -> Pledge:
        return Pledge(self, ops, next(self.volume.numbers))

    # No leases here: every close waits for its record.

    async def clear(self, *inos: int) -> None:
        await trio.lowlevel.checkpoint()

    def close_of(self, ino: int) -> None:
        return None

    def note_close(self, ino: int, lease: LeaseId) -> None:
        raise AssertionError("no close was acknowledged")

    def closed_under(self, ino: int) -> tuple[LeaseId | None, bool]:
        return None, False

    def lost(self, ino: int) -> str | None:
        return None

    def accompany(self, companion: object) -> None:
        pass

    def send_along(self, ops: Sequence[AnyOp], leases: Sequence[LeaseId | None]) -> Pledge:
        raise AssertionError("no batch is being closed")

    def press(self) -> None:
        pass

    def landed(self, incarnation: int, number: int) -> bool:
        return number in self.volume.landed

    async def fresh(self, within_s: float | None = None) -> None:
        self.looks += 1
        if self.on_fresh is not None:
            self.on_fresh()
        await trio.lowlevel.checkpoint()

    def new_object(self) -> bytes:
        self._objects += 1
        return self.sid.to_bytes(8, "big") + self.incarnation.to_bytes(4, "big") + self._objects.to_bytes(4, "big")

    def listen(self, callback: Listener, *, reloaded: Callable[[], None] | None = None) -> None:
        self.listeners.append(callback)

    def foreign_size(self, ino: int, size: int) -> None:
        """Another node truncates."""
        self.volume.apply([Setattr(ino, SetattrMask.SIZE, 0, 0, 0, size, 0, 0, 5)], None)


def environment(run: Runner | None = None, *, boot_id: str = "boot", wall: Iterator[int] | None = None) -> Environment:
    """Deterministic: wall time counts up, randomness is seeded, threads only where asked for."""
    ticks = wall or itertools.count(1_000)
    return Environment(run=run or InlineRunner(), boot_id=boot_id, wall_ns=lambda: next(ticks), random=random.Random(1))


class Kernel:
    """Takes every file, and knows which it has."""

    available = True
    writes = True

    def __init__(self) -> None:
        self.numbers: set[int] = set()
        self._last = 0

    def register(self, fd: int) -> int:
        self._last += 1
        self.numbers.add(self._last)
        return self._last

    def withdraw(self, backing: int) -> None:
        self.numbers.remove(backing)
