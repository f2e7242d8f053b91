"""Who answers on the strength of leases by itself: told at once of all that does not hold any more, heard whatever has
become of its leases, and taken up after a kill."""

from __future__ import annotations

import struct
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio

from s3vfs.errors import S3vfsError
from s3vfs.namespace.ops import AnyOp, Link, Rename, Rmdir, Setattr, SetattrMask, Unlink
from s3vfs.namespace.rows import LeaseId, Rows
from s3vfs.objects.counting import Operation
from s3vfs.objects.faults import Failure, Fault, Rule
from s3vfs.session import front_log
from s3vfs.session.front_log import HEADER_BYTES, answered
from s3vfs.session.options import LEASE_IDLE_S
from s3vfs.session.session import Session
from tests.session.histories import run, scripted
from tests.session.test_leases import LEASED, ROOT, Killed, leased
from tests.session.volume import Place, create, names, now_ns


class Reliant:
    """Notes what it is told; `numbers` it has taken ahead."""

    def __init__(self, session: Session) -> None:
        self.told: list[tuple[object, ...]] = []
        self.granted_then: dict[LeaseId, bool] = {}
        self.numbers: list[int] = []
        self.log_fd: int = session.rely(self, lambda: self.numbers.pop(0) if self.numbers else 0)
        self.session = session

    def named(self, directory: int, name: bytes) -> None:
        self.told.append(("named", directory, name))

    def estrange(self, ino: int) -> None:
        self.told.append(("estrange", ino))

    def lease_over(self, lease: LeaseId) -> None:
        self.told.append(("over", lease))
        with self.session.base.read() as txn:
            self.granted_then.setdefault(lease, Rows(txn).grant(lease) is not None)

    def distrust(self) -> None:
        self.told.append(("distrust",))

    def lease(self) -> LeaseId:
        lease = self.session.lease_of(ROOT)
        assert lease is not None
        return lease

    def write_down(self, lease: LeaseId, ino: int, name: bytes = b"", *, kind: int = 1, mask: int = 0) -> None:
        """One more answer; the first byte of the next stays 0."""
        padded = name.ljust(-(-len(name) // 8) * 8, b"\0")
        length, fields = 8 + 72 + len(padded), (ROOT, now_ns(), 5, 6, lease[1], mask, 0o100640, 7, 8, len(name))
        at = HEADER_BYTES
        data = memoryview(Path(f"/proc/self/fd/{self.log_fd}").read_bytes())
        while size := struct.unpack_from("<I", data, at)[0]:
            at += size
        with open(f"/proc/self/fd/{self.log_fd}", "r+b") as file:
            file.seek(at)
            file.write(struct.pack("<IIQQQqqqIIIIII", length, kind, lease[0], ino, *fields) + padded)


@asynccontextmanager
async def relied_on(place: Place) -> AsyncIterator[tuple[Session, Reliant]]:
    """A client that somebody relies on, with the lease of the root."""
    async with place.client(1).mount(LEASED) as one:
        reliant = Reliant(one)
        await leased(one)
        yield one, reliant


def _forgotten_in_time(session: Session) -> bool:
    return session.relied_on_until_ns() <= session.environment.boottime_ns()


def test_it_may_rely_on_a_lease_for_five_seconds_after_a_look(tmp_path: Path) -> None:
    async def main(place: Place) -> None:
        client, script = scripted(place, 1)
        async with client.mount(LEASED) as one:
            Reliant(one)
            assert one.relied_on_until_ns() == 0
            assert one.lease_of(ROOT) is None
            await leased(one)
            assert one.lease_of(ROOT) is not None
            await one.fresh(0)
            left_s = (one.relied_on_until_ns() - one.environment.boottime_ns()) / 1e9
            assert 4 < left_s <= 5
            script.add(Rule(Fault(Failure.BEFORE), frozenset({Operation.GET}), "", times=None))
            await trio.sleep(left_s + 0.01)
            assert _forgotten_in_time(one)  # R8
            script.clear()

    run(tmp_path, main)


def test_it_hears_of_a_recall_before_the_lease_is_gone(tmp_path: Path) -> None:
    async def main(place: Place) -> None:
        async with place.client(1).mount(LEASED) as one, place.client(2).mount(LEASED) as two:
            reliant = Reliant(one)
            await leased(one)
            lease = reliant.lease()
            await two.fresh(0)
            await two.reach(ROOT)
            await one.fresh(0)
            assert ("over", lease) in reliant.told
            assert reliant.granted_then[lease]
            with one.base.read() as txn:
                assert Rows(txn).grant(lease) is None
            assert one.lease_of(ROOT) is None

    run(tmp_path, main)


def test_it_trusts_nothing_under_a_challenge_and_after_the_end(tmp_path: Path) -> None:
    async def main(place: Place) -> None:
        client, script = scripted(place, 1)
        with suppress(S3vfsError):
            async with client.mount(LEASED) as one, place.client(2).mount(LEASED) as two:
                reliant = Reliant(one)
                await leased(one)
                script.add(Rule(Fault(Failure.BEFORE), frozenset({Operation.PUT}), "", times=None))
                reliant.told.clear()
                await two.fresh(0)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(two.evict, one.sid)
                    await trio.sleep(5)
                    assert not one.fenced
                    assert ("distrust",) in reliant.told
                    assert one.relied_on_until_ns() == 0
                    reliant.told.clear()
                await one.fresh(0)
                assert one.fenced
                assert ("distrust",) in reliant.told

    run(tmp_path, main)


def test_it_hears_of_every_other_op_before_that_is_taken(tmp_path: Path) -> None:
    async def main(place: Place) -> None:
        async with relied_on(place) as (one, reliant):

            def told_of(op: AnyOp) -> set[tuple[object, ...]]:
                reliant.told.clear()
                verdict = one.acknowledge(op)
                assert verdict is not None
                assert not verdict.errno
                return set(reliant.told)

            file, directory = create(one, b"file"), create(one, b"directory", mode=0o40755)
            assert told_of(file) == {("named", ROOT, b"file"), ("estrange", file.ino)}
            assert told_of(directory) == {("named", ROOT, b"directory"), ("estrange", directory.ino)}
            link = Link(file.ino, ROOT, b"link", now_ns())
            assert told_of(link) == {("named", ROOT, b"link"), ("estrange", file.ino)}
            rename = Rename(ROOT, b"link", file.ino, ROOT, b"new", 0, 0, 0, False, now_ns())
            assert told_of(rename) == {("named", ROOT, b"link"), ("named", ROOT, b"new"), ("estrange", file.ino)}
            unlink = Unlink(ROOT, b"new", file.ino, 0, False, now_ns())
            assert told_of(unlink) == {("named", ROOT, b""), ("estrange", file.ino)}
            rmdir = Rmdir(ROOT, b"directory", directory.ino, 0, now_ns())
            assert told_of(rmdir) == {("named", ROOT, b""), ("estrange", directory.ino)}
            chmod = Setattr(ROOT, SetattrMask.MODE, 0o700, 0, 0, 0, 0, 0, now_ns())
            assert told_of(chmod) == {("estrange", ROOT)}

    run(tmp_path, main)


def test_it_hears_of_what_waits_for_its_record_and_makes_nothing_there(tmp_path: Path) -> None:
    async def main(place: Place) -> None:
        async with relied_on(place) as (one, reliant):
            reliant.told.clear()
            waiting = one.enqueue([create(one, b"waits")])
            assert ("estrange", ROOT) in reliant.told
            assert one.lease_of(ROOT) is None
            await one.wait(waiting)
            assert one.lease_of(ROOT) is not None

    run(tmp_path, main)


def test_numbers_that_it_has_taken_are_used_in_order(tmp_path: Path) -> None:
    async def main(place: Place) -> None:
        async with relied_on(place) as (one, reliant):
            taken = [one.take_new_ino() for _ in range(3)]
            assert None not in taken
            reliant.numbers = [ino for ino in taken if ino is not None]
            assert [one.take_ino() for _ in range(3)] == taken
            after = one.take_ino()
            assert after is not None
            assert after > max(ino for ino in taken if ino is not None)

    run(tmp_path, main)


def test_what_it_has_answered_is_committed(tmp_path: Path) -> None:
    async def main(place: Place) -> None:
        async with relied_on(place) as (one, reliant):
            lease = reliant.lease()
            made = create(one, b"made")
            one.answered(made, lease)
            one.answered(Setattr(made.ino, SetattrMask.MODE, 0o600, 0, 0, 0, 0, 0, now_ns()), lease)
            assert names(one) == [b"first", b"made"]
            await one.barrier(made.ino)
            with one.base.read() as txn:
                inode = Rows(txn).inode(made.ino)
            assert inode is not None
            assert inode.mode == 0o100600

    run(tmp_path, main)


def test_what_it_does_keeps_the_lease(tmp_path: Path) -> None:
    async def main(place: Place) -> None:
        async with relied_on(place) as (one, reliant):
            lease = reliant.lease()
            for number in range(8):
                await trio.sleep(LEASE_IDLE_S / 2)
                one.answered(create(one, b"%d" % number), lease)
            assert ("over", lease) not in reliant.told
            await trio.sleep(2 * LEASE_IDLE_S)
            assert ("over", lease) in reliant.told

    run(tmp_path, main)


def test_what_it_has_answered_under_a_lease_that_is_gone_is_kept_and_reported(tmp_path: Path) -> None:
    async def main(place: Place) -> None:
        async with place.client(1).mount(LEASED) as one, place.client(2).mount(LEASED) as two:
            reliant = Reliant(one)
            await leased(one)
            lease = reliant.lease()
            await two.fresh(0)
            await two.reach(ROOT)
            await one.fresh(0)
            made = create(one, b"late")
            one.answered(made, lease)
            assert names(one) == [b"first"]
            with pytest.raises(S3vfsError, match="acknowledged changes were lost"):
                await one.barrier(made.ino)
            await trio.sleep(1)
            assert one.spill is not None
            (kept,) = one.spill.list()
            assert any("b'late'" in change for change in kept.changes)

    run(tmp_path, main)


def test_what_a_killed_daemon_had_not_heard_of_is_taken_up(tmp_path: Path) -> None:
    async def main(place: Place) -> None:
        client = place.client(1)
        with suppress(Killed):
            async with client.mount(LEASED) as one:
                reliant = Reliant(one)
                await leased(one)
                lease = reliant.lease()
                heard, unheard = create(one, b"heard"), create(one, b"not heard of")
                reliant.write_down(lease, heard.ino, b"heard")
                one.answered(heard, lease)
                reliant.write_down(lease, unheard.ino, b"not heard of")
                reliant.write_down(lease, unheard.ino, kind=2, mask=SetattrMask.GID | SetattrMask.MTIME)
                reliant.write_down(lease, unheard.ino, kind=4)
                raise Killed
        async with client.mount(LEASED) as one:
            assert names(one) == [b"first", b"heard", b"not heard of"]
            with one.view() as txn:
                inode = Rows(txn).inode(unheard.ino)
            assert inode is not None
            assert (inode.mode, inode.uid, inode.gid, inode.mtime_ns) == (0o100640, 7, 8, 6)
            assert one.closed_under(unheard.ino) == (lease, True)
            assert create(one, b"new").ino > unheard.ino
            await one.barrier(unheard.ino)
        async with place.client(2).mount(LEASED) as two:
            await two.reach(ROOT)
            assert names(two) == [b"first", b"heard", b"not heard of"]

    run(tmp_path, main)
    assert list(tmp_path.rglob("queue/front")) == []


def test_what_nobody_had_heard_of_is_kept_where_others_took_the_lease_since(tmp_path: Path) -> None:
    async def main(place: Place) -> None:
        client = place.client(1)
        with suppress(Killed):
            async with client.mount(LEASED) as one:
                reliant = Reliant(one)
                await leased(one)
                lost = create(one, b"lost")
                reliant.write_down(reliant.lease(), lost.ino, b"lost")
                raise Killed
        async with place.client(2).mount(LEASED) as two:
            await two.reach(ROOT)
        async with client.mount(LEASED) as one:
            assert names(one) == [b"first"]
            assert one.lost(lost.ino) is not None
            assert create(one, b"new").ino > lost.ino
            await trio.sleep(1)
            assert one.spill is not None
            (kept,) = one.spill.list()
            assert any("b'lost'" in change for change in kept.changes)

    run(tmp_path, main)


def test_another_boots_answers_are_not_believed(tmp_path: Path) -> None:
    log_fd = front_log.create(tmp_path, 5, 1, "boot")
    with open(f"/proc/self/fd/{log_fd}", "r+b") as file:
        file.seek(HEADER_BYTES)
        file.write(struct.pack("<IIQQQqqqIIIIII", 80, 4, 7, 9, 1, time.time_ns(), 0, 0, 1, 0, 0, 0, 0, 0))
    assert [answer.ino for answer in answered(tmp_path, "boot")[1]] == [9]
    assert answered(tmp_path, "another") == (0, [])
    (tmp_path / "front").write_bytes(b"short")
    assert answered(tmp_path, "boot") == (0, [])
