"""One contender of the races of test_races.py: a process that makes the same call as the others, at the same time."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

_RENAME_NOREPLACE, _AT_FDCWD = 1, -100
_libc = ctypes.CDLL(None, use_errno=True)


def create(folder: Path, own: Path, prize: Path) -> None:
    fd = os.open(prize, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    os.write(fd, own.name.encode())
    os.close(fd)


def make_directory(folder: Path, own: Path, prize: Path) -> None:
    prize.mkdir()
    (prize / own.name).touch()


def link(folder: Path, own: Path, prize: Path) -> None:
    os.link(own, prize)


def symlink(folder: Path, own: Path, prize: Path) -> None:
    os.symlink(own.name, prize)


def rename_without_replacing(folder: Path, own: Path, prize: Path) -> None:
    if _libc.renameat2(_AT_FDCWD, os.fsencode(own), _AT_FDCWD, os.fsencode(prize), _RENAME_NOREPLACE):
        raise OSError(ctypes.get_errno(), "renameat2")


def take_away(folder: Path, own: Path, prize: Path) -> None:
    """One source, as many targets as contenders."""
    os.rename(folder / f"{prize.name}-source", folder / f"{prize.name}-taken-{own.name}")


RACES: dict[str, Callable[[Path, Path, Path], None]] = {
    call.__name__: call for call in (create, make_directory, link, symlink, rename_without_replacing, take_away)
}


def prepare(race: str, folder: Path, own: Path, prize: Path, first: bool) -> None:
    """What a contender brings along: a file that says whose it is."""
    if race in ("link", "rename_without_replacing"):
        own.write_text(own.name)
    if race == "take_away" and first:
        (folder / f"{prize.name}-source").write_text("prize")


def contend(folder: Path, me: int, rounds: int, barrier: Any, answers: Any) -> None:
    """Puts (me, {race: the errno of each round, 0 = won}); an exception of another kind as text."""
    found: dict[str, list[int]] = {race: [] for race in RACES}
    try:
        for number in range(rounds):
            for race, call in RACES.items():
                own, prize = folder / f"own-{race}-{number}-{me}", folder / f"{race}-{number}"
                prepare(race, folder, own, prize, first=me == 0)
                barrier.wait(120)
                try:
                    call(folder, own, prize)
                    found[race].append(0)
                except OSError as error:
                    found[race].append(error.errno or -1)
        answers.put((me, found))
    except Exception as error:
        barrier.abort()
        answers.put((me, repr(error)))
