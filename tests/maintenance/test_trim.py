"""Upkeep: checkpoints and trimming happen by the policy, safely when several clients do it at once."""

from __future__ import annotations

import logging

import pytest
import trio
import trio.testing

from s3vfs.errors import UnknownFeature
from s3vfs.journal.head import Head
from s3vfs.journal.keys import record_seq
from s3vfs.journal.record import decode_record
from s3vfs.maintenance.trim import Policy, Round, keep_maintained, maintain, trim_target
from s3vfs.namespace.rows import SnapshotRow, encode_row, snapshot_key
from s3vfs.replica.memory_replica import MemoryReplica
from s3vfs.replica.restore import restore
from tests.journal.bucket_script import Act, World, lost_answer, lost_request, play, throttled
from tests.maintenance.volume_script import Client, client, make

HOUR = 3600
SMALL = Policy(checkpoint_records=10, checkpoint_bytes=1 << 20, keep_records=3, trim_records=2, segment_bytes=1024)


async def upkeep(one: Client, policy: Policy = SMALL, new_bytes: int = 0) -> Round:
    return await maintain(one.replica, one.journal, one.store, one.environment, one.volume, policy, new_bytes=new_bytes)


def lowest_record(world: World) -> int:
    return min(seq for key in world.bucket.keys("journal/") if (seq := record_seq(key)) is not None)


def test_a_checkpoint_is_published_after_enough_records_and_not_before() -> None:
    async def main(world: World) -> None:
        one = await client(world, await make(world), 5)
        await one.create(7)
        assert (await upkeep(one)).published is None
        await one.create(6)  # 15 in all: even the most patient draw is satisfied
        done = await upkeep(one)
        assert done.published is not None
        assert done.covered == one.replica.position.seq == 15
        assert (await upkeep(one)).published is None

    play(main, with_head=False)


def test_a_checkpoint_is_published_after_enough_bytes() -> None:
    async def main(world: World) -> None:
        one = await client(world, await make(world), 5)
        assert (await upkeep(one, new_bytes=(1 << 20) - 1)).published is None
        assert (await upkeep(one, new_bytes=2 << 20)).covered == 2

    play(main, with_head=False)


def test_trimming_keeps_the_newest_records_for_clients_a_little_behind() -> None:
    async def main(world: World) -> None:
        one = await client(world, await make(world), 5)
        await one.create(18)
        done = await upkeep(one)
        assert (done.covered, done.boundary) == (20, 18)
        await one.create(1)
        assert (await upkeep(one)).boundary == 18
        world.later(2 * HOUR)
        assert (await upkeep(one)).deleted == 17
        assert lowest_record(world) == 18

    play(main, with_head=False)


@pytest.mark.parametrize(("keep", "least", "target"), [(3, 2, 18), (3, 17, 18), (3, 18, 1), (0, 2, 21), (30, 1, 1)])
def test_the_boundary_moves_in_steps_that_are_worth_it(keep: int, least: int, target: int) -> None:
    async def main(world: World) -> None:
        one = await client(world, await make(world), 5)
        await one.create(18)
        await upkeep(one, Policy(10, 1 << 20, 10**6, 1))
        assert trim_target(one.journal.head(), one.replica, Policy(10, 1 << 20, keep, least)) == target

    play(main, with_head=False)


def test_a_client_behind_head_does_not_trim_above_what_it_has_seen() -> None:
    async def main(world: World) -> None:
        volume = await make(world)
        behind, ahead = await client(world, volume, 5), await client(world, volume, 6)
        await ahead.create(40)
        policy = Policy(10, 1 << 20, 10**6, 2)
        assert (await upkeep(ahead, policy)).covered == 43
        assert (await upkeep(behind, Policy(10, 1 << 20, 0, 1))).boundary == 3
        assert behind.replica.position.seq == 2

    play(main, with_head=False)


def test_a_snapshot_that_is_not_ready_stops_the_boundary() -> None:
    async def main(world: World) -> None:
        one = await client(world, await make(world), 5)
        await one.create(20)
        for checkpoint, boundary in ((b"", 1), (b"c" * 16, 20)):
            replica = one.replica.copy()
            with replica.read() as txn:
                txn.put(snapshot_key(b"s"), encode_row(SnapshotRow(2, checkpoint, 0)))  # type: ignore[attr-defined]
            await upkeep(one, Policy(10, 1 << 20, 10**6, 2))
            done = await maintain(replica, one.journal, one.store, one.environment, one.volume, SMALL)
            assert done.boundary == boundary

    play(main, with_head=False)


