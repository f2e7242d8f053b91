"""Working files that a kernel writes to unseen, played by the test: it opens the local file itself."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from s3vfs.data import images
from s3vfs.errors import S3vfsError
from tests.data.double import Kernel, Volume
from tests.data.mount import Mount, mounted, until


@contextmanager
def local(mount: Mount, ino: int) -> Iterator[int]:
    """What the kernel does with the file."""
    fd = os.open(mount.working_path(ino), os.O_RDWR)
    try:
        yield fd
    finally:
        os.close(fd)


async def create(mount: Mount, ino: int) -> None:
    mount.contents.opened(ino, True)
    lent = await mount.contents.lend(ino, readable=True, writable=True, direct=False, created=True, uid=0)
    assert lent is not None
    assert not lent.direct


async def release(mount: Mount, ino: int) -> None:
    await mount.contents.close(ino)
    mount.contents.returned(ino, lent=True, readable=True)
    mount.contents.closed(ino, True)


def spilled(folder: Path) -> list[Path]:
    return list(folder.glob("spill/*/bytes"))


def kept(mount: Mount) -> list[Path]:
    return list((mount.folder / "working").iterdir())


def test_a_file_is_let_go_of_only_when_no_writer_is_left(tmp_path: Path) -> None:
    async def main() -> None:
        volume, kernel = Volume(), Kernel()
        ino = volume.make_file()
        async with mounted(volume, tmp_path) as mount:
            mount.contents.use(kernel)
            await create(mount, ino)
            with local(mount, ino) as late:
                os.write(late, b"a" * 100)
                await release(mount, ino)
                assert kept(mount), "R14"
                assert not kernel.numbers
                os.pwrite(late, b"late", 50)
            await until(lambda: not kept(mount), 30)
            assert await mount.whole(ino) == b"a" * 50 + b"late" + b"a" * 46

    trio.run(main)


def test_only_bytes_that_were_written_here_are_published(tmp_path: Path) -> None:
    """Others' record may come between our look at the file and ours."""

    async def main() -> None:
        volume, kernel = Volume(), Kernel()
        ino = volume.make_file()
        async with mounted(volume, tmp_path / "one") as mount, mounted(volume, tmp_path / "two") as other:
            mount.contents.use(kernel)
            await create(mount, ino)
            with local(mount, ino) as fd:
                os.write(fd, b"." * 16)
                await mount.contents.publish(ino)
                os.pwrite(fd, b"ours", 0)
                await mount.contents.harvest(ino)
            other.contents.opened(ino, True)
            await other.contents.write(ino, 8, b"TTTT")
            await other.contents.publish(ino)
            await mount.contents.publish(ino)
            for client in (mount, other):
                await client.contents.catch_up(ino)
                assert await client.whole(ino) == b"ours....TTTT...."
            await release(mount, ino)

    trio.run(main)


@pytest.mark.parametrize("foreign", [False, True])
def test_a_restart_publishes_what_was_written_or_keeps_it(tmp_path: Path, foreign: bool) -> None:
    """After others have written, nobody can say any more which bytes were written here."""
    expected = b"." * 20 + b"unseen" + b"." * 14

    async def main() -> None:
        volume = Volume()
        ino = volume.make_file()
        async with mounted(volume, tmp_path) as mount:
            mount.contents.use(Kernel())
            await create(mount, ino)
            with local(mount, ino) as fd:
                os.write(fd, b"." * 40)
                await mount.contents.publish(ino)
                os.pwrite(fd, b"unseen", 20)
        if foreign:
            volume.punch(ino, 0, 10)
        async with mounted(volume, tmp_path) as mount:
            if foreign:
                (bytes_kept,) = spilled(tmp_path)
                assert bytes_kept.read_bytes() == expected
            else:
                assert await mount.whole(ino) == expected
                await mount.contents.publish_all()
            await until(lambda: not kept(mount), 30)
            assert await mount.whole(ino) == (bytes(10) + b"." * 30 if foreign else expected)

    trio.run(main)


def test_one_file_has_one_mode(tmp_path: Path) -> None:
    """The kernel refuses handles of an inode in two modes with EIO."""

    async def main() -> None:
        volume, kernel = Volume(), Kernel()
        first, second = volume.make_file(), volume.make_file()

        async def lend(ino: int, *, writable: bool, created: bool) -> int:
            mount.contents.opened(ino, writable)
            lent = await mount.contents.lend(
                ino, readable=True, writable=writable, direct=False, created=created, uid=0
            )
            return lent.backing if lent is not None else 0

        async with mounted(volume, tmp_path) as mount:
            assert not await lend(first, writable=False, created=False)
            mount.contents.use(kernel)
            assert not await lend(first, writable=True, created=True)  # somebody has it open the other way
            number = await lend(second, writable=True, created=True)
            assert number
            assert await lend(second, writable=False, created=False) == number
            assert await lend(second, writable=True, created=False) == number
            assert kernel.numbers == {number}

    trio.run(main)


def test_what_the_disk_has_not_taken_is_not_published_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that could not be written back may be gone: what is read in its place is nobody's data (R10)."""
    refusals = [OSError(errno.EIO, "refused")]

    def check(descriptor: int) -> None:
        if refusals:  # the kernel tells it once
            raise refusals.pop()

    async def main() -> None:
        volume, kernel = Volume(), Kernel()
        ino = volume.make_file()
        async with mounted(volume, tmp_path) as mount:
            mount.contents.use(kernel)
            await create(mount, ino)
            with local(mount, ino) as fd:
                os.write(fd, b"a" * 100)
                monkeypatch.setattr(images, "check_written_back", check)
                for _ in range(3):
                    with pytest.raises(S3vfsError) as caught:
                        await mount.contents.publish(ino)
                    assert caught.value.errno == errno.EIO
            with pytest.raises(S3vfsError):
                await release(mount, ino)
            mount.contents.returned(ino, lent=True, readable=True)
            mount.contents.closed(ino, True)
            (kept_bytes,) = spilled(mount.folder)
            assert kept_bytes.read_bytes() == b"a" * 100
            await trio.sleep(0.5)
            assert volume.inode(ino).size == 0

    trio.run(main)
