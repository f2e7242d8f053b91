"""Leases between clients: what is acknowledged at once is seen by all, survives its daemon, or is kept and reported."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from s3vfs.errors import S3vfsError, SessionFenced
from s3vfs.namespace.ops import Removexattr, Setattr, SetattrMask, Setxattr
from s3vfs.namespace.rows import LeaseId, Rows
from s3vfs.objects.counting import Operation
from s3vfs.objects.faults import Failure, Fault, Rule
from s3vfs.session.options import LEASE_IDLE_S, SessionOptions
from s3vfs.session.session import Session
from tests.session.histories import run, scripted
from tests.session.volume import Client, Place, create, names, now_ns

BOTH = frozenset({Operation.GET, Operation.PUT})
ROOT = 1
LEASED = SessionOptions(leases=True)


class Killed(Exception):
    """What ends a session as SIGKILL would."""


async def leased(session: Session) -> None:
    """Get the lease of the root with a first name, as the filesystem does."""
    with session.view() as txn:
        wishes = session.wish(Rows(txn), [ROOT])
    assert wishes
    verdicts = await session.commit([*wishes, create(session, b"first")])
    assert [verdict.errno for verdict in verdicts] == [0] * len(verdicts)


class Closing:
    """What companions that send along the bytes of `closes` have in common."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.closes: dict[int, LeaseId] = {}

    def due(self) -> bool:
        return bool(self.closes)


def copy_part(tmp_path: Path) -> None:
    (part,) = tmp_path.rglob("queue/1")
    part.with_name("2").write_bytes(part.read_bytes())


def acknowledged(session: Session, name: bytes) -> bool:
    verdict = session.acknowledge(create(session, name))
    return verdict is not None and not verdict.errno


async def killed_after(client: Client, *acknowledged_names: bytes) -> None:
    """A daemon that dies with these names acknowledged and not committed."""
    with suppress(Killed):
        async with client.mount(LEASED) as one:
            await leased(one)
            for name in acknowledged_names:
                assert acknowledged(one, name)
            raise Killed


def test_an_op_under_a_lease_is_answered_at_once_and_committed_within_a_second(tmp_path: Path) -> None:
    async def main(place: Place) -> None:
        async with place.client(1).mount(LEASED) as one:
            assert not acknowledged(one, b"too early")  # R7
            await leased(one)
            before = one.applied_seq
            for number in range(50):
                assert acknowledged(one, b"%d" % number)
            assert one.applied_seq == before
            assert len(names(one)) == 51
            await trio.sleep(1)
            assert one.applied_seq == before + 1
            assert len(names(one)) == 51
            assert one.status()["acknowledged_ops"] == 0

    run(tmp_path, main)


def chmod(session: Session, name: bytes, mode: int) -> int:
    """Whether it was acknowledged, for a file whose unpublished bytes will carry the ctime; its inode."""
    with session.view() as txn:
        dentry = Rows(txn).dentry(ROOT, name)
    assert dentry is not None
    op = Setattr(dentry.ino, SetattrMask.MODE | SetattrMask.UID, mode, 5, 0, 0, 0, 0, now_ns())
    verdict = session.acknowledge(op, ctime_follows=True)
    assert verdict is not None
    assert not verdict.errno
    return dentry.ino


def owner_and_mode(session: Session, ino: int) -> tuple[int, int]:
    with session.view() as txn:
        inode = Rows(txn).inode(ino)
    assert inode is not None
    return inode.uid, inode.mode


def test_owner_and_mode_of_a_file_whose_create_has_not_left_become_part_of_it(tmp_path: Path) -> None:
    async def main(place: Place) -> None:
        async with place.client(1).mount(LEASED) as one:
            await leased(one)
            assert acknowledged(one, b"new")
            assert acknowledged(one, b"another")
            before = one.counters.ops_committed
            ino = chmod(one, b"new", 0o4750)
            assert owner_and_mode(one, ino) == (5, 0o104750)
            assert chmod(one, b"new", 0o600) == ino
            await one.barrier()
            assert owner_and_mode(one, ino) == (5, 0o100600)
            assert one.counters.ops_committed == before + 3  # with the barrier's own
            assert chmod(one, b"new", 0o640) == ino
            await one.barrier()
            assert owner_and_mode(one, ino) == (5, 0o100640)
            assert one.counters.ops_committed == before + 5
            assert one.counters.ops_rejected == 0

    run(tmp_path, main)