def test_nothing_is_maintained_under_an_unknown_feature() -> None:
    async def main(world: World) -> None:
        one = await client(world, await make(world), 5)
        await one.create(20)
        await world.make_head(Head(one.volume.uuid, 50, features=4))
        with pytest.raises(UnknownFeature):
            await upkeep(one)
        assert world.bucket.keys("checkpoint/") == []

    play(main, with_head=False)


@pytest.mark.parametrize("seed", range(6))
def test_writers_that_all_maintain_at_once_lose_nothing(seed: int) -> None:
    async def main(world: World) -> None:
        volume = await make(world)
        clients = [await client(world, volume, sid) for sid in range(5, 9)]
        for one in clients:
            one.environment.random.seed(100 * seed + one.sid)
        policy = Policy(6, 1 << 20, 4, 1, segment_bytes=512)
        troubles: list[list[Act]] = [[lost_answer], [lost_request], [throttled]]

        async def live(one: Client) -> None:
            for turn in range(12):
                one.store.script.acts["put"] = list(troubles[(turn + seed) % 3])
                await one.create(2)
                await upkeep(one, policy)
                world.later(600)
                await trio.sleep(one.environment.random.uniform(0, 2))

        async with trio.open_nursery() as nursery:
            for one in clients:
                nursery.start_soon(live, one)
        for one in clients:
            await one.catch_up()
        assert len({one.replica.position for one in clients}) == 1
        head = (await clients[0].journal.refresh_head()).head
        assert head.checkpoint is not None
        assert lowest_record(world) > 1
        newcomer = MemoryReplica(volume.uuid)
        await restore(clients[0].store, head.checkpoint.uuid, newcomer, clients[0].environment.run)
        for data in await clients[0].journal.read_many(newcomer.position.seq + 1, 10_000):
            newcomer.apply(decode_record(data))
        assert newcomer.position == clients[0].replica.position

    play(main, with_head=False)


def test_a_mount_maintains_now_and_then_and_an_idle_one_asks_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async def main(world: World) -> None:
        one = await client(world, await make(world), 5)
        await one.create(20)
        async with trio.open_nursery() as nursery:
            one.store.script.acts["get"] = [lost_request]

            async def keep() -> None:
                await keep_maintained(
                    one.replica,
                    one.journal,
                    one.store,
                    one.environment,
                    one.volume,
                    SMALL,
                    record_bytes=lambda: one.written,
                )

            nursery.start_soon(keep)
            await trio.sleep(200)  # two intervals at least: the first round fails
            assert (await one.journal.refresh_head()).head.checkpoint is not None
            one.store.script.log.clear()
            await trio.sleep(HOUR)
            assert one.store.script.log == []
            await one.create(20)
            await trio.sleep(100)
            checkpoint = (await one.journal.refresh_head()).head.checkpoint
            assert checkpoint is not None
            assert checkpoint.seq == one.replica.position.seq
            nursery.cancel_scope.cancel()
        assert "will be tried again" in caplog.text
        assert caplog.text.count("published checkpoint") == 2

    caplog.set_level(logging.INFO)
    play(main, with_head=False)


def test_bytes_are_counted_from_the_newest_checkpoint_on() -> None:
    async def main(world: World) -> None:
        one = await client(world, await make(world), 5)
        counted = 0
        policy = Policy(10**6, 1000, 10**6, 10**6)

        async def keep() -> None:
            await keep_maintained(
                one.replica,
                one.journal,
                one.store,
                one.environment,
                one.volume,
                policy,
                record_bytes=lambda: counted,
            )

        async with trio.open_nursery() as nursery:
            nursery.start_soon(keep)
            await trio.testing.wait_all_tasks_blocked()
            for step, expected in ((600, None), (1000, 4), (600, 4), (1000, 6)):
                counted += step
                await one.create(1)
                await trio.sleep(100)
                checkpoint = (await one.journal.refresh_head()).head.checkpoint
                assert (checkpoint.seq if checkpoint else None) == expected
            nursery.cancel_scope.cancel()

    play(main, with_head=False)


def test_a_mount_stops_maintaining_what_it_does_not_understand(caplog: pytest.LogCaptureFixture) -> None:
    async def main(world: World) -> None:
        one = await client(world, await make(world), 5)
        await world.make_head(Head(one.volume.uuid, 50, features=4))
        await keep_maintained(
            one.replica, one.journal, one.store, one.environment, one.volume, SMALL, record_bytes=lambda: 0
        )
        assert "no more checkpoints" in caplog.text

    play(main, with_head=False)
