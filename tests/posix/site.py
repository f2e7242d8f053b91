"""Where a case runs, what it may call, and what it notes down for the comparison.

A case never states what is right: it makes calls and notes results, errnos, attributes and which times moved. It runs
on a local directory first, then on a mount, and the two lists of notes must be equal. With a second mount of the same
volume, everything that a case looks at must also be seen there, to the nanosecond.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

_T = TypeVar("_T")


@dataclass(frozen=True)
class User:
    """Effective ids for a while. The kernel drops root's capabilities with them, as for a process of that user."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...] = ()


ROOT = User("root", 0, 0)
ALICE = User("alice", 64001, 64001)
BOB = User("bob", 64002, 64002)
CAROL = User("carol", 64003, 64003, (64001, 64777))  # in alice's group, and in one that nobody has as the first
TEAM = 64777

# When a second mount has still not seen it, it never will.
LOOK_WITHIN_S = 10.0


def errno_name(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, str(error.errno)).replace("ENOTSUP", "EOPNOTSUPP")


class Site:
    """One case's directory on one file system. Paths are relative to it: the way down to it is root's alone."""

    def __init__(self, directory: Path, elsewhere: Path, second: Path | None = None) -> None:
        """`elsewhere`: a directory on another file system. `second`: this directory through another mount."""
        self.directory = directory
        self.elsewhere = elsewhere
        self.second = second
        self.notes: list[object] = []
        self._descriptors: list[int] = []
        self._user = ROOT

    # -- who and where ------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def user(self, who: User) -> Iterator[None]:
        before = self._user
        self._become(who)
        try:
            yield
        finally:
            self._become(before)

    def _become(self, who: User) -> None:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(who.groups)
        os.setegid(who.gid)
        os.seteuid(who.uid)
        self._user = who

    @contextlib.contextmanager
    def umask(self, mask: int) -> Iterator[None]:
        before = os.umask(mask)
        try:
            yield
        finally:
            os.umask(before)

    def close(self) -> None:
        for descriptor in self._descriptors:
            with contextlib.suppress(OSError):
                os.close(descriptor)

    # -- calls --------------------------------------------------------------------------------------------------------

    def note(self, value: object) -> None:
        self.notes.append(value)

    def do(self, call: Callable[..., object], *arguments: Any, **named: Any) -> object:
        """Make the call and note its result, or its errno by name."""
        result = self.attempt(call, *arguments, **named)
        self.note((getattr(call, "__name__", "call"), _short(arguments), result))
        return result

    def attempt(self, call: Callable[..., object], *arguments: Any, **named: Any) -> object:
        """Result or errno, not noted."""
        try:
            return call(*arguments, **named)
        except OSError as error:
            return errno_name(error)

    def open(self, path: str | bytes, flags: int, mode: int = 0o666) -> int:
        """Note whether it opens. The descriptor, -1 for none; closed with the case at the latest."""
        try:
            descriptor = os.open(path, flags, mode)
        except OSError as error:
            self.note(("open", _short((path, oct(flags))), errno_name(error)))
            return -1
        self.note(("open", _short((path, oct(flags))), "opened"))
        self._descriptors.append(descriptor)
        return descriptor

    def shut(self, descriptor: int) -> None:
        if descriptor >= 0:
            self._descriptors.remove(descriptor)
            os.close(descriptor)

    # -- making what a case begins with -----------------------------------------------------------------------------

    def file(self, path: str, mode: int = 0o644, owner: User = ROOT, data: bytes = b"") -> str:
        with self.user(ROOT):
            Path(path).write_bytes(data)
            os.chown(path, owner.uid, owner.gid)
            os.chmod(path, mode)
        return path

    def dir(self, path: str, mode: int = 0o755, owner: User = ROOT) -> str:
        with self.user(ROOT):
            os.mkdir(path)
            os.chown(path, owner.uid, owner.gid)
            os.chmod(path, mode)
        return path

    def make(self, kind: str, path: str, owner: User = ROOT, mode: int = 0o644) -> str:
        """A regular file, directory, fifo, char or block device, socket or symbolic link (to nothing)."""
        with self.user(ROOT), self.umask(0):
            if kind == "file":
                self.file(path)
            elif kind == "dir":
                os.mkdir(path)
            elif kind == "symlink":
                os.symlink("nowhere", path)
            else:
                kinds = {"fifo": stat.S_IFIFO, "char": stat.S_IFCHR, "block": stat.S_IFBLK, "socket": stat.S_IFSOCK}
                os.mknod(path, kinds[kind] | mode, os.makedev(1, 3) if kind in ("char", "block") else 0)
            os.chown(path, owner.uid, owner.gid, follow_symlinks=False)
            if kind != "symlink":
                os.chmod(path, mode)
        return path

    # -- looking ------------------------------------------------------------------------------------------------------

    def lstat(self, path: str | bytes) -> os.stat_result:
        """As root; the second mount must show the same."""
        with self.user(ROOT):
            seen = os.lstat(path)
            if self.second is not None:
                self._agree(f"attributes of {path!r}", lambda there: _all(fresh_lstat(there, path)), _all(seen))
            return seen

    def look(self, *paths: str) -> None:
        """Note what these are: all attributes but times, and the targets of symbolic links."""
        for path in paths:
            try:
                self.note((_short((path,)), shown(self.lstat(path))))
            except OSError as error:
                self.note((_short((path,)), errno_name(error)))
                if self.second is not None:
                    self._agree(f"absence of {path!r}", lambda there, path=path: _absent(there, path), True)
                continue
            if os.path.islink(path):
                self.note(os.readlink(path))

    def names(self, path: str = ".") -> None:
        """Note what a directory holds."""
        with self.user(ROOT):
            listed = sorted(os.listdir(path))
            self.note(listed)
            if self.second is not None:
                self._agree(f"names in {path}", lambda there: sorted(os.listdir(there / path)), listed)

    def contents(self, path: str) -> None:
        with self.user(ROOT):
            data = Path(path).read_bytes()
            self.note(data if len(data) < 200 else (len(data), hash(data)))
            if self.second is not None:
                self._agree(f"contents of {path}", lambda there: (there / path).read_bytes(), data)

    def moved(self, paths: str | tuple[str, ...], call: Callable[..., object], *arguments: Any, **named: Any) -> object:
        """Make the call as `do` does, and note which of each path's times it has moved: m(odification), c(hange),
        a(ccess)."""
        watched = (paths,) if isinstance(paths, str) else paths
        _tick()
        before = [self.lstat(path) for path in watched]
        _tick()
        result = self.do(call, *arguments, **named)
        for path, old in zip(watched, before, strict=True):
            try:
                new = self.lstat(path)
            except FileNotFoundError:
                self.note((path, "gone"))
                continue
            changed = [
                letter
                for letter, was, now in (
                    ("a", old.st_atime_ns, new.st_atime_ns),
                    ("m", old.st_mtime_ns, new.st_mtime_ns),
                    ("c", old.st_ctime_ns, new.st_ctime_ns),
                )
                if was != now
            ]
            self.note((path, "".join(changed)))
        return result

    def _agree(self, what: str, look: Callable[[Path], object], expected: object) -> None:
        assert self.second is not None
        deadline_s = time.monotonic() + LOOK_WITHIN_S
        with self.user(ROOT):
            while True:
                os.listdir(self.second)  # opening a directory looks at the journal
                try:
                    seen = look(self.second)
                except OSError as error:
                    seen = errno_name(error)
                if seen == expected:
                    return
                assert time.monotonic() < deadline_s, f"{what}: the second mount shows {seen}, not {expected}"
                time.sleep(0.002)  # between two questions


