"""Files that the kernel reads and writes by itself: nobody may see the difference, but for the speed (DESIGN 8).

Needs root and Linux 6.9, as passthrough does. What keeps the daemon from being asked is that it is stopped meanwhile.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import mmap
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.mounted import Mount, Volume, eventually

_MIB = 1 << 20
_NOBODY = 65534
_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mmap.restype = ctypes.c_void_p
_LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_int64]
_LIBC.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


def lent(mount: Mount) -> dict[str, Any]:
    shown = subprocess.run(
        [sys.executable, "-m", "s3vfs", "status", "--json", str(mount.path)], check=True, capture_output=True, text=True
    )
    figures: dict[str, Any] = json.loads(shown.stdout)["io"]
    return figures


def whole(path: Path) -> bytes:
    return path.read_bytes()


def working_files(mount: Mount) -> list[Path]:
    """Those that are in use: others wait, empty, for the next file."""
    found = []
    for path in mount.cache.glob("*/sessions/*/working/*"):
        with contextlib.suppress(FileNotFoundError):
            if path.suffix != ".log" and path.stat().st_size:
                found.append(path)
    return found


class Mapping:
    """Shared memory of a file, as C has it: Python's own keeps a descriptor, and with that the handle."""

    def __init__(self, descriptor: int, length: int) -> None:
        place = _LIBC.mmap(None, length, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED, descriptor, 0)
        assert place not in (None, ctypes.c_void_p(-1).value)
        self._place, self._length = ctypes.c_void_p(place), length
        self._bytes = (ctypes.c_ubyte * length).from_address(place)

    def __setitem__(self, index: int, value: int) -> None:
        self._bytes[index] = value

    def close(self) -> None:
        _LIBC.munmap(self._place, self._length)


def close_dead(descriptor: int) -> None:
    """A descriptor whose daemon was killed: nobody is there to hear of it."""
    with pytest.raises(OSError, match=os.strerror(errno.ENOTCONN)):
        os.close(descriptor)


def lent_reader(mount: Mount, name: str, data: bytes) -> int:
    """A read-only descriptor of a file of the other mount's, served by the kernel."""
    for _ in range(2):  # the first time it is fetched, and verified
        descriptor = os.open(mount.path / name, os.O_RDONLY)
        if lent(mount)["handles"]:
            return descriptor
        assert os.pread(descriptor, len(data), 0) == data
        os.close(descriptor)
    descriptor = os.open(mount.path / name, os.O_RDONLY)
    assert lent(mount)["handles"] == 1
    return descriptor


@pytest.fixture
def data() -> bytes:
    """Two objects, and a tail that lies in a pack."""
    return os.urandom(16 * _MIB + 12345)


@pytest.fixture
def two_mounts(volume: Volume) -> tuple[Mount, Mount]:
    options = ("--freshness", "0", "--io", "passthrough")
    return volume.mount(*options), volume.mount(*options)


# -- readers ----------------------------------------------------------------------------------------------------------


def test_a_cached_file_is_read_without_the_daemon(two_mounts: tuple[Mount, Mount], data: bytes) -> None:
    here, there = two_mounts
    (there.path / "file").write_bytes(data)
    descriptor = lent_reader(here, "file", data)
    try:
        with mmap.mmap(descriptor, len(data), prot=mmap.PROT_READ) as mapping, here.frozen():
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            assert os.pread(descriptor, len(data) + 1, 0) == data
            assert os.pread(descriptor, 5000, 9 * _MIB - 10) == data[9 * _MIB - 10 : 9 * _MIB + 4990]
            assert mapping[:] == data
            assert b"".join(iter(lambda: os.read(descriptor, 100_000), b"")) == data
    finally:
        os.close(descriptor)


