"""Clients of one volume: what one commits the other sees, and each op has exactly one verdict."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import trio

from s3vfs.errors import ReadOnly, SessionBusy, SessionFenced, StoreUnreachable, Unpublished
from s3vfs.journal.bucket import BucketJournal
from s3vfs.journal.record import decode_record
from s3vfs.namespace.changes import Changes
from s3vfs.namespace.ops import Challenge, Config, Create, Setattr, Write
from s3vfs.namespace.rows import Rows
from s3vfs.objects.counting import Operation
from s3vfs.objects.faults import Failure, Fault, Rule
from s3vfs.session import options
from s3vfs.session.command import open_command, run_command
from s3vfs.session.options import Offline, SessionOptions
from s3vfs.session.session import Session
from tests.session.histories import run, scripted
from tests.session.volume import UUID, Client, Place, create, environment, names, now_ns

PUT = frozenset({Operation.PUT})
GET = frozenset({Operation.GET})


async def at_rest(session: Session) -> None:
    """Let the session finish what it does, without letting it poll."""
    await trio.sleep(0.05)


# -- committing -----------------------------------------------------------------------------------------------------


def test_a_commit_is_seen_by_another_client_after_a_fresh_look(tmp_path: Path) -> None:
    async def main(place: Place) -> None:
        async with place.client(1).mount() as one, place.client(2).mount() as two:
            verdicts = await one.commit([create(one, b"hello")])
            assert [verdict.errno for verdict in verdicts] == [0]
            await two.fresh(0)
            assert names(two) == [b"hello"]
            assert (await two.commit([create(two, b"hello")]))[0].errno == errno.EEXIST
            await one.fresh(0)
            assert one.base.replica.position == two.base.replica.position

    run(tmp_path, main)


def test_commits_that_arrive_during_an_append_share_the_next_record(tmp_path: Path) -> None:
    async def main(place: Place) -> None:
        client, script = scripted(place, 1)
        async with client.mount() as session:
            script.add(Rule(Fault(delay_before_s=0.1), PUT, "journal/", times=None))
            groups = []
            for number in range(40):
                groups.append(session.enqueue([create(session, b"%d" % number)]))
                await trio.sleep(0.001)
            committed = [await session.wait(group) for group in groups]
            seqs = [result.seq for result in committed]
            assert seqs == [seqs[0]] + [seqs[0] + 1] * 39
            assert len(names(session)) == 40

    run(tmp_path, main)


def test_ops_of_one_commit_stay_together_in_order_when_the_race_is_lost(tmp_path: Path) -> None:
    async def main(place: Place) -> None:
        client, script = scripted(place, 1)
        async with client.mount() as slow, place.client(2).mount() as fast:
            await slow.fresh(0)
            lost = slow.counters.records_lost
            script.add(Rule(Fault(delay_before_s=0.5), PUT, "journal/", times=1))
            group = slow.enqueue([create(slow, b"a"), create(slow, b"b"), create(slow, b"a")])
            await trio.sleep(0.1)
            await fast.commit([create(fast, b"winner")])
            committed = await slow.wait(group)
            assert [verdict.errno for verdict in committed.verdicts] == [0, 0, errno.EEXIST]
            assert slow.counters.records_lost == lost + 1
            assert names(slow) == [b"a", b"b", b"winner"]
            data = await slow.journal.read(committed.seq)
            assert data is not None
            assert len(decode_record(data).ops) == 3

    run(tmp_path, main)


def test_a_commit_too_large_for_one_record_goes_out_in_several_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("s3vfs.session.pipeline.MAX_RECORD_OPS", 10)

    async def main(place: Place) -> None:
        async with place.client(1).mount() as session:
            before = session.applied_seq
            small = session.enqueue([create(session, b"small")])
            large = session.enqueue([create(session, b"%02d" % number) for number in range(25)])
            committed = await session.wait(large)
            assert [verdict.errno for verdict in committed.verdicts] == [0] * 25
            assert small.seq == before + 1
            assert committed.seq == before + 4

    run(tmp_path, main)


def test_bytes_bound_a_record_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("s3vfs.session.pipeline.MAX_RECORD_BYTES", 250)

    async def main(place: Place) -> None:
        async with place.client(1).mount() as session:
            groups = [session.enqueue([create(session, b"%d" % number * 50)]) for number in range(6)]
            committed = [await session.wait(group) for group in groups]
            assert len({result.seq for result in committed}) == 3

    run(tmp_path, main)


def test_an_answer_that_is_lost_is_found_again_and_counts_once(tmp_path: Path) -> None:
    async def main(place: Place) -> None:
        client, script = scripted(place, 1)
        async with client.mount() as session:
            script.add(Rule(Fault(Failure.LOST_ANSWER), PUT, "journal/"))
            assert (await session.commit([create(session, b"once")]))[0].errno == 0
            assert session.counters.records_won == 2  # ANNOUNCE and this
            assert session.counters.records_lost == 0

    run(tmp_path, main)


def test_a_commit_without_an_answer_says_that_it_may_still_take_effect_and_then_does(tmp_path: Path) -> None:
    async def main(place: Place) -> None:
        client, script = scripted(place, 1)
        async with client.mount(SessionOptions(io_timeout_s=20)) as session:
            script.add(Rule(Fault(Failure.BEFORE), times=None))
            began = trio.current_time()
            with pytest.raises(StoreUnreachable, match="may still take effect"):
                await session.commit([create(session, b"late")])
            assert trio.current_time() - began == pytest.approx(20)
            assert session.status()["queued_ops"] == 1
            script.clear()
            await session.tail.reached(session.applied_seq + 1)
            assert names(session) == [b"late"]
            assert session.status()["queued_ops"] == 0

    run(tmp_path, main)


def test_a_cancelled_commit_still_takes_effect(tmp_path: Path) -> None:
    async def main(place: Place) -> None:
        async with place.client(1).mount() as session:
            with trio.CancelScope() as scope:
                scope.cancel()
                await session.commit([create(session, b"enqueued before the first checkpoint")])
            assert scope.cancelled_caught
            await at_rest(session)
            assert names(session) == [b"enqueued before the first checkpoint"]

    run(tmp_path, main)


def test_the_caller_of_a_commit_goes_on_after_the_listeners_have_heard_of_it(tmp_path: Path) -> None:
    async def main(place: Place) -> None:
        heard: list[tuple[Changes, bool]] = []
        async with place.client(1).mount() as one, place.client(2).mount() as two:
            await one.fresh(0)
            one.listen(lambda changes, own: heard.append((changes, own)))
            await one.commit([create(one, b"mine")])
            assert [own for _, own in heard] == [True]
            assert heard[0][0].dentries == {(1, b"mine")}
            await two.commit([create(two, b"theirs")])
            await one.fresh(0)
            assert [own for _, own in heard] == [True, False]

    run(tmp_path, main)


def test_background_work_yields_to_whoever_lost_races(tmp_path: Path) -> None:
    async def main(place: Place) -> None:
        far, script = scripted(place, 1)
        async with far.mount() as laptop, place.client(2).mount() as worker:
            script.add(Rule(Fault(delay_before_s=0.2, delay_after_s=0.2), times=None))
            laptop_done = trio.Event()

            async def commit() -> None:
                for number in range(3):
                    await laptop.commit([create(laptop, b"laptop %d" % number)])
                laptop_done.set()

            async def work() -> None:
                number = 0
                while not laptop_done.is_set():
                    number += 1
                    await worker.commit([create(worker, b"work %d" % number)], background=True)
                    await trio.sleep(0.03)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(commit)
                nursery.start_soon(work)
            assert laptop.counters.records_lost < 60

    run(tmp_path, main)


# -- inode numbers ----------------------------------------------------------------------------------------------------


def test_the_first_create_needs_no_record_for_its_inode_number(tmp_path: Path) -> None:
    async def main(place: Place) -> None:
        async with place.client(1).mount() as session:
            before = session.applied_seq
            await session.commit([create(session, b"first")])
            assert session.applied_seq == before + 1

    run(tmp_path, main)


def test_inode_numbers_do_not_run_out_and_are_never_given_twice(tmp_path: Path) -> None:
    async def main(place: Place) -> None:
        async with place.client(1).mount() as one, place.client(2).mount() as two:
            taken = []
            for _ in range(3 * options.FIRST_BLOCK):
                taken += [await one.new_ino(), await two.new_ino()]
            assert len(set(taken)) == len(taken)
            # Blocks were asked for ahead of need: both sessions still have numbers at hand.
            assert one.take_ino() is not None
            ino = await two.new_ino()
            verdicts = await two.commit([Create(1, b"x", ino, 0o100644, 0, 0, 0, b"", now_ns())])
            assert verdicts[0].errno == 0

    run(tmp_path, main)


# -- following --------------------------------------------------------------------------------------------------------


def test_callers_who_arrive_during_a_look_share_the_next_one(tmp_path: Path) -> None:
    async def main(place: Place) -> None:
        client, script = scripted(place, 1)
        async with client.mount() as session:
            await trio.sleep(1)
            script.add(Rule(Fault(delay_before_s=0.05, delay_after_s=0.05), GET, "journal/", times=None))
            before = session.counters.looks
            async with trio.open_nursery() as nursery:
                nursery.start_soon(session.fresh, 0)
                await trio.sleep(0.02)
                for _ in range(20):
                    nursery.start_soon(session.fresh, 0)
            assert session.counters.looks == before + 2

    run(tmp_path, main)


def test_a_young_look_is_enough_for_a_relaxed_reader_but_not_for_an_exact_one(tmp_path: Path) -> None:
    async def main(place: Place) -> None:
        async with place.client(1).mount() as session:
            await session.fresh(0)
            before = session.counters.looks
            await session.fresh(0.1)
            assert session.counters.looks == before
            await session.fresh(0)
            assert session.counters.looks == before + 1

    run(tmp_path, main)


def test_an_own_commit_counts_as_a_look(tmp_path: Path) -> None:
    async def main(place: Place) -> None:
        async with place.client(1).mount() as session:
            await trio.sleep(1)
            before = session.counters.looks
            await session.commit([create(session, b"x")])
            await session.fresh(0.1)
            assert session.counters.looks == before

    run(tmp_path, main)


def test_a_mount_in_use_follows_within_half_a_second_and_an_idle_one_within_ten(tmp_path: Path) -> None:
    async def main(place: Place) -> None:
        async with place.client(1).mount() as watcher, place.client(2).mount() as author:
            watcher.touch()
            await author.commit([create(author, b"one")])
            await trio.sleep(0.6)
            assert names(watcher) == [b"one"]
            await trio.sleep(60)
            looks = watcher.counters.looks
            await trio.sleep(100)
            assert watcher.counters.looks - looks <= 11
            await author.commit([create(author, b"two")])
            await trio.sleep(10.1)
            assert names(watcher) == [b"one", b"two"]

    run(tmp_path, main)


def test_a_silent_bucket_gives_stale_reads_or_errors_as_the_user_chose(tmp_path: Path) -> None:
    async def main(place: Place) -> None:
        for offline in Offline:
            client, script = scripted(place, 1)
            async with client.mount(SessionOptions(offline=offline, io_timeout_s=30)) as session:
                script.add(Rule(Fault(Failure.BEFORE, delay_before_s=0.3), times=None))
                began = trio.current_time()
                if offline is Offline.STALE:
                    await session.fresh(0)
                    assert 2 <= trio.current_time() - began <= 2 + 0.301
                    for _ in range(5):  # known to be silent: nobody waits again, but for one who asks in a pause
                        await session.fresh(0)
                    assert trio.current_time() - began <= 2 + 2 * 0.301
                else:
                    with pytest.raises(StoreUnreachable):
                        await session.fresh(0)
                    assert 30 <= trio.current_time() - began <= 30 + 0.301
                script.clear()
                await trio.sleep(10)
                before = session.counters.looks
                await session.fresh(0)
                assert session.counters.looks > before
                assert session.tail.failure is None

    run(tmp_path, main)


def test_the_first_one_who_asks_after_an_outage_sees_what_others_have_done(tmp_path: Path) -> None:
    """Whoever was told of it by somebody else, whose mount had found the bucket again earlier."""

    async def main(place: Place) -> None:
        client, script = scripted(place, 1)
        async with client.mount() as session, place.client(2).mount() as author:
            script.add(Rule(Fault(Failure.BEFORE), times=None))
            await session.fresh(0)
            await trio.sleep(60)
            await author.commit([create(author, b"meanwhile")])
            script.clear()
            began = trio.current_time()
            await session.fresh(0)
            assert names(session) == [b"meanwhile"]
            assert trio.current_time() - began < options.LAST_TRY_S

    run(tmp_path, main)


def test_a_request_that_hangs_is_silence_too(tmp_path: Path) -> None:
    async def main(place: Place) -> None:
        client, script = scripted(place, 1)
        async with client.mount() as session:
            script.add(Rule(Fault(delay_before_s=3600), GET))
            began = trio.current_time()
            await session.fresh(0)
            await session.fresh(0)
            assert trio.current_time() - began == pytest.approx(2)

    run(tmp_path, main)


def test_a_client_far_behind_catches_up_with_many_reads_at_once(tmp_path: Path) -> None:
    async def main(place: Place) -> None:
        client, script = scripted(place, 1)
        async with place.client(2).mount() as author:
            for number in range(200):
                await author.commit([create(author, b"%d" % number)])
            script.add(Rule(Fault(delay_before_s=0.1), GET, "journal/", times=None))
            began = trio.current_time()
            async with client.mount() as session:
                assert session.applied_seq > 200
                assert trio.current_time() - began < 5

    run(tmp_path, main)


# -- office -----------------------------------------------------------------------------------------------------------


def test_a_clean_end_leaves_no_session_behind(tmp_path: Path) -> None:
    async def main(place: Place) -> None:
        client = place.client(1)
        async with client.mount() as session:
            sid = session.sid
            assert place.bucket.keys("v/sessions/") == [f"v/sessions/{sid:016x}"]
            session.enqueue([create(session, b"in the queue at the end")])
        assert place.bucket.keys("v/sessions/") == []
        async with place.client(2).mount(read_only=True) as reader:
            assert names(reader) == [b"in the queue at the end"]
            with reader.view() as txn:
                assert list(Rows(txn).sessions()) == []
        async with client.mount() as session:
            assert session.sid != sid

    run(tmp_path, main)


def copy_identity(cache: Path, other: Path) -> None:
    """What a copy of client 1's session directory has in it, apart from its replica."""
    source = next(cache.rglob("session.json"))
    target = other / source.relative_to(cache)
    target.parent.mkdir(parents=True)
    target.write_bytes(source.read_bytes())


