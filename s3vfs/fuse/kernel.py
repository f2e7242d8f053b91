"""What the kernel may believe, and what it must unlearn when a record is applied.

*Names and attributes* given to the kernel hold there for up to `lifetime_s`. A foreign record that changes them is
passed on to the Invalidator, for inodes that were given out lately only.

*Outdated names.* Until the invalidation has arrived, the kernel may still open an inode through a name that has been
taken away or given to another one, or below a directory that has moved. So such names are remembered until the kernel
has dropped them, and an open of what they led to answers ESTALE: the kernel looks every part of the path up again, by
requests of the same thread, and opens what the last of them names. That open is taken, whatever has happened to the
name meanwhile: the kernel does not look a third time, and the call began before that look-up, so what it found is no
older than it may be.

*Sizes.* A reader's kernel cuts reads at the size that it has cached, so an open also waits until attributes that have
changed are withdrawn.

*Pages.* An open keeps the kernel's pages only where nobody else has changed the contents since the kernel last dropped
them. Else pages are dropped by the kernel itself when refreshed attributes show another size or mtime
(FUSE_AUTO_INVAL_DATA), and before a lock is granted, by a notification that is waited for: under a lock an old handle
reads what the last holder wrote. Such a notification waits for pages that wait for the daemon, so none but the lock may
wait for it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import trio

from s3vfs.filesystem import Found
from s3vfs.fuse.marks import InodeSet, RecentInodes
from s3vfs.namespace.changes import Changes

Name = tuple[int, bytes]

# Opens that the kernel sent before it dropped a name are read and handled within this time.
IN_FLIGHT_S = 0.02
# An open waits so long for the kernel to drop what is outdated, and looks so often.
UNLEARN_S = 2.0
UNLEARN_POLL_S = 0.002
# A close looks so often: the thread that tells the kernel has nothing else to wait for.
WITHDRAWN_POLL_S = 0.0002
# What a refused thread is named within this time is what its next open is about. Bounded, as the kernel may give an
# open up in between without a word: for a missing right, say. Where attributes were refused, that was perhaps no open,
# and the thread's next open is a call of its own: it must not find what is older than cached names may be.
RETRY_S = 10.0
RETRY_ATTRIBUTES_S = 1.0
_MOST_RETRIES = 10_000


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
    """`name` no longer leads to `ino`. `until_s`: then the kernel has forgotten it in any case."""

    ino: int
    name: Name
    until_s: float


@dataclass(slots=True)
class _Retry:
    """A request about `ino` by this thread was answered ESTALE. `named`: what its last look-up since has found, None
    before one, 0: nothing, under the name `nothing`. `until_s`: counted from then."""

    ino: int
    lasts_s: float
    until_s: float
    named: int | None = None
    nothing: Name | None = None


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
        self._retries: dict[int, _Retry] = {}
        self._gone: dict[int, int] = {}
        # Inodes that a second look-up has named, and until when the call that made it may come for them.
        self._expected_s: dict[int, float] = {}

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

    async def published(self, ino: int) -> None:
        """Return when the kernel has no attributes of this inode that publishing has settled otherwise: who closes a
        file and then asks for its attributes gets those that all others get. Bounded."""
        self._recheck(ino)
        if self._invalidations.attributes_waiting(ino):
            await _until(lambda: not self._invalidations.attributes_waiting(ino), WITHDRAWN_POLL_S)

    def released(self, ino: int) -> None:
        if self._namespace.is_open(ino):
            return
        if self._namespace.peek(ino) is not None:  # what a mapping stored was published after the last close
            self._recheck(ino)
        self._given_open.pop(ino, None)

    def _recheck(self, ino: int) -> None:
        """Have the kernel drop attributes that were given while the inode was open and hold no longer."""
        given = self._given_open.get(ino)
        if given is not None and _shown(self._namespace.peek(ino)) != _shown(given):
            del self._given_open[ino]
            self._invalidations.attributes(ino)

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
        for name in self._invalidations.delivered():
            for ino in self._inos_outdated.get(name, ()):
                outdated = self._outdated[ino][name]
                outdated.until_s = min(outdated.until_s, now_s + IN_FLIGHT_S)
                self._dropped.append(outdated)
        for queue in (self._ageing, self._dropped):
            while queue and queue[0].until_s <= now_s:
                self._forget(queue.popleft())

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

    def may_be_outdated(self, ino: int) -> bool:
        """Whether the kernel may be about to open this inode through an outdated name of it, or of a directory
        above."""
        if not self._outdated:
            return False
        self._forget_aged()
        return any(
            not self._namespace.holds(*name, node)
            for node in self._namespace.lineage(ino)
            for name in self._outdated.get(node, ())
        )

    async def unlearned(self, ino: int) -> None:
        """Return when the kernel has dropped those names. Bounded: a request in the same directory may hold up the
        notification for as long as the bucket is silent."""
        await _until(lambda: not self.may_be_outdated(ino))

    async def attributes_withdrawn(self, ino: int) -> None:
        """Return when the kernel, which has this inode now, has dropped those attributes of it that a record has
        changed. Bounded."""
        self._invalidations.repeat_attributes(ino)
        if self._invalidations.attributes_waiting(ino):
            await _until(lambda: not self._invalidations.attributes_waiting(ino))

    def refused(self, thread: int, ino: int, *, lasts_s: float = RETRY_S) -> None:
        """`thread` is answered ESTALE about `ino`: the kernel will walk the path once more for it. Threads of another
        pid namespace are all 0 and cannot be told apart."""
        if not thread:
            return
        now_s = self._now_s()
        if len(self._retries) >= _MOST_RETRIES:
            self._retries = {key: retry for key, retry in self._retries.items() if retry.until_s > now_s}
        if len(self._expected_s) >= _MOST_RETRIES:
            self._expected_s = {key: until_s for key, until_s in self._expected_s.items() if until_s > now_s}
        self._retries[thread] = _Retry(ino, lasts_s, now_s + lasts_s)

    def looked_up(self, thread: int, name: Name, ino: int) -> None:
        """A look-up of the thread has found this inode under `name`, 0: nothing. That is where a path ends, but only
        when the kernel is told so twice: it asks first whether what it has still holds, then for what is there now."""
        self._gone.pop(thread, None)
        retry = self._retries.get(thread)
        if retry is None:
            return
        now_s = self._now_s()
        ended = retry.nothing is not None and (retry.nothing != name or not ino)
        if ended or retry.until_s < now_s:
            del self._retries[thread]
            return
        retry.named, retry.nothing, retry.until_s = ino, None if ino else name, now_s + retry.lasts_s
        if ino:
            self._expected_s[ino] = retry.until_s

    def directory_is_gone(self, thread: int, directory: int) -> bool:
        """A look-up of the thread in a directory that is no more. True: it was told so before and came back, since the
        path leads there without a name (a working directory), or since another one has just gone."""
        if thread and self._gone.pop(thread, None) == directory:
            return True
        if len(self._gone) >= _MOST_RETRIES:
            self._gone.clear()
        self._gone[thread] = directory
        return False

    def expects(self, ino: int) -> bool:
        """Whether a second look-up has just named this inode: the call that made it finds it, even if its last name has
        gone since."""
        until_s = self._expected_s.get(ino)
        return until_s is not None and until_s > self._now_s()

    def arrived(self, ino: int) -> None:
        """A request about the inode has come: if it was expected it stays so, however long its answer takes."""
        if self.expects(ino):
            self._expected_s[ino] = self._now_s() + RETRY_S

    def is_second_try(self, thread: int, ino: int) -> bool:
        """Whether the thread asks for `ino` because, after an ESTALE, that was named to it (or, for a path without
        names like /proc/self/fd/3, because it has nothing else to ask for). True once for each ESTALE. To be asked when
        the request arrives: the kernel sends it right after that look-up, whatever the daemon then has to wait for."""
        retry = self._retries.pop(thread, None)
        if retry is None or self._now_s() > retry.until_s:
            return False
        return ino == (retry.ino if retry.named is None else retry.named)

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
