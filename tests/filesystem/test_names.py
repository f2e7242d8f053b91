"""Calls by name: what they answer, and when a record is spared."""

from __future__ import annotations

import errno
import stat
from pathlib import Path

import pytest
import trio

from s3vfs.errors import PosixError, ReadOnly, SessionFenced
from s3vfs.filesystem import Caller
from s3vfs.namespace.ops import RENAME_EXCHANGE, RENAME_NOREPLACE
from s3vfs.namespace.rows import ROOT_INO
from tests.filesystem.volume import Client, run

ROOT = Caller()
SOMEONE = Caller(uid=1000, gid=1000)
FILE = stat.S_IFREG | 0o644


class Refused:
    """`with Refused(errno)`: the block raises PosixError with it."""

    def __init__(self, code: int) -> None:
        self._code = code

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> bool:
        assert isinstance(error, PosixError), f"expected {errno.errorcode[self._code]}, got {error!r}"
        assert error.errno == self._code, f"expected {errno.errorcode[self._code]}, got {errno.errorcode[error.errno]}"
        return True


def test_lookup_finds_what_was_made(tmp_path: Path) -> None:
    async def test(client: Client) -> None:
        fs = client.fs
        made = await fs.mkdir(ROOT_INO, b"d", 0o755, ROOT)
        file = await fs.mknod(made.ino, b"f", FILE, 0, SOMEONE)
        assert await fs.lookup(ROOT_INO, b"d") == fs.peek(made.ino)
        assert (await fs.lookup(made.ino, b"f")).inode.uid == 1000
        assert (await fs.lookup(made.ino, b".")).ino == made.ino
        assert (await fs.lookup(made.ino, b"..")).ino == ROOT_INO
        assert (await fs.lookup(ROOT_INO, b"..")).ino == ROOT_INO
        with Refused(errno.ENOENT):
            await fs.lookup(made.ino, b"none")
        with Refused(errno.ENOTDIR):
            await fs.lookup(file.ino, b"f")
        with Refused(errno.ENAMETOOLONG):
            await fs.lookup(ROOT_INO, b"n" * 256)
        with Refused(errno.ESTALE):
            await fs.lookup(4711, b"f")

    run(tmp_path, test)


def test_a_refusal_sends_no_record(tmp_path: Path) -> None:
    async def test(client: Client) -> None:
        fs = client.fs
        directory = await fs.mkdir(ROOT_INO, b"d", 0o755, ROOT)
        await fs.mknod(directory.ino, b"f", FILE, 0, ROOT)
        records = client.records
        with Refused(errno.EEXIST):
            await fs.mkdir(ROOT_INO, b"d", 0o755, ROOT)
        with Refused(errno.ENOTEMPTY):
            await fs.rmdir(ROOT_INO, b"d", ROOT)
        with Refused(errno.EISDIR):
            await fs.unlink(ROOT_INO, b"d", ROOT)
        with Refused(errno.ENOENT):
            await fs.unlink(ROOT_INO, b"none", ROOT)
        with Refused(errno.EINVAL):
            await fs.rename(ROOT_INO, b"d", directory.ino, b"below", 0, ROOT)
        with Refused(errno.EPERM):
            await fs.link(directory.ino, ROOT_INO, b"again")
        with Refused(errno.ENAMETOOLONG):
            await fs.unlink(ROOT_INO, b"n" * 256, ROOT)
        with Refused(errno.EINVAL):
            await fs.rename(ROOT_INO, b"d", ROOT_INO, b"e", 4, ROOT)
        assert client.records == records

    run(tmp_path, test)


def test_a_refusal_is_never_based_on_an_old_view(tmp_path: Path) -> None:
    """Another client has just removed what this one still sees."""

    async def test(one: Client, two: Client) -> None:
        await one.fs.mkdir(ROOT_INO, b"d", 0o755, ROOT)
        await two.fs.lookup(ROOT_INO, b"d")
        await one.fs.rmdir(ROOT_INO, b"d", ROOT)
        await two.fs.mkdir(ROOT_INO, b"d", 0o755, ROOT)
        with Refused(errno.EEXIST):
            await one.fs.mkdir(ROOT_INO, b"d", 0o755, ROOT)

    run(tmp_path, test, 2)


def test_an_old_view_costs_another_evaluation_only(tmp_path: Path) -> None:
    async def test(one: Client, two: Client) -> None:
        old = await one.fs.mknod(ROOT_INO, b"f", FILE, 0, ROOT)
        await two.fs.lookup(ROOT_INO, b"f")
        await one.fs.mknod(ROOT_INO, b"g", FILE, 0, ROOT)
        await one.fs.rename(ROOT_INO, b"g", ROOT_INO, b"f", 0, ROOT)
        await two.fs.unlink(ROOT_INO, b"f", ROOT)
        with Refused(errno.ENOENT):
            await one.fs.lookup(ROOT_INO, b"f")
        assert old.ino

    run(tmp_path, test, 2)


def test_one_of_many_creators_wins(tmp_path: Path) -> None:
    async def test(*made: Client) -> None:
        for number in range(10):
            outcomes = []

            async def attempt(client: Client, number: int = number, outcomes: list[int] = outcomes) -> None:
                try:
                    await client.fs.mkdir(ROOT_INO, b"%d" % number, 0o755, ROOT)
                except PosixError as error:
                    outcomes.append(error.errno)
                else:
                    outcomes.append(0)

            async with trio.open_nursery() as nursery:
                for client in (*made, *made):
                    nursery.start_soon(attempt, client)
            assert sorted(outcomes) == [0] + [errno.EEXIST] * (2 * len(made) - 1)

    run(tmp_path, test, 3)


