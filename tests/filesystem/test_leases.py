"""Closes and appends that are acknowledged under a lease: whole clients on one bucket, down to their working files."""

from __future__ import annotations

import errno
import gc
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest
import trio

from s3vfs.data.cache import Cache
from s3vfs.data.contents import Contents
from s3vfs.data.protocol import Limits, Sizes
from s3vfs.errors import PosixError, S3vfsError, StoreUnreachable
from s3vfs.filesystem import Filesystem
from s3vfs.filesystem.contracts import Caller, NewAttributes
from s3vfs.namespace.ops import Config
from s3vfs.namespace.rows import ROOT_INO, Rows
from s3vfs.objects.counting import Operation
from s3vfs.objects.faults import Failure, Fault, Rule
from s3vfs.session.options import SessionOptions
from s3vfs.session.session import Session
from s3vfs.session.spill import Spill
from tests.data.double import Kernel
from tests.session.histories import run, scripted
from tests.session.volume import Client, Place

LEASED = SessionOptions(leases=True)
LIMITS = Limits(reserve_bytes=0, io_timeout_s=3, inline_bytes=1 << 10)
SIZES = Sizes(object_bytes=512 << 10)
ROOT = Caller()
BULK = frozenset({Operation.BULK_PUT})
ALL = frozenset(Operation)


@dataclass(frozen=True, slots=True)
class Mount:
    session: Session
    contents: Contents
    fs: Filesystem

    async def create(self, name: bytes, *, flags: int = os.O_RDWR) -> tuple[int, int]:
        """(inode, handle)"""
        handle, found = await self.fs.create(ROOT_INO, name, 0o644, flags, ROOT)
        return found.ino, handle

    async def create_leased(self, name: bytes, *, flags: int = os.O_RDWR) -> tuple[int, int]:
        """As `create`, under the lease that another name has brought."""
        await self.create(b"first")
        return await self.create(name, flags=flags)

    async def close(self, handle: int) -> None:
        await self.fs.flush(handle)
        await self.fs.release(handle)

    async def read(self, name: bytes) -> bytes:
        await self.session.fresh(0)
        found = await self.fs.lookup(ROOT_INO, name)
        handle = await self.fs.open(found.ino, os.O_RDONLY, ROOT)
        try:
            return bytes(await self.fs.read(handle, 0, 1 << 20))
        finally:
            await self.fs.release(handle)


@asynccontextmanager
async def mounted(
    client: Client, limits: Limits = LIMITS, options: SessionOptions = LEASED, *, loses: bool = False
) -> AsyncIterator[Mount]:
    """`loses`: what is acknowledged does not get into the bucket, and the end says so, too."""
    async with client.mount(options) as session:
        assert session.spill is not None
        folder = client.cache / f"data-{client.seed % 1000}"
        cache = Cache(folder / "blocks", SIZES.sector_bytes, 1 << 20, 0, session.environment.boottime_ns)
        spill = Spill(folder / "spill")
        contents = Contents(session, folder / "working", cache, sizes=SIZES, limits=limits, spill=spill)
        async with trio.open_nursery() as nursery:
            await nursery.start(contents.run)
            yield Mount(session, contents, Filesystem(session, contents))
            if loses:
                with pytest.raises(S3vfsError):
                    await contents.publish_all()
            else:
                await contents.publish_all()
            nursery.cancel_scope.cancel()


async def append(mount: Mount, handle: int, data: bytes) -> bool:
    """Whether it was answered before any record."""
    before = mount.session.applied_seq
    assert await mount.fs.write(handle, 0, data) == len(data)
    return mount.session.applied_seq == before


def test_files_leave_nothing_to_the_collector(tmp_path: Path) -> None:
    """What is made, written, closed and published holds nothing that holds it: the collector would walk all of it, and
    everybody waits for that."""

    async def main(place: Place) -> None:
        async with mounted(place.client(1)) as mount:

            async def make(names: range) -> None:
                for number in names:
                    _, handle = await mount.create(b"%d" % number)
                    await mount.fs.write(handle, 0, b"data")
                    await mount.close(handle)
                await mount.contents.publish_all()

            await make(range(10))  # under a lease from here on
            gc.collect()
            gc.disable()
            try:
                for start in range(10, 110, 20):
                    await make(range(start, start + 20))
                assert gc.collect() < 100
            finally:
                gc.enable()

    run(tmp_path, main)


