"""A volume in a dictionary for tests: records are made, applied and checked here."""

from __future__ import annotations

import stat
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from s3vfs.namespace.apply import apply_record
from s3vfs.namespace.dictionary import DictTransaction
from s3vfs.namespace.digest import DigestingTransaction
from s3vfs.namespace.invariants import problems
from s3vfs.namespace.ops import (
    Announce,
    Block,
    Create,
    DeclareObject,
    ExtentWrite,
    Format,
    NumberedOp,
    Op,
    Rename,
    Setattr,
    Unlink,
    Write,
    encode_op,
)
from s3vfs.namespace.rows import SECTOR_BYTES, Inode, MutableRows, Rows
from s3vfs.namespace.verdict import Verdict

SID = 7
OTHER = 8
FORMAT = Format("vol", 0, 0, 0o755, 0, 0, 100)


@dataclass(frozen=True)
class Header:
    seq: int
    sid: int
    incarnation: int


class TestVolume:
    """A formatted volume with two live sessions, SID (inode numbers from 16) and OTHER (from 1016)."""

    __test__ = False

    def __init__(self, *, formatted: bool = True) -> None:
        self.base = DictTransaction()
        self.txn = DigestingTransaction(self.base, 0)
        self.seq = 0
        self.numbers: dict[tuple[int, int], int] = {}
        if formatted:
            self.ok(FORMAT, Announce("first"), Block(1000))
            self.ok(Announce("second"), Block(1000), sid=OTHER)

    @property
    def rows(self) -> MutableRows:
        return MutableRows(self.base)

    def record(self, raw_ops: Sequence[bytes | msgspec.Raw], *, sid: int = SID, incarnation: int = 1) -> list[Verdict]:
        """Apply raw ops as the next record."""
        self.seq += 1
        return apply_record(self.txn, Header(self.seq, sid, incarnation), raw_ops)

    def number(self, op: Op, sid: int, incarnation: int, lease: tuple[int, int] | None = None) -> bytes:
        number = self.numbers.get((sid, incarnation), 0) + 1
        self.numbers[sid, incarnation] = number
        return encode_op(NumberedOp(number, lease, op))  # type: ignore[arg-type]

    def apply(self, *ops: Op, sid: int = SID, incarnation: int = 1) -> list[Verdict]:
        """Number the ops and apply them as the next record."""
        return self.record([self.number(op, sid, incarnation) for op in ops], sid=sid, incarnation=incarnation)

    def ok(self, *ops: Op, sid: int = SID, incarnation: int = 1) -> list[Verdict]:
        verdicts = self.apply(*ops, sid=sid, incarnation=incarnation)
        assert all(verdict.errno == 0 for verdict in verdicts), verdicts
        return verdicts

    def refused(self, op: Op, *, sid: int = SID, incarnation: int = 1) -> int:
        """Apply an op that must fail and leave no trace but the session's counters; its errno."""
        self.apply(sid=sid, incarnation=incarnation)  # so that last_seq is the only difference
        before = {key: value for key, value in self.base.items() if key[:1] != b"S"}
        blocks = {key: row.blocks for key, row in self.rows.sessions()}
        [verdict] = self.apply(op, sid=sid, incarnation=incarnation)
        assert verdict.errno != 0, f"{op} was accepted"
        assert {key: value for key, value in self.base.items() if key[:1] != b"S"} == before
        assert {key: row.blocks for key, row in self.rows.sessions()} == blocks
        return verdict.errno

    def inode(self, ino: int) -> Inode:
        inode = self.rows.inode(ino)
        assert inode is not None
        return inode

    def sound(self) -> None:
        assert list(problems(Rows(self.base), self.txn.digest)) == []

    # -- short forms of common ops ------------------------------------------------------------------------------

    def file(self, ino: int, name: bytes, parent: int = 1, *, uid: int = 0) -> int:
        self.ok(create(ino, name, parent, uid=uid))
        return ino

    def directory(
        self, ino: int, name: bytes, parent: int = 1, *, mode: int = 0o755, uid: int = 0, gid: int = 0
    ) -> int:
        self.ok(create(ino, name, parent, mode=stat.S_IFDIR | mode, uid=uid, gid=gid))
        return ino

    def object(self, number: int, size: int = 1000) -> bytes:
        self.ok(declare(number, size))
        return object_id(number)

    def extents(self, ino: int) -> list[tuple[int, int, int, int]]:
        """(offset, length, object number, object offset) of each extent."""
        return [
            (offset, extent.length, int.from_bytes(extent.object, "big"), extent.object_offset)
            for offset, extent in self.rows.extents(ino)
        ]


def create(
    ino: int,
    name: bytes = b"new",
    parent: int = 1,
    *,
    mode: int = stat.S_IFREG | 0o644,
    uid: int = 0,
    gid: int = 0,
    rdev: int = 0,
    target: bytes = b"",
    time_ns: int = 1000,
    umask: int = 0,
) -> Create:
    return Create(parent, name, ino, mode, uid, gid, rdev, target, time_ns, umask)


def unlink(ino: int, name: bytes, parent: int = 1, *, uid: int = 0, hold: bool = False, time_ns: int = 1000) -> Unlink:
    return Unlink(parent, name, ino, uid, hold, time_ns)


def rename(
    ino: int,
    name: bytes,
    new_name: bytes,
    *,
    parent: int = 1,
    new_parent: int = 1,
    replaced: int = 0,
    flags: int = 0,
    uid: int = 0,
    hold: bool = False,
    time_ns: int = 1000,
) -> Rename:
    return Rename(parent, name, ino, new_parent, new_name, replaced, flags, uid, hold, time_ns)


def setattr_op(
    ino: int,
    mask: int,
    *,
    mode: int = 0,
    uid: int = 0,
    gid: int = 0,
    size: int = 0,
    atime_ns: int = 0,
    mtime_ns: int = 0,
    time_ns: int = 1000,
) -> Setattr:
    return Setattr(ino, mask, mode, uid, gid, size, atime_ns, mtime_ns, time_ns)


def object_id(number: int) -> bytes:
    return number.to_bytes(16, "big")


def declare(number: int, size: int = 1000) -> DeclareObject:
    return DeclareObject(object_id(number), size, size, 0, b"", b"", bytes(8 * -(-size // SECTOR_BYTES)))


def write(
    ino: int, *extents: tuple[int, int, int, int], size: int = 0, mtime_ns: int = 900, time_ns: int = 1000
) -> Write:
    """Extents as (offset, length, object number, object offset)."""
    made = tuple(ExtentWrite(offset, length, object_id(number), start) for offset, length, number, start in extents)
    return Write(ino, made, size, mtime_ns, time_ns)
