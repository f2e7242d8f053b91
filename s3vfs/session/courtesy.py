"""When a background writer leaves the next seq to others (DESIGN 4), so that a distant laptop is not starved.

A loser needs two round trips: one to read the winner, one to send again. Round trips and losses are in the headers of
records, so a loser is heard of only once it has won; until then a writer that wins again and again, with only
background work, leaves pauses that grow.
"""

from __future__ import annotations

from collections import deque

import trio

from s3vfs.journal.record import Header
from s3vfs.session.options import LOSER_MEMORY_S, YIELD_FIRST_S, YIELD_MOST_S


class Courtesy:
    """`hear` is called for every record that base applies."""

    def __init__(self) -> None:
        self._losers: deque[tuple[float, float]] = deque()  # (heard at, round trip), seconds
        self._wins = 0  # own background records in a row

    def hear(self, header: Header, own: bool) -> None:
        if own and header.background:
            self._wins += 1
            return
        self._wins = 0
        if not own and header.losses > 0:
            self._losers.append((trio.current_time(), header.round_trip_us / 1e6))

    def pause_s(self, company: bool) -> float:
        """How long background work should wait now. `company`: other sessions are live."""
        if not self._wins or not company:
            return 0.0
        while self._losers and self._losers[0][0] < trio.current_time() - LOSER_MEMORY_S:
            self._losers.popleft()
        known_s = 2 * max((round_trip_s for _, round_trip_s in self._losers), default=0.0)
        guessed_s = YIELD_FIRST_S * (1 << min(self._wins - 1, 10))
        return min(max(known_s, guessed_s), YIELD_MOST_S)
