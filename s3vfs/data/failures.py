"""Errors of the local disk, translated once; and raising one failure to several callers. Knows nothing of what was
done.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

from s3vfs.errors import PosixError, S3vfsError

_Error = TypeVar("_Error", bound=S3vfsError)


class LocalDiskError(S3vfsError):
    """The disk that holds the working files refuses. Carries its errno."""

    def __init__(self, cause: OSError) -> None:
        reason = os.strerror(cause.errno) if cause.errno else str(cause)
        super().__init__(f"the local disk under the working files: {reason}")
        self.errno = cause.errno or errno.EIO


@contextmanager
def local_disk() -> Iterator[None]:
    """Inside, OSError becomes LocalDiskError; but what only an offset too large for the disk's files means is the
    caller's own (EFBIG: ext4 ends at 16 TiB)."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise PosixError(errno.EFBIG) from error
        raise LocalDiskError(error) from error


def again(error: _Error) -> _Error:
    """The same failure, to be raised once more: each raise gets a traceback of its own."""
    twin = type(error).__new__(type(error))
    twin.args = error.args
    twin.__dict__.update(error.__dict__)
    return twin
