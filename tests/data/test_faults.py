"""What becomes of bytes when the bucket, the journal or the session misbehaves (R2, R9, R10, R13)."""

from __future__ import annotations

import errno
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TypeVar, TypeVarTuple

import pytest
import trio
import trio.testing

from s3vfs.data.protocol import Sizes, data_key
from s3vfs.errors import Damaged, PosixError, S3vfsError, SessionFenced, StoreDenied, StoreUnreachable
from s3vfs.namespace.ops import Config
from s3vfs.objects.counting import Operation
from s3vfs.objects.faults import Failure, Fault, Rule
from s3vfs.objects.runner import InlineRunner
from tests.data.double import Volume
from tests.data.mount import QUICK, Mount, in_use, mounted, until

_Args = TypeVarTuple("_Args")
_Result = TypeVar("_Result")
PUTS = frozenset({Operation.BULK_PUT})
GETS = frozenset({Operation.BULK_GET})
AWAY = Rule(Fault(Failure.BEFORE), times=None)


def run(main: Callable[[], Awaitable[None]]) -> None:
    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


async def written(mount: Mount, data: bytes) -> int:
    ino = mount.volume.make_file()
    mount.contents.opened(ino, True)
    await mount.contents.write(ino, 0, data)
    return ino


@pytest.mark.parametrize("failure", [Failure.BEFORE, Failure.LOST_ANSWER, Failure.THROTTLED])
def test_an_upload_without_a_clear_answer_is_repeated_until_there_is_one(tmp_path: Path, failure: Failure) -> None:
    async def main() -> None:
        async with mounted(Volume(), tmp_path) as mount:
            mount.script.add(Rule(Fault(failure), PUTS, times=3))
            ino = await written(mount, b"x" * 150)
            await mount.contents.publish(ino)
            assert mount.contents.failure(ino) is None
            assert await mount.whole(ino) == b"x" * 150
            for declared in mount.volume.declared():
                body = mount.volume.bucket.peek(data_key(declared.object))
                assert body is not None
                assert len(body) == declared.size

    run(main)


def test_a_key_that_holds_other_bytes_is_no_lost_answer(tmp_path: Path) -> None:
    async def main() -> None:
        async with mounted(Volume(), tmp_path) as mount:
            ino = await written(mount, b"x" * 10)
            next_id = mount.client.new_object()
            mount.client._objects -= 1
            mount.volume.bucket.open().bulk.put_new(data_key(next_id), [b"y" * 10])
            await mount.contents.publish(ino)
            assert next_id not in [declared.object for declared in mount.volume.declared()]
            assert mount.volume.bucket.peek(data_key(next_id)) == b"y" * 10
        async with mounted(mount.volume, tmp_path / "other") as other:
            assert await other.whole(ino) == b"x" * 10

    run(main)


def test_a_failed_publish_is_raised_again_until_the_bytes_are_there(tmp_path: Path) -> None:
    async def main() -> None:
        async with mounted(Volume(), tmp_path) as mount:
            mount.script.add(Rule(Fault(Failure.DENIED), PUTS, times=None))
            ino = await written(mount, b"x" * 10)
            for _ in range(3):
                with pytest.raises(StoreDenied):
                    await mount.contents.publish(ino)
            (failure,) = mount.contents.status()["failures"]
            assert failure["ino"] == ino
            assert failure["path"].startswith("/file")
            assert await mount.whole(ino) == b"x" * 10
            mount.script.clear()
            await mount.contents.publish(ino)
            assert mount.contents.status()["failures"] == []
            assert mount.volume.inode(ino).size == 10

    run(main)


def test_after_an_outage_everything_is_published_without_being_asked(tmp_path: Path) -> None:
    async def main() -> None:
        async with mounted(Volume(), tmp_path) as mount:
            mount.script.add(AWAY)
            inos = [await written(mount, bytes([n]) * 100) for n in range(5)]
            with pytest.raises(StoreUnreachable):
                await mount.contents.publish(inos[0])
            await trio.sleep(300)
            mount.script.clear()
            await trio.sleep(90)
            assert [mount.volume.inode(ino).size for ino in inos] == [100] * 5
            assert mount.contents.status()["failures"] == []

    run(main)


