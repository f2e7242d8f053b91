"""The numbers that a session runs by: limits with their unit and reason, and what a user may choose."""

from __future__ import annotations

import enum
from dataclasses import dataclass

MAX_RECORD_OPS = 10_000  # bounds the memory of every reader (docs/format.md 8)
MAX_RECORD_BYTES = 16 << 20
FIRST_BLOCK = 1_024  # inode numbers asked for at first: few mounts create more
MAX_BLOCK = 65_536  # apply's bound on one BLOCK
READ_WINDOW = 32  # records asked for at once by a client that is behind
RETRY_FIRST_S = 0.1
RETRY_MOST_S = 5.0
KNOWN_FATE_GRACE_S = 1.0  # how long a request may go on once the journal has shown its fate, before it is cut off
LOSER_MEMORY_S = 30.0  # losers seen within this time count when background work yields (DESIGN 4)
YIELD_FIRST_S = 0.05
YIELD_MOST_S = 1.0  # acknowledged work is committed within about a second, whoever else writes (DESIGN 6)


class Offline(enum.Enum):
    """What reads do while the bucket does not answer."""

    STALE = "stale"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """`freshness_s` 0 = every call waits for a look of its own. `stale_after_s`: how long the bucket may stay silent
    before Offline.STALE serves what is there."""

    label: str = ""
    read_only: bool = False
    freshness_s: float = 0.1
    offline: Offline = Offline.STALE
    stale_after_s: float = 2.0
    io_timeout_s: float = 120.0
    busy_poll_s: float = 0.5
    idle_poll_s: float = 10.0
    idle_after_s: float = 30.0
    low_interval_s: float = 300.0
