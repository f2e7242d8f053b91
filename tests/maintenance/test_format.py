"""format: one volume comes out, whoever else formats and wherever it is interrupted."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
import trio

from s3vfs.errors import Damaged, StoreDenied, StoreError, UnsafeBucket, UsageError, VolumeExists
from s3vfs.journal.bucket import BucketJournal
from s3vfs.journal.head import parse_head
from s3vfs.journal.record import decode_record
from s3vfs.journal.volume import VolumeInfo, load_volume, parse_volume
from s3vfs.maintenance.format import format_volume
from s3vfs.namespace.rows import ROOT_INO, Rows
from s3vfs.objects.protocol import Control, Reply
from s3vfs.replica.memory_replica import MemoryReplica
from tests.journal.bucket_script import (
    ScriptedStore,
    World,
    conflict_after_effect,
    lost_answer,
    lost_request,
    play,
    twice,
)


async def run(world: World, store: ScriptedStore, name: str = "home", quota_bytes: int = 0) -> VolumeInfo:
    return await format_volume(
        store, name=name, uid=7, gid=8, environment=world.environment(), quota_bytes=quota_bytes, quota_inodes=9
    )


def test_a_new_volume_has_its_json_its_head_and_a_root() -> None:
    async def main(world: World) -> None:
        store = world.store()
        volume = await run(world, store, quota_bytes=5)
        assert await load_volume(store) == volume
        assert (volume.name, volume.object_size, volume.codec) == ("home", 8 << 20, "none")
        journal = BucketJournal(store.control, volume.uuid, world.environment())
        assert await journal.tail(0) == 1
        replica = MemoryReplica(volume.uuid)
        data = await journal.read(1)
        assert data is not None
        assert [verdict.errno for verdict in replica.apply(decode_record(data)).verdicts] == [0]
        with replica.read() as txn:
            row, root = Rows(txn).volume(), Rows(txn).inode(ROOT_INO)
            assert row is not None
            assert root is not None
            assert (row.name, row.quota_bytes, row.quota_inodes) == ("home", 5, 9)
            assert (root.mode, root.uid, root.gid) == (0o40755, 7, 8)
        assert world.bucket.keys("probe/") == []

    play(main, with_head=False)


def test_a_second_format_is_refused_and_changes_nothing() -> None:
    async def main(world: World) -> None:
        await run(world, world.store())
        before = world.content()
        with pytest.raises(VolumeExists, match="home"):
            await run(world, world.store(), "other")
        assert world.content() == before

    play(main, with_head=False)


def test_settings_that_no_volume_can_have_are_refused_before_anything_is_written() -> None:
    async def main(world: World) -> None:
        for settings in (
            {"object_size": 1000},
            {"object_size": 0},
            {"object_size": 128 << 20},
            {"name": ""},
            {"name": "x" * 256},
            {"quota_bytes": -1},
            {"uid": 2**40},
        ):
            with pytest.raises(UsageError):
                await format_volume(
                    world.store(),
                    environment=world.environment(),
                    **{"name": "home", "uid": 0, "gid": 0, **settings},  # type: ignore[arg-type]
                )
        assert world.bucket.keys() == []

    play(main, with_head=False)


def test_a_bucket_where_two_can_win_is_refused() -> None:
    async def main(world: World) -> None:
        store = world.store()

        class Careless(type(store.script)):  # type: ignore[misc]
            async def put(self, key: str, body: bytes, *, if_absent: bool = False, if_match: str = "") -> Reply:
                reply: Reply = await self.inner.put(key, body)
                return reply

        store.control = Careless(store.script.inner)
        with pytest.raises(UnsafeBucket):
            await run(world, store)
        assert world.bucket.peek("HEAD") is None

    play(main, with_head=False)


class Crash(Exception):
    """The process ends here."""


def crash_at(number: int, *, after_effect: bool) -> tuple[Callable[[ScriptedStore], None], list[int]]:
    """Arms a store so that its `number`-th PUT outside the probe crashes the client; counts such PUTs."""
    count = [0]

    async def act(inner: Control, key: str, send: Callable[[], Awaitable[Reply]]) -> Reply:
        if not key.startswith("probe/"):
            count[0] += 1
            if count[0] == number:
                if after_effect:
                    await send()
                raise Crash
        return await send()

    def arm(store: ScriptedStore) -> None:
        store.script.acts["put"] = [act] * 1000

    return arm, count


@pytest.mark.parametrize("after_effect", [False, True])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_format_that_crashed_anywhere_can_be_repeated(number: int, after_effect: bool) -> None:
    async def main(world: World) -> None:
        crashed = world.store()
        arm, _ = crash_at(number, after_effect=after_effect)
        arm(crashed)
        with pytest.raises(Crash):
            await run(world, crashed)
        left = world.content()
        assert len(left) == number - 1 + after_effect
        if len(left) == 3:
            with pytest.raises(VolumeExists):
                await run(world, world.store())
            volume = await load_volume(world.store())
        else:
            volume = await run(world, world.store())
        assert {key: body for key, body in left.items() if world.bucket.peek(key) != body} == {}
        assert volume.uuid == parse_head(world.bucket.peek("HEAD") or b"").volume
        assert len(world.bucket.keys()) == 3

    play(main, with_head=False)


def test_three_puts_make_a_volume() -> None:
    async def main(world: World) -> None:
        store = world.store()
        arm, count = crash_at(0, after_effect=False)
        arm(store)
        await run(world, store)
        assert count == [3]

    play(main, with_head=False)


def test_an_unfinished_format_with_other_settings_is_not_taken_for_ones_own() -> None:
    async def main(world: World) -> None:
        crashed = world.store()
        arm, _ = crash_at(3, after_effect=False)
        arm(crashed)
        with pytest.raises(Crash):
            await run(world, crashed, "first")
        with pytest.raises(VolumeExists, match="first"):
            await run(world, world.store(), "second")
        with pytest.raises(VolumeExists):
            await run(world, world.store(), "first", quota_bytes=1)
        assert (await run(world, world.store(), "first")).name == "first"

    play(main, with_head=False)


def test_a_volume_in_use_whose_json_is_gone_is_not_formatted_over() -> None:
    async def main(world: World) -> None:
        volume = await run(world, world.store())
        control = world.bucket.open().control
        body = (await control.get("volume.json")).body
        journal = BucketJournal(control, volume.uuid, world.environment())
        await control.put("journal/2/0000000000000002", b"used")
        await control.delete("volume.json")
        with pytest.raises(Damaged, match="in use"):
            await run(world, world.store())
        await control.delete("journal/2/0000000000000002")
        await journal.update_head(lambda head: replace(head, extra={"used": 1}))
        with pytest.raises(Damaged, match="in use"):
            await run(world, world.store())
        assert parse_volume(body) == volume

    play(main, with_head=False)


@pytest.mark.parametrize("names", [["home"] * 6, ["one", "two", "three", "one", "two", "three"]])
def test_formats_at_the_same_time_make_one_volume_and_one_of_them_says_so(names: list[str]) -> None:
    async def main(world: World) -> None:
        made: list[VolumeInfo] = []
        refused: list[StoreError | VolumeExists] = []

        async def one(number: int) -> None:
            store = world.store()
            plan = [[lost_answer], [lost_request], [twice], [conflict_after_effect], [], [lost_answer]][number]

            async def outside_probe(inner: Control, key: str, send: Callable[[], Awaitable[Reply]]) -> Reply:
                if plan and not key.startswith("probe/"):
                    return await plan.pop()(inner, key, send)
                return await send()

            store.script.acts["put"] = [outside_probe] * 1000
            try:
                made.append(await run(world, store, names[number]))
            except VolumeExists as error:
                refused.append(error)

        async with trio.open_nursery() as nursery:
            for number in range(6):
                nursery.start_soon(one, number)
        volume = await load_volume(world.store())
        assert made == [volume]
        assert len(refused) == 5
        assert parse_head(world.bucket.peek("HEAD") or b"").volume == volume.uuid
        record = decode_record(world.bucket.peek("journal/1/0000000000000001") or b"")
        assert record.header.volume == volume.uuid
        replica = MemoryReplica(volume.uuid)
        replica.apply(record)
        with replica.read() as txn:
            row = Rows(txn).volume()
            assert row is not None
            assert row.name == volume.name

    play(main, with_head=False)


def test_a_denied_format_says_so() -> None:
    async def main(world: World) -> None:
        store = world.store()

        async def denied_outside_probe(inner: Control, key: str, send: Callable[[], Awaitable[Reply]]) -> Reply:
            if key == "HEAD":
                raise StoreDenied("access denied")
            return await send()

        store.script.acts["put"] = [denied_outside_probe] * 1000
        with pytest.raises(StoreDenied):
            await run(world, store)
        assert (await run(world, world.store())).name == "home"

    play(main, with_head=False)