def test_old_dirty_bytes_are_committed_without_being_asked(tmp_path: Path) -> None:
    async def main() -> None:
        async with mounted(Volume(), tmp_path) as mount:
            ino = await written(mount, b"x" * 10)
            await trio.sleep(QUICK.dirty_age_s - 1)
            assert mount.volume.inode(ino).size == 0
            await trio.sleep(2)
            assert mount.volume.inode(ino).size == 10

    run(main)


def test_a_fsync_during_an_outage_does_not_wait_once_for_each_waiter(tmp_path: Path) -> None:
    async def main() -> None:
        async with mounted(Volume(), tmp_path) as mount:
            mount.script.add(AWAY)
            ino = await written(mount, b"x")
            raised = 0

            async def sync() -> None:
                nonlocal raised
                with pytest.raises(StoreUnreachable):
                    await mount.contents.publish(ino)
                raised += 1

            began = trio.current_time()
            async with trio.open_nursery() as nursery:
                for _ in range(8):
                    nursery.start_soon(sync)
            assert raised == 8
            assert trio.current_time() - began <= 2 * QUICK.io_timeout_s

    run(main)


def test_writers_wait_when_the_room_is_used_up_and_go_on_when_it_is_not(tmp_path: Path) -> None:
    async def main() -> None:
        limits = replace(QUICK, unpublished_bytes=1000)
        async with mounted(Volume(), tmp_path, limits=limits) as mount:
            mount.script.add(AWAY)
            ino = mount.volume.make_file()
            mount.contents.opened(ino, True)
            done = 0

            async def writer() -> None:
                nonlocal done
                for n in range(40):
                    await mount.contents.write(ino, 100 * n, b"w" * 100)
                    done += 1

            async with trio.open_nursery() as nursery:
                nursery.start_soon(writer)
                await trio.sleep(500)
                assert done == 10
                assert mount.contents.status()["waiting_writers"] == 1
                mount.script.clear()
            assert done == 40
            assert await mount.whole(ino) == b"w" * 4000

    run(main)


def test_bytes_over_the_quota_stay_and_are_reported_until_there_is_room(tmp_path: Path) -> None:
    async def main() -> None:
        async with mounted(Volume(), tmp_path) as mount:
            mount.volume.apply([Config(None, 50, None)], None)
            ino = await written(mount, b"q" * 100)
            for _ in range(2):
                with pytest.raises(PosixError, match="quota"):
                    await mount.contents.publish(ino)
            assert await mount.whole(ino) == b"q" * 100
            mount.volume.apply([Config(None, 5000, None)], None)
            await trio.sleep(60)
            assert mount.volume.inode(ino).size == 100
            assert mount.contents.failure(ino) is None

    run(main)


def test_one_file_that_fails_does_not_hold_up_those_in_its_pack(tmp_path: Path) -> None:
    async def main() -> None:
        async with mounted(Volume(), tmp_path) as mount:
            gone = await written(mount, b"g" * 10)
            good = await written(mount, b"k" * 10)
            mount.volume.rows.delete(b"I" + gone.to_bytes(8, "big"))
            failed: list[S3vfsError] = []

            async def publish(ino: int) -> None:
                try:
                    await mount.contents.publish(ino)
                except S3vfsError as error:
                    failed.append(error)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(publish, gone)
                nursery.start_soon(publish, good)
            assert not failed
            assert mount.volume.inode(good).size == 10

    run(main)