def test_inode_numbers_last_for_any_number_of_creations(tmp_path: Path) -> None:
    async def test(client: Client) -> None:
        async with trio.open_nursery() as nursery:
            for number in range(3_000):
                nursery.start_soon(client.fs.mknod, ROOT_INO, b"%d" % number, FILE, 0, ROOT)
        inos = {(await client.fs.lookup(ROOT_INO, b"%d" % number)).ino for number in range(3_000)}
        assert len(inos) == 3_000

    run(tmp_path, test)


def test_renames_say_what_they_moved(tmp_path: Path) -> None:
    async def test(client: Client) -> None:
        fs = client.fs
        a = await fs.mknod(ROOT_INO, b"a", FILE, 0, ROOT)
        b = await fs.mknod(ROOT_INO, b"b", FILE, 0, ROOT)
        with Refused(errno.EEXIST):
            await fs.rename(ROOT_INO, b"a", ROOT_INO, b"b", RENAME_NOREPLACE, ROOT)
        assert await fs.rename(ROOT_INO, b"a", ROOT_INO, b"b", RENAME_EXCHANGE, ROOT) == a.ino
        assert (await fs.lookup(ROOT_INO, b"a")).ino == b.ino
        assert await fs.rename(ROOT_INO, b"a", ROOT_INO, b"b", 0, ROOT) == b.ino
        with Refused(errno.ENOENT):
            await fs.rename(ROOT_INO, b"a", ROOT_INO, b"c", 0, ROOT)
        assert fs.holds(ROOT_INO, b"b", b.ino)
        assert not fs.holds(ROOT_INO, b"a", b.ino)

    run(tmp_path, test)


def test_sticky_directories_protect_from_strangers(tmp_path: Path) -> None:
    async def test(client: Client) -> None:
        fs = client.fs
        directory = await fs.mkdir(ROOT_INO, b"tmp", 0o1777, ROOT)
        await fs.mknod(directory.ino, b"roots", FILE, 0, ROOT)
        with Refused(errno.EPERM):
            await fs.unlink(directory.ino, b"roots", SOMEONE)
        await fs.unlink(directory.ino, b"roots", ROOT)

    run(tmp_path, test)


def test_lineage_names_every_directory_above(tmp_path: Path) -> None:
    async def test(client: Client) -> None:
        fs = client.fs
        a = await fs.mkdir(ROOT_INO, b"a", 0o755, ROOT)
        b = await fs.mkdir(a.ino, b"b", 0o755, ROOT)
        c = await fs.mkdir(ROOT_INO, b"c", 0o755, ROOT)
        file = await fs.mknod(b.ino, b"f", FILE, 0, ROOT)
        await fs.link(file.ino, c.ino, b"again")
        assert sorted(fs.lineage(file.ino)) == sorted([file.ino, a.ino, b.ino, c.ino, ROOT_INO])
        assert fs.entry_of(b.ino) == (a.ino, b"b")
        assert fs.entry_of(ROOT_INO) is None

    run(tmp_path, test)


def test_a_read_only_mount_changes_nothing(tmp_path: Path) -> None:
    async def test(writer: Client, reader: Client) -> None:
        await writer.fs.mknod(ROOT_INO, b"f", FILE, 0, ROOT)
        found = await reader.fs.lookup(ROOT_INO, b"f")
        for attempt in (
            reader.fs.mkdir(ROOT_INO, b"d", 0o755, ROOT),
            reader.fs.unlink(ROOT_INO, b"f", ROOT),
            reader.fs.open(found.ino, 1, ROOT),
            reader.fs.setxattr(found.ino, b"user.x", b"", ROOT),
        ):
            with pytest.raises(ReadOnly):
                await attempt
        handle = await reader.fs.open(found.ino, 0, ROOT)
        assert bytes(await reader.fs.read(handle, 0, 10)) == b""
        await reader.fs.fsync(handle)
        await reader.fs.release(handle)

    run(tmp_path, test, 2, read_only=True)


def test_a_link_to_a_file_without_a_name_makes_the_kernel_look_again(tmp_path: Path) -> None:
    """It came by a name that another client has given to another file."""

    async def test(one: Client, two: Client) -> None:
        found = await one.fs.mknod(ROOT_INO, b"f", FILE, 0, ROOT)
        await two.fs.lookup(ROOT_INO, b"f")
        await one.fs.mknod(ROOT_INO, b"g", FILE, 0, ROOT)
        await one.fs.rename(ROOT_INO, b"g", ROOT_INO, b"f", 0, ROOT)
        with Refused(errno.ESTALE):
            await two.fs.link(found.ino, ROOT_INO, b"link")

    run(tmp_path, test, 2)


def test_a_session_out_of_office_says_so_instead_of_looking_again(tmp_path: Path) -> None:
    async def test(client: Client) -> None:
        client.session.base.fenced = True
        with pytest.raises(SessionFenced):
            await client.fs.mkdir(ROOT_INO, b"d", 0o755, ROOT)
        with pytest.raises(SessionFenced):
            await client.fs.unlink(ROOT_INO, b"d", ROOT)
        client.session.base.fenced = False

    run(tmp_path, test)
