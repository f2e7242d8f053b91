"""What a replica is: base, the state after every journal record up to one seq, kept on this machine.

The contract that LmdbReplica (mounts) and MemoryReplica (simulation) share, and the checks of R4 that both make before
a record may change anything. Knows records and rows; knows no bucket, no session, no trio.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from s3vfs.errors import Damaged, S3vfsError
from s3vfs.journal.record import ZERO_HASH, Record
from s3vfs.namespace.changes import Changes
from s3vfs.namespace.transaction import ReadTransaction
from s3vfs.namespace.verdict import Verdict

# The largest key that every replica can hold (LMDB's bound). The longest row key, a link's, has 272 bytes.
MAX_KEY_BYTES = 511

Row = tuple[bytes, bytes]


@dataclass(frozen=True, slots=True)
class Position:
    """Where in the journal base stands: the last applied seq, that record's hash, and the digest of all rows after
    it (16 bytes each). Seq 0: nothing applied yet."""

    seq: int
    record_hash: bytes
    digest: bytes


EMPTY = Position(0, ZERO_HASH, ZERO_HASH)


@dataclass(frozen=True, slots=True)
class Applied:
    """What one record did. `verdicts`: one for each op, in order. `keys`: every row key that was put or deleted, also
    where the value stayed the same."""

    verdicts: list[Verdict]
    changes: Changes
    keys: frozenset[bytes]


class Snapshot(NamedTuple):
    """One state of base: all rows in key order, to be consumed once, before the context that gave them ends."""

    position: Position
    rows: Iterator[Row]


class Replica(Protocol):
    """Base, and the only two ways to change it (R12): the next record, or a whole checkpoint.

    Transactions are used in the thread that opened them and never across an await. `read` and `snapshot` may be called
    from any thread, also while another thread applies or stages: they see the state as of their opening. `apply`,
    `stage`, what it returns, and `close` are called by one task at a time.
    """

    @property
    def volume(self) -> bytes:
        """The volume's uuid, 16 bytes."""
        ...

    @property
    def position(self) -> Position: ...

    def read(self) -> AbstractContextManager[ReadTransaction]:
        """Base as it is now."""
        ...

    def snapshot(self) -> AbstractContextManager[Snapshot]:
        """All rows, and the position that they belong to, for publishing."""
        ...

    def apply(self, record: Record) -> Applied:
        """Apply the next record, all of it or nothing. Raises Damaged where it does not continue base (R4),
        UnknownFeature where it needs a newer program (R3), S3vfsError when the disk fails; base is then unchanged."""
        ...

    def stage(self, rows: Iterable[Row], position: Position) -> Callable[[], None]:
        """Prepare another state beside the present one, which stays in use: `rows` in strictly ascending key order,
        with `position`'s digest. Blocks. Calling the result, before the next `stage`, replaces everything by it, at
        once.

        Raises Damaged otherwise. After any exception, from `rows` too, and after a crash inside, base is as it was.
        """
        ...

    def load(self, rows: Iterable[Row], position: Position) -> None:
        """`stage`, and its result called."""
        ...

    def close(self) -> None:
        """Idempotent. Open transactions become unusable."""
        ...


def check_continues(position: Position, volume: bytes, record: Record) -> None:
    """Raise Damaged unless `record` is the one after `position` in the history of this volume (R4)."""
    header = record.header
    if header.volume != volume:
        raise Damaged(f"record {header.seq} belongs to volume {header.volume.hex()}, not to {volume.hex()}")
    if header.seq != position.seq + 1:
        raise Damaged(f"record {header.seq} was found where {position.seq + 1} belongs")
    if header.previous != position.record_hash:
        raise Damaged(f"record {header.seq} does not continue the record {position.seq} that was applied here")
    if header.digest != position.digest:
        raise Damaged(
            f"record {header.seq} was written on another state than this client has at {position.seq}",
            hint="this client's replica, or its author's, is wrong: remove the replica to have it rebuilt",
        )


def check_row_order(last: bytes, key: bytes) -> None:
    """Raise Damaged unless `key` may follow `last` in a checkpoint's rows."""
    if key <= last:
        raise Damaged(f"checkpoint rows are out of order at key {key.hex()}")
    if len(key) > MAX_KEY_BYTES:
        raise Damaged(f"a checkpoint row has a key of {len(key)} bytes")


def loading_error() -> S3vfsError:
    """What reads get before the first checkpoint is there: an empty state must never look like missing files."""
    return S3vfsError("the replica holds no complete state", hint="a checkpoint is being loaded, or failed to load")
