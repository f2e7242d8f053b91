"""The replica of a mount: base in LMDB, on local disk.

Rows stand in LMDB's main database under their own keys; one *meta row*, whose key sorts before all of them, holds the
position and is written in the same transaction as what led there. So a process killed anywhere leaves a position and
rows that belong together. (A database of its own for the meta row cost a third more for each small transaction.)
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from types import TracebackType

import lmdb
import msgspec

from s3vfs.errors import Damaged, S3vfsError
from s3vfs.journal.record import Record
from s3vfs.namespace.apply import apply_record
from s3vfs.namespace.changes import changes_of
from s3vfs.namespace.digest import digest_from_bytes, digest_to_bytes, merge, row_hash
from s3vfs.namespace.scratch import ScratchTransaction
from s3vfs.replica.lmdb_environment import (
    DiskReserve,
    disk_errors,
    drop_next,
    open_environment,
    start_afresh,
    start_next,
    take_next,
    translated,
)
from s3vfs.replica.protocol import (
    EMPTY,
    Applied,
    Position,
    Row,
    Snapshot,
    check_continues,
    check_row_order,
)

_META_KEY = b"\0"
_FIRST_ROW = b"\1"

# Rows in one transaction of a load: some ms each, so that memory stays bounded.
_LOAD_ROWS = 10_000


class _Meta(msgspec.Struct, array_like=True, frozen=True):
    seq: int
    record_hash: bytes
    digest: bytes


_encode_meta = msgspec.msgpack.Encoder().encode
_decode_meta = msgspec.msgpack.Decoder(_Meta).decode


_forks = 0  # how many forks have led to this process since the module was loaded


def _forked() -> None:
    global _forks
    _forks += 1


os.register_at_fork(after_in_child=_forked)


class LmdbReader:
    """ReadTransaction over one LMDB transaction. Keys and values are copies."""

    __slots__ = ("_txn", "get")

    def __init__(self, txn: lmdb.Transaction[bytes]) -> None:
        self._txn = txn
        self.get: Callable[[bytes], bytes | None] = txn.get

    def range(self, first: bytes, end: bytes, *, reverse: bool = False) -> Iterator[Row]:
        first = max(first, _FIRST_ROW)  # the meta row is not a row
        cursor = self._txn.cursor()
        if reverse:
            if not (cursor.prev() if cursor.set_range(end) else cursor.last()):
                return
            for row in cursor.iterprev():
                if row[0] < first:
                    return
                yield row
        elif cursor.set_range(first):
            for row in cursor.iternext():
                if row[0] >= end:
                    return
                yield row

    def rows(self) -> Iterator[Row]:
        """All rows, in key order."""
        cursor = self._txn.cursor()
        return iter(cursor.iternext() if cursor.set_range(_FIRST_ROW) else ())


class LmdbWriter(LmdbReader):
    """Transaction over one LMDB write transaction, which its opener commits."""

    __slots__ = ()

    def put(self, key: bytes, value: bytes) -> None:
        self._txn.put(key, value)

    def delete(self, key: bytes) -> None:
        self._txn.delete(key)


class _Reading(LmdbReader):
    """A read, and its own context, which has no state: it may be entered again, also while it is entered. A class,
    since a generator would double the price of a lookup. The transaction ends with the last one that has it."""

    __slots__ = ("_path",)

    def __init__(self, txn: lmdb.Transaction[bytes], path: Path) -> None:
        self._txn = txn
        self.get = txn.get
        self._path = path

    def __enter__(self) -> LmdbReader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if error is not None and isinstance(error, lmdb.Error):
            raise translated(error, self._path) from error


class LmdbReplica:
    """See Replica. Open it once per process: LMDB's locks and maps must not be carried through fork, and every method
    refuses to work in a forked child.

    `rebuilt`: earlier files were there and were thrown away (`rebuilt_why` says why), because they were written under
    another boot id or for another volume, or were unreadable. The position is then EMPTY, and so it is for a new
    replica. `low_on_disk`: the last try to allocate disk space ahead failed; what is left of the reserve is being used
    up.
    """

    def __init__(self, path: Path, volume: bytes, boot_id: str) -> None:
        """Use `open`."""
        self._path = path
        self._volume = volume
        self._boot_id = boot_id
        self._forks = _forks
        self._closed = False
        self.low_on_disk = False
        self._standing: _Reading | None = None
        self._environment, self.rebuilt_why = open_environment(path, volume=volume, boot_id=boot_id)
        self._reserve = DiskReserve(self._environment, path)

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, volume: bytes, boot_id: str) -> LmdbReplica:
        """The replica in the directory `path` of the volume with that uuid (16 bytes). The caller keeps other processes
        away (the session directory's lock). Raises S3vfsError when the disk does not allow it."""
        replica = cls(Path(path), volume, boot_id)
        try:
            replica._settle()
        except BaseException:
            replica.close()
            raise
        return replica

    def _settle(self) -> None:
        """Find the position."""
        with disk_errors(self._path):
            with self._environment.begin() as txn:
                raw = txn.get(_META_KEY)
            try:
                self._position = _position(raw)
            except (msgspec.DecodeError, msgspec.ValidationError) as error:
                self.rebuilt_why = f"its position is unreadable ({error})"
                self._renew()
        self._top_up()

    def _renew(self) -> None:
        self._standing = None
        self._environment.close()
        self._environment = start_afresh(self._path, volume=self._volume, boot_id=self._boot_id)
        self._reserve = DiskReserve(self._environment, self._path)
        self._position = EMPTY

    @property
    def rebuilt(self) -> bool:
        return bool(self.rebuilt_why)

    @property
    def volume(self) -> bytes:
        return self._volume

    @property
    def position(self) -> Position:
        return self._position

    def _usable(self) -> lmdb.Environment:
        if self._forks != _forks:
            raise RuntimeError("a replica was carried through fork")
        if self._closed:
            raise S3vfsError("the replica is closed")
        return self._environment

    def read(self) -> _Reading:
        """All reads between two records are one: a request makes several, and each would begin its own transaction."""
        environment = self._usable()
        if self._standing is None:
            self._standing = _Reading(environment.begin(), self._path)
        return self._standing

    @contextmanager
    def snapshot(self) -> Iterator[Snapshot]:
        with self._usable().begin() as txn, _Reading(txn, self._path) as reader:
            yield Snapshot(_position(reader.get(_META_KEY)), reader.rows())

    def apply(self, record: Record) -> Applied:
        environment = self._usable()
        self._standing = None  # what it reads would be kept from being used again
        with disk_errors(self._path), environment.begin(write=True) as txn:
            position = self._position
            check_continues(position, self._volume, record)
            rows = LmdbWriter(txn)
            scratch = ScratchTransaction(rows)  # ops of one record change some rows, as a directory's, many times
            verdicts = apply_record(scratch, record.header, record.ops)
            digest, touched = merge(scratch, rows, digest_from_bytes(position.digest))
            after = Position(record.header.seq, record.hash, digest_to_bytes(digest))
            txn.put(_META_KEY, _meta(after))
        self._position = after
        self._top_up()
        return Applied(verdicts, changes_of(touched), frozenset(touched))

    def stage(self, rows: Iterable[Row], position: Position) -> Callable[[], None]:
        self._usable()
        with disk_errors(self._path):
            beside = start_next(self._path, volume=self._volume, boot_id=self._boot_id)
        try:
            if self._store(beside, rows) != position.digest:
                raise Damaged(f"the checkpoint at seq {position.seq} does not have the digest that it states")
            with disk_errors(self._path), beside.begin(write=True) as txn:
                txn.put(_META_KEY, _meta(position))
        except BaseException:
            drop_next(self._path)
            raise
        finally:
            beside.close()
        return partial(self._install, position)

    def _install(self, position: Position) -> None:
        self._usable()
        with disk_errors(self._path):
            # Not closed: a snapshot that another thread is reading keeps it until its end.
            self._environment = take_next(self._path)
        self._standing = None
        self._reserve = DiskReserve(self._environment, self._path)
        self._position = position
        self._top_up()

    def load(self, rows: Iterable[Row], position: Position) -> None:
        self.stage(rows, position)()

    def _store(self, environment: lmdb.Environment, rows: Iterable[Row]) -> bytes:
        """Write the rows, some thousand to a transaction; their digest."""
        last, digest = _META_KEY, 0
        source = iter(rows)
        while batch := list(islice(source, _LOAD_ROWS)):
            for key, value in batch:
                check_row_order(last, key)
                digest += row_hash(key, value)
                last = key
            with disk_errors(self._path), environment.begin(write=True) as txn:
                txn.cursor().putmulti(batch, append=True)
        return digest_to_bytes(digest % 2**128)

    def _top_up(self) -> None:
        try:
            self._reserve.top_up()
            self.low_on_disk = False
        except OSError:
            self.low_on_disk = True

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._standing = None
            self._environment.close()


def _meta(position: Position) -> bytes:
    return _encode_meta(_Meta(position.seq, position.record_hash, position.digest))


def _position(raw: bytes | None) -> Position:
    """What the meta row says. Raises msgspec's errors."""
    if raw is None:
        return EMPTY
    meta = _decode_meta(raw)
    return Position(meta.seq, meta.record_hash, meta.digest)
