"""Chooses calls, most of which make sense in the tree as it is. One seed is one sequence of choices.

Hypothesis by itself is slow to come to trees and handles worth a look, so it draws only the seeds. Each seed also draws
how often each kind of call is made, some never: what is rare among all calls is then common in some runs.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from random import Random

from tests.model.side import USERS, Pattern
from tests.model.world import SET_BEFORE_NS, World

RENAME_NOREPLACE, RENAME_EXCHANGE = 1, 2
KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 1, 2, 16

_NAMES = ("a", "b", "c", "d", "e")
_DEPTH = 3
_SLOTS = 4
_ODD_NAMES = (
    *(".", "..", "../top/a", "d/", "a/", "b/", "d/.", "d/..", "d/../a", "", "nowhere/a", "a/b"),
    *("x" * 255, "x" * 256, "d/" + "y" * 255),
)
_TARGETS = ("a", "b", "d", "../a", "e/a", "d/a", ".", "a/", "nowhere", "loop", "t" * 4095, "")
_MODES = (0o644, 0o600, 0o666, 0o755, 0o777, 0o700, 0o000, 0o444, 0o4755, 0o2755, 0o6777, 0o2745)
_DIRECTORY_MODES = (0o777, 0o777, 0o777, 0o755, 0o1777, 0o2777, 0o3777, 0o700, 0o500, 0o333)
# Around the units of both: pages, sectors of 256 KiB.
_OFFSETS = (0, 0, 1, 511, 4095, 4096, 4097, 65_536, 262_143, 262_144, 262_145, 1 << 20)
_FAR = (1 << 41) + 5
_LENGTHS = (0, 1, 100, 4096, 5000, 70_000, 300_000)
_KEYS = (
    "user.p",
    "user.p",
    "user.q",
    "trusted.t",
    "security.s",
    "user." + "k" * 250,
    "user." + "k" * 251,
    "other.x",
    "user.",
)
_ACCESS = (os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_RDWR, os.O_RDWR)
_MAKING = (0, 0, os.O_CREAT, os.O_CREAT, os.O_CREAT | os.O_EXCL, os.O_TRUNC, os.O_CREAT | os.O_TRUNC)
_MORE = (
    *(0, 0, 0, 0, os.O_APPEND, os.O_APPEND, os.O_SYNC, os.O_DSYNC, os.O_NOFOLLOW, os.O_DIRECTORY, os.O_NOATIME),
    *(os.O_NONBLOCK, os.O_DIRECT),
)

_CHANGING_BYTES = frozenset(("pwrite", "write", "ftruncate", "map_write", "copy_range", "fallocate"))

Choice = tuple[object, ...]  # the name of a call, then its arguments


class Chooser:
    """Looks at the local side of `world`, and chooses; makes no call."""

    def __init__(self, world: World, random: Random) -> None:
        self._world = world
        self._random = random
        kinds: dict[Callable[[], Choice], int] = {
            lambda: ("switch", self._chance(0.5)): 5,
            lambda: ("observe",): 6,
            lambda: ("mkdir", self._place(), self._pick(_DIRECTORY_MODES)): 6,
            lambda: ("rmdir", self._place(stat.S_IFDIR)): 3,
            lambda: ("unlink", self._place(0)): 4,
            lambda: ("link", self._place(0), self._place(), self._chance(0.5)): 4,
            lambda: ("symlink", self._pick(_TARGETS), self._place()): 3,
            lambda: ("readlink", self._place(stat.S_IFLNK)): 2,
            self._mknod: 2,
            lambda: ("rename", self._place(0), self._place(), self._rename_flags()): 8,
            lambda: ("rename", self._place(stat.S_IFDIR), self._place(stat.S_IFDIR), self._rename_flags()): 3,
            lambda: ("stat", self._place(0)): 3,
            lambda: ("lstat", self._place(0)): 3,
            lambda: ("access", self._place(0), random.randrange(8)): 3,
            lambda: ("chmod", self._place(0), self._pick(_MODES)): 4,
            lambda: ("chmod", self._place(stat.S_IFDIR), self._pick(_DIRECTORY_MODES)): 2,
            lambda: ("chown", self._place(0), self._owner(), self._owner(), self._chance(0.5)): 4,
            lambda: ("utime", self._place(0), self._pick((None, self._times())), self._chance(0.5)): 4,
            lambda: ("truncate", self._place(stat.S_IFREG), self._size()): 4,
            self._setxattr: 5,
            lambda: ("getxattr", self._place(0), self._pick(_KEYS)): 2,
            lambda: ("listxattr", self._place(0)): 2,
            lambda: ("removexattr", self._place(0), self._pick(_KEYS)): 2,
            lambda: ("statvfs", self._place(0)): 1,
            self._open: 10,
            lambda: ("open", self._slot(), self._place(), os.O_RDWR | os.O_CREAT, self._pick(_MODES)): 8,
            lambda: ("close", self._slot()): 3,
            lambda: ("pread", self._slot(), self._offset(), self._length()): 5,
            lambda: ("pwrite", self._slot(), self._offset(), self._pattern()): 12,
            lambda: ("read", self._slot(), self._length()): 4,
            lambda: ("write", self._slot(), self._pattern()): 6,
            lambda: ("lseek", self._slot(), random.choice((-1, self._offset())), random.randrange(3)): 2,
            lambda: ("ftruncate", self._slot(), self._size()): 4,
            lambda: ("fsync", self._slot(), self._chance(0.5)): 3,
            lambda: ("fstat", self._slot()): 3,
            lambda: ("fchmod", self._slot(), self._pick(_MODES)): 2,
            lambda: ("fchown", self._slot(), self._owner(), self._owner()): 2,
            lambda: ("futimens", self._slot(), self._times()): 2,
            lambda: ("fsetxattr", self._slot(), self._pick(_KEYS), (random.randrange(9), 1), random.randrange(3)): 1,
            lambda: ("fgetxattr", self._slot(), self._pick(_KEYS)): 1,
            lambda: ("map_read", self._slot(), self._chance(0.5)): 3,
            lambda: ("map_write", self._slot(), self._offset(), self._pattern(), self._chance(0.3)): 4,
            lambda: ("seek_holes", self._slot()): 2,
            lambda: ("seek_beyond", self._slot(), self._pick((os.SEEK_DATA, os.SEEK_HOLE))): 1,
            self._copy_range: 4,
            self._fallocate: 6,
            lambda: ("listdir", self._place(stat.S_IFDIR)): 3,
            lambda: ("seekdir", self._place(stat.S_IFDIR), random.randrange(9)): 2,
            lambda: ("load", self._place(stat.S_IFREG)): 4,
        }
        self._kinds = list(kinds)
        self._weights = [weight * random.choice((0, 1, 1, 2)) for weight in kinds.values()]

    def choose(self) -> tuple[Choice, int]:
        """A call with its arguments, and who makes it."""
        (kind,) = self._random.choices(self._kinds, self._weights)
        choice = kind()
        user = self._random.choice((0, 0, 0, 0, *range(1, len(USERS))))
        if choice[0] in _CHANGING_BYTES:
            # Whether setuid bits go is decided for who opened the file, not for whom it was handed to.
            slot = choice[3] if choice[0] == "copy_range" else choice[1]
            handle = self._world.local.handle(slot)  # type: ignore[arg-type]
            user = user if handle is None else handle.user
        return choice, user

    # -- arguments ----------------------------------------------------------------------------------------------------

    def _pick(self, options: tuple[object, ...]) -> object:
        return self._random.choice(options)

    def _chance(self, probability: float) -> bool:
        return self._random.random() < probability

    def _place(self, kind: int | None = None) -> str:
        """A path: of a thing of that kind (0: any) where there is one; None: mostly of nothing yet."""
        if self._chance(0.06):
            return self._random.choice(_ODD_NAMES)
        things = self._world.local.statuses()
        if kind is not None and self._chance(0.85):
            paths = [path for path, status in things.items() if kind in (0, stat.S_IFMT(status.st_mode))]
            paths.remove(".") if "." in paths and len(paths) > 1 and self._chance(0.9) else None
            if paths:
                return self._random.choice(paths)
        folders = [
            "" if path == "." else path + "/"
            for path, status in things.items()
            if stat.S_ISDIR(status.st_mode) and path.count("/") < _DEPTH - 1
        ]
        return self._random.choice(folders) + self._random.choice(_NAMES)

    def _slot(self) -> int:
        used = [slot for mount, slot in self._world.local.handles if mount == self._world.local.mount]
        return self._random.choice(used) if used and self._chance(0.9) else self._random.randrange(_SLOTS)

    def _open(self) -> Choice:
        flags = self._random.choice(_ACCESS) | self._random.choice(_MAKING) | self._random.choice(_MORE)
        kind = self._random.choice((stat.S_IFREG, stat.S_IFREG, 0, None))
        return "open", self._random.randrange(_SLOTS), self._place(kind), flags, self._pick(_MODES)

    def _mknod(self) -> Choice:
        kind = self._random.choice((stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFREG, stat.S_IFCHR, stat.S_IFBLK))
        device = os.makedev(1, 3) if kind in (stat.S_IFCHR, stat.S_IFBLK) else 0
        return "mknod", self._place(), kind | self._random.choice(_MODES), device

    def _rename_flags(self) -> int:
        return self._random.choice((0, 0, 0, RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_NOREPLACE | RENAME_EXCHANGE))

    def _owner(self) -> int:
        return self._random.choice((-1, 0, 500, 1000, 1001))

    def _times(self) -> tuple[int, int]:
        return self._random.randrange(SET_BEFORE_NS), self._random.randrange(SET_BEFORE_NS)

    def _offset(self) -> int:
        return self._random.choice(_OFFSETS) if self._chance(0.5) else self._random.randrange(30_000)

    def _length(self) -> int:
        return self._random.choice(_LENGTHS) if self._chance(0.5) else self._random.randrange(9_000)

    def _size(self) -> int:
        return _FAR if self._chance(0.03) else self._offset()

    def _pattern(self) -> Pattern:
        return self._length(), self._random.randrange(1, 256)

    def _setxattr(self) -> Choice:
        value = self._random.choice((0, 1, 10, 300, 60_000)), self._random.randrange(1, 256)
        flags = self._random.choice((0, 0, os.XATTR_CREATE, os.XATTR_REPLACE))
        return "setxattr", self._place(0), self._pick(_KEYS), value, flags, self._chance(0.5)

    def _copy_range(self) -> Choice:
        return "copy_range", self._slot(), self._offset(), self._slot(), self._offset(), self._length()

    def _fallocate(self) -> Choice:
        modes = (0, KEEP_SIZE, KEEP_SIZE | PUNCH_HOLE, PUNCH_HOLE)
        return "fallocate", self._slot(), self._random.choice(modes), self._offset(), self._length()
