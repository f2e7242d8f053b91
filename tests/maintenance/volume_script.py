"""A made volume, and clients that write real records to it, for the tests of upkeep."""

from __future__ import annotations

from dataclasses import dataclass

from s3vfs.environment import Environment
from s3vfs.errors import Trimmed
from s3vfs.journal.bucket import BucketJournal
from s3vfs.journal.record import Header, decode_record, encode_record
from s3vfs.journal.volume import VolumeInfo
from s3vfs.maintenance.format import format_volume
from s3vfs.namespace.ops import Announce, AnyOp, Block, Create, NumberedOp, Setxattr, encode_op
from s3vfs.namespace.rows import Rows
from s3vfs.namespace.verdict import Verdict
from s3vfs.replica.memory_replica import MemoryReplica
from s3vfs.replica.restore import restore
from tests.journal.bucket_script import START_NS, ScriptedStore, World


@dataclass
class Client:
    """A replica that follows the journal, and a session that appends to it. `written` counts bytes of records."""

    environment: Environment
    store: ScriptedStore
    volume: VolumeInfo
    journal: BucketJournal
    replica: MemoryReplica
    sid: int
    number: int = 0
    next_ino: int = 0
    written: int = 0

    async def catch_up(self) -> None:
        """Apply everything up to the tail, from HEAD's checkpoint where that is ahead of the boundary."""
        while True:
            try:
                data = await self.journal.read(self.replica.position.seq + 1)
            except Trimmed:
                checkpoint = (await self.journal.refresh_head()).head.checkpoint
                assert checkpoint is not None
                await restore(self.store, checkpoint.uuid, self.replica, self.environment.run)
                continue
            if data is None:
                return
            self.replica.apply(decode_record(data))

    async def commit(self, *ops: AnyOp) -> list[Verdict]:
        """One record with these ops, all of which must succeed."""
        raw = []
        for op in ops:
            self.number += 1
            raw.append(encode_op(NumberedOp(self.number, None, op)))
        while True:
            at, batch = self.replica.position, self.environment.new_uuid()
            header = Header(
                1,
                0,
                self.volume.uuid,
                0,
                at.seq + 1,
                at.record_hash,
                at.digest,
                self.sid,
                1,
                batch,
                START_NS,
                self.journal.round_trip_us,
                0,
                False,
            )
            data = encode_record(header, raw)
            try:
                if await self.journal.append(header.seq, data, batch):
                    break
            except Trimmed:
                await self.catch_up()
                if self.last_op() == self.number:
                    return []
            await self.catch_up()
        self.written += len(data)
        applied = self.replica.apply(decode_record(data))
        assert [verdict.errno for verdict in applied.verdicts] == [0] * len(ops)
        return applied.verdicts

    def last_op(self) -> int:
        with self.replica.read() as txn:
            row = Rows(txn).session(self.sid)
        return row.last_op if row else 0

    async def fill(self, count: int) -> None:
        """`count` records with 60 KiB of row each: four of them are more than a block of a checkpoint."""
        for number in range(count):
            value = self.environment.random.randbytes(60 << 10)
            await self.commit(Setxattr(1, b"user.%d" % number, value, 0, START_NS))

    async def create(self, count: int) -> None:
        """`count` records, each with one new file in the root."""
        for _ in range(count):
            name = b"%d-%d" % (self.sid, self.next_ino)
            await self.commit(Create(1, name, self.next_ino, 0o100644, 0, 0, 0, b"", START_NS))
            self.next_ino += 1


async def make(world: World) -> VolumeInfo:
    return await format_volume(world.store(), name="home", uid=0, gid=0, environment=world.environment())


async def client(world: World, volume: VolumeInfo, sid: int) -> Client:
    """A new client whose session is announced and has inode numbers, replica caught up."""
    environment, store = world.environment(), world.store()
    journal = BucketJournal(store.control, volume.uuid, environment)
    made = Client(environment, store, volume, journal, MemoryReplica(volume.uuid), sid)
    await made.catch_up()
    made.next_ino = (await made.commit(Announce(f"client {sid}"), Block(4096)))[1].value
    return made
