"""Reading, writing and publishing through Contents, against what POSIX says and against a model."""

from __future__ import annotations

from pathlib import Path

import trio
import trio.testing

from s3vfs.namespace.ops import Setattr, Write
from tests.data.double import Volume
from tests.data.mount import mounted


def test_what_was_written_is_read_before_and_after_it_is_published(tmp_path: Path) -> None:
    async def main() -> None:
        volume = Volume()
        ino = volume.make_file()
        async with mounted(volume, tmp_path) as mount:
            contents = mount.contents
            contents.opened(ino, True)
            data = bytes(range(200))
            assert await contents.write(ino, 0, data) == 200
            assert await mount.whole(ino) == data
            assert volume.inode(ino).size == 0
            await contents.publish(ino)
            assert volume.inode(ino).size == 200
            assert await mount.whole(ino) == data
            contents.closed(ino, True)
            assert await mount.whole(ino) == data
        async with mounted(volume, tmp_path / "other") as other:
            assert await other.whole(ino) == data

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_a_truncate_leaves_before_the_bytes_that_were_written_after_it(tmp_path: Path) -> None:
    async def main() -> None:
        volume = Volume()
        ino = volume.make_file()
        async with mounted(volume, tmp_path) as mount:
            contents = mount.contents
            contents.opened(ino, True)
            await contents.write(ino, 0, b"a" * 100)
            await contents.publish(ino)
            await contents.truncate(ino, 10)
            await contents.write(ino, 20, b"b" * 5)
            assert await mount.whole(ino) == b"a" * 10 + bytes(10) + b"b" * 5
            await contents.publish(ino)
            kinds = [type(op) for op in volume.records[-1]]
            assert kinds.index(Setattr) < kinds.index(Write)
            assert await mount.whole(ino) == b"a" * 10 + bytes(10) + b"b" * 5
        async with mounted(volume, tmp_path / "other") as other:
            assert await other.whole(ino) == b"a" * 10 + bytes(10) + b"b" * 5

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
