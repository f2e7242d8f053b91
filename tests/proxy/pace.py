"""A bandwidth: how long a piece has to wait when it shares a line with all others."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Pace:
    """One direction of a line of `bytes_per_s` (0: without limit). Thread-safe; reserves, never sleeps itself."""

    def __init__(self, bytes_per_s: float, now: Callable[[], float]) -> None:
        self.bytes_per_s = bytes_per_s
        self._now = now
        self._lock = threading.Lock()
        self._free_at = 0.0

    def reserve(self, size_bytes: int) -> float:
        """Take the line for `size_bytes`; returns after how many seconds they have passed."""
        if not self.bytes_per_s:
            return 0.0
        with self._lock:
            now = self._now()
            self._free_at = max(self._free_at, now) + size_bytes / self.bytes_per_s
            return self._free_at - now
