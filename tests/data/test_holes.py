"""Holes, extensions and shared extents: what is data, what a kill leaves, and what a copy costs."""

from __future__ import annotations

import errno
import tracemalloc
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import trio
import trio.testing

import s3vfs.data.publish
from s3vfs.data import cloning
from s3vfs.data.protocol import MIB
from s3vfs.errors import PosixError, SessionFenced, StoreDenied
from s3vfs.namespace.ops import AnyOp, Clone, Config, Punch, Setattr, SetattrMask, Write
from s3vfs.namespace.verdict import Verdict
from tests.data.double import Pledge, Volume
from tests.data.mount import QUICK, Mount, in_use, mounted

Test = Callable[[Mount, int], Awaitable[None]]


def run(tmp_path: Path, test: Test) -> Volume:
    """Run `test(mount, inode)` with an open, empty file."""
    volume = Volume()

    async def main() -> None:
        ino = volume.make_file()
        # Nothing is published that is not asked for.
        async with mounted(volume, tmp_path, limits=replace(QUICK, dirty_age_s=1e6)) as mount:
            mount.contents.opened(ino, True)
            await test(mount, ino)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    return volume


def map_of(mount: Mount, ino: int, size: int) -> list[tuple[int, int]]:
    """The data of a file, as lseek tells it."""
    found: list[tuple[int, int]] = []
    at = 0
    while (start := mount.contents.seek(ino, at, data=True)) is not None:
        end = mount.contents.seek(ino, start, data=False)
        assert end is not None
        found.append((start, end))
        at = end
    assert mount.contents.seek(ino, size, data=False) is None
    assert mount.contents.data_bytes(ino, 0, size) == sum(end - start for start, end in found)
    return found


def test_seek_is_exact_over_written_published_and_punched_bytes(tmp_path: Path) -> None:
    async def test(mount: Mount, ino: int) -> None:
        contents = mount.contents
        assert contents.seek(ino, 0, data=True) is contents.seek(ino, 0, data=False) is None
        await contents.write(ino, 10, b"a" * 80)
        await contents.extend(ino, 200)
        for _ in range(2):
            assert map_of(mount, ino, 200) == [(10, 90)]
            assert contents.seek(ino, 0, data=False) == 0
            assert contents.seek(ino, 199, data=False) == 199
            await contents.publish(ino)
        await contents.write(ino, 150, bytes(10))
        await contents.punch(ino, 20, 30)
        await contents.write(ino, 30, b"b")
        for _ in range(2):
            assert map_of(mount, ino, 200) == [(10, 20), (30, 31), (50, 90), (150, 160)]
            await contents.publish(ino)
        await contents.truncate(ino, 60)
        assert map_of(mount, ino, 60) == [(10, 20), (30, 31), (50, 60)]
        await contents.punch(ino, 50, 10)
        assert map_of(mount, ino, 60) == [(10, 20), (30, 31)]
        assert contents.seek(ino, 31, data=True) is None
        assert contents.seek(ino, 40, data=False) == 40

    run(tmp_path, test)


def test_blocks_follow_holes_before_they_are_published(tmp_path: Path) -> None:
    async def test(mount: Mount, ino: int) -> None:
        contents = mount.contents

        def allocated() -> int:
            return contents.attributes(ino, mount.volume.inode(ino)).allocated

        await contents.write(ino, 0, b"a" * 100)
        assert allocated() == 100
        await contents.punch(ino, 90, 10)
        assert allocated() == 90
        await contents.publish(ino)
        assert allocated() == 90
        await contents.punch(ino, 0, 10)
        await contents.punch(ino, 5, 15)
        assert allocated() == 70
        await contents.truncate(ino, 50)
        assert allocated() == 30
        await contents.write(ino, 50, b"b" * 5)
        for _ in range(2):
            assert allocated() == 35
            await contents.publish(ino)

    run(tmp_path, test)


