"""Leases between real mounts: whoever looks gets the newest, and a holder that is away loses its lease and nothing of
anybody's."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from tests.acceptance import fsck
from tests.acceptance.test_fencing import refused, status
from tests.mounted import Mount, Volume, eventually
from tests.proxy.process import ProxyProcess
from tests.servers.place import ServerPlace


@pytest.fixture(autouse=True)
def _credentials(seaweed: ServerPlace, monkeypatch: pytest.MonkeyPatch) -> None:
    """fsck runs in this process, and goes around the wire."""
    for name, value in seaweed.environment().items():
        monkeypatch.setenv(name, value)


def _frozen_holder(volume: Volume, wire: ProxyProcess, direct_url: str, away_s: float) -> None:
    """The holder's work is answered, and cannot leave, and then the holder stops."""
    here = volume.mount("--freshness", "0", quiet=False)
    there = volume.mount("--freshness", "0", "--endpoint-url", direct_url)
    (here.path / "d").mkdir()
    (here.path / "d/kept").write_bytes(b"kept")
    (here.path / "d/both").write_bytes(b"first")
    here.sync()
    with open(here.path / "d/again", "wb") as again:  # from here on the lease is in use
        again.write(b"again")
        again.flush()
        os.fsync(again.fileno())
    wire.block()
    for number in range(5):
        (here.path / f"d/unsent{number}").write_bytes(b"unsent %d" % number)
    (here.path / "d/both").write_bytes(b"of the holder")
    fd = os.open(here.path / "d/unsent0", os.O_RDONLY)
    with here.frozen():
        frozen_s = time.monotonic()
        assert sorted(os.listdir(there.path / "d")) == ["again", "both", "kept"]
        (there.path / "d/both").write_bytes(b"of the other one")
        (there.path / "d/unsent1").write_bytes(b"of the other one")
        time.sleep(max(0.0, away_s - (time.monotonic() - frozen_s)))  # a machine that is paused for as long
        wire.resume()
    names = ["again", "both", "kept", "unsent1"]
    assert eventually(lambda: sorted(os.listdir(here.path / "d")) == names, within_s=60)
    for mount in (here, there):
        assert sorted(os.listdir(mount.path / "d")) == names
        assert (mount.path / "d/both").read_bytes() == b"of the other one"
        assert (mount.path / "d/unsent1").read_bytes() == b"of the other one"
        assert (mount.path / "d/kept").read_bytes() == b"kept"
    refused(lambda: os.fsync(fd))
    os.close(fd)
    fd = os.open(here.path / "d/both", os.O_RDWR)
    refused(lambda: os.fsync(fd))
    os.fsync(fd)  # told once: what this handle wrote is in the bucket
    os.close(fd)
    kept = [Path(folder) for folder in status(here)["spill"]]
    about = "".join((folder / "about.json").read_text() for folder in kept)
    for number in range(5):
        assert f"unsent{number}" in about
    files = [json.loads((folder / "about.json").read_text()) for folder in kept if (folder / "bytes").exists()]
    assert {b"unsent %d" % number for number in range(5)} | {b"of the holder"} <= {
        (folder / "bytes").read_bytes() for folder in kept if (folder / "bytes").exists()
    }, files
    (here.path / "d/after").write_bytes(b"it works again")
    assert (there.path / "d/after").read_bytes() == b"it works again"
    assert here.umount() in (0, 10)
    assert there.umount() == 0
    assert fsck.check(volume.url).problems == []


def test_a_holder_that_stops_loses_its_lease_and_overwrites_nothing(
    wired_volume: Volume, wire: ProxyProcess, seaweed: ServerPlace
) -> None:
    _frozen_holder(wired_volume, wire, seaweed.endpoint_url, 0)


@pytest.mark.long
def test_a_holder_that_stops_for_half_a_minute(wired_volume: Volume, wire: ProxyProcess, seaweed: ServerPlace) -> None:
    _frozen_holder(wired_volume, wire, seaweed.endpoint_url, 30)


def _foreign_reads(here: Mount, there: Mount, rounds: int) -> None:
    for number in range(rounds):
        folder = f"d{number}"
        (here.path / folder).mkdir()
        for file in range(5):
            (here.path / folder / f"f{file}").write_bytes(b"%d of %d" % (file, number))
        (here.path / folder / "f0").write_bytes(b"newest of %d" % number)
        os.rename(here.path / folder / "f1", here.path / folder / "moved")
        os.unlink(here.path / folder / "f2")
        assert (there.path / folder / "f0").read_bytes() == b"newest of %d" % number
        assert sorted(os.listdir(there.path / folder)) == ["f0", "f3", "f4", "moved"]
        assert (there.path / folder / "moved").read_bytes() == b"1 of %d" % number


def test_a_foreign_reader_gets_what_was_just_answered(two_mounts: tuple[Mount, Mount]) -> None:
    _foreign_reads(*two_mounts, 20)


@pytest.mark.long
def test_a_foreign_reader_always_gets_what_was_just_answered(two_mounts: tuple[Mount, Mount]) -> None:
    _foreign_reads(*two_mounts, 500)


def test_two_mounts_that_take_turns_in_one_directory_lose_nothing(two_mounts: tuple[Mount, Mount]) -> None:
    here, there = two_mounts
    (here.path / "d").mkdir()
    for number in range(60):
        mine, others = (here, there) if number % 2 == 0 else (there, here)
        (mine.path / f"d/f{number}").write_bytes(b"%d" % number)
        (mine.path / "d/last").write_bytes(b"last %d" % number)
        assert (others.path / "d/last").read_bytes() == b"last %d" % number
    for mount in (here, there):
        assert len(os.listdir(mount.path / "d")) == 61
        assert all((mount.path / f"d/f{number}").read_bytes() == b"%d" % number for number in range(60))