def test_attributes_stay_the_same_while_the_record_arrives(tmp_path: Path) -> None:
    """Base has the op that publishes a file's bytes before the task that has sent it hears of that."""

    async def main(place: Place) -> None:
        async with mounted(place.client(1)) as mount:
            ino, handle = await mount.create(b"first")
            await mount.fs.write(handle, 0, b"old" * 5000)
            await mount.close(handle)
            await mount.contents.publish_all()
            handle = await mount.fs.open(ino, os.O_RDWR | os.O_TRUNC, ROOT)
            await mount.fs.write(handle, 0, b"new" * 2000)
            await mount.close(handle)
            files = [ino]
            for number in range(5):
                ino, handle = await mount.create(b"%d" % number)
                await mount.fs.write(handle, 0, b"data" * 2000)
                if number % 2:
                    await mount.fs.setattr(ino, NewAttributes(atime_ns=5, mtime_ns=6), ROOT)
                await mount.close(handle)
                files.append(ino)

            def shown() -> list[tuple[int, ...]]:
                found = [mount.fs.peek(ino) for ino in files]
                inodes = [each.inode for each in found if each is not None]
                return [(i.size, i.allocated, i.atime_ns, i.mtime_ns, i.ctime_ns) for i in inodes]

            before = shown()
            seen = []

            def look(changes: object, own: bool) -> None:
                seen.append(shown())

            mount.session.listen(look)
            await mount.contents.publish_all()
            assert seen
            assert seen == [before] * len(seen)
            assert shown() == before

    run(tmp_path, main)


@pytest.mark.parametrize("length", [10, 100_000])
def test_an_append_under_a_lease_is_answered_at_once(tmp_path: Path, length: int) -> None:
    async def main(place: Place) -> None:
        async with mounted(place.client(1)) as one, mounted(place.client(2)) as two:
            _, handle = await one.create_leased(b"log", flags=os.O_RDWR | os.O_APPEND)
            lines = [b"%d" % number * length for number in range(3)]
            for line in lines:
                assert await append(one, handle, line)
            assert await two.read(b"log") == b"".join(lines)  # the handle is still open
            await one.close(handle)

    run(tmp_path, main)


def test_appends_go_on_at_once_while_those_before_are_on_their_way(tmp_path: Path) -> None:
    async def main(place: Place) -> None:
        async with mounted(place.client(1)) as one:
            _, handle = await one.create_leased(b"log", flags=os.O_RDWR | os.O_APPEND)
            began_s = trio.current_time()
            for _ in range(400):
                await one.fs.write(handle, 0, b"line\n")
                await trio.sleep(0.01)
            assert trio.current_time() - began_s < 4.1
            assert await one.read(b"log") == b"line\n" * 400
            await one.fs.fsync(handle)
            await one.close(handle)

    run(tmp_path, main)


def test_appends_of_two_clients_never_overlap(tmp_path: Path) -> None:
    async def main(place: Place) -> None:
        async with mounted(place.client(1)) as one, mounted(place.client(2)) as two:
            ino, handle = await one.create(b"log", flags=os.O_RDWR | os.O_APPEND)
            await two.session.fresh(0)
            other = await two.fs.open(ino, os.O_RDWR | os.O_APPEND, ROOT)

            async def some(mount: Mount, handle: int, name: bytes) -> None:
                for number in range(30):
                    await mount.fs.write(handle, 0, b"%s%02d\n" % (name, number))
                    await trio.sleep(0.03)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(some, one, handle, b"a")
                nursery.start_soon(some, two, other, b"b")
            lines = (await two.read(b"log")).split()
            assert [line for line in lines if line[:1] == b"a"] == [b"a%02d" % number for number in range(30)]
            assert [line for line in lines if line[:1] == b"b"] == [b"b%02d" % number for number in range(30)]
            assert len(lines) == 60
            await one.close(handle)
            await two.close(other)

    run(tmp_path, main)