def test_punched_bytes_that_were_never_published_cost_nothing(tmp_path: Path) -> None:
    async def test(mount: Mount, ino: int) -> None:
        contents = mount.contents
        await contents.write(ino, 0, b"a" * 60)
        await contents.punch(ino, 0, 60)
        assert contents.status()["unpublished_bytes"] == 0
        await contents.publish(ino)
        assert mount.puts() == 0
        assert await mount.whole(ino) == bytes(60)
        assert mount.volume.inode(ino).size == 60

    run(tmp_path, test)


def test_the_local_space_of_a_hole_is_given_back(tmp_path: Path) -> None:
    async def test(mount: Mount, ino: int) -> None:
        contents = mount.contents
        await contents.write(ino, 0, b"a" * (1 << 20))
        (path,) = (each for each in (tmp_path / "working").iterdir() if not each.suffix)
        before = path.stat().st_blocks
        await contents.punch(ino, 0, 1 << 19)
        assert path.stat().st_blocks <= before * 0.6
        assert await mount.whole(ino) == bytes(1 << 19) + b"a" * (1 << 19)

    run(tmp_path, test)


def test_a_hole_behind_the_end_is_none_and_an_extension_never_shrinks(tmp_path: Path) -> None:
    async def test(mount: Mount, ino: int) -> None:
        contents = mount.contents
        await contents.write(ino, 0, b"a" * 10)
        await contents.publish(ino)
        records = len(mount.volume.records)
        await contents.punch(ino, 10, 1 << 60)
        await contents.publish(ino)
        assert len(mount.volume.records) == records
        await contents.extend(ino, 10)
        await contents.publish(ino)
        (times,) = mount.volume.records[-1]
        assert isinstance(times, Setattr)
        assert times.mask == SetattrMask.MTIME
        await contents.punch(ino, 5, 1 << 62)
        await contents.publish(ino)
        assert next(op for op in mount.volume.records[-1] if isinstance(op, Punch)).length == 5
        assert await mount.whole(ino) == b"a" * 5 + bytes(5)

    run(tmp_path, test)


@pytest.mark.parametrize("order", ["utime last", "punch last", "write last"])
def test_times_after_a_hole(tmp_path: Path, order: str) -> None:
    async def test(mount: Mount, ino: int) -> None:
        contents = mount.contents
        await contents.write(ino, 0, b"a" * 10)
        await contents.publish(ino)
        if order == "utime last":
            await contents.punch(ino, 0, 5)
        contents.set_times(ino, None, 7)
        if order == "punch last":
            await contents.punch(ino, 0, 5)
        if order == "write last":
            await contents.punch(ino, 0, 5)
            await contents.write(ino, 0, b"b")
        shown = contents.attributes(ino, mount.volume.inode(ino))
        assert (shown.mtime_ns == 7) == (order == "utime last")
        await contents.publish(ino)
        made = mount.volume.inode(ino)
        assert (made.mtime_ns, made.ctime_ns) == (shown.mtime_ns, shown.ctime_ns)

    run(tmp_path, test)


def test_thousands_of_holes_leave_in_records_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3vfs.data.publish, "ONE_COMMIT_HOLES", 10)

    async def test(mount: Mount, ino: int) -> None:
        contents = mount.contents
        await contents.write(ino, 0, b"a" * 200)
        await contents.publish(ino)
        records = len(mount.volume.records)
        for at in range(0, 200, 8):
            await contents.punch(ino, at, 4)
        await contents.write(ino, 199, b"b")
        assert await mount.whole(ino) == (bytes(4) + b"aaaa") * 24 + bytes(4) + b"aaab"
        await contents.publish(ino)
        punches = [sum(isinstance(op, Punch) for op in record) for record in mount.volume.records[records:]]
        assert punches == [10, 10, 5]
        assert await mount.whole(ino) == (bytes(4) + b"aaaa") * 24 + bytes(4) + b"aaab"

    run(tmp_path, test)