def crash(scope: trio.CancelScope) -> None:
    scope.cancel()


def test_a_crashed_session_is_resumed_with_a_new_incarnation(tmp_path: Path) -> None:
    async def main(place: Place) -> None:
        client = place.client(1)
        with trio.CancelScope() as scope:
            async with client.mount() as session:
                sid, object_id = session.sid, session.new_object()
                await session.commit([create(session, b"before")])
                crash(scope)
                await trio.sleep_forever()
        async with client.mount() as session:
            assert (session.sid, session.incarnation, session.resumed) == (sid, 2, True)
            assert session.new_object() != object_id
            assert (await session.commit([create(session, b"after")]))[0].errno == 0

    run(tmp_path, main)


def test_a_copy_of_a_session_directory_takes_over_and_fences_the_original(tmp_path: Path) -> None:
    async def main(place: Place) -> None:
        original = place.client(1)
        async with original.mount() as session:
            clone = Client(place.bucket.open("v"), tmp_path / "clone", 1, replica=original.replica.copy())
            copy_identity(tmp_path, tmp_path / "clone")
            async with clone.mount() as taken:
                assert (taken.sid, taken.incarnation) == (session.sid, 2)
                with pytest.raises(SessionFenced):
                    await session.commit([create(session, b"x")])
                assert session.fenced
                with pytest.raises(SessionFenced):
                    session.enqueue([create(session, b"y")])
                await session.fresh(0)  # reads go on

    run(tmp_path, main)


