"""The same calls on a volume, by turns through two mounts of it, and on a local directory: equal results, equal trees.

What is promised across mounts (docs/semantics.md) decides what is compared. One mount works at a time. Before the other
one takes over, what was written is fsynced; then its handles are opened anew (close-to-open). Names and attributes that
its kernel has cached may be up to a second old, so after a change of hands

- opens and listings by any path, and the making of names in the top directory, must be right at once;
- what reads attributes may be wrong for a bounded time;
- everything else first waits until the whole tree looks right.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from tests.model.side import USERS, Side

_T = TypeVar("_T")

# The promise is a second; the rest is for machines that do much else meanwhile.
_CACHED_S = 10.0
_POLL_S = 0.003
# A local file system's clock ticks this coarsely, at most.
_TICK_NS = 20_000_000
# Times that calls set by hand are before this; now is not.
SET_BEFORE_NS = 1_500_000_000_000_000_000

# (name, arguments, user); "switch" changes hands, (whether to wait until the tree looks right,); "observe" compares all
# that can be seen.
Call = tuple[str, tuple[object, ...], int]

_BY_HANDLE = frozenset(
    (
        *("close", "pread", "pwrite", "read", "write", "lseek", "ftruncate", "fsync", "fstat", "fchmod", "fchown"),
        *("futimens", "fsetxattr", "fgetxattr", "map_read", "map_write", "seek_holes", "seek_beyond", "fallocate"),
        "copy_range",
    )
)
_READING = frozenset(("readlink", "stat", "lstat", "fstat", "access", "getxattr", "listxattr", "fgetxattr"))
_EXACT = frozenset(("listdir", "load", "seekdir"))
_MAKING = frozenset(("mkdir", "symlink", "mknod"))


class Differs(AssertionError):
    """The volume did not do what the local directory did."""


class World:
    """`ours`: the directory through each mount of the volume; `local`: the model."""

    def __init__(self, ours: Sequence[str], local: str) -> None:
        self.ours = Side(ours)
        self.local = Side([local] * len(ours))
        self.history: list[Call] = []
        self._unsettled = False
        # By path: what each side's mtime and ctime were, and which inode of the local side that is.
        self._times: dict[str, tuple[int, os.stat_result, os.stat_result]] = {}
        # Inodes (local numbers) whose times a mapping may move, or not, at a time of its choosing.
        self._mapped: set[int] = set()
        # Inodes without a name that were open on several mounts.
        self._apart: set[int] = set()

    # -- one step -----------------------------------------------------------------------------------------------------

    def step(self, name: str, *arguments: object, user: int = 0) -> None:
        """Make one call on both. Raises Differs. A call that makes no sense now (an empty slot, a fifo to open) is
        none."""
        if not self._sensible(name, arguments) or self._takes_anothers_privileges(name, arguments, user):
            return
        self.history.append((name, arguments, user))
        if name == "switch":
            self._switch(*arguments)
            return
        if name == "observe":
            self.observe()
            return
        exact = not user and self._exact(name, arguments)  # others' rights are checked by cached attributes
        if self._unsettled and not exact and name not in _READING | _BY_HANDLE:
            self.settle()
        if name == "link" and user:
            self._look_before_link(str(arguments[0]))
        if name == "map_write":
            self._mapped.add(os.fstat(self.local.fd(arguments[0])).st_ino)  # type: ignore[arg-type]
        want = self.local.call(name, arguments, user)
        got = self.ours.call(name, arguments, user)
        if name not in _READING:
            self._note_apart()
        if self._unsettled and got != want and name in _READING:
            got = self._until(lambda: self.ours.call(name, arguments, user), want)
        if got != want:
            raise self._differs(f"{name}{arguments!r} by user {user}", got, want)

    def replay(self, calls: Sequence[Call]) -> None:
        """Every call, the whole at the end, and away with the handles."""
        try:
            for name, arguments, user in calls:
                self.step(name, *arguments, user=user)
            self.finish()
        finally:
            self.end()

    def _sensible(self, name: str, arguments: Sequence[object]) -> bool:
        if name == "open":
            try:
                mode = os.stat(self.local.path(str(arguments[1]))).st_mode
            except OSError:
                return True
            return stat.S_ISREG(mode) or stat.S_ISDIR(mode)
        if name == "rmdir" and not arguments[0]:
            return False  # the top itself, without which there is no world
        if name == "truncate":
            # To the size that a file has, truncate(2) leaves the times here (docs/semantics.md). tmpfs moves them where
            # it has pages, also those that fallocate has put behind its end, and leaves them else.
            try:
                status = os.stat(self.local.path(str(arguments[0])))
            except OSError:
                return True
            return not (stat.S_ISREG(status.st_mode) and status.st_size == arguments[1] and status.st_blocks)
        if name == "load":
            try:
                return stat.S_ISREG(os.stat(self.local.path(str(arguments[0]))).st_mode)
            except OSError:
                return True
        if name in _BY_HANDLE:
            slots = (arguments[0], arguments[2]) if name == "copy_range" else arguments[:1]
            handles = [self.local.handle(slot) for slot in slots]  # type: ignore[arg-type]
            if None in handles:
                return False
            if name.startswith("map_") and handles[0].flags & os.O_APPEND:  # type: ignore[union-attr]
                return False  # direct I/O, which has shared mappings only where the kernel is told to allow them
            # Where a directory's end is, and what else a position in it may mean, is each file system's own.
            return "seek" not in name or stat.S_ISREG(os.fstat(handles[0].fd).st_mode)  # type: ignore[union-attr]
        return True

    def _takes_anothers_privileges(self, name: str, arguments: Sequence[object], user: int) -> bool:
        """chown(2) to nobody in particular, of another's file with setuid or setgid: EPERM on a local file system. Here
        the kernel sends what it also sends before a write, which takes them away (docs/semantics.md)."""
        if not user or name not in ("chown", "fchown"):
            return False
        try:
            if name == "chown":
                path, *owners, follow = arguments
                status = os.stat(self.local.path(str(path)), follow_symlinks=bool(follow))
            else:
                slot, *owners = arguments
                status = os.fstat(self.local.fd(slot))  # type: ignore[arg-type]
        except OSError:
            return False
        return (
            owners == [-1, -1]
            and status.st_uid != USERS[user][0]
            and bool(status.st_mode & (stat.S_ISUID | stat.S_ISGID))
        )

    def _look_before_link(self, path: str) -> None:
        """The kernel keeps others from linking to a file with setuid by the mode that it has, which an append or an
        O_TRUNC leaves as it was until somebody asks for it (docs/semantics.md)."""
        with contextlib.suppress(OSError):
            os.stat(self.ours.path(path))

    def _exact(self, name: str, arguments: Sequence[object]) -> bool:
        if name == "open":
            _, path, flags, _ = arguments
            return not flags & os.O_CREAT or "/" not in str(path)  # type: ignore[operator]
        return name in _EXACT or (name in _MAKING and "/" not in str(arguments[name == "symlink"]))

    # -- changing hands -----------------------------------------------------------------------------------------------

    def _switch(self, settle: object) -> None:
        for side in (self.local, self.ours):
            side.publish()
            side.mount = (side.mount + 1) % len(side.roots)
        self._close_orphans_of_both()
        for side in (self.local, self.ours):
            side.reopen()
        self._unsettled = len(self.ours.roots) > 1
        if settle:
            self.settle()

    def _note_apart(self) -> None:
        """Files without a name that this mount and another one have open: what was not published of them, or will be
        written to them, may stay here, even where this mount closes them first."""
        mounts: dict[int, set[int]] = {}
        for (mount, _), handle in self.local.handles.items():
            status = os.fstat(handle.fd)
            if not status.st_nlink:
                mounts.setdefault(status.st_ino, set()).add(mount)
        self._apart.update(ino for ino, found in mounts.items() if self.local.mount in found and len(found) > 1)

    def _close_orphans_of_both(self) -> None:
        """What is written to a file without a name stays on the mount where it is open: to another mount that has it
        open too, or had then, nothing is promised."""
        for key, handle in list(self.local.handles.items()):
            if os.fstat(handle.fd).st_ino in self._apart:
                for side in (self.local, self.ours):
                    os.close(side.handles.pop(key).fd)

    def settle(self) -> None:
        """Return when this mount shows the whole tree as it is, and all mounts the same times. Raises Differs when it
        does not come to that."""
        if not self._unsettled:
            return
        want = self.local.tree(bytes_too=False)
        got = self._until(lambda: self._tree(bytes_too=False), want)
        if got != want:
            raise self._differs("the tree after a change of hands", got, want)
        want_open = self.local.open_files()
        got_open = self._until(self.ours.open_files, want_open)
        if got_open != want_open:
            raise self._differs("open files after a change of hands", got_open, want_open)
        if not self._until(lambda: self._all_times(0) == self._all_times(1), True):
            raise self._differs("times through mount 1", self._all_times(1), self._all_times(0))
        self._unsettled = False

    def _all_times(self, mount: int) -> dict[str, tuple[int, int, int]]:
        found = self.ours.statuses(mount)
        return {path: (each.st_atime_ns, each.st_mtime_ns, each.st_ctime_ns) for path, each in found.items()}

    def _tree(self, *, bytes_too: bool) -> object:
        try:
            return self.ours.tree(bytes_too=bytes_too)
        except OSError as error:  # a name that vanished between two looks at outdated caches
            return f"{error!r}"

    @staticmethod
    def _until(look: Callable[[], _T], want: object) -> _T:
        ends_s = time.monotonic() + _CACHED_S
        while (got := look()) != want and time.monotonic() < ends_s:
            time.sleep(_POLL_S)
        return got

    # -- everything ---------------------------------------------------------------------------------------------------

    def observe(self) -> None:
        """Compare all attributes of all names and handles, and which times have moved since the last look."""
        self.settle()
        want, got = self.local.tree(bytes_too=False), self._tree(bytes_too=False)
        if want != got:
            raise self._differs("the tree", got, want)
        want_open, got_open = self.local.open_files(), self.ours.open_files()
        if want_open != got_open:
            raise self._differs("open files", got_open, want_open)
        self._compare_times()

    def finish(self) -> None:
        """Compare everything, bytes included, through every mount; then close all handles, and compare again."""
        for _ in self.ours.roots:
            self.observe()
            self._compare_bytes()
            self._switch(True)
        for side in (self.local, self.ours):
            side.end()
        for _ in self.ours.roots:
            self._switch(True)
            self._compare_bytes()

    def _compare_bytes(self) -> None:
        want, got = self.local.tree(bytes_too=True), self._tree(bytes_too=True)
        if want != got:
            raise self._differs("the tree with its bytes", got, want)

    def _compare_times(self) -> None:
        local, ours = self.local.statuses(), self.ours.statuses()
        now_ns = time.time_ns()
        before, self._times = self._times, {}
        for path, theirs in local.items():
            mine = ours[path]
            self._times[path] = theirs.st_ino, theirs, mine
            if theirs.st_ino in self._mapped:
                continue
            self._compare_set_times(path, theirs, mine)
            if path in before and before[path][0] == theirs.st_ino:
                self._compare_moves(path, before[path][1:], (theirs, mine), now_ns)

    def _compare_set_times(self, path: str, theirs: os.stat_result, mine: os.stat_result) -> None:
        for word in ("st_atime_ns", "st_mtime_ns"):
            want, got = getattr(theirs, word), getattr(mine, word)
            if want < SET_BEFORE_NS and got != want:
                raise self._differs(f"{word} of {path}", got, want)
            if word == "st_mtime_ns" and want >= SET_BEFORE_NS > got:
                raise self._differs(f"{word} of {path}", got, "a time of today")

    def _compare_moves(
        self,
        path: str,
        before: tuple[os.stat_result, os.stat_result],
        after: tuple[os.stat_result, os.stat_result],
        now_ns: int,
    ) -> None:
        """mtime moves here when it moves there, and only then; ctime moves here at least when it moves there, and never
        back. (Publishing may give a file that was written a newer ctime.)"""
        (theirs_before, mine_before), (theirs, mine) = before, after
        if mine.st_ctime_ns < mine_before.st_ctime_ns:
            raise self._differs(f"ctime of {path} went back", mine.st_ctime_ns, mine_before.st_ctime_ns)
        if theirs.st_ctime_ns != theirs_before.st_ctime_ns and mine.st_ctime_ns == mine_before.st_ctime_ns:
            raise self._differs(f"ctime of {path}", "it stayed", "it moved")
        want = theirs.st_mtime_ns != theirs_before.st_mtime_ns
        got = mine.st_mtime_ns != mine_before.st_mtime_ns
        if want != got and (want or now_ns - theirs.st_mtime_ns > _TICK_NS):
            words = "it stayed", "it moved"
            raise self._differs(f"mtime of {path}", words[got], words[want])

    def _differs(self, what: str, got: object, want: object) -> Differs:
        if isinstance(got, dict) and isinstance(want, dict):
            keys = sorted(key for key in {*got, *want} if got.get(key) != want.get(key))
            got, want = {key: got.get(key) for key in keys}, {key: want.get(key) for key in keys}
        return Differs(f"mount {self.ours.mount}: {what}:\n  got  {got!r}\n  want {want!r}\nafter\n{self.story()}")

    def story(self) -> str:
        """The calls so far, as Python that `replay` takes."""
        return "[\n" + "".join(f"    {call!r},\n" for call in self.history) + "]"

    def end(self) -> None:
        self.ours.end()
        self.local.end()
