"""What the front is given, and when it loses it. The test plays the front, with file and log as front.c has them."""

from __future__ import annotations

import os
import stat
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio
from msgspec.structs import replace

from s3vfs.data.contents import Contents
from s3vfs.data.protocol import Limits, Taken
from s3vfs.data.rangelog import RangeLog
from s3vfs.errors import SessionFenced
from tests.data.double import Volume
from tests.data.mount import Mount, in_use, mounted, until

BIG = 1 << 20


@dataclass
class Stream:
    """As the extension's, in Python."""

    front: Front
    ino: int
    armed: bool = False
    plain: bool = False
    place: tuple[int, int, int, int, int] = (-1, -1, 0, -1, -1)
    new: tuple[bytes, bytes, bytes] | None = None

    def arm(self, fd: int, log_fd: int, log_end: int, last_start: int, last_end: int, span_bytes: int, /) -> None:
        self.place, self.new, self.armed = (fd, log_fd, log_end, last_start, last_end), None, True

    def arm_new(self, path: bytes, log_path: bytes, log_head: bytes, span_bytes: int, /) -> None:
        self.new, self.armed = (path, log_path, log_head), True

    def disarm(self) -> None:
        self.armed = False

    def set_plain(self, plain: bool, /) -> None:
        self.plain = plain

    def end(self) -> None:
        self.armed = self.plain = False
        del self.front.streams[self.ino]

    def write(self, contents: Contents, offset: int, data: bytes, time_ns: int = 77) -> None:
        """Store, log, and tell."""
        assert self.armed
        fd, log_fd, end, first, last = self.place
        if self.new is not None:
            path, log_path, head = self.new
            self.new = None
            fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            log_fd = os.open(log_path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
            end = os.pwrite(log_fd, head, 0)
        log = RangeLog("unused", self.ino, "boot", 0)
        log.appended(log_fd, end, (first, last))
        os.pwrite(fd, data, offset)
        log.write(offset, offset + len(data), time_ns)
        _, end, first, last = log.place
        self.place = (fd, log_fd, end, first, last)
        contents.taken(Taken(self.ino, fd, log_fd, end, first, last, time_ns, ((offset, offset + len(data)),)))


@dataclass
class Front:
    streams: dict[int, Stream] = field(default_factory=dict)
    allowed_bytes: int = 0

    def stream(self, ino: int) -> Stream:
        assert ino not in self.streams, "one for each inode"
        self.streams[ino] = Stream(self, ino)
        return self.streams[ino]

    def allow(self, more_bytes: int) -> int:
        self.allowed_bytes += more_bytes
        return self.allowed_bytes


def given(mount: Mount, **differs: int) -> tuple[Front, int]:
    """A new file, open for writing, which the front may be given. `differs`: from the inode that `make_file` makes."""
    front = Front()
    mount.contents.stand_behind(front)
    ino = mount.volume.make_file()
    mount.contents.opened(ino, True)
    mount.contents.created(ino, replace(mount.volume.inode(ino), **differs))
    return front, ino


def made(mount: Mount) -> tuple[Front, int, Stream]:
    """As `given`, which it was."""
    front, ino = given(mount)
    return front, ino, front.streams[ino]


def test_what_the_front_takes_of_a_new_file_is_the_files(tmp_path: Path) -> None:
    async def main() -> None:
        volume = Volume()
        async with mounted(volume, tmp_path) as mount:
            _, ino, stream = made(mount)
            assert stream.armed
            assert stream.plain
            assert not list((tmp_path / "working").iterdir()), "nothing is made before it is needed"
            stream.write(mount.contents, 0, b"first")
            stream.write(mount.contents, 5, b"second", 88)
            assert await mount.whole(ino) == b"firstsecond"
            shown = mount.contents.attributes(ino, volume.inode(ino))
            assert (shown.size, shown.mtime_ns, shown.ctime_ns) == (11, 88, 88)
            await mount.contents.publish(ino)
            assert volume.inode(ino).size == 11
            assert volume.inode(ino).mtime_ns == 88
            assert await mount.whole(ino) == b"firstsecond"
            mount.contents.closed(ino, True)
            assert not in_use(tmp_path)

    trio.run(main)


def test_a_kill_loses_nothing_that_was_taken(tmp_path: Path) -> None:
    async def main() -> None:
        volume = Volume()
        async with mounted(volume, tmp_path) as mount:
            _, ino, stream = made(mount)
            stream.write(mount.contents, 0, b"first")
            stream.write(mount.contents, 100, b"far")
        async with mounted(volume, tmp_path) as mount:
            assert await mount.whole(ino) == b"first" + bytes(95) + b"far"
            await mount.contents.publish_all()
            assert volume.inode(ino).size == 103

    trio.run(main)


def test_old_bytes_are_dirty_after_five_seconds(tmp_path: Path) -> None:
    """The room that publishes by age knows of them without any other call."""

    async def main() -> None:
        volume = Volume()
        async with mounted(volume, tmp_path) as mount:
            _, ino, stream = made(mount)
            stream.write(mount.contents, 0, b"left alone")
            await until(lambda: volume.inode(ino).size == 10, 30)

    trio.run(main)


Act = Callable[[Mount, int], Awaitable[object]]


async def _truncate(mount: Mount, ino: int) -> None:
    await mount.contents.truncate(ino, 3)


async def _punch(mount: Mount, ino: int) -> None:
    await mount.contents.punch(ino, 0, 2)


async def _extend(mount: Mount, ino: int) -> None:
    await mount.contents.extend(ino, 100)


async def _publish(mount: Mount, ino: int) -> None:
    await mount.contents.publish(ino)


async def _times(mount: Mount, ino: int) -> None:
    assert mount.contents.set_times(ino, 5, 6)


async def _owner(mount: Mount, ino: int) -> None:
    mount.contents.changed(ino, 99)


async def _privileges(mount: Mount, ino: int) -> None:
    mount.contents.reconsider(ino)


async def _foreign(mount: Mount, ino: int) -> None:
    mount.volume.punch(ino, 50, 1)


@pytest.mark.parametrize("act", [_truncate, _punch, _extend, _publish, _times, _owner, _privileges, _foreign])
def test_whatever_else_is_done_to_a_file_ends_it_until_the_next_write(tmp_path: Path, act: Act) -> None:
    async def main() -> None:
        volume = Volume()
        async with mounted(volume, tmp_path) as mount:
            front, ino, stream = made(mount)
            stream.write(mount.contents, 0, b"abcdef")
            await act(mount, ino)
            assert not stream.armed
            await mount.contents.write(ino, 6, b"gh")
            again = front.streams[ino]
            assert again.armed
            again.write(mount.contents, 8, b"ij")
            whole = await mount.whole(ino)
            await mount.contents.publish(ino)
            assert await mount.whole(ino) == whole
            assert whole[6:10] == b"ghij"
        async with mounted(volume, tmp_path) as mount:
            assert await mount.whole(ino) == whole

    trio.run(main)


def test_a_foreign_change_before_the_first_write_is_what_it_is_made_on(tmp_path: Path) -> None:
    async def main() -> None:
        volume = Volume()
        async with mounted(volume, tmp_path / "one") as mount, mounted(volume, tmp_path / "two") as other:
            _, ino, stream = made(mount)
            other.contents.opened(ino, True)
            await other.contents.write(ino, 0, b"theirs")
            await other.contents.publish(ino)
            assert not stream.armed
            await mount.contents.write(ino, 3, b"OURS")
            await mount.contents.publish(ino)
            assert await other.whole(ino) == b"theOURS"

    trio.run(main)


@pytest.mark.parametrize("bits", [0o4000, 0o2000])
def test_a_file_with_privileges_is_not_given(tmp_path: Path, bits: int) -> None:
    async def main() -> None:
        volume = Volume()
        async with mounted(volume, tmp_path) as mount:
            front, _ = given(mount, mode=stat.S_IFREG | bits | 0o644)
            assert not front.streams

    trio.run(main)


def test_a_file_with_attributes_is_asked_for_its_capabilities(tmp_path: Path) -> None:
    """A default label, say. And one that nobody has open waits for a look at the bucket."""

    async def main() -> None:
        volume = Volume()
        async with mounted(volume, tmp_path) as mount:
            front, ino = given(mount, xattrs=1)
            assert front.streams[ino].armed
            assert not front.streams[ino].plain
            _, second, stream = made(mount)
            stream.write(mount.contents, 0, b"x")
            assert stream.plain
            mount.contents.closed(second, True)
            assert not stream.plain

    trio.run(main)


def test_a_fenced_session_gives_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        volume = Volume()
        async with mounted(volume, tmp_path) as mount:
            mount.client.refuse = SessionFenced("ended by others")
            front, _ = given(mount)
            assert not front.streams

    trio.run(main)


def test_it_takes_no_more_than_there_is_room_for(tmp_path: Path) -> None:
    async def main() -> None:
        volume = Volume()
        async with mounted(volume, tmp_path, limits=Limits(unpublished_bytes=BIG, reserve_bytes=0)) as mount:
            front, _ = given(mount)
            assert not front.streams
            assert not front.allowed_bytes

    trio.run(main)


def test_a_second_life_of_the_inode_gets_another_stream(tmp_path: Path) -> None:
    async def main() -> None:
        volume = Volume()
        async with mounted(volume, tmp_path) as mount:
            front, ino, stream = made(mount)
            stream.write(mount.contents, 0, b"x")
            await mount.contents.publish(ino)
            mount.contents.closed(ino, True)
            assert not front.streams
            mount.contents.opened(ino, True)
            await mount.contents.write(ino, 1, b"y")
            assert front.streams[ino].armed
            assert await mount.whole(ino) == b"xy"

    trio.run(main)