def test_a_session_evicted_meanwhile_is_not_resumed(tmp_path: Path) -> None:
    async def main(place: Place) -> None:
        client = place.client(1)
        with trio.CancelScope() as scope:
            async with client.mount() as session:
                sid = session.sid
                crash(scope)
                await trio.sleep_forever()
        async with place.client(2).mount() as other:
            assert await other.evict(sid)
            assert not await other.evict(sid)
        async with client.mount() as session:
            assert session.sid != sid
            assert not session.resumed

    run(tmp_path, main)


def test_a_living_session_answers_a_challenge(tmp_path: Path) -> None:
    async def main(place: Place) -> None:
        async with place.client(1).mount() as idle, place.client(2).mount() as other:
            await trio.sleep(100)
            assert not await other.evict(idle.sid)
            assert not idle.fenced
            # It was challenged once and answered once.
            await idle.fresh(0)
            row = idle.base.session_row(idle.sid)
            assert row is not None
            assert row.last_seq > row.challenge > 0

    run(tmp_path, main)


def test_who_challenges_a_living_session_hears_so_when_it_answers(tmp_path: Path) -> None:
    async def main(place: Place) -> None:
        async with place.client(1).mount() as living, place.client(2).mount() as other:
            began_s = trio.current_time()
            assert not await other.evict(living.sid, wait_s=3600)
            assert trio.current_time() - began_s < 15

    run(tmp_path, main)


