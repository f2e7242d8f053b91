"""kill -9 in the middle of a large copy, while another machine writes to the same file: nothing is lost silently, and
nothing that was written since is overwritten by what had been committed before."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

import pytest

from tests.acceptance import fsck
from tests.mounted import Mount, Volume, eventually

MIB = 1 << 20
_NOISE = os.urandom(MIB)
_MARK_BYTES = 4096


def block(number: int) -> bytes:
    return number.to_bytes(8, "big") + _NOISE[8:]


class Copy:
    """Writes block after block through one mount, then fsyncs. `written`: how many were acknowledged."""

    def __init__(self, mount: Mount, blocks: int) -> None:
        self._fd = os.open(mount.path / "file", os.O_CREAT | os.O_WRONLY, 0o644)
        self._blocks = blocks
        self.written = 0
        self.failure: OSError | None = None
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        try:
            for number in range(self._blocks):
                assert os.pwrite(self._fd, block(number), number * MIB) == MIB
                self.written = number + 1
            os.fsync(self._fd)
        except OSError as error:
            self.failure = error


class Marker:
    """On the other mount: marks blocks that it sees, with fsync. `marks`: by block."""

    def __init__(self, mount: Mount, copy: Copy) -> None:
        self._path = mount.path / "file"
        self._copy = copy
        self._next = 0
        self.marks: dict[int, bytes] = {}
        self.passes = 0  # each ends at the first block that is not in the journal
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        while not self.stop.is_set():
            for number in range(self._next, self._copy.written):
                if self.stop.is_set() or not self._mark(number):
                    break
                self._next = number + 1
            self.passes += 1
            self.stop.wait(0.01)

    def _mark(self, number: int) -> bool:
        """False: the block is not in the journal yet."""
        fd = os.open(self._path, os.O_RDWR)  # anew each time: an open sees what was committed before it
        try:
            if os.pread(fd, 8, number * MIB) != block(number)[:8] or os.fstat(fd).st_size < (number + 1) * MIB:
                return False
            mark = b"marked %08d" % number * (_MARK_BYTES // 15)
            os.pwrite(fd, mark, number * MIB + 8)
            os.fsync(fd)
            self.marks[number] = mark
            return True
        finally:
            os.close(fd)


def killed_while_both_write(volume: Volume, blocks: int, moment: Callable[[Copy, Marker], bool]) -> None:
    here, there = volume.mount("--freshness", "0"), volume.mount("--freshness", "0")
    copy = Copy(here, blocks)
    eventually((there.path / "file").exists)
    marker = Marker(there, copy)
    eventually(lambda: moment(copy, marker), within_s=300)
    here.kill()
    copy.thread.join(60)
    assert copy.failure is not None
    passes = marker.passes
    eventually(lambda: marker.passes >= passes + 2, within_s=120)  # all that is there has been marked
    marker.stop.set()
    marker.thread.join(60)
    here.start()
    fd = os.open(here.path / "file", os.O_RDWR)
    os.fsync(fd)
    os.close(fd)
    for mount in (here, there):
        with open(mount.path / "file", "rb") as file:
            for number in range(copy.written):
                wanted = bytearray(block(number))
                mark = marker.marks.get(number, b"")
                wanted[8 : 8 + len(mark)] = mark
                assert file.read(MIB) == wanted, f"block {number}, marked: {bool(mark)}"
    print(f"{copy.written} blocks acknowledged, {len(marker.marks)} of them marked by the other mount")
    assert marker.marks
    assert not [path for mount in (here, there) for path in mount.cache.rglob("spill/*")]
    assert here.umount() == 0
    assert there.umount() == 0
    assert fsck.check(volume.url).problems == []


@pytest.mark.long
def test_killed_in_the_middle_of_a_copy_of_1_gib_into_a_file_that_another_mount_writes_to(volume: Volume) -> None:
    killed_while_both_write(volume, 1024, lambda copy, marker: copy.written >= 640 and len(marker.marks) >= 5)


@pytest.mark.long
def test_killed_while_1_gib_is_published_and_another_mount_writes_to_it(volume: Volume) -> None:
    """The first commit of several is in the journal, as the other sees, and the last one is not."""
    killed_while_both_write(volume, 1024, lambda copy, marker: copy.written == 1024 and len(marker.marks) >= 1)
