"""Reading, writing and publishing through Contents, against what POSIX says and against a model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar, TypeVarTuple

import pytest
import trio
import trio.testing

from s3vfs.namespace.ops import Setattr, SetattrMask, Write
from tests.data.double import Volume
from tests.data.mount import QUICK, mounted

_Args = TypeVarTuple("_Args")
_Result = TypeVar("_Result")


def test_what_was_written_is_read_before_and_after_it_is_published(tmp_path: Path) -> None:
    async def main() -> None:
        volume = Volume()
        ino = volume.make_file()
        async with mounted(volume, tmp_path) as mount:
            contents = mount.contents
            contents.opened(ino, True)
            data = bytes(range(200))
            assert await contents.write(ino, 0, data) == 200
            assert await mount.whole(ino) == data
            assert volume.inode(ino).size == 0
            await contents.publish(ino)
            assert volume.inode(ino).size == 200
            assert await mount.whole(ino) == data
            contents.closed(ino, True)
            assert await mount.whole(ino) == data
        async with mounted(volume, tmp_path / "other") as other:
            assert await other.whole(ino) == data

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_a_truncate_leaves_before_the_bytes_that_were_written_after_it(tmp_path: Path) -> None:
    async def main() -> None:
        volume = Volume()
        ino = volume.make_file()
        async with mounted(volume, tmp_path) as mount:
            contents = mount.contents
            contents.opened(ino, True)
            await contents.write(ino, 0, b"a" * 100)
            await contents.publish(ino)
            await contents.truncate(ino, 10)
            await contents.write(ino, 20, b"b" * 5)
            assert await mount.whole(ino) == b"a" * 10 + bytes(10) + b"b" * 5
            await contents.publish(ino)
            kinds = [type(op) for op in volume.records[-1]]
            assert kinds.index(Setattr) < kinds.index(Write)
            assert await mount.whole(ino) == b"a" * 10 + bytes(10) + b"b" * 5
        async with mounted(volume, tmp_path / "other") as other:
            assert await other.whole(ino) == b"a" * 10 + bytes(10) + b"b" * 5

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_clean_bytes_stay_while_a_read_is_taking_them(tmp_path: Path) -> None:
    """Found by the simulator with whole clients: a read in a worker thread gave zeros for bytes punched meanwhile."""

    async def main() -> None:
        volume = Volume()
        ino = volume.make_file()
        limits = replace(QUICK, kept_bytes=100, inline_bytes=16)
        made_room = 0

        async def make_room_first(fn: Callable[[*_Args], _Result], *args: *_Args) -> _Result:
            nonlocal made_room
            if getattr(fn, "__name__", "") == "load_into":
                made_room += 1
                await mount.contents._upkeep._make_room()
            await trio.lowlevel.checkpoint()
            return fn(*args)

        async with mounted(volume, tmp_path, limits=limits, run=make_room_first) as mount:
            mount.contents.opened(ino, True)
            await mount.contents.write(ino, 0, b"a" * 3_840)
            await mount.contents.publish(ino)
            assert mount.contents._files[ino].working.valid
            assert await mount.whole(ino) == b"a" * 3_840
            assert made_room

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_clean_bytes_leave_the_disk_when_there_are_too_many_and_dirty_ones_never(tmp_path: Path) -> None:
    async def main() -> None:
        volume = Volume()
        ino = volume.make_file()
        async with mounted(volume, tmp_path, limits=replace(QUICK, kept_bytes=100)) as mount:
            contents = mount.contents
            contents.opened(ino, True)
            await contents.write(ino, 0, b"a" * 3_840)

            def write_meanwhile() -> None:
                contents._files[ino].working.store(100, b"b" * 3_000)
                contents._files[ino].working.written(100, 3_100, 1, 1)

            mount.client.before_answer = write_meanwhile
            await contents.publish(ino)
            mount.client.before_answer = None
            expected = b"a" * 100 + b"b" * 3_000 + b"a" * 740
            await trio.sleep(1)
            local = contents._files[ino].working
            assert not local.valid
            assert local.load(0, 100) == bytes(100)
            assert await mount.whole(ino) == expected
            await contents.publish(ino)
            assert await mount.whole(ino) == expected
        async with mounted(volume, tmp_path / "other") as other:
            assert await other.whole(ino) == expected

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_a_foreign_change_right_after_an_own_one_is_seen(tmp_path: Path) -> None:
    async def main() -> None:
        volume = Volume()
        ino = volume.make_file()
        async with mounted(volume, tmp_path) as mount:
            mount.contents.opened(ino, True)
            await mount.contents.write(ino, 0, b"a" * 50)
            mount.client.before_answer = lambda: volume.punch(ino, 0, 10)
            await mount.contents.publish(ino)
            assert await mount.whole(ino) == bytes(10) + b"a" * 40

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_times_set_before_a_publish_go_out_with_it_and_later_ones_are_the_callers(tmp_path: Path) -> None:
    async def main() -> None:
        volume = Volume()
        ino = volume.make_file()
        async with mounted(volume, tmp_path) as mount:
            contents = mount.contents
            assert not contents.set_times(ino, 5, 6)
            contents.opened(ino, True)
            await contents.write(ino, 0, b"a")
            assert contents.set_times(ino, 5, 6)
            seen = contents.attributes(ino, volume.inode(ino))
            assert (seen.atime_ns, seen.mtime_ns, seen.size) == (5, 6, 1)
            before = len(volume.records)
            await contents.publish(ino)
            assert len(volume.records) == before + 1
            assert (volume.inode(ino).atime_ns, volume.inode(ino).mtime_ns) == (5, 6)
            assert not contents.set_times(ino, 7, 8)
            await contents.truncate(ino, 100)
            seen = contents.attributes(ino, volume.inode(ino))
            assert contents.set_times(ino, None, 9)
            await contents.publish(ino)
            assert (volume.inode(ino).size, volume.inode(ino).mtime_ns) == (100, 9)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


@pytest.mark.parametrize("truncated", [False, True])
@pytest.mark.parametrize("written", [False, True])
@pytest.mark.parametrize("times", [(5, 6), (5, None), (None, 6)])
def test_the_ctime_that_is_shown_before_a_publish_is_what_it_becomes(
    tmp_path: Path, truncated: bool, written: bool, times: tuple[int | None, int | None]
) -> None:
    """A close under a lease is answered before its record: nobody asks again after that. Each op moves ctime."""

    async def main() -> None:
        volume = Volume()
        ino = volume.make_file()
        async with mounted(volume, tmp_path) as mount:
            contents = mount.contents
            contents.opened(ino, True)
            await contents.write(ino, 0, b"before")
            await contents.publish(ino)
            if truncated:
                await contents.truncate(ino, 2)
            if written:
                await contents.write(ino, 0, b"data")
            contents.set_times(ino, *times)
            shown = contents.attributes(ino, volume.inode(ino))
            await contents.publish(ino)
            assert volume.inode(ino).ctime_ns == shown.ctime_ns

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_times_set_while_a_publish_is_on_its_way_are_not_overwritten_by_it(tmp_path: Path) -> None:
    """Copying a large file: its last bytes are being published by age when cp sets the times."""

    async def main() -> None:
        volume = Volume()
        ino = volume.make_file()
        gate = trio.Event()

        async def held_up(fn: Callable[[*_Args], _Result], *args: *_Args) -> _Result:
            await gate.wait()
            return fn(*args)

        async with mounted(volume, tmp_path, run=held_up) as mount, trio.open_nursery() as nursery:
            contents = mount.contents
            contents.opened(ino, True)
            await contents.write(ino, 0, b"a")
            nursery.start_soon(contents.publish, ino)
            await trio.testing.wait_all_tasks_blocked()
            if not contents.set_times(ino, 5, 6):
                await mount.client.commit([Setattr(ino, SetattrMask.ATIME | SetattrMask.MTIME, 0, 0, 0, 0, 5, 6, 7)])
            seen = contents.attributes(ino, volume.inode(ino))
            assert (seen.atime_ns, seen.mtime_ns) == (5, 6)
            gate.set()
            await contents.publish(ino)
            assert (volume.inode(ino).atime_ns, volume.inode(ino).mtime_ns) == (5, 6)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
