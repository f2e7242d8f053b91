"""Journal histories for tests of the replica: authors, records that continue a position, plausible random ops."""

from __future__ import annotations

import stat
from collections.abc import Sequence
from random import Random

from s3vfs.journal.record import APPLY_VERSION, Header, Record, decode_record, encode_record
from s3vfs.namespace import ops as o
from s3vfs.namespace.rows import FIRST_INO, ROOT_INO, SECTOR_BYTES, Rows
from s3vfs.namespace.transaction import ReadTransaction
from s3vfs.replica.protocol import Applied, Position, Replica

VOLUME = b"volume-uuid-0001"
NAMES = [b"a", b"b", b"c", b"d"]


def make_record(
    position: Position,
    ops: Sequence[bytes],
    *,
    sid: int = 1,
    incarnation: int = 1,
    volume: bytes = VOLUME,
    seq: int | None = None,
    previous: bytes | None = None,
    digest: bytes | None = None,
) -> Record:
    """The record after `position`, or one that is wrong where the caller says so."""
    header = Header(
        apply_version=APPLY_VERSION,
        features=0,
        volume=volume,
        epoch=0,
        seq=position.seq + 1 if seq is None else seq,
        previous=position.record_hash if previous is None else previous,
        digest=position.digest if digest is None else digest,
        sid=sid,
        incarnation=incarnation,
        batch=bytes(16),
        author_time_ns=0,
        round_trip_us=0,
        losses=0,
        background=False,
    )
    return decode_record(encode_record(header, ops))


class Author:
    """A session that numbers its ops and uses inode numbers from its own block."""

    def __init__(self, sid: int) -> None:
        self.sid = sid
        self.number = 0
        self.next_ino = 0
        self.objects = 0

    def numbered(self, op: o.AnyOp) -> o.NumberedOp:
        self.number += 1
        return o.NumberedOp(self.number, None, op)

    def commit(self, replica: Replica, ops: Sequence[o.AnyOp]) -> Applied:
        return self.commit_numbered(replica, [self.numbered(op) for op in ops])

    def commit_numbered(self, replica: Replica, ops: Sequence[o.NumberedOp]) -> Applied:
        return replica.apply(self.record(replica.position, ops))

    def record(self, position: Position, ops: Sequence[o.NumberedOp]) -> Record:
        return make_record(position, [o.encode_op(op) for op in ops], sid=self.sid)

    def announce(self, replica: Replica) -> None:
        """Join, and take a block of inode numbers."""
        verdicts = self.commit(replica, [o.Announce(f"author {self.sid}"), o.Block(10_000)]).verdicts
        assert [verdict.errno for verdict in verdicts] == [0, 0]
        self.next_ino = verdicts[1].value

    def new_ino(self) -> int:
        self.next_ino += 1
        return self.next_ino - 1

    def new_object(self) -> bytes:
        self.objects += 1
        return self.sid.to_bytes(8) + self.objects.to_bytes(8)


def begin(replica: Replica, *authors: Author, quota_inodes: int = 0) -> None:
    """FORMAT by a command's session, then the authors join."""
    formatter = Author(999)
    ops = [o.Format("v", 0, quota_inodes, 0o755, 0, 0, 1000)]
    assert [verdict.errno for verdict in formatter.commit(replica, ops).verdicts] == [0]
    for author in authors:
        author.announce(replica)


def create(author: Author, name: bytes, *, parent: int = ROOT_INO, kind: int = stat.S_IFREG) -> o.Create:
    return o.Create(parent, name, author.new_ino(), kind | 0o644, 0, 0, 0, b"", 2000)


def random_op(random: Random, txn: ReadTransaction, author: Author) -> list[o.AnyOp]:
    """One or two ops that mostly succeed on the state in `txn`, and sometimes do not."""
    rows = Rows(txn)
    inodes = [int.from_bytes(key[1:]) for key, _ in txn.range(b"I", b"J")]
    directories = [ino for ino in inodes if stat.S_ISDIR(_mode(rows, ino))] or [ROOT_INO]
    files = [ino for ino in inodes if stat.S_ISREG(_mode(rows, ino))] or [FIRST_INO]
    parent, name = random.choice(directories), random.choice(NAMES)
    time_ns = random.randrange(10**6)
    found = rows.dentry(parent, name)
    ino = found.ino if found else random.choice(files)
    kind = random.choice(
        ["create", "create", "mkdir", "remove", "rename", "link", "write", "write", "setattr", "xattr"]
    )
    if kind in ("create", "mkdir"):
        return [create(author, name, parent=parent, kind=stat.S_IFDIR if kind == "mkdir" else stat.S_IFREG)]
    if kind == "remove":
        if found and found.kind == stat.S_IFDIR >> 12:
            return [o.Rmdir(parent, name, ino, 0, time_ns)]
        return [o.Unlink(parent, name, ino, 0, random.random() < 0.2, time_ns)]
    if kind == "rename":
        new_parent, new_name = random.choice(directories), random.choice(NAMES)
        seen = rows.dentry(new_parent, new_name)
        flags = random.choice([0, 0, 0, o.RENAME_EXCHANGE])
        return [o.Rename(parent, name, ino, new_parent, new_name, seen.ino if seen else 0, flags, 0, False, time_ns)]
    if kind == "link":
        return [o.Link(random.choice(files), parent, name, time_ns)]
    if kind == "setattr":
        mask = random.choice([o.SetattrMask.MODE, o.SetattrMask.SIZE, o.SetattrMask.MTIME])
        return [o.Setattr(random.choice(files), mask, 0o600, 0, 0, random.randrange(300_000), 0, time_ns, time_ns)]
    if kind == "xattr":
        return [o.Setxattr(random.choice(inodes or [ROOT_INO]), b"user.x", bytes(random.randrange(20)), 0, time_ns)]
    size, object_id = random.randrange(1, 400_000), author.new_object()
    checksums = bytes(8 * -(-size // SECTOR_BYTES))
    offset = random.randrange(500_000)
    extent = o.ExtentWrite(offset, size, object_id, 0)
    return [
        o.DeclareObject(object_id, size, size, 0, b"", b"", checksums),
        o.Write(random.choice(files), (extent,), offset + size, time_ns, time_ns),
    ]


def _mode(rows: Rows, ino: int) -> int:
    inode = rows.inode(ino)
    return inode.mode if inode else 0


def all_rows(replica: Replica) -> list[tuple[bytes, bytes]]:
    with replica.snapshot() as snapshot:
        return list(snapshot.rows)
