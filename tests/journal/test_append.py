"""Appending: exactly one record wins each seq, whatever happens to requests and answers (R1, R2, R4, R5)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from s3vfs.errors import Damaged, StoreDenied, StoreUnreachable, Trimmed, UnknownFeature
from s3vfs.journal.head import CheckpointRef, Head, Step
from s3vfs.journal.keys import record_key
from s3vfs.objects.protocol import Control, Outcome, Reply
from tests.journal.bucket_script import (
    START_NS,
    VOLUME,
    Act,
    World,
    conflict,
    conflict_after_effect,
    denied,
    lost_answer,
    lost_request,
    play,
    record,
    throttled,
    twice,
)

HOUR = 3600
KEY_1 = record_key(1)


def trimmed_head(boundary: int) -> Head:
    return Head(VOLUME, 2, CheckpointRef(b"c" * 16, boundary - 1), boundary, (Step(1, boundary, START_NS),))


def test_one_of_two_records_wins_a_seq() -> None:
    async def main(world: World) -> None:
        (one, _), (two, _) = await world.client(), await world.client()
        assert await one.append(1, *record(1, author=1))
        assert not await two.append(1, *record(1, author=2))
        assert await two.read(1) == record(1, author=1)[0]

    play(main)


def test_many_clients_racing_for_one_seq_have_one_winner() -> None:
    async def main(world: World) -> None:
        won: list[int] = []

        async def run(author: int) -> None:
            journal, control = await world.client()
            control.acts["put"] = [[lost_answer, lost_request, conflict, twice][author % 4]]
            if await journal.append(1, *record(1, author)):
                won.append(author)

        async with trio.open_nursery() as nursery:
            for author in range(1, 13):
                nursery.start_soon(run, author)
        assert len(won) == 1
        assert world.bucket.peek(KEY_1) == record(1, won[0])[0]

    play(main)


@pytest.mark.parametrize(
    "acts",
    [
        [lost_answer],
        [conflict_after_effect],
        [twice],
        [lost_request],
        [conflict],
        [throttled],
        [lost_request, conflict, throttled, lost_request, lost_answer],
        [lost_request] * 40,
    ],
)
def test_an_own_record_is_recognised_after_any_lost_or_unclear_answer(acts: list[Act]) -> None:
    async def main(world: World) -> None:
        journal, control = await world.client()
        control.acts["put"] = list(acts)
        assert await journal.append(1, *record(1, author=1))
        assert world.bucket.peek(KEY_1) == record(1, author=1)[0]

    play(main)


@pytest.mark.parametrize("act", [lost_request, conflict, throttled])
def test_a_foreign_record_is_recognised_after_an_unclear_answer(act: Act) -> None:
    async def main(world: World) -> None:
        journal, control = await world.client()
        rival, _ = await world.client()

        async def rival_first(inner: Control, key: str, send: Callable[[], Awaitable[Reply]]) -> Reply:
            assert await rival.append(1, *record(1, author=2))
            return await act(inner, key, send)

        control.acts["put"] = [rival_first]
        assert not await journal.append(1, *record(1, author=1))

    play(main)


def test_where_nothing_is_there_the_same_bytes_are_put_again() -> None:
    async def main(world: World) -> None:
        journal, control = await world.client()
        bodies: list[tuple[str, bytes | None]] = []

        async def note(inner: Control, key: str, send: Callable[[], Awaitable[Reply]]) -> Reply:
            bodies.append((key, world.bucket.peek(key)))
            raise StoreUnreachable("no answer")

        control.acts["put"] = [note, note, note]
        assert await journal.append(1, *record(1, author=1))
        assert bodies == [(KEY_1, None)] * 3
        assert [method for method, _ in control.log] == ["put", "get", "put", "get", "put", "get", "put"]

    play(main)


def test_a_first_request_that_arrives_late_harms_nothing() -> None:
    async def main(world: World) -> None:
        journal, control = await world.client()
        late: list[Callable[[], Awaitable[Reply]]] = []

        async def delay(inner: Control, key: str, send: Callable[[], Awaitable[Reply]]) -> Reply:
            late.append(send)
            raise StoreUnreachable("no answer")

        control.acts["put"] = [delay]
        assert await journal.append(1, *record(1, author=1))
        assert (await late[0]()).outcome is Outcome.REFUSED
        assert await journal.read(1) == record(1, author=1)[0]

    play(main)


def test_an_append_waits_out_a_store_that_is_away_for_hours() -> None:
    async def main(world: World) -> None:
        journal, control = await world.client()
        deadline = trio.current_time() + 5 * HOUR

        async def away(inner: Control, key: str, send: Callable[[], Awaitable[Reply]]) -> Reply:
            if trio.current_time() < deadline:
                for method in ("put", "get"):
                    control.acts[method] = [away]
                raise StoreUnreachable("no answer")
            return await send()

        control.acts = {"put": [away], "get": [away]}
        assert await journal.append(1, *record(1, author=1))
        assert trio.current_time() < deadline + 6
        assert len(control.log) > HOUR  # it asked all the time, at most every 5 s

    play(main)


def test_a_throttling_store_is_given_more_room_than_a_lost_answer() -> None:
    async def main(world: World) -> None:
        journal, control = await world.client()
        control.acts["put"] = [throttled]
        await journal.append(1, *record(1, author=1))
        after_throttling = trio.current_time()
        control.acts["put"] = [lost_request]
        await journal.append(2, *record(2, author=1))
        assert after_throttling >= 0.5
        assert trio.current_time() - after_throttling <= 0.1

    play(main)


def test_a_cancelled_append_is_resolved_by_the_next_one_with_the_same_bytes() -> None:
    async def main(world: World) -> None:
        journal, control = await world.client()
        control.acts["put"] = [lost_answer]
        control.acts["get"] = [lost_request] * 1000
        with trio.move_on_after(60) as scope:
            await journal.append(1, *record(1, author=1))
        assert scope.cancelled_caught
        control.acts.clear()
        assert await journal.append(1, *record(1, author=1))

    play(main)


def test_a_denied_request_is_reported_and_its_record_may_still_have_won() -> None:
    async def main(world: World) -> None:
        journal, control = await world.client()
        control.acts["put"] = [lost_answer]
        control.acts["get"] = [denied]
        with pytest.raises(StoreDenied):
            await journal.append(1, *record(1, author=1))
        assert await journal.append(1, *record(1, author=1))

    play(main)


def test_an_own_batch_with_other_bytes_is_damage() -> None:
    async def main(world: World) -> None:
        journal, _ = await world.client()
        data, batch = record(1, author=1)
        await world.bucket.open().control.put(KEY_1, record(1, author=1, text=b"other")[0])
        with pytest.raises(Damaged, match="batch"):
            await journal.append(1, data, batch)

    play(main)


def test_a_foreign_record_that_cannot_be_read_means_lost() -> None:
    async def main(world: World) -> None:
        journal, _ = await world.client()
        await world.bucket.open().control.put(KEY_1, b"rubbish")
        assert not await journal.append(1, *record(1, author=1))

    play(main)


def test_a_seq_that_was_seen_is_not_asked_for_again() -> None:
    async def main(world: World) -> None:
        journal, control = await world.client()
        assert await journal.append(1, *record(1, author=1))
        control.log.clear()
        assert await journal.append(1, *record(1, author=1))
        assert not await journal.append(1, *record(1, author=2))
        assert control.log == []

    play(main)


# -- trust (R5) -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("age_s", "looks"), [(0, 0), (599, 0), (600, 1), (-30, 0), (-120, 1), (100 * HOUR, 1)])
def test_a_win_counts_without_a_look_at_head_only_for_ten_minutes(age_s: int, looks: int) -> None:
    async def main(world: World) -> None:
        journal, control = await world.client()
        world.later(age_s)
        assert await journal.append(1, *record(1, author=1))
        assert control.count("get", "HEAD") == looks
        assert control.log[0] == ("put", KEY_1)  # the look begins after the answer that it vouches for

    play(main)


def test_after_one_look_at_a_clock_gone_back_answers_are_trusted_again() -> None:
    async def main(world: World) -> None:
        journal, control = await world.client()
        world.later(-2 * HOUR)
        for seq in (1, 2, 3):
            assert await journal.append(seq, *record(seq, author=1))
        assert control.count("get", "HEAD") == 1

    play(main)


def test_a_win_at_a_trimmed_seq_is_no_win() -> None:
    async def main(world: World) -> None:
        journal, control = await world.client()
        world.later(2 * HOUR)  # others wrote, trimmed and deleted meanwhile
        await world.make_head(trimmed_head(10))
        with pytest.raises(Trimmed):
            await journal.append(5, *record(5, author=1))
        assert control.log[0] == ("put", record_key(5))
        control.log.clear()
        with pytest.raises(Trimmed):
            await journal.append(9, *record(9, author=1))
        assert control.log == []  # known by now

    play(main)


def test_what_a_win_at_a_trimmed_seq_left_is_believed_by_nobody_and_deleted_by_the_next_trim() -> None:
    async def main(world: World) -> None:
        journal, _ = await world.client()
        reader, _ = await world.client()
        world.later(2 * HOUR)
        await world.make_head(trimmed_head(10))
        with pytest.raises(Trimmed):
            await journal.append(5, *record(5, author=1))
        assert world.bucket.peek(record_key(5)) is not None
        with pytest.raises(Trimmed):
            await reader.read(5)
        with pytest.raises(Trimmed):
            await (await world.client())[0].tail(4)
        await journal.trim(10)
        assert world.bucket.peek(record_key(5)) is None

    play(main)


def test_a_win_is_not_acknowledged_before_head_answers() -> None:
    async def main(world: World) -> None:
        journal, control = await world.client()
        world.later(HOUR)
        control.acts["get"] = [lost_request, throttled, lost_request]
        assert await journal.append(1, *record(1, author=1))
        assert control.count("put") == 1
        assert control.count("get", "HEAD") == 4

    play(main)


def test_nothing_is_written_under_an_unknown_feature() -> None:
    async def main(world: World) -> None:
        await world.make_head(Head(VOLUME, features=8))
        journal, control = await world.client()
        assert await journal.read(1) is None
        control.log.clear()
        with pytest.raises(UnknownFeature):
            await journal.append(1, *record(1, author=1))
        with pytest.raises(UnknownFeature):
            await journal.trim(1)
        with pytest.raises(UnknownFeature):
            await journal.update_head(lambda head: head)
        assert control.count("put") == 0

    play(main, with_head=False)


def test_a_win_where_a_record_was_already_known_to_be_is_damage() -> None:
    async def main(world: World) -> None:
        journal, _ = await world.client()
        other, _ = await world.client()
        for seq in (1, 2, 3):
            await other.append(seq, *record(seq, author=1))
        assert await journal.read(3) is not None
        await world.bucket.open().control.delete(record_key(2))
        with pytest.raises(Damaged, match="missing"):
            await journal.append(2, *record(2, author=2))

    play(main)
