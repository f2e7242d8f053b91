"""The ops: every conditional metadata change that a record can carry (docs/format.md, section 5).

Wire form of an op: a msgpack array `[code, fields...]`, in the order of the fields here; in a record it stands inside
a `NumberedOp`. This module knows shapes only; what an op does is decided in apply.
"""

from __future__ import annotations

from typing import Annotated, get_args

import msgspec

Unsigned = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
# Of files, as their owners set them: nanoseconds since 1970, before it negative.
Time = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
ObjectId = Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
Lease = tuple[Unsigned, Unsigned]  # seq and index of the GRANT


class SetattrMask:
    """Bits of SETATTR's mask."""

    MODE = 1
    UID = 2
    GID = 4
    SIZE = 8
    ATIME = 16
    MTIME = 32
    # As when somebody writes: setuid, setgid where the group may execute, and file capabilities go.
    PRIVILEGES = 64
    SETGID = 128  # setgid goes in any case: the author is not in the file's group


RENAME_NOREPLACE = 1  # numbers of renameat2(2)
RENAME_EXCHANGE = 2
XATTR_CREATE = 1  # numbers of setxattr(2)
XATTR_REPLACE = 2
XATTR_DROP_SETGID = 4  # with an access ACL: its author may not keep setgid


class Op(msgspec.Struct, array_like=True, frozen=True):
    """What all ops share: nothing but being an op."""


class Create(Op, tag=1, frozen=True):
    """A new inode of any kind under a name that its author saw absent. `umask` counts where the directory has no
    default ACL."""

    parent: Unsigned
    name: bytes
    ino: Unsigned
    mode: Unsigned
    uid: Unsigned
    gid: Unsigned
    rdev: Unsigned
    target: bytes
    time_ns: Unsigned
    umask: Unsigned = 0


class Link(Op, tag=2, frozen=True):
    ino: Unsigned
    parent: Unsigned
    name: bytes
    time_ns: Unsigned


class Unlink(Op, tag=3, frozen=True):
    parent: Unsigned
    name: bytes
    ino: Unsigned
    uid: Unsigned
    hold: bool
    time_ns: Unsigned


class Rmdir(Op, tag=4, frozen=True):
    parent: Unsigned
    name: bytes
    ino: Unsigned
    uid: Unsigned
    time_ns: Unsigned


class Rename(Op, tag=5, frozen=True):
    """`replaced` is the inode that the author saw under the new name, 0 for none."""

    parent: Unsigned
    name: bytes
    ino: Unsigned
    new_parent: Unsigned
    new_name: bytes
    replaced: Unsigned
    flags: Unsigned
    uid: Unsigned
    hold: bool
    time_ns: Unsigned


class Setattr(Op, tag=6, frozen=True):
    """Only what `mask` names is changed."""

    ino: Unsigned
    mask: Unsigned
    mode: Unsigned
    uid: Unsigned
    gid: Unsigned
    size: Unsigned
    atime_ns: Time
    mtime_ns: Time
    time_ns: Unsigned


class ExtentWrite(msgspec.Struct, array_like=True, frozen=True):
    """`length` bytes at file `offset`, found at `object_offset` of `object`."""

    offset: Unsigned
    length: Unsigned
    object: ObjectId
    object_offset: Unsigned


class Write(Op, tag=7, frozen=True):
    ino: Unsigned
    extents: tuple[ExtentWrite, ...]
    size: Unsigned
    mtime_ns: Time
    time_ns: Unsigned


class Append(Op, tag=8, frozen=True):
    """Placed at the end of the file as it is when the op is applied; the verdict's value is the offset."""

    ino: Unsigned
    length: Unsigned
    object: ObjectId
    object_offset: Unsigned
    mtime_ns: Time
    time_ns: Unsigned


class Punch(Op, tag=9, frozen=True):
    ino: Unsigned
    offset: Unsigned
    length: Unsigned
    time_ns: Unsigned


class Clone(Op, tag=10, frozen=True):
    source: Unsigned
    source_offset: Unsigned
    length: Unsigned
    ino: Unsigned
    offset: Unsigned
    source_version: Unsigned
    time_ns: Unsigned


class Setxattr(Op, tag=11, frozen=True):
    ino: Unsigned
    name: bytes
    value: bytes
    flags: Unsigned
    time_ns: Unsigned


class Removexattr(Op, tag=12, frozen=True):
    ino: Unsigned
    name: bytes
    time_ns: Unsigned


class DeclareObject(Op, tag=20, frozen=True):
    """An object that is in the bucket (R9). `checksums`: xxh3 of each 256 KiB sector, 8 bytes each."""

    object: ObjectId
    size: Unsigned
    stored_size: Unsigned
    codec: Unsigned
    key_id: bytes
    stored_offsets: bytes
    checksums: bytes


class Condemn(Op, tag=21, frozen=True):
    object: ObjectId


