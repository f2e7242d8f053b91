"""kill -9 at any moment, again and again: what was acknowledged is there, what was removed stays away, the bucket is
sound, and the other mount agrees."""

from __future__ import annotations

import os
import random
import shutil
import time
from pathlib import Path

import pytest

from tests.acceptance import fsck
from tests.acceptance.crashes import Worker
from tests.mounted import Mount, Volume, eventually

_WORKERS = 4


def sync_all(directory: Path) -> None:
    """What was taken up after a restart is in the bucket afterwards."""
    for path in directory.rglob("f*"):
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)


def crash(here: Mount, there: Mount, workers: list[Worker], chance: random.Random, *, wipe: bool) -> None:
    """Let them work, kill their mount at some moment, mount again, and judge."""
    before = sum(worker.calls for worker in workers)
    for worker in workers:
        worker.start(here.path)
    eventually(lambda: sum(worker.calls for worker in workers) >= before + 20, within_s=30)
    time.sleep(chance.uniform(0, 0.6))  # the moment of the crash
    here.kill()
    for worker in workers:
        worker.stop()
        assert worker.failure is not None
    if wipe:
        shutil.rmtree(here.cache)
    here.start()
    for worker in workers:
        worker.settle_doubt(here.path)
        assert worker.problems(here.path, resumed=not wipe) == []
    sync_all(here.path)
    for worker in workers:
        assert worker.problems(there.path, resumed=not wipe) == []
        worker.adopt(there.path)


def crashes(volume: Volume, rounds: int, seed: int, *options: str, wipes: bool = False) -> None:
    """`wipes`: every fourth time the disk is lost with the daemon, and work that was only answered with it."""
    chance = random.Random(seed)
    here, there = volume.mount("--freshness", "0", *options), volume.mount("--freshness", "0")
    workers = [Worker(here.path, f"w{number}", seed + number) for number in range(_WORKERS)]
    for number in range(rounds):
        crash(here, there, workers, chance, wipe=wipes and number % 4 == 3)
    assert here.umount() == 0
    assert there.umount() == 0
    assert fsck.check(volume.url).problems == []


def test_acknowledged_work_survives_kill_9_at_any_moment(volume: Volume) -> None:
    crashes(volume, 4, seed=1)


def test_without_leases_it_survives_the_loss_of_the_disk_too(volume: Volume) -> None:
    crashes(volume, 4, 1, "--no-leases", wipes=True)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(10, 14))
def test_acknowledged_work_survives_many_kills(volume: Volume, seed: int) -> None:
    crashes(volume, 20, seed)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(10, 14))
def test_without_leases_it_survives_many_lost_disks_too(volume: Volume, seed: int) -> None:
    crashes(volume, 20, seed, "--no-leases", wipes=True)