def test_a_lease_is_not_given_back_before_the_bytes_of_every_close_are_there(tmp_path: Path) -> None:
    """The upload fails for a while. Whoever wants to read waits for it."""

    async def main(place: Place) -> None:
        client, script = scripted(place, 1)
        async with mounted(client) as one, mounted(place.client(2)) as two:
            ino, handle = await one.create_leased(b"file")
            await one.fs.write(handle, 0, b"closed")
            script.add(Rule(Fault(Failure.BEFORE), BULK, "", times=None))
            await one.close(handle)
            assert ino
            await trio.sleep(2)

            async def mend() -> None:
                await trio.sleep(4)
                script.clear()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(mend)
                assert await two.read(b"file") == b"closed"
            handle = await one.fs.open(ino, os.O_RDWR, ROOT)
            await one.fs.fsync(handle)  # no failure is left
            await one.close(handle)

    run(tmp_path, main)


def test_a_lease_is_not_given_back_before_the_last_record_of_a_close_that_takes_several(tmp_path: Path) -> None:
    """More is written after the close than one record takes, while somebody else asks for the lease."""

    async def main(place: Place) -> None:
        async with mounted(place.client(1)) as one, mounted(place.client(2)) as two:
            _, handle = await one.create_leased(b"file")
            await one.fs.fsync(handle)
            seen: list[bytes] = []

            async def look() -> None:
                seen.append(await two.read(b"file"))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(look)
                await trio.sleep(0.1)  # the RECALL is there, and has not been heard
                assert not one.session.status()["leases_recalled"]
                await one.fs.write(handle, 10, b"closed")
                assert one.fs.flush_at_once(handle)
                await one.fs.write(handle, 16, b"x" * 600_000)
                await one.session.fresh(0)
                assert one.session.status()["leases_recalled"]
            assert seen == [b"\0" * 10 + b"closed" + b"x" * 600_000]
            await one.fs.fsync(handle)
            await one.close(handle)

    run(tmp_path, main)


def test_a_second_close_waits_for_the_records_of_the_first(tmp_path: Path) -> None:
    """The first takes two: more pieces were written after it than one record has. The second is answered meanwhile, and
    its batch does not wait for what waits for that batch."""

    async def main(place: Place) -> None:
        client, script = scripted(place, 1)
        async with mounted(client) as one:
            _, handle = await one.create_leased(b"file")
            await one.fs.fsync(handle)
            await one.fs.write(handle, 0, b"closed")
            assert one.fs.flush_at_once(handle)
            for number in range(5000):
                await one.fs.write(handle, 10 + 2 * number, b"x")
            script.add(Rule(Fault(delay_before_s=1), frozenset({Operation.PUT}), "journal/", times=2))
            await trio.sleep(0.5)  # the first record is on its way
            await one.fs.write(handle, 0, b"second")
            assert one.fs.flush_at_once(handle)
            with trio.fail_after(30):
                await one.fs.fsync(handle)
            await one.close(handle)
            assert await one.read(b"file") == b"second" + b"\0" * 4 + b"x\0" * 4999 + b"x"

    run(tmp_path, main)


def test_a_close_that_is_refused_for_want_of_quota_does_not_come_over_what_others_write_then(tmp_path: Path) -> None:
    """It was acknowledged under a lease, which is gone by the time that there is room."""

    async def main(place: Place) -> None:
        async with mounted(place.client(1), loses=True) as one, mounted(place.client(2)) as two:
            ino, handle = await one.create_leased(b"file")
            await one.fs.write(handle, 0, b"old")
            await one.fs.fsync(handle)
            await one.fs.write(handle, 0, b"longer")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(two.session.commit, [Config(None, 3, None)])
                assert one.fs.flush_at_once(handle)
            await two.session.reach(ROOT_INO, ino)
            other = await two.fs.open(ino, os.O_RDWR, ROOT)
            await two.fs.write(other, 0, b"new")
            await two.close(other)
            await two.session.commit([Config(None, 1 << 40, None)])
            await trio.sleep(15)
            assert await two.read(b"file") == b"new"
            kept = Spill(place.client(1).cache / "data-1" / "spill").list()
            assert [(one.ino, one.ranges) for one in kept] == [(ino, ((0, 6),))]
            with pytest.raises(PosixError, match="quota"):
                await one.fs.fsync(handle)
            with pytest.raises(PosixError, match="quota"):
                await one.close(handle)

    run(tmp_path, main)


