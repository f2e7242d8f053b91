"""How far ahead of a reader to fetch: pure arithmetic, one object for each handle.

A window opens at the second read in a row, or at once at the beginning of a file, starts small and doubles with each
step while the reader is sequential; a jump closes it, so random readers fetch only their sectors. All readers of a
mount share one pool: many of them have small windows, so that what is fetched for one is neither in the way of the
others nor thrown away before it is read (DESIGN 8, memory pressure).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from weakref import WeakSet

# The kernel reorders its own readahead by so much; such a reader is still sequential.
_SLACK_BYTES = 256 * 1024


class Pool:
    """What all windows together may be, in bytes: `bound_bytes()`, asked anew each time. Readers leave it when they are
    dropped."""

    def __init__(self, bound_bytes: Callable[[], int]) -> None:
        self._bound_bytes = bound_bytes
        self._readers: WeakSet[Readahead] = WeakSet()

    def join(self, reader: Readahead) -> None:
        self._readers.add(reader)

    def share(self, reader: Readahead) -> int:
        """The largest window for `reader`: an equal part among those that have something ahead of them."""
        others = sum(other.ahead_bytes > 0 for other in self._readers if other is not reader)
        return self._bound_bytes() // (1 + others)


@dataclass(slots=True, eq=False, weakref_slot=True)
class Readahead:
    """`first_bytes`, `most_bytes` and the share of `pool` bound the window. `reached`: up to here everything has been
    asked for; `end_of_file`: as far as known."""

    first_bytes: int
    most_bytes: int
    pool: Pool | None = None
    reached: int = 0
    end_of_file: int | None = None
    _next: int = 0
    _window: int = 0
    _streak: int = 1

    def __post_init__(self) -> None:
        if self.pool is not None:
            self.pool.join(self)

    @property
    def ahead_bytes(self) -> int:
        """Bytes that were asked for and that the reader has not come to."""
        end = self.reached if self.end_of_file is None else min(self.reached, self.end_of_file)
        return max(0, end - self._next)

    def advance(self, start: int, end: int) -> tuple[int, int]:
        """The reader reads [start, end). Returns the range to fetch ahead of it, empty (equal ends) for none."""
        if not self._next - _SLACK_BYTES <= start <= self._next + _SLACK_BYTES:
            self._next, self._window, self._streak, self.reached = end, 0, 0, end
            return end, end
        self._next = max(self._next, end)
        self._streak += 1
        if self._streak < 2:
            return end, end
        if not self._window:
            self._window = self.first_bytes
        elif self.reached - self._next >= self._window // 2:
            return end, end  # still far enough ahead
        else:
            self._window = min(2 * self._window, self.most_bytes)
        if self.pool is not None:
            self._window = min(self._window, self.pool.share(self))
        first, last = max(self.reached, end), self._next + self._window
        if first >= last:
            return end, end
        self.reached = last
        return first, last