def test_an_open_sees_what_others_wrote_though_an_old_handle_is_lent(
    two_mounts: tuple[Mount, Mount], data: bytes
) -> None:
    here, there = two_mounts
    (there.path / "file").write_bytes(data)
    old = lent_reader(here, "file", data)
    try:
        for round_number in range(5):
            place, mark = round_number * 3 * _MIB + 100, b"round %d" % round_number
            with open(there.path / "file", "r+b") as out:
                out.seek(place)
                out.write(mark)
            data = data[:place] + mark + data[place + len(mark) :]
            new = os.open(here.path / "file", os.O_RDONLY)
            assert os.pread(new, len(mark), place) == mark
            with mmap.mmap(new, len(data), prot=mmap.PROT_READ) as mapping:
                assert mapping[:] == data
            os.close(new)
        assert lent(here)["handles"] == 1
        assert os.pread(old, len(data), 0) == data
    finally:
        os.close(old)


def test_sizes_that_others_set_are_those_of_lent_files(two_mounts: tuple[Mount, Mount], data: bytes) -> None:
    here, there = two_mounts
    (there.path / "file").write_bytes(data)
    old = lent_reader(here, "file", data)
    try:
        for size in (5 * _MIB + 1, 0, 3, 9 * _MIB):
            os.truncate(there.path / "file", size)
            data = data[:size].ljust(size, b"\0")
            assert whole(here.path / "file") == data
            eventually(lambda wanted=size: os.fstat(old).st_size == wanted)  # type: ignore[misc]
            assert os.pread(old, size + 1, 0) == data
        with open(there.path / "file", "ab") as out:
            out.write(b"grown")
        data += b"grown"
        eventually(lambda: os.fstat(old).st_size == len(data))
        assert os.pread(old, 100, len(data) - 5) == b"grown"
    finally:
        os.close(old)


def test_times_of_a_lent_file_move_and_never_go_back(volume: Volume) -> None:
    """The local kernel's clock goes in ticks, and it sees no change where the size stays."""
    mount = volume.mount("--io", "passthrough")
    descriptor = os.open(mount.path / "file", os.O_RDWR | os.O_CREAT)
    os.ftruncate(descriptor, 1 << 20)
    before = os.fstat(descriptor)
    for _ in range(10):
        os.ftruncate(descriptor, 1 << 20)
        after = os.fstat(descriptor)
        assert after.st_ctime_ns >= before.st_ctime_ns
        os.posix_fallocate(descriptor, 0, 100)
        moved = os.fstat(descriptor)
        assert moved.st_mtime_ns > after.st_mtime_ns
        assert moved.st_ctime_ns > after.st_ctime_ns
        before = moved
    assert working_files(mount)[0].stat().st_mtime_ns == before.st_mtime_ns  # it was that file's all the time
    os.close(descriptor)


@pytest.mark.parametrize("io", ["auto", "passthrough"])
def test_every_kind_of_open_joins_a_lent_file(volume: Volume, data: bytes, io: str) -> None:
    here, there = (volume.mount("--freshness", "0", "--io", io) for _ in range(2))
    (there.path / "file").write_bytes(data)
    reader = lent_reader(here, "file", data)
    path = here.path / "file"
    try:
        for number, flags in enumerate((0, os.O_APPEND, os.O_SYNC, os.O_DSYNC, os.O_DIRECT)):
            mark = b"written %d" % number
            writer = os.open(path, os.O_RDWR | flags)
            if flags == os.O_APPEND:
                os.write(writer, mark)
                data += mark
            else:
                os.pwrite(writer, mark, number * _MIB)
                data = data[: number * _MIB] + mark + data[number * _MIB + len(mark) :]
            assert os.pread(reader, len(data), 0) == data
            if flags & os.O_DSYNC:
                assert whole(there.path / "file") == data
            with mmap.mmap(writer, len(data)) as mapping:
                mapping[5 * _MIB + number] = 64 + number
            data = data[: 5 * _MIB + number] + bytes([64 + number]) + data[5 * _MIB + number + 1 :]
            assert os.pread(reader, len(data), 0) == data
            os.close(writer)
            assert whole(there.path / "file") == data
        os.truncate(path, 6 * _MIB)
        assert os.pread(reader, len(data), 0) == data[: 6 * _MIB]
        assert whole(there.path / "file") == data[: 6 * _MIB]
    finally:
        os.close(reader)
    assert whole(path) == data[: 6 * _MIB]


