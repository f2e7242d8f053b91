"""Locks as simple as they can be, for comparison: every byte by itself, every question answered from scratch.

Bytes are 0 to CELLS - 2; the last cell stands for all bytes after them. Shares nothing with the code under test but the
errno numbers.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass, field

CELLS = 9
END = 2**63 - 1
PASSES = 16

Owner = tuple[int, int]  # session, number; odd: fcntl


@dataclass(eq=False)
class Request:
    owner: Owner
    cells: frozenset[int]
    exclusive: bool
    place: tuple[int, int]
    passed: int = 0


@dataclass
class File:
    """`modes[owner][cell]`: whether it is held exclusively."""

    modes: dict[Owner, dict[int, bool]] = field(default_factory=dict)
    queue: list[Request] = field(default_factory=list)


def cells(start: int, end: int) -> frozenset[int]:
    return frozenset(range(min(start, CELLS - 1), min(end, CELLS - 1) + 1))


def same_class(one: Owner, other: Owner) -> bool:
    return one != other and one[1] % 2 == other[1] % 2


class LockModel:
    def __init__(self, inos: list[int]) -> None:
        self.files = {ino: File() for ino in inos}

    # -- ops ------------------------------------------------------------------------------------------------------

    def lock(
        self, ino: int, owner: Owner, start: int, end: int, exclusive: bool, wait: bool, place: tuple[int, int]
    ) -> tuple[int, int]:
        """(errno, value)"""
        file, request = self.files[ino], Request(owner, cells(start, end), exclusive, place)
        free = not self.holders(file, request)
        if not wait:
            if not free:
                return errno.EAGAIN, 0
            self.hold(file, request)
            self.settle()
            return 0, 0
        if owner[1] % 2 and owner in self.reached(file, request):
            return errno.EDEADLK, 0
        file.queue.append(request)
        if not free and owner[1] % 2 == 0:
            file.modes.pop(owner, None)
        elif free:
            passed = self.passes(file, request)
            if passed is None and owner[1] % 2 == 0:
                file.modes.pop(owner, None)
        self.settle()
        return 0, 1 + place[1] if request in file.queue else 0

    def unlock(self, ino: int, owner: Owner, start: int, end: int) -> None:
        modes = self.files[ino].modes.get(owner, {})
        for cell in cells(start, end):
            modes.pop(cell, None)
        self.settle()

    def cancel(self, ino: int, place: tuple[int, int], sid: int) -> int:
        file = self.files[ino]
        for request in file.queue:
            if request.place == place:
                if request.owner[0] != sid:
                    return errno.EPERM
                file.queue.remove(request)
                self.settle()
                return 0
        return errno.ENOENT

    def end(self, sid: int) -> None:
        for file in self.files.values():
            file.modes = {owner: modes for owner, modes in file.modes.items() if owner[0] != sid}
        self.resume(sid)

    def resume(self, sid: int) -> None:
        for file in self.files.values():
            file.queue = [request for request in file.queue if request.owner[0] != sid]
        self.settle()

    # -- rules ----------------------------------------------------------------------------------------------------

    def holders(self, file: File, request: Request) -> set[Owner]:
        """Those who hold what stands against it."""
        return {
            owner
            for owner, modes in file.modes.items()
            for cell, exclusive in modes.items()
            if same_class(owner, request.owner) and cell in request.cells and (exclusive or request.exclusive)
        }

    def reached(self, file: File, request: Request) -> set[Owner]:
        """All whom it waits for, directly or through others."""
        found = self.holders(file, request)
        while True:
            more = {
                owner
                for other in self.files.values()
                for waiting in other.queue
                if waiting.owner in found
                for owner in self.holders(other, waiting)
            }
            if more <= found:
                return found
            found |= more

    def passes(self, file: File, request: Request) -> list[Request] | None:
        """None: it must stand behind one that came before."""
        charged = []
        for earlier in file.queue:
            if earlier is request:
                break
            against = earlier.cells & request.cells and (earlier.exclusive or request.exclusive)
            if not against or not same_class(earlier.owner, request.owner):
                continue
            reached = self.reached(file, earlier)
            if request.owner in reached:
                continue
            if earlier.passed >= PASSES or request.owner[0] not in {owner[0] for owner in reached}:
                return None
            charged.append(earlier)
        return charged

    def settle(self) -> None:
        """One at a time, each from scratch: by file, then by place."""
        while self.grant_one():
            pass

    def grant_one(self) -> bool:
        for file in self.files.values():
            for request in file.queue:
                if self.holders(file, request):
                    continue
                charged = self.passes(file, request)
                if charged is not None:
                    for earlier in charged:
                        earlier.passed += 1
                    file.queue.remove(request)
                    self.hold(file, request)
                    return True
        return False

    def hold(self, file: File, request: Request) -> None:
        modes = file.modes.setdefault(request.owner, {})
        for cell in request.cells:
            modes[cell] = request.exclusive
