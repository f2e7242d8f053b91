"""Errors of the local disk, translated once. Knows nothing of what was being done."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from s3vfs.errors import S3vfsError


class LocalDiskError(S3vfsError):
    """The disk that holds the working files refuses. Carries its errno."""

    def __init__(self, cause: OSError) -> None:
        reason = os.strerror(cause.errno) if cause.errno else str(cause)
        super().__init__(f"the local disk under the working files: {reason}")
        self.errno = cause.errno or errno.EIO


@contextmanager
def local_disk() -> Iterator[None]:
    """Inside, OSError becomes LocalDiskError."""
    try:
        yield
    except OSError as error:
        raise LocalDiskError(error) from error
