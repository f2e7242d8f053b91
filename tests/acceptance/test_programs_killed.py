"""kill -9 of the daemon while tar or git works under leases: whatever they had been answered is there with the next
mount, and in the bucket once that has caught up."""

from __future__ import annotations

import random
import subprocess
import time
from pathlib import Path

import pytest

from tests.acceptance import fsck
from tests.acceptance.programs_killed import (
    Untar,
    answered,
    clone_problems,
    make_archive,
    make_tree,
    traced,
    untar_problems,
)
from tests.mounted import Mount, Volume

_FILES = 300


def _untar_killed(here: Mount, there: Mount, folder: Path, moments: int, seed: int) -> None:
    chance = random.Random(seed)
    tree, archive = folder / "tree", folder / "tree.tar"
    make_tree(tree, _FILES, seed)
    make_archive(tree, archive)
    longest_s = 1.0
    cut = 0
    for number in range(moments):
        name = f"unpacked{number}"
        (here.path / name).mkdir()
        began_s = time.monotonic()
        tar = Untar(archive, here.path / name, folder / "printed")
        try:
            tar.process.wait(chance.uniform(0.05, longest_s))
        except subprocess.TimeoutExpired:
            cut += 1
        finished = tar.process.poll() == 0
        if finished:
            longest_s = time.monotonic() - began_s
        done = tar.lines() if finished else tar.lines()[:-1]
        here.kill()
        tar.process.wait(60)
        begun = tar.lines()  # tar goes on to print, whatever it is answered
        here.start()
        assert untar_problems(tree, here.path / name, done, begun) == []
        here.sync()
        assert untar_problems(tree, there.path / name, done, begun) == []
    assert cut, "no unpacking was interrupted"


def _make_repository(folder: Path) -> None:
    make_tree(folder, _FILES, seed=1)

    def git(*arguments: str) -> None:
        subprocess.run(["git", "-C", str(folder), *arguments], check=True, capture_output=True)

    git("init", "-q")
    git("add", "-A")
    git("-c", "user.name=a", "-c", "user.email=a@example.org", "commit", "-qm", "all")


def _clone_killed(here: Mount, there: Mount, folder: Path, moments: int, seed: int) -> None:
    chance = random.Random(seed)
    repository = folder / "repository"
    _make_repository(repository)
    longest_s = 2.0
    cut = 0
    for number in range(moments):
        clone = here.path / f"clone{number}"
        log = folder / "calls"
        began_s = time.monotonic()
        command = ["git", "clone", "-q", "--no-local", str(repository), str(clone)]
        program = traced(command, log, folder)
        try:
            program.wait(chance.uniform(0.2, longest_s))
        except subprocess.TimeoutExpired:
            cut += 1
        if program.poll() == 0:
            longest_s = time.monotonic() - began_s
        here.process.kill()  # the dead mount stays until git has met it: else git would go on below it
        program.wait(60)
        here.kill()
        known = answered(log, folder, clone)
        here.start()
        assert clone_problems(repository, clone, known) == []
        here.sync()
        for paths in (known.there, known.gone, known.closed):
            moved = {str(there.path / Path(path).relative_to(here.path)) for path in paths}
            paths.clear()
            paths.update(moved)
        assert clone_problems(repository, there.path / clone.name, known) == []
    assert cut, "no clone was interrupted"


def _judge(volume: Volume, here: Mount, there: Mount) -> None:
    assert here.umount() == 0
    assert there.umount() == 0
    assert fsck.check(volume.url).problems == []


def test_an_untar_that_meets_kill_9_keeps_what_it_was_answered(
    two_mounts: tuple[Mount, Mount], volume: Volume, tmp_path: Path
) -> None:
    _untar_killed(*two_mounts, tmp_path, 3, seed=1)
    _judge(volume, *two_mounts)


def test_a_clone_that_meets_kill_9_keeps_what_it_was_answered(
    two_mounts: tuple[Mount, Mount], volume: Volume, tmp_path: Path
) -> None:
    _clone_killed(*two_mounts, tmp_path, 3, seed=1)
    _judge(volume, *two_mounts)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_an_untar_that_meets_50_kills(two_mounts: tuple[Mount, Mount], volume: Volume, tmp_path: Path) -> None:
    _untar_killed(*two_mounts, tmp_path, 50, seed=2)
    _judge(volume, *two_mounts)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_a_clone_that_meets_50_kills(two_mounts: tuple[Mount, Mount], volume: Volume, tmp_path: Path) -> None:
    _clone_killed(*two_mounts, tmp_path, 50, seed=2)
    _judge(volume, *two_mounts)
