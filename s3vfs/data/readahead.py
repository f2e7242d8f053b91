"""How far ahead of a reader to fetch: pure arithmetic, one object for each handle.

A window starts small and doubles with each step while the reader is sequential; a jump closes it, so random readers
fetch only their sectors. Under memory pressure the largest window is halved."""

from __future__ import annotations

from dataclasses import dataclass

# A reader may skip so much, or the kernel may reorder its requests by so much, and still count as sequential.
_SLACK_BYTES = 1024 * 1024


@dataclass(slots=True)
class Readahead:
    """`first_bytes` and `most_bytes` bound the window. `reached`: up to here everything has been asked for."""

    first_bytes: int
    most_bytes: int
    _next: int = 0
    _window: int = 0
    reached: int = 0

    def advance(self, start: int, end: int) -> tuple[int, int]:
        """The reader reads [start, end). Returns the range to fetch ahead, empty (equal ends) for none.

        The first read of a handle counts as sequential when it begins at 0.
        """
        sequential = self._next - _SLACK_BYTES <= start <= self._next + _SLACK_BYTES
        if not sequential:
            self._next, self._window, self.reached = end, 0, end
            return end, end
        self._next = max(self._next, end)
        if not self._window:
            self._window = self.first_bytes
            self.reached = max(self.reached, end)
        elif self.reached - self._next >= self._window // 2:
            return end, end  # still far enough ahead
        else:
            self._window = min(2 * self._window, self.most_bytes)
        first = max(self.reached, end)
        last = self._next + self._window
        if last <= first:
            return end, end
        self.reached = last
        return first, last

    def shrink(self) -> None:
        """Memory or disk is short: half as far from now on."""
        self._window = max(self.first_bytes, self._window // 2)
        self.most_bytes = max(self.first_bytes, self.most_bytes // 2)
