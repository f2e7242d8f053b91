"""Who asks for locks here, and under which number the journal knows them. State only; no I/O.

The kernel names an owner by 64 bits of its own choice. In the journal owners are numbers of the session, 1 to 2^63 - 1,
whose lowest bit is that of the kind of lock. The upper 32 bits are the incarnation, so that what an earlier life of
this session held is never taken for the lock of somebody who lives.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from s3vfs.namespace.locks import FCNTL

_SHIFT = 31  # below 2^32 incarnations
_COUNT = 1 << (_SHIFT - 1)


@dataclass(eq=False, slots=True)
class Owner:
    """`inos`: where it may hold something. `calls`: what it is doing, by inode."""

    number: int
    flock: bool
    name: int
    pid: int
    inos: set[int] = field(default_factory=set)
    calls: Counter[int] = field(default_factory=Counter)

    @property
    def idle(self) -> bool:
        return not self.inos and not self.calls


class Owners:
    """Those who may hold a lock or are asking for one."""

    def __init__(self) -> None:
        self._by_name: dict[tuple[bool, int], Owner] = {}
        self._by_number: dict[int, Owner] = {}
        self._last = 0

    def take(self, name: int, flock: bool, pid: int, incarnation: int) -> Owner:
        """The owner that the kernel calls `name`, with a number of this incarnation."""
        owner = self._by_name.get((flock, name))
        if owner is None:
            owner = Owner(self._new_number(flock, incarnation), flock, name, pid)
            self._by_name[flock, name] = self._by_number[owner.number] = owner
        elif pid:
            owner.pid = pid
        return owner

    def _new_number(self, flock: bool, incarnation: int) -> int:
        while True:
            self._last = (self._last + 1) % _COUNT
            number = incarnation << _SHIFT | self._last << 1 | (0 if flock else FCNTL)
            if number not in self._by_number:
                return number

    def find(self, name: int, flock: bool) -> Owner | None:
        return self._by_name.get((flock, name))

    def numbered(self, number: int) -> Owner | None:
        return self._by_number.get(number)

    def forget(self, owner: Owner) -> None:
        """To be called whenever an owner may have become idle."""
        if owner.idle and self._by_number.get(owner.number) is owner:
            del self._by_number[owner.number], self._by_name[owner.flock, owner.name]

    def any_held(self) -> bool:
        """Whether anybody here may hold a lock."""
        return any(owner.inos for owner in self._by_number.values())


def of_incarnation(number: int, incarnation: int) -> bool:
    """Whether a number was given out by that incarnation."""
    return number >> _SHIFT == incarnation