def test_what_is_lent_is_not_evicted_and_comes_back(volume: Volume, data: bytes) -> None:
    there = volume.mount("--freshness", "0", "--io", "passthrough")
    here = volume.mount("--freshness", "0", "--io", "passthrough", "--cache-size", "40MiB")
    (there.path / "file").write_bytes(data)
    for number in range(4):
        (there.path / f"other{number}").write_bytes(os.urandom(16 * _MIB))
    descriptor = lent_reader(here, "file", data)
    try:
        for number in range(4):
            whole(here.path / f"other{number}")
        with here.frozen():
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            assert os.pread(descriptor, len(data), 0) == data
    finally:
        os.close(descriptor)
    eventually(lambda: not working_files(here))
    assert whole(here.path / "file") == data


def test_a_killed_daemon_leaves_readers_their_file(two_mounts: tuple[Mount, Mount], data: bytes) -> None:
    here, there = two_mounts
    (there.path / "file").write_bytes(data)
    descriptor = lent_reader(here, "file", data)
    try:
        here.kill()
        assert os.pread(descriptor, len(data), 0) == data
        with open(there.path / "file", "r+b") as out:
            out.write(b"afterwards")
        here.start()
        assert whole(here.path / "file") == b"afterwards" + data[10:]
    finally:
        close_dead(descriptor)


def test_mounts_that_share_a_cache_leave_its_files_there(volume: Volume, data: bytes) -> None:
    """Taken out for one, they would have to be fetched again for the other."""
    here = volume.mount("--freshness", "0", "--io", "passthrough")
    (here.path / "file").write_bytes(data)
    eventually(lambda: not working_files(here))
    other = Mount(volume.url, volume.folder / "sharing", "--freshness", "0", "--io", "passthrough")
    other.cache = here.cache
    volume.mounts.append(other)
    other.start()
    for mount in (here, other, here, other):
        with open(mount.path / "file", "rb") as stream:
            assert stream.read() == data
            assert lent(mount)["handles"] == 0
    assert other.umount() == 0
    whole(here.path / "file")
    with open(here.path / "file", "rb"):
        assert lent(here)["handles"] == 1


# -- writers ----------------------------------------------------------------------------------------------------------


def test_a_new_file_is_written_without_the_daemon(two_mounts: tuple[Mount, Mount], data: bytes) -> None:
    here, there = two_mounts
    descriptor = os.open(here.path / "file", os.O_RDWR | os.O_CREAT, 0o644)
    os.write(descriptor, data[:1])  # before the first one the kernel asks for capabilities
    with here.frozen():
        assert os.write(descriptor, data[1:]) == len(data) - 1
        assert os.pread(descriptor, 100, 1000) == data[1000:1100]
    assert os.fstat(descriptor).st_size == len(data)
    os.fsync(descriptor)
    assert whole(there.path / "file") == data
    os.pwrite(descriptor, b"again", 5 * _MIB)
    os.close(descriptor)
    assert whole(there.path / "file") == data[: 5 * _MIB] + b"again" + data[5 * _MIB + 5 :]
    eventually(lambda: not working_files(here))


def test_an_equal_time_hides_nothing_from_fsync(two_mounts: tuple[Mount, Mount]) -> None:
    """Stores to a page that is dirty already move no time at all."""
    here, there = two_mounts
    descriptor = os.open(here.path / "file", os.O_RDWR | os.O_CREAT, 0o644)
    os.ftruncate(descriptor, 4096)
    with mmap.mmap(descriptor, 4096) as mapping:
        for number in range(200):
            mapping[0:4] = b"%04d" % number
            os.fsync(descriptor)
            assert whole(there.path / "file")[:4] == b"%04d" % number
    os.close(descriptor)


