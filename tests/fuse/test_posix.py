"""What programs do on one mount, through the kernel. The letter of POSIX, call by call, is in tests/posix."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import stat
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mounted import Mount, eventually
from tests.posix.site import fresh_lstat


def fails_with(code: int, call: Callable[[], object]) -> None:
    with pytest.raises(OSError, match=rf"\[Errno {code}\]"):
        call()


def test_what_was_written_is_read(root: Path) -> None:
    file = root / "file"
    file.write_bytes(b"first")
    assert file.read_bytes() == b"first"
    file.write_bytes(b"2")
    assert file.read_bytes() == b"2"
    with open(file, "ab") as out:
        out.write(b" and more")
    assert file.read_bytes() == b"2 and more"


def test_a_large_file_survives_a_new_look(root: Path, shared_mount: Mount) -> None:
    data = os.urandom(20 << 20)
    (root / "large").write_bytes(data)
    descriptor = os.open(root / "large", os.O_RDONLY)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)
    assert (root / "large").read_bytes() == data


def test_random_writes_meet_their_readers(root: Path) -> None:
    with open(root / "random", "w+b", buffering=0) as file:
        file.write(b"a" * 100_000)
        file.seek(50_000)
        file.write(b"b" * 10)
        file.seek(49_995)
        assert file.read(20) == b"a" * 5 + b"b" * 10 + b"a" * 5
        file.seek(200_000)
        file.write(b"end")
        file.seek(99_999)
        assert file.read(3) == b"a\0\0"
    assert (root / "random").stat().st_size == 200_003


def test_after_a_close_everybody_sees_the_same_times_and_blocks(root: Path) -> None:
    """Publishing moves ctime once more. The kernel, which was told the attributes before, must not go on with those."""
    for number in range(200):
        path = root / f"closed-{number}"
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR)
        os.write(descriptor, b"data")
        os.utime(descriptor, ns=(number, number))
        os.fstat(descriptor)
        if number % 2:
            os.fsync(descriptor)
            seen = os.fstat(descriptor)
        os.close(descriptor)
        if not number % 2:
            seen = path.stat()
        asked = fresh_lstat(root, path.name)
        assert (asked.st_blocks, asked.st_mtime_ns, asked.st_ctime_ns) == (
            seen.st_blocks, seen.st_mtime_ns, seen.st_ctime_ns
        )  # fmt: skip


def test_what_is_touched_is_no_older_than_what_was_written_before(root: Path) -> None:
    """make compares such times. The kernel's own idea of now is that of its last tick."""
    stamp = root / "stamp"
    stamp.touch()
    for number in range(50):
        made = root / f"made-{number}"
        made.write_bytes(b"made")
        before_ns = time.time_ns()
        os.utime(stamp)
        status = stamp.stat()
        assert made.stat().st_mtime_ns <= before_ns <= min(status.st_mtime_ns, status.st_atime_ns)
        os.utime(stamp, ns=(number, number))
        assert stamp.stat().st_mtime_ns == number


def test_stat_tells_the_truth(root: Path) -> None:
    file = root / "file"
    file.write_bytes(b"x" * 5000)
    status = file.stat()
    assert (status.st_size, status.st_nlink, stat.S_IMODE(status.st_mode)) == (5000, 1, 0o644)
    assert status.st_blocks == 16  # whole blocks of 4096 bytes
    assert status.st_ino != root.stat().st_ino
    directory = root.stat()
    assert (directory.st_size, directory.st_nlink) == (4096, 2)
    (root / "sub").mkdir()
    assert root.stat().st_nlink == 3


def test_attributes_given_before_close_still_hold_after_it(root: Path) -> None:
    """git and rsync compare them."""
    with open(root / "file", "wb") as out:
        out.write(b"contents")
        out.flush()
        os.utime(out.fileno(), ns=(1, 2))
        before = os.fstat(out.fileno())
    after = (root / "file").stat()
    assert (before.st_size, before.st_mtime_ns, before.st_atime_ns) == (8, 2, 1)
    assert (after.st_size, after.st_mtime_ns, after.st_atime_ns) == (8, 2, 1)
    again = eventually(lambda: os.stat(root / "file"))
    assert again == after


