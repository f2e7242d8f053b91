"""Keys and values of the rows that base is made of, and typed access to them (docs/format.md, section 4).

`Rows` reads through any ReadTransaction, `MutableRows` writes through any Transaction. They keep no state and decide
nothing: rules live in apply.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from s3vfs.namespace.transaction import ReadTransaction, Transaction

ROOT_INO = 1
FIRST_INO = 16
SECTOR_BYTES = 256 * 1024
MAX_U64 = 2**64 - 1

_U64 = struct.Struct(">Q")
_TWO_U64 = struct.Struct(">QQ")
_FOUR_U64 = struct.Struct(">QQQQ")
_PLACE = struct.Struct(">QQI")
_LEASE = struct.Struct(">QI")
_LEASE_AND_U64 = struct.Struct(">QIQ")

LeaseId = tuple[int, int]  # seq and index of the GRANT; the index has four bytes in a key


class Volume(msgspec.Struct, array_like=True, frozen=True):
    name: str
    quota_bytes: int
    quota_inodes: int
    features: int
    epoch: int
    next_ino: int


class Usage(msgspec.Struct, array_like=True, frozen=True):
    bytes: int
    inodes: int


class Dentry(msgspec.Struct, array_like=True, frozen=True):
    """`kind` is st_mode >> 12."""

    ino: int
    kind: int


class Inode(msgspec.Struct, array_like=True, frozen=True):
    """Times in ns; `allocated` is the sum of extent lengths in bytes; `version` counts content changes."""

    mode: int
    uid: int
    gid: int
    nlink: int
    size: int
    allocated: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    btime_ns: int
    rdev: int
    version: int
    xattrs: int
    target: bytes


class Extent(msgspec.Struct, array_like=True, frozen=True):
    length: int
    object: bytes
    object_offset: int


class ObjectRow(msgspec.Struct, array_like=True, frozen=True):
    size: int
    stored_size: int
    references: int
    live_bytes: int
    codec: int
    key_id: bytes
    stored_offsets: bytes
    checksums: bytes
    born: int
    condemned: int


class Reference(msgspec.Struct, array_like=True, frozen=True):
    length: int
    object_offset: int


class SessionRow(msgspec.Struct, array_like=True, frozen=True):
    """`blocks`: inode numbers still free for this session, as [next, end). `challenge`: seq of its last CHALLENGE,
    0 for none."""

    incarnation: int
    last_op: int
    blocks: tuple[tuple[int, int], ...]
    born: int
    last_seq: int
    label: str
    challenge: int


class Orphan(msgspec.Struct, array_like=True, frozen=True):
    seq: int


class LockRow(msgspec.Struct, array_like=True, frozen=True):
    """Bytes up to `end`, inclusive. `kind`: see namespace.locks. `seq`, `index`: the LOCK that it was granted for."""

    end: int
    kind: int
    seq: int
    index: int


@dataclass(frozen=True, slots=True)
class HeldLock:
    """A LockRow and what its key says."""

    sid: int
    owner: int
    start: int
    end: int
    kind: int
    seq: int
    index: int


class WaitRow(msgspec.Struct, array_like=True, frozen=True):
    """A LOCK that waits. `passed`: how many later ones have overtaken it for the sake of their session."""

    sid: int
    owner: int
    start: int
    end: int
    kind: int
    passed: int


@dataclass(frozen=True, slots=True)
class Waiting:
    """A WaitRow and what its key says."""

    ino: int
    seq: int
    index: int
    row: WaitRow


class GrantRow(msgspec.Struct, array_like=True, frozen=True):
    """A live lease. `root`: the first directory that was asked for; `directories`: how many it covers now."""

    sid: int
    incarnation: int
    root: int
    directories: int


class CoverRow(msgspec.Struct, array_like=True, frozen=True):
    """The lease that a directory is covered by."""

    seq: int
    index: int


class RecallRow(msgspec.Struct, array_like=True, frozen=True):
    """Somebody wants the lease back. `seq`, `index`: the RECALL, or the latest BUSY; `busy`: the seq of that, or 0. Not
    in the GrantRow, so that a recall concerns none of the ops that rely on the lease."""

    seq: int
    index: int
    busy: int


class SnapshotRow(msgspec.Struct, array_like=True, frozen=True):
    seq: int
    checkpoint: bytes
    created_ns: int


VOLUME_KEY = b"V"
USAGE_KEY = b"Z"


def dentry_key(parent: int, name: bytes) -> bytes:
    return b"D" + _U64.pack(parent) + name


def inode_key(ino: int) -> bytes:
    return b"I" + _U64.pack(ino)


def link_key(ino: int, parent: int, name: bytes) -> bytes:
    return b"P" + _TWO_U64.pack(ino, parent) + name


def extent_key(ino: int, offset: int) -> bytes:
    return b"X" + _TWO_U64.pack(ino, offset)


def xattr_key(ino: int, name: bytes) -> bytes:
    return b"A" + _U64.pack(ino) + name


def object_key(object_id: bytes) -> bytes:
    return b"O" + object_id


def reference_key(object_id: bytes, ino: int, offset: int) -> bytes:
    return b"R" + object_id + _TWO_U64.pack(ino, offset)


def session_key(sid: int) -> bytes:
    return b"S" + _U64.pack(sid)


def orphan_key(ino: int) -> bytes:
    return b"U" + _U64.pack(ino)


def hold_key(ino: int, sid: int) -> bytes:
    return b"H" + _TWO_U64.pack(ino, sid)


def held_key(sid: int, ino: int) -> bytes:
    return b"h" + _TWO_U64.pack(sid, ino)


def lock_key(ino: int, sid: int, owner: int, start: int) -> bytes:
    return b"K" + _FOUR_U64.pack(ino, sid, owner, start)


def wait_key(ino: int, seq: int, index: int) -> bytes:
    return b"W" + _PLACE.pack(ino, seq, index)


def grant_key(lease: LeaseId) -> bytes:
    return b"G" + _LEASE.pack(*lease)


def granted_key(lease: LeaseId, directory: int) -> bytes:
    return b"g" + _LEASE_AND_U64.pack(*lease, directory)


def cover_key(directory: int) -> bytes:
    return b"L" + _U64.pack(directory)


def session_lease_key(sid: int, lease: LeaseId) -> bytes:
    return b"l" + _PLACE.pack(sid, *lease)


def recall_key(lease: LeaseId) -> bytes:
    return b"C" + _LEASE.pack(*lease)


def snapshot_key(name: bytes) -> bytes:
    return b"N" + name


def prefix_end(prefix: bytes) -> bytes:
    """The first key after all keys that begin with `prefix`. The prefix may not be all 0xff."""
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes([stem[-1] + 1])


_encoder = msgspec.msgpack.Encoder()
encode_row = _encoder.encode
_Row = TypeVar("_Row", bound=msgspec.Struct)

_volume = msgspec.msgpack.Decoder(Volume)
decode_volume = _volume.decode
_usage = msgspec.msgpack.Decoder(Usage)
_dentry = msgspec.msgpack.Decoder(Dentry)
_inode = msgspec.msgpack.Decoder(Inode)
decode_inode = _inode.decode
_extent = msgspec.msgpack.Decoder(Extent)
_object = msgspec.msgpack.Decoder(ObjectRow)
_reference = msgspec.msgpack.Decoder(Reference)
_session = msgspec.msgpack.Decoder(SessionRow)
_orphan = msgspec.msgpack.Decoder(Orphan)
_lock = msgspec.msgpack.Decoder(LockRow)
_wait = msgspec.msgpack.Decoder(WaitRow)
_grant = msgspec.msgpack.Decoder(GrantRow)
_cover = msgspec.msgpack.Decoder(CoverRow)
_recall = msgspec.msgpack.Decoder(RecallRow)
_snapshot = msgspec.msgpack.Decoder(SnapshotRow)


class Rows:
    """Typed reading. Absent rows are None; ranges yield in key order."""

    __slots__ = ("txn",)

    def __init__(self, txn: ReadTransaction) -> None:
        self.txn = txn

    def _one(self, decoder: msgspec.msgpack.Decoder[_Row], key: bytes) -> _Row | None:
        value = self.txn.get(key)
        return None if value is None else decoder.decode(value)

    def volume(self) -> Volume | None:
        return self._one(_volume, VOLUME_KEY)

    def usage(self) -> Usage:
        return self._one(_usage, USAGE_KEY) or Usage(0, 0)

    def dentry(self, parent: int, name: bytes) -> Dentry | None:
        return self._one(_dentry, dentry_key(parent, name))

    def entries(self, parent: int, after: bytes | None = None) -> Iterator[tuple[bytes, Dentry]]:
        """Entries of a directory by name, from the first one after `after`."""
        prefix = b"D" + _U64.pack(parent)
        first = prefix if after is None else prefix + after + b"\0"
        for key, value in self.txn.range(first, prefix_end(prefix)):
            yield key[9:], _dentry.decode(value)

    def inode(self, ino: int) -> Inode | None:
        value = self.txn.get(b"I" + _U64.pack(ino))  # the row that is read most: at the price of one call
        return None if value is None else decode_inode(value)

    def links(self, ino: int) -> Iterator[tuple[int, bytes]]:
        """(parent, name) of every link."""
        prefix = b"P" + _U64.pack(ino)
        for key, _ in self.txn.range(prefix, prefix_end(prefix)):
            yield _U64.unpack_from(key, 9)[0], key[17:]

    def extents(self, ino: int, start: int = 0, end: int = 2**63 - 1) -> Iterator[tuple[int, Extent]]:
        """(offset, extent) of all extents that overlap [start, end), untrimmed, by offset."""
        prefix = b"X" + _U64.pack(ino)
        if start > 0:
            for key, value in self.txn.range(prefix, extent_key(ino, start), reverse=True):
                offset = _U64.unpack_from(key, 9)[0]
                extent = _extent.decode(value)
                if offset + extent.length > start:
                    yield offset, extent
                break
        for key, value in self.txn.range(extent_key(ino, start), extent_key(ino, end)):
            yield _U64.unpack_from(key, 9)[0], _extent.decode(value)

    def xattr(self, ino: int, name: bytes) -> bytes | None:
        return self.txn.get(xattr_key(ino, name))

    def xattr_names(self, ino: int) -> Iterator[bytes]:
        prefix = b"A" + _U64.pack(ino)
        for key, _ in self.txn.range(prefix, prefix_end(prefix)):
            yield key[9:]

    def object(self, object_id: bytes) -> ObjectRow | None:
        return self._one(_object, object_key(object_id))

    def references(self, object_id: bytes) -> Iterator[tuple[int, int, Reference]]:
        """(ino, offset, reference) of every extent that points into the object."""
        prefix = b"R" + object_id
        for key, value in self.txn.range(prefix, prefix_end(prefix)):
            ino, offset = _TWO_U64.unpack_from(key, 17)
            yield ino, offset, _reference.decode(value)

    def session(self, sid: int) -> SessionRow | None:
        return self._one(_session, session_key(sid))

    def sessions(self) -> Iterator[tuple[int, SessionRow]]:
        for key, value in self.txn.range(b"S", b"T"):
            yield _U64.unpack_from(key, 1)[0], _session.decode(value)

    def orphan(self, ino: int) -> Orphan | None:
        return self._one(_orphan, orphan_key(ino))

    def orphans(self) -> Iterator[tuple[int, Orphan]]:
        for key, value in self.txn.range(b"U", b"V"):
            yield _U64.unpack_from(key, 1)[0], _orphan.decode(value)

    def holders(self, ino: int) -> Iterator[int]:
        """sids of the sessions that hold the orphan."""
        prefix = b"H" + _U64.pack(ino)
        for key, _ in self.txn.range(prefix, prefix_end(prefix)):
            yield _U64.unpack_from(key, 9)[0]

    def held(self, sid: int) -> Iterator[int]:
        """Inodes that the session holds."""
        prefix = b"h" + _U64.pack(sid)
        for key, _ in self.txn.range(prefix, prefix_end(prefix)):
            yield _U64.unpack_from(key, 9)[0]

    def locks(self, ino: int) -> Iterator[HeldLock]:
        """All locks of an inode, by session, owner and start."""
        for _, held in self._locks(b"K" + _U64.pack(ino)):
            yield held

    def locks_of(self, ino: int, sid: int, owner: int) -> list[HeldLock]:
        return [held for _, held in self._locks(b"K" + _U64.pack(ino) + _TWO_U64.pack(sid, owner))]

    def all_locks(self) -> Iterator[tuple[int, HeldLock]]:
        """(inode, lock) of all locks on the volume."""
        return self._locks(b"K")

    def _locks(self, prefix: bytes) -> Iterator[tuple[int, HeldLock]]:
        for key, value in self.txn.range(prefix, prefix_end(prefix)):
            ino, sid, owner, start = _FOUR_U64.unpack_from(key, 1)
            row = _lock.decode(value)
            yield ino, HeldLock(sid, owner, start, row.end, row.kind, row.seq, row.index)

    def wait(self, ino: int, seq: int, index: int) -> WaitRow | None:
        return self._one(_wait, wait_key(ino, seq, index))

    def waits(self, ino: int) -> Iterator[Waiting]:
        """Requests that wait for locks on an inode, in the order in which they came."""
        return self._waits(b"W" + _U64.pack(ino))

    def all_waits(self) -> Iterator[Waiting]:
        """All on the volume, by inode and then in their order."""
        return self._waits(b"W")

    def _waits(self, prefix: bytes) -> Iterator[Waiting]:
        for key, value in self.txn.range(prefix, prefix_end(prefix)):
            ino, seq, index = _PLACE.unpack_from(key, 1)
            yield Waiting(ino, seq, index, _wait.decode(value))

    def grant(self, lease: LeaseId) -> GrantRow | None:
        return self._one(_grant, grant_key(lease))

    def grants(self) -> Iterator[tuple[LeaseId, GrantRow]]:
        """All live leases of the volume, oldest first."""
        for key, value in self.txn.range(b"G", b"H"):
            yield _LEASE.unpack_from(key, 1), _grant.decode(value)

    def cover(self, directory: int) -> CoverRow | None:
        return self._one(_cover, cover_key(directory))

    def covers(self) -> Iterator[tuple[int, CoverRow]]:
        """(directory, its lease) of all covered directories of the volume."""
        for key, value in self.txn.range(b"L", b"M"):
            yield _U64.unpack_from(key, 1)[0], _cover.decode(value)

    def directories(self, lease: LeaseId) -> Iterator[int]:
        """Directories that the lease covers."""
        prefix = b"g" + _LEASE.pack(*lease)
        for key, _ in self.txn.range(prefix, prefix_end(prefix)):
            yield _U64.unpack_from(key, 13)[0]

    def leases(self, sid: int) -> Iterator[LeaseId]:
        """Live leases of a session, oldest first."""
        prefix = b"l" + _U64.pack(sid)
        for key, _ in self.txn.range(prefix, prefix_end(prefix)):
            yield _LEASE.unpack_from(key, 9)

    def recall(self, lease: LeaseId) -> RecallRow | None:
        return self._one(_recall, recall_key(lease))

    def snapshots(self) -> Iterator[tuple[bytes, SnapshotRow]]:
        for key, value in self.txn.range(b"N", b"O"):
            yield key[1:], _snapshot.decode(value)


class MutableRows(Rows):
    """Typed reading and writing through one Transaction. `put` takes a key made by the functions above."""

    __slots__ = ()
    txn: Transaction

    def __init__(self, txn: Transaction) -> None:
        super().__init__(txn)

    def put(self, key: bytes, row: msgspec.Struct) -> None:
        self.txn.put(key, encode_row(row))

    def delete(self, key: bytes) -> None:
        self.txn.delete(key)