@pytest.mark.parametrize("uid", [0, 1000])
def test_a_small_file_that_a_kernel_writes_is_closed_at_once(tmp_path: Path, uid: int) -> None:
    """What it has written until then is found; what was stored to a mapping after the close, with the release."""
    caller = Caller(uid, uid)

    async def main(place: Place) -> None:
        async with mounted(place.client(1)) as one, mounted(place.client(2)) as two:
            one.contents.use(Kernel())
            await one.create(b"first")
            handle, found = await one.fs.create(ROOT_INO, b"file", 0o644, os.O_RDWR, caller)
            assert await one.fs.lend(handle, created=True)
            path = one.contents._files[found.ino].working.path
            with os.fdopen(os.open(path, os.O_RDWR), "r+b") as kernel:
                kernel.write(b"written")
                kernel.flush()
                before = one.session.applied_seq
                assert one.fs.flush_at_once(handle)
                kernel.write(b" and stored")
            assert one.fs.release_at_once(handle)
            assert one.session.applied_seq == before
            assert await two.read(b"file") == b"written and stored"

    run(tmp_path, main)


@pytest.mark.parametrize("length", [10, 100_000])
def test_an_append_to_a_file_that_a_kernel_uses_is_there_once(tmp_path: Path, length: int) -> None:
    async def main(place: Place) -> None:
        async with mounted(place.client(1)) as one, mounted(place.client(2)) as two:
            one.contents.use(Kernel())
            ino, handle = await one.create_leased(b"log")
            assert await one.fs.lend(handle, created=True)
            appending = await one.fs.open(ino, os.O_RDWR | os.O_APPEND, ROOT)
            assert await one.fs.lend(appending, created=False)
            for line in (b"1" * length, b"2" * length):
                assert await append(one, appending, line)
            assert await two.read(b"log") == b"1" * length + b"2" * length
            await one.close(appending)
            await one.close(handle)

    run(tmp_path, main)


def test_fsync_says_why_an_acknowledged_close_is_not_in_the_bucket(tmp_path: Path) -> None:
    async def main(place: Place) -> None:
        client, script = scripted(place, 1)
        async with mounted(client) as one:
            _, handle = await one.create_leased(b"file")
            await one.fs.write(handle, 0, b"closed")
            script.add(Rule(Fault(Failure.BEFORE), BULK, "", times=None))
            await one.fs.flush(handle)
            with trio.fail_after(30), pytest.raises(StoreUnreachable):
                await one.fs.fsync(handle)
            script.clear()
            await trio.sleep(5)
            await one.fs.fsync(handle)
            await one.close(handle)

    run(tmp_path, main)


def test_a_file_whose_close_is_due_is_not_closed_under_a_lease_that_may_be_gone(tmp_path: Path) -> None:
    """R8 holds for the second close, too."""

    async def main(place: Place) -> None:
        client, script = scripted(place, 1)
        patient = replace(LIMITS, io_timeout_s=60)
        async with mounted(client, patient, loses=True) as one, mounted(place.client(2)) as two:
            ino, handle = await one.create_leased(b"file")
            script.add(Rule(Fault(Failure.BEFORE), ALL, "", times=None))
            for _ in range(4):  # batches that cannot leave
                await one.fs.write(handle, 0, b"1")
                await one.fs.flush(handle)
                await trio.sleep(0.3)
            await one.fs.write(handle, 0, b"2")
            await one.fs.flush(handle)
            await two.session.reach(ROOT_INO)
            assert two.fs.peek(ino) is None  # the lease was revoked
            await one.fs.write(handle, 0, b"3")

            async def mend() -> None:
                await trio.sleep(4)
                script.clear()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(mend)
                with pytest.raises(S3vfsError) as caught:
                    await one.fs.flush(handle)
            assert caught.value.errno == errno.EIO

    run(tmp_path, main)


