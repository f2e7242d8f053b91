"""Random system calls, on a mount and on the local file system: the same answers, and the same tree afterwards."""

from __future__ import annotations

import os
import random
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

NAMES = ("a", "b", "c")
DIRECTORIES = ("", "d", "e", "d/f")
CALLS = 250


class Tree:
    """One of the two. Every call returns what can be compared: a value or an errno."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._files: dict[int, int] = {}

    def call(self, name: str, *arguments: object) -> object:
        try:
            return getattr(self, name)(*arguments)
        except OSError as error:
            return f"errno {error.errno}"

    def path(self, name: str) -> str:
        return str(self._root / name)

    def mkdir(self, name: str) -> None:
        os.mkdir(self.path(name))

    def rmdir(self, name: str) -> None:
        os.rmdir(self.path(name))

    def unlink(self, name: str) -> None:
        os.unlink(self.path(name))

    def rename(self, old: str, new: str) -> None:
        os.rename(self.path(old), self.path(new))

    def link(self, old: str, new: str) -> None:
        os.link(self.path(old), self.path(new))

    def symlink(self, target: str, name: str) -> None:
        os.symlink(target, self.path(name))

    def chmod(self, name: str, mode: int) -> None:
        os.chmod(self.path(name), mode)

    def utime(self, name: str, time_ns: int) -> None:
        os.utime(self.path(name), ns=(time_ns, time_ns))

    def open(self, slot: int, name: str, flags: int) -> None:
        if slot in self._files:
            os.close(self._files.pop(slot))
        self._files[slot] = os.open(self.path(name), flags, 0o640)

    def write(self, slot: int, offset: int, data: bytes) -> object:
        return os.pwrite(self._files[slot], data, offset) if slot in self._files else None

    def read(self, slot: int, offset: int, length: int) -> object:
        return os.pread(self._files[slot], length, offset) if slot in self._files else None

    def ftruncate(self, slot: int, size: int) -> None:
        if slot in self._files:
            os.ftruncate(self._files[slot], size)

    def truncate(self, name: str, size: int) -> None:
        os.truncate(self.path(name), size)

    def fstat(self, slot: int) -> object:
        return _shown(os.fstat(self._files[slot])) if slot in self._files else None

    def stat(self, name: str) -> object:
        return _shown(os.stat(self.path(name)))

    def load(self, name: str) -> object:
        return Path(self.path(name)).read_bytes()

    def listdir(self, name: str) -> object:
        return sorted(os.listdir(self.path(name)))

    def everything(self) -> list[tuple[object, ...]]:
        """Names, kinds, modes, sizes, link counts, times and contents of the whole tree."""
        found: list[tuple[object, ...]] = []
        for folder, directories, files in os.walk(self._root):
            for name in sorted(directories + files):
                path = os.path.join(folder, name)
                status = os.lstat(path)
                contents: object = None
                if stat.S_ISLNK(status.st_mode):
                    contents = os.readlink(path)
                elif stat.S_ISREG(status.st_mode):
                    contents = Path(path).read_bytes()
                found.append((os.path.relpath(path, self._root), *_shown(status), contents))
        return sorted(found, key=lambda entry: str(entry[0]))

    def close(self) -> None:
        for descriptor in self._files.values():
            os.close(descriptor)


def _shown(status: os.stat_result) -> tuple[int, ...]:
    size = 0 if stat.S_ISDIR(status.st_mode) else status.st_size
    return status.st_mode, status.st_nlink, size


def some_call(chance: random.Random) -> tuple[str, *tuple[object, ...]]:
    def name() -> str:
        return os.path.join(chance.choice(DIRECTORIES), chance.choice(NAMES))

    def place() -> str:
        return chance.choice([*DIRECTORIES[1:], name()])

    slot, offset = chance.randrange(3), chance.choice((0, 1, 4095, 4096, chance.randrange(300_000)))
    data = bytes([chance.randrange(256)]) * chance.choice((1, 10, 4096, 100_000))
    flags = chance.choice((os.O_RDONLY, os.O_WRONLY, os.O_RDWR)) | chance.choice(
        (0, os.O_CREAT, os.O_CREAT | os.O_EXCL, os.O_TRUNC, os.O_CREAT | os.O_TRUNC, os.O_CREAT | os.O_APPEND)
    )
    kinds: list[Callable[[], tuple[str, *tuple[object, ...]]]] = [
        lambda: ("mkdir", place()),
        lambda: ("rmdir", place()),
        lambda: ("unlink", name()),
        lambda: ("rename", place(), place()),
        lambda: ("link", name(), name()),
        lambda: ("symlink", chance.choice(NAMES), name()),
        lambda: ("chmod", place(), chance.choice((0o600, 0o755, 0o4755, 0o2755, 0o1777))),
        lambda: ("utime", place(), chance.randrange(1 << 60)),
        lambda: ("truncate", name(), offset),
        lambda: ("stat", place()),
        lambda: ("load", name()),
        lambda: ("listdir", chance.choice(DIRECTORIES)),
        *[lambda: ("open", slot, name(), flags)] * 4,
        *[lambda: ("write", slot, offset, data)] * 4,
        *[lambda: ("read", slot, offset, 5000)] * 2,
        lambda: ("ftruncate", slot, offset),
        lambda: ("fstat", slot),
    ]
    return chance.choice(kinds)()


@pytest.mark.parametrize("seed", [*range(4), *(pytest.param(seed, marks=pytest.mark.long) for seed in range(4, 60))])
def test_calls_have_the_same_results(root: Path, tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    ours, local = Tree(root), Tree(tmp_path)
    history = []
    try:
        for _ in range(CALLS):
            call = some_call(chance)
            history.append(call if call[0] != "write" else (*call[:3], len(call[3])))  # type: ignore[arg-type]
            assert ours.call(*call) == local.call(*call), history[-20:]
    finally:
        ours.close()
        local.close()
    assert ours.everything() == local.everything()