def test_a_create_that_says_more_than_it_did_survives_its_daemon(tmp_path: Path) -> None:
    async def main(place: Place) -> None:
        client = place.client(1)
        with suppress(Killed):
            async with client.mount(LEASED) as one:
                await leased(one)
                assert acknowledged(one, b"new")
                ino = chmod(one, b"new", 0o600)
                raise Killed
        async with client.mount(LEASED) as one:
            await one.barrier()
            assert names(one) == [b"first", b"new"]
            assert owner_and_mode(one, ino) == (5, 0o100600)

    run(tmp_path, main)


def test_who_reads_a_leased_directory_sees_everything_that_was_acknowledged(tmp_path: Path) -> None:
    async def main(place: Place) -> None:
        async with place.client(1).mount(LEASED) as one, place.client(2).mount(LEASED) as two:
            await leased(one)
            assert acknowledged(one, b"second")
            await two.fresh(0)
            began_s = trio.current_time()
            await two.reach(ROOT)
            assert names(two) == [b"first", b"second"]
            assert trio.current_time() - began_s < 1.5
            assert not acknowledged(one, b"third")
            with one.view() as txn:
                assert not one.wish(Rows(txn), [ROOT])  # the other one wants it, too

    run(tmp_path, main)


def test_what_a_lease_covers_nobody_else_changes(tmp_path: Path) -> None:
    async def main(place: Place) -> None:
        async with place.client(1).mount(LEASED) as one, place.client(2).mount(LEASED) as two:
            await leased(one)
            await two.fresh(0)
            (verdict,) = await two.commit([create(two, b"intruder")])
            assert verdict.errno
            await two.clear(ROOT)
            (verdict,) = await two.commit([create(two, b"guest")])
            assert not verdict.errno

    run(tmp_path, main)


def test_a_lease_that_nobody_uses_is_given_back(tmp_path: Path) -> None:
    async def main(place: Place) -> None:
        async with place.client(1).mount(LEASED) as one:
            await leased(one)
            assert one.status()["leases"] == 1
            await trio.sleep(LEASE_IDLE_S + 2)
            assert one.status()["leases"] == 0

    run(tmp_path, main)


def test_nothing_is_acknowledged_while_the_bucket_is_silent_for_five_seconds(tmp_path: Path) -> None:
    async def main(place: Place) -> None:
        client, script = scripted(place, 1)
        async with client.mount(LEASED) as one:
            await leased(one)
            script.add(Rule(Fault(Failure.BEFORE), BOTH, "", times=None))
            for _ in range(8):  # used all the time, so it is not given back
                await trio.sleep(1)
                acknowledged(one, b"at %d" % int(trio.current_time() * 1000))
            assert not acknowledged(one, b"too late")  # R8
            script.clear()

    run(tmp_path, main)


def test_a_holder_under_a_challenge_acknowledges_nothing(tmp_path: Path) -> None:
    """It sees the tail, but cannot answer: whoever doubts that it is alive may end it at any moment (R8)."""

    async def main(place: Place) -> None:
        client, script = scripted(place, 1)
        with suppress(SessionFenced):
            async with (
                client.mount(LEASED) as one,
                place.client(2).mount(LEASED) as two,
                trio.open_nursery() as nursery,
            ):
                await leased(one)
                script.add(Rule(Fault(Failure.BEFORE), frozenset({Operation.PUT}), "", times=None))
                assert acknowledged(one, b"second")
                nursery.start_soon(partial(two.evict, one.sid, wait_s=0))
                await trio.sleep(8)
                assert not one.fenced
                assert one.tail.seen_within(1)
                assert not acknowledged(one, b"third")
                await trio.sleep(4)
                assert one.fenced

    run(tmp_path, main)