def test_what_is_written_while_a_close_is_in_doubt_needs_no_lease(tmp_path: Path) -> None:
    """The record with the close takes longer than anybody waits, and the lease is given back right behind it."""

    async def main(place: Place) -> None:
        client, script = scripted(place, 1)
        async with (
            mounted(client, options=replace(LEASED, io_timeout_s=3)) as one,
            mounted(place.client(2)) as two,
        ):
            _, handle = await one.create_leased(b"file")
            await one.fs.fsync(handle)
            await one.fs.write(handle, 0, b"closed")
            script.add(Rule(Fault(Failure.BEFORE), frozenset({Operation.PUT}), "journal/", times=None))
            assert one.fs.flush_at_once(handle)
            await trio.sleep(1)
            await one.fs.write(handle, 6, b", and more")
            await trio.sleep(4)
            script.clear()
            await trio.sleep(15)
            assert await two.read(b"file") == b"closed, and more"
            await one.fs.fsync(handle)
            await one.close(handle)
            assert not Spill(client.cache / "data-1" / "spill").list()

    run(tmp_path, main)


def test_a_loss_takes_the_place_of_a_failure_that_might_have_passed(tmp_path: Path) -> None:
    """R10: fsync says what became of it, and the handle takes no more, since nothing of that would be published."""

    async def main(place: Place) -> None:
        client, script = scripted(place, 1)
        async with mounted(client, loses=True) as one, mounted(place.client(2)) as two:
            ino, handle = await one.create_leased(b"file")
            await one.fs.fsync(handle)
            await one.fs.write(handle, 0, b"closed")
            script.add(Rule(Fault(Failure.BEFORE), ALL, "", times=None))
            assert one.fs.flush_at_once(handle)
            with pytest.raises(StoreUnreachable):
                await one.fs.fsync(handle)
            await two.session.reach(ROOT_INO)  # the lease was revoked
            script.clear()
            await trio.sleep(10)
            kept = Spill(client.cache / "data-1" / "spill").list()
            assert [(one.ino, one.ranges) for one in kept] == [(ino, ((0, 6),))]
            for call in (
                partial(one.fs.fsync, handle),
                partial(one.fs.write, handle, 0, b"more"),
                partial(one.fs.write, handle, 0, b"much more" * 1000),
                partial(one.contents.truncate, ino, 3),
                partial(one.contents.extend, ino, 300),
                partial(one.contents.punch, ino, 0, 3),
                partial(one.close, handle),
            ):
                with pytest.raises(S3vfsError, match="acknowledged changes were lost") as caught:
                    await call()
                assert caught.value.errno == errno.EIO

    run(tmp_path, main)


def test_the_bytes_of_a_file_whose_making_was_lost_are_kept(tmp_path: Path) -> None:
    """Its publish is under way when the lease is revoked: the file is then not taken for a removed one."""

    async def main(place: Place) -> None:
        client, script = scripted(place, 1)
        patient = replace(LIMITS, io_timeout_s=60)
        async with mounted(client, patient, loses=True) as one, mounted(place.client(2)) as two:
            ino, handle = await one.create_leased(b"file")
            await one.fs.write(handle, 0, b"precious")
            script.add(Rule(Fault(Failure.BEFORE), ALL - BULK, "", times=None))
            outcome: list[int] = []

            async def sync() -> None:
                try:
                    await one.fs.fsync(handle)
                except S3vfsError as error:
                    outcome.append(error.errno)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(sync)
                await trio.sleep(1)
                await two.session.fresh(0)
                await two.session.reach(ROOT_INO)
                assert two.fs.peek(ino) is None  # the lease was revoked
                script.clear()
            assert outcome == [errno.EIO]
            kept = Spill(client.cache / "data-1" / "spill").list()
            assert [(one.ino, one.ranges) for one in kept] == [(ino, ((0, 8),))]

    run(tmp_path, main)


