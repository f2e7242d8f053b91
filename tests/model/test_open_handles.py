"""Handles that stay open on both mounts while both write. What an old handle reads of the other one's work is not
promised. What is: each sees its own bytes, writers of different parts both win, appends are whole and in order, and
whoever opens anew sees all that was fsynced or closed."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from random import Random

import pytest

from tests.model.conftest import WorldMaker

BLOCK_BYTES = 3_000
BLOCKS = 40
STEPS = 60


@dataclass
class Shared:
    """Two files, open on both mounts: in one each mount writes blocks of its own (of equal parity); to the other both
    append."""

    roots: list[str]
    handles: list[int] = field(default_factory=list)
    appenders: list[int] = field(default_factory=list)
    # What a block holds for its writer, and what of it has been fsynced.
    written: dict[int, int] = field(default_factory=dict)
    synced: dict[int, int] = field(default_factory=dict)
    appended: list[list[bytes]] = field(default_factory=lambda: [[], []])

    def open(self) -> None:
        for root in self.roots:
            self.handles.append(os.open(f"{root}/blocks", os.O_RDWR | os.O_CREAT, 0o644))
            self.appenders.append(os.open(f"{root}/log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644))

    def step(self, chance: Random) -> None:
        mount = chance.randrange(2)
        block = 2 * chance.randrange(BLOCKS // 2) + mount
        kind = chance.choice(("write", "write", "read", "append", "fsync", "look"))
        if kind == "write":
            self.written[block] = chance.randrange(1, 256)
            os.pwrite(self.handles[mount], bytes([self.written[block]]) * BLOCK_BYTES, block * BLOCK_BYTES)
        elif kind == "read" and block in self.written:
            found = os.pread(self.handles[mount], BLOCK_BYTES, block * BLOCK_BYTES)
            assert found == bytes([self.written[block]]) * BLOCK_BYTES
        elif kind == "append":
            line = b"%d %d %s\n" % (mount, len(self.appended[mount]), b"." * chance.randrange(100))
            assert os.write(self.appenders[mount], line) == len(line)
            self.appended[mount].append(line)
        elif kind == "fsync":
            os.fsync(self.handles[mount])
            self.synced |= {block: value for block, value in self.written.items() if block % 2 == mount}
        elif kind == "look":
            self.look(chance.randrange(2))

    def look(self, mount: int) -> None:
        """Through opens of their own: what was fsynced is there, or what its writer has written since."""
        with open(f"{self.roots[mount]}/blocks", "rb") as reader:
            data = reader.read()
        for block, value in self.synced.items():
            found = data[block * BLOCK_BYTES : (block + 1) * BLOCK_BYTES]
            assert found in (bytes([value]) * BLOCK_BYTES, bytes([self.written[block]]) * BLOCK_BYTES)
        with open(f"{self.roots[mount]}/log", "rb") as reader:
            self.check_log(reader.read())

    def check_log(self, data: bytes) -> None:
        lines = data.splitlines(keepends=True)
        for mount in range(2):
            assert [line for line in lines if line.startswith(b"%d " % mount)] == self.appended[mount]
        assert len(lines) == sum(map(len, self.appended))

    def close(self) -> None:
        for fd in (*self.handles, *self.appenders):
            os.close(fd)
        self.handles.clear()
        self.appenders.clear()


def run(new_world: WorldMaker, seed: int) -> None:
    chance = Random(seed)
    shared = Shared(list(new_world().ours.roots))
    shared.open()
    try:
        for _ in range(STEPS):
            shared.step(chance)
    finally:
        shared.close()
    shared.synced = dict(shared.written)
    for mount in range(2):
        shared.look(mount)


@pytest.mark.parametrize("seed", range(2))
def test_handles_that_stay_open_keep_what_is_promised(new_world: WorldMaker, seed: int) -> None:
    run(new_world, seed)


@pytest.mark.long
def test_handles_that_stay_open_keep_what_is_promised_for_long(new_world: WorldMaker) -> None:
    for seed in range(100, 300):
        run(new_world, seed)
