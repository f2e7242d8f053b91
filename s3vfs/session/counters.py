"""What a session has done so far, for status and for benchmarks."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(slots=True)
class SessionCounters:
    """Monotonic within one mount. Bytes are those of record objects; times are seconds of the trio thread."""

    records_won: int = 0
    records_lost: int = 0
    records_read: int = 0
    bytes_won: int = 0
    bytes_read: int = 0
    ops_committed: int = 0
    ops_rejected: int = 0
    looks: int = 0
    reloads: int = 0
    apply_s: float = 0.0

    def as_dict(self) -> dict[str, int | float]:
        return asdict(self)