def test_whoever_writes_to_a_file_that_lost_bytes_is_told_when_he_closes_it(tmp_path: Path) -> None:
    """Nobody had it open any more when they were lost (R10); the close has nothing else to wait for."""

    async def main(place: Place) -> None:
        client, script = scripted(place, 1)
        async with mounted(client, replace(LIMITS, io_timeout_s=60)) as one, mounted(place.client(2)) as two:
            ino, handle = await one.create(b"file")
            await one.fs.write(handle, 0, b"kept")
            await one.fs.fsync(handle)
            await one.close(handle)
            handle = await one.fs.open(ino, os.O_RDWR, ROOT)
            await one.fs.write(handle, 0, b"lost")
            script.add(Rule(Fault(Failure.BEFORE), ALL - BULK, "", times=None))
            await one.close(handle)
            await two.session.fresh(0)
            await two.session.reach(ROOT_INO, ino)  # the lease was revoked
            script.clear()
            with trio.fail_after(60):
                while one.contents.failure(ino) is None:
                    await one.session.fresh(0)
                    await trio.sleep(1)
            handle = await one.fs.open(ino, os.O_RDWR, ROOT)
            assert bytes(await one.fs.read(handle, 0, 100)) == b"kept"
            assert not one.fs.flush_at_once(handle)
            with pytest.raises(S3vfsError) as caught:
                await one.fs.flush(handle)
            assert caught.value.errno == errno.EIO
            assert one.fs.flush_at_once(handle)
            assert one.fs.release_at_once(handle)

    run(tmp_path, main)


@pytest.mark.parametrize("flags", [os.O_RDWR, os.O_RDWR | os.O_APPEND])
def test_a_file_that_is_edited_again_and_again_comes_under_a_lease(tmp_path: Path, flags: int) -> None:
    async def main(place: Place) -> None:
        async with mounted(place.client(1)) as one:
            ino, handle = await one.create(b"file")
            await one.close(handle)
        async with mounted(place.client(2)) as two:
            await trio.sleep(5)  # nobody has been there lately
            ahead = []
            for _ in range(3):
                before = two.session.applied_seq
                handle = await two.fs.open(ino, flags, ROOT)
                await two.fs.write(handle, 0, b"edited")
                await two.close(handle)
                ahead.append(two.session.applied_seq == before)
            assert ahead == [False, True, True]

    run(tmp_path, main)


def test_one_recall_does_for_all_directories_beside_each_other(tmp_path: Path) -> None:
    """As `find` meets them; the holder is at work in one of them."""

    async def main(place: Place) -> None:
        async with mounted(place.client(1)) as one, mounted(place.client(2)) as two:
            made = [await two.fs.mkdir(ROOT_INO, b"%d" % number, 0o755, ROOT) for number in range(40)]
            await trio.sleep(5)  # nobody has been there lately
            for number, found in enumerate(made):
                handle, _ = await one.fs.create(found.ino, b"%d" % number, 0o644, os.O_RDWR, ROOT)
                await one.close(handle)
            await trio.sleep(0.6)
            busy, _ = await one.fs.create(made[7].ino, b"busy", 0o644, os.O_RDWR, ROOT)
            assert one.session.status()["leases"] > 3
            await two.session.fresh(0)
            before, began_s = two.session.applied_seq, trio.current_time()
            for number, found in enumerate(made):
                await two.session.fresh(0)
                assert (await two.fs.lookup(found.ino, b"%d" % number)).ino
            assert two.session.applied_seq - before <= 6
            assert trio.current_time() - began_s < 3
            await one.close(busy)

    run(tmp_path, main)


async def _tree(mount: Mount, groups: int, each: int) -> dict[int, list[int]]:
    """Directories of directories with two files each, made by this mount: inode of a group -> inodes below."""
    made: dict[int, list[int]] = {}
    for group in range(groups):
        above = await mount.fs.mkdir(ROOT_INO, b"group%02d" % group, 0o755, ROOT)
        made[above.ino] = []
        for number in range(each):
            here = await mount.fs.mkdir(above.ino, b"d%02d" % number, 0o755, ROOT)
            made[above.ino].append(here.ino)
            for name in (b"a", b"b"):
                handle, _ = await mount.fs.create(here.ino, name, 0o644, os.O_RDWR, ROOT)
                await mount.close(handle)
    return made