def test_a_holder_that_does_not_answer_loses_its_lease_and_its_work_is_kept_and_reported(tmp_path: Path) -> None:
    async def main(place: Place) -> None:
        client, script = scripted(place, 1)
        async with client.mount(LEASED) as one, place.client(2).mount(LEASED) as two:
            await leased(one)
            script.add(Rule(Fault(Failure.BEFORE), BOTH, "", times=None))
            assert acknowledged(one, b"lost")
            await two.fresh(0)
            began_s = trio.current_time()
            await two.reach(ROOT)
            assert 10 <= trio.current_time() - began_s < 20
            assert names(two) == [b"first"]
            (verdict,) = await two.commit([create(two, b"lost")])
            assert not verdict.errno
            script.clear()
            await trio.sleep(10)
            await one.fresh(0)
            assert one.base.replica.position == two.base.replica.position
            assert names(one) == [b"first", b"lost"]
            assert one.spill is not None
            (kept,) = one.spill.list()
            assert any("b'lost'" in change for change in kept.changes)
            with pytest.raises(S3vfsError, match="acknowledged changes were lost"):
                await one.barrier(ROOT)

    run(tmp_path, main)


def test_a_session_does_not_end_while_a_loss_is_being_written_down(tmp_path: Path) -> None:
    """It would never be: the queue's log of it goes, too."""

    async def main(place: Place) -> None:
        client, script = scripted(place, 1)
        began = trio.Event()

        async def slowly(function: Callable[..., Any], *arguments: Any) -> Any:
            if isinstance(function, partial) and function.func.__name__ == "keep_changes":
                began.set()
                await trio.sleep(1)
            return function(*arguments)

        client.run = slowly
        async with place.client(2).mount(LEASED) as two:
            async with client.mount(LEASED) as one:
                await leased(one)
                script.add(Rule(Fault(Failure.BEFORE), BOTH, "", times=None))
                assert acknowledged(one, b"lost")
                await two.fresh(0)
                await two.reach(ROOT)  # the lease was revoked
                script.clear()
                with trio.fail_after(20):
                    await began.wait()
            assert one.spill is not None
            (kept,) = one.spill.list()
            assert any("b'lost'" in change for change in kept.changes)

    run(tmp_path, main)


def test_what_a_living_daemon_has_lost_is_remembered_when_it_is_killed(tmp_path: Path) -> None:
    """The bytes of such a file may not be spilled yet."""

    async def main(place: Place) -> None:
        client, script = scripted(place, 1)
        ino = 0
        with suppress(Killed):
            async with client.mount(LEASED) as one, place.client(2).mount(LEASED) as two:
                await leased(one)
                script.add(Rule(Fault(Failure.BEFORE), BOTH, "", times=None))
                assert acknowledged(one, b"lost")
                with one.view() as txn:
                    ino = dict(Rows(txn).entries(ROOT))[b"lost"].ino
                await two.fresh(0)
                await two.reach(ROOT)
                script.clear()
                await trio.sleep(10)
                assert one.lost(ino) is not None
                raise Killed
        async with client.mount(LEASED) as one:
            assert one.lost(ino) is not None

    run(tmp_path, main)


def test_a_killed_daemon_loses_nothing(tmp_path: Path) -> None:
    async def main(place: Place) -> None:
        client = place.client(1)
        await killed_after(client, *(b"%d" % number for number in range(10)))
        async with client.mount(LEASED) as one:
            assert one.resumed
            assert len(names(one)) == 11
            await one.barrier(ROOT)
            async with place.client(2).mount(LEASED) as two:
                await two.reach(ROOT)
                assert len(names(two)) == 11

    run(tmp_path, main)


def test_a_copy_gives_leases_back_when_the_original_cannot_rely_on_them_any_more(tmp_path: Path) -> None:
    """A cloned disk is mounted while the machine that it was copied from goes on, and does not hear of it (R8)."""

    async def main(place: Place) -> None:
        client, script = scripted(place, 1)
        with suppress(SessionFenced):
            async with client.mount(LEASED) as one:
                await leased(one)
                shutil.copytree(client.cache, tmp_path / "copy")
                copy = replace(place.client(1), cache=tmp_path / "copy", replica=client.replica.copy())
                script.add(Rule(Fault(Failure.BEFORE), BOTH, "", times=None))
                async with copy.mount(LEASED) as two:
                    assert two.sid == one.sid
                    count = 0
                    while acknowledged(one, b"%d" % count):
                        await two.fresh(0)
                        with two.base.read() as txn:
                            assert list(Rows(txn).leases(one.sid))
                        await trio.sleep(0.25)
                        count += 1
                    assert count > 10
                    await trio.sleep(3)
                    assert not two.status()["leases"]
                script.clear()

    run(tmp_path / "cache", main)


