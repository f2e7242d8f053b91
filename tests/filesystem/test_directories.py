"""Listings: complete, without duplicates, from any position, while others change the directory."""

from __future__ import annotations

import errno
import random
from pathlib import Path

import pytest

from s3vfs.filesystem import Found
from s3vfs.filesystem.directories import ANCHOR_EVERY, RECENT_NAMES
from s3vfs.namespace.ops import AnyOp, Create, Unlink
from s3vfs.namespace.rows import ROOT_INO, Rows
from tests.filesystem.test_names import FILE, ROOT, Refused
from tests.filesystem.volume import Client, run

Entries = list[tuple[bytes, int]]  # name, position behind it


async def fill(client: Client, names: list[bytes]) -> None:
    """Files of these names in the root, many in one record."""
    waiting = list(reversed(names))
    while waiting:
        ops: list[AnyOp] = []
        while waiting and len(ops) < 500 and (ino := client.session.take_ino()) is not None:
            ops.append(Create(ROOT_INO, waiting.pop(), ino, FILE, 0, 0, 0, b"", 1))
        await client.session.commit(ops)
        await client.session.reserve_inos()


async def read(client: Client, handle: int, position: int, room: int) -> Entries:
    """One reply with room for `room` entries."""
    taken: Entries = []

    def emit(name: bytes, found: Found, behind: int) -> bool:
        if len(taken) == room:
            return False
        taken.append((name, behind))
        return True

    await client.fs.readdir(handle, position, emit)
    return taken


async def read_all(client: Client, handle: int, position: int = 0, room: int = 50) -> Entries:
    taken: Entries = []
    while part := await read(client, handle, position, room):
        taken += part
        position = part[-1][1]
    return taken


def test_a_listing_has_everything_once(tmp_path: Path) -> None:
    async def test(client: Client) -> None:
        names = [b"%03d" % number for number in range(230)]
        await fill(client, names)
        handle = await client.fs.opendir(ROOT_INO)
        for room in (1, 7, 1000):
            assert [name for name, _ in await read_all(client, handle, room=room)] == [b".", b"..", *names]
        await client.fs.releasedir(handle)
        with Refused(errno.EBADF):
            await client.fs.readdir(handle, 0, lambda *_: True)

    run(tmp_path, test)


def test_any_position_can_be_returned_to(tmp_path: Path) -> None:
    async def test(client: Client) -> None:
        names = [b"%05d" % number for number in range(300)]
        await fill(client, names)
        handle = await client.fs.opendir(ROOT_INO)
        listing = await read_all(client, handle)
        for index in (0, 1, 2, 5, 150, 301):
            assert await read_all(client, handle, listing[index][1]) == listing[index + 1 :]
        with Refused(errno.EINVAL):
            await read(client, handle, 10 * RECENT_NAMES, 1)

    run(tmp_path, test)


def test_positions_far_back_are_found_from_the_last_anchor_before_them(tmp_path: Path) -> None:
    async def test(client: Client) -> None:
        count = 2 * RECENT_NAMES + ANCHOR_EVERY + 17
        await fill(client, [b"%06d" % number for number in range(count)])
        handle = await client.fs.opendir(ROOT_INO)
        listing = await read_all(client, handle, room=500)
        assert len(listing) == count + 2
        for index in (2, 3, ANCHOR_EVERY, ANCHOR_EVERY + 1, ANCHOR_EVERY + 2, ANCHOR_EVERY + 3, 2000):
            assert (await read(client, handle, listing[index][1], 3)) == listing[index + 1 : index + 4]

    run(tmp_path, test)


@pytest.mark.parametrize("seed", range(5))
def test_changes_meanwhile_move_nothing_else(tmp_path: Path, seed: int) -> None:
    """Names that are there all the time come exactly once, whatever others do between the replies."""

    async def test(client: Client, other: Client) -> None:
        chance = random.Random(seed)
        names = [b"%04d" % number for number in range(0, 400, 2)]
        await fill(client, names)
        lasting = set(chance.sample(names, 100))
        handle = await client.fs.opendir(ROOT_INO)
        seen: list[bytes] = []
        position = 0
        while part := await read(client, handle, position, chance.randint(1, 20)):
            kept = chance.randint(1, len(part))  # the kernel may pass on less than it took
            seen += [name for name, _ in part[:kept]]
            position = part[kept - 1][1]
            await other.session.fresh(0)
            for _ in range(5):
                number = chance.randrange(400)
                name = b"%04d" % number
                with other.session.view() as txn:
                    dentry = Rows(txn).dentry(ROOT_INO, name)
                if dentry is None:
                    await other.fs.mknod(ROOT_INO, name, FILE, 0, ROOT)
                elif name not in lasting:
                    await other.session.commit([Unlink(ROOT_INO, name, dentry.ino, 0, False, 1)])
        assert len(seen) == len(set(seen))
        assert lasting <= set(seen)

    run(tmp_path, test, 2)


def test_a_directory_removed_meanwhile_is_empty(tmp_path: Path) -> None:
    async def test(client: Client) -> None:
        made = await client.fs.mkdir(ROOT_INO, b"d", 0o755, ROOT)
        handle = await client.fs.opendir(made.ino)
        await client.fs.rmdir(ROOT_INO, b"d", ROOT)
        assert await read_all(client, handle) == []
        await client.fs.fsyncdir(handle)
        again = await client.fs.opendir(made.ino)  # as "." of a process that is still in it
        assert await read_all(client, again) == []

    run(tmp_path, test)
