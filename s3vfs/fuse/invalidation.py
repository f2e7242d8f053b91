"""Telling the kernel what it may no longer answer by itself, from threads of their own.

A notification blocks while a request holds the kernel's lock on the same directory, and that request may wait for the
trio thread: so none is ever sent from there. Attributes alone never block and have a lane of their own. Names have
several, by directory, so that one busy directory does not hold up the others; pages likewise, by inode: they wait for
reads of that inode in progress.

Attributes can miss: a reply on its way, which the kernel has taken but not yet worked in, makes an inode that it did
not have when it was told, with attributes of before. So what the kernel does not have it is told again, shortly after
and when the inode is opened. (Names cannot: the look-up holds the directory's lock until its reply is worked in.)

A lane is a bounded set: what is in it already is not added again. When names overflow, a whole directory's are replaced
by the directory's own entry, whose invalidation drops everything below it from the kernel's cache. Nothing is dropped
silently.
"""

from __future__ import annotations

import errno
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, Protocol, TypeVar

_log = logging.getLogger(__name__)

NAME_LANES = 4
PAGE_LANES = 4
# Names waiting in one lane, about 200 bytes each. More come only from a foreign client that changes hundreds of
# thousands of names that this kernel was given within the last minute.
LANE_LIMIT = 50_000
# When the kernel is told again of attributes that it did not have: programs are rarely kept from running for longer.
REPEAT_AFTER_S = (0.1, 0.4)

Name = tuple[int, bytes]
_Key = TypeVar("_Key", int, Name)

# The kernel does not have it, or the mount is gone: nothing is left to invalidate.
_NOTHING_THERE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENODEV, errno.ENOTCONN, errno.EBADF})


class Notifier(Protocol):
    """The kernel's side. They may block, and raise OSError."""

    def invalidate_entry(self, parent: int, name: bytes) -> None: ...

    def invalidate_attributes(self, ino: int) -> None: ...

    def invalidate_pages(self, ino: int) -> None:
        """And attributes."""
        ...


class _Lane(Generic[_Key]):
    """One thread and the keys that it has to deliver, in order, each once; those that were `missed`, as nothing was
    there to take them, again after each of `repeat_after_s`."""

    def __init__(
        self,
        name: str,
        deliver: Callable[[_Key], None],
        done: Callable[[_Key], None],
        *,
        repeat_after_s: Sequence[float] = (),
    ) -> None:
        self._deliver: Callable[[_Key], None] = deliver
        self._done: Callable[[_Key], None] = done
        self._keys: dict[_Key, None] = {}
        self._current: _Key | None = None
        self._repeat_after_s = repeat_after_s
        # Keys with the number of repeats that they have had; and when they are due, in order for each number.
        self.missed: dict[_Key, int] = {}
        self._due: list[deque[tuple[float, _Key]]] = [deque() for _ in repeat_after_s]
        self._more = threading.Condition()
        self._closing = False
        self.delivered = 0
        self.idle = True
        self.thread = threading.Thread(target=self._run, name=name, daemon=True)

    def __len__(self) -> int:
        return len(self._keys)

    def waiting(self, key: _Key) -> bool:
        """Whether it is still to be delivered, or just being."""
        return key in self._keys or self._current == key

    def put(self, key: _Key) -> None:
        with self._more:
            self._keys[key] = None
            if key in self.missed:
                self.missed[key] = 0
            self.idle = False
            self._more.notify()

    def remove(self, unwanted: Callable[[_Key], bool]) -> None:
        with self._more:
            self._keys = {key: None for key in self._keys if not unwanted(key)}

    def close(self) -> None:
        with self._more:
            self._closing = True
            self._keys.clear()
            self._more.notify()

    def _run(self) -> None:
        while True:
            with self._more:
                self._take_due()
                while not self._keys and not self._closing:
                    self.idle = True
                    self._more.wait(self._due_in_s())
                    self._take_due()
                if self._closing:
                    return
                key = next(iter(self._keys))
                self._current = key  # before it leaves the others: `waiting` takes no lock
                del self._keys[key]
            try:
                self._deliver(key)
                self.missed.pop(key, None)
            except OSError as error:
                if error.errno == errno.ENOENT and self._repeat_after_s:
                    self._miss(key)
                elif error.errno not in _NOTHING_THERE:
                    _log.warning("the kernel did not take the invalidation of %r: %s", key, error)
            except Exception:
                _log.exception("invalidation of %r", key)
            self.delivered += 1
            self._current = None  # first: who hears that it is done may ask whether it is `waiting` again
            self._done(key)

    def _miss(self, key: _Key) -> None:
        repeats = self.missed.pop(key, 0)
        if len(self.missed) >= LANE_LIMIT:
            self.missed.pop(next(iter(self.missed)), None)
        self.missed[key] = repeats + 1
        if repeats < len(self._repeat_after_s):
            self._due[repeats].append((time.monotonic() + self._repeat_after_s[repeats], key))

    def _due_in_s(self) -> float | None:
        firsts = [queue[0][0] for queue in self._due if queue]
        return max(0.0, min(firsts) - time.monotonic()) if firsts else None

    def _take_due(self) -> None:
        now_s = time.monotonic()
        for queue in self._due:
            while queue and queue[0][0] <= now_s:
                key = queue.popleft()[1]
                if key in self.missed:  # told meanwhile: once more would only spoil what the kernel asks for just now
                    self._keys[key] = None


