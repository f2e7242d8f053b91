"""The numbers that a session runs by: limits with their unit and reason, and what a user may choose."""

from __future__ import annotations

import enum
from dataclasses import dataclass

MAX_RECORD_OPS = 10_000  # bounds the memory of every reader (docs/format.md 8)
MAX_RECORD_BYTES = 16 << 20
FIRST_BLOCK = 1_024  # inode numbers asked for at first: few mounts create more
MAX_BLOCK = 65_536  # apply's bound on one BLOCK
COMMIT_AFTER_S = (
    0.2  # acknowledged ops gather for so long: five records a second cost little, names are young elsewhere
)
BATCH_OPS = 4_000  # staged ops that make a batch at once; their files' ops come on top, in the same record
BATCH_BYTES = 4 << 20
NUMBERS_BEFORE = 16  # op numbers kept free below a batch, for signs of life while it waits for uploads
NUMBERS_ALONG = 1 << 16  # and above it, for what comes along
WINDOW_OPS = 10_000  # acknowledged and not durable, at most (DESIGN 6): then callers wait for their record
LEASE_STRENGTH_S = 5.0  # R8: how old the last sighting of the tail may be for acknowledging
LEASE_LOOK_S = 0.5  # a holder hears of a recall within that
LEASE_IDLE_S = 2.0  # a lease that nobody uses is given back
BESIDE_IDLE_S = 0.5  # so long unused, a lease goes with a recalled one beside it
RECALL_PATIENCE_S = 10.0  # without a sign of the holder, from the committed RECALL on
RECALL_LIMIT_S = 60.0  # with signs
BUSY_AFTER_S = 4.0  # a holder that is still flushing says so
# How long nothing is taken back after a recall, at first (longer than it takes to read a small directory, or to change
# it, which takes whoever asked for it a look and a record), and, doubled each time it was too early, at most.
SHY_FIRST_S = 0.5
SHY_MOST_S = 60.0
COMPANY_S = 2.0  # a directory that others changed so recently is not leased
READ_WINDOW = 32  # records asked for at once by a client that is behind
RETRY_FIRST_S = 0.1
RETRY_MOST_S = 5.0
LAST_TRY_S = 0.3  # before somebody goes on without a look, after a long silence: an answer from a distant bucket
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
    before Offline.STALE serves what is there. `leases`: whether to ask for leases; those of others are respected in any
    case."""

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
    leases: bool = False
