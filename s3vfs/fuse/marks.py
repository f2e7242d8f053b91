"""Sets of inode numbers at a bit each: what the kernel may know. Pure.

A million listed files cost 125 KB here, not 100 MB: inode numbers come in blocks, so the bits lie close together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

_SHIFT = 12
_BLOCK_BYTES = (1 << _SHIFT) >> 3
_MASK = (1 << _SHIFT) - 1


class InodeSet:
    """A set of inode numbers, with the few methods that are needed."""

    __slots__ = ("_blocks",)

    def __init__(self) -> None:
        self._blocks: dict[int, bytearray] = {}

    def add(self, ino: int) -> None:
        block = self._blocks.get(ino >> _SHIFT)
        if block is None:
            block = self._blocks[ino >> _SHIFT] = bytearray(_BLOCK_BYTES)
        block[(ino & _MASK) >> 3] |= 1 << (ino & 7)

    def discard(self, ino: int) -> None:
        block = self._blocks.get(ino >> _SHIFT)
        if block is not None:
            block[(ino & _MASK) >> 3] &= ~(1 << (ino & 7))

    def __contains__(self, ino: int) -> bool:
        block = self._blocks.get(ino >> _SHIFT)
        return block is not None and bool(block[(ino & _MASK) >> 3] & (1 << (ino & 7)))

    def __iter__(self) -> Iterator[int]:
        for number, block in self._blocks.items():
            for index, bits in enumerate(block):
                if bits:
                    for bit in range(8):
                        if bits & (1 << bit):
                            yield (number << _SHIFT) + (index << 3) + bit

    def clear(self) -> None:
        self._blocks.clear()


class RecentInodes:
    """Inodes that were added less than `lifetime_s` ago, and some of those up to twice as long ago: two sets in
    turn."""

    def __init__(self, lifetime_s: float, now_s: Callable[[], float]) -> None:
        self._lifetime_s = lifetime_s
        self._now_s = now_s
        self._young, self._old = InodeSet(), InodeSet()
        self._turn_s = now_s() + lifetime_s

    def add(self, ino: int) -> None:
        self._turn()
        self._young.add(ino)

    def _turn(self) -> None:
        now_s = self._now_s()
        if now_s < self._turn_s:
            return
        # After a longer silence even the young ones are older than a lifetime.
        quiet = now_s >= self._turn_s + self._lifetime_s
        self._old, self._young = InodeSet() if quiet else self._young, InodeSet()
        self._turn_s = now_s + self._lifetime_s

    def __contains__(self, ino: int) -> bool:
        self._turn()
        return ino in self._young or ino in self._old

    def __iter__(self) -> Iterator[int]:
        yield from self._young
        yield from (ino for ino in self._old if ino not in self._young)