def test_waiting_commits_of_a_fenced_session_fail_and_nothing_of_them_takes_effect(tmp_path: Path) -> None:
    async def main(place: Place) -> None:
        client, script = scripted(place, 1)
        async with client.mount() as session, place.client(2).mount() as other:
            script.add(Rule(Fault(delay_before_s=60), PUT, times=None))
            group = session.enqueue([create(session, b"too late")])
            assert await other.evict(session.sid)
            with pytest.raises(SessionFenced):
                await session.wait(group)
            await trio.sleep(100)
            await other.fresh(0)
            assert names(other) == []

    run(tmp_path, main)


def test_two_processes_cannot_use_one_session_directory(tmp_path: Path) -> None:
    async def main(place: Place) -> None:
        client = place.client(1)
        twin = Client(client.store, client.cache, 1)
        async with client.mount():
            with pytest.raises(SessionBusy, match="in use by process"):
                async with twin.mount():
                    pass

    run(tmp_path, main)


def test_a_queue_that_does_not_drain_leaves_the_session_to_be_resumed(tmp_path: Path) -> None:
    async def main(place: Place) -> None:
        client, script = scripted(place, 1)
        async with client.mount(SessionOptions(io_timeout_s=5)) as session:
            sid = session.sid
            script.add(Rule(Fault(Failure.BEFORE), PUT, times=None))
            session.enqueue([create(session, b"x")])
            with pytest.raises(Unpublished):
                await session.aclose()
        script.clear()
        async with client.mount() as session:
            assert (session.sid, session.resumed) == (sid, True)

    run(tmp_path, main)


