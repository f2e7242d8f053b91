"""Local files that go from one working file to the next, and what must not go with them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest
import trio

from s3vfs.data.backed import Backed
from s3vfs.data.origin import Origin
from s3vfs.data.protocol import Stream
from s3vfs.data.rangelog import HEADER_BYTES
from s3vfs.data.spares import Spares
from s3vfs.data.working import WorkingFile
from tests.data.double import Volume
from tests.data.mount import SMALL, Mount, in_use, mounted

LENGTH = SMALL.object_bytes // 2


class Killed(Exception):
    """What ends a mount as SIGKILL would."""


async def written(mount: Mount, data: bytes, offset: int = 0) -> int:
    """A new file that is written, published and closed."""
    ino = mount.volume.make_file()
    mount.contents.opened(ino, True)
    await mount.contents.write(ino, offset, data)
    await mount.contents.publish(ino)
    mount.contents.closed(ino, True)
    return ino


def local_files(folder: Path) -> list[Path]:
    return sorted((folder / "working").iterdir())


def test_many_small_files_use_two_local_files(tmp_path: Path) -> None:
    async def main() -> None:
        async with mounted(Volume(), tmp_path) as mount:
            inos = [await written(mount, b"%d" % number * 5) for number in range(20)]
            assert len(local_files(tmp_path)) == 2
            assert not in_use(tmp_path)
            for number, ino in enumerate(inos):
                assert await mount.whole(ino) == b"%d" % number * 5

    trio.run(main)


def test_nothing_of_one_file_is_seen_in_the_next(tmp_path: Path) -> None:
    async def main() -> None:
        async with mounted(Volume(), tmp_path) as mount:
            await written(mount, b"secret" * (LENGTH // 6))
            ino = mount.volume.make_file()
            mount.contents.opened(ino, True)
            await mount.contents.write(ino, LENGTH // 2, b"end")
            assert await mount.whole(ino) == b"\0" * (LENGTH // 2) + b"end"
            await mount.contents.publish(ino)
            mount.contents.closed(ino, True)
            assert await mount.whole(ino) == b"\0" * (LENGTH // 2) + b"end"
            assert len(local_files(tmp_path)) == 2

    trio.run(main)


def test_after_a_kill_only_the_last_owners_changes_are_taken_up(tmp_path: Path) -> None:
    """The log of the one before had more entries."""

    async def main() -> None:
        volume = Volume()
        before = ino = 0
        try:
            async with mounted(volume, tmp_path) as mount:
                before = volume.make_file()
                mount.contents.opened(before, True)
                for place in (60, 40, 20, 0):
                    await mount.contents.write(before, place, b"before")
                await mount.contents.publish(before)
                mount.contents.closed(before, True)
                ino = volume.make_file()
                mount.contents.opened(ino, True)
                await mount.contents.write(ino, 3, b"after")
                assert len(local_files(tmp_path)) == 2
                raise Killed
        except* Killed:
            pass
        async with mounted(volume, tmp_path) as mount:
            assert await mount.whole(ino) == b"\0\0\0after"
            await mount.contents.publish_all()
            assert volume.inode(ino).size == 8
            assert volume.inode(before).size == 66
            assert not in_use(tmp_path)

    trio.run(main)


def test_spares_of_a_daemon_that_was_killed_are_deleted(tmp_path: Path) -> None:
    async def main() -> None:
        volume = Volume()
        async with mounted(volume, tmp_path) as mount:
            await written(mount, b"one")
            saved = [path.name for path in local_files(tmp_path)]
        assert not local_files(tmp_path)  # it ended in order
        for name in saved:
            (tmp_path / "working" / name).touch()
        async with mounted(volume, tmp_path) as mount:
            assert not local_files(tmp_path)
            await written(mount, b"two")
            assert {path.name for path in local_files(tmp_path)}.isdisjoint(saved)

    trio.run(main)


def test_a_file_that_was_long_once_is_deleted(tmp_path: Path) -> None:
    """Parts of it may be on their way to the bucket in other tasks."""

    async def main() -> None:
        async with mounted(Volume(), tmp_path) as mount:
            await written(mount, b"x" * SMALL.object_bytes, 1)
            assert not local_files(tmp_path)

    trio.run(main)


def working_file(spares: Spares) -> WorkingFile:
    return WorkingFile.place(spares.new(), 7, "boot", 1, SMALL.object_bytes, spares)


def test_a_file_that_a_kernel_had_is_deleted(tmp_path: Path) -> None:
    """R14: it may have it still, whatever is known of it."""
    spares = Spares(tmp_path)
    file = working_file(spares)
    file.store(0, b"data")
    file.written(0, 4, 1, 1)
    file.backed = Backed(SMALL.sector_bytes, Origin(), writable=True)
    file.mark_backed()
    file.backed = None
    file.hand_on()
    assert not list(tmp_path.iterdir())
    assert spares.take() is None


class Unused:
    """The front's stream of a file that nobody writes to."""

    armed = True

    def arm_new(self, path: bytes, log_path: bytes, log_head: bytes, span_bytes: int) -> None:
        self.paths = path, log_path

    def disarm(self) -> None:
        self.armed = False

    def end(self) -> None:
        self.armed = False


@pytest.mark.parametrize("way", [WorkingFile.remove, WorkingFile.hand_on])
def test_what_was_meant_for_writes_that_did_not_come_is_kept(
    tmp_path: Path, way: Callable[[WorkingFile], None]
) -> None:
    spares = Spares(tmp_path)
    name = spares.new()
    spares.give(name)
    file = working_file(spares)
    stream = Unused()
    file.stream = cast(Stream, stream)
    assert file.arm_new(SMALL.object_bytes)
    assert stream.paths == (name.encode(), f"{name}.log".encode())
    way(file)
    assert file.name != name
    assert spares.take() == name


def test_a_file_that_cannot_be_emptied_is_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with mounted(Volume(), tmp_path) as mount:
            genuine = os.ftruncate

            def refuse(fd: int, length: int) -> None:
                if length < HEADER_BYTES:
                    raise OSError(5, "injected")
                genuine(fd, length)

            monkeypatch.setattr(os, "ftruncate", refuse)
            await written(mount, b"one")
            assert not local_files(tmp_path)

    trio.run(main)


def test_names_are_never_given_twice(tmp_path: Path) -> None:
    """Whatever an earlier daemon has left, of this version or of one that named files after inodes."""
    for name in ("000000000000001e", "000000000000001e.log", "00000000000000ff.new", "else.log"):
        (tmp_path / name).touch()
    spares = Spares(tmp_path)
    names = [Path(spares.new()).name for _ in range(3)]
    assert names == ["0000000000000100", "0000000000000101", "0000000000000102"]
