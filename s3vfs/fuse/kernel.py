"""What the kernel may believe, and what it must unlearn when a record is applied.

*Names and attributes* given to the kernel hold there for up to `lifetime_s`. A foreign record that changes them is
passed on to the Invalidator, for inodes that were given out lately only.

*Outdated names.* Until the invalidation has arrived, the kernel may still open an inode through a name that has been
taken away or given to another one, or below a directory that has moved. So such names are remembered until the kernel
has dropped them, and an open of what they led to answers ESTALE: the kernel looks every part of the path up again, by
requests of the same thread, and opens what the last of them names. That open is taken, whatever has happened to the
name meanwhile: the kernel does not look a third time, and the call began before that look-up, so what it found is no
older than it may be (second_tries.py). A call that has passed a name before the kernel dropped it may come much later:
it is kept from running, or waits for a look-up below. So names are remembered for a while after they were dropped, and
for as long as a request is being handled that came before that.

*Sizes.* A reader's kernel cuts reads at the size that it has. It asks for that before read(2) only: a mapping, sendfile
and copy_file_range take what it has, withdrawn or not, and only a reply gives it another one. So an open of an inode
whose contents others have changed, and of which the kernel was not given attributes since, is sent back in the same
way, once the old ones are withdrawn: the look-up brings the size along. (Attributes in a reply count for nothing where
the kernel was told to drop them after it had asked.)

*Pages.* An open keeps the kernel's pages only where nobody else has changed the contents since the kernel last dropped
them. Else pages are dropped by the kernel itself when refreshed attributes show another size or mtime
(FUSE_AUTO_INVAL_DATA), and before a lock is granted, by a notification that is waited for: under a lock an old handle
reads what the last holder wrote. Such a notification waits for pages that wait for the daemon, so none but the lock may
wait for it.
"""

from __future__ import annotations

import contextlib
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import trio

from s3vfs.filesystem import Found
from s3vfs.fuse.marks import InodeSet, RecentInodes
from s3vfs.fuse.second_tries import Name, SecondTries
from s3vfs.namespace.changes import Changes

# A call that has passed a name before the kernel dropped it sends its open within this time: it may be kept from
# running, and may have to look up what lies below. Opens sent back without need only cost a walk.
LINGER_S = 2.0
# Where threads cannot be told apart an open waits for that time instead, so it is shorter: without look-ups below.
IN_FLIGHT_S = 0.1
# Of so many inodes it is remembered since when the kernel has dropped their size; of others the next open costs a walk.
_MOST_TOLD = 10_000
# An open waits so long for the kernel to drop what is outdated, and looks so often.
UNLEARN_S = 2.0
UNLEARN_POLL_S = 0.002
# A close looks so often: the thread that tells the kernel has nothing else to wait for.
WITHDRAWN_POLL_S = 0.0002


class Invalidations(Protocol):
    """Where invalidations go."""

    def entry(self, parent: int, name: bytes) -> None: ...

    def attributes(self, ino: int) -> None: ...

    def pages(self, ino: int, dropped: Callable[[], None]) -> None:
        """Attributes and pages. `dropped` is called, on any thread, once the kernel has none of them any more."""
        ...

    def delivered(self) -> Iterable[Name]:
        """The names that the kernel has dropped since the last call."""
        ...

    def name_waiting(self, parent: int, name: bytes) -> bool:
        """Whether this name is still to be dropped."""
        ...

    def repeat_attributes(self, ino: int) -> None:
        """Once more, if the kernel did not have the inode when it was told to drop its attributes."""
        ...

    def attributes_waiting(self, ino: int) -> bool:
        """Whether attributes of it are still to be dropped."""
        ...


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
    """`name` no longer leads to `ino`. `until_s`: then the kernel has forgotten it in any case; `dropped_s`: when it
    has dropped it."""

    ino: int
    name: Name
    until_s: float
    dropped_s: float = math.inf


