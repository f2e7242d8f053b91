"""A formatted volume in memory and clients of it, for the tests of this room."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trio

from s3vfs.environment import Environment
from s3vfs.journal.bucket import BucketJournal
from s3vfs.journal.head import Head, encode_head
from s3vfs.journal.keys import HEAD_KEY, VOLUME_KEY, record_key
from s3vfs.journal.record import APPLY_VERSION, ZERO_HASH, Header, encode_record
from s3vfs.journal.volume import VolumeInfo, encode_volume
from s3vfs.namespace.ops import Create, Format, NumberedOp, encode_op
from s3vfs.namespace.rows import Rows
from s3vfs.objects.memory import MemoryBucket
from s3vfs.objects.protocol import Store
from s3vfs.objects.runner import InlineRunner, Runner
from s3vfs.replica.memory_replica import MemoryReplica
from s3vfs.session.directory import SessionDirectory
from s3vfs.session.options import SessionOptions
from s3vfs.session.session import Session, open_session

UUID = bytes(range(16))
EPOCH_NS = 1_700_000_000 * 10**9


def now_ns() -> int:
    """The mock clock as every clock of a test."""
    return EPOCH_NS + int(trio.current_time() * 1e9)


def environment(seed: int, boot_id: str = "boot", run: Runner | None = None) -> Environment:
    generator = random.Random(seed)
    return Environment(
        run=run or InlineRunner(),
        boot_id=boot_id,
        wall_ns=now_ns,
        boottime_ns=now_ns,
        random=generator,
        new_uuid=lambda: generator.randbytes(16),
    )


async def make_volume(store: Store) -> None:
    """volume.json, HEAD and record 1, as `format` writes them."""
    await store.control.put(VOLUME_KEY, encode_volume(VolumeInfo(UUID, "test", 8 << 20, EPOCH_NS)), if_absent=True)
    await store.control.put(HEAD_KEY, encode_head(Head(UUID)), if_absent=True)
    header = Header(APPLY_VERSION, 0, UUID, 0, 1, ZERO_HASH, ZERO_HASH, 1, 1, bytes(16), EPOCH_NS, 0, 0, False)
    op = encode_op(NumberedOp(1, None, Format("test", 0, 0, 0o755, 0, 0, EPOCH_NS)))
    await store.control.put(record_key(1), encode_record(header, [op]), if_absent=True)


@dataclass
class Client:
    """What outlives a client's process: its directory and replica; and what it reaches the bucket through."""

    store: Store
    cache: Path
    seed: int
    boot_id: str = "boot"
    run: Runner | None = None
    replica: MemoryReplica = field(default_factory=lambda: MemoryReplica(UUID))

    @asynccontextmanager
    async def mount(self, options: SessionOptions | None = None, *, read_only: bool = False) -> AsyncIterator[Session]:
        surroundings = environment(self.seed, self.boot_id, self.run)
        self.seed += 1000
        journal = BucketJournal(self.store.control, UUID, surroundings)
        if read_only:
            async with open_session(surroundings, self.store, journal, self.replica, None, options) as session:
                yield session
            return
        with SessionDirectory(self.cache, UUID, f"client-{self.seed % 1000}") as directory:
            async with open_session(surroundings, self.store, journal, self.replica, directory, options) as session:
                yield session


@dataclass
class Place:
    """A bucket with one volume; `client` makes clients of it."""

    cache: Path
    bucket: MemoryBucket = field(default_factory=lambda: MemoryBucket(now_ns))

    async def format(self) -> None:
        await make_volume(self.bucket.open("v"))

    def client(self, number: int, store: Store | None = None) -> Client:
        return Client(store or self.bucket.open("v"), self.cache, number)


def create(session: Session, name: bytes, *, parent: int = 1, mode: int = 0o100644) -> Create:
    """A CREATE with the next inode number: to be enqueued before the next checkpoint."""
    ino = session.take_ino()
    assert ino is not None
    return Create(parent, name, ino, mode, 0, 0, 0, b"", now_ns())


def names(session: Session, parent: int = 1) -> list[bytes]:
    with session.view() as txn:
        return [name for name, _ in Rows(txn).entries(parent)]
