"""The bytes of files, without their holes."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

_BLOCK = 512  # the unit of st_blocks, on every file system
_CHUNK_BYTES = 1 << 20
_SMALL_BYTES = 64 << 10  # up to here one read and one write are quicker than asking the kernel to copy

# What copy_file_range says where it cannot work between two file systems.
_CANNOT = frozenset({errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM})


def open_for_reading(path: bytes) -> int:
    """Without following a symlink, and without changing the time of access where we may."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        return os.open(path, flags | os.O_NOATIME)
    except PermissionError:  # only the owner and root may ask for that
        return os.open(path, flags)


def data_ranges(descriptor: int, status: os.stat_result) -> Iterator[tuple[int, int]]:
    """(start, end) of what is not a hole, in order."""
    size = status.st_size
    if status.st_blocks * _BLOCK >= size:
        if size:
            yield 0, size
        return
    position = 0
    while position < size:
        try:
            start = os.lseek(descriptor, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # a hole up to the end
                return
            raise
        if start >= size:
            return
        position = min(os.lseek(descriptor, start, os.SEEK_HOLE), size)
        yield start, position


def copy_contents(source: int, target: int, status: os.stat_result) -> int:
    """Copy into the empty file `target`, holes left out; the bytes copied. `status` is that of `source`."""
    copied = position = 0
    for start, end in data_ranges(source, status):
        copied += _copy_range(source, target, start, end)
        position = end
    if position < status.st_size:  # a hole at the end
        os.ftruncate(target, status.st_size)
    return copied


def _copy_range(source: int, target: int, start: int, end: int) -> int:
    position = start
    by_kernel = end - start > _SMALL_BYTES
    while position < end:
        if by_kernel:
            try:
                count = os.copy_file_range(source, target, end - position, position, position)
            except OSError as error:
                if error.errno not in _CANNOT:
                    raise
                count = 0
            if count == 0:
                by_kernel = False  # cannot, or says that nothing is there: a read decides
                continue
            position += count
            continue
        data = os.pread(source, min(_CHUNK_BYTES, end - position), position)
        if not data:
            break  # the file has become shorter meanwhile
        write_at(target, data, position)
        position += len(data)
    return position - start


def write_at(descriptor: int, data: bytes, offset: int) -> None:
    """All of it."""
    view = memoryview(data)
    while view:
        count = os.pwrite(descriptor, view, offset)
        view = view[count:]
        offset += count
