"""A mount that was away: it catches up when it comes back; one that was evicted meanwhile commits nothing any more."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from s3vfs.session.options import LEASE_IDLE_S
from tests.acceptance import fsck
from tests.mounted import Mount, Volume

_UNSYNCED = b"not synced" * 1000


def command(*arguments: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", "s3vfs", *arguments], check=True, capture_output=True, text=True
    ).stdout


def status(mount: Mount) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(command("status", "--json", str(mount.path)))
    return found


class Errand:
    """A process that was started before any file on the mount was open: a later child would flush what it inherits,
    which waits for a frozen mount and publishes on another."""

    def __init__(self) -> None:
        program = "import subprocess, sys; print(subprocess.run(sys.stdin.readline().split()).returncode)"
        self._process = subprocess.Popen(
            [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, *arguments: str) -> None:
        output, _ = self._process.communicate(" ".join([sys.executable, "-m", "s3vfs", *arguments]), timeout=60)
        assert output.splitlines()[-1] == "0"


def last_record(volume: Volume) -> int:
    """Once leases that nobody uses are given back, which is a record, too."""
    seq, before = fsck.check(volume.url).seq, -1
    while seq != before:
        time.sleep(2 * LEASE_IDLE_S)
        seq, before = fsck.check(volume.url).seq, seq
    return seq


def refused(call: Callable[[], object]) -> None:
    with pytest.raises(OSError, match="Input/output error") as caught:
        call()
    assert caught.value.errno == errno.EIO


def changes(directory: Path, count: int) -> None:
    for number in range(count):
        name = directory / f"f{number % 20}"
        name.write_bytes(b"changed %d" % number)
        os.rename(name, directory / "moved")
        os.rename(directory / "moved", name)


def test_a_frozen_mount_catches_up_and_keeps_its_unsynced_bytes(two_mounts: tuple[Mount, Mount]) -> None:
    here, there = two_mounts
    (here.path / "d").mkdir()
    for number in range(20):
        (here.path / f"d/f{number}").write_bytes(b"first")
    fd = os.open(here.path / "d/own", os.O_CREAT | os.O_WRONLY)
    os.fsync(fd)  # names that were only answered may be lost with the lease
    os.write(fd, _UNSYNCED)
    with here.frozen():
        changes(there.path / "d", 60)
    for number in range(20):
        assert (here.path / f"d/f{number}").read_bytes() == b"changed %d" % (40 + number)
    os.close(fd)
    assert (there.path / "d/own").read_bytes() == _UNSYNCED


def test_an_evicted_mount_commits_nothing_and_spills(volume: Volume) -> None:
    here, there = volume.mount("--freshness", "0", quiet=False), volume.mount("--freshness", "0")
    (here.path / "file").write_bytes(b"published")
    here.sync()
    sid = status(here)["session"]["sid"]
    errand = Errand()
    fd = os.open(here.path / "file", os.O_RDWR)
    os.pwrite(fd, _UNSYNCED, 0)
    with here.frozen():
        errand.run("evict", volume.url, sid, "--wait", "1")
        (there.path / "after").write_bytes(b"of another")
        descriptor = os.open(there.path / "after", os.O_RDONLY)
        os.fsync(descriptor)  # who is evicted can ask nobody for what was only answered
        os.close(descriptor)
        seq = last_record(volume)
    assert (here.path / "after").read_bytes() == b"of another"
    refused(lambda: (here.path / "directory").mkdir())
    refused(lambda: (here.path / "after").unlink())
    refused(lambda: os.fsync(fd))
    refused(lambda: os.pwrite(fd, b"more", 0))
    refused(lambda: os.fsync(fd))
    refused(lambda: os.close(fd))
    shown = status(here)
    assert "ended by others" in str(shown["state"])
    assert len(shown["errors"]) == 1
    (folder,) = shown["spill"]
    assert Path(folder, "bytes").read_bytes() == _UNSYNCED
    assert json.loads(Path(folder, "about.json").read_text())["path"] == "/file"
    assert fsck.check(volume.url).seq == seq
    assert (there.path / "file").read_bytes() == b"published"
    here.kill()
    here.start()
    (here.path / "again").write_bytes(b"again")
    assert (there.path / "again").read_bytes() == b"again"
    assert status(here)["spill"] == [folder]


def test_umount_of_an_evicted_mount_says_where_its_bytes_are(volume: Volume) -> None:
    here = volume.mount("--freshness", "0", quiet=False)
    (here.path / "file").write_bytes(b"published")
    here.sync()
    sid = status(here)["session"]["sid"]
    errand = Errand()
    fd = os.open(here.path / "file", os.O_RDWR)
    os.pwrite(fd, _UNSYNCED, 0)
    with here.frozen():
        errand.run("evict", volume.url, sid, "--wait", "1")
    refused(lambda: os.fsync(fd))
    refused(lambda: os.close(fd))
    (folder,) = status(here)["spill"]
    for words in ("sync", "umount"):
        done = subprocess.run([sys.executable, "-m", "s3vfs", words, here.path], capture_output=True, text=True)
        assert done.returncode == 10
        assert f"ended by others or taken over: what was not published is kept in {folder}; mount again" in done.stderr
        assert done.stderr.count("\n") == 1
    assert Path(folder, "bytes").read_bytes() == _UNSYNCED
    assert not here.path.is_mount()


def test_a_link_by_a_name_that_was_replaced_elsewhere_links_the_new_file(two_mounts: tuple[Mount, Mount]) -> None:
    """The other kernel holds the old entry: the link is answered ESTALE inside, and repeated."""
    here, there = two_mounts
    for number in range(20):
        (here.path / f"file{number}").write_bytes(b"old")
        assert (there.path / f"file{number}").read_bytes() == b"old"
        (here.path / "beside").write_bytes(b"new")
        os.rename(here.path / "beside", here.path / f"file{number}")
        os.link(there.path / f"file{number}", there.path / f"link{number}")
        assert (there.path / f"link{number}").read_bytes() == b"new"
