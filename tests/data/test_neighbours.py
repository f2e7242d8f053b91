"""Small files that are read one after another cost few requests, and guesses cost little where they are wrong."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from s3vfs.data.protocol import Sizes
from s3vfs.namespace.rows import Rows
from tests.data.double import Volume
from tests.data.mount import QUICK, Mount, mounted

SIZES = Sizes(object_bytes=2048, sector_bytes=16)
GUESSING = replace(
    QUICK,
    fetch_bytes=1024,
    guess_first_bytes=1024,
    guess_most_bytes=4096,
    guess_along_bytes=256,
    guess_request_bytes=16,
)
LENGTH = 10


def content(number: int) -> bytes:
    return b"%010d" % number


async def written(volume: Volume, folder: Path, count: int, *, packed: bool) -> list[int]:
    """`count` files in the order of their names, all in one pack or each in an object of its own."""
    async with mounted(volume, folder, sizes=SIZES, limits=replace(QUICK, dirty_age_s=60)) as author:
        inos = [volume.make_file(b"file%06d" % number) for number in range(count)]
        for number, ino in enumerate(inos):
            author.contents.opened(ino, True)
            await author.contents.write(ino, 0, content(number))
            if not packed:
                await author.contents.publish(ino)
        await author.contents.publish_all()
        assert author.puts() <= 2 if packed else count
    return inos


async def read(mount: Mount, ino: int, number: int) -> None:
    assert await mount.whole(ino) == content(number)
    await trio.testing.wait_all_tasks_blocked()


@pytest.mark.parametrize("scattered", [False, True])
def test_all_files_of_a_pack_cost_a_few_requests(tmp_path: Path, scattered: bool) -> None:
    """160 files in 100 sectors, in no particular order: how well that is guessed depends on the order in the pack."""

    async def main() -> None:
        volume = Volume()
        inos = await written(volume, tmp_path / "author", 160, packed=True)
        order = list(enumerate(inos))
        if scattered:
            random.Random(1).shuffle(order)
        async with mounted(volume, tmp_path / "reader", sizes=SIZES, limits=GUESSING) as reader:
            for number, ino in order:
                await read(reader, ino, number)
            assert reader.gets() <= 80
            assert reader.contents.fetcher.counters.bytes == 160 * LENGTH

    trio.run(main)


def test_objects_of_one_file_each_are_on_their_way_before_they_are_asked_for(tmp_path: Path) -> None:
    async def main() -> None:
        volume = Volume()
        inos = await written(volume, tmp_path / "author", 60, packed=False)
        async with mounted(volume, tmp_path / "reader", sizes=SIZES, limits=GUESSING) as reader:
            for number, ino in enumerate(inos):
                await read(reader, ino, number)
            assert reader.gets() == 60
            assert reader.contents.neighbours.right == 58  # the second shows that somebody goes on

    trio.run(main)


def test_readers_of_a_file_here_and_there_cause_little_more_than_they_need(tmp_path: Path) -> None:
    """Nothing that is guessed is ever read: the first guesses are bounded, later ones a quarter of what is."""

    async def main() -> None:
        volume = Volume()
        inos = await written(volume, tmp_path / "author", 600, packed=False)
        async with mounted(volume, tmp_path / "reader", sizes=SIZES, limits=GUESSING) as reader:
            asked = list(enumerate(inos))[::50]
            for number, ino in asked:
                await read(reader, ino, number)
            fetched = reader.gets() - len(asked)
            assert fetched <= GUESSING.guess_first_bytes // GUESSING.guess_request_bytes + len(asked) // 4

    trio.run(main)


def test_guesses_that_nobody_comes_to_are_bounded(tmp_path: Path) -> None:
    """However much trust was earned: what was guessed and not read is never more than the bound."""

    async def main() -> None:
        volume = Volume()
        inos = await written(volume, tmp_path / "author", 300, packed=False)
        limits = replace(GUESSING, guess_first_bytes=1 << 20, guess_most_bytes=320)
        async with mounted(volume, tmp_path / "reader", sizes=SIZES, limits=limits) as reader:
            for read_files, (number, ino) in enumerate(list(enumerate(inos))[:60], start=1):
                await read(reader, ino, number)
                assert reader.gets() <= read_files + 320 // GUESSING.guess_request_bytes

    trio.run(main)


def test_whoever_waits_for_a_guess_does_not_stand_behind_the_others(tmp_path: Path) -> None:
    async def main() -> None:
        volume = Volume()
        inos = await written(volume, tmp_path / "author", 12, packed=False)
        held, waited_for = trio.Event(), set[bytes]()

        async def run(function: Callable[..., Any], *arguments: Any) -> Any:
            """Guesses that are being fetched do not come."""
            if function.__name__ == "_get" and len(waited_for) > 1 and arguments[0][0].object not in waited_for:
                await held.wait()
            return function(*arguments)

        limits = replace(GUESSING, guessed_fetches=1)
        async with mounted(volume, tmp_path / "reader", sizes=SIZES, limits=limits, run=run) as reader:
            objects = [next(Rows(volume.rows).extents(ino))[1].object for ino in inos]
            waited_for.update(objects[:2])
            await read(reader, inos[0], 0)
            await read(reader, inos[1], 1)
            assert reader.contents.fetcher.in_flight == 10
            queued = {key[0] for key, flight in reader.contents.fetcher._flights.items() if flight.queued}
            assert len(queued) == 9
            number = next(number for number, name in enumerate(objects) if name in queued)
            waited_for.add(objects[number])
            with trio.fail_after(5):
                await read(reader, inos[number], number)
            held.set()
            for number, ino in enumerate(inos):
                await read(reader, ino, number)
            assert reader.gets() == 12

    trio.run(main)
