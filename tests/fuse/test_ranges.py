"""fallocate, SEEK_DATA and SEEK_HOLE, copy_file_range, mappings and odd offsets through the kernel."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import json
import mmap
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from s3vfs.filesystem.ranges import KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE
from tests.mounted import Mount, Volume, differs_with_passthrough, eventually

Pair = tuple[Path, Path]
MIB = 1 << 20

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


def fallocate(descriptor: int, mode: int, offset: int, length: int) -> None:
    if _libc.fallocate(descriptor, mode, offset, length):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


@contextlib.contextmanager
def opened(path: Path, flags: int = os.O_RDWR | os.O_CREAT) -> Iterator[int]:
    descriptor = os.open(path, flags, 0o644)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def data_of(descriptor: int) -> list[tuple[int, int]]:
    """The parts of a file that hold data."""
    found: list[tuple[int, int]] = []
    at = 0
    while True:
        try:
            at = os.lseek(descriptor, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return found
        end = os.lseek(descriptor, at, os.SEEK_HOLE)
        found.append((at, end))
        at = end


@pytest.fixture
def volume_mount(volume: Volume) -> Mount:
    """A mount of a volume of the test's own."""
    return volume.mount()


def status_of(mount: Mount) -> Any:
    """`s3vfs status --json`."""
    command = [sys.executable, "-m", "s3vfs", "status", str(mount.path), "--json"]
    return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)


def failures(call: Callable[[], object]) -> list[int]:
    """The errno of a call, nothing when it succeeds."""
    try:
        call()
    except OSError as error:
        return [error.errno or 0]
    return []


class Fails:
    """`with Fails(errno)`: the block raises OSError with it."""

    def __init__(self, code: int) -> None:
        self._code = code

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> bool:
        assert isinstance(error, OSError), f"expected {errno.errorcode[self._code]}, got {error!r}"
        assert error.errno == self._code, f"expected {errno.errorcode[self._code]}, got {error!r}"
        return True


# -- fallocate --------------------------------------------------------------------------------------------------------


