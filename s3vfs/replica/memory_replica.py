"""The replica of the simulator and of unit tests: base in a dictionary. Same contract as LmdbReplica, but for one
thread, and nothing outlives the object: `copy` stands for a disk that is kept, or rolled back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from s3vfs.errors import Damaged, S3vfsError
from s3vfs.journal.record import Record
from s3vfs.namespace.apply import apply_record
from s3vfs.namespace.changes import changes_of
from s3vfs.namespace.dictionary import DictTransaction
from s3vfs.namespace.digest import digest_from_bytes, digest_of, digest_to_bytes, merge
from s3vfs.namespace.scratch import ScratchTransaction
from s3vfs.namespace.transaction import ReadTransaction
from s3vfs.replica.protocol import (
    EMPTY,
    Applied,
    Position,
    Row,
    Snapshot,
    check_continues,
    check_row_order,
)


class MemoryReplica:
    """See Replica. A transaction from `read` must not be used after the next `apply`."""

    def __init__(self, volume: bytes) -> None:
        self._volume = volume
        self._rows = DictTransaction()
        self._position = EMPTY
        self._closed = False

    @property
    def volume(self) -> bytes:
        return self._volume

    @property
    def position(self) -> Position:
        return self._position

    def copy(self) -> MemoryReplica:
        """An independent, open replica in the same state."""
        other = MemoryReplica(self._volume)
        other._rows = self._rows.copy()
        other._position = self._position
        return other

    def _usable(self) -> DictTransaction:
        if self._closed:
            raise S3vfsError("the replica is closed")
        return self._rows

    @contextmanager
    def read(self) -> Iterator[ReadTransaction]:
        yield self._usable()

    @contextmanager
    def snapshot(self) -> Iterator[Snapshot]:
        yield Snapshot(self._position, self._usable().copy().items())

    def apply(self, record: Record) -> Applied:
        rows = self._usable()
        check_continues(self._position, self._volume, record)
        scratch = ScratchTransaction(rows)  # so that an exception changes nothing
        verdicts = apply_record(scratch, record.header, record.ops)
        digest, touched = merge(scratch, rows, digest_from_bytes(self._position.digest))
        self._position = Position(record.header.seq, record.hash, digest_to_bytes(digest))
        return Applied(verdicts, changes_of(touched), frozenset(touched))

    def stage(self, rows: Iterable[Row], position: Position) -> Callable[[], None]:
        self._usable()
        staged = DictTransaction(_in_order(rows))
        if digest_to_bytes(digest_of(staged.items())) != position.digest:
            raise Damaged(f"the checkpoint at seq {position.seq} does not have the digest that it states")

        def install() -> None:
            self._usable()
            self._rows, self._position = staged, position

        return install

    def load(self, rows: Iterable[Row], position: Position) -> None:
        self.stage(rows, position)()

    def close(self) -> None:
        self._closed = True


def _in_order(rows: Iterable[Row]) -> Iterator[Row]:
    last = b"\0"
    for key, value in rows:
        check_row_order(last, key)
        last = key
        yield key, value
