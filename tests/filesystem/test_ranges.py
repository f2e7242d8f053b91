"""fallocate, lseek and copy_file_range: what is refused, and what is asked of the contents."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from s3vfs.errors import ReadOnly
from s3vfs.filesystem.ranges import KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE
from s3vfs.namespace.limits import INTEGER_MAX
from s3vfs.namespace.ops import Config
from s3vfs.namespace.rows import ROOT_INO
from tests.filesystem.test_names import ROOT, SOMEONE, Refused
from tests.filesystem.volume import Client, run

MODES = (0, KEEP_SIZE, PUNCH_HOLE | KEEP_SIZE, ZERO_RANGE, ZERO_RANGE | KEEP_SIZE)


@pytest.mark.parametrize(
    ("mode", "calls"),
    [
        (0, [("extend", 8)]),
        (KEEP_SIZE, [("extend", 0)]),
        (PUNCH_HOLE | KEEP_SIZE, [("punch", 3, 5), ("extend", 0)]),
        (ZERO_RANGE, [("punch", 3, 5), ("extend", 8)]),
        (ZERO_RANGE | KEEP_SIZE, [("punch", 3, 5), ("extend", 0)]),
    ],
)
def test_what_each_mode_of_fallocate_does(tmp_path: Path, mode: int, calls: list[tuple[object, ...]]) -> None:
    async def test(client: Client) -> None:
        handle, found = await client.fs.create(ROOT_INO, b"f", 0o644, os.O_WRONLY, ROOT)
        await client.fs.fallocate(handle, mode, 3, 5)
        assert client.contents.calls == [(name, found.ino, *numbers) for name, *numbers in calls]
        assert client.records == 2 + 1  # nothing was committed yet: format, announce and create

    run(tmp_path, test)


def test_fallocate_refuses(tmp_path: Path) -> None:
    async def test(client: Client) -> None:
        fs = client.fs
        handle, found = await fs.create(ROOT_INO, b"f", 0o644, os.O_RDWR, ROOT)
        reader = await fs.open(found.ino, os.O_RDONLY, ROOT)
        collapse, insert, unshare = 0x08, 0x20, 0x40
        for mode in (PUNCH_HOLE, PUNCH_HOLE | ZERO_RANGE | KEEP_SIZE, collapse, insert, unshare, 1 << 20):
            with Refused(errno.EOPNOTSUPP):
                await fs.fallocate(handle, mode, 0, 1)
        for mode in MODES:
            for offset, length in ((-1, 1), (0, 0), (0, -1)):
                with Refused(errno.EINVAL):
                    await fs.fallocate(handle, mode, offset, length)
            with Refused(errno.EFBIG):
                await fs.fallocate(handle, mode, INTEGER_MAX, 1)
            with Refused(errno.EBADF):
                await fs.fallocate(reader, mode, 0, 1)
            with Refused(errno.EBADF):
                await fs.fallocate(4711, mode, 0, 1)
        assert client.contents.calls == []

    run(tmp_path, test)


def test_fallocate_looks_at_the_quota(tmp_path: Path) -> None:
    async def test(client: Client) -> None:
        fs = client.fs
        handle, _ = await fs.create(ROOT_INO, b"f", 0o644, os.O_RDWR, ROOT)
        await client.session.commit([Config(None, 100, None)])
        await fs.write(handle, 0, bytes(40))
        await fs.fallocate(handle, 0, 0, 100)
        client.contents.unpublished.clear()
        await fs.write(handle, 0, bytes(40))
        for mode in (0, KEEP_SIZE, ZERO_RANGE):
            with Refused(errno.EDQUOT):
                await fs.fallocate(handle, mode, 0, 141)
            await fs.fallocate(handle, KEEP_SIZE, 0, 140)  # 40 of them are there already
        await fs.fallocate(handle, PUNCH_HOLE | KEEP_SIZE, 0, 1000)

    run(tmp_path, test)


def test_ranges_clear_privileges_like_writes(tmp_path: Path) -> None:
    async def test(client: Client) -> None:
        fs = client.fs
        source, _ = await fs.create(ROOT_INO, b"source", 0o644, os.O_RDWR, SOMEONE)
        await fs.write(source, 0, b"data")
        for number, mode in enumerate(MODES):
            handle, found = await fs.create(ROOT_INO, b"f%d" % number, 0o6755, os.O_RDWR, SOMEONE)
            await fs.fallocate(handle, mode, 0, 1)
            assert stat.S_IMODE((await fs.getattr(found.ino)).inode.mode) == 0o755
        handle, found = await fs.create(ROOT_INO, b"copy", 0o6755, os.O_RDWR, SOMEONE)
        assert await fs.copy_range(source, 0, handle, 0, 4) == 4
        assert stat.S_IMODE((await fs.getattr(found.ino)).inode.mode) == 0o755

    run(tmp_path, test)


def test_seek_refuses(tmp_path: Path) -> None:
    async def test(client: Client) -> None:
        fs = client.fs
        handle, _ = await fs.create(ROOT_INO, b"f", 0o644, os.O_RDWR, ROOT)
        for whence in (os.SEEK_DATA, os.SEEK_HOLE):
            for offset in (-1, 0, 10):
                with Refused(errno.ENXIO):
                    await fs.seek(handle, offset, whence)
        await fs.write(handle, 0, b"data")
        assert await fs.seek(handle, 3, os.SEEK_DATA) == 3
        assert await fs.seek(handle, 3, os.SEEK_HOLE) == 4
        with Refused(errno.EINVAL):
            await fs.seek(handle, 0, os.SEEK_END)
        with Refused(errno.EBADF):
            await fs.seek(4711, 0, os.SEEK_DATA)

    run(tmp_path, test)


def test_copy_range_refuses(tmp_path: Path) -> None:
    async def test(client: Client) -> None:
        fs = client.fs
        both, found = await fs.create(ROOT_INO, b"f", 0o644, os.O_RDWR, ROOT)
        other, _ = await fs.create(ROOT_INO, b"g", 0o644, os.O_RDWR, ROOT)
        await fs.write(both, 0, bytes(100))
        reader = await fs.open(found.ino, os.O_RDONLY, ROOT)
        writer = await fs.open(found.ino, os.O_WRONLY, ROOT)
        appender = await fs.open(found.ino, os.O_RDWR | os.O_APPEND, ROOT)
        for source, target in ((writer, other), (other, reader), (both, appender), (4711, other), (both, 4711)):
            with Refused(errno.EBADF):
                await fs.copy_range(source, 0, target, 0, 1)
        for source_offset, offset, length in ((-1, 0, 1), (0, -1, 1), (0, 0, -1)):
            with Refused(errno.EINVAL):
                await fs.copy_range(both, source_offset, other, offset, length)
        for source_offset, offset in ((0, 0), (0, 9), (9, 0)):
            with Refused(errno.EINVAL):
                await fs.copy_range(reader, source_offset, writer, offset, 10)
        with Refused(errno.EFBIG):
            await fs.copy_range(both, 0, other, INTEGER_MAX, 1)
        assert await fs.copy_range(both, 100, other, 0, 10) == 0
        assert await fs.copy_range(both, 0, other, 0, 0) == 0
        assert not [call for call in client.contents.calls if call[0] == "clone"]

    run(tmp_path, test)


def test_copy_range_ends_with_its_source_and_with_the_largest_file(tmp_path: Path) -> None:
    async def test(client: Client) -> None:
        fs = client.fs
        source, found = await fs.create(ROOT_INO, b"f", 0o644, os.O_RDWR, ROOT)
        target, copy = await fs.create(ROOT_INO, b"g", 0o644, os.O_RDWR, ROOT)
        await fs.write(source, 0, bytes(100))
        assert await fs.copy_range(source, 90, target, 7, 1 << 40) == 10
        assert await fs.copy_range(source, 0, target, INTEGER_MAX - 5, 100) == 5
        assert await fs.copy_range(source, 0, source, 50, 50) == 50  # next to each other is no overlap
        assert client.contents.calls == [
            ("clone", found.ino, 90, copy.ino, 7, 10),
            ("clone", found.ino, 0, copy.ino, INTEGER_MAX - 5, 5),
            ("clone", found.ino, 0, found.ino, 50, 50),
        ]

    run(tmp_path, test)


def test_nothing_is_allocated_or_copied_on_a_read_only_mount(tmp_path: Path) -> None:
    async def test(one: Client, two: Client) -> None:
        found = (await one.fs.create(ROOT_INO, b"f", 0o644, os.O_RDWR, ROOT))[1]
        await two.session.fresh(0)
        with pytest.raises(ReadOnly):
            await two.fs.open(found.ino, os.O_RDWR, ROOT)
        handle = await two.fs.open(found.ino, os.O_RDONLY, ROOT)
        with Refused(errno.EBADF):
            await two.fs.fallocate(handle, 0, 0, 1)
        with Refused(errno.EBADF):
            await two.fs.copy_range(handle, 0, handle, 0, 1)

    run(tmp_path, test, 2, read_only=True)