def test_fallocate_on_one_mount_shows_on_the_other_after_close(pair: Pair) -> None:
    here, there = pair
    with opened(here / "f") as descriptor:
        os.write(descriptor, b"a" * 100_000)
        fallocate(descriptor, PUNCH_HOLE | KEEP_SIZE, 10_000, 20_000)
        fallocate(descriptor, ZERO_RANGE | KEEP_SIZE, 50_000, 10)
        fallocate(descriptor, ZERO_RANGE, 99_990, 1_010)
        fallocate(descriptor, KEEP_SIZE, 0, 1 << 30)
        fallocate(descriptor, 0, 0, 200_000)
        want = b"a" * 10_000 + bytes(20_000) + b"a" * 20_000 + bytes(10) + b"a" * 49_980 + bytes(100_010)
        assert os.pread(descriptor, 1 << 20, 0) == want
        assert os.fstat(descriptor).st_size == 200_000
        data = [(0, 10_000), (30_000, 50_000), (50_010, 99_990)]
        assert data_of(descriptor) == data
        os.fsync(descriptor)
        assert data_of(descriptor) == data
        assert os.fstat(descriptor).st_blocks == -(-79_980 // 4096) * 8
    assert (there / "f").read_bytes() == want
    with opened(there / "f", os.O_RDONLY) as descriptor:
        assert data_of(descriptor) == data
        assert os.fstat(descriptor).st_blocks == -(-79_980 // 4096) * 8


def test_fallocate_refuses_what_it_does_not_do(root: Path) -> None:
    with opened(root / "f") as descriptor:
        for mode in (0x08, 0x20, 0x40 | 0x01, PUNCH_HOLE):
            with Fails(errno.EOPNOTSUPP):
                fallocate(descriptor, mode, 0, 4096)
        with Fails(errno.EINVAL):
            fallocate(descriptor, 0, 0, 0)
        with Fails(errno.EINVAL):
            fallocate(descriptor, 0, -1, 1)
        with Fails(errno.EFBIG):
            fallocate(descriptor, 0, 1 << 62, 1 << 62)
        os.posix_fallocate(descriptor, 0, 12_345)
        assert os.fstat(descriptor).st_size == 12_345
    with opened(root / "f", os.O_RDONLY) as descriptor, Fails(errno.EBADF):
        fallocate(descriptor, 0, 0, 1)
    with opened(root, os.O_RDONLY) as descriptor, Fails(errno.EBADF):
        fallocate(descriptor, 0, 0, 1)
    read_end, write_end = os.pipe()
    with Fails(errno.ESPIPE):
        fallocate(write_end, 0, 0, 1)
    os.close(read_end)
    os.close(write_end)


def test_holes_survive_kill_9(volume_mount: Mount) -> None:
    path = volume_mount.path / "f"
    path.write_bytes(b"a" * 100_000)
    descriptor = os.open(path, os.O_RDWR)
    os.pwrite(descriptor, b"b" * 10_000, 0)
    fallocate(descriptor, PUNCH_HOLE | KEEP_SIZE, 5_000, 50_000)
    fallocate(descriptor, 0, 0, 150_000)
    volume_mount.kill()
    with contextlib.suppress(OSError):
        os.close(descriptor)
    volume_mount.start()
    assert path.read_bytes() == b"b" * 5_000 + bytes(50_000) + b"a" * 45_000 + bytes(50_000)


# -- copy_file_range --------------------------------------------------------------------------------------------------


def test_a_copied_range_shows_at_once_and_on_the_other_mount(pair: Pair) -> None:
    here, there = pair
    data = os.urandom(300_000)
    with opened(here / "source") as source, opened(here / "target") as target:
        os.write(source, data)
        os.write(target, b"t" * 500_000)
        assert os.pread(target, 10, 100_000) == b"t" * 10  # in the page cache
        assert os.copy_file_range(source, target, 200_000, 50_000, 99_000) == 200_000
        want = b"t" * 99_000 + data[50_000:250_000] + b"t" * 201_000
        assert os.pread(target, 1 << 20, 0) == want
        assert (there / "target").read_bytes() == want
        assert os.copy_file_range(source, target, 1 << 20, 299_000, 500_000) == 1_000
        assert os.fstat(target).st_size == 501_000
        assert os.copy_file_range(source, target, 1 << 20, 300_000, 0) == 0
    assert (there / "target").read_bytes() == want + data[299_000:]


def test_copy_file_range_refuses(root: Path) -> None:
    with opened(root / "f") as both, opened(root / "g") as other:
        os.write(both, bytes(100))
        with Fails(errno.EINVAL):
            os.copy_file_range(both, both, 50, 0, 20)
        assert os.copy_file_range(both, both, 50, 0, 50) == 50
        with opened(root / "f", os.O_WRONLY) as writer, Fails(errno.EBADF):
            os.copy_file_range(writer, other, 1, 0, 0)
        with opened(root / "g", os.O_RDONLY) as reader, Fails(errno.EBADF):
            os.copy_file_range(both, reader, 1, 0, 0)
        with opened(root / "g", os.O_WRONLY | os.O_APPEND) as appender, Fails(errno.EBADF):
            os.copy_file_range(both, appender, 1)


def test_mapped_stores_are_in_the_copy(root: Path) -> None:
    with opened(root / "f") as source, opened(root / "g") as target:
        os.write(source, b"a" * 10_000)
        with mmap.mmap(source, 10_000) as mapped:
            mapped[5_000:5_003] = b"bbb"
            assert os.copy_file_range(source, target, 10_000, 0) == 10_000
        assert os.pread(target, 20_000, 0) == b"a" * 5_000 + b"bbb" + b"a" * 4_997


def test_cp_moves_no_data(volume_mount: Mount) -> None:
    source = volume_mount.path / "source"
    data = os.urandom(1 << 20) * 40
    source.write_bytes(data)
    before = status_of(volume_mount)["contents"]
    subprocess.run(["cp", str(source), str(volume_mount.path / "target")], check=True)
    after = status_of(volume_mount)["contents"]
    assert (after["objects_put"], after["bytes_put"]) == (before["objects_put"], before["bytes_put"])
    assert after["fetch"] == before["fetch"]
    assert (volume_mount.path / "target").read_bytes() == data
    with opened(volume_mount.path / "sparse") as descriptor:
        os.pwrite(descriptor, b"x" * 5_000, 1 << 30)
        os.ftruncate(descriptor, 1 << 31)
    subprocess.run(["cp", str(volume_mount.path / "sparse"), str(volume_mount.path / "copy")], check=True)
    with opened(volume_mount.path / "copy", os.O_RDONLY) as descriptor:
        assert os.fstat(descriptor).st_size == 1 << 31
        assert data_of(descriptor) == [(1 << 30, (1 << 30) + 5_000)]


# -- mappings ---------------------------------------------------------------------------------------------------------


def test_a_mapping_made_after_a_close_elsewhere_sees_what_was_written(pair: Pair) -> None:
    here, there = pair
    size = 70_000
    (here / "f").write_bytes(b"0" * size)
    assert (there / "f").read_bytes() == b"0" * size
    for round_number in range(1, 8):
        byte = b"%d" % round_number
        with opened(here / "f", os.O_RDWR) as descriptor, mmap.mmap(descriptor, size) as mapped:
            mapped[:] = byte * size
        with (
            opened(there / "f", os.O_RDONLY) as descriptor,
            mmap.mmap(descriptor, size, mmap.MAP_SHARED, mmap.PROT_READ) as mapped,
        ):
            assert mapped[:] == byte * size
        here, there = there, here


def test_private_mappings_keep_their_stores_to_themselves(pair: Pair) -> None:
    here, there = pair
    (here / "f").write_bytes(b"a" * 10_000)
    with opened(here / "f", os.O_RDWR) as descriptor:
        with mmap.mmap(descriptor, 10_000, mmap.MAP_PRIVATE) as mapped:
            mapped[100:200] = b"b" * 100
            assert mapped[100:200] == b"b" * 100
        os.fsync(descriptor)
    assert (there / "f").read_bytes() == b"a" * 10_000


@differs_with_passthrough("msync is local until fsync")
def test_msync_and_fsync_bring_mapped_stores_to_the_other_mount(pair: Pair) -> None:
    here, there = pair
    (here / "f").write_bytes(b"a" * 10_000)
    with opened(here / "f", os.O_RDWR) as descriptor, mmap.mmap(descriptor, 10_000) as mapped:
        for byte in b"bc":
            mapped[5_000] = byte
            mapped.flush()  # msync(MS_SYNC)
            assert (there / "f").read_bytes()[5_000] == byte
        mapped[6_000] = 0x64
        os.fsync(descriptor)
        assert (there / "f").read_bytes()[6_000] == 0x64
        os.ftruncate(descriptor, 4_096)
        assert os.pread(descriptor, 10_000, 0) == b"a" * 4_096


def test_stores_after_the_last_close_arrive_with_the_mapping_s_end(pair: Pair) -> None:
    here, there = pair
    (here / "f").write_bytes(b"a" * 10_000)
    with opened(here / "f", os.O_RDWR) as descriptor:
        mapped = mmap.mmap(descriptor, 10_000)
    mapped[7] = 0x62
    mapped.close()
    eventually(lambda: (there / "f").read_bytes()[7] == 0x62)


# -- durable and direct writes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("flag", [os.O_SYNC, os.O_DSYNC])
def test_synchronous_writes_are_in_the_bucket_when_they_return(pair: Pair, flag: int) -> None:
    here, there = pair
    with opened(here / "f", os.O_RDWR | os.O_CREAT | flag) as descriptor:
        for number in range(5):
            os.pwrite(descriptor, b"%d" % number * 5_000, number * 5_000)
            assert (there / "f").read_bytes()[number * 5_000 :] == b"%d" % number * 5_000
        os.pwrite(descriptor, b"x" * 3 * MIB, 0)
        assert (there / "f").read_bytes() == b"x" * 3 * MIB


def test_direct_reads_and_writes(pair: Pair) -> None:
    here, there = pair
    with opened(here / "f", os.O_RDWR | os.O_CREAT | os.O_DIRECT) as descriptor, mmap.mmap(-1, 8_192) as buffer:
        buffer[:] = b"d" * 8_192
        assert os.pwritev(descriptor, [buffer], 4_096) == 8_192
        buffer[:] = bytes(8_192)
        assert os.preadv(descriptor, [buffer], 4_096) == 8_192
        assert buffer[:] == b"d" * 8_192
        with opened(here / "f", os.O_RDWR) as cached:
            os.pwrite(cached, b"c" * 10, 4_100)
            assert os.preadv(descriptor, [buffer], 4_096) == 8_192
            assert buffer[:20] == b"dddd" + b"c" * 10 + b"d" * 6
            buffer[:] = b"e" * 8_192
            os.pwritev(descriptor, [buffer], 4_096)
            assert os.pread(cached, 20_000, 4_096) == b"e" * 8_192
    assert (there / "f").read_bytes() == bytes(4_096) + b"e" * 8_192


# -- offsets ----------------------------------------------------------------------------------------------------------


@differs_with_passthrough("sizes reach as far as files of the local disk")
def test_files_reach_beyond_4_gib_and_to_the_end_of_off_t(pair: Pair) -> None:
    here, there = pair
    most = 2**63 - 1
    with opened(here / "f") as descriptor:
        os.pwrite(descriptor, b"five", (5 << 30) - 2)
        assert os.pread(descriptor, 8, (5 << 30) - 4) == b"\0\0five"
        os.ftruncate(descriptor, most)
        assert os.fstat(descriptor).st_size == most
        assert os.pread(descriptor, 10, most - 10) == bytes(10)
        assert data_of(descriptor) == [((5 << 30) - 2, (5 << 30) + 2)]
    with opened(there / "f") as descriptor:
        assert os.fstat(descriptor).st_size == most
        assert os.pread(descriptor, 8, (5 << 30) - 4) == b"\0\0five\0\0"
        assert os.pread(descriptor, 10, most - 10) == bytes(10)
        os.ftruncate(descriptor, 10)
        assert os.pread(descriptor, 100, 0) == bytes(10)
    assert (here / "f").read_bytes() == bytes(10)


def test_an_offset_that_the_local_disk_does_not_have_is_too_large(pair: Pair, shared_mount: Mount) -> None:
    """Working files are sparse files on the local disk, which ends before the format does (ext4: 16 TiB)."""
    here, there = pair
    with opened(here / "f") as descriptor:
        os.pwrite(descriptor, b"start", 0)
        far = 2**63 - 4_097
        with opened(shared_mount.cache / "as large") as local:
            code = next(iter(failures(lambda: os.pwrite(local, b"far", far))), 0)
        assert failures(lambda: os.pwrite(descriptor, b"far", far)) == ([errno.EFBIG] if code else [])
        assert os.fstat(descriptor).st_size == (5 if code else far + 3)
    with opened(there / "f") as descriptor:
        assert os.pread(descriptor, 5, 0) == b"start"


def test_truncation_beyond_the_end_makes_zeros(pair: Pair) -> None:
    here, there = pair
    with opened(here / "f") as descriptor:
        os.write(descriptor, b"a" * 5_000)
        os.ftruncate(descriptor, 3_000)
        os.ftruncate(descriptor, 10_000)
        want = b"a" * 3_000 + bytes(7_000)
        assert os.pread(descriptor, 20_000, 0) == want
        with mmap.mmap(descriptor, 10_000) as mapped:
            assert mapped[:] == want
    assert (there / "f").read_bytes() == want
    os.truncate(there / "f", 20_000)
    assert eventually(lambda: (here / "f").read_bytes() == want + bytes(10_000))


# -- files that others unlink, replace and move -----------------------------------------------------------------------


def test_a_file_that_the_other_mount_unlinked_lives_on_for_its_handles(pair: Pair) -> None:
    here, there = pair
    (here / "f").write_bytes(b"a" * 100_000)
    with opened(there / "f", os.O_RDWR) as descriptor, opened(here / "f", os.O_RDONLY) as other:
        os.unlink(here / "f")
        assert eventually(lambda: not (there / "f").exists())
        assert os.pread(descriptor, 200_000, 0) == b"a" * 100_000
        os.pwrite(descriptor, b"b" * 10, 50_000)
        os.ftruncate(descriptor, 60_000)
        fallocate(descriptor, PUNCH_HOLE | KEEP_SIZE, 0, 10)
        want = bytes(10) + b"a" * 49_990 + b"b" * 10 + b"a" * 9_990
        assert os.pread(descriptor, 200_000, 0) == want
        os.fsync(descriptor)
        assert os.pread(descriptor, 200_000, 0) == want
        assert eventually(lambda: os.fstat(descriptor).st_nlink == 0)
        with opened(there / "copy") as copy:
            assert os.copy_file_range(descriptor, copy, 200_000, 0, 0) == 60_000
        assert (here / "copy").read_bytes() == want
        assert len(os.pread(other, 200_000, 0)) in (60_000, 100_000)


def test_open_files_do_not_notice_renames_on_the_other_mount(pair: Pair) -> None:
    here, there = pair
    (here / "d").mkdir()
    with opened(here / "d" / "f") as descriptor:
        os.write(descriptor, b"one ")
        os.fsync(descriptor)
        os.rename(there / "d" / "f", there / "d" / "g")
        os.write(descriptor, b"two ")
        os.rename(there / "d", there / "e")
        os.write(descriptor, b"three")
        assert os.pread(descriptor, 100, 0) == b"one two three"
    assert (there / "e" / "g").read_bytes() == b"one two three"
    assert eventually(lambda: (here / "e" / "g").read_bytes() == b"one two three")


# -- O_APPEND ---------------------------------------------------------------------------------------------------------


@differs_with_passthrough("O_APPEND is exact when it is given at open")
def test_append_set_later_goes_behind_what_others_appended(pair: Pair) -> None:
    here, there = pair
    with opened(here / "f") as one, opened(there / "f") as two:
        for descriptor in (one, two):
            fcntl.fcntl(descriptor, fcntl.F_SETFL, os.O_APPEND)
        for number in range(10):
            for descriptor, word in ((one, b"one"), (two, b"two")):
                assert os.write(descriptor, b"%s%d " % (word, number)) == 5
        want = b"".join(b"one%d two%d " % (number, number) for number in range(10))
        assert os.pread(two, 1_000, 0) == want
        assert os.fstat(two).st_size == len(want)
    assert (here / "f").read_bytes() == (there / "f").read_bytes() == want


def test_append_set_later_places_writes_at_the_end(root: Path) -> None:
    with opened(root / "f") as descriptor:
        os.write(descriptor, b"abc")
        fcntl.fcntl(descriptor, fcntl.F_SETFL, os.O_APPEND)
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.write(descriptor, b"def")
        assert os.pread(descriptor, 10, 0) == b"abcdef"
        fcntl.fcntl(descriptor, fcntl.F_SETFL, 0)
        os.pwrite(descriptor, b"X", 0)
        assert os.pread(descriptor, 10, 0) == b"Xbcdef"
