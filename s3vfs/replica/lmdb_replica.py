"""The replica of a mount: base in LMDB, on local disk.

Rows stand in LMDB's main database under their own keys; one *meta row*, whose key sorts before all of them, holds the
position and is written in the same transaction as what led there. So a process killed anywhere leaves a position and
rows that belong together. (A database of its own for the meta row cost a third more for each small transaction.)
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from types import TracebackType

import lmdb
import msgspec

from s3vfs.errors import Damaged, S3vfsError
from s3vfs.journal.record import Record
from s3vfs.namespace.apply import apply_record
from s3vfs.namespace.changes import changes_of
from s3vfs.namespace.digest import DigestingTransaction, digest_from_bytes, digest_to_bytes, row_hash
from s3vfs.replica.lmdb_environment import DiskReserve, disk_errors, open_environment, start_afresh, translated
from s3vfs.replica.protocol import (
    EMPTY,
    Applied,
    Position,
    Row,
    Snapshot,
    check_continues,
    check_row_order,
    loading_error,
)

_META_KEY = b"\0"
_FIRST_ROW = b"\1"

# Rows in one transaction of a load: some ms each, so that memory and the time until a crash is noticed stay bounded.
_LOAD_ROWS = 10_000


class _Meta(msgspec.Struct, array_like=True, frozen=True):
    """`loading`: a checkpoint is half loaded; the rows mean nothing."""

    loading: bool
    seq: int
    record_hash: bytes
    digest: bytes


_encode_meta = msgspec.msgpack.Encoder().encode
_decode_meta = msgspec.msgpack.Decoder(_Meta).decode


class LmdbReader:
    """ReadTransaction over one LMDB transaction. Keys and values are copies."""

    __slots__ = ("_txn",)

    def __init__(self, txn: lmdb.Transaction[bytes]) -> None:
        self._txn = txn

    def get(self, key: bytes) -> bytes | None:
        return self._txn.get(key)

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


class _Reading:
    """The context of one read. A class, since a generator would double the price of a lookup."""

    __slots__ = ("_path", "_txn")

    def __init__(self, txn: lmdb.Transaction[bytes], path: Path) -> None:
        self._txn = txn
        self._path = path

    def __enter__(self) -> LmdbReader:
        return LmdbReader(self._txn)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._txn.abort()
        if isinstance(error, lmdb.Error):
            raise translated(error, self._path) from error


class LmdbReplica:
    """See Replica. Open it once per process: LMDB's locks and maps must not be carried through fork, and every method
    refuses to work in a forked child.

    `rebuilt`: earlier files were there and were thrown away (`rebuilt_why` says why), because they were written under
    another boot id or for another volume, were unreadable, or had been killed while loading. The position is then
    EMPTY, and so it is for a new replica. `low_on_disk`: the last try to allocate disk space ahead failed; what is
    left of the reserve is being used up.
    """

    def __init__(self, path: Path, volume: bytes, boot_id: str) -> None:
        """Use `open`."""
        self._path = path
        self._volume = volume
        self._boot_id = boot_id
        self._pid = os.getpid()
        self._closed = False
        self._loading = False
        self.low_on_disk = False
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
        """Find the position; throw a half-loaded state away."""
        with disk_errors(self._path):
            with self._environment.begin() as txn:
                raw = txn.get(_META_KEY)
            try:
                meta = _Meta(False, *_fields(EMPTY)) if raw is None else _decode_meta(raw)
                why = "it was being loaded when the process ended" if meta.loading else ""
            except (msgspec.DecodeError, msgspec.ValidationError) as error:
                why = f"its position is unreadable ({error})"
            if why:
                self.rebuilt_why = why
                self._renew()
            else:
                self._position = Position(meta.seq, meta.record_hash, meta.digest)
        self._top_up()

    def _renew(self) -> None:
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
        if os.getpid() != self._pid:
            raise RuntimeError("a replica was carried through fork")
        if self._closed:
            raise S3vfsError("the replica is closed")
        return self._environment

    def read(self) -> _Reading:
        txn = self._usable().begin()
        if self._loading:  # looked at after begin: a load that started in another thread between the two is seen
            txn.abort()
            raise loading_error()
        return _Reading(txn, self._path)

    @contextmanager
    def snapshot(self) -> Iterator[Snapshot]:
        with self.read() as reader:
            raw = reader.get(_META_KEY)
            meta = _Meta(False, *_fields(EMPTY)) if raw is None else _decode_meta(raw)
            yield Snapshot(Position(meta.seq, meta.record_hash, meta.digest), reader.rows())

    def apply(self, record: Record) -> Applied:
        environment = self._usable()
        if self._loading:
            raise loading_error()
        with disk_errors(self._path), environment.begin(write=True) as txn:
            position = self._position
            check_continues(position, self._volume, record)
            digesting = DigestingTransaction(LmdbWriter(txn), digest_from_bytes(position.digest))
            verdicts = apply_record(digesting, record.header, record.ops)
            after = Position(record.header.seq, record.hash, digest_to_bytes(digesting.digest))
            txn.put(_META_KEY, _encode_meta(_Meta(False, *_fields(after))))
        self._position = after
        self._top_up()
        keys = frozenset(digesting.touched)
        return Applied(verdicts, changes_of(keys), keys)

    def load(self, rows: Iterable[Row], position: Position) -> None:
        environment = self._usable()
        self._loading = True  # stays so if even emptying fails: then nothing is read until a load succeeds
        self._position = EMPTY
        self._clear(environment, loading=True)
        try:
            digest = self._store(environment, rows)
            if digest != position.digest:
                raise Damaged(f"the checkpoint at seq {position.seq} does not have the digest that it states")
            with disk_errors(self._path), environment.begin(write=True) as txn:
                txn.put(_META_KEY, _encode_meta(_Meta(False, *_fields(position))))
        except BaseException:
            self._clear(environment, loading=False)
            self._loading = False
            raise
        self._position = position
        self._loading = False
        self._top_up()

    def _clear(self, environment: lmdb.Environment, *, loading: bool) -> None:
        """No rows. Marked as loading, the files are thrown away by the next open unless a position is written."""
        with disk_errors(self._path):
            database = environment.open_db(None)
            with environment.begin(write=True) as txn:
                txn.drop(database, delete=False)
                txn.put(_META_KEY, _encode_meta(_Meta(loading, *_fields(EMPTY))))

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
            self._environment.close()


def _fields(position: Position) -> tuple[int, bytes, bytes]:
    return position.seq, position.record_hash, position.digest