def test_a_read_only_session_writes_nothing_and_needs_no_session_directory(tmp_path: Path) -> None:
    async def main(place: Place) -> None:
        client, script = scripted(place, 1)
        script.add(Rule(Fault(Failure.DENIED), PUT | {Operation.DELETE, Operation.BULK_PUT}, times=None))
        async with client.mount(read_only=True) as reader, place.client(2).mount() as author:
            await author.commit([create(author, b"x")])
            await reader.fresh(0)
            assert names(reader) == [b"x"]
            assert reader.read_only
            with pytest.raises(ReadOnly):
                await reader.commit([])
            assert reader.take_ino() is None
            with pytest.raises(ReadOnly):
                await reader.reserve_inos()

    run(tmp_path, main)


# -- commands ---------------------------------------------------------------------------------------------------------


def test_a_command_is_one_record_and_leaves_no_session(tmp_path: Path) -> None:
    async def main(place: Place) -> None:
        client = place.client(9)
        surroundings = environment(9)
        journal = BucketJournal(client.store.control, UUID, surroundings)
        committed = await run_command(
            surroundings, client.store, journal, client.replica, [Config("renamed", None, None)]
        )
        assert committed.seq == 2
        assert [verdict.errno for verdict in committed.verdicts] == [0]
        with client.replica.read() as txn:
            assert list(Rows(txn).sessions()) == []

    run(tmp_path, main)