def test_holes_and_extensions_survive_a_kill(tmp_path: Path) -> None:
    volume = Volume()
    ino = volume.make_file()

    async def before() -> None:
        async with mounted(volume, tmp_path) as mount:
            mount.contents.opened(ino, True)
            await mount.contents.write(ino, 0, b"a" * 100)
            await mount.contents.publish(ino)
            await mount.contents.write(ino, 20, b"b" * 20)
            await mount.contents.punch(ino, 30, 50)
            await mount.contents.write(ino, 40, b"c" * 5)
            await mount.contents.extend(ino, 150)

    async def after() -> None:
        want = b"a" * 20 + b"b" * 10 + bytes(10) + b"c" * 5 + bytes(35) + b"a" * 20 + bytes(50)
        for _ in range(2):
            async with mounted(volume, tmp_path) as mount:
                assert await mount.whole(ino) == want
        async with mounted(volume, tmp_path) as mount:
            await mount.contents.publish_all()
            assert await mount.whole(ino) == want
        async with mounted(volume, tmp_path / "other") as other:
            assert await other.whole(ino) == want

    trio.run(before, clock=trio.testing.MockClock(autojump_threshold=0))
    trio.run(after, clock=trio.testing.MockClock(autojump_threshold=0))


def test_the_log_of_many_changes_is_compacted_to_holes_writes_and_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("s3vfs.data.working._COMPACT_ENTRIES", 4)
    volume = Volume()
    ino = volume.make_file()

    async def before() -> None:
        async with mounted(volume, tmp_path) as mount:
            mount.contents.opened(ino, True)
            await mount.contents.write(ino, 0, b"a" * 100)
            await mount.contents.publish(ino)
            for _ in range(30):
                await mount.contents.write(ino, 10, b"b" * 10)
                await mount.contents.punch(ino, 10, 10)
            for size in range(101, 150):
                await mount.contents.extend(ino, size)
            (log,) = (tmp_path / "working").glob("*.log")
            assert log.stat().st_size < 64 + 12 * 32

    async def after() -> None:
        async with mounted(volume, tmp_path) as mount:
            assert await mount.whole(ino) == b"a" * 10 + bytes(10) + b"a" * 80 + bytes(49)

    trio.run(before, clock=trio.testing.MockClock(autojump_threshold=0))
    trio.run(after, clock=trio.testing.MockClock(autojump_threshold=0))


# -- clones -----------------------------------------------------------------------------------------------------------


def test_a_copy_moves_no_data(tmp_path: Path) -> None:
    async def test(mount: Mount, ino: int) -> None:
        contents, volume = mount.contents, mount.volume
        twin = volume.make_file()
        contents.opened(twin, True)
        data = bytes(range(250)) * 4
        await contents.write(ino, 0, data)
        await contents.publish(ino)
        puts, gets, records = mount.puts(), mount.gets(), len(volume.records)
        assert await contents.clone(ino, 0, twin, 0, 1 << 30) == 1000
        assert (mount.puts(), mount.gets()) == (puts, gets)
        assert len(volume.records) == records + 1
        assert volume.inode(twin).allocated == 1000
        assert await mount.whole(twin) == data

    run(tmp_path, test)


def test_a_copy_has_what_was_written_before_it_and_keeps_what_is_written_after(tmp_path: Path) -> None:
    async def test(mount: Mount, ino: int) -> None:
        contents = mount.contents
        twin = mount.volume.make_file()
        contents.opened(twin, True)
        await contents.write(ino, 0, b"a" * 100)
        await contents.write(twin, 0, b"z" * 300)
        await contents.punch(ino, 10, 20)
        assert await contents.clone(ino, 0, twin, 50, 100) == 100
        await contents.write(twin, 60, b"y")
        await contents.write(ino, 0, b"b")
        want = b"z" * 50 + b"a" * 10 + b"y" + bytes(19) + b"a" * 70 + b"z" * 150
        for _ in range(2):
            assert await mount.whole(twin) == want
            await contents.publish(twin)
        assert map_of(mount, twin, 300) == [(0, 61), (80, 300)]
        assert await mount.whole(ino) == b"b" + b"a" * 9 + bytes(20) + b"a" * 70

    run(tmp_path, test)


