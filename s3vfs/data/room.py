"""Room for unpublished bytes: how many there are, and who waits until there are fewer (back-pressure, DESIGN 8)."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import trio

from s3vfs.data.openfile import OpenFile
from s3vfs.data.protocol import MIB, Limits

# The disk's free space is asked for once in so many written bytes.
_LOOK_BYTES = 16 * MIB
# Others free the disk too: a waiting writer looks again after this long.
_LOOK_S = 1.0


class Room:
    """Counts over `files`, never a second time in parallel to them; `waiting` writers wait now."""

    def __init__(self, folder: Path, limits: Limits, files: Mapping[int, OpenFile]) -> None:
        self._folder = folder
        self._limits = limits
        self._files = files
        self._fewer = trio.Event()
        self._since_look = _LOOK_BYTES
        self._estimate = 0  # never below the count: what was admitted since it was last made
        self.disk_short = False
        self.waiting = 0

    @property
    def unpublished_bytes(self) -> int:
        return sum(file.working.unpublished_bytes for file in self._files.values())

    @property
    def kept_bytes(self) -> int:
        """Clean bytes in working files."""
        return sum(file.working.valid.total_bytes for file in self._files.values())

    def _look(self, length: int) -> None:
        self._since_look += length
        if self._since_look >= _LOOK_BYTES or self.disk_short:
            self._since_look = 0
            state = os.statvfs(self._folder)
            self.disk_short = state.f_bavail * state.f_frsize < self._limits.reserve_bytes + length

    def full(self, length: int) -> bool:
        """Whether `length` more bytes have to wait."""
        self._look(length)
        if self._estimate + length > self._limits.unpublished_bytes:
            self._estimate = self.unpublished_bytes
        return self.disk_short or self._estimate + length > self._limits.unpublished_bytes

    def scarce(self, margin_bytes: int) -> bool:
        """Whether who cannot be made to wait should not write: less than so much is left on the disk beyond the
        reserve, or writers wait already."""
        state = os.statvfs(self._folder)
        return state.f_bavail * state.f_frsize < self._limits.reserve_bytes + margin_bytes or self.full(0)

    def admit_at_once(self, length: int) -> bool:
        """Whether there is room for `length` bytes, which are to be written then."""
        if self.full(length):
            return False
        self._estimate += length
        return True

    async def admit(self, length: int, hurry: Callable[[], None]) -> None:
        """Returns when there is room for `length` bytes; calls `hurry` while there is none."""
        self.waiting += 1
        try:
            while self.full(length):
                hurry()
                if not self.unpublished_bytes:
                    break  # publishing frees nothing: larger than the bound by itself, or for the disk to refuse
                with trio.move_on_after(_LOOK_S):
                    await self._fewer.wait()
        finally:
            self.waiting -= 1
        self._estimate += length

    def freed(self) -> None:
        """Something was published or dropped."""
        if self.waiting:
            self._fewer.set()
            self._fewer = trio.Event()
