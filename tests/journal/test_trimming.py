"""Trimming: boundary first, records an hour of the bucket's clock later, never above the checkpoint (R5)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
import trio
import trio.testing

from s3vfs.errors import StoreUnreachable, Trimmed
from s3vfs.journal.bucket import BucketJournal
from s3vfs.journal.head import CheckpointRef, Head, HeadState, Step
from s3vfs.journal.keys import record_key, record_seq
from s3vfs.journal.trimming import MAX_STEPS, date_steps, drop_finished, due_step, raise_boundary
from s3vfs.objects.protocol import Control, Reply
from tests.journal.bucket_script import SECOND, START_NS, VOLUME, World, lost_answer, lost_request, play, record

HOUR = 3600
CHECKPOINT = CheckpointRef(b"c" * 16, 50)


def records_in(world: World) -> list[int]:
    return sorted(seq for key in world.bucket.keys("journal/") if (seq := record_seq(key)) is not None)


async def begin(world: World, last: int = 60) -> BucketJournal:
    """A client, a journal of `last` records, a checkpoint at 50."""
    journal, _ = await world.client()
    for seq in range(1, last + 1):
        await journal.append(seq, *record(seq, author=1))
    await journal.update_head(lambda head: replace(head, checkpoint=CHECKPOINT))
    return journal


def test_a_step_is_written_then_dated_then_an_hour_old_before_anything_is_deleted() -> None:
    async def main(world: World) -> None:
        journal = await begin(world)
        await journal.trim(40)
        assert journal.head().head.steps == (Step(1, 40, 0),)
        assert journal.head().head.boundary == 40
        world.later(5 * HOUR)  # the age of an undated step does not count
        report = await journal.trim(40)
        assert (report.boundary, report.deleted) == (40, 0)
        assert journal.head().head.steps == (Step(1, 40, START_NS + 5 * HOUR * SECOND),)
        world.later(HOUR - 1)
        assert (await journal.trim(40)).deleted == 0
        assert records_in(world) == list(range(1, 61))
        world.later(1)
        assert (await journal.trim(40)).deleted == 39
        assert records_in(world) == list(range(40, 61))
        assert [step.step for step in journal.head().head.steps] == [1]  # the newest always stays

    play(main)


def test_the_boundary_never_passes_the_checkpoint() -> None:
    async def main(world: World) -> None:
        journal, _ = await world.client()
        await journal.append(1, *record(1, author=1))
        assert (await journal.trim(2)).boundary == 1
        journal = await begin(world)
        assert (await journal.trim(60)).boundary == 51

    play(main)


def test_the_boundary_never_goes_down() -> None:
    async def main(world: World) -> None:
        journal = await begin(world)
        await journal.trim(40)
        assert (await journal.trim(30)).boundary == 40

    play(main)


def test_finished_steps_leave_and_numbers_go_on() -> None:
    async def main(world: World) -> None:
        journal = await begin(world)
        for below in (10, 20, 30):
            await journal.trim(below)
            world.later(1800)
        # Step 1 was dated half an hour after it was made, step 2 half an hour later; step 3 is not dated.
        assert [step.step for step in journal.head().head.steps] == [1, 2, 3]
        report = await journal.trim(30)
        assert report.deleted == 9
        assert [step.step for step in journal.head().head.steps] == [2, 3]
        world.later(2 * HOUR)
        await journal.trim(45)
        assert [step.step for step in journal.head().head.steps] == [4]
        assert records_in(world)[0] == 30

    play(main)


def test_a_finished_step_costs_no_more_listings() -> None:
    async def main(world: World) -> None:
        await begin(world)
        journal, control = await world.client()
        for _ in range(3):
            await journal.trim(40)
            world.later(2 * HOUR)
        assert control.count("list") == 16
        control.log.clear()
        await journal.trim(40)
        assert control.log == [("get", "HEAD")]

    play(main)


def test_only_record_keys_below_the_boundary_are_deleted() -> None:
    async def main(world: World) -> None:
        journal = await begin(world)
        control = world.bucket.open().control
        for key in ("journal/0/notes", "journal/0/0000000000000001", "journal/1/00", "journal/q/0000000000000001"):
            await control.put(key, b"")
        for _ in range(3):
            await journal.trim(40)
            world.later(2 * HOUR)
        assert records_in(world) == list(range(40, 61))
        assert set(world.bucket.keys("journal/")) > {"journal/0/notes", "journal/0/0000000000000001", "journal/1/00"}

    play(main)


def test_more_records_than_one_page_of_a_listing_are_all_deleted() -> None:
    async def main(world: World) -> None:
        journal, _ = await world.client()
        control = world.bucket.open().control
        for seq in range(16, 16 * 1500, 16):  # all in one shard
            await control.put(record_key(seq), b"")
        await journal.update_head(lambda head: replace(head, checkpoint=CheckpointRef(b"c" * 16, 10**6)))
        for _ in range(3):
            report = await journal.trim(16 * 1200)
            world.later(2 * HOUR)
        assert report.deleted == 1199
        assert records_in(world)[0] == 16 * 1200

    play(main)


def test_an_error_ends_the_round_and_the_next_one_goes_on() -> None:
    async def main(world: World) -> None:
        await begin(world)
        journal, control = await world.client()
        for _ in range(2):
            await journal.trim(40)
            world.later(2 * HOUR)
        control.acts["delete"] = [lost_answer, lost_request]
        before = journal.head().head
        with pytest.raises(StoreUnreachable):
            await journal.trim(45)
        assert journal.head().head == before
        await journal.trim(45)
        assert records_in(world)[0] == 40
        assert journal.head().head.boundary == 45

    play(main)


def test_racing_trimmers_agree_and_delete_nothing_too_early() -> None:
    async def main(world: World) -> None:
        await begin(world)
        clients = [await world.client() for _ in range(5)]
        first_seen: dict[int, int] = {}

        async def run(number: int) -> None:
            journal, control = clients[number]
            for below in (10, 25, 40, 51, 51, 51, 51, 51):
                if number % 2:
                    control.acts["put"] = [lost_answer]
                await journal.trim(below + number % 2)
                head = journal.head().head
                first_seen.setdefault(head.boundary, world.now_ns)
                gone = [seq for seq in range(1, 61) if seq not in records_in(world)]
                for seq in gone:
                    steps = [ns for boundary, ns in first_seen.items() if boundary > seq]
                    assert min(steps) + HOUR * SECOND <= world.now_ns
                await trio.sleep(1)
                world.later(500)

        async with trio.open_nursery() as nursery:
            for number in range(5):
                nursery.start_soon(run, number)
        assert records_in(world) == list(range(51, 61))
        head = (await clients[0][0].refresh_head()).head
        assert head.boundary == 51
        assert len(head.steps) == 1

    play(main)


def test_a_slow_reader_that_trusts_an_old_head_finds_its_records_still_there() -> None:
    async def main(world: World) -> None:
        trimmer = await begin(world)
        reader, control = await world.client()
        await trimmer.trim(40)
        await trimmer.trim(40)
        world.later(590)
        assert await reader.read(5) is not None
        assert control.count("get", "HEAD") == 0
        world.later(20)
        with_head: list[str] = []

        async def trim_first(inner: Control, key: str, send: Callable[[], Awaitable[Reply]]) -> Reply:
            with_head.append(key)
            return await send()

        control.acts["get"] = [trim_first, trim_first]
        with pytest.raises(Trimmed):
            await reader.read(6)
        assert with_head == [record_key(6), "HEAD"]

    play(main)


# -- the decisions ----------------------------------------------------------------------------------------------------


def head_with(*steps: Step) -> Head:
    return Head(VOLUME, 7, CHECKPOINT, steps[-1].boundary if steps else 1, steps)


def test_a_step_is_dated_only_by_a_look_that_showed_it() -> None:
    shown = HeadState(head_with(Step(1, 10, 0)), "", START_NS)
    now = head_with(Step(1, 10, 0), Step(2, 20, 0))
    assert date_steps(now, shown).steps == (Step(1, 10, START_NS), Step(2, 20, 0))
    # Not by another step that got the same number, and never again.
    assert date_steps(head_with(Step(1, 11, 0)), shown).steps == (Step(1, 11, 0),)
    assert date_steps(head_with(Step(1, 10, 5)), shown).steps == (Step(1, 10, 5),)


def test_a_step_is_never_dated_before_an_older_one() -> None:
    steps = (Step(1, 10, START_NS + SECOND), Step(2, 20, 0))
    shown = HeadState(head_with(*steps), "", START_NS)
    assert date_steps(shown.head, shown).steps[1].seen_ns == START_NS + SECOND


def test_the_newest_due_step_is_found() -> None:
    steps = (Step(1, 10, START_NS), Step(2, 20, START_NS + 1), Step(3, 30, 0))
    assert due_step(HeadState(head_with(*steps), "", START_NS + HOUR * SECOND)) == steps[0]
    assert due_step(HeadState(head_with(*steps), "", START_NS + HOUR * SECOND + 1)) == steps[1]
    assert due_step(HeadState(head_with(*steps), "", START_NS + HOUR * SECOND - 1)) is None
    assert due_step(HeadState(head_with(), "", START_NS)) is None


def test_head_does_not_grow_without_bound() -> None:
    head = head_with()
    for below in range(2, 2 + 2 * MAX_STEPS):
        head = raise_boundary(replace(head, checkpoint=CheckpointRef(b"c" * 16, 10**6)), below)
    assert len(head.steps) == MAX_STEPS
    assert len(drop_finished(head, 10**6).steps) == 1
    assert drop_finished(head_with(), 5) == head_with()
