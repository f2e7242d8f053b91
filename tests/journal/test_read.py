"""Reading, the tail, and HEAD: what is returned was true when it was asked (R4, R5)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
import trio
import trio.testing

from s3vfs.errors import Damaged, StoreUnreachable, Trimmed, UnknownFeature
from s3vfs.journal.bucket import PARALLEL_READS, BucketJournal
from s3vfs.journal.head import CheckpointRef, Engine, Head, encode_head
from s3vfs.journal.keys import record_key
from s3vfs.objects.protocol import Control, Reply
from tests.journal.bucket_script import START_NS, VOLUME, Act, World, lost_answer, lost_request, play, record

HOUR = 3600


async def fill(world: World, first: int, last: int) -> None:
    control = world.bucket.open().control
    for seq in range(first, last + 1):
        await control.put(record_key(seq), record(seq, author=1)[0])


@pytest.mark.parametrize("age_s", [0, 599, 600, -HOUR, 100 * HOUR])
def test_a_record_and_none_there_are_trusted_after_a_look_at_head_where_one_is_due(age_s: int) -> None:
    async def main(world: World) -> None:
        await fill(world, 1, 1)
        journal, control = await world.client()
        world.later(age_s)
        assert await journal.read(1) == record(1, author=1)[0]
        assert await journal.read(2) is None
        assert control.count("get", "HEAD") == (0 if 0 <= age_s < 600 else 1)

    play(main)


def test_none_there_is_not_believed_where_the_record_was_trimmed() -> None:
    async def main(world: World) -> None:
        journal, control = await world.client()
        world.later(2 * HOUR)
        await world.make_head(Head(VOLUME, 2, CheckpointRef(b"c" * 16, 20), 11))
        with pytest.raises(Trimmed, match="begin at 11"):
            await journal.read(7)
        assert control.log[0] == ("get", record_key(7))
        assert await journal.read(11) is None

    play(main)


def test_a_stale_answer_is_not_passed_on_when_head_cannot_be_read() -> None:
    async def main(world: World) -> None:
        journal, control = await world.client()
        world.later(2 * HOUR)

        async def only_head_is_away(inner: Control, key: str, send: Callable[[], Awaitable[Reply]]) -> Reply:
            if key == "HEAD":
                raise StoreUnreachable("no answer")
            return await send()

        control.acts["get"] = [only_head_is_away] * 2
        with pytest.raises(StoreUnreachable):
            await journal.read(7)

    play(main)


def test_many_stale_answers_share_looks_at_head() -> None:
    async def main(world: World) -> None:
        await fill(world, 1, 40)
        journal, control = await world.client()
        world.later(2 * HOUR)
        assert len(await journal.read_many(1, 40)) == 40
        assert control.count("get", "HEAD") <= 2

    play(main)


def test_two_contents_of_one_record_stop_the_client() -> None:
    async def main(world: World) -> None:
        await fill(world, 1, 1)
        journal, _ = await world.client()
        await journal.read(1)
        await world.bucket.open().control.put(record_key(1), record(1, author=2)[0])
        with pytest.raises(Damaged, match="two contents"):
            await journal.read(1)

    play(main)


def test_a_hole_in_the_journal_is_damage_but_a_trimmed_record_is_trimmed() -> None:
    async def main(world: World) -> None:
        await fill(world, 1, 8)
        journal, _ = await world.client()
        assert await journal.tail(0) == 8
        await world.bucket.open().control.delete(record_key(3))
        with pytest.raises(Damaged, match="record 3 is missing"):
            await journal.read(3)
        await world.make_head(Head(VOLUME, 2, CheckpointRef(b"c" * 16, 7), 5))
        with pytest.raises(Trimmed):
            await journal.read(3)

    play(main)


@pytest.mark.parametrize("tail", [0, 1, 2, 3, 7, 8, 9, 100])
def test_the_tail_is_found_from_anywhere_with_few_head_requests(tail: int) -> None:
    async def main(world: World) -> None:
        await fill(world, 1, tail)
        for known in {0, tail // 2, tail}:
            journal, control = await world.client()
            assert await journal.tail(known) == tail
            assert {method for method, _ in control.log} == {"head"}
            assert len(control.log) <= 1 + 2 * (tail - known).bit_length()
            control.log.clear()
            assert await journal.tail(known) == tail
            assert len(control.log) == 1

    play(main)


def test_the_tail_behind_the_boundary_is_trimmed() -> None:
    async def main(world: World) -> None:
        await fill(world, 5, 8)
        journal, _ = await world.client()
        world.later(2 * HOUR)
        await world.make_head(Head(VOLUME, 2, CheckpointRef(b"c" * 16, 6), 5))
        with pytest.raises(Trimmed):
            await journal.tail(3)
        assert await journal.tail(4) == 8
        world.later(2 * HOUR)
        await world.make_head(Head(VOLUME, 3, CheckpointRef(b"c" * 16, 7), 7))
        with pytest.raises(Trimmed):
            await journal.tail(5)  # although it is looked for above 8, which is known

    play(main)


@pytest.mark.parametrize(("last", "count", "expected"), [(100, 64, 64), (40, 64, 40), (0, 64, 0), (5, 0, 0)])
def test_catching_up_reads_in_order_until_the_first_that_is_absent(last: int, count: int, expected: int) -> None:
    async def main(world: World) -> None:
        await fill(world, 1, last)
        journal, control = await world.client()
        assert await journal.read_many(1, count) == [record(seq, author=1)[0] for seq in range(1, expected + 1)]
        assert len(control.log) <= expected + PARALLEL_READS

    play(main)


def test_catching_up_raises_the_first_error_in_order_and_bare() -> None:
    async def main(world: World) -> None:
        await fill(world, 1, 30)
        journal, control = await world.client()

        async def fail(inner: Control, key: str, send: Callable[[], Awaitable[Reply]]) -> Reply:
            if key == record_key(9):
                raise StoreUnreachable("nine")
            return await send()

        control.acts["get"] = [fail] * 30
        with pytest.raises(StoreUnreachable, match="nine"):
            await journal.read_many(1, 30)
        control.acts.clear()
        assert len(await journal.read_many(1, 30)) == 30

    play(main)


def test_the_round_trip_follows_appends_and_looks_at_the_tail() -> None:
    async def main(world: World) -> None:
        journal, control = await world.client()
        assert journal.round_trip_us == 0

        async def slow(inner: Control, key: str, send: Callable[[], Awaitable[Reply]]) -> Reply:
            await trio.sleep(0.08)
            return await send()

        control.acts["put"] = [slow]
        await journal.append(1, *record(1, author=1))
        assert journal.round_trip_us == 80_000
        assert await journal.read(2) is None
        assert journal.round_trip_us == 70_000

    play(main)


# -- HEAD -------------------------------------------------------------------------------------------------------------


def test_head_is_known_only_after_it_was_read() -> None:
    async def main(world: World) -> None:
        journal = BucketJournal(world.store().control, VOLUME, world.environment())
        with pytest.raises(RuntimeError):
            journal.head()
        assert await journal.read(1) is None
        assert journal.head().head == Head(VOLUME)
        assert journal.head().date_ns == START_NS

    play(main)


def test_a_head_that_is_missing_foreign_or_older_than_before_is_damage() -> None:
    async def main(world: World) -> None:
        journal, _ = await world.client()
        await world.make_head(Head(VOLUME, generation=5))
        await journal.refresh_head()
        await world.make_head(Head(VOLUME, generation=4))
        with pytest.raises(Damaged, match="went back"):
            await journal.refresh_head()
        await world.make_head(Head(bytes(16), generation=6))
        with pytest.raises(Damaged, match="belongs to volume"):
            await journal.refresh_head()
        await world.bucket.open().control.delete("HEAD")
        with pytest.raises(Damaged, match="missing"):
            await journal.refresh_head()

    play(main)


def test_a_look_at_head_that_took_long_does_not_replace_a_newer_one() -> None:
    async def main(world: World) -> None:
        journal, control = await world.client()

        async def slow(inner: Control, key: str, send: Callable[[], Awaitable[Reply]]) -> Reply:
            reply = await send()
            await trio.sleep(60)
            return reply

        control.acts["get"] = [slow]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(journal.refresh_head)
            await trio.testing.wait_all_tasks_blocked()
            await world.make_head(Head(VOLUME, generation=2))
            await journal.refresh_head()
        assert journal.head().head.generation == 2

    play(main)


def test_a_journal_that_has_moved_away_is_refused() -> None:
    async def main(world: World) -> None:
        journal, _ = await world.client()
        await world.make_head(Head(VOLUME, 2, engine=Engine("etcd", 1)))
        with pytest.raises(UnknownFeature, match="etcd"):
            await journal.refresh_head()

    play(main)


def test_rewrites_of_head_by_many_are_all_in_it() -> None:
    async def main(world: World) -> None:
        async def add(number: int) -> None:
            journal, control = await world.client()
            acts: list[list[Act]] = [[lost_answer], [lost_request], []]
            control.acts["put"] = acts[number % 3]
            name = f"field{number}"
            head = await journal.update_head(lambda head: replace(head, extra={**head.extra, name: 1}))
            assert head.extra[name] == 1

        async with trio.open_nursery() as nursery:
            for number in range(12):
                nursery.start_soon(add, number)
        journal, _ = await world.client()
        assert set(journal.head().head.extra) == {f"field{number}" for number in range(12)}
        assert journal.head().head.generation == 13

    play(main)


def test_an_own_rewrite_is_recognised_after_a_lost_answer_and_not_made_twice() -> None:
    async def main(world: World) -> None:
        journal, control = await world.client()
        control.acts["put"] = [lost_answer]
        head = await journal.update_head(lambda head: replace(head, extra={"count": head.extra.get("count", 0) + 1}))
        assert head.extra == {"count": 1}
        assert head.generation == 2
        assert world.bucket.peek("HEAD") == encode_head(head)
        assert control.count("put") == 1

    play(main)


def test_where_nothing_is_to_change_head_is_not_written() -> None:
    async def main(world: World) -> None:
        journal, control = await world.client()
        assert await journal.update_head(lambda head: head) == Head(VOLUME)
        assert control.count("put") == 0

    play(main)


def test_a_head_written_here_vouches_for_answers_as_one_that_was_read() -> None:
    async def main(world: World) -> None:
        journal, control = await world.client()
        world.later(HOUR)
        await journal.update_head(lambda head: replace(head, extra={"a": 1}))
        control.acts["get"] = []
        control.log.clear()
        assert await journal.read(1) is None
        assert control.count("get", "HEAD") == 0
        assert (await journal.refresh_head()).etag == journal.head().etag

    play(main)


def test_updating_head_waits_for_the_store() -> None:
    async def main(world: World) -> None:
        journal, control = await world.client()
        control.acts["get"] = [lost_request] * 5
        control.acts["put"] = [lost_request] * 5
        assert (await journal.update_head(lambda head: replace(head, extra={"a": 1}))).extra == {"a": 1}

    play(main)