def test_a_fenced_session_spills_and_its_handles_give_eio(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)

    async def main() -> None:
        volume = Volume()
        async with mounted(volume, tmp_path) as mount:
            first, second = await written(mount, b"1" * 100), await written(mount, b"2" * 30)
            mount.client.refuse = SessionFenced("evicted")
            with pytest.raises(SessionFenced):
                await mount.contents.publish(first)
            for ino in (first, second):
                with pytest.raises(SessionFenced):
                    await mount.contents.write(ino, 0, b"more")
                with pytest.raises(SessionFenced):
                    await mount.contents.read(ino, 0, 10)
                with pytest.raises(SessionFenced):
                    await mount.contents.publish(ino)
            assert {failure["lost"] for failure in mount.contents.status()["failures"]} == {True}
        kept = sorted(path.read_bytes() for path in (tmp_path / "spill").glob("*/bytes"))
        assert kept == [b"1" * 100, b"2" * 30]
        async with mounted(volume, tmp_path) as mount:
            await trio.sleep(60)
            assert not volume.writes()

    run(main)


def test_bytes_of_a_session_that_was_ended_are_spilled_without_being_asked_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)

    async def main() -> None:
        async with mounted(Volume(), tmp_path) as mount:
            ino = await written(mount, b"kept")
            mount.client.refuse = SessionFenced("evicted")
            with pytest.raises(SessionFenced):
                await mount.contents.write(ino, 0, b"late")
            await until(lambda: list((tmp_path / "spill").glob("*/about.json")), deadline_s=QUICK.dirty_age_s / 2)
            (kept,) = (tmp_path / "spill").glob("*/bytes")
            assert kept.read_bytes() == b"kept"
            for call in (mount.contents.publish(ino), mount.whole(ino)):
                with pytest.raises(SessionFenced):
                    await call

    run(main)


def test_after_a_restart_of_the_machine_unpublished_bytes_are_spilled(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)

    async def main() -> None:
        volume = Volume()
        async with mounted(volume, tmp_path) as mount:
            ino = await written(mount, b"before the power cut")
        async with mounted(volume, tmp_path, boot_id="another") as mount:
            await mount.contents.publish_all()
            assert volume.inode(ino).size == 0
            assert not in_use(tmp_path)
        (kept,) = (tmp_path / "spill").glob("*/bytes")
        assert kept.read_bytes() == b"before the power cut"

    run(main)


def test_writes_during_a_publish_are_neither_lost_nor_taken_for_published(tmp_path: Path) -> None:
    async def main() -> None:
        async with mounted(Volume(), tmp_path) as mount:
            ino = await written(mount, b"a" * 300)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(mount.contents.publish, ino)
                for n in range(12):
                    await trio.lowlevel.checkpoint()
                    await mount.contents.write(ino, 25 * n, b"b" * 5)
                    assert (await mount.whole(ino))[25 * n : 25 * n + 5] == b"b" * 5
            expected = await mount.whole(ino)
            await mount.contents.publish(ino)
            assert await mount.whole(ino) == expected
        async with mounted(mount.volume, tmp_path / "other") as other:
            assert await other.whole(ino) == expected

    run(main)


def test_the_bytes_of_an_unlinked_open_file_stay_local_and_go_with_its_last_close(tmp_path: Path) -> None:
    async def main() -> None:
        async with mounted(Volume(), tmp_path) as mount:
            ino = await written(mount, b"temporary" * 20)
            await trio.testing.wait_all_tasks_blocked()
            early = mount.puts()
            mount.volume.unlink(ino)
            await mount.contents.publish(ino)
            await trio.sleep(30)
            await mount.contents.write(ino, 0, b"temporary" * 20)
            await trio.sleep(30)
            assert mount.puts() == early
            assert not mount.volume.writes()
            assert await mount.whole(ino) == b"temporary" * 20
            assert await mount.contents.append(ino, b"more") == 180
            mount.contents.closed(ino, True)
            await trio.testing.wait_all_tasks_blocked()
            assert not in_use(tmp_path)
            assert mount.contents.status()["unpublished_files"] == 0

    run(main)


def test_a_missing_object_makes_the_reader_look_at_the_tail_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)

    async def main() -> None:
        volume = Volume()
        async with mounted(volume, tmp_path) as mount:
            ino = await written(mount, b"o" * 20)
            await mount.contents.publish(ino)
        async with mounted(volume, tmp_path / "other") as other:
            (declared,) = volume.declared()
            volume.bucket.open().bulk.delete(data_key(declared.object))
            with pytest.raises(Damaged):
                await other.whole(ino)
            assert other.client.looks == 1

            async def write_again() -> None:
                async with mounted(volume, tmp_path / "third") as third:
                    await third.contents.write(ino, 0, b"n" * 20)
                    await third.contents.publish(ino)

            await write_again()
            assert await other.whole(ino) == b"n" * 20

    run(main)