def shown(status: os.stat_result) -> tuple[object, ...]:
    """All that a case compares of an inode but its times."""
    size = -1 if stat.S_ISDIR(status.st_mode) else status.st_size
    return (oct(status.st_mode), status.st_uid, status.st_gid, status.st_nlink, size, status.st_rdev)


def _all(status: os.stat_result | None) -> tuple[object, ...] | None:
    if status is None:
        return None
    times = (status.st_atime_ns, status.st_mtime_ns, status.st_ctime_ns)
    return (*shown(status), status.st_ino, *times)


def _absent(there: Path, path: str) -> bool:
    try:
        os.lstat(there / path)
    except OSError:
        return True
    return False


class _Statx(ctypes.Structure):
    _fields_ = (("raw", ctypes.c_uint8 * 256),)


_libc = ctypes.CDLL(None, use_errno=True)
_AT_SYMLINK_NOFOLLOW, _AT_STATX_FORCE_SYNC = 0x100, 0x2000


def fresh_lstat(there: Path, path: str | bytes) -> os.stat_result:
    """lstat that asks the daemon, whatever the kernel has cached: statx refreshes what lstat then reads."""
    full = os.fsencode(there) + b"/" + os.fsencode(path)
    flags = _AT_SYMLINK_NOFOLLOW | _AT_STATX_FORCE_SYNC
    if _libc.statx(-100, full, flags, 0x7FF, ctypes.byref(_Statx())):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return os.lstat(full)


_COARSE = 5  # CLOCK_REALTIME_COARSE: what file systems stamp with


def _tick() -> None:
    """Return once the clock that local file systems stamp with has moved on (a few ms)."""
    start = time.clock_gettime_ns(_COARSE)
    while time.clock_gettime_ns(_COARSE) == start:
        time.sleep(0.0005)


def _short(arguments: tuple[object, ...]) -> tuple[object, ...]:
    """Arguments that can stand in a note: long ones by length, descriptors and callables by nothing."""
    kept: list[object] = []
    for argument in arguments:
        if isinstance(argument, str) and argument.startswith("/"):
            kept.append("absolute")
        elif isinstance(argument, (str, bytes)) and len(argument) > 40:
            kept.append((argument[:8], len(argument)))
        elif callable(argument) or isinstance(argument, Path):
            kept.append("...")
        else:
            kept.append(argument)
    return tuple(kept)


# -- the cases --------------------------------------------------------------------------------------------------------

Case = Callable[[Site], None]


@dataclass
class Registry:
    """Cases in the order in which their modules define them. `short` ones also run on two mounts by default."""

    cases: dict[str, Case] = field(default_factory=dict)
    short: set[str] = field(default_factory=set)

    def add(self, case: Case, short: bool) -> Case:
        name = f"{case.__module__.rpartition('.')[2]}-{case.__name__}"
        assert name not in self.cases, name
        self.cases[name] = case
        if short:
            self.short.add(name)
        return case


REGISTRY = Registry()


def case(function: Case) -> Case:
    """A case for the default run."""
    return REGISTRY.add(function, short=False)


def short_case(function: Case) -> Case:
    """A case that also runs on two mounts by default."""
    return REGISTRY.add(function, short=True)


def run_case(function: Case, site: Site) -> list[object]:
    """The notes of one case, made in its directory. Identity, umask and working directory are as before afterwards."""
    groups, cwd, mask = os.getgroups(), os.getcwd(), os.umask(0o022)
    os.chdir(site.directory)
    try:
        function(site)
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)
        os.umask(mask)
        os.chdir(cwd)
        site.close()
    return site.notes