def test_a_copy_within_a_file_and_of_a_file_without_a_name(tmp_path: Path) -> None:
    async def test(mount: Mount, ino: int) -> None:
        contents = mount.contents
        await contents.write(ino, 0, b"abcdef")
        assert await contents.clone(ino, 0, ino, 6, 6) == 6
        assert await mount.whole(ino) == b"abcdefabcdef"
        twin = mount.volume.make_file()
        contents.opened(twin, True)
        mount.volume.unlink(ino)
        await contents.write(ino, 3, b"DEF")
        assert await contents.clone(ino, 0, twin, 0, 12) == 12
        assert await mount.whole(twin) == b"abcDEFabcdef"
        mount.volume.unlink(twin)
        await contents.write(twin, 0, b"X")
        assert await contents.clone(ino, 4, twin, 1, 3) == 3
        assert await mount.whole(twin) == b"XEFaEFabcdef"

    run(tmp_path, test)


def test_a_copy_of_very_many_extents_is_made_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cloning, "EXTENTS_PER_CLONE", 3)
    monkeypatch.setattr("s3vfs.namespace.contents.EXTENTS_PER_CLONE", 3)

    async def test(mount: Mount, ino: int) -> None:
        contents = mount.contents
        twin = mount.volume.make_file()
        contents.opened(twin, True)
        for at in range(0, 100, 10):
            await contents.write(ino, at, b"%05d" % at)
        whole = await mount.whole(ino)
        done, parts = 5, []
        while count := await contents.clone(ino, done, twin, done - 5, 1000):
            parts.append(count)
            done += count
        assert sum(parts) == 90
        assert len(parts) >= 3
        assert await mount.whole(twin) == whole[5:]

    run(tmp_path, test)


def test_a_source_that_others_shorten_meanwhile(tmp_path: Path) -> None:
    async def test(mount: Mount, ino: int) -> None:
        contents = mount.contents
        twin = mount.volume.make_file()
        contents.opened(twin, True)
        await contents.write(ino, 0, b"a" * 100)
        await contents.publish(ino)
        send = mount.client.send

        def shortened(ops: Sequence[AnyOp]) -> Pledge:
            if any(isinstance(op, Clone) for op in ops):
                mount.client.send = send  # type: ignore[method-assign]
                mount.client.foreign_size(ino, 30)
            return send(ops)

        mount.client.send = shortened  # type: ignore[method-assign]
        assert await contents.clone(ino, 10, twin, 0, 90) == 20
        assert await mount.whole(twin) == b"a" * 20

    run(tmp_path, test)


def test_a_copy_that_is_refused_changes_nothing(tmp_path: Path) -> None:
    async def test(mount: Mount, ino: int) -> None:
        contents, volume = mount.contents, mount.volume
        twin = volume.make_file()
        contents.opened(twin, True)
        await contents.write(ino, 0, b"a" * 100)
        await contents.write(twin, 0, b"b" * 100)
        await contents.publish_all()
        volume.apply([Config(None, 250, None)], None)
        with pytest.raises(PosixError) as caught:
            await contents.clone(ino, 0, twin, 90, 100)
        assert caught.value.errno == errno.EDQUOT
        assert await mount.whole(twin) == b"b" * 100
        await contents.write(twin, 0, b"c")
        mount.client.refuse = SessionFenced("gone")
        with pytest.raises(SessionFenced):
            await contents.clone(ino, 0, twin, 0, 10)
        with pytest.raises(SessionFenced):
            await contents.clone(ino, 0, twin, 0, 10)

    run(tmp_path, test)


def test_clean_bytes_of_the_target_do_not_become_its_cache(tmp_path: Path) -> None:
    """Whole objects that a working file holds become the cache's at its last close: not those that were replaced."""

    async def test(mount: Mount, ino: int) -> None:
        contents = mount.contents
        twin = mount.volume.make_file()
        contents.opened(twin, True)
        await contents.write(ino, 0, b"a" * 128)
        await contents.write(twin, 0, b"b" * 128)
        await contents.publish_all()
        assert await contents.clone(ino, 0, twin, 0, 64) == 64
        assert await mount.whole(twin) == b"a" * 64 + b"b" * 64
        contents.closed(twin, True)
        assert len(in_use(tmp_path)) == 2  # those of the other one
        assert await mount.whole(twin) == b"a" * 64 + b"b" * 64
        assert contents.cache.counters.bad_sectors == 0

    run(tmp_path, test)


