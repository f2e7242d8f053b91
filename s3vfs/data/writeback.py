"""Whether the local disk has refused what the kernel had taken: sync_file_range(2), for which Python has no name.

Nothing is written for that, and nothing waited for but pages on their way to the disk. A page that the disk has refused
may be gone from memory, and what is read in its place is not what was written.
"""

from __future__ import annotations

import ctypes
import os

_WAIT_BEFORE = 1

_libc = ctypes.CDLL(None, use_errno=True)
_libc.sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)


def check_written_back(descriptor: int) -> None:
    """Raises OSError (EIO, ENOSPC) where pages of the file could not be written since the descriptor was opened, or
    since anybody was told; once for each descriptor."""
    if _libc.sync_file_range(descriptor, 0, 0, _WAIT_BEFORE):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
