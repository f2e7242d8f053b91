"""How far ahead of readers is fetched, and what they share when there are many (DESIGN 8)."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
import trio.testing

import s3vfs.namespace.objects
from s3vfs.data.protocol import Limits, Sizes
from s3vfs.data.readahead import Pool, Readahead
from s3vfs.objects.counting import Operation
from tests.data.double import Volume
from tests.data.mount import mounted

STEP = 128


def stroll(reader: Readahead, start: int, steps: int) -> int:
    """Read on sequentially; where it stops."""
    for at in range(start, start + steps * STEP, STEP):
        reader.advance(at, at + STEP)
    return start + steps * STEP


def test_a_reader_alone_has_its_largest_window() -> None:
    reader = Readahead(256, 8192, Pool(lambda: 16_384))
    stroll(reader, 0, 100)
    assert 4096 <= reader.ahead_bytes <= 8192


def test_the_windows_of_many_readers_together_stay_within_the_pool() -> None:
    pool = Pool(lambda: 16_384)
    readers = [Readahead(256, 8192, pool) for _ in range(16)]
    at = 0
    for _ in range(100):
        for reader in readers:
            stroll(reader, at, 1)
        at += STEP
    assert 16 * 512 <= sum(reader.ahead_bytes for reader in readers) <= 16_384


def test_windows_grow_again_when_others_have_left_or_have_reached_the_end_of_their_files() -> None:
    pool = Pool(lambda: 16_384)
    readers = [Readahead(256, 8192, pool) for _ in range(16)]
    first = readers[0]
    at = 0
    for reader in readers:
        at = stroll(reader, 0, 100)
    for reader in readers[1:8]:
        reader.end_of_file = at
    del readers[8:], reader
    stroll(first, at, 100)
    assert first.ahead_bytes >= 4096


def test_a_bound_that_shrinks_closes_windows() -> None:
    bound = 16_384
    reader = Readahead(256, 8192, Pool(lambda: bound))
    at = stroll(reader, 0, 100)
    bound = 512
    at = stroll(reader, at, 100)
    assert reader.ahead_bytes <= 512
    bound = 0
    stroll(reader, at, 100)
    assert reader.ahead_bytes == 0


@pytest.mark.parametrize("count", [1, 8])
def test_without_a_cache_disk_what_is_fetched_ahead_is_read_before_it_is_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """The memory for sectors without a place is shared: no reader's sectors push out another's."""
    sizes = Sizes(64 * 1024, 4096)
    monkeypatch.setattr(s3vfs.namespace.objects, "SECTOR_BYTES", sizes.sector_bytes)
    length = 512 * 1024
    limits = Limits(
        reserve_bytes=0,
        fetch_bytes=4096,
        readahead_first_bytes=16 * 1024,
        readahead_most_bytes=256 * 1024,
        spare_bytes=256 * 1024,
    )

    async def main() -> None:
        volume = Volume()
        inos = [volume.make_file() for _ in range(count)]
        async with mounted(volume, tmp_path / "author", sizes=sizes, limits=limits) as mount:
            for ino in inos:
                mount.contents.opened(ino, True)
                await mount.contents.write(ino, 0, bytes([ino % 251]) * length)
                await mount.contents.publish(ino)
        async with mounted(volume, tmp_path / "reader", sizes=sizes, limits=limits, cache_bytes=0) as mount:

            async def read(ino: int) -> None:
                ahead = mount.contents.readahead()
                for at in range(0, length, 4096):
                    assert await mount.contents.read(ino, at, 4096, ahead) == bytes([ino % 251]) * 4096

            async with trio.open_nursery() as nursery:
                for ino in inos:
                    nursery.start_soon(read, ino)
            received = mount.counters[Operation.BULK_GET].bytes_received
            assert received <= 1.25 * count * length, f"{received / (count * length):.2f} times"

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
