"""How far ahead of a reader to fetch: pure arithmetic, one object for each handle.

A window opens at the second read in a row, or at once at the beginning of a file, starts small and doubles with each
step while the reader is sequential; a jump closes it, so random readers fetch only their sectors.
"""

from __future__ import annotations

from dataclasses import dataclass

# The kernel reorders its own readahead by so much; such a reader is still sequential.
_SLACK_BYTES = 256 * 1024


@dataclass(slots=True)
class Readahead:
    """`first_bytes` and `most_bytes` bound the window. `reached`: up to here everything has been asked for."""

    first_bytes: int
    most_bytes: int
    reached: int = 0
    _next: int = 0
    _window: int = 0
    _streak: int = 1

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
        first, last = max(self.reached, end), self._next + self._window
        if first >= last:
            return end, end
        self.reached = last
        return first, last