class Invalidator:
    """`entry`, `attributes` and `pages` return at once; they are for the trio thread. `entry_of(directory)` gives the
    directory's own (parent, name), None for the root or where it has none."""

    def __init__(
        self, notifier: Notifier, entry_of: Callable[[int], Name | None], *, lane_limit: int = LANE_LIMIT
    ) -> None:
        self._entry_of = entry_of
        self._lane_limit = lane_limit
        self._delivered: deque[Name] = deque()  # its append and popleft are atomic
        self._attributes: _Lane[int] = _Lane(
            "s3vfs-attributes", notifier.invalidate_attributes, lambda _: None, repeat_after_s=REPEAT_AFTER_S
        )
        self._names: list[_Lane[Name]] = [
            _Lane(f"s3vfs-names-{index}", lambda name: notifier.invalidate_entry(*name), self._delivered.append)
            for index in range(NAME_LANES)
        ]
        self._when_dropped: dict[int, Callable[[], None]] = {}
        self._pages: list[_Lane[int]] = [
            _Lane(f"s3vfs-pages-{index}", notifier.invalidate_pages, self._pages_dropped) for index in range(PAGE_LANES)
        ]
        self.collapsed = 0

    @property
    def _lanes(self) -> list[_Lane[int] | _Lane[Name]]:
        return [self._attributes, *self._names, *self._pages]

    def start(self) -> None:
        for lane in self._lanes:
            lane.thread.start()

    def stop(self, timeout_s: float) -> bool:
        """End the threads; what waits is given up. Blocks. False: one of them is still inside a notification."""
        for lane in self._lanes:
            lane.close()
        for lane in self._lanes:
            if lane.thread.ident is not None:
                lane.thread.join(timeout_s)
        return not any(lane.thread.is_alive() for lane in self._lanes)

    def attributes(self, ino: int) -> None:
        self._attributes.put(ino)

    def pages(self, ino: int, dropped: Callable[[], None]) -> None:
        """Attributes and pages. `dropped` is called by another thread when the kernel has none of them any more, not at
        all after `stop`. One at a time for an inode."""
        self._when_dropped[ino] = dropped
        self._pages[ino % PAGE_LANES].put(ino)

    def _pages_dropped(self, ino: int) -> None:
        dropped = self._when_dropped.pop(ino, None)
        if dropped is not None:
            dropped()

    def entry(self, parent: int, name: bytes) -> None:
        lane = self._names[parent % NAME_LANES]
        if len(lane) >= self._lane_limit:
            own = self._entry_of(parent)
            if own is not None:
                self._collapse(lane, parent, own)
                return
        lane.put((parent, name))

    def _collapse(self, lane: _Lane[Name], directory: int, own: Name) -> None:
        self.collapsed += 1
        if self.collapsed == 1:
            _log.warning("more names change than the kernel can be told: whole directories are invalidated")
        lane.remove(lambda name: name[0] == directory)
        self._names[own[0] % NAME_LANES].put(own)

    def repeat_attributes(self, ino: int) -> None:
        """The kernel has this inode now: it is told again what it was told in vain."""
        if ino in self._attributes.missed:
            self._attributes.put(ino)

    def attributes_waiting(self, ino: int) -> bool:
        """Whether the kernel is still to be told of changed attributes."""
        return self._attributes.waiting(ino)

    def name_waiting(self, parent: int, name: bytes) -> bool:
        """Whether the kernel is still to be told of this name."""
        return self._names[parent % NAME_LANES].waiting((parent, name))

    def delivered(self) -> Iterator[Name]:
        """Names that the kernel has been told of, or did not have, since the last call."""
        while self._delivered:
            yield self._delivered.popleft()

    def settled(self) -> bool:
        """Everything handed in so far has been delivered."""
        return all(lane.idle for lane in self._lanes)

    def status(self) -> dict[str, int]:
        return {
            "waiting": sum(len(lane) for lane in self._lanes),
            "delivered": sum(lane.delivered for lane in self._lanes),
            "collapsed": self.collapsed,
        }