def test_a_copy_that_ends_early_waits_as_long(tmp_path: Path) -> None:
    async def main(place: Place) -> None:
        client, script = scripted(place, 1)
        with suppress(SessionFenced):
            async with client.mount(LEASED) as one:
                await leased(one)
                shutil.copytree(client.cache, tmp_path / "copy")
                copy = replace(place.client(1), cache=tmp_path / "copy", replica=client.replica.copy())
                script.add(Rule(Fault(Failure.BEFORE), BOTH, "", times=None))
                async with copy.mount(LEASED):
                    pass
                assert not acknowledged(one, b"late")
                script.clear()

    run(tmp_path / "cache", main)


def test_what_a_killed_daemon_had_acknowledged_is_kept_where_others_took_the_lease_since(tmp_path: Path) -> None:
    async def main(place: Place) -> None:
        client = place.client(1)
        await killed_after(client, b"lost")
        async with place.client(2).mount(LEASED) as two:
            await two.reach(ROOT)
            (verdict,) = await two.commit([create(two, b"lost")])
            assert not verdict.errno
        async with client.mount(LEASED) as one:
            assert one.spill is not None
            assert len(one.spill.list()) == 1
            assert names(one) == [b"first", b"lost"]

    run(tmp_path, main)


def test_a_number_whose_file_was_lost_is_given_to_no_other(tmp_path: Path) -> None:
    async def main(place: Place) -> None:
        client = place.client(1)
        await killed_after(client, b"lost")
        async with place.client(2).mount(LEASED) as two:
            await two.reach(ROOT)
        async with client.mount(LEASED) as one:
            made = create(one, b"new")
            assert one.lost(made.ino) is None
            assert one.lost(made.ino - 1) is not None

    run(tmp_path, main)


def test_what_was_lost_is_remembered_until_the_data_room_has_seen_to_it(tmp_path: Path) -> None:
    """Also by a daemon after one that was killed before that."""

    class Nobody:
        def due(self) -> bool:
            return False

        async def gather(self) -> Collection[LeaseId]:
            return ()

    async def main(place: Place) -> None:
        client = place.client(1)
        inos = []
        with suppress(Killed):
            async with client.mount(LEASED) as one:
                await leased(one)
                made = create(one, b"lost")
                assert one.acknowledge(made) is not None
                with one.view() as txn:
                    first = Rows(txn).dentry(ROOT, b"first")
                assert first is not None
                assert one.close_of(first.ino) is not None
                inos += [made.ino, first.ino]
                raise Killed
        async with place.client(2).mount(LEASED) as two:
            await two.reach(ROOT)
        for seen in (False, False, True):
            with suppress(Killed):
                async with client.mount(LEASED) as one:
                    assert one.lost(inos[0]) is not None
                    assert create(one, b"another").ino > inos[0]
                    lease, ours = one.closed_under(inos[1])
                    assert lease is not None
                    assert not ours
                    if seen:
                        one.accompany(Nobody())
                    raise Killed
        async with client.mount(LEASED) as one:
            assert one.lost(inos[0]) is None
            assert one.closed_under(inos[1]) == (None, False)

    run(tmp_path, main)


def test_a_restart_that_is_killed_half_way_does_nothing_twice(tmp_path: Path) -> None:
    """The log has been copied, and the old part is still there."""

    async def main(place: Place) -> None:
        client = place.client(1)
        await killed_after(client, b"second")
        copy_part(tmp_path)
        async with client.mount(LEASED) as one:
            await one.barrier(ROOT)  # nothing was lost
            assert names(one) == [b"first", b"second"]
            assert one.spill is not None
            assert not one.spill.list()

    run(tmp_path, main)


