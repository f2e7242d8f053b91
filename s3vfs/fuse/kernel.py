"""What the kernel may believe, and what it must unlearn when a record is applied.

*Names and attributes* given to the kernel hold there for up to `lifetime_s`. A foreign record that changes them is
passed on to the Invalidator, for inodes that were given out lately only.

*Outdated names.* Until the invalidation has arrived, the kernel may still open an inode through a name that has been
taken away or given to another one. So such names are remembered for as long as the kernel may hold them, and an open of
their former inode answers ESTALE, once to each thread: the kernel then looks every part of the path up again, and what
it opens next, the daemon has named to it. Once is enough, and more would be wrong: an inode may have other names.

*Pages.* An open keeps the kernel's pages only where nobody else has changed the contents since the kernel last dropped
them. Pages are dropped by opens alone, and by the kernel itself when refreshed attributes show another size or mtime
(FUSE_AUTO_INVAL_DATA): never by a notification, which would wait for pages that wait for the daemon.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

from s3vfs.filesystem import Found
from s3vfs.fuse.marks import InodeSet, RecentInodes
from s3vfs.namespace.changes import Changes

Name = tuple[int, bytes]


class Invalidations(Protocol):
    """Where invalidations go."""

    def entry(self, parent: int, name: bytes) -> None: ...

    def attributes(self, ino: int) -> None: ...


class Namespace(Protocol):
    """Questions about the present view, answered without a checkpoint."""

    def holds(self, parent: int, name: bytes, ino: int) -> bool: ...

    def lineage(self, ino: int) -> Iterable[int]:
        """The inode and all directories above any of its names."""
        ...

    def peek(self, ino: int) -> Found | None:
        """The inode as getattr would show it now."""
        ...

    def is_open(self, ino: int) -> bool: ...


@dataclass(eq=False, slots=True)
class _Outdated:
    """`name` no longer leads to `ino`. `told`: threads that have been sent to look again."""

    ino: int
    name: Name
    until_s: float
    told: set[int] = field(default_factory=set)


class KernelCache:
    """All methods are for the trio thread and have no checkpoint."""

    def __init__(
        self, namespace: Namespace, invalidations: Invalidations, now_s: Callable[[], float], lifetime_s: float
    ) -> None:
        self._namespace = namespace
        self._invalidations = invalidations
        self._now_s = now_s
        self._lifetime_s = lifetime_s
        self._given = RecentInodes(lifetime_s, now_s)
        self._pages = InodeSet()
        self._outdated: dict[int, dict[Name, _Outdated]] = {}
        self._inos_outdated: dict[Name, set[int]] = {}
        self._ageing: deque[_Outdated] = deque()
        # Attributes that were given while the inode was open here, and that no write has made the kernel forget.
        self._given_open: dict[int, Found] = {}
        self._reloaded_until_s = 0.0
        self._told_of_reload: set[tuple[int, int]] = set()

    # -- what goes to the kernel ------------------------------------------------------------------------------------

    def gave(self, found: Found) -> None:
        """A reply names this inode or has its attributes."""
        ino = found.ino
        self._given.add(ino)
        if self._namespace.is_open(ino):
            self._given_open[ino] = found

    def wrote(self, ino: int) -> None:
        """The kernel has sent a write, and with that forgotten size, times and blocks."""
        self._given_open.pop(ino, None)

    def released(self, ino: int) -> None:
        if not self._namespace.is_open(ino):
            self._given_open.pop(ino, None)

    def keep_pages(self, ino: int) -> bool:
        """Whether an open may keep the pages that the kernel has of it. False: it drops them, so the next one may."""
        if ino in self._pages:
            return True
        self._pages.add(ino)
        return False

    # -- what the journal changes -----------------------------------------------------------------------------------

    def hear(self, changes: Changes, own: bool) -> None:
        """A record has been applied. An own one does what the kernel has asked for, so the kernel knows; but publishing
        may settle attributes (ctime, blocks) that were given while the bytes were on their way."""
        if own:
            for ino in changes.inodes & self._given_open.keys():
                if _shown(self._namespace.peek(ino)) != _shown(self._given_open[ino]):
                    del self._given_open[ino]
                    self._invalidations.attributes(ino)
            return
        for ino in changes.contents:
            self._pages.discard(ino)
        for ino in changes.inodes:
            if ino in self._given:
                self._given_open.pop(ino, None)
                self._invalidations.attributes(ino)
        for ino, parent, name in changes.links:
            if ino in self._given and not self._namespace.holds(parent, name, ino):
                self._withdraw(ino, (parent, name))

    def hear_reload(self) -> None:
        """A checkpoint has replaced base: any inode may have changed, any name may be outdated. Which names, nobody can
        say; the kernel drops them by itself, and until then opens are checked as if all were."""
        self._pages.clear()
        self._given_open.clear()
        self._told_of_reload.clear()
        self._reloaded_until_s = self._now_s() + self._lifetime_s
        for ino in self._given:
            self._invalidations.attributes(ino)

    def _withdraw(self, ino: int, name: Name) -> None:
        self._forget_aged()
        outdated = _Outdated(ino, name, self._now_s() + self._lifetime_s)
        self._outdated.setdefault(ino, {})[name] = outdated
        self._inos_outdated.setdefault(name, set()).add(ino)
        self._ageing.append(outdated)
        self._invalidations.entry(*name)

    def _forget_aged(self) -> None:
        now_s = self._now_s()
        while self._ageing and self._ageing[0].until_s <= now_s:
            self._forget(self._ageing.popleft())

    def _forget(self, outdated: _Outdated) -> None:
        ino, name = outdated.ino, outdated.name
        names = self._outdated.get(ino)
        if names is None or names.get(name) is not outdated:
            return
        del names[name]
        if not names:
            del self._outdated[ino]
        self._inos_outdated[name].discard(ino)
        if not self._inos_outdated[name]:
            del self._inos_outdated[name]

    # -- opens and renames ------------------------------------------------------------------------------------------

    def must_look_again(self, ino: int, thread: int) -> bool:
        """Whether `thread` may be about to open this inode through an outdated name, and has not been told so yet."""
        again = False
        if self._reloaded_until_s and self._is_reload_recent() and (ino, thread) not in self._told_of_reload:
            self._told_of_reload.add((ino, thread))
            again = True
        self._forget_aged()
        if self._outdated:
            for node in self._namespace.lineage(ino):
                again |= self._is_outdated(node, thread)
        return again

    def _is_reload_recent(self) -> bool:
        if self._now_s() >= self._reloaded_until_s:
            self._reloaded_until_s = 0.0
            self._told_of_reload.clear()
            return False
        return True

    def _is_outdated(self, ino: int, thread: int) -> bool:
        names = self._outdated.get(ino)
        if not names:
            return False
        again = False
        for outdated in list(names.values()):
            if self._namespace.holds(*outdated.name, ino):
                self._forget(outdated)
            elif thread not in outdated.told:
                outdated.told.add(thread)
                again = True
        return again

    def renamed(self, old: Name, new: Name, *, exchanged: bool) -> None:
        """A rename through this kernel has moved whatever the kernel had under `old`: an outdated entry moves too."""
        moved = list(self._inos_outdated.get(old, ()))
        swapped = list(self._inos_outdated.get(new, ())) if exchanged else []
        for ino in moved:
            self._withdraw(ino, new)
        for ino in swapped:
            self._withdraw(ino, old)


def _shown(found: Found | None) -> tuple[int, ...] | None:
    """What of an inode the kernel sees."""
    if found is None:
        return None
    inode = found.inode
    times = (inode.atime_ns, inode.mtime_ns, inode.ctime_ns)
    return (inode.mode, inode.uid, inode.gid, inode.nlink, inode.size, inode.allocated, *times)
