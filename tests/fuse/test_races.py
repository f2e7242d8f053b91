"""What can have one winner has exactly one, among processes on two mounts, and both mounts show the same one."""

from __future__ import annotations

import errno
import multiprocessing
import os
from pathlib import Path

import pytest

from tests.fuse.racer import RACES, contend
from tests.mounted import Mount

CONTENDERS = 4


def race(mounts: tuple[Mount, Mount], rounds: int) -> None:
    (mounts[0].path / "race").mkdir()
    folders = [mount.path / "race" for mount in mounts]
    context = multiprocessing.get_context("spawn")
    barrier, answers = context.Barrier(CONTENDERS), context.Queue()
    processes = [
        context.Process(target=contend, args=(folders[me % 2], me, rounds, barrier, answers), daemon=True)
        for me in range(CONTENDERS)
    ]
    for process in processes:
        process.start()
    try:
        found = dict(answers.get(timeout=500) for _ in processes)
    finally:
        for process in processes:
            process.kill()
            process.join()
    assert not [outcome for outcome in found.values() if isinstance(outcome, str)]
    wins = [0, 0]
    for name in RACES:
        lost = errno.ENOENT if name == "take_away" else errno.EEXIST
        for number in range(rounds):
            outcomes = [found[me][name][number] for me in range(CONTENDERS)]
            assert sorted(outcomes) == [0] + [lost] * (CONTENDERS - 1), (name, number, outcomes)
            winner = outcomes.index(0)
            wins[winner % 2] += 1
            for folder in folders:
                check(name, folder, folder / f"{name}-{number}", winner, number)
    print(f"wins by mount: {wins}")


def check(name: str, folder: Path, prize: Path, winner: int, number: int) -> None:
    """The prize is the winner's."""
    own = f"own-{name}-{number}-{winner}"
    if name == "make_directory":
        assert os.listdir(prize) == [own]
    elif name == "symlink":
        assert os.readlink(prize) == own
    elif name == "take_away":
        taken = [me for me in range(CONTENDERS) if (folder / f"{prize.name}-taken-own-{name}-{number}-{me}").exists()]
        assert taken == [winner]
    else:
        assert prize.read_text() == own


def test_every_race_has_one_winner(two_mounts: tuple[Mount, Mount]) -> None:
    race(two_mounts, 8)


@pytest.mark.long
def test_every_race_has_one_winner_in_300_rounds(two_mounts: tuple[Mount, Mount]) -> None:
    race(two_mounts, 300)