def test_times_are_kept_to_the_nanosecond(root: Path) -> None:
    (root / "file").touch()
    os.utime(root / "file", ns=(1_111_111_111_222_333_444, 1_555_555_555_666_777_888))
    status = (root / "file").stat()
    assert (status.st_atime_ns, status.st_mtime_ns) == (1_111_111_111_222_333_444, 1_555_555_555_666_777_888)
    before = status.st_ctime_ns
    os.chmod(root / "file", 0o600)
    assert (root / "file").stat().st_ctime_ns > before


def test_truncate_cuts_and_grows(root: Path) -> None:
    file = root / "file"
    file.write_bytes(b"0123456789")
    os.truncate(file, 4)
    assert file.read_bytes() == b"0123"
    os.truncate(file, 8)
    assert file.read_bytes() == b"0123\0\0\0\0"
    with open(file, "r+b") as out:
        out.truncate(2)
        assert os.fstat(out.fileno()).st_size == 2
        out.seek(6)
        out.write(b"x")
    assert file.read_bytes() == b"01\0\0\0\0x"
    fails_with(errno.EISDIR, lambda: os.truncate(root, 0))


def test_a_sparse_file_uses_no_space_for_its_holes(root: Path) -> None:
    with open(root / "sparse", "wb") as out:
        out.seek(1 << 40)
        out.write(b"end")
    status = (root / "sparse").stat()
    assert status.st_size == (1 << 40) + 3
    assert status.st_blocks * 512 < 1 << 20
    with open(root / "sparse", "rb") as file:
        file.seek((1 << 40) - 2)
        assert file.read() == b"\0\0end"


def test_rename_replaces_and_keeps_the_inode(root: Path) -> None:
    (root / "a").write_bytes(b"a")
    (root / "b").write_bytes(b"b")
    ino = (root / "a").stat().st_ino
    os.rename(root / "a", root / "b")
    assert os.listdir(root) == ["b"]
    assert (root / "b").read_bytes() == b"a"
    assert (root / "b").stat().st_ino == ino


def test_symbolic_links(root: Path) -> None:
    os.symlink("target", root / "link")
    assert os.readlink(root / "link") == "target"
    assert os.lstat(root / "link").st_size == 6
    fails_with(errno.ENOENT, lambda: (root / "link").read_bytes())
    (root / "target").write_bytes(b"there")
    assert (root / "link").read_bytes() == b"there"
    os.symlink("x" * 4095, root / "long")
    assert os.readlink(root / "long") == "x" * 4095


def test_a_replaced_file_lives_until_it_is_closed(root: Path) -> None:
    (root / "old").write_bytes(b"old")
    with open(root / "old", "rb") as file:
        (root / "new").write_bytes(b"new")
        os.rename(root / "new", root / "old")
        assert file.read() == b"old"
    assert (root / "old").read_bytes() == b"new"


