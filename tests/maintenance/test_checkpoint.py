"""Checkpoints: what is published is base at one seq, complete, and named by HEAD only if it is the newest."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

from s3vfs.environment import Environment
from s3vfs.errors import Damaged, ObjectExists, ObjectMissing, S3vfsError, StoreUnreachable, UnknownFeature
from s3vfs.journal.head import CheckpointRef, Head
from s3vfs.journal.record import decode_record
from s3vfs.maintenance.checkpoint import publish_checkpoint, put_own, write_checkpoint
from s3vfs.objects.protocol import Bulk
from s3vfs.objects.runner import ThreadRunner
from s3vfs.replica.lmdb_replica import LmdbReplica
from s3vfs.replica.manifest import manifest_key, parse_manifest
from s3vfs.replica.memory_replica import MemoryReplica
from s3vfs.replica.restore import restore
from tests.journal.bucket_script import VOLUME, World, lost_answer, lost_request, play
from tests.maintenance.volume_script import Client, client, make

if TYPE_CHECKING:
    from typing_extensions import Buffer


async def publish(one: Client, segment_bytes: int = 2048) -> bytes:
    checkpoint = await publish_checkpoint(
        one.replica, one.journal, one.store, one.environment, one.volume, segment_bytes=segment_bytes
    )
    return checkpoint.uuid


class TroubledBulk:
    """A bulk store whose PUTs go wrong by plan: "before", "after" (its effect) or "" for each."""

    def __init__(self, inner: Bulk, plan: Sequence[str]) -> None:
        self._inner = inner
        self._plan = list(plan)
        self.puts = 0

    def put_new(self, key: str, body: Sequence[Buffer]) -> None:
        self.puts += 1
        trouble = self._plan.pop(0) if self._plan else ""
        if trouble != "before":
            self._inner.put_new(key, body)
        if trouble:
            raise StoreUnreachable("no answer")

    def get_range(self, key: str, offset: int, length: int) -> Buffer:
        return self._inner.get_range(key, offset, length)

    def delete(self, key: str) -> None:
        self._inner.delete(key)

    def close(self) -> None:
        self._inner.close()


def test_a_client_that_loads_a_checkpoint_has_the_state_of_one_that_read_every_record() -> None:
    async def main(world: World) -> None:
        one = await client(world, await make(world), 5)
        await one.fill(20)
        uuid = await publish(one, segment_bytes=1024)
        manifest = parse_manifest(world.bucket.peek(manifest_key(uuid)) or b"")
        assert manifest.position == one.replica.position
        assert len(manifest.segments) == 5
        assert one.journal.head().head.checkpoint == CheckpointRef(uuid, manifest.position.seq)
        await one.create(3)

        late = MemoryReplica(one.volume.uuid)
        assert (await restore(one.store, uuid, late, one.environment.run)) == manifest.position
        for data in await one.journal.read_many(late.position.seq + 1, 100):
            late.apply(decode_record(data))
        assert late.position == one.replica.position
        with late.read() as txn, one.replica.read() as other:
            assert list(txn.range(b"", b"\xff")) == list(other.range(b"", b"\xff"))

    play(main, with_head=False)


def test_an_lmdb_replica_is_published_from_a_worker_thread_while_it_goes_on(tmp_path: Path) -> None:
    async def main(world: World) -> None:
        volume = await make(world)
        writer = await client(world, volume, 5)
        await writer.fill(30)
        replica = LmdbReplica.open(tmp_path / "index", volume=volume.uuid, boot_id="boot")
        try:
            for data in await writer.journal.read_many(1, 20):
                replica.apply(decode_record(data))
            environment = Environment(run=ThreadRunner(2), boot_id="boot")
            at = replica.position
            checkpoint = await write_checkpoint(replica, writer.store, environment, volume, segment_bytes=1024)
            for data in await writer.journal.read_many(21, 100):
                replica.apply(decode_record(data))
            assert replica.position == writer.replica.position
            assert checkpoint.seq == at.seq == 20
            late = MemoryReplica(volume.uuid)
            assert await restore(writer.store, checkpoint.uuid, late, environment.run) == at
        finally:
            replica.close()

    play_in_real_time(main)


def play_in_real_time(main: object) -> None:
    """Threads do not fit virtual time: it would jump while one works."""

    async def run() -> None:
        with trio.fail_after(60):
            await main(World())  # type: ignore[operator]

    trio.run(run)


def test_head_keeps_the_newest_checkpoint() -> None:
    async def main(world: World) -> None:
        volume = await make(world)
        one, two = await client(world, volume, 5), await client(world, volume, 6)
        await one.create(10)
        newer = await publish(one)
        older = await publish(two)
        head = (await two.journal.refresh_head()).head
        assert head.checkpoint is not None
        assert head.checkpoint.uuid == newer
        assert older != newer

    play(main, with_head=False)


def test_publishers_at_the_same_time_leave_the_newest_in_head() -> None:
    async def main(world: World) -> None:
        volume = await make(world)
        clients = [await client(world, volume, sid) for sid in range(5, 10)]
        for one in clients:
            await one.catch_up()
            await one.create(3)
            one.store.script.acts["put"] = [lost_request, lost_answer]
        async with trio.open_nursery() as nursery:
            for one in clients:
                nursery.start_soon(publish, one)
        head = (await clients[0].journal.refresh_head()).head
        assert head.checkpoint is not None
        assert head.checkpoint.seq == clients[-1].replica.position.seq

    play(main, with_head=False)


def test_nothing_is_named_by_head_before_it_is_complete() -> None:
    async def main(world: World) -> None:
        one = await client(world, await make(world), 5)
        await one.fill(20)
        one.store.bulk = TroubledBulk(one.store.bulk, ["", "before", "before", "before"])
        with pytest.raises(StoreUnreachable):
            await publish(one, segment_bytes=1024)
        assert (await one.journal.refresh_head()).head.checkpoint is None
        assert [key for key in world.bucket.keys("checkpoint/") if key.endswith("json")] == []
        assert len(world.bucket.keys("checkpoint/")) == 1
        await publish(one, segment_bytes=1024)
        assert one.journal.head().head.checkpoint is not None

    play(main, with_head=False)


def test_lost_answers_to_segments_are_resolved() -> None:
    async def main(world: World) -> None:
        one = await client(world, await make(world), 5)
        await one.fill(20)
        one.store.bulk = TroubledBulk(one.store.bulk, ["after", "before", "", "before", "after"])
        one.store.script.acts["put"] = [lost_answer, lost_answer]
        uuid = await publish(one, segment_bytes=1024)
        late = MemoryReplica(one.volume.uuid)
        assert await restore(one.store, uuid, late, one.environment.run) == one.replica.position

    play(main, with_head=False)


def test_other_bytes_under_an_own_key_are_damage() -> None:
    bulk = World().bucket.open().bulk
    put_own(bulk, "key", b"own")
    put_own(bulk, "key", b"own")
    with pytest.raises(Damaged):
        put_own(bulk, "key", b"oth")
    with pytest.raises(ObjectExists):
        bulk.put_new("key", [b"own"])


def test_a_replica_that_contradicts_its_digest_is_not_published() -> None:
    async def main(world: World) -> None:
        one = await client(world, await make(world), 5)
        await one.create(5)
        with one.replica.read() as txn:
            txn.delete(b"Z")  # type: ignore[attr-defined]  # as a damaged disk would
        with pytest.raises(Damaged, match="digest"):
            await publish(one)
        assert (await one.journal.refresh_head()).head.checkpoint is None
        assert not any(key.endswith("json") for key in world.bucket.keys("checkpoint/"))

    play(main, with_head=False)


def test_nothing_is_published_under_an_unknown_feature() -> None:
    async def main(world: World) -> None:
        one = await client(world, await make(world), 5)
        await world.make_head(Head(one.volume.uuid, 50, features=4))
        with pytest.raises(UnknownFeature):
            await publish(one)
        assert world.bucket.keys("checkpoint/") == []

    play(main, with_head=False)


def test_a_checkpoint_that_is_not_there_or_has_a_damaged_segment_is_not_loaded() -> None:
    async def main(world: World) -> None:
        one = await client(world, await make(world), 5)
        await one.create(5)
        uuid = await publish(one)
        segment = next(key for key in world.bucket.keys("checkpoint/") if key.endswith("seg"))
        body = bytearray(world.bucket.peek(segment) or b"")
        body[len(body) // 2] ^= 1
        await world.bucket.open().control.put(segment, bytes(body))
        late = MemoryReplica(one.volume.uuid)
        with pytest.raises(Damaged):
            await restore(one.store, uuid, late, one.environment.run)
        with pytest.raises(ObjectMissing):
            await restore(one.store, VOLUME, late, one.environment.run)

    play(main, with_head=False)


def test_cancelling_stops_between_two_segments() -> None:
    class SlowBulk(TroubledBulk):
        """Lets the test cancel while the first segment is on its way."""

        begun = threading.Event()
        go_on = threading.Event()

        def put_new(self, key: str, body: Sequence[Buffer]) -> None:
            self.begun.set()
            self.go_on.wait(30)
            super().put_new(key, body)

    async def main(world: World) -> None:
        one = await client(world, await make(world), 5)
        await one.fill(20)
        environment = Environment(run=ThreadRunner(2), boot_id="boot")
        bulk = SlowBulk(one.store.bulk, [])
        one.store.bulk = bulk
        failed: list[S3vfsError] = []

        async def write() -> None:
            try:
                await write_checkpoint(one.replica, one.store, environment, one.volume, segment_bytes=1024)
            except S3vfsError as error:
                failed.append(error)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            await trio.to_thread.run_sync(bulk.begun.wait, 30)
            nursery.cancel_scope.cancel()
            nursery.start_soon(release, bulk)
        assert bulk.puts == 1
        assert failed == []
        assert not any(key.endswith("json") for key in world.bucket.keys("checkpoint/"))

    async def release(bulk: SlowBulk) -> None:
        with trio.CancelScope(shield=True):
            for _ in range(10):
                await trio.lowlevel.checkpoint()
            bulk.go_on.set()

    play_in_real_time(main)
