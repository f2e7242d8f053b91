"""The block cache: what is served from it, what is never served from it, and how large it gets (DESIGN 8)."""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
import trio.testing
import xxhash

from s3vfs.data.cache import Cache, Claim
from s3vfs.data.layout import Unit, file_entry, object_entry
from s3vfs.errors import Damaged
from s3vfs.objects.counting import Operation
from s3vfs.objects.faults import Fault, Rule
from tests.data.double import Volume
from tests.data.mount import mounted

GETS = frozenset({Operation.BULK_GET})


def run(main: Callable[[], Awaitable[None]]) -> None:
    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


async def published(volume: Volume, folder: Path, data: bytes) -> int:
    """A file written by another mount."""
    ino = volume.make_file()
    async with mounted(volume, folder / "author") as author:
        author.contents.opened(ino, True)
        await author.contents.write(ino, 0, data)
        await author.contents.publish(ino)
        author.contents.closed(ino, True)
    return ino


def entries(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("blocks/*/*") if path.suffix != ".sums")


DATA = bytes(range(256)) * 3  # twelve regions of 64 bytes


def test_a_second_read_asks_the_bucket_for_nothing_also_after_a_restart(tmp_path: Path) -> None:
    async def main() -> None:
        volume = Volume()
        ino = await published(volume, tmp_path, DATA)
        for visit in range(3):
            async with mounted(volume, tmp_path / "reader") as mount:
                assert await mount.whole(ino) == DATA
                assert await mount.whole(ino) == DATA
                assert (mount.gets() > 0) == (visit == 0)

    run(main)


def test_bytes_written_here_are_read_from_here_without_a_copy_or_a_request(tmp_path: Path) -> None:
    async def main() -> None:
        volume = Volume()
        async with mounted(volume, tmp_path) as mount:
            ino = volume.make_file()
            mount.contents.opened(ino, True)
            await mount.contents.write(ino, 0, DATA + b"tail")
            working = mount.working_path(ino).stat().st_ino
            await mount.contents.publish(ino)
            mount.contents.closed(ino, True)
            name = file_entry(ino, volume.inode(ino).version)
            (entry,) = [path for path in entries(tmp_path) if path.name == name]
            assert entry.stat().st_ino == working
            assert await mount.whole(ino) == DATA + b"tail"
            assert mount.gets() == 0

    run(main)


def test_a_change_of_the_file_fetches_only_what_changed(tmp_path: Path) -> None:
    async def main() -> None:
        volume = Volume()
        ino = await published(volume, tmp_path, DATA)
        async with mounted(volume, tmp_path / "reader") as mount:
            await mount.whole(ino)
            async with mounted(volume, tmp_path / "other") as other:
                await other.contents.write(ino, 64, b"!" * 64)
                await other.contents.publish(ino)
            before = mount.counters[Operation.BULK_GET].bytes_received
            assert await mount.whole(ino) == DATA[:64] + b"!" * 64 + DATA[128:]
            assert mount.counters[Operation.BULK_GET].bytes_received - before == 64

    run(main)


def test_a_flipped_bit_in_a_cache_file_is_found_at_first_use_and_mended(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)

    async def main() -> None:
        volume = Volume()
        ino = await published(volume, tmp_path, DATA)
        reader = tmp_path / "reader"
        async with mounted(volume, reader) as mount:
            await mount.whole(ino)
        (path,) = entries(reader)
        body = bytearray(path.read_bytes())
        body[70] ^= 4
        path.write_bytes(body)
        async with mounted(volume, reader) as mount:
            assert await mount.whole(ino) == DATA
            assert mount.counters[Operation.BULK_GET].bytes_received == 16
            assert mount.contents.cache.counters.bad_sectors == 1
        async with mounted(volume, reader) as mount:
            assert await mount.whole(ino) == DATA
            assert mount.gets() == 0

    run(main)


def test_the_entry_of_a_file_has_its_sectors_where_the_file_has_them(tmp_path: Path) -> None:
    async def main() -> None:
        volume = Volume()
        ino = volume.make_file()
        async with mounted(volume, tmp_path / "author") as author:
            for start, length in ((0, 200), (7, 90), (300, 33), (160, 16), (230, 64)):
                await author.contents.write(ino, start, os.urandom(length))
                await author.contents.publish(ino)
        async with mounted(volume, tmp_path / "reader") as mount:
            whole = await mount.whole(ino)
            check_entry(tmp_path / "reader", file_entry(ino, volume.inode(ino).version), whole)

    run(main)


