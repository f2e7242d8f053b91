"""Errors as programs see them: an errno for each, and a line in the log for those that say nothing to a program."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable

from s3vfs.errors import PosixError, ReadOnly, S3vfsError

_log = logging.getLogger(__name__)

# The same complaint about the same call comes at most so often, and so many different ones are remembered.
_PAUSE_S = 10.0
_REMEMBERED = 1_000


class Errnos:
    """One mount's. `now_s`: a clock for the pace of complaints only."""

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._complained_s: dict[tuple[str, str], float] = {}

    def of(self, call: str, error: Exception) -> int:
        """What the call answers: ordinary errors as they are, others as EIO and a line in the log."""
        if isinstance(error, PosixError | ReadOnly):
            return error.errno
        if isinstance(error, S3vfsError):
            # Not its own errno: ENOENT of a missing bucket, say, must not look like that of a missing file.
            self._complain(call, error)
        else:
            _log.error("%s failed unexpectedly", call, exc_info=error)
        return errno.EIO

    def _complain(self, call: str, error: S3vfsError) -> None:
        key, now_s = (call, str(error)), self._now_s()
        if now_s - self._complained_s.get(key, -_PAUSE_S) >= _PAUSE_S:
            if len(self._complained_s) > _REMEMBERED:
                self._complained_s.clear()
            self._complained_s[key] = now_s
            _log.warning("%s answers EIO: %s", call, error)