class KernelCache:
    """Methods are for the trio thread; those without `async` have no checkpoint."""

    def __init__(
        self, namespace: Namespace, invalidations: Invalidations, now_s: Callable[[], float], lifetime_s: float
    ) -> None:
        self._namespace = namespace
        self._invalidations = invalidations
        self._now_s = now_s
        self._lifetime_s = lifetime_s
        self._given = RecentInodes(lifetime_s, now_s)
        self._pages = InodeSet()
        # Inodes of which the kernel has dropped everything, and that nobody else has changed since; drops on their way.
        self._settled = InodeSet()
        self._dropping: dict[int, trio.Event] = {}
        self._outdated: dict[int, dict[Name, _Outdated]] = {}
        self._inos_outdated: dict[Name, set[int]] = {}
        # In the order of `until_s`: as the kernel forgets them, and as it has dropped them.
        self._ageing: deque[_Outdated] = deque()
        self._dropped: deque[_Outdated] = deque()
        # Attributes that were given while the inode was open here, and that no write has made the kernel forget.
        self._given_open: dict[int, Found] = {}
        # Inodes whose size the kernel may have from before a foreign change; since when it has dropped it, for some.
        self._resized = InodeSet()
        self._resized_told_s: dict[int, float] = {}
        self.second_tries = SecondTries(namespace.lineage, now_s)
        # Opens that are being handled, and when each arrived: the oldest first.
        self._arrivals_s: dict[object, float] = {}

    # -- what goes to the kernel ------------------------------------------------------------------------------------

    def gave(self, found: Found, asked_s: float | None = None) -> None:
        """A reply names this inode or has its attributes. `asked_s`: when the request came, if the kernel takes them
        unless they were withdrawn since."""
        ino = found.ino
        self._given.add(ino)
        if asked_s is not None and ino in self._resized and self._told_s(ino) < asked_s:
            self._resized.discard(ino)
            del self._resized_told_s[ino]
        if self._namespace.is_open(ino):
            self._given_open[ino] = found

    def gave_newborn(self, ino: int, *, parent: int, given: tuple[int, ...] | None, found: Found | None) -> None:
        """The front has answered requests about a file that it has made. `parent`: the directory, if that was now;
        attributes of it were perhaps given as well. `given`: what the kernel has of its attributes since it has last
        written to the file; `found`: what they are."""
        if parent:
            self._given.add(ino)
            self._given.add(parent)
            self._pages.add(ino)
        self._given_open.pop(ino, None)
        if given is not None and _shown(found) != given:
            self._invalidations.attributes(ino)
        elif found is not None and self._namespace.is_open(ino):
            self._given_open[ino] = found

    def _told_s(self, ino: int) -> float:
        """Since when the kernel is known to have dropped the attributes of a resized inode."""
        told_s = self._resized_told_s.get(ino)
        if told_s is None:
            if self._invalidations.attributes_waiting(ino):
                return math.inf
            if len(self._resized_told_s) >= _MOST_TOLD:
                self._resized_told_s.clear()
            told_s = self._resized_told_s[ino] = self._now_s()
        return told_s

    def wrote(self, ino: int) -> None:
        """The kernel has sent a write, and with that forgotten size, times and blocks."""
        self._given_open.pop(ino, None)

    async def published(self, ino: int) -> None:
        """Return when the kernel has no attributes of this inode that publishing has settled otherwise: who closes a
        file and then asks for its attributes gets those that all others get. Bounded."""
        if not self.published_at_once(ino):
            await _until(lambda: not self._invalidations.attributes_waiting(ino), WITHDRAWN_POLL_S)

    def published_at_once(self, ino: int) -> bool:
        """As `published`, where there is nothing to wait for; False: there is."""
        self._recheck(ino)
        return not self._invalidations.attributes_waiting(ino)

    def released(self, ino: int) -> None:
        if self._namespace.is_open(ino):
            return
        given = self._given_open.pop(ino, None)
        if given is not None:  # what a mapping stored was published after the last close
            found = self._namespace.peek(ino)
            if found is not None:
                self._compare(ino, given, found)

    def _recheck(self, ino: int) -> None:
        """Have the kernel drop attributes that were given while the inode was open and hold no longer."""
        given = self._given_open.get(ino)
        if given is not None and self._compare(ino, given, self._namespace.peek(ino)):
            del self._given_open[ino]

    def _compare(self, ino: int, given: Found, found: Found | None) -> bool:
        """Whether what was given holds no longer; the kernel then drops it."""
        if _shown(found) == _shown(given):
            return False
        # Who has changed the size has gone through the kernel, which has forgotten the rest with it.
        if found is None or found.inode.size == given.inode.size:
            self._invalidations.attributes(ino)
        return True

    def keep_pages(self, ino: int) -> bool:
        """Whether an open may keep the pages that the kernel has of it. False: it drops them, so the next one may."""
        if ino in self._pages:
            return True
        self._pages.add(ino)
        return False

    def passed(self, ino: int) -> None:
        """The kernel reads and writes a local file for it from now on: pages from before may be outdated afterwards."""
        self._pages.discard(ino)

    async def settle(self, ino: int) -> None:
        """Return when the kernel holds no page and no size of this inode from before the last foreign change that has
        been applied. Bounded by the reads of it that are in progress."""
        while ino in self._dropping or ino not in self._settled:
            if ino in self._dropping:
                await self._dropping[ino].wait()
                continue
            self._settled.add(ino)
            dropped = self._dropping[ino] = trio.Event()
            wake = partial(trio.lowlevel.current_trio_token().run_sync_soon, dropped.set)
            try:
                self._invalidations.pages(ino, wake)
                await dropped.wait()
            except trio.Cancelled:
                self._settled.discard(ino)
                raise
            finally:
                del self._dropping[ino]
                dropped.set()

    # -- what the journal changes -----------------------------------------------------------------------------------

    def hear(self, changes: Changes, own: bool) -> None:
        """A record has been applied. An own one does what the kernel has asked for, so the kernel knows; but publishing
        may settle attributes (ctime, blocks) that were given while the bytes were on their way."""
        if own:
            for ino in changes.inodes & self._given_open.keys():
                self._recheck(ino)
            return
        for ino in changes.contents:
            self._pages.discard(ino)
            if ino in self._given:
                self._resized.add(ino)
                self._resized_told_s.pop(ino, None)
        for ino in changes.inodes:
            self._settled.discard(ino)
            if ino in self._given or ino in changes.acls:  # the kernel keeps ACLs for as long as the inode
                self._given_open.pop(ino, None)
                self._invalidations.attributes(ino)
        for ino, parent, name in changes.links:
            if ino in self._given and not self._namespace.holds(parent, name, ino):
                self._withdraw(ino, (parent, name))

    def hear_reload(self) -> None:
        """A checkpoint has replaced base: any inode may have changed. That follows a silence of more than an hour;
        which names are outdated nobody can say, and the kernel drops them all by itself within `lifetime_s`."""
        self._pages.clear()
        self._settled.clear()
        self._given_open.clear()
        self._resized_told_s.clear()
        for ino in self._given:
            self._resized.add(ino)
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
        for name in self._invalidations.delivered():
            if self._invalidations.name_waiting(*name):
                continue  # given and taken away again since: its drop is still to come
            for ino in self._inos_outdated.get(name, ()):
                outdated = self._outdated[ino][name]
                outdated.dropped_s = min(outdated.dropped_s, now_s)
                self._dropped.append(outdated)
        oldest_s = next(iter(self._arrivals_s.values()), now_s)
        while self._ageing and self._ageing[0].until_s <= oldest_s:
            self._forget(self._ageing.popleft())
        while self._dropped and self._dropped[0].dropped_s + LINGER_S <= oldest_s:
            self._forget(self._dropped.popleft())

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

    @contextlib.contextmanager
    def arriving(self) -> Iterator[float]:
        """Around the handling of an open; gives when it arrived. What was outdated then is remembered until the end."""
        arrival = object()
        arrived_s = self._arrivals_s[arrival] = self._now_s()
        try:
            yield arrived_s
        finally:
            del self._arrivals_s[arrival]

    def may_be_outdated(self, ino: int, arrived_s: float, *, linger_s: float = LINGER_S) -> bool:
        """Whether the kernel may have opened this inode, by a request that arrived then, through an outdated name of
        it, or of a directory above."""
        if not self._outdated:
            return False
        self._forget_aged()
        return any(
            arrived_s < min(outdated.until_s, outdated.dropped_s + linger_s)
            and not self._namespace.holds(*outdated.name, node)
            for node in self._namespace.lineage(ino)
            for outdated in self._outdated.get(node, {}).values()
        )

    async def unlearned(self, ino: int) -> None:
        """Return when the kernel has dropped those names. Bounded: a request in the same directory may hold up the
        notification for as long as the bucket is silent."""
        await _until(lambda: not self.may_be_outdated(ino, self._now_s(), linger_s=IN_FLIGHT_S))

    async def size_outdated(self, ino: int) -> bool:
        """Whether the kernel may have the size from before a foreign change, and needs to be given another one. If so,
        returns when the old one is withdrawn: what it asks for from now on counts. Bounded."""
        if ino not in self._resized:
            return False
        await self.attributes_withdrawn(ino)
        self._told_s(ino)
        return True

    async def attributes_withdrawn(self, ino: int) -> None:
        """Return when the kernel, which has this inode now, has dropped those attributes of it that a record has
        changed. Bounded."""
        self._invalidations.repeat_attributes(ino)
        if self._invalidations.attributes_waiting(ino):
            await _until(lambda: not self._invalidations.attributes_waiting(ino))

    def renamed(self, old: Name, new: Name, *, exchanged: bool) -> None:
        """A rename through this kernel has moved whatever the kernel had under `old`: an outdated entry moves too."""
        moved = list(self._inos_outdated.get(old, ()))
        swapped = list(self._inos_outdated.get(new, ())) if exchanged else []
        for ino in moved:
            self._withdraw(ino, new)
        for ino in swapped:
            self._withdraw(ino, old)


async def _until(condition: Callable[[], bool], poll_s: float = UNLEARN_POLL_S) -> None:
    """Return when it holds, or after UNLEARN_S."""
    with trio.move_on_after(UNLEARN_S):
        # Rare and short: not worth waking this thread for each notification that another one has delivered.
        while not condition():  # noqa: ASYNC110
            await trio.sleep(poll_s)


def _shown(found: Found | None) -> tuple[int, ...] | None:
    """What of an inode the kernel sees."""
    if found is None:
        return None
    inode = found.inode
    times = (inode.atime_ns, inode.mtime_ns, inode.ctime_ns)
    return (inode.mode, inode.uid, inode.gid, inode.nlink, inode.size, inode.allocated, *times)
