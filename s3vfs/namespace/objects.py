"""OBJECT, CONDEMN and COLLECTED: what the journal knows of the immutable objects in the bucket (R9, R11)."""

from __future__ import annotations

import errno

from msgspec.structs import replace

from s3vfs.namespace.limits import OBJECT_MAX_BYTES
from s3vfs.namespace.ops import Collected, Condemn, DeclareObject
from s3vfs.namespace.rows import SECTOR_BYTES, MutableRows, ObjectRow, object_key
from s3vfs.namespace.verdict import OK, Context, Verdict

_CHECKSUM_BYTES = 8


def declare_object(rows: MutableRows, op: DeclareObject, context: Context) -> Verdict:
    """EINVAL where sizes and checksums do not fit together, EOPNOTSUPP for a codec or key that this version does not
    have, EEXIST for an id that is known: ids are never used twice."""
    if op.codec or op.key_id:
        return Verdict(errno.EOPNOTSUPP)
    sectors = -(-op.size // SECTOR_BYTES)
    if (
        not 0 < op.size <= OBJECT_MAX_BYTES
        or op.stored_size != op.size
        or op.stored_offsets
        or len(op.checksums) != sectors * _CHECKSUM_BYTES
    ):
        return Verdict(errno.EINVAL)
    if rows.txn.get(object_key(op.object)) is not None:
        return Verdict(errno.EEXIST)
    rows.put(
        object_key(op.object),
        ObjectRow(
            size=op.size,
            stored_size=op.stored_size,
            references=0,
            live_bytes=0,
            codec=0,
            key_id=b"",
            stored_offsets=b"",
            checksums=op.checksums,
            born=context.seq,
            condemned=0,
        ),
    )
    return OK


def condemn(rows: MutableRows, op: Condemn, context: Context) -> Verdict:
    """For an object that was declared and never used. ENOENT, EBUSY where something refers to it; twice is fine."""
    row = rows.object(op.object)
    if row is None:
        return Verdict(errno.ENOENT)
    if row.references:
        return Verdict(errno.EBUSY)
    if row.condemned == 0:
        rows.put(object_key(op.object), replace(row, condemned=context.seq))
    return OK


def collected(rows: MutableRows, op: Collected, context: Context) -> Verdict:
    """The key is gone, the row leaves. ENOENT; EBUSY for an object that is not condemned."""
    row = rows.object(op.object)
    if row is None:
        return Verdict(errno.ENOENT)
    if row.condemned == 0:
        return Verdict(errno.EBUSY)
    rows.delete(object_key(op.object))
    return OK
