"""One of the two things that are compared: a directory, through one or more mounts, and the system calls made on it.

Every call returns what can be compared: plain values without inode numbers and times; OSError stays an OSError. Knows
nothing of the other side.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import mmap
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

# (uid, gid, other groups). The first is root, who makes the directory.
USERS: tuple[tuple[int, int, list[int]], ...] = ((0, 0, [0]), (1000, 1000, [500]), (1001, 500, []))
# What a file may have to be read as a whole; of longer ones only both ends are.
WHOLE_BYTES = 8 << 20
_END_BYTES = 64 << 10
_AT_FDCWD = -100
_libc = ctypes.CDLL(None, use_errno=True)
_libc.opendir.restype = _libc.readdir64.restype = ctypes.c_void_p
_libc.telldir.restype = ctypes.c_long
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long]


# Bytes as (length, seed): calls stay short enough to be read.
Pattern = tuple[int, int]


def bytes_of(pattern: Pattern) -> bytes:
    """Never zeros, unlike a hole."""
    length, seed = pattern
    return (bytes([seed, seed ^ 85 or 1, 7]) * (length // 3 + 1))[:length]


@contextlib.contextmanager
def acting_as(user: int) -> Iterator[None]:
    """With the effective ids, groups and (no) capabilities of `USERS[user]`."""
    if not user:
        yield
        return
    uid, gid, groups = USERS[user]
    os.setgroups(groups)
    os.setegid(gid)
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(USERS[0][2])


@dataclass(eq=False)
class Handle:
    fd: int
    flags: int
    user: int = 0

    @property
    def writable(self) -> bool:
        return self.flags & os.O_ACCMODE != os.O_RDONLY


class Side:
    """`roots[mount]` is the directory as that mount shows it. Handles are known by (mount, slot)."""

    def __init__(self, roots: Sequence[str]) -> None:
        self.roots = roots
        self.mount = 0
        self.handles: dict[tuple[int, int], Handle] = {}

    def call(self, name: str, arguments: Sequence[object], user: int) -> object:
        """The call's result, or its errno as text."""
        try:
            with acting_as(user):
                result = getattr(self, name)(*arguments)
        except OSError as error:
            return failed(error.errno)
        if name == "open":
            self.handles[self.mount, arguments[0]].user = user  # type: ignore[index]
        return result

    def path(self, name: str) -> str:
        return f"{self.roots[self.mount]}/{name}"

    def handle(self, slot: int) -> Handle | None:
        return self.handles.get((self.mount, slot))

    def fd(self, slot: int) -> int:
        return self.handles[self.mount, slot].fd

    # -- names --------------------------------------------------------------------------------------------------------

    def mkdir(self, name: str, mode: int) -> None:
        os.mkdir(self.path(name), mode)

    def rmdir(self, name: str) -> None:
        os.rmdir(self.path(name))

    def unlink(self, name: str) -> None:
        os.unlink(self.path(name))

    def link(self, old: str, new: str, follow: bool) -> None:
        os.link(self.path(old), self.path(new), follow_symlinks=follow)

    def symlink(self, target: str, name: str) -> None:
        os.symlink(target, self.path(name))

    def readlink(self, name: str) -> str:
        return os.readlink(self.path(name))

    def mknod(self, name: str, mode: int, device: int) -> None:
        os.mknod(self.path(name), mode, device)

    def rename(self, old: str, new: str, flags: int) -> None:
        paths = os.fsencode(self.path(old)), os.fsencode(self.path(new))
        _checked(_libc.renameat2(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], flags))

    # -- attributes ---------------------------------------------------------------------------------------------------

    def stat(self, name: str) -> object:
        return shown(os.stat(self.path(name)))

    def lstat(self, name: str) -> object:
        return shown(os.lstat(self.path(name)))

    def access(self, name: str, mode: int) -> bool:
        return os.access(self.path(name), mode, effective_ids=True)

    def chmod(self, name: str, mode: int) -> None:
        os.chmod(self.path(name), mode)

    def chown(self, name: str, uid: int, gid: int, follow: bool) -> None:
        os.chown(self.path(name), uid, gid, follow_symlinks=follow)

    def utime(self, name: str, times_ns: tuple[int, int] | None, follow: bool) -> None:
        if times_ns is None:
            os.utime(self.path(name), follow_symlinks=follow)
        else:
            os.utime(self.path(name), ns=times_ns, follow_symlinks=follow)

    def truncate(self, name: str, size: int) -> None:
        os.truncate(self.path(name), size)

    def setxattr(self, name: str, key: str, value: Pattern, flags: int, follow: bool) -> None:
        os.setxattr(self.path(name), key, bytes_of(value), flags, follow_symlinks=follow)

    def getxattr(self, name: str, key: str) -> bytes:
        return os.getxattr(self.path(name), key)

    def listxattr(self, name: str) -> list[str]:
        return sorted(os.listxattr(self.path(name)))

    def removexattr(self, name: str, key: str) -> None:
        os.removexattr(self.path(name), key)

    def statvfs(self, name: str) -> object:
        found = os.statvfs(self.path(name))
        return found.f_namemax, 0 < found.f_bavail <= found.f_blocks, 0 < found.f_favail <= found.f_files

    # -- handles ------------------------------------------------------------------------------------------------------

    def open(self, slot: int, name: str, flags: int, mode: int) -> None:
        self.close(slot)
        self.handles[self.mount, slot] = Handle(os.open(self.path(name), flags | os.O_CLOEXEC, mode), flags)

    def close(self, slot: int) -> None:
        handle = self.handles.pop((self.mount, slot), None)
        if handle is not None:
            os.close(handle.fd)

    def pread(self, slot: int, offset: int, length: int) -> bytes:
        return os.pread(self.fd(slot), length, offset)

    def pwrite(self, slot: int, offset: int, pattern: Pattern) -> int:
        return os.pwrite(self.fd(slot), bytes_of(pattern), offset)

    def read(self, slot: int, length: int) -> bytes:
        return os.read(self.fd(slot), length)

    def write(self, slot: int, pattern: Pattern) -> int:
        return os.write(self.fd(slot), bytes_of(pattern))

    def lseek(self, slot: int, offset: int, whence: int) -> int:
        return os.lseek(self.fd(slot), offset, whence)

    def ftruncate(self, slot: int, size: int) -> None:
        os.ftruncate(self.fd(slot), size)

    def fsync(self, slot: int, data_only: bool) -> None:
        (os.fdatasync if data_only else os.fsync)(self.fd(slot))

    def fstat(self, slot: int) -> object:
        return shown(os.fstat(self.fd(slot)))

    def fchmod(self, slot: int, mode: int) -> None:
        os.fchmod(self.fd(slot), mode)

    def fchown(self, slot: int, uid: int, gid: int) -> None:
        os.fchown(self.fd(slot), uid, gid)

    def futimens(self, slot: int, times_ns: tuple[int, int]) -> None:
        os.utime(self.fd(slot), ns=times_ns)

    def fsetxattr(self, slot: int, key: str, value: Pattern, flags: int) -> None:
        os.setxattr(self.fd(slot), key, bytes_of(value), flags)

    def fgetxattr(self, slot: int, key: str) -> bytes:
        return os.getxattr(self.fd(slot), key)

    def map_read(self, slot: int, private: bool) -> bytes:
        """All of a file of at most WHOLE_BYTES, through a mapping."""
        with self._mapping(slot, private, mmap.PROT_READ) as area:
            return _digest(bytes(area))

    def map_write(self, slot: int, offset: int, pattern: Pattern, private: bool) -> bytes:
        """The bytes, as far as the file reaches, through a mapping, and msync. What the mapping then shows."""
        with self._mapping(slot, private, mmap.PROT_READ | mmap.PROT_WRITE) as area:
            at = offset % len(area)
            data = bytes_of(pattern)[: len(area) - at]
            area[at : at + len(data)] = data
            area.flush()
            return _digest(bytes(area))

    @contextlib.contextmanager
    def _mapping(self, slot: int, private: bool, protection: int) -> Iterator[mmap.mmap]:
        size = os.fstat(self.fd(slot)).st_size
        if not 0 < size <= WHOLE_BYTES:
            raise OSError(errno.EINVAL, "nothing that could be mapped as a whole")
        kind = mmap.MAP_PRIVATE if private else mmap.MAP_SHARED
        with mmap.mmap(self.fd(slot), size, kind, protection) as area:
            yield area

    def seek_holes(self, slot: int) -> bool:
        """What SEEK_DATA and SEEK_HOLE say covers every byte that is not zero. How finely they see is their own."""
        fd = self.fd(slot)
        before = os.lseek(fd, 0, os.SEEK_CUR)
        size = os.fstat(fd).st_size
        at = 0
        try:
            while at < size:
                try:
                    data = os.lseek(fd, at, os.SEEK_DATA)
                except OSError as error:
                    if error.errno != errno.ENXIO:
                        raise
                    data = size
                if any(os.pread(fd, min(data, at + WHOLE_BYTES) - at, at)):
                    return False
                if data >= size:
                    break
                at = os.lseek(fd, data, os.SEEK_HOLE)
                if not data < at <= size:
                    return False
            return True
        finally:
            os.lseek(fd, before, os.SEEK_SET)

    def seek_beyond(self, slot: int, whence: int) -> int:
        """ENXIO."""
        return os.lseek(self.fd(slot), os.fstat(self.fd(slot)).st_size, whence)

    def fallocate(self, slot: int, mode: int, offset: int, length: int) -> None:
        _checked(_libc.fallocate(self.fd(slot), mode, offset, length))

    def copy_range(self, source: int, source_offset: int, slot: int, offset: int, length: int) -> int:
        """copy_file_range, again after short counts."""
        copied = 0
        while copied < length:
            count = os.copy_file_range(
                self.fd(source), self.fd(slot), length - copied, source_offset + copied, offset + copied
            )
            if not count:
                break
            copied += count
        return copied

    # -- directories --------------------------------------------------------------------------------------------------

    def listdir(self, name: str) -> list[tuple[str, bool, bool, bool]]:
        """Names and kinds; the kinds are those in the directory's own answer."""
        with os.scandir(self.path(name)) as entries:
            return sorted(
                (
                    entry.name,
                    entry.is_dir(follow_symlinks=False),
                    entry.is_file(follow_symlinks=False),
                    entry.is_symlink(),
                )
                for entry in entries
            )

    def seekdir(self, name: str, position: int) -> tuple[list[bytes], bool]:
        """All names with their dots, sorted; and whether seeking back to the place after `position` of them gives the
        same rest again."""
        ctypes.set_errno(0)
        stream = _libc.opendir(os.fsencode(self.path(name)))
        if not stream:
            raise OSError(ctypes.get_errno(), "opendir")
        stream = ctypes.c_void_p(stream)
        try:
            names, places = [], [_libc.telldir(stream)]
            while (entry := _libc.readdir64(stream)) is not None:
                names.append(ctypes.string_at(entry + 19))  # struct dirent64: d_name
                places.append(_libc.telldir(stream))
            at = position % len(places)
            _libc.seekdir(stream, ctypes.c_long(places[at]))
            rest = []
            while (entry := _libc.readdir64(stream)) is not None:
                rest.append(ctypes.string_at(entry + 19))
            return sorted(names), rest == names[at:]
        finally:
            _libc.closedir(stream)

    # -- the whole ----------------------------------------------------------------------------------------------------

    def load(self, name: str) -> tuple[int, bytes]:
        """A file's size and bytes, through an open of its own."""
        fd = os.open(self.path(name), os.O_RDONLY | os.O_NONBLOCK)
        try:
            return contents(fd)
        finally:
            os.close(fd)

    def statuses(self, mount: int | None = None) -> dict[str, os.stat_result]:
        """lstat of everything in the tree, by relative path; "." is the root. Without a mount, of the one at work."""
        root = self.roots[self.mount if mount is None else mount]
        found = {".": os.lstat(root)}
        waiting = [""]
        while waiting:
            folder = waiting.pop()
            for name in sorted(os.listdir(f"{root}/{folder}")):
                path = folder + name
                status = os.lstat(f"{root}/{path}")
                found[path] = status
                if stat.S_ISDIR(status.st_mode):
                    waiting.append(path + "/")
        return found

    def tree(self, *, bytes_too: bool) -> dict[str, tuple[object, ...]]:
        """Attributes, targets, extended attributes, and which names are one file; and what the files hold."""
        first: dict[int, str] = {}
        found: dict[str, tuple[object, ...]] = {}
        for path, status in sorted(self.statuses().items()):
            more: list[object] = [first.setdefault(status.st_ino, path)]
            full = self.path(path)
            if stat.S_ISLNK(status.st_mode):
                more.append(os.readlink(full))
            more.append({key: os.getxattr(full, key, follow_symlinks=False) for key in _keys(full)})
            if bytes_too and stat.S_ISREG(status.st_mode):
                more.append(self.load(path))
            found[path] = (*shown(status), *more)
        return found

    def open_files(self) -> dict[int, object]:
        """What fstat says of this mount's handles, by slot."""
        return {
            slot: shown(os.fstat(handle.fd)) for (mount, slot), handle in self.handles.items() if mount == self.mount
        }

    # -- changing hands -----------------------------------------------------------------------------------------------

    def publish(self) -> None:
        """Everything written through this mount's handles is to be seen by opens on the other one."""
        for (mount, _), handle in self.handles.items():
            if mount == self.mount and handle.writable:
                os.fsync(handle.fd)

    def reopen(self) -> None:
        """Every handle of this mount becomes a new open of its inode, at the same place."""
        creating = os.O_CREAT | os.O_EXCL | os.O_TRUNC | os.O_NOFOLLOW
        for (mount, _), handle in self.handles.items():
            if mount == self.mount:
                fd = os.open(f"/proc/self/fd/{handle.fd}", handle.flags & ~creating | os.O_CLOEXEC)
                if stat.S_ISREG(os.fstat(fd).st_mode):
                    os.lseek(fd, os.lseek(handle.fd, 0, os.SEEK_CUR), os.SEEK_SET)
                os.dup2(fd, handle.fd, inheritable=False)
                os.close(fd)

    def end(self) -> None:
        for handle in self.handles.values():
            os.close(handle.fd)
        self.handles.clear()


def failed(number: int | None) -> str:
    return f"fails: {errno.errorcode.get(number or 0, number)}"


def shown(status: os.stat_result) -> tuple[int, ...]:
    """What two file systems must agree on: no times, no inode number, no size of a directory, no blocks."""
    size = 0 if stat.S_ISDIR(status.st_mode) else status.st_size
    return status.st_mode, status.st_nlink, status.st_uid, status.st_gid, size, status.st_rdev


def contents(fd: int) -> tuple[int, bytes]:
    """Size and a digest of what an open file holds; of a long one, of both ends."""
    size = os.fstat(fd).st_size
    if size <= WHOLE_BYTES:
        data = os.pread(fd, size + 1, 0)
    else:
        data = os.pread(fd, _END_BYTES, 0) + os.pread(fd, _END_BYTES, size - _END_BYTES)
    return size, _digest(data)


def _digest(data: bytes) -> bytes:
    """Short data as they are: a failure then shows them."""
    return data if len(data) <= 64 else hashlib.blake2b(data, digest_size=8).hexdigest().encode() + b" " + data[:16]


def _keys(path: str) -> list[str]:
    return sorted(key for key in os.listxattr(path, follow_symlinks=False) if not key.startswith("system."))


def _checked(result: int) -> None:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
