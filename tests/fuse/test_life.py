"""Beginning and end of mounts, and what a dead or frozen one leaves to others."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from s3vfs.namespace.rows import Rows
from tests.fuse.populate import ask
from tests.mounted import Mount, Volume, eventually


def mounted(path: Path) -> bool:
    return any(line.split()[4] == str(path) for line in Path("/proc/self/mountinfo").read_text().splitlines())


def test_umount_publishes_and_leaves_nothing(volume: Volume) -> None:
    mount = volume.mount()
    (mount.path / "file").write_bytes(b"x" * 100_000)
    assert mount.umount() == 0
    assert not mounted(mount.path)
    again = volume.mount()
    assert (again.path / "file").read_bytes() == b"x" * 100_000


def test_plain_umount_ends_the_daemon(volume: Volume) -> None:
    mount = volume.mount()
    (mount.path / "file").write_bytes(b"x")
    subprocess.run(["umount", mount.path], check=True)
    assert mount.process.wait(30) == 0
    assert not mounted(mount.path)


def test_a_stop_signal_ends_an_idle_mount(volume: Volume) -> None:
    mount = volume.mount()
    mount.process.send_signal(signal.SIGTERM)
    mount.process.wait(30)
    assert not mounted(mount.path)


def test_closed_files_survive_kill_9(volume: Volume) -> None:
    """Without a lease close waits for the record, so another mount has it too."""
    mount = volume.mount("--freshness", "0", "--no-leases")
    for number in range(20):
        (mount.path / f"{number}").write_bytes(b"%d" % number)
    mount.kill()
    other = volume.mount("--freshness", "0")
    for number in range(20):
        assert (other.path / f"{number}").read_bytes() == b"%d" % number
    mount.start()
    assert (mount.path / "7").read_bytes() == b"7"
    (mount.path / "after").touch()
    assert (other.path / "after").exists()


def test_holds_of_a_killed_mount_are_dropped_by_its_next_life(volume: Volume) -> None:
    def holders(rows: Rows) -> int:
        return sum(len(list(rows.holders(ino))) for ino, _ in rows.orphans())

    mount = volume.mount()
    descriptor = os.open(mount.path / "file", os.O_CREAT | os.O_RDWR)
    os.unlink(mount.path / "file")
    assert eventually(lambda: ask(volume.url, holders)) == 1
    mount.kill()
    with pytest.raises(OSError, match="Transport endpoint"):
        os.close(descriptor)
    mount.start()
    eventually(lambda: ask(volume.url, holders) == 0)


def test_a_stop_signal_publishes_what_open_files_hold(volume: Volume) -> None:
    mount = volume.mount()
    descriptor = os.open(mount.path / "file", os.O_CREAT | os.O_WRONLY)
    os.write(descriptor, b"written")
    mount.process.send_signal(signal.SIGTERM)
    assert mount.process.wait(30) == 0
    assert not mounted(mount.path)
    with pytest.raises(OSError, match="not connected"):
        os.close(descriptor)
    assert (mount.start().path / "file").read_bytes() == b"written"


def test_a_frozen_mount_holds_nobody_up(two_mounts: tuple[Mount, Mount]) -> None:
    one, two = two_mounts
    (one.path / "file").write_bytes(b"1")
    assert (two.path / "file").read_bytes() == b"1"
    with two.frozen():
        for number in range(20):
            (one.path / "file").write_bytes(b"%d" % number)
        os.rename(one.path / "file", one.path / "renamed")
    eventually(lambda: not (two.path / "file").exists(), within_s=2)
    assert (two.path / "renamed").read_bytes() == b"19"


def test_unmounting_amid_foreign_changes(two_mounts: tuple[Mount, Mount]) -> None:
    """Notifications are on their way all the time while the end comes."""
    one, two = two_mounts
    (one.path / "d").mkdir()
    stop = threading.Event()

    def change() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            (one.path / "d/new").write_bytes(b"x")
            os.rename(one.path / "d/new", one.path / f"d/{number % 5}")

    def look() -> None:
        while not stop.is_set():
            try:
                for name in os.listdir(two.path / "d"):
                    os.stat(two.path / "d" / name)
            except OSError:
                time.sleep(0.001)

    threads = [threading.Thread(target=change), threading.Thread(target=look)]
    for thread in threads:
        thread.start()
    try:
        eventually(lambda: len(os.listdir(two.path / "d")) == 5)
        two.process.send_signal(signal.SIGTERM)
        two.process.wait(60)
        assert not mounted(two.path)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert one.umount() == 0


def test_a_mount_that_fails_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "bucket").mkdir()
    (tmp_path / "mnt").mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "s3vfs", "mount", f"file://{tmp_path}/bucket", str(tmp_path / "mnt")],
        capture_output=True,
    )
    assert done.returncode == 3
    assert not mounted(tmp_path / "mnt")


def test_a_read_only_mount_sees_and_refuses(volume: Volume) -> None:
    writer = volume.mount()
    (writer.path / "file").write_bytes(b"data")
    writer.sync()  # it sees what is committed
    reader = volume.mount("--read-only", "--freshness", "0")
    assert (reader.path / "file").read_bytes() == b"data"
    attempts: list[Callable[[], object]] = [
        lambda: (reader.path / "new").touch(),
        lambda: os.unlink(reader.path / "file"),
        lambda: os.open(reader.path / "file", os.O_WRONLY),
        lambda: os.chmod(reader.path / "file", 0),
        lambda: os.setxattr(reader.path / "file", "user.x", b""),
    ]
    for attempt in attempts:
        with pytest.raises(OSError, match="Read-only file system"):
            attempt()
    (writer.path / "file").write_bytes(b"more data")
    writer.sync()
    assert (reader.path / "file").read_bytes() == b"more data"