async def _silence(*mounts: Mount) -> None:
    """Nobody has been anywhere lately, as far as these have heard."""
    for pause_s in (1, 5):
        await trio.sleep(pause_s)
        for mount in mounts:
            await mount.session.fresh(0)


def test_who_removes_a_tree_of_others_waits_for_a_few_records(tmp_path: Path) -> None:
    """110 directories, as rm -r goes through them: one lease at a time would be as many records."""

    async def main(place: Place) -> None:
        async with mounted(place.client(1)) as one, mounted(place.client(2)) as two:
            made = await _tree(one, 10, 10)
            await _silence(one, two)
            waited = 0
            before = two.session.applied_seq
            for group, (above, below) in enumerate(made.items()):
                for number, here in enumerate(below):
                    for parent, name in ((here, b"a"), (here, b"b")):
                        at = two.session.applied_seq
                        await two.fs.unlink(parent, name, ROOT)
                        waited += two.session.applied_seq != at
                    at = two.session.applied_seq
                    await two.fs.rmdir(above, b"d%02d" % number, ROOT)
                    waited += two.session.applied_seq != at
                await two.fs.rmdir(ROOT_INO, b"group%02d" % group, ROOT)
            assert waited <= 6
            assert two.session.applied_seq - before <= 10
            await one.session.fresh(0)
            with pytest.raises(S3vfsError) as gone:
                await one.fs.lookup(ROOT_INO, b"group09")
            assert gone.value.errno == errno.ENOENT

    run(tmp_path, main)


def test_one_change_in_each_of_two_distant_places_leases_nothing_else(tmp_path: Path) -> None:
    async def main(place: Place) -> None:
        async with mounted(place.client(1)) as one, mounted(place.client(2)) as two:
            made = await _tree(one, 4, 4)
            deep = [await one.fs.mkdir(below[0], b"deep", 0o755, ROOT) for below in made.values()]
            deeper = [await one.fs.mkdir(found.ino, b"deeper", 0o755, ROOT) for found in deep]
            await _silence(one, two)
            for found in (deeper[0], deeper[2], deeper[1], deeper[3]):
                handle, _ = await two.fs.create(found.ino, b"new", 0o644, os.O_RDWR, ROOT)
                await two.close(handle)
            assert two.session.status()["leases"] == 4
            with two.session.view() as txn:
                assert sorted(ino for ino, _ in Rows(txn).covers()) == sorted(found.ino for found in deeper)

    run(tmp_path, main)


def test_a_walk_leaves_alone_what_others_are_at_work_in(tmp_path: Path) -> None:
    """The guess is one GRANT, all or nothing: what others hold, or have changed lately, must not be in it."""

    async def main(place: Place) -> None:
        async with mounted(place.client(1)) as one, mounted(place.client(2)) as two:
            made = await _tree(one, 1, 12)
            (below,) = made.values()
            await _silence(one, two)
            handle, _ = await one.fs.create(below[7], b"busy", 0o644, os.O_RDWR, ROOT)
            await one.close(handle)
            await two.session.fresh(0)
            for here in below[:3]:
                await two.fs.unlink(here, b"a", ROOT)
            with two.session.view() as txn:
                covers = dict(Rows(txn).covers())
                ours = set(Rows(txn).leases(two.session.sid))
            mine = {ino for ino, row in covers.items() if (row.seq, row.index) in ours}
            assert below[7] in covers
            assert below[7] not in mine
            assert {below[6], below[8]} <= mine

    run(tmp_path, main)


def test_a_batch_that_is_closed_after_the_data_room_has_ended_takes_nothing_along(tmp_path: Path) -> None:
    async def main(place: Place) -> None:
        async with mounted(place.client(1)) as one:
            _, handle = await one.create_leased(b"log", flags=os.O_RDWR | os.O_APPEND)
            await append(one, handle, b"line")
            await one.fs.fsync(handle)
            await one.create(b"last")
            file = one.contents._files[one.fs.ino_of(handle)]
            assert one.contents._upkeep.deferral.acknowledge(file)  # due, and there is nothing to publish

    run(tmp_path, main)
