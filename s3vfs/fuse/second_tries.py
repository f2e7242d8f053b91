"""Threads that were answered ESTALE: the kernel walks the path once more for each, and what that walk finds is taken.

The kernel looks every part of the path up again, by requests of the same thread, and asks for what the last of them
names. It does so once: a second ESTALE would reach the program. That walk and the thread's next call look alike, and
requests do not say which call they belong to. What tells them apart is where a look-up is made: the walk begins
somewhere and then goes on from what it was named, while the next call may begin anywhere in what the kernel has cached.
Time does not tell: between two look-ups the kernel waits for the directory's lock, behind calls that wait for the
bucket. Only the request that a walk leads to follows its last answer at once.

Methods are for the trio thread and have no checkpoint.
"""

from __future__ import annotations

import errno
import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import TracebackType

from s3vfs.errors import PosixError
from s3vfs.namespace.rows import ROOT_INO

Name = tuple[int, bytes]

# What a refused thread is named within this time is what its next open is about. Bounded, as the kernel may give an
# open up in between without a word: for a missing right, say. Where no open was refused, the thread's next open is
# perhaps a call of its own: it must not find what is older than cached names may be.
OPEN_WITHIN_S = 10.0
OTHER_WITHIN_S = 1.0
# Between two look-ups of a walk: a directory's lock is held by calls that may wait for a silent bucket.
LOOK_WITHIN_S = 150.0
_MOST_WALKS = 10_000


@dataclass(slots=True)
class _Walk:
    """After an ESTALE about `ino`. `named`: what the last look-up since has found under `name`, None before one, 0:
    nothing; `leads_on`: a path may go on behind that; `followed`: it has been read as a symbolic link. `passed`: where
    it has looked, and what it was named. `until_s`: then it is over, unless a look-up is in progress."""

    ino: int
    lasts_s: float
    until_s: float
    look_until_s: float
    named: int | None = None
    name: Name | None = None
    leads_on: bool = True
    followed: bool = False
    passed: set[int] = field(default_factory=set)


class Serving:
    """See `SecondTries.serving`. A class, since it is entered for most requests."""

    __slots__ = ("_counted", "_ino", "_lasts_s", "_thread", "_tries")

    def __init__(self, tries: SecondTries, thread: int, ino: int, lasts_s: float) -> None:
        self._tries = tries
        self._thread = thread
        self._ino = ino
        self._lasts_s = lasts_s
        self._counted = False

    def __enter__(self) -> None:
        self._counted = self._tries.enter(self._thread, self._ino)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._counted:
            self._tries.leave(self._ino)
        if isinstance(error, PosixError) and error.errno == errno.ESTALE:
            self._tries.refused(self._thread, self._ino, lasts_s=self._lasts_s)