def check_entry(folder: Path, name: str, whole: bytes) -> None:
    """Every sector that the entry says it has is the file's."""
    (path,) = [path for path in entries(folder) if path.name == name]
    held, sums = path.read_bytes(), path.with_name(path.name + ".sums").read_bytes()
    slots = [slot for slot in range(len(sums) // 8) if any(sums[8 * slot : 8 * slot + 8])]
    assert slots
    for slot in slots:
        assert held[16 * slot : 16 * slot + 16] == whole[16 * slot : 16 * slot + 16]
        assert xxhash.xxh3_64_digest(held[16 * slot : 16 * slot + 16]) == sums[8 * slot : 8 * slot + 8]


def test_a_working_file_becomes_an_entry_without_the_sectors_that_were_changed_later(tmp_path: Path) -> None:
    async def main() -> None:
        volume = Volume()
        ino = volume.make_file()
        async with mounted(volume, tmp_path) as mount:
            mount.contents.opened(ino, True)
            await mount.contents.write(ino, 0, os.urandom(300))
            mount.client.before_answer = lambda: mount.contents._files[ino].working.store(100, b"b" * 10)
            await mount.contents.publish(ino)
            mount.client.before_answer = None
            await mount.contents.write(ino, 100, b"b" * 10)
            await mount.contents.publish(ino)
            await mount.contents.write(ino, 20, b"c" * 10)
            await mount.contents.publish(ino)
            mount.contents.closed(ino, True)
            whole = await mount.whole(ino)
            check_entry(tmp_path, file_entry(ino, volume.inode(ino).version), whole)

    run(main)


def test_a_flipped_bit_on_the_way_is_fetched_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)

    async def main() -> None:
        volume = Volume()
        ino = await published(volume, tmp_path, DATA)
        async with mounted(volume, tmp_path / "reader") as mount:
            mount.script.add(Rule(Fault(flip_bit=77), GETS))
            assert await mount.whole(ino) == DATA
            assert mount.contents.fetcher.counters.bad_sectors == 1

    run(main)


def test_a_bad_object_gives_eio_and_a_line_that_says_where(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        volume = Volume()
        ino = await published(volume, tmp_path, DATA)
        async with mounted(volume, tmp_path / "reader") as mount:
            mount.script.add(Rule(Fault(flip_bit=77), GETS, times=None))
            with pytest.raises(Damaged) as raised:
                await mount.contents.read(ino, 0, 16)
            assert raised.value.errno == 5
            mount.script.clear()
            assert await mount.whole(ino) == DATA
        (line,) = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
        for part in ("memory://", f"/file{ino}", "data/", "sector 0"):
            assert part in line

    run(main)


def test_one_fetch_serves_all_who_wait_for_it(tmp_path: Path) -> None:
    async def main() -> None:
        volume = Volume()
        ino = await published(volume, tmp_path, DATA)
        async with mounted(volume, tmp_path / "reader") as mount:
            async with trio.open_nursery() as nursery:
                for _ in range(50):
                    nursery.start_soon(mount.whole, ino)
            assert mount.counters[Operation.BULK_GET].bytes_received == len(DATA)
            assert mount.contents.fetcher.in_flight == 0

    run(main)


def test_a_reader_who_gives_up_does_not_take_the_bytes_from_others(tmp_path: Path) -> None:
    async def main() -> None:
        volume = Volume()
        ino = await published(volume, tmp_path, DATA)
        async with mounted(volume, tmp_path / "reader") as mount:
            result: list[bytes] = []

            async def impatient() -> None:
                with trio.CancelScope() as scope:
                    nursery.start_soon(give_up, scope)
                    await mount.whole(ino)

            async def give_up(scope: trio.CancelScope) -> None:
                while not mount.contents.fetcher.in_flight:
                    await trio.lowlevel.checkpoint()
                scope.cancel()

            async def patient() -> None:
                result.append(await mount.whole(ino))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(impatient)
                nursery.start_soon(patient)
            assert result == [DATA]

    run(main)


def test_without_a_working_cache_disk_reading_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        volume = Volume()
        ino = await published(volume, tmp_path, DATA)

        def full(*_: object) -> int:
            raise OSError(28, "No space left on device")

        async with mounted(volume, tmp_path / "reader") as mount:
            monkeypatch.setattr("s3vfs.data.cache._write_all", full)
            for _ in range(3):
                assert await mount.whole(ino) == DATA
            assert mount.contents.cache.counters.disk_errors > 3
            assert mount.counters[Operation.BULK_GET].bytes_received == len(DATA)  # the rest came from memory
        assert len([record for record in caplog.records if "cache disk" in record.getMessage()]) == 1

    run(main)


def test_without_any_cache_reading_works(tmp_path: Path) -> None:
    async def main() -> None:
        volume = Volume()
        ino = await published(volume, tmp_path, DATA)
        async with mounted(volume, tmp_path / "reader", cache_bytes=0) as mount:
            assert await mount.whole(ino) == DATA
            assert not entries(tmp_path / "reader")

    run(main)


SECTOR = 4096


def sector(name: str, slot: int, data: bytes) -> Unit:
    return Unit(name, slot, b"o" * 16, slot, len(data), xxhash.xxh3_64_digest(data))


def build(folder: Path, cap_bytes: int, *, reserve_bytes: int = 0) -> Cache:
    ticks = iter(range(0, 10**18, 10**12))
    return Cache(folder, SECTOR, cap_bytes, reserve_bytes, lambda: next(ticks))


def disk_bytes(folder: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


def test_the_cap_is_kept_and_the_least_recently_used_entries_go_first(tmp_path: Path) -> None:
    cap = 64 * SECTOR
    caches = [build(tmp_path, cap), build(tmp_path, cap)]
    data = os.urandom(SECTOR)
    favourite = sector(object_entry(b"f" * 16), 0, data)
    assert caches[0].store(favourite, data)
    for n in range(300):
        cache = caches[n % 2]
        unit = sector(object_entry(n.to_bytes(16, "big")), 0, data)
        cache.store(unit, data)
        os.utime(cache._path(unit.entry).with_name(unit.entry + ".sums"), ns=(n * 10**9, n * 10**9))
        assert caches[0].find(favourite) is not None
        os.utime(cache._path(favourite.entry).with_name(favourite.entry + ".sums"), ns=(10**15, 10**15))
        assert disk_bytes(tmp_path) <= cap + cap // 10
    assert cache.find(sector(object_entry((299).to_bytes(16, "big")), 0, data)) == data
    assert cache.find(sector(object_entry((0).to_bytes(16, "big")), 0, data)) is None
    assert caches[0].counters.evicted + caches[1].counters.evicted > 200


def test_an_evicted_entry_can_be_filled_again(tmp_path: Path) -> None:
    first, second = build(tmp_path, 1 << 30), build(tmp_path, 1 << 30)
    data = b"d" * SECTOR
    unit = sector("p-0", 0, data)
    assert first.store(unit, data)
    second.cap_bytes = 1
    second._evict(0)
    second.cap_bytes = 1 << 30
    assert not list(tmp_path.glob("*/p-0*"))
    assert first.store(unit, data)
    assert second.find(unit) == data


def test_nothing_is_kept_when_the_disk_has_no_room_besides_the_reserve(tmp_path: Path) -> None:
    cache = build(tmp_path, 1 << 30, reserve_bytes=1 << 60)
    data = b"d" * SECTOR
    assert not cache.store(sector("p-0", 0, data), data)
    assert not list(tmp_path.glob("*/*"))


def test_a_slot_that_was_only_half_overwritten_is_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = build(tmp_path, 1 << 30)
    a, b = b"a" * SECTOR, b"b" * SECTOR
    assert cache.store(sector("p-0", 0, a), a)

    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr("s3vfs.data.cache._write_all", fail)
        assert not cache.store(sector("p-0", 0, b), b)
    assert not cache.read_verified(sector("p-0", 0, a), 0, memoryview(bytearray(4)))
    assert cache.find(sector("p-0", 0, a)) is None


def test_a_slot_with_other_contents_is_never_served(tmp_path: Path) -> None:
    ours, theirs = build(tmp_path, 1 << 30), build(tmp_path, 1 << 30)
    name = file_entry(1, 1)
    a, b = b"a" * SECTOR, b"b" * SECTOR
    target = bytearray(10)
    assert ours.store(sector(name, 3, a), a)
    assert ours.read_verified(sector(name, 3, a), 0, memoryview(target))
    assert theirs.find(sector(name, 3, b)) is None
    assert theirs.store(sector(name, 3, b), b)
    assert not ours.read_verified(sector(name, 3, a), 0, memoryview(target))
    assert ours.find(sector(name, 3, a)) is None
    assert ours.find(sector(name, 3, b)) == b


def test_relief_asked_of_a_cache_that_holds_nothing_yet_is_no_disk_error(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "blocks", 1024, 1 << 20, 0, lambda: 0)
    cache.relieve()
    assert cache.counters.disk_errors == 0


def test_what_is_claimed_counts_towards_the_cap_until_it_is_back(tmp_path: Path) -> None:
    cap = 64 * SECTOR
    cache = build(tmp_path / "cache", cap)
    cache.join()
    data = os.urandom(SECTOR)
    units = [sector("f-1-1", slot, data) for slot in range(40)]
    assert all(cache.store(unit, data) for unit in units)
    target = tmp_path / "claimed"
    held_bytes = cache.claim(Claim("f-1-1", {unit.slot: unit.checksum for unit in units}), target)
    assert held_bytes == target.stat().st_blocks * 512
    for n in range(100):
        cache.store(sector(object_entry(n.to_bytes(16, "big")), 0, data), data)
        assert disk_bytes(tmp_path) <= cap + cap // 10
    cache.returned(held_bytes)
    target.unlink()
    for n in range(100, 150):
        assert cache.store(sector(object_entry(n.to_bytes(16, "big")), 0, data), data)
    assert disk_bytes(tmp_path) > cap // 2
    cache.leave()
