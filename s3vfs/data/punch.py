"""fallocate(2) with FALLOC_FL_PUNCH_HOLE: Python has no name for it. Knows nothing of files' meaning."""

from __future__ import annotations

import ctypes
import errno
import os

_KEEP_SIZE = 1
_PUNCH_HOLE = 2

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


def punch(descriptor: int, offset: int, length: int) -> bool:
    """Make [offset, offset + length) a hole. False where the file system cannot. Raises OSError."""
    if _libc.fallocate(descriptor, _PUNCH_HOLE | _KEEP_SIZE, offset, length) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.EOPNOTSUPP, errno.ENOSYS):
        return False
    raise OSError(code, os.strerror(code))
