"""lock, test_lock, flush and release on two and three mounts without a kernel."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import trio

from s3vfs.errors import PosixError, SessionFenced, StoreUnreachable
from s3vfs.filesystem import TO_THE_END, Conflict, LockKind
from s3vfs.filesystem.contracts import Caller
from s3vfs.namespace.features import LOCKS
from s3vfs.namespace.rows import Rows, SessionRow
from tests.filesystem.volume import Client, run

ROOT = Caller()
SHARED, EXCLUSIVE, UNLOCK = LockKind


class Process:
    """One owner on one client, with the file open."""

    def __init__(self, client: Client, handle: int, owner: int, *, flock: bool = False) -> None:
        self.client, self.handle, self.owner, self.flock = client, handle, owner, flock

    async def lock(
        self, kind: LockKind, start: int = 0, end: int = TO_THE_END, *, wait: bool = False, owner: int | None = None
    ) -> int:
        """The errno."""
        owner = self.owner if owner is None else owner
        try:
            await self.client.fs.lock(
                self.handle, owner, start, end, kind, flock=self.flock, wait=wait, pid=1000 + owner % 1000
            )
        except PosixError as error:
            return error.errno
        return 0

    def locks(self) -> list[tuple[int, int]]:
        """(start, end) of all locks on the volume, as this client sees them."""
        with self.client.session.view() as txn:
            return [(held.start, held.end) for _, held in Rows(txn).all_locks()]

    def waits(self) -> int:
        with self.client.session.view() as txn:
            return sum(1 for _ in Rows(txn).all_waits())


async def opened(*clients: Client, flock: bool = False) -> list[Process]:
    """A process on each of these clients with one file open; owners have all 64 bits."""
    handle, found = await clients[0].fs.create(1, b"file", 0o644, os.O_RDWR, ROOT)
    made = [Process(clients[0], handle, 2**64 - 1, flock=flock)]
    for number, client in enumerate(clients[1:]):
        await client.session.fresh(0)
        made.append(Process(client, await client.fs.open(found.ino, os.O_RDWR, ROOT), 2**63 + number, flock=flock))
    return made


def test_one_at_a_time_on_two_mounts(tmp_path: Path) -> None:
    async def test(one: Client, two: Client) -> None:
        a, b = await opened(one, two)
        assert await a.lock(EXCLUSIVE, 0, 9) == 0
        assert await b.lock(SHARED, 5, 5) == errno.EAGAIN
        assert await b.lock(EXCLUSIVE, 10) == 0
        assert await a.lock(UNLOCK) == 0
        assert await b.lock(SHARED, 5, 5) == 0
        assert b.locks() == [(5, 5), (10, TO_THE_END)]

    run(tmp_path, test, 2)


def test_the_first_lock_switches_locks_on_and_no_volume_has_them_before(tmp_path: Path) -> None:
    async def test(one: Client, two: Client) -> None:
        a, b = await opened(one, two)
        assert not one.session.base.features >> LOCKS & 1
        before = one.records
        assert await a.lock(SHARED) == 0
        assert one.session.base.features >> LOCKS & 1
        assert one.records == before + 1
        assert await b.lock(SHARED) == 0

    run(tmp_path, test, 2)


def test_a_waiter_gets_the_lock_soon_after_it_is_released(tmp_path: Path) -> None:
    async def test(one: Client, two: Client) -> None:
        a, b = await opened(one, two)
        assert await a.lock(EXCLUSIVE) == 0
        async with trio.open_nursery() as nursery:
            released_s = 0.0

            async def wait() -> None:
                assert await b.lock(EXCLUSIVE, wait=True) == 0
                assert trio.current_time() - released_s <= 0.6
                assert b.locks() == [(0, TO_THE_END)]

            nursery.start_soon(wait)
            await trio.sleep(7)
            assert two.fs.lock_status()["waiting"] == 1
            released_s = trio.current_time()
            assert await a.lock(UNLOCK) == 0
        status = two.fs.lock_status()
        assert (status["held"], status["waiting"], status["waited"]) == (1, 0, 1)

    run(tmp_path, test, 2)


def test_waiting_costs_few_requests_and_wakes_nobody_in_vain(tmp_path: Path) -> None:
    async def test(one: Client, two: Client) -> None:
        a, b = await opened(one, two)
        assert await a.lock(EXCLUSIVE) == 0
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(lambda number=number: b.lock(EXCLUSIVE, wait=True, owner=5000 + number))
            await trio.sleep(30)
            before, records = two.session.counters.looks, two.records
            await trio.sleep(10)
            assert two.session.counters.looks - before <= 40
            assert two.records - records <= 8  # challenges and their answers
            nursery.cancel_scope.cancel()

    run(tmp_path, test, 2)


def test_a_wait_that_is_cancelled_leaves_the_queue(tmp_path: Path) -> None:
    async def test(one: Client, two: Client) -> None:
        a, b = await opened(one, two)
        assert await a.lock(EXCLUSIVE) == 0
        with trio.move_on_after(3) as scope:
            await b.lock(EXCLUSIVE, wait=True)
        assert scope.cancelled_caught
        await one.until(lambda: a.waits() == 0)
        assert await a.lock(UNLOCK) == 0
        await trio.sleep(5)
        await one.session.fresh(0)
        assert a.locks() == []
        assert await b.lock(SHARED, 3, 4) == 0
        assert b.locks() == [(3, 4)]

    run(tmp_path, test, 2)


@pytest.mark.parametrize("delay_s", [0.0, 0.01, 0.1, 0.2, 0.3])
def test_a_grant_that_crosses_the_cancellation_is_given_back(tmp_path: Path, delay_s: float) -> None:
    """What the owner held before, it holds again."""

    async def test(one: Client, two: Client) -> None:
        a, b = await opened(one, two)
        assert await b.lock(SHARED, 0, 9) == 0
        assert await a.lock(SHARED, 5, 14) == 0
        async with trio.open_nursery() as nursery:
            scope = trio.CancelScope()

            async def wait() -> None:
                with scope:
                    await b.lock(EXCLUSIVE, 5, 14, wait=True)

            nursery.start_soon(wait)
            await trio.sleep(3)
            nursery.start_soon(a.lock, UNLOCK)
            await trio.sleep(delay_s)
            scope.cancel()
        await two.until(lambda: b.waits() == 0 and not two.fs._keeper._jobs)
        with two.session.view() as txn:
            held = [(lock.start, lock.end, lock.kind) for _, lock in Rows(txn).all_locks()]
        assert held == ([(0, 9, 1)] if scope.cancelled_caught else [(0, 4, 1), (5, 14, 3)])

    run(tmp_path, test, 2)


def test_two_mounts_that_wait_for_each_other(tmp_path: Path) -> None:
    async def test(one: Client, two: Client) -> None:
        a, b = await opened(one, two)
        assert await a.lock(EXCLUSIVE, 0, 0) == 0
        assert await b.lock(EXCLUSIVE, 1, 1) == 0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: a.lock(EXCLUSIVE, 1, 1, wait=True))
            await trio.sleep(1)
            assert await b.lock(EXCLUSIVE, 0, 0, wait=True) == errno.EDEADLK
            assert await b.lock(UNLOCK) == 0

    run(tmp_path, test, 2)


def test_unlock_comes_after_the_bytes_that_were_written_under_the_lock(tmp_path: Path) -> None:
    async def test(one: Client, two: Client) -> None:
        a, b = await opened(one, two)
        ino = one.fs.ino_of(a.handle)
        assert await a.lock(EXCLUSIVE) == 0
        await one.fs.write(a.handle, 0, b"12345")
        async with trio.open_nursery() as nursery:

            async def wait() -> None:
                assert await b.lock(SHARED, wait=True) == 0
                inode = two.inode(ino)
                assert inode is not None
                assert inode.size == 5

            nursery.start_soon(wait)
            await trio.sleep(1)
            assert await a.lock(UNLOCK) == 0

    run(tmp_path, test, 2)


@pytest.mark.parametrize("read_only_handle", [False, True])
def test_a_close_lets_go_of_what_its_process_holds_and_publishes_it(tmp_path: Path, read_only_handle: bool) -> None:
    """Any descriptor of the file will do (POSIX), also one that has written nothing."""

    async def test(one: Client, two: Client) -> None:
        a, b = await opened(one, two)
        ino = one.fs.ino_of(a.handle)
        other = await one.fs.open(ino, os.O_RDONLY if read_only_handle else os.O_RDWR, ROOT)
        assert await a.lock(EXCLUSIVE) == 0
        assert await a.lock(EXCLUSIVE, owner=77) == errno.EAGAIN
        await one.fs.write(a.handle, 0, b"12345")
        await one.fs.flush(other, 77)
        assert await b.lock(SHARED) == errno.EAGAIN
        await one.fs.flush(other, a.owner)
        assert await b.lock(SHARED) == 0
        inode = two.inode(ino)
        assert inode is not None
        assert inode.size == 5

    run(tmp_path, test, 2)


def test_an_error_of_publishing_is_reported_and_the_lock_goes_all_the_same(tmp_path: Path) -> None:
    async def test(one: Client, two: Client) -> None:
        a, b = await opened(one, two)
        assert await a.lock(EXCLUSIVE) == 0
        one.contents.failure = PosixError(errno.EDQUOT)
        with pytest.raises(PosixError, match="quota"):
            await one.fs.flush(a.handle, a.owner)
        assert await b.lock(EXCLUSIVE) == 0
        assert await b.lock(UNLOCK) == 0
        assert await a.lock(EXCLUSIVE) == 0
        assert await a.lock(UNLOCK) == errno.EDQUOT
        assert await b.lock(EXCLUSIVE) == 0

    run(tmp_path, test, 2)


def test_while_bytes_cannot_reach_the_bucket_their_lock_stays(tmp_path: Path) -> None:
    async def test(one: Client, two: Client) -> None:
        a, b = await opened(one, two)
        assert await a.lock(EXCLUSIVE) == 0
        one.contents.failure = StoreUnreachable("silent")
        with pytest.raises(StoreUnreachable):
            await one.fs.flush(a.handle, a.owner)
        with pytest.raises(StoreUnreachable):
            await a.lock(SHARED)
        await trio.sleep(30)
        assert await b.lock(EXCLUSIVE) == errno.EAGAIN
        one.contents.failure = None
        await two.until(lambda: not b.locks())
        assert await a.lock(SHARED) == 0

    run(tmp_path, test, 2)


def test_a_late_release_takes_nothing_that_was_locked_since(tmp_path: Path) -> None:
    """Closing one descriptor releases all; what the process then locks through another is its own."""

    async def test(one: Client) -> None:
        (a,) = await opened(one)
        other = await one.fs.open(one.fs.ino_of(a.handle), os.O_RDWR, ROOT)
        assert await a.lock(EXCLUSIVE) == 0
        await one.fs.flush(a.handle, a.owner)
        again = Process(one, other, a.owner)
        assert await again.lock(EXCLUSIVE, 3, 5) == 0
        await one.fs.release(a.handle, a.owner)
        assert again.locks() == [(3, 5)]

    run(tmp_path, test)


def test_a_release_takes_the_locks_of_the_open_file_itself(tmp_path: Path) -> None:
    """F_OFD_SETLK: the kernel sends no flush with that owner."""

    async def test(one: Client) -> None:
        (a,) = await opened(one)
        assert await a.lock(EXCLUSIVE, 3, 5, owner=4711) == 0
        await one.fs.flush(a.handle, a.owner)
        assert a.locks() == [(3, 5)]
        await one.fs.release(a.handle, a.owner)
        assert a.locks() == []

    run(tmp_path, test)


def test_flock_is_of_the_open_file(tmp_path: Path) -> None:
    async def test(one: Client, two: Client) -> None:
        a, b = await opened(one, two, flock=True)
        assert await a.lock(SHARED, 5, 7) == 0
        assert a.locks() == [(0, TO_THE_END)]
        await one.fs.flush(a.handle, a.owner)
        assert await b.lock(EXCLUSIVE) == errno.EAGAIN
        assert await b.lock(SHARED) == 0
        await one.fs.release(a.handle, a.owner, flock=True)
        assert await b.lock(EXCLUSIVE) == 0

    run(tmp_path, test, 2)


def test_a_flock_that_cannot_be_converted_is_lost(tmp_path: Path) -> None:
    async def test(one: Client, two: Client) -> None:
        a, b = await opened(one, two, flock=True)
        assert await a.lock(SHARED) == 0
        assert await b.lock(SHARED) == 0
        assert await a.lock(EXCLUSIVE) == errno.EAGAIN
        assert await b.lock(EXCLUSIVE) == 0

    run(tmp_path, test, 2)


def test_flock_and_fcntl_locks_of_one_owner_are_two_things(tmp_path: Path) -> None:
    async def test(one: Client, two: Client) -> None:
        a, b = await opened(one, two)
        assert await a.lock(EXCLUSIVE) == 0
        c = Process(two, b.handle, a.owner, flock=True)
        assert await c.lock(EXCLUSIVE) == 0
        assert len(c.locks()) == 2

    run(tmp_path, test, 2)


def test_getlk_names_the_first_lock_in_the_way(tmp_path: Path) -> None:
    async def test(one: Client, two: Client) -> None:
        a, b = await opened(one, two)
        assert await one.fs.test_lock(a.handle, a.owner, 0, TO_THE_END, EXCLUSIVE) is None
        assert await a.lock(SHARED, 50, 59) == 0
        assert await b.lock(SHARED, 10, 19) == 0
        assert await one.fs.test_lock(a.handle, a.owner, 0, 99, EXCLUSIVE) == Conflict(10, 19, False, 0)
        assert await one.fs.test_lock(a.handle, 5, 15, 99, EXCLUSIVE) == Conflict(10, 19, False, 0)
        assert await one.fs.test_lock(a.handle, 5, 20, 99, EXCLUSIVE) == Conflict(50, 59, False, 1000 + a.owner % 1000)
        assert await one.fs.test_lock(a.handle, a.owner, 0, 99, SHARED) is None

    run(tmp_path, test, 2)


def test_a_local_conflict_is_answered_without_the_bucket(tmp_path: Path) -> None:
    async def test(one: Client) -> None:
        (a,) = await opened(one)
        assert await a.lock(EXCLUSIVE) == 0
        looks, records = one.session.counters.looks, one.records
        for _ in range(100):
            assert await a.lock(SHARED, owner=5) == errno.EAGAIN
        assert await a.lock(UNLOCK, owner=5) == 0
        assert (one.session.counters.looks, one.records) == (looks, records)

    run(tmp_path, test)


def test_a_read_only_mount_gets_no_locks(tmp_path: Path) -> None:
    async def test(one: Client, two: Client) -> None:
        a = (await opened(one))[0]
        await two.session.fresh(0)
        handle = await two.fs.open(one.fs.ino_of(a.handle), os.O_RDONLY, ROOT)
        assert await Process(two, handle, 1).lock(SHARED) == errno.ENOLCK
        assert await a.lock(EXCLUSIVE) == 0
        found = await two.fs.test_lock(handle, 1, 0, 5, SHARED)
        assert found == Conflict(0, TO_THE_END, True, 0)

    run(tmp_path, test, 2, read_only=True)


def test_impossible_ranges(tmp_path: Path) -> None:
    async def test(one: Client) -> None:
        (a,) = await opened(one)
        assert await a.lock(SHARED, 5, 4) == errno.EINVAL
        assert await a.lock(SHARED, -1, 4) == errno.EINVAL
        assert await a.lock(UNLOCK, 0, 2**63) == errno.EINVAL

    run(tmp_path, test)


# -- silent holders ---------------------------------------------------------------------------------------------------


def session_row(client: Client, sid: int) -> SessionRow | None:
    with client.session.view() as txn:
        return Rows(txn).session(sid)


def test_a_holder_that_lives_answers_and_keeps_its_lock(tmp_path: Path) -> None:
    async def test(one: Client, two: Client) -> None:
        a, b = await opened(one, two)
        assert await a.lock(EXCLUSIVE) == 0
        with trio.move_on_after(120):
            await b.lock(EXCLUSIVE, wait=True)
            pytest.fail("granted")
        status = two.fs.lock_status()
        assert 2 <= status["challenges"] <= 8
        assert status["evictions"] == 0
        assert not one.session.fenced

    run(tmp_path, test, 2)


def test_a_silent_holder_is_evicted_and_its_lock_granted_in_order(tmp_path: Path) -> None:
    async def test(one: Client, two: Client, three: Client) -> None:
        a, b, c = await opened(one, two, three)
        assert await a.lock(EXCLUSIVE) == 0
        one.session.tail.look_every = lambda who, interval_s: None  # type: ignore[method-assign]
        one.session.tail._intervals_s.clear()
        one.session.base.state_listeners.clear()  # hears no challenge
        got: list[int] = []
        began_s = trio.current_time()

        async def wait(process: Process, number: int) -> None:
            assert await process.lock(EXCLUSIVE, wait=True) == 0
            got.append(number)
            await process.lock(UNLOCK)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait, b, 1)
            await trio.sleep(0.5)
            nursery.start_soon(wait, c, 2)
        assert got == [1, 2]
        assert trio.current_time() - began_s < 20
        assert session_row(two, one.session.sid) is None
        evictions = two.fs.lock_status()["evictions"] + three.fs.lock_status()["evictions"]
        assert evictions == 1
        await one.session.fresh(0)
        with pytest.raises(SessionFenced):
            await a.lock(SHARED)

    run(tmp_path, test, 3)