def test_what_a_revoked_lease_has_cost_is_known_as_soon_as_it_is_not_seen_any_more(tmp_path: Path) -> None:
    """Its bytes would else be taken for those of a removed file."""

    async def main(place: Place) -> None:
        client, script = scripted(place, 1)
        async with client.mount(LEASED) as one, place.client(2).mount(LEASED) as two:
            await leased(one)
            script.add(Rule(Fault(Failure.BEFORE), BOTH, "", times=None))
            made = create(one, b"lost")
            assert one.acknowledge(made) is not None
            await two.fresh(0)
            await two.reach(ROOT)
            script.clear()
            script.add(Rule(Fault(Failure.BEFORE), frozenset({Operation.PUT}), "", times=None))
            await trio.sleep(6)
            assert names(one) == [b"first"]
            assert one.lost(made.ino) is not None
            script.clear()

    run(tmp_path, main)


def test_the_bytes_of_a_close_are_in_the_record_of_the_names_before_it(tmp_path: Path) -> None:
    """As the data room sends them: a SETATTR stands for the file's ops."""

    class Company(Closing):
        async def gather(self) -> Collection[LeaseId]:
            closes, self.closes = self.closes, {}
            await trio.sleep(0.5)  # the upload; names are acknowledged meanwhile
            for ino, lease in closes.items():
                op = Setattr(ino, SetattrMask.SIZE | SetattrMask.MTIME, 0, 0, 0, 7, 0, now_ns(), now_ns())
                self.session.send_along([op], [lease])
            return ()

    async def main(place: Place) -> None:
        async with place.client(1).mount(LEASED) as one, place.client(2).mount(LEASED) as two:
            company = Company(one)
            one.accompany(company)
            await leased(one)
            made = create(one, b"file")
            assert one.acknowledge(made) is not None
            lease = one.close_of(made.ino)
            assert lease is not None
            company.closes[made.ino] = lease
            await trio.sleep(0.4)
            assert acknowledged(one, b"after the close")
            for _ in range(20):
                await trio.sleep(0.1)
                await two.fresh(0)
                with two.view() as txn:
                    rows = Rows(txn)
                    inode = rows.inode(made.ino)
                    assert inode is None or inode.size == 7
                    assert inode is not None or b"after the close" not in names(two)
            await two.reach(ROOT)
            assert names(two) == [b"after the close", b"file", b"first"]

    run(tmp_path, main)


def test_an_attribute_that_bytes_on_their_way_take_away_is_not_lost_when_it_is_removed(tmp_path: Path) -> None:
    """As capabilities go with a write: another REMOVEXATTR stands for the file's ops."""

    class Company(Closing):
        async def gather(self) -> Collection[LeaseId]:
            closes, self.closes = self.closes, {}
            for ino, lease in closes.items():
                self.session.send_along([Removexattr(ino, b"user.x", now_ns())], [lease])
                verdict = self.session.acknowledge(Removexattr(ino, b"user.x", now_ns()))
                assert verdict is not None
                assert not verdict.errno
            return ()

    async def main(place: Place) -> None:
        async with place.client(1).mount(LEASED) as one:
            company = Company(one)
            one.accompany(company)
            await leased(one)
            made = create(one, b"file")
            assert one.acknowledge(made) is not None
            assert one.acknowledge(Setxattr(made.ino, b"user.x", b"y", 0, now_ns())) is not None
            await one.barrier(made.ino)
            lease = one.close_of(made.ino)
            assert lease is not None
            company.closes[made.ino] = lease
            await trio.sleep(2)
            with one.view() as txn:
                assert Rows(txn).xattr(made.ino, b"user.x") is None
            await one.barrier(made.ino)
            assert one.spill is not None
            assert one.spill.list() == []

    run(tmp_path, main)


def test_leases_can_be_left_alone(tmp_path: Path) -> None:
    async def main(place: Place) -> None:
        async with place.client(1).mount() as one:
            with one.view() as txn:
                assert one.wish(Rows(txn), [ROOT]) == []

    run(tmp_path, main)