def test_far_regions_of_a_sparse_file_cost_no_memory(tmp_path: Path) -> None:
    """The table of checksums for the cache ends before them."""

    async def test(mount: Mount, ino: int) -> None:
        contents = mount.contents
        far = 1 << 42
        await contents.write(ino, 0, b"a" * 64)
        await contents.write(ino, far, b"b" * 64)
        tracemalloc.start()
        await contents.publish(ino)
        contents.closed(ino, True)
        _, peak_bytes = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak_bytes < 4 * MIB
        assert bytes(await contents.read(ino, far - 1, 65)) == b"\0" + b"b" * 64
        assert bytes(await contents.read(ino, 0, 65)) == b"a" * 64 + b"\0"

    run(tmp_path, test)


def test_writes_during_a_copy_are_kept_and_published_after_it(tmp_path: Path) -> None:
    async def test(mount: Mount, ino: int) -> None:
        contents = mount.contents
        twin = mount.volume.make_file()
        contents.opened(twin, True)
        await contents.write(ino, 0, b"a" * 100)
        await contents.write(twin, 0, b"b" * 100)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(contents.clone, ino, 0, twin, 0, 100)
            while not any(isinstance(op, Clone) for record in mount.volume.records for op in record):
                await contents.write(twin, 50, b"c" * 5)
                nursery.start_soon(contents.publish, twin)
                await trio.lowlevel.checkpoint()
        await contents.write(twin, 50, b"d" * 5)
        await contents.publish(twin)
        kinds = [
            type(op)
            for record in mount.volume.records
            for op in record
            if isinstance(op, Clone | Write) and op.ino == twin
        ]
        assert kinds.index(Clone) < len(kinds) - 1
        assert await mount.whole(twin) == b"a" * 50 + b"d" * 5 + b"a" * 45
        async with mounted(mount.volume, tmp_path / "other") as other:
            assert await other.whole(twin) == b"a" * 50 + b"d" * 5 + b"a" * 45

    run(tmp_path, test)


def test_an_extension_is_one_record_without_an_object(tmp_path: Path) -> None:
    async def test(mount: Mount, ino: int) -> None:
        contents = mount.contents
        await contents.extend(ino, 1 << 60)
        assert contents.attributes(ino, mount.volume.inode(ino)).size == 1 << 60
        records = len(mount.volume.records)
        await contents.publish(ino)
        assert mount.puts() == 0
        assert len(mount.volume.records) == records + 1
        sizes = [op for op in mount.volume.records[-1] if isinstance(op, Setattr) and op.mask & SetattrMask.SIZE]
        assert not sizes  # that could shorten what others have extended
        inode = mount.volume.inode(ino)
        assert (inode.size, inode.allocated) == (1 << 60, 0)

    run(tmp_path, test)


@pytest.mark.parametrize("refused", [False, True])
def test_a_hole_made_while_its_bytes_are_being_published(tmp_path: Path, refused: bool) -> None:
    async def test(mount: Mount, ino: int) -> None:
        contents = mount.contents
        await contents.write(ino, 0, b"a" * 100)

        async def publish() -> None:
            with suppress(StoreDenied):
                await contents.publish(ino)

        mount.client.refuse = StoreDenied("no") if refused else None
        mount.client.send = lambda ops: Punching(mount.client, ops, 4711)  # type: ignore[method-assign]

        @dataclass(eq=False)
        class Punching(Pledge):
            async def verdicts(self) -> list[Verdict]:
                await contents.punch(ino, 10, 20)
                return await super().verdicts()

        await publish()
        del mount.client.send
        mount.client.refuse = None
        for _ in range(2):
            assert map_of(mount, ino, 100) == [(0, 10), (30, 100)]
            assert await mount.whole(ino) == b"a" * 10 + bytes(20) + b"a" * 70
            if contents.failure(ino) is not None:
                contents.acknowledge(ino)
            await contents.publish(ino)
        assert mount.volume.inode(ino).allocated == 80

    run(tmp_path, test)
