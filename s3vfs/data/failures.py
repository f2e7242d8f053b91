"""Errors of the local disk, translated once; and raising one failure to several callers. Knows nothing of what was
done.
"""

from __future__ import annotations

import errno
import os
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TypeVar

from s3vfs.errors import PosixError, S3vfsError

_Error = TypeVar("_Error", bound=S3vfsError)


class LocalDiskError(S3vfsError):
    """The disk that holds the working files refuses. Carries its errno."""

    def __init__(self, cause: OSError) -> None:
        reason = os.strerror(cause.errno) if cause.errno else str(cause)
        super().__init__(f"the local disk under the working files: {reason}")
        self.errno = cause.errno or errno.EIO


class NotWrittenBack(LocalDiskError):
    """It has refused pages that the kernel had taken: what is read there may not be what was written."""


class _LocalDisk:
    """What `local_disk` gives: one for all, since it keeps nothing, and every write enters it."""

    __slots__ = ()

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if isinstance(error, OSError):
            if error.errno == errno.EFBIG:
                raise PosixError(errno.EFBIG) from error
            raise LocalDiskError(error) from error


_LOCAL_DISK = _LocalDisk()


def local_disk() -> AbstractContextManager[None]:
    """Inside, OSError becomes LocalDiskError; but what only an offset too large for the disk's files means is the
    caller's own (EFBIG: ext4 ends at 16 TiB)."""
    return _LOCAL_DISK


def again(error: _Error) -> _Error:
    """The same failure, to be raised once more: each raise gets a traceback of its own."""
    twin = type(error).__new__(type(error))
    twin.args = error.args
    twin.__dict__.update(error.__dict__)
    return twin
