"""When bytes go to the bucket, in how many requests, and with how much memory (DESIGN 8)."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

import s3vfs.namespace.objects
from s3vfs.data.protocol import MIB, Limits, Sizes, data_key
from s3vfs.data.publish import divide
from s3vfs.data.ranges import RangeSet
from s3vfs.errors import StoreUnreachable
from s3vfs.objects.counting import Operation
from s3vfs.objects.memory import MemoryBulk
from s3vfs.objects.runner import ThreadRunner
from tests.data.double import Volume
from tests.data.mount import mounted, until

if TYPE_CHECKING:
    from typing_extensions import Buffer

REAL = Sizes()


def run(main: Callable[[], Awaitable[None]]) -> None:
    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_many_small_publishes_at_the_same_time_share_few_packs(tmp_path: Path) -> None:
    async def main() -> None:
        volume = Volume()
        sizes = Sizes(64 * 16, 16)
        async with mounted(volume, tmp_path, sizes=sizes) as mount:
            inos = [volume.make_file() for _ in range(100)]
            for n, ino in enumerate(inos):
                await mount.contents.write(ino, 0, b"%010d" % n)
            before = len(volume.records)
            async with trio.open_nursery() as nursery:
                for ino in inos:
                    nursery.start_soon(mount.contents.publish, ino)
            assert mount.puts() <= 3
            assert len(volume.records) - before <= 3
        async with mounted(volume, tmp_path / "other", sizes=sizes) as other:
            for n, ino in enumerate(inos):
                assert await other.whole(ino) == b"%010d" % n
            assert other.gets() <= 64  # neighbours come along

    run(main)


def test_a_pack_holds_files_in_the_order_in_which_they_were_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    putting, go_on = threading.Event(), threading.Event()
    inner = MemoryBulk.put_new

    def held_up(self: MemoryBulk, key: str, body: Sequence[Buffer]) -> None:
        putting.set()
        assert go_on.wait(10)
        inner(self, key, body)

    monkeypatch.setattr(MemoryBulk, "put_new", held_up)

    async def main() -> None:
        volume = Volume()
        sizes = Sizes(64 * 16, 16)
        async with mounted(volume, tmp_path, sizes=sizes, run=ThreadRunner(4)) as mount:
            inos = [volume.make_file() for _ in range(20)]
            for ino in inos:
                await mount.contents.write(ino, 0, b"x" * 10)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(mount.contents.publish, inos[0])
                await until(putting.is_set)
                for ino in inos[1:]:
                    nursery.start_soon(mount.contents.publish, ino)
                    await trio.testing.wait_all_tasks_blocked()
                go_on.set()
            places = [write.extents[0] for ino in inos[1:] for write in volume.writes() if write.ino == ino]
            assert len({place.object for place in places}) == 1
            assert [place.object_offset for place in places] == [10 * n for n in range(19)]

    trio.run(main)


def test_regions_that_a_writer_has_passed_are_uploaded_while_it_goes_on(tmp_path: Path) -> None:
    async def main() -> None:
        volume = Volume()
        ino = volume.make_file()
        async with mounted(volume, tmp_path) as mount:
            for n in range(10):
                await mount.contents.write(ino, 32 * n, b"%032d" % n)
                await trio.testing.wait_all_tasks_blocked()
            assert mount.puts() == 5
            assert not volume.writes()
            await mount.contents.publish(ino)
            assert mount.puts() == 5
            assert await mount.whole(ino) == b"".join(b"%032d" % n for n in range(10))

    run(main)


def test_a_region_that_is_left_alone_is_uploaded_too(tmp_path: Path) -> None:
    async def main() -> None:
        volume = Volume()
        ino = volume.make_file()
        async with mounted(volume, tmp_path) as mount:
            for at in (48, 32, 16, 0):
                await mount.contents.write(ino, at, b"b" * 16)
            await trio.testing.wait_all_tasks_blocked()
            assert mount.puts() == 0
            await trio.sleep(2)
            assert mount.puts() == 1
            assert not volume.writes()

    run(main)


def test_a_region_that_is_written_again_after_its_upload_is_uploaded_again(tmp_path: Path) -> None:
    async def main() -> None:
        volume = Volume()
        ino = volume.make_file()
        async with mounted(volume, tmp_path) as mount:
            await mount.contents.write(ino, 0, b"a" * 64)
            await trio.testing.wait_all_tasks_blocked()
            assert mount.puts() == 1
            await mount.contents.write(ino, 10, b"b" * 5)
            await mount.contents.publish(ino)
            expected = b"a" * 10 + b"b" * 5 + b"a" * 49
            assert len(volume.declared()) == 1
        async with mounted(volume, tmp_path / "other") as other:
            assert await other.whole(ino) == expected

    run(main)


def test_dirty_bytes_are_divided_into_whole_regions_and_packs_that_fit() -> None:
    dirty = RangeSet([(10, 192), (200, 210), (250, 330)])
    regions, groups = divide(dirty, 64)
    assert regions == [1, 2, 4]
    spans = [(64 * index, 64 * index + 64) for index in regions]
    assert RangeSet([*spans, *(piece for group in groups for piece in group)]) == dirty
    assert all(sum(end - start for start, end in group) <= 64 for group in groups)


def test_a_file_with_more_pieces_than_a_pack_takes_is_published_whole(tmp_path: Path) -> None:
    async def main() -> None:
        volume = Volume()
        ino = volume.make_file()
        async with mounted(volume, tmp_path) as mount:
            for n in range(60):
                await mount.contents.write(ino, 20 * n, b"%010d" % n)
            await mount.contents.truncate(ino, 1100)
            await mount.contents.publish(ino)
            expected = await mount.whole(ino)
            assert len(expected) == 1100
        async with mounted(volume, tmp_path / "other") as other:
            assert await other.whole(ino) == expected

    run(main)


def test_parallel_uploads_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = threading.Lock()
    running = most = 0
    inner = MemoryBulk.put_new

    def slow(self: MemoryBulk, key: str, body: Sequence[Buffer]) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.002)
        inner(self, key, body)
        with lock:
            running -= 1

    monkeypatch.setattr(MemoryBulk, "put_new", slow)

    async def main() -> None:
        volume = Volume()
        ino = volume.make_file()
        async with mounted(volume, tmp_path, run=ThreadRunner(20)) as mount:
            await mount.contents.write(ino, 0, b"p" * 64 * 50)
            await mount.contents.publish(ino)
            assert mount.contents.uploader.buffers.made <= 4
        assert 2 <= most <= 4

    trio.run(main)


@pytest.mark.parametrize("left", [b"", b"half", b"other bytes"])
def test_a_key_that_a_broken_request_has_spoiled_is_left_for_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: bytes
) -> None:
    inner = MemoryBulk.put_new
    spoiled: list[str] = []

    def breaks_off_once(self: MemoryBulk, key: str, body: Sequence[Buffer]) -> None:
        if not spoiled:
            spoiled.append(key)
            inner(self, key, [left])
            raise StoreUnreachable("the connection broke")
        inner(self, key, body)

    monkeypatch.setattr(MemoryBulk, "put_new", breaks_off_once)

    async def main() -> None:
        volume = Volume()
        ino = volume.make_file()
        async with mounted(volume, tmp_path) as mount:
            await mount.contents.write(ino, 0, b"whole bytes")
            await mount.contents.publish(ino)
        async with mounted(volume, tmp_path / "other") as other:
            assert await other.whole(ino) == b"whole bytes"
        assert spoiled[0] not in [data_key(declared.object) for declared in volume.declared()]

    run(main)


def anonymous_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no RssAnon")


def test_large_files_pass_through_in_bounded_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(s3vfs.namespace.objects, "SECTOR_BYTES", REAL.sector_bytes)
    count = 192
    chunk = os.urandom(MIB)

    async def main() -> None:
        volume = Volume()
        ino = volume.make_file()
        figures = []
        limits = Limits(reserve_bytes=0)
        async with mounted(volume, tmp_path, sizes=REAL, limits=limits, run=ThreadRunner(20)) as mount:
            mount.contents.opened(ino, True)
            began, anonymous = time.monotonic(), anonymous_bytes()
            for n in range(count):
                await mount.contents.write(ino, n * MIB, chunk)
            await mount.contents.publish(ino)
            figures.append(("write", count / (time.monotonic() - began)))
            keys = volume.bucket.keys("data/")
            kept = sum(len(volume.bucket.peek(key) or b"") for key in keys)
            assert anonymous_bytes() - anonymous - kept < 200 * MIB
            assert kept == count * MIB
            mount.contents.closed(ino, True)
            assert mount.contents.uploader.buffers.outstanding == 0
        for name, place in (("cold read", "other"), ("cached read after a restart", "other"), ("own read", "")):
            async with mounted(volume, tmp_path / place, sizes=REAL, limits=limits, run=ThreadRunner(20)) as mount:
                ahead = mount.contents.readahead()
                began, anonymous = time.monotonic(), anonymous_bytes()
                for at in range(0, count * MIB, 128 * 1024):
                    data = await mount.contents.read(ino, at, 128 * 1024, ahead)
                    if at % (16 * MIB) == 0:
                        assert bytes(data) == chunk[at % MIB : at % MIB + 128 * 1024]
                figures.append((name, count / (time.monotonic() - began)))
                assert anonymous_bytes() - anonymous < 200 * MIB
                began = time.monotonic()
                for at in range(0, count * MIB, 128 * 1024):
                    await mount.contents.read(ino, at, 128 * 1024, ahead)
                figures.append((f"{name}, again", count / (time.monotonic() - began)))
        with capsys.disabled():
            print("\n" + "; ".join(f"{name} {rate:.0f} MiB/s" for name, rate in figures))

    trio.run(main)


def test_a_sequential_reader_is_ahead_of_the_requests_and_a_random_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = Sizes(MIB, 16 * 1024)
    monkeypatch.setattr(s3vfs.namespace.objects, "SECTOR_BYTES", sizes.sector_bytes)

    async def main() -> None:
        volume = Volume()
        ino = volume.make_file()
        limits = Limits(reserve_bytes=0, readahead_first_bytes=64 * 1024, readahead_most_bytes=512 * 1024)
        async with mounted(volume, tmp_path, sizes=sizes, limits=limits) as mount:
            await mount.contents.write(ino, 0, bytes(8 * MIB))
            await mount.contents.publish(ino)
        received = {}
        for name, order in (("sequential", range(16)), ("random", [400, 10, 250, 90, 500, 170, 330, 30])):
            async with mounted(volume, tmp_path / name, sizes=sizes, limits=limits) as mount:
                ahead = mount.contents.readahead()
                for sector in order:
                    await mount.contents.read(ino, sector * 16 * 1024, 4096, ahead)
                await trio.testing.wait_all_tasks_blocked()
                received[name] = mount.counters[Operation.BULK_GET].bytes_received
        assert received["random"] == 8 * 16 * 1024
        assert received["sequential"] >= (16 + 8) * 16 * 1024

    run(main)
