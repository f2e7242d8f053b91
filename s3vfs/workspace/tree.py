"""Walk a tree, copy a tree, remove a tree. One file system: what is mounted inside is left alone."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from s3vfs.workspace.attributes import Losses, give_attributes, read_attributes
from s3vfs.workspace.sparse import copy_contents, open_for_reading


@dataclass
class Copied:
    """What a copy has."""

    files: int = 0
    directories: int = 0
    symlinks: int = 0
    left_out: int = 0
    copied_bytes: int = 0
    losses: Losses = field(default_factory=Losses)


def walk(root: bytes, leave_out: Callable[[bytes], bool]) -> Iterator[tuple[bytes, os.stat_result]]:
    """(path below root, lstat) of everything, the root itself as b"" first, each directory before what is in it.

    Sorted: the order is that of the paths as tuples of names, so that two walks can be merged. A directory on which
    another file system is mounted is named, but not entered. Raises OSError.
    """
    status = os.lstat(root)
    device = status.st_dev
    yield b"", status
    waiting = _children(root, b"", leave_out)
    while waiting:
        path = waiting.pop()
        try:
            status = os.lstat(os.path.join(root, path))
        except FileNotFoundError:  # removed since its directory was read: as if it had gone before
            continue
        yield path, status
        if stat.S_ISDIR(status.st_mode) and status.st_dev == device:
            waiting.extend(_children(root, path, leave_out))


def _children(root: bytes, path: bytes, leave_out: Callable[[bytes], bool]) -> list[bytes]:
    """Last one first: to be popped."""
    names = sorted(os.listdir(os.path.join(root, path) if path else root), reverse=True)
    found = [os.path.join(path, name) if path else name for name in names]
    return [child for child in found if not leave_out(child)]


def copy_tree(
    source: bytes, target: bytes, leave_out: Callable[[bytes], bool], on_progress: Callable[[Copied], None]
) -> Copied:
    """Copy everything below `source` to `target`, which must not exist: hard links, symlinks, modes, owners, times,
    xattrs and holes are kept; sockets, fifos and devices are left out, like what `leave_out` says. Raises OSError.
    """
    result = Copied()
    links: dict[tuple[int, int], bytes] = {}
    directories: list[tuple[bytes, os.stat_result]] = []

    def unwanted(path: bytes) -> bool:
        if leave_out(path):
            result.left_out += 1
            return True
        return False

    for path, status in walk(source, unwanted):
        old = os.path.join(source, path) if path else source
        new = os.path.join(target, path) if path else target
        kind = stat.S_IFMT(status.st_mode)
        if kind == stat.S_IFDIR:
            os.mkdir(new, 0o700)
            directories.append((path, status))
            result.directories += 1
        elif kind == stat.S_IFLNK:
            os.symlink(os.readlink(old), new)
            give_attributes(new, read_attributes(old, status), result.losses)
            result.symlinks += 1
        elif kind == stat.S_IFREG:
            first = links.get((status.st_dev, status.st_ino))
            if first is not None:
                os.link(first, new)
            else:
                result.copied_bytes += _copy_file(old, new)
                give_attributes(new, read_attributes(old, status), result.losses)
                if status.st_nlink > 1:
                    links[(status.st_dev, status.st_ino)] = new
            result.files += 1
        else:
            result.left_out += 1
        on_progress(result)
    for path, status in reversed(directories):  # last: copying into a directory changes its times
        old = os.path.join(source, path) if path else source
        new = os.path.join(target, path) if path else target
        give_attributes(new, read_attributes(old, status), result.losses)
    return result


def _copy_file(old: bytes, new: bytes) -> int:
    source = open_for_reading(old)
    try:
        target = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            return copy_contents(source, target, os.fstat(source))
        finally:
            os.close(target)
    finally:
        os.close(source)


def add_missing(source: bytes, target: bytes, last: bytes) -> None:
    """Move from `source` into the directory `target` what is not there yet; replace nothing. `last` (a name in
    `source`) is left for the caller. Directories that both have are merged. Can be repeated after an interruption."""
    for name in sorted(os.listdir(source)):
        if name == last:
            continue
        old, new = os.path.join(source, name), os.path.join(target, name)
        if not os.path.lexists(new):
            os.rename(old, new)
        elif is_directory(old) and is_directory(new):
            add_missing(old, new, b"")
            os.rmdir(old)
        else:
            remove(old)


def is_directory(path: bytes) -> bool:
    """A directory itself, not a symlink to one."""
    return stat.S_ISDIR(os.lstat(path).st_mode)


def remove(path: bytes) -> None:
    """Whatever it is; nothing there is no error."""
    if not os.path.lexists(path):
        return
    if not is_directory(path):
        os.unlink(path)
        return
    if os.geteuid() != 0:  # root needs no permissions
        _make_writable(path)
    shutil.rmtree(path)


def _make_writable(directory: bytes) -> None:
    os.chmod(directory, 0o700)
    for name in os.listdir(directory):
        child = os.path.join(directory, name)
        if is_directory(child):
            _make_writable(child)