class SecondTries:
    """`lineage(ino)`: the inode and all directories above any of its names."""

    def __init__(self, lineage: Callable[[int], Iterable[int]], now_s: Callable[[], float]) -> None:
        self._lineage = lineage
        self._now_s = now_s
        self._walks: dict[int, _Walk] = {}
        # By thread, inodes that its walk was named, and until when it may come for them; how often they are served.
        self._expected_s: dict[tuple[int, int], float] = {}
        self._serving: Counter[int] = Counter()

    def refused(self, thread: int, ino: int, *, lasts_s: float = OPEN_WITHIN_S) -> None:
        """`thread` is answered ESTALE about `ino`: a walk begins. Threads of another pid namespace are all 0 and cannot
        be told apart."""
        if not thread:
            return
        now_s = self._now_s()
        if len(self._walks) >= _MOST_WALKS:
            self._walks = {
                key: walk for key, walk in self._walks.items() if max(walk.until_s, walk.look_until_s) > now_s
            }
        if len(self._expected_s) >= _MOST_WALKS:
            self._expected_s = {key: until_s for key, until_s in self._expected_s.items() if until_s > now_s}
        self._walks[thread] = _Walk(ino, lasts_s, now_s + lasts_s, now_s + LOOK_WITHIN_S)

    def any(self) -> bool:
        """Whether any walk may still be going on."""
        if not self._walks:
            return False
        now_s = self._now_s()
        self._walks = {key: walk for key, walk in self._walks.items() if max(walk.until_s, walk.look_until_s) > now_s}
        return bool(self._walks)

    def looks_up(self, thread: int, name: Name) -> bool:
        """The thread's look-up of `name` has arrived: does it belong to a walk, however long its answer takes? True: it
        does, and follows the last answer closely, so that another ESTALE would reach the program."""
        walk = self._walks.get(thread)
        if walk is None:
            return False
        now_s = self._now_s()
        if walk.look_until_s < now_s or not self._goes_on(walk, name):
            del self._walks[thread]
            return False
        walk.look_until_s = math.inf
        return now_s <= walk.until_s

    def _goes_on(self, walk: _Walk, name: Name) -> bool:
        """Whether a look-up of `name` can be the walk's next. The same name again: the kernel asks first whether what
        it has still holds, then for what is there now. Elsewhere: behind a symbolic link or `..`."""
        if walk.named is None or name == walk.name:
            return True
        if not walk.leads_on:
            return False
        parent = name[0]
        return parent in walk.passed or parent == ROOT_INO or any(parent in self._lineage(ino) for ino in walk.passed)

    def looked_up(self, thread: int, name: Name, ino: int, *, leads_on: bool = True) -> None:
        """That look-up has found this inode, 0: nothing, which ends a path when the kernel is told so twice.
        `leads_on`: it is a directory or a symbolic link."""
        walk = self._walks.get(thread)
        if walk is None:
            return
        if not ino and walk.named == 0:
            del self._walks[thread]
            return
        now_s = self._now_s()
        walk.named, walk.name, walk.leads_on, walk.followed = ino, name, leads_on and ino != 0, False
        walk.until_s, walk.look_until_s = now_s + walk.lasts_s, now_s + LOOK_WITHIN_S
        walk.passed.add(name[0])
        if ino:
            walk.passed.add(ino)
            self._expected_s[thread, ino] = walk.until_s

    def ended(self, thread: int) -> None:
        """The look-up has failed: so does the call."""
        self._walks.pop(thread, None)

    def serving(self, thread: int, ino: int, *, lasts_s: float = OTHER_WITHIN_S) -> Serving:
        """Around a request of the thread about this inode, from its arrival on. An ESTALE that leaves it is remembered,
        as by `refused`."""
        return Serving(self, thread, ino, lasts_s)

    def enter(self, thread: int, ino: int) -> bool:
        """A request arrives: whether it is one that `expects` counts, until `leave`."""
        if not self._expected_s or self._expected_s.get((thread, ino), -math.inf) <= self._now_s():
            return False
        self._serving[ino] += 1
        return True

    def leave(self, ino: int) -> None:
        self._serving[ino] -= 1
        if not self._serving[ino]:
            del self._serving[ino]

    def expects(self, ino: int) -> bool:
        """Whether somebody is just served who was named this inode by a walk: the call that made it finds it, even if
        its last name has gone since, however long the answer takes. Nobody else, and no later call, does."""
        return ino in self._serving

    def follows(self, thread: int, ino: int) -> bool:
        """As `is_second_try`, for a symbolic link on the walk's path, behind which it goes on. True once for each
        look-up that names it."""
        walk = self._walks.get(thread)
        if walk is None or walk.followed or self._now_s() > walk.until_s:
            return False
        walk.followed = ino == (walk.ino if walk.named is None else walk.named)
        return walk.followed

    def is_second_try(self, thread: int, ino: int) -> bool:
        """Whether the thread opens `ino` because, after an ESTALE, that was named to it (or, for a path without names
        like /proc/self/fd/3, because it has nothing else to ask for). True once for each ESTALE. To be asked when the
        request arrives: the kernel sends it right after that look-up, whatever the daemon then has to wait for."""
        walk = self._walks.pop(thread, None)
        self._expected_s.pop((thread, ino), None)
        if walk is None or self._now_s() > walk.until_s:
            return False
        return ino == (walk.ino if walk.named is None else walk.named)
