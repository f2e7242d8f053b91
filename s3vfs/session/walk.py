"""Which directories to ask for beside one: those that a program which walks a tree comes to next. Pure but for rows.

`rm -r`, `chmod -R`, `find -delete` change one directory after another, and each would wait for a GRANT of its own.
So when leases are asked for near the place where one was asked for a moment ago, the next directories in the walker's
order are asked for as well, more each time, for as long as what was asked for is used: a hundred directories cost a
few records. One change here and one there asks for nothing that it does not touch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from s3vfs.namespace.limits import DIRECTORIES_PER_GRANT
from s3vfs.namespace.names import DIRECTORY
from s3vfs.namespace.rows import Rows

# Two questions within this time belong to one walk: a record with a far bucket, and what a walker does between.
_WALK_S = 5.0
# The first guess, in directories, and how it grows with each guess that was right.
_FIRST = 8
_GROWTH = 8
# How far up from a directory its place reaches: rm comes from a directory of files back to its parent, then goes on in
# a sibling of that one.
_LEVELS = 2
# Entries read for one guess: about 10 ms, beside a record that costs as much at least.
_ENTRIES_LOOKED_AT = 4_000


class Walk:
    """One session's memory of where it asked last."""

    def __init__(self) -> None:
        self._asked_s = -_WALK_S
        self._near: set[int] = set()
        self._width = 0
        self.guessed: tuple[int, ...] = ()

    def goes_on(self, rows: Rows, directories: Sequence[int], now_s: float, *, used: bool) -> int:
        """A lease of these directories is asked for. Returns how many more may be asked for with it. `used`: whether
        the last `guessed` were of use; where nothing was guessed it means nothing."""
        place = {above for directory in directories for above, _ in _upwards(rows, directory)}.union(directories)
        related = now_s < self._asked_s + _WALK_S and not place.isdisjoint(self._near)
        self._asked_s = now_s
        self._near = place
        if not related or (self.guessed and not used):
            self._width = 0
        else:
            self._width = min(max(_FIRST, self._width * _GROWTH), DIRECTORIES_PER_GRANT)
        self.guessed = ()
        return self._width


def ahead(rows: Rows, directory: int) -> Iterator[int]:
    """The directories that a walker who is in this one may come to next, in its order: what is below, then what
    follows beside it, the parent, what follows beside that; at last what stands before them, since not everybody goes
    by name. Some come twice. Ends where too much would have to be read."""
    budget = _Budget(_ENTRIES_LOOKED_AT)
    yield from _below(rows, directory, None, budget)
    places = list(_upwards(rows, directory))
    for parent, name in places:
        yield from _below(rows, parent, name, budget)
        yield parent
    for parent, _ in places:
        yield from _below(rows, parent, None, budget)


class _Budget:
    def __init__(self, entries: int) -> None:
        self._left = entries

    def spend(self) -> bool:
        self._left -= 1
        return self._left >= 0


def _upwards(rows: Rows, directory: int) -> Iterator[tuple[int, bytes]]:
    """(parent, name in it) of the directory, of its parent, and so on."""
    at = directory
    for _ in range(_LEVELS):
        link = next(rows.links(at), None)
        if link is None:
            return
        yield link
        at = link[0]


def _below(rows: Rows, directory: int, after: bytes | None, budget: _Budget) -> Iterator[int]:
    """All directories below, each before what it contains, by name; of the first level those behind `after`."""
    levels = [_directories(rows, directory, after, budget)]
    while levels:
        child = next(levels[-1], None)
        if child is None:
            levels.pop()
        else:
            yield child
            levels.append(_directories(rows, child, None, budget))


def _directories(rows: Rows, directory: int, after: bytes | None, budget: _Budget) -> Iterator[int]:
    for _, dentry in rows.entries(directory, after):
        if not budget.spend():
            return
        if dentry.kind == DIRECTORY:
            yield dentry.ino


def first(candidates: Iterable[int], count: int, unwanted: Iterable[int]) -> tuple[int, ...]:
    """`count` of them at most, each once, without the unwanted."""
    seen = set(unwanted)
    chosen: list[int] = []
    for candidate in candidates:
        if len(chosen) >= count:
            break
        if candidate not in seen:
            seen.add(candidate)
            chosen.append(candidate)
    return tuple(chosen)
