"""statfs, access, links, extended attributes."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import trio

from s3vfs.filesystem import Caller, NewAttributes
from s3vfs.filesystem.attributes import permits
from s3vfs.namespace.ops import XATTR_CREATE, XATTR_REPLACE, Config
from s3vfs.namespace.rows import ROOT_INO, Inode
from tests.filesystem.test_names import FILE, ROOT, SOMEONE, Refused
from tests.filesystem.volume import Client, run


def test_statfs_without_a_quota_shows_plenty(tmp_path: Path) -> None:
    async def test(client: Client) -> None:
        figures = await client.fs.statfs()
        assert figures.free_blocks * figures.block_bytes == 1 << 50
        assert figures.blocks >= figures.free_blocks
        assert figures.free_inodes == 1 << 40

    run(tmp_path, test)


def test_statfs_with_a_quota_shows_the_truth(tmp_path: Path) -> None:
    async def test(client: Client) -> None:
        await client.session.commit([Config(None, 1 << 20, 10)])
        await client.fs.mknod(ROOT_INO, b"f", FILE, 0, ROOT)
        figures = await client.fs.statfs()
        assert (figures.blocks, figures.free_blocks) == (256, 256)
        assert (figures.inodes, figures.free_inodes) == (10, 8)

    run(tmp_path, test)


def test_readlink(tmp_path: Path) -> None:
    async def test(client: Client) -> None:
        link = await client.fs.symlink(ROOT_INO, b"l", b"else/where", ROOT)
        assert await client.fs.readlink(link.ino) == b"else/where"
        with Refused(errno.EINVAL):
            await client.fs.readlink(ROOT_INO)

    run(tmp_path, test)


def test_extended_attributes(tmp_path: Path) -> None:
    async def test(client: Client) -> None:
        fs = client.fs
        ino = (await fs.mknod(ROOT_INO, b"f", FILE, 0, ROOT)).ino
        with Refused(errno.ENODATA):
            await fs.getxattr(ino, b"security.capability")
        await fs.setxattr(ino, b"user.a", b"1", ROOT, XATTR_CREATE)
        with Refused(errno.EEXIST):
            await fs.setxattr(ino, b"user.a", b"1", ROOT, XATTR_CREATE)
        with Refused(errno.ENODATA):
            await fs.setxattr(ino, b"user.b", b"1", ROOT, XATTR_REPLACE)
        await fs.setxattr(ino, b"trusted.t", b"", ROOT)
        await fs.setxattr(ino, b"security.selinux", b"label", ROOT)
        assert await fs.getxattr(ino, b"user.a") == b"1"
        assert set(await fs.listxattr(ino, ROOT)) == {b"user.a", b"trusted.t", b"security.selinux"}
        assert set(await fs.listxattr(ino, SOMEONE)) == {b"user.a", b"security.selinux"}
        for name in (b"system.nfs4_acl", b"other", b"system.x", b"posix_acl_access"):
            with Refused(errno.EOPNOTSUPP):
                await fs.getxattr(ino, name)
            with Refused(errno.EOPNOTSUPP):
                await fs.setxattr(ino, name, b"", ROOT)
        with Refused(errno.E2BIG):
            await fs.setxattr(ino, b"user.big", bytes(65537), ROOT)
        with Refused(errno.ERANGE):
            await fs.setxattr(ino, b"user." + b"n" * 251, b"", ROOT)
        await fs.removexattr(ino, b"user.a")
        with Refused(errno.ENODATA):
            await fs.removexattr(ino, b"user.a")

    run(tmp_path, test)


def test_attributes_of_an_idle_mount_are_no_older_than_a_second(tmp_path: Path) -> None:
    """Extended ones too: a mount that nobody has asked anything for a while looks at the tail every 10 s only."""

    async def test(one: Client, two: Client) -> None:
        ino = (await one.fs.mknod(ROOT_INO, b"f", FILE, 0, ROOT)).ino
        for number in range(10):
            await trio.sleep(61.7)
            name = b"user.%d" % number
            await one.fs.setxattr(ino, name, b"here", ROOT)
            await trio.sleep(1.1)
            if number % 2:
                assert name in await two.fs.listxattr(ino, ROOT)
            assert await two.fs.getxattr(ino, name) == b"here"

    run(tmp_path, test, 2)


def test_no_write_waits_for_a_look_at_the_tail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel asks for security.capability before each: the bucket may be silent, and there is room."""

    async def test(client: Client) -> None:
        ino = (await client.fs.mknod(ROOT_INO, b"f", FILE, 0, ROOT)).ino
        looks: list[float | None] = []

        async def fresh(within_s: float | None = None) -> None:
            looks.append(within_s)

        monkeypatch.setattr(client.session, "fresh", fresh)
        handle = await client.fs.open(ino, os.O_RDWR, ROOT)
        looks.clear()
        with Refused(errno.ENODATA):
            await client.fs.getxattr(ino, b"security.capability")
        assert looks == []
        await client.fs.release(handle)
        with Refused(errno.ENODATA):
            await client.fs.getxattr(ino, b"security.capability")
        assert looks == [1.0]

    run(tmp_path, test)


def test_access_asks_for_the_callers_groups(tmp_path: Path) -> None:
    async def test(client: Client) -> None:
        groups = {77: (70,), 78: ()}
        client.fs._groups_of = groups.__getitem__
        found = await client.fs.mknod(ROOT_INO, b"f", FILE, 0, Caller(7, 70))
        await client.fs.setattr(found.ino, NewAttributes(mode=0o640), ROOT)
        assert await client.fs.access(found.ino, os.R_OK, Caller(8, 80, 77))
        assert not await client.fs.access(found.ino, os.R_OK, Caller(8, 80, 78))

    run(tmp_path, test)


@pytest.mark.parametrize(
    ("mode", "caller", "groups", "mask", "granted"),
    [
        (0o100640, Caller(7, 70), (), os.R_OK | os.W_OK, True),
        (0o100640, Caller(7, 70), (), os.X_OK, False),
        (0o100640, Caller(8, 70), (), os.R_OK, True),
        (0o100640, Caller(8, 80), (70,), os.R_OK, True),
        (0o100640, Caller(8, 80), (), os.R_OK, False),
        (0o100047, Caller(7, 70), (), os.R_OK, False),  # the owner's bits decide, even where others may more
        (0o100000, Caller(0, 0), (), os.R_OK | os.W_OK, True),
        (0o100000, Caller(0, 0), (), os.X_OK, False),
        (0o100001, Caller(0, 0), (), os.X_OK, True),
        (0o040000, Caller(0, 0), (), os.X_OK, True),
    ],
)
def test_who_may_what(mode: int, caller: Caller, groups: tuple[int, ...], mask: int, granted: bool) -> None:
    inode = Inode(mode, 7, 70, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, b"")
    assert permits(inode, mask, caller, groups) is granted