def test_stores_after_close_are_published(two_mounts: tuple[Mount, Mount]) -> None:
    here, there = two_mounts
    descriptor = os.open(here.path / "file", os.O_RDWR | os.O_CREAT, 0o644)
    os.write(descriptor, bytes(8192))
    mapping = Mapping(descriptor, 8192)
    mapping[0] = 1
    os.close(descriptor)
    assert whole(there.path / "file")[:2] == b"\1\0"
    mapping[1] = 2
    eventually(lambda: whole(there.path / "file")[:3] == b"\1\2\0", within_s=30)
    assert working_files(here), "the kernel can still write to it (R14)"
    mapping[2] = 3  # the page is dirty: nothing tells of this
    assert whole(here.path / "file")[:4] == b"\1\2\3\0"
    mapping.close()
    eventually(lambda: whole(there.path / "file")[:4] == b"\1\2\3\0", within_s=30)
    eventually(lambda: not working_files(here), within_s=30)


def test_writes_after_kill_9_are_published_by_the_next_daemon(two_mounts: tuple[Mount, Mount]) -> None:
    here, there = two_mounts
    descriptor = os.open(here.path / "file", os.O_RDWR | os.O_CREAT, 0o644)
    os.write(descriptor, b"a" * 100_000)
    os.fsync(descriptor)
    os.pwrite(descriptor, b"before", 0)
    here.kill()
    os.pwrite(descriptor, b"after", 50_000)
    here.start()
    eventually(lambda: whole(there.path / "file")[50_000:50_005] == b"after", within_s=30)
    assert whole(there.path / "file")[:6] == b"before"
    os.pwrite(descriptor, b"later", 99_999)
    expected = b"before" + b"a" * 49_994 + b"after" + b"a" * 49_994 + b"later"
    eventually(lambda: whole(there.path / "file") == expected, within_s=30)
    assert working_files(here), "the old handle can still write to it (R14)"
    close_dead(descriptor)
    eventually(lambda: not working_files(here), within_s=30)
    assert whole(here.path / "file") == expected


def test_times_that_were_set_survive_kill_9(two_mounts: tuple[Mount, Mount]) -> None:
    """As tar sets them: long before the file was made."""
    here, there = two_mounts
    descriptor = os.open(here.path / "file", os.O_RDWR | os.O_CREAT)
    os.write(descriptor, b"x" * 100)
    os.utime(descriptor, ns=(10**18, 10**18 + 1))
    here.kill()
    close_dead(descriptor)
    here.start()
    assert os.stat(here.path / "file").st_mtime_ns == 10**18 + 1
    here.sync()
    assert os.stat(there.path / "file").st_mtime_ns == 10**18 + 1
    with open(here.path / "file", "r+b") as file:
        file.write(b"y")
    assert os.stat(here.path / "file").st_mtime_ns > 10**18 + 1


def test_a_foreign_version_during_a_kill_is_not_overwritten(two_mounts: tuple[Mount, Mount]) -> None:
    """Nobody can tell any more which bytes were written here: they are kept for their user, all of them."""
    here, there = two_mounts
    here.quiet = False  # the log names what is kept
    descriptor = os.open(here.path / "file", os.O_RDWR | os.O_CREAT, 0o644)
    os.write(descriptor, b"a" * 10_000)
    os.fsync(descriptor)
    os.pwrite(descriptor, b"ours", 0)
    here.kill()
    (there.path / "file").write_bytes(b"theirs")
    here.start()
    assert whole(here.path / "file") == b"theirs"
    (kept,) = here.cache.glob("*/sessions/*/spill/*/bytes")
    assert kept.read_bytes() == b"ours" + b"a" * 9996
    close_dead(descriptor)


def test_two_mounts_write_to_one_sector(two_mounts: tuple[Mount, Mount]) -> None:
    here, there = two_mounts
    descriptor = os.open(here.path / "file", os.O_RDWR | os.O_CREAT, 0o644)
    expected = bytearray(b"." * 100_000)
    os.write(descriptor, expected)
    os.fsync(descriptor)
    for number in range(10):
        with open(there.path / "file", "r+b") as out:
            out.seek(1000 * number)
            out.write(b"there %d" % number)
        os.pwrite(descriptor, b"here %d" % number, 1000 * number + 500)
        expected[1000 * number : 1000 * number + 7] = b"there %d" % number
        expected[1000 * number + 500 : 1000 * number + 506] = b"here %d" % number
        os.fsync(descriptor)
        assert whole(there.path / "file") == expected
        assert whole(here.path / "file") == expected
    assert lent(here)["handles"] == 1
    os.close(descriptor)
    assert whole(there.path / "file") == expected