def test_appends_of_two_mounts_never_overlap(tmp_path: Path) -> None:
    async def main() -> None:
        volume = Volume()
        ino = volume.make_file()
        async with mounted(volume, tmp_path / "a") as a, mounted(volume, tmp_path / "b") as b:

            async def add(mount: Mount, letter: bytes) -> None:
                for _ in range(20):
                    await mount.contents.append(ino, letter * 7)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(add, a, b"a")
                nursery.start_soon(add, b, b"b")
            whole = await a.whole(ino)
            assert await b.whole(ino) == whole
        parts = [whole[at : at + 7] for at in range(0, len(whole), 7)]
        assert sorted(parts) == [b"a" * 7] * 20 + [b"b" * 7] * 20

    run(main)


class SlowDisk:
    """A runner that lets calls of one function wait until `gate` is set."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.gate = trio.Event()
        self._run = InlineRunner()

    async def __call__(self, fn: Callable[[*_Args], _Result], *args: *_Args) -> _Result:
        if getattr(fn, "func", fn).__name__ == self.name:
            await self.gate.wait()
        return await self._run(fn, *args)


@pytest.mark.parametrize(("slow", "large"), [("store", True), ("keep", True), ("keep", False)])
def test_a_write_that_meets_the_end_of_the_session_fails_or_is_spilled(tmp_path: Path, slow: str, large: bool) -> None:
    """R10, R13: never acknowledged and nowhere."""
    length = 300_000 if large else 10
    disk = SlowDisk(slow)

    async def main() -> None:
        acknowledged = False

        async def write_late() -> None:
            nonlocal acknowledged
            with suppress(SessionFenced):
                await mount.contents.write(ino, 100, b"b" * length)
                acknowledged = True

        async def publish() -> None:
            with pytest.raises(SessionFenced):
                await mount.contents.publish(ino)

        async with mounted(Volume(), tmp_path, sizes=Sizes(), run=disk) as mount:
            ino = await written(mount, b"a" * 10)
            mount.client.refuse = SessionFenced("evicted")
            async with trio.open_nursery() as nursery:
                for call in (write_late, publish) if slow == "store" else (publish, write_late):
                    nursery.start_soon(call)
                    await trio.testing.wait_all_tasks_blocked()
                disk.gate.set()
            await until(lambda: list((tmp_path / "spill").glob("*/about.json")))
            spilled = [path.read_bytes() for path in (tmp_path / "spill").glob("*/bytes")]
            assert spilled[0][:10] == b"a" * 10
            assert not acknowledged or any(data[100:] == b"b" * length for data in spilled)

    run(main)


def test_leases_that_come_back_again_and_again_are_waited_out(tmp_path: Path) -> None:
    """As long as the bucket may be silent: then it is EIO, and no number that only the journal knows."""

    async def main() -> None:
        volume = Volume()
        ino = volume.make_file()
        async with mounted(volume, tmp_path) as mount:
            mount.contents.opened(ino, True)
            await mount.contents.write(ino, 0, b"waits")
            mount.client.covered = 20
            await mount.contents.publish(ino)
            assert volume.inode(ino).size == 5
        async with mounted(volume, tmp_path / "other", limits=replace(QUICK, io_timeout_s=0.05)) as mount:
            mount.contents.opened(ino, True)
            await mount.contents.write(ino, 0, b"longer")
            mount.client.covered = 1_000_000
            with pytest.raises(StoreUnreachable) as refused:
                await mount.contents.publish(ino)
            assert refused.value.errno == errno.EIO
            mount.client.covered = 0
            mount.contents.acknowledge(ino)
            await mount.contents.publish(ino)
            assert await mount.whole(ino) == b"longer"

    trio.run(main)
