"""The local files of working files that are done with, empty, for the next ones to use.

A small file would else have two local files made and deleted within a second. That is dear everywhere, and dearest on
ext4 without a journal, which looks for an inode that was not deleted lately: up to half a millisecond for each. Only
names are kept, no descriptors: opening a file that is there costs little. Who makes many files finds local ones made
ahead, by a worker thread.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path

import trio

_log = logging.getLogger(__name__)

_NAME = re.compile("[0-9a-f]{16}")
# As many as a second of acknowledged work may keep busy, of two files each.
_MOST = 1024
# Where many files are made, so many are made ahead, in steps.
_AHEAD = 256
_STEP = 32


def _make(names: Sequence[str]) -> None:
    """Both files of each. Blocks. Raises OSError."""
    for name in names:
        for path in (name, f"{name}.log"):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))


class Spares:
    """Those of one folder, and the names of all files there. A name stands for itself and, with `.log`, for the log."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        stems = [path.stem for path in folder.iterdir()] if folder.is_dir() else []
        there = [int(stem, 16) for stem in stems if _NAME.fullmatch(stem)]
        self._last = max(there, default=0)
        self._free: list[str] = []
        self._scarcity = trio.Event()

    def new(self) -> str:
        """A name that no file has, or has had since the daemon was started."""
        self._last += 1
        return f"{self._folder}/{self._last:016x}"

    def take(self) -> str | None:
        """A name whose files are there, both empty, for whoever asks."""
        return self._free.pop() if self._free else None

    def look_ahead(self) -> None:
        """Many files are being made: more local ones may be wanted soon."""
        if len(self._free) < _AHEAD // 2:
            self._scarcity.set()

    async def keep(self, run: Callable[..., Awaitable[object]]) -> None:
        """Make local files ahead when asked to, with `run` in a worker thread; until cancelled."""
        while True:
            await self._scarcity.wait()
            self._scarcity = trio.Event()
            while len(self._free) < _AHEAD:
                names = [self.new() for _ in range(_STEP)]
                try:
                    await run(_make, names)
                except OSError as error:  # who wants one makes it, and reports what is wrong
                    _log.info("no local files ahead: %s", error)
                    break
                for name in names:
                    self.give(name)

    @property
    def wanted(self) -> bool:
        """Whether more would be kept."""
        return len(self._free) < _MOST

    def give(self, name: str) -> None:
        """Both files are empty, and nobody has them open any more."""
        self._free.append(name)

    def clear(self) -> None:
        """Delete them."""
        while self._free:
            name = self._free.pop()
            try:
                for path in (f"{name}.log", name):
                    with suppress(FileNotFoundError):
                        os.unlink(path)
            except OSError as error:  # they are empty, and the next daemon tries again
                _log.warning("%s is not deleted: %s", name, error)