class Collected(Op, tag=22, frozen=True):
    object: ObjectId


class Repoint(Op, tag=23, frozen=True):
    ino: Unsigned
    offset: Unsigned
    length: Unsigned
    object: ObjectId
    object_offset: Unsigned
    new_object: ObjectId
    new_object_offset: Unsigned


class Format(Op, tag=30, frozen=True):
    name: str
    quota_bytes: Unsigned
    quota_inodes: Unsigned
    mode: Unsigned
    uid: Unsigned
    gid: Unsigned
    time_ns: Unsigned


class Announce(Op, tag=31, frozen=True):
    label: str


class Resume(Op, tag=32, frozen=True):
    expected: Unsigned


class End(Op, tag=33, frozen=True):
    pass


class Beat(Op, tag=34, frozen=True):
    pass


class Challenge(Op, tag=35, frozen=True):
    sid: Unsigned


class Evict(Op, tag=36, frozen=True):
    sid: Unsigned
    challenge: Unsigned


class Block(Op, tag=37, frozen=True):
    count: Unsigned


class Config(Op, tag=38, frozen=True):
    name: str | None
    quota_bytes: Unsigned | None
    quota_inodes: Unsigned | None


class Feature(Op, tag=39, frozen=True):
    bit: Unsigned


class Grant(Op, tag=40, frozen=True):
    directories: tuple[Unsigned, ...]


class Recall(Op, tag=41, frozen=True):
    seq: Unsigned
    index: Unsigned


class Busy(Op, tag=42, frozen=True):
    seq: Unsigned
    index: Unsigned


class Release(Op, tag=43, frozen=True):
    seq: Unsigned
    index: Unsigned


class Revoke(Op, tag=44, frozen=True):
    seq: Unsigned
    index: Unsigned
    recall_seq: Unsigned
    recall_index: Unsigned


class Lock(Op, tag=50, frozen=True):
    ino: Unsigned
    owner: Unsigned
    start: Unsigned
    end: Unsigned
    kind: Unsigned
    wait: bool


class Unlock(Op, tag=51, frozen=True):
    ino: Unsigned
    owner: Unsigned
    start: Unsigned
    end: Unsigned
    kind: Unsigned


class Cancel(Op, tag=52, frozen=True):
    ino: Unsigned
    seq: Unsigned
    index: Unsigned


class Hold(Op, tag=60, frozen=True):
    ino: Unsigned


class Drop(Op, tag=61, frozen=True):
    ino: Unsigned


class Reap(Op, tag=62, frozen=True):
    ino: Unsigned


class Snapshot(Op, tag=70, frozen=True):
    name: bytes
    time_ns: Unsigned


class SnapshotReady(Op, tag=71, frozen=True):
    name: bytes
    checkpoint: bytes


class Unsnapshot(Op, tag=72, frozen=True):
    name: bytes


class Seal(Op, tag=73, frozen=True):
    kind: str
    epoch: Unsigned
    parameters: bytes


AnyOp = (
    Create
    | Link
    | Unlink
    | Rmdir
    | Rename
    | Setattr
    | Write
    | Append
    | Punch
    | Clone
    | Setxattr
    | Removexattr
    | DeclareObject
    | Condemn
    | Collected
    | Repoint
    | Format
    | Announce
    | Resume
    | End
    | Beat
    | Challenge
    | Evict
    | Block
    | Config
    | Feature
    | Grant
    | Recall
    | Busy
    | Release
    | Revoke
    | Lock
    | Unlock
    | Cancel
    | Hold
    | Drop
    | Reap
    | Snapshot
    | SnapshotReady
    | Unsnapshot
    | Seal
)


class NumberedOp(msgspec.Struct, array_like=True, frozen=True):
    """An op as a record carries it. `number` counts within (sid, incarnation), from 1, strictly growing; `lease` is the
    grant that the author relied on, if any."""

    number: Unsigned
    lease: Lease | None
    op: AnyOp


def inodes_of(op: AnyOp) -> list[int]:
    """The inodes that an op names."""
    return [ino for name in _INODE_FIELDS[type(op)] if (ino := getattr(op, name))]


_INODE_FIELDS = {
    kind: tuple(
        name for name in ("parent", "new_parent", "ino", "replaced", "source") if name in kind.__struct_fields__
    )
    for kind in get_args(AnyOp)
}
_decoder = msgspec.msgpack.Decoder(NumberedOp)
_encoder = msgspec.msgpack.Encoder()


def encode_op(op: NumberedOp) -> bytes:
    """The wire form."""
    return _encoder.encode(op)


def decode_op(raw: bytes | msgspec.Raw) -> NumberedOp | None:
    """The op, or None where the bytes are not one that this version knows: such an op gets EINVAL (R3)."""
    try:
        return _decoder.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):  # msgspec lets bad UTF-8 through as it is
        return None