def test_a_foreign_truncate_of_a_file_that_is_written_here(two_mounts: tuple[Mount, Mount]) -> None:
    here, there = two_mounts
    descriptor = os.open(here.path / "file", os.O_RDWR | os.O_CREAT, 0o644)
    os.write(descriptor, b"x" * 300_000)
    os.fsync(descriptor)
    os.truncate(there.path / "file", 1000)
    assert whole(here.path / "file") == b"x" * 1000
    os.pwrite(descriptor, b"end", 5000)
    os.close(descriptor)
    expected = b"x" * 1000 + bytes(4000) + b"end"
    assert whole(there.path / "file") == expected
    assert whole(here.path / "file") == expected


def test_holes_and_sizes_of_a_file_that_the_kernel_writes(two_mounts: tuple[Mount, Mount]) -> None:
    here, there = two_mounts
    descriptor = os.open(here.path / "file", os.O_RDWR | os.O_CREAT, 0o644)
    expected = bytearray(os.urandom(3 * _MIB))
    os.write(descriptor, expected)
    subprocess.run(["fallocate", "-p", "-o", "100000", "-l", "1000000", here.path / "file"], check=True)
    expected[100_000:1_100_000] = bytes(1_000_000)
    assert os.pread(descriptor, len(expected) + 1, 0) == expected
    os.ftruncate(descriptor, 2 * _MIB)
    os.ftruncate(descriptor, 4 * _MIB)
    expected = expected[: 2 * _MIB] + bytes(2 * _MIB)
    assert os.pread(descriptor, 5 * _MIB, 0) == expected
    os.pwrite(descriptor, b"end", 5 * _MIB)
    expected += bytes(_MIB) + b"end"
    assert os.lseek(descriptor, 0, os.SEEK_END) == len(expected)
    assert os.lseek(descriptor, 3 * _MIB, os.SEEK_DATA) == 5 * _MIB
    os.close(descriptor)
    assert whole(there.path / "file") == expected
    assert whole(here.path / "file") == expected
    with open(there.path / "file", "rb") as stream:
        assert os.lseek(stream.fileno(), 3 * _MIB, os.SEEK_DATA) == 5 * _MIB


def test_times_go_forward_and_stay_as_set(two_mounts: tuple[Mount, Mount]) -> None:
    here, there = two_mounts
    path = here.path / "file"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    made = os.fstat(descriptor)
    os.write(descriptor, b"one")
    written = os.fstat(descriptor)
    assert (written.st_size, made.st_mtime_ns <= written.st_mtime_ns) == (3, True)
    os.utime(descriptor, ns=(10**18, 10**18 + 1))
    os.fchmod(descriptor, 0o600)
    os.close(descriptor)
    for mount in (here, there):
        shown = eventually(lambda m=mount: (s := os.stat(m.path / "file")).st_mtime_ns == 10**18 + 1 and s)  # type: ignore[misc]
        assert (shown.st_size, shown.st_atime_ns, shown.st_mode & 0o777) == (3, 10**18, 0o600)
        assert shown.st_ctime_ns >= written.st_ctime_ns
    descriptor = os.open(here.path / "other", os.O_RDWR | os.O_CREAT, 0o644)
    os.utime(descriptor, ns=(10**18, 10**18 + 1))
    os.write(descriptor, b"later")
    assert os.fstat(descriptor).st_mtime_ns > written.st_mtime_ns
    os.close(descriptor)
    assert os.stat(here.path / "other").st_mtime_ns > written.st_mtime_ns