def test_a_command_evicts_a_dead_session_and_spares_a_living_one(tmp_path: Path) -> None:
    async def main(place: Place) -> None:
        dead = place.client(1)
        with trio.CancelScope() as scope:
            async with dead.mount() as session:
                sid = session.sid
                crash(scope)
                await trio.sleep_forever()
        client, surroundings = place.client(9), environment(9)
        journal = BucketJournal(client.store.control, UUID, surroundings)
        async with place.client(2).mount() as living:
            async with open_command(surroundings, client.store, journal, client.replica) as command:
                assert await command.evict(sid)
                assert not await command.evict(living.sid)
                assert (await command.run([Challenge(sid)])).verdicts[0].errno == errno.ESRCH
            assert not living.fenced

    run(tmp_path, main)


# -- a journal that contradicts itself --------------------------------------------------------------------------------


def test_a_damaged_journal_stops_the_client_read_only_and_says_why(tmp_path: Path) -> None:
    async def main(place: Place) -> None:
        async with place.client(1).mount() as victim, place.client(2).mount() as author:
            await author.commit([create(author, b"good")])
            await victim.fresh(0)
            committed = await author.wait(author.enqueue([create(author, b"bad")]))
            key = f"v/journal/{committed.seq % 16:x}/{committed.seq:016x}"
            data = place.bucket.peek(key)
            assert data is not None
            place.bucket.put(key, data[:-1] + bytes([data[-1] ^ 1]), if_absent=False, if_match="")
            group = victim.enqueue([create(victim, b"waits")])
            with pytest.raises(ReadOnly, match="checksum"):
                await victim.wait(group)
            with pytest.raises(ReadOnly, match="checksum"):
                await victim.commit([create(victim, b"later")])
            assert victim.fatal is not None
            assert victim.status()["fatal"]
            await victim.fresh(0)
            assert names(victim) == [b"good"]

    run(tmp_path, main)


def test_ops_refused_by_apply_are_counted_and_answered(tmp_path: Path) -> None:
    async def main(place: Place) -> None:
        async with place.client(1).mount() as session:
            verdicts = await session.commit(
                [
                    Setattr(999, 1, 0o600, 0, 0, 0, 0, 0, now_ns()),
                    Write(998, (), 0, now_ns(), now_ns()),
                    create(session, b"fine"),
                ]
            )
            assert [bool(verdict.errno) for verdict in verdicts] == [True, True, False]
            assert session.status()["counters"]["ops_rejected"] == 2

    run(tmp_path, main)
