"""Files whose writes the front takes, on real mounts: nobody may see the difference, but for the speed."""

from __future__ import annotations

import errno
import json
import mmap
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.mounted import Mount, Volume, eventually

_NOBODY = 65534


def status(mount: Mount, *options: str) -> str:
    command = [sys.executable, "-m", "s3vfs", "status", *options, str(mount.path)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def front(mount: Mount) -> dict[str, Any]:
    figures: dict[str, Any] = json.loads(status(mount, "--json"))["io"]["front"]
    return figures


def fresh(path: Path) -> bytes:
    return path.read_bytes()


def test_a_new_file_is_written_without_python_and_read_on_the_other_mount(volume: Volume) -> None:
    mount, there = (volume.mount("--freshness", "0", "--io", "front") for _ in range(2))
    data = os.urandom(300_000)
    with open(mount.path / "file", "wb", buffering=0) as out:
        for start in range(0, len(data), 10_000):
            out.write(data[start : start + 10_000])
        assert os.fstat(out.fileno()).st_size == len(data)
        assert fresh(mount.path / "file") == data
    taken = front(mount)
    assert taken["writes"] >= 30
    assert taken["written_bytes"] == len(data)
    assert fresh(there.path / "file") == data
    assert front(there)["writes"] == 0


def test_python_alone_takes_every_write(volume: Volume) -> None:
    mount = volume.mount("--io", "python")
    (mount.path / "file").write_bytes(b"x" * 100)
    assert front(mount) == {"reason": "not asked for (--io python)"}


@pytest.mark.parametrize(
    ("io", "told"),
    [
        ("front", "front, python; no passthrough: not asked for (--io front)"),
        ("python", "python; no passthrough: not asked for (--io python); no front: not asked for (--io python)"),
    ],
)
def test_status_tells_how_requests_are_served(volume: Volume, io: str, told: str) -> None:
    (line,) = (line for line in status(volume.mount("--io", io)).splitlines() if line.startswith("io "))
    assert line.split(maxsplit=1)[1] == told


def test_a_killed_daemon_loses_no_write(volume: Volume) -> None:
    mount = volume.mount("--io", "front")
    contents = {f"file{index}": os.urandom(10_000 + index) for index in range(20)}
    descriptors = {name: os.open(mount.path / name, os.O_RDWR | os.O_CREAT) for name in contents}
    for name, data in contents.items():
        os.write(descriptors[name], data[:4000])
    for name, data in contents.items():
        os.pwrite(descriptors[name], data[4000:], 4000)
    assert front(mount)["written_bytes"] == sum(map(len, contents.values()))
    mount.kill()
    for descriptor in descriptors.values():
        with pytest.raises(OSError, match=os.strerror(errno.ENOTCONN)):
            os.close(descriptor)
    mount.clear()
    again = mount.start()
    for name, data in contents.items():
        assert fresh(again.path / name) == data
    again.sync()
    there = volume.mount("--freshness", "0")
    for name, data in contents.items():
        assert fresh(there.path / name) == data


@pytest.mark.parametrize("before", [b"before", b""])
@pytest.mark.parametrize("flags", [0, os.O_DIRECT])  # the kernel takes them away itself, but for direct writes
def test_a_write_takes_setuid_away(volume: Volume, before: bytes, flags: int) -> None:
    """Given while the front has the file, and looked for by the next write of who is not root."""
    mount = volume.mount("--io", "front")
    mount.path.chmod(0o777)
    root = os.open(mount.path, os.O_RDONLY)  # others may not walk there
    os.setegid(_NOBODY)
    os.seteuid(_NOBODY)
    try:
        program = os.open("program", flags | os.O_WRONLY | os.O_CREAT | os.O_EXCL, dir_fd=root)
        if before:
            os.write(program, before)
        os.fchmod(program, 0o6777)
        assert os.fstat(program).st_mode & 0o7777 == 0o6777
        os.pwrite(program, b"after", 0)
        assert os.fstat(program).st_mode & 0o7777 == 0o777
        os.close(program)
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.close(root)
    assert fresh(mount.path / "program") == b"after" + before[5:]


def test_capabilities_given_while_it_is_open_are_shown(volume: Volume) -> None:
    mount = volume.mount("--io", "front")
    path = mount.path / "program"
    value = bytes.fromhex("0100000200040000000000000000000000000000")
    with open(path, "wb", buffering=0) as out:
        out.write(b"x")
        with pytest.raises(OSError, match=os.strerror(errno.ENODATA)):
            os.getxattr(path, "security.capability")
        os.setxattr(path, "security.capability", value)
        assert os.getxattr(path, "security.capability") == value
        os.chown(path, 5, 5)
        with pytest.raises(OSError, match=os.strerror(errno.ENODATA)):
            os.getxattr(path, "security.capability")


def test_times_and_sizes_follow_every_write(volume: Volume) -> None:
    mount = volume.mount("--io", "front")
    with open(mount.path / "file", "wb", buffering=0) as out:
        before = os.fstat(out.fileno())
        for index in range(1, 50):
            out.write(b"x" * 100)
            after = os.fstat(out.fileno())
            assert after.st_size == 100 * index
            assert after.st_mtime_ns == after.st_ctime_ns > before.st_mtime_ns
            before = after
        out.truncate(150)
        out.write(b"y")
        assert os.fstat(out.fileno()).st_size == 4901
        os.utime(out.fileno(), ns=(5, 6))
        assert os.fstat(out.fileno()).st_mtime_ns == 6
        out.write(b"z")
        assert os.fstat(out.fileno()).st_mtime_ns > before.st_mtime_ns
    assert fresh(mount.path / "file") == b"x" * 150 + bytes(4750) + b"yz"


def test_stores_to_a_mapping_come_by_it_too(volume: Volume) -> None:
    mount, there = (volume.mount("--freshness", "0", "--io", "front") for _ in range(2))
    with open(mount.path / "file", "w+b", buffering=0) as out:
        out.write(bytes(8192))
        with mmap.mmap(out.fileno(), 8192) as mapping:
            mapping[4096:4100] = b"here"
            mapping.flush()
            out.write(b"there")
            mapping[:2] = b"hi"
    expected = b"hi" + bytes(4094) + b"here" + bytes(4092) + b"there"
    assert fresh(mount.path / "file") == expected
    eventually(lambda: fresh(there.path / "file") == expected)


def test_two_mounts_write_into_one_file(volume: Volume) -> None:
    """Neither loses what the other wrote elsewhere."""
    mount, there = (volume.mount("--freshness", "0", "--io", "front") for _ in range(2))
    with open(mount.path / "file", "wb", buffering=0) as out:
        out.write(b"." * 1000)
        os.fsync(out.fileno())
        with open(there.path / "file", "r+b", buffering=0) as other:
            other.seek(500)
            other.write(b"there")
            out.seek(100)
            out.write(b"here")
        out.write(b" and here")
    expected = b"." * 100 + b"here and here" + b"." * 387 + b"there" + b"." * 495
    assert fresh(mount.path / "file") == fresh(there.path / "file") == expected


def test_an_unlinked_file_is_written_and_read_on(volume: Volume) -> None:
    mount = volume.mount("--io", "front")
    with open(mount.path / "file", "w+b", buffering=0) as out:
        out.write(b"before")
        (mount.path / "file").unlink()
        out.write(b" and after")
        assert os.pread(out.fileno(), 100, 0) == b"before and after"


def test_with_one_processor_nothing_is_looked_for_twice(volume: Volume) -> None:
    """Whoever would ask again could not, meanwhile."""
    processors = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(processors)})
        mount = volume.mount("--io", "front")
    finally:
        os.sched_setaffinity(0, processors)
    for index in range(50):
        (mount.path / f"file{index}").write_bytes(b"x")
    taken = front(mount)
    assert taken["writes"] == 50
    assert taken["looks"] == 0
    there = volume.mount("--io", "front")
    for index in range(50):
        (there.path / f"other{index}").write_bytes(b"x")
    assert front(there)["looks"] > 0
