"""The system calls: bind mounts, lazy unmounts, and bare directories that nobody can write into.

A bare directory is what is left when a mount on it is missing. It is *sealed*: immutable (chattr +i), which stops root
in a container too, or where the file system has no such flag, mode 0. Nothing here removes anything but an empty
directory.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import stat
import struct
from pathlib import Path

from csi.refusals import Code, Refusal
from s3vfs.errors import MountError
from s3vfs.fuse.mountinfo import Mount, mount_at, mount_containing, read_mounts
from s3vfs.fuse.mountpoint import unmount

# System calls of Linux 5.2 and 5.12, which the C library does not offer everywhere; numbers of all architectures.
_OPEN_TREE, _MOVE_MOUNT, _MOUNT_SETATTR = 428, 429, 442
_AT_FDCWD, _AT_EMPTY_PATH, _OPEN_TREE_CLONE, _MOVE_MOUNT_F_EMPTY_PATH = -100, 0x1000, 1, 4
_MS_PRIVATE = 1 << 18
_RDONLY, _ATIME = 1, 0x70
# Attributes of a mount by their name in mountOptions.
_ATTRIBUTES = {"nosuid": 2, "nodev": 4, "noexec": 8, "noatime": 0x10, "nodiratime": 0x80}

_FS_IOC_GETFLAGS = 0x80086601
_FS_IOC_SETFLAGS = 0x40086602
_IMMUTABLE = 0x10


def place_of(directory: Path, mounts: list[Mount]) -> tuple[str, str]:
    """(device, path inside the file system) of a directory, as mountinfo shows a bind mount of it."""
    path = os.path.realpath(directory)
    mount = mount_containing(path, mounts)
    if mount is None:
        raise Refusal(Code.INTERNAL, f"{path} is in no mount")
    inside = os.path.relpath(path, mount.mountpoint)
    return mount.device, mount.root if inside == "." else os.path.join(mount.root, inside)


def bind(source: Path, target: str, *, read_only: bool, flags: tuple[str, ...] = ()) -> None:
    """Bind `source` to `target`, and prove that the target is that mount now. Raises Refusal; leaves nothing then.

    `target` may be a mount already, also one that does not answer any more: it is covered.

    The new mount has its flags before it is anywhere: flags that are set later stay in the driver's own container,
    while the node and the pods have copies without them. And it is in a peer group of its own, not in the source's:
    what is mounted on one pod's target must not appear on those of others.
    """
    tree = _call("open_tree", _OPEN_TREE, _AT_FDCWD, os.fsencode(source), _OPEN_TREE_CLONE | os.O_CLOEXEC)
    try:
        wanted = _RDONLY if read_only else 0
        for word in flags:
            wanted |= _ATTRIBUTES.get(word, 0)
        cleared = _ATIME if wanted & _ATIME else 0
        attributes = struct.pack("=4Q", wanted, cleared, _MS_PRIVATE, 0)
        _call("mount_setattr", _MOUNT_SETATTR, tree, b"", _AT_EMPTY_PATH, attributes, len(attributes))
        _call("move_mount", _MOVE_MOUNT, tree, b"", _AT_FDCWD, os.fsencode(target), _MOVE_MOUNT_F_EMPTY_PATH)
    finally:
        os.close(tree)
    mount = mount_at(target, read_mounts())
    if mount is None or (mount.device, mount.root) != place_of(source, read_mounts()):
        detach(target)
        raise Refusal(Code.INTERNAL, f"{target} did not become a mount of {source}")


def _call(name: str, number: int, *arguments: int | bytes) -> int:
    """One system call. Raises Refusal."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    words = [ctypes.c_long(word) if isinstance(word, int) else word for word in arguments]
    answer: int = libc.syscall(ctypes.c_long(number), *words)
    if answer < 0:
        code = ctypes.get_errno()
        if code == errno.ENOSYS:
            raise Refusal(Code.FAILED_PRECONDITION, f"this node's kernel has no {name}: Linux 5.12 or newer is needed")
        raise Refusal(Code.INTERNAL, f"cannot bind, {name}: {os.strerror(code)}")
    return answer


def detach(target: str) -> None:
    """Unmount lazily: at once for everybody who looks, later for those who have files open. Raises Refusal."""
    try:
        unmount(target, lazy=True)
    except MountError as error:
        raise Refusal(Code.INTERNAL, str(error)) from None


def detach_all(target: str) -> None:
    """Everything that is mounted at `target`, one above the other."""
    while mount_at(target, read_mounts()) is not None:
        detach(target)


def make_bare(directory: str) -> bool:
    """An empty, sealed directory is there (nothing is mounted on it); whether it was made now.

    Raises Refusal where something else is in the place.
    """
    made = False
    try:
        status = os.lstat(directory)
    except FileNotFoundError:
        try:
            os.mkdir(directory, 0o750)
        except OSError as error:
            raise Refusal(Code.INTERNAL, f"{directory} cannot be made: {error.strerror}") from None
        made = True
    else:
        if not stat.S_ISDIR(status.st_mode):
            raise Refusal(Code.FAILED_PRECONDITION, f"{directory} is not a directory")
        if os.listdir(directory):
            raise Refusal(Code.FAILED_PRECONDITION, f"{directory} is not empty: nothing is mounted over files")
    _seal(directory)
    return made


def remove_bare(directory: str) -> None:
    """The directory is gone; it is not there, or bare and empty. Raises Refusal where it holds something: no file is
    ever removed here."""
    try:
        _unseal(directory)
        os.rmdir(directory)
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise Refusal(
                Code.INTERNAL, f"{directory} holds something that is not a mount: it is not removed"
            ) from None
        raise Refusal(Code.INTERNAL, f"{directory} cannot be removed: {error.strerror}") from None


def _seal(directory: str) -> None:
    if not _set_immutable(directory, True):
        os.chmod(directory, 0)


def _unseal(directory: str) -> None:
    _set_immutable(directory, False)


def _set_immutable(directory: str, immutable: bool) -> bool:
    """False where the file system, or who we are, does not allow it."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):
            (flags,) = struct.unpack("l", fcntl.ioctl(descriptor, _FS_IOC_GETFLAGS, struct.pack("l", 0)))
            wanted = flags | _IMMUTABLE if immutable else flags & ~_IMMUTABLE
            if wanted != flags:
                fcntl.ioctl(descriptor, _FS_IOC_SETFLAGS, struct.pack("l", wanted))
            return True
        return False
    finally:
        os.close(descriptor)
