"""R13 across crashes at each point, and bases that have to be rebuilt (R5)."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
import trio.lowlevel

from s3vfs.errors import StoreUnreachable
from s3vfs.journal.volume import VolumeInfo
from s3vfs.maintenance.checkpoint import publish_checkpoint
from s3vfs.objects.counting import Operation
from s3vfs.objects.faults import Failure, Fault, Rule
from s3vfs.replica.memory_replica import MemoryReplica
from s3vfs.session.session import Session
from tests.session.histories import run, scripted
from tests.session.volume import EPOCH_NS, UUID, Client, Place, create, names

PUT = frozenset({Operation.PUT})
GET = frozenset({Operation.GET})
BULK_GET = frozenset({Operation.BULK_GET})
INFO = VolumeInfo(UUID, "test", 8 << 20, EPOCH_NS)


async def crash_after(client: Client, work: Callable[[Session], Awaitable[None]]) -> int:
    """Mount, work, die; the sid."""
    sid = 0
    with trio.CancelScope() as scope:
        async with client.mount() as session:
            sid = session.sid
            await work(session)
            scope.cancel()
            await trio.sleep_forever()
    return sid


async def nothing(session: Session) -> None:
    await trio.lowlevel.checkpoint()


async def mount_and_die_at_once(client: Client) -> None:
    """Killed while it takes office."""
    with trio.move_on_after(5) as scope:
        async with client.mount():
            pytest.fail("it should not have got into office")
    assert scope.cancelled_caught


def identity_of(tmp_path: Path) -> dict[str, object]:
    fields: dict[str, object] = json.loads(next(tmp_path.rglob("session.json")).read_text())
    return fields


async def checkpoint_and_trim(session: Session) -> None:
    """Publish, trim, and let the hour pass, so that records are really gone."""
    await publish_checkpoint(session.base.replica, session.journal, session.store, session.environment, INFO)
    await session.journal.trim(session.applied_seq)
    await session.journal.trim(session.applied_seq)
    await trio.sleep(3700)
    assert (await session.journal.trim(session.applied_seq)).deleted > 0


# -- crashes while taking office --------------------------------------------------------------------------------------


def test_an_attempt_that_never_reached_the_journal_is_as_if_it_had_not_been_made(tmp_path: Path) -> None:
    async def main(place: Place) -> None:
        client, script = scripted(place, 1)
        sid = await crash_after(client, nothing)
        script.add(Rule(Fault(Failure.BEFORE), PUT, "journal/", times=None))
        await mount_and_die_at_once(client)
        assert (identity_of(tmp_path)["incarnation"], identity_of(tmp_path)["settled"]) == (2, False)
        script.clear()
        async with client.mount() as session:
            assert (session.sid, session.incarnation, session.resumed) == (sid, 2, True)

    run(tmp_path, main)


def test_an_attempt_that_reached_the_journal_before_the_crash_is_recognised(tmp_path: Path) -> None:
    async def main(place: Place) -> None:
        client, script = scripted(place, 1)
        sid = await crash_after(client, nothing)
        script.add(Rule(Fault(delay_after_s=3600), PUT, "journal/", times=None))
        await mount_and_die_at_once(client)
        assert (identity_of(tmp_path)["incarnation"], identity_of(tmp_path)["settled"]) == (2, False)
        script.clear()
        async with client.mount() as session:
            assert (session.sid, session.incarnation, session.resumed) == (sid, 3, True)

    run(tmp_path, main)


def test_the_next_life_knows_which_ops_of_a_former_one_took_effect(tmp_path: Path) -> None:
    async def main(place: Place) -> None:
        client, script = scripted(place, 1)
        numbers: list[int] = []

        async def work(session: Session) -> None:
            numbers.append(session.send([create(session, b"answered")]).number)
            await session.commit([create(session, b"x")])
            script.add(Rule(Fault(Failure.BEFORE), PUT, "journal/", times=None))
            pledge = session.send([create(session, b"never sent")])
            assert not session.landed(1, pledge.number)
            numbers.append(pledge.number)
            await trio.sleep(10)

        await crash_after(client, work)
        # Killed twice more while it takes office: before, and after its attempt is in the journal.
        await mount_and_die_at_once(client)
        script.clear()
        script.add(Rule(Fault(delay_after_s=3600), PUT, "journal/", times=None))
        await mount_and_die_at_once(client)
        script.clear()
        async with client.mount() as session:
            assert (session.incarnation, session.resumed) == (3, True)
            assert [session.landed(1, number) for number in numbers] == [True, False]
            pledge = session.send([create(session, b"y")])
            assert not pledge.settled
            assert not session.landed(3, pledge.number)
            assert [verdict.errno for verdict in await pledge.verdicts()] == [0]
            assert session.landed(3, pledge.number)

    run(tmp_path, main)


def test_an_older_copy_of_the_directory_is_not_taken_up_although_its_incarnation_is_in_office(tmp_path: Path) -> None:
    async def main(place: Place) -> None:
        client = place.client(1)
        copies: list[dict[Path, bytes]] = []

        def copy() -> None:
            folder = next(tmp_path.rglob("session.json")).parent
            copies.append({path: path.read_bytes() for path in (folder / "session.json", folder / "sent")})

        async def work(session: Session) -> None:
            await session.commit([create(session, b"before")])
            copy()
            await session.commit([create(session, b"after")])
            copy()

        async def restored(number: int) -> tuple[int, bool]:
            for path, data in copies[number].items():
                path.write_bytes(data)
            async with client.mount() as session:
                return session.sid, session.resumed

        sid = await crash_after(client, work)
        fresh, resumed = await restored(0)
        assert not resumed
        assert fresh != sid
        assert await restored(1) == (sid, True)

    run(tmp_path, main)


def test_an_attempt_of_a_copy_is_not_taken_for_our_own(tmp_path: Path) -> None:
    async def main(place: Place) -> None:
        client, script = scripted(place, 1)
        sid = await crash_after(client, nothing)
        old = identity_of(tmp_path)
        script.add(Rule(Fault(Failure.BEFORE), PUT, "journal/", times=None))
        await mount_and_die_at_once(client)
        # Another copy of the same directory, from before that attempt, becomes incarnation 2.
        clone = Client(place.bucket.open("v"), tmp_path / "clone", 3001, replica=client.replica.copy())
        place_identity(tmp_path, tmp_path / "clone", old)
        async with clone.mount() as taken:
            assert (taken.sid, taken.incarnation) == (sid, 2)
            script.clear()
            async with client.mount() as session:
                assert session.sid != sid
                assert not session.resumed
            assert not taken.fenced

    run(tmp_path, main)


def place_identity(cache: Path, other: Path, fields: dict[str, object]) -> None:
    target = other / next(cache.rglob("session.json")).relative_to(cache)
    target.parent.mkdir(parents=True)
    target.write_text(json.dumps(fields))


def test_an_announcement_that_was_never_answered_is_resumed(tmp_path: Path) -> None:
    async def main(place: Place) -> None:
        client, script = scripted(place, 1)
        script.add(Rule(Fault(delay_after_s=3600), PUT, "journal/", times=None))
        await mount_and_die_at_once(client)
        script.clear()
        async with client.mount() as session:
            assert (session.incarnation, session.resumed) == (2, True)

    run(tmp_path, main)


def test_an_announcement_that_was_never_sent_makes_room_for_a_new_one(tmp_path: Path) -> None:
    async def main(place: Place) -> None:
        client, script = scripted(place, 1)
        script.add(Rule(Fault(Failure.BEFORE), PUT, "journal/", times=None))
        await mount_and_die_at_once(client)
        script.clear()
        async with client.mount() as session:
            assert (session.incarnation, session.resumed) == (1, False)

    run(tmp_path, main)


def test_resuming_many_times_keeps_the_inode_numbers_that_are_left(tmp_path: Path) -> None:
    async def main(place: Place) -> None:
        client = place.client(1)
        for number in range(20):

            async def create_one(session: Session, name: bytes = b"%d" % number) -> None:
                assert (await session.commit([create(session, name)]))[0].errno == 0

            await crash_after(client, create_one)
        async with client.mount() as session:
            row = session.base.row
            assert row is not None
            assert len(row.blocks) == 1
            assert len(names(session)) == 20

    run(tmp_path, main)


# -- bases that have to be rebuilt ------------------------------------------------------------------------------------


def test_a_client_behind_the_trim_boundary_reloads_and_tells_its_listeners(tmp_path: Path) -> None:
    async def main(place: Place) -> None:
        sleeper = place.client(1)
        await crash_after(sleeper, nothing)
        async with place.client(2).mount() as author:
            for number in range(5):
                await author.commit([create(author, b"%d" % number)])
            await checkpoint_and_trim(author)
            async with sleeper.mount() as session:
                assert session.resumed
                assert session.counters.reloads == 1
                assert len(names(session)) == 5

    run(tmp_path, main)


def test_a_reload_while_mounted_is_announced_to_listeners_and_the_session_goes_on(tmp_path: Path) -> None:
    async def main(place: Place) -> None:
        client, script = scripted(place, 1)
        reloads: list[int] = []
        async with client.mount() as session, place.client(2).mount() as author:
            session.listen(lambda changes, own: None, reloaded=lambda: reloads.append(session.applied_seq))
            script.add(Rule(Fault(Failure.BEFORE), times=None))
            await author.commit([create(author, b"x")])
            await checkpoint_and_trim(author)
            script.clear()
            await trio.sleep(20)
            assert len(reloads) == 1
            assert names(session) == [b"x"]
            assert (await session.commit([create(session, b"y")]))[0].errno == 0

    run(tmp_path, main)


def test_a_commit_whose_record_was_trimmed_before_its_answer_came_says_that_nobody_knows(tmp_path: Path) -> None:
    async def main(place: Place) -> None:
        client, script = scripted(place, 1)
        async with client.mount() as session, place.client(2).mount() as author:
            await session.fresh(0)
            # The PUT takes effect, and then nothing is heard for hours.
            script.add(Rule(Fault(Failure.LOST_ANSWER), PUT, "journal/"))
            script.add(Rule(Fault(Failure.BEFORE), times=None))
            group = session.enqueue([create(session, b"in the journal")])
            await trio.sleep(1)
            await author.fresh(0)
            assert names(author) == [b"in the journal"]
            await author.commit([create(author, b"x")])
            await checkpoint_and_trim(author)
            waiting = session.enqueue([create(session, b"never sent before")])
            script.clear()
            with pytest.raises(StoreUnreachable, match="cannot be known"):
                await session.wait(group)
            assert (await session.wait(waiting)).verdicts[0].errno == 0
            assert names(session) == [b"in the journal", b"never sent before", b"x"]

    run(tmp_path, main)


def test_while_a_checkpoint_is_loaded_every_view_shows_what_was_there_before(tmp_path: Path) -> None:
    async def main(place: Place) -> None:
        client, script = scripted(place, 1)
        async with client.mount() as session, place.client(2).mount() as author:
            await author.commit([create(author, b"before")])
            await session.fresh(0)
            script.add(Rule(Fault(Failure.BEFORE), GET | PUT, times=None))
            for number in range(50):
                await author.commit([create(author, b"%d" % number)])
            await checkpoint_and_trim(author)
            script.clear()
            script.add(Rule(Fault(Failure.BEFORE), BULK_GET, times=None))
            session.tail.want()
            for _ in range(30):
                await trio.sleep(1)
                assert names(session) == [b"before"]
            assert session.tail.failure is not None
            script.clear()
            await session.tail.reached(author.applied_seq)
            assert session.counters.reloads == 1
            assert len(names(session)) == 51

    run(tmp_path, main)


def test_another_boot_rebuilds_the_replica_and_keeps_the_session(tmp_path: Path) -> None:
    async def main(place: Place) -> None:
        client = place.client(1)
        sid = await crash_after(client, nothing)
        async with place.client(2).mount() as author:
            await author.commit([create(author, b"x")])
            await publish_checkpoint(author.base.replica, author.journal, author.store, author.environment, INFO)
        client.boot_id = "another boot"
        client.replica = MemoryReplica(UUID)  # what LmdbReplica does when the boot id differs
        async with client.mount() as session:
            assert (session.sid, session.resumed, session.counters.reloads) == (sid, True, 1)
            assert names(session) == [b"x"]

    run(tmp_path, main)


# -- the session object -----------------------------------------------------------------------------------------------


def test_low_follows_base_but_never_passes_a_pinned_view(tmp_path: Path) -> None:
    async def main(place: Place) -> None:
        def written_low(session: Session) -> int:
            body = place.bucket.peek(f"v/sessions/{session.sid:016x}")
            assert body is not None
            low: int = json.loads(body)["low"]
            return low

        async with place.client(1).mount() as reader, place.client(2).mount() as author:
            await author.commit([create(author, b"a")])
            await reader.fresh(0)
            with reader.pin() as pinned:
                await author.commit([create(author, b"b")])
                await trio.sleep(1000)
                assert reader.low == pinned
                assert written_low(reader) == pinned
            await trio.sleep(1000)
            assert written_low(reader) == reader.applied_seq > pinned

    run(tmp_path, main)


def test_a_resumed_session_does_not_raise_low_above_what_its_former_life_left(tmp_path: Path) -> None:
    async def main(place: Place) -> None:
        client = place.client(1)
        sid = await crash_after(client, nothing)
        body = place.bucket.peek(f"v/sessions/{sid:016x}")
        assert body is not None
        left = json.loads(body)
        place.bucket.put(
            f"v/sessions/{sid:016x}", json.dumps(left | {"later": "kept"}).encode(), if_absent=False, if_match=""
        )
        async with place.client(2).mount() as author:
            await author.commit([create(author, b"x")])
        async with client.mount() as session:
            body = place.bucket.peek(f"v/sessions/{session.sid:016x}")
            assert body is not None
            fields = json.loads(body)
            assert (fields["low"], fields["incarnation"], fields["later"]) == (left["low"], 2, "kept")

    run(tmp_path, main)