def test_appends_go_to_the_end(root: Path) -> None:
    first = os.open(root / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    second = os.open(root / "log", os.O_WRONLY | os.O_APPEND)
    reader = os.open(root / "log", os.O_RDONLY)
    try:
        for index in range(10):
            os.write(first if index % 2 else second, b"%d\n" % index)
            assert os.fstat(reader).st_size == 2 * (index + 1)
        assert os.pread(reader, 100, 0) == b"".join(b"%d\n" % index for index in range(10))
    finally:
        for descriptor in (first, second, reader):
            os.close(descriptor)


def test_a_mapping_reads_and_writes(root: Path) -> None:
    data = os.urandom(300_000)
    (root / "file").write_bytes(data)
    with open(root / "file", "r+b") as file, mmap.mmap(file.fileno(), 0) as mapping:
        assert mapping[100_000:100_010] == data[100_000:100_010]
        mapping[5:9] = b"mmap"
        mapping.flush()
    assert (root / "file").read_bytes() == data[:5] + b"mmap" + data[9:]


def test_a_mapping_outlives_its_descriptor(root: Path) -> None:
    (root / "file").write_bytes(b"." * 4096)
    descriptor = os.open(root / "file", os.O_RDWR)
    mapping = mmap.mmap(descriptor, 4096)
    os.close(descriptor)
    mapping[:4] = b"late"
    mapping.close()
    assert (root / "file").read_bytes()[:5] == b"late."


def test_programs_run_from_the_mount(root: Path) -> None:
    (root / "program").write_bytes(Path("/bin/true").read_bytes())
    os.chmod(root / "program", 0o755)
    assert subprocess.run([root / "program"]).returncode == 0


def test_an_extended_attribute_of_the_largest_size(root: Path) -> None:
    """Local file systems stop earlier."""
    (root / "file").touch()
    os.setxattr(root / "file", "user.large", b"x" * 65536)
    assert os.getxattr(root / "file", "user.large") == b"x" * 65536
    fails_with(errno.E2BIG, lambda: os.setxattr(root / "file", "user.large", b"x" * 65537))
    assert os.listxattr(root / "file") == ["user.large"]


def test_statfs_shows_room(root: Path) -> None:
    figures = os.statvfs(root)
    assert figures.f_bsize == figures.f_frsize == 4096
    assert figures.f_bavail * 4096 > 1 << 49
    assert figures.f_favail > 1 << 30
    assert figures.f_namemax == 255


def test_fsync_of_files_and_directories(root: Path) -> None:
    with open(root / "file", "wb") as out:
        out.write(b"x")
        out.flush()
        os.fsync(out.fileno())
        os.fdatasync(out.fileno())
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def test_readahead_has_been_raised(shared_mount: Mount) -> None:
    device = os.stat(shared_mount.path).st_dev
    path = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb")
    assert int(path.read_text()) == 2048


def test_a_directory_is_read_again_after_rewinding(root: Path) -> None:
    for index in range(50):
        (root / f"{index:02}").touch()
    descriptor = os.open(root, os.O_RDONLY)
    try:
        assert sorted(os.listdir(descriptor)) == [f"{index:02}" for index in range(50)]
        (root / "late").touch()
        assert "late" in os.listdir(descriptor)
    finally:
        os.close(descriptor)


def test_removing_while_listing_loses_nothing(root: Path) -> None:
    """rm -r reads a directory and removes what it has read."""
    for index in range(700):
        os.mkdir(root / f"{index:05}")
    with os.scandir(root) as entries:
        seen = []
        for entry in entries:
            seen.append(entry.name)
            os.rmdir(entry.path)
    assert len(seen) == len(set(seen)) == 700
    assert os.listdir(root) == []


def test_seekdir_returns_to_where_telldir_was(root: Path) -> None:
    """As NFS servers and Samba do it."""

    class Entry(ctypes.Structure):
        _fields_ = (
            ("ino", ctypes.c_uint64),
            ("offset", ctypes.c_int64),
            ("length", ctypes.c_uint16),
            ("kind", ctypes.c_uint8),
            ("name", ctypes.c_char * 256),
        )

    for index in range(300):
        (root / f"{index:03}").touch()
    libc = ctypes.CDLL(None)
    libc.opendir.restype = ctypes.c_void_p
    libc.readdir.restype = ctypes.POINTER(Entry)
    libc.telldir.restype = ctypes.c_long
    stream = ctypes.c_void_p(libc.opendir(os.fsencode(root)))
    try:
        seen: list[tuple[int, bytes]] = []
        while True:
            position = libc.telldir(stream)
            entry = libc.readdir(stream)
            if not entry:
                break
            seen.append((position, entry.contents.name))
        assert len(seen) == 302
        for position, name in (*seen[::37], *seen[::-41]):
            libc.seekdir(stream, ctypes.c_long(position))
            assert libc.readdir(stream).contents.name == name
        libc.rewinddir(stream)
        assert libc.readdir(stream).contents.name == b"."
    finally:
        libc.closedir(stream)


@pytest.mark.parametrize(
    ("request_code", "size"),
    [
        pytest.param(0x80086601, 8, id="FS_IOC_GETFLAGS"),
        pytest.param(0x40086602, 8, id="FS_IOC_SETFLAGS"),
        pytest.param(0x801C581F, 28, id="FS_IOC_FSGETXATTR"),
        pytest.param(0x40806685, 128, id="FS_IOC_ENABLE_VERITY"),
        pytest.param(0xC020660B, 32, id="FS_IOC_FIEMAP"),
    ],
)
def test_ioctls_of_local_file_systems_say_that_they_are_not_there(root: Path, request_code: int, size: int) -> None:
    """Programs that use them go on without, after one of these two."""
    refusal = rf"\[Errno ({errno.ENOTTY}|{errno.EOPNOTSUPP})\]"
    with open(root / "file", "wb") as file, pytest.raises(OSError, match=refusal):
        fcntl.ioctl(file, request_code, bytes(size))
