"""Reusable object-sized memory for uploads: what bounds the anonymous memory of writing. Knows nothing of files."""

from __future__ import annotations

import mmap
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio


class Buffers:
    """At most `count` buffers of `size_bytes`, made when first needed and used again. `outstanding` are lent now."""

    def __init__(self, count: int, size_bytes: int) -> None:
        self._limiter = trio.Semaphore(count)
        self._size_bytes = size_bytes
        self._free: list[mmap.mmap] = []
        self.made = 0
        self.outstanding = 0

    @asynccontextmanager
    async def lend(self) -> AsyncIterator[memoryview]:
        """One buffer, for the block only; waits while all are lent. Its bytes are whatever they were."""
        async with self._limiter:
            if self._free:
                memory = self._free.pop()
            else:
                memory = mmap.mmap(-1, self._size_bytes)
                self.made += 1
            self.outstanding += 1
            try:
                yield memoryview(memory)
            finally:
                self.outstanding -= 1
                self._free.append(memory)

    def trim(self) -> None:
        """Give the memory of idle buffers back to the system."""
        self.made -= len(self._free)
        self._free.clear()