@contextlib.contextmanager
def nobody() -> Iterator[None]:
    """This process is an ordinary user's meanwhile."""
    os.setegid(_NOBODY)
    os.seteuid(_NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


@pytest.fixture
def public(volume: Volume) -> Iterator[tuple[Mount, int]]:
    """A mount, and a descriptor of its root, where everybody may make files."""
    mount = volume.mount("--freshness", "0", "--io", "passthrough")
    os.chmod(mount.path, 0o777)
    folder = os.open(mount.path, os.O_RDONLY)
    yield mount, folder
    os.close(folder)


def test_setuid_does_not_outlive_what_others_write(public: tuple[Mount, int]) -> None:
    mount, folder = public
    with nobody():
        descriptor = os.open("file", os.O_RDWR | os.O_CREAT, 0o755, dir_fd=folder)
        os.write(descriptor, b"mine")
    assert lent(mount)["handles"] == 1
    with pytest.raises(OSError, match=os.strerror(errno.ETXTBSY)):  # nobody would take it away before the close
        os.chmod(mount.path / "file", 0o4755)
    with nobody():
        os.fchmod(descriptor, 0o4755)
        assert os.fstat(descriptor).st_mode & 0o7777 == 0o4755
        os.fsync(descriptor)
        assert os.fstat(descriptor).st_mode & 0o7777 == 0o4755
        os.pwrite(descriptor, b"evil", 0)
        os.close(descriptor)
    assert eventually(lambda: os.stat(mount.path / "file").st_mode & 0o7777 == 0o755)
    assert whole(mount.path / "file") == b"evil"


def test_setuid_files_are_not_lent_to_writers(public: tuple[Mount, int]) -> None:
    mount, folder = public
    with nobody():
        descriptor = os.open("file", os.O_RDWR | os.O_CREAT, 0o4755, dir_fd=folder)
        os.write(descriptor, b"x")
        assert os.fstat(descriptor).st_mode & 0o7777 == 0o755
    assert lent(mount)["handles"] == 0
    os.close(descriptor)


def test_a_file_near_the_quota_is_not_lent_to_writers(volume: Volume) -> None:
    subprocess.run([sys.executable, "-m", "s3vfs", "config", volume.url, "--quota", "100MiB"], check=True)
    mount = volume.mount("--freshness", "0", "--io", "passthrough")
    with open(mount.path / "file", "wb") as out:
        out.write(b"x")
        out.flush()
        assert lent(mount)["handles"] == 0


def test_an_unlinked_file_goes_on(two_mounts: tuple[Mount, Mount]) -> None:
    here, there = two_mounts
    descriptor = os.open(here.path / "file", os.O_RDWR | os.O_CREAT, 0o644)
    os.write(descriptor, b"one")
    os.unlink(here.path / "file")
    os.write(descriptor, b"two")
    assert os.pread(descriptor, 10, 0) == b"onetwo"
    assert os.fstat(descriptor).st_size == 6
    assert not list(there.path.iterdir())
    os.close(descriptor)
    eventually(lambda: not working_files(here))


def test_by_default_a_writer_who_is_alone_goes_through_the_daemon(volume: Volume, data: bytes) -> None:
    mount, there = (volume.mount("--freshness", "0", "--io", "auto") for _ in range(2))
    (there.path / "file").write_bytes(data)
    os.close(lent_reader(mount, "file", data))
    with open(mount.path / "file", "r+b") as out:
        figures = lent(mount)
        assert (figures["handles"], figures["write_opens"]) == (0, 0)
        assert not working_files(mount)
        out.write(b"daemon")
    assert whole(mount.path / "file") == whole(there.path / "file") == b"daemon" + data[6:]


@pytest.mark.parametrize("io", ["python", "front"])
def test_the_other_ways_ask_the_daemon(volume: Volume, io: str) -> None:
    mount = volume.mount("--io", io)
    with open(mount.path / "file", "wb") as out:
        out.write(b"x")
        out.flush()
        figures = lent(mount)
    assert (figures["handles"], figures["served"], figures["asked"]) == (0, io, io)
    assert figures["reason"] == f"not asked for (--io {io})"
