"""`apply`: what one record does to the rows. Every client runs it over every record, in order, with equal results.

Pure and total (R3): no I/O, no clock, no randomness, and for every op a verdict. The one exception that leaves it is
UnknownFeature, where a newer program's rules begin; the caller then drops its transaction and stops at that record.
Knows rows and ops; not what a journal, a bucket or LMDB is.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgspec
from msgspec.structs import replace

from s3vfs.errors import UnknownFeature
from s3vfs.namespace import (
    attributes,
    contents,
    leases,
    leasing,
    locks,
    names,
    objects,
    ops,
    orphans,
    renames,
    sessions,
)
from s3vfs.namespace.features import KNOWN_FEATURES, LEASES, LOCKS
from s3vfs.namespace.rows import MutableRows, SessionRow, session_key
from s3vfs.namespace.transaction import Transaction
from s3vfs.namespace.verdict import DUPLICATE, FENCED, Context, Verdict

_Handler = Callable[[MutableRows, Any, Context], Verdict]


class RecordHeader(Protocol):
    """The three fields of a record's header that decide what its ops may do."""

    @property
    def seq(self) -> int: ...

    @property
    def sid(self) -> int: ...

    @property
    def incarnation(self) -> int: ...


def _later_feature(rows: MutableRows, op: ops.Op, context: Context) -> Verdict:
    """Snapshots, seal, rewritten packs: their bits are off, since this version knows none of them."""
    return Verdict(errno.EOPNOTSUPP)


def _with_feature(bit: int, handler: _Handler) -> _Handler:
    """EOPNOTSUPP until FEATURE has switched the bit on."""

    def switched(rows: MutableRows, op: Any, context: Context) -> Verdict:
        volume = rows.volume()
        on = volume is not None and volume.features >> bit & 1
        return handler(rows, op, context) if on else Verdict(errno.EOPNOTSUPP)

    return switched


_LATER = (
    *(ops.Snapshot, ops.SnapshotReady, ops.Unsnapshot),
    *(ops.Seal, ops.Repoint),
)

_HANDLERS: dict[type[ops.Op], _Handler] = {
    ops.Create: names.create,
    ops.Link: names.link,
    ops.Unlink: names.unlink,
    ops.Rmdir: names.rmdir,
    ops.Rename: renames.rename,
    ops.Setattr: attributes.setattr,
    ops.Write: contents.write,
    ops.Append: contents.append,
    ops.Punch: contents.punch,
    ops.Clone: contents.clone,
    ops.Setxattr: attributes.setxattr,
    ops.Removexattr: attributes.removexattr,
    ops.DeclareObject: objects.declare_object,
    ops.Condemn: objects.condemn,
    ops.Collected: objects.collected,
    ops.Format: sessions.format_volume,
    ops.Announce: sessions.announce,
    ops.Resume: sessions.resume,
    ops.End: sessions.end,
    ops.Beat: sessions.beat,
    ops.Challenge: sessions.challenge,
    ops.Evict: sessions.evict,
    ops.Block: sessions.block,
    ops.Config: sessions.config,
    ops.Feature: sessions.feature,
    ops.Grant: _with_feature(LEASES, leasing.grant),
    ops.Recall: _with_feature(LEASES, leasing.recall),
    ops.Busy: _with_feature(LEASES, leasing.busy),
    ops.Release: _with_feature(LEASES, leasing.release),
    ops.Revoke: _with_feature(LEASES, leasing.revoke),
    ops.Lock: _with_feature(LOCKS, locks.lock),
    ops.Unlock: _with_feature(LOCKS, locks.unlock),
    ops.Cancel: _with_feature(LOCKS, locks.cancel),
    ops.Hold: orphans.hold,
    ops.Drop: orphans.drop,
    ops.Reap: orphans.reap,
    **dict.fromkeys(_LATER, _later_feature),
}

_ENTERING = (ops.Announce, ops.Resume)


def apply_op(txn: Transaction, numbered: ops.NumberedOp, context: Context, *, rivals: bool = True) -> Verdict:
    """Apply one op, or refuse it and change nothing. Neither the op's number nor whether its session is live is looked
    at: that is `apply_record`'s. R6 comes before the op's own checks: ESTALE for a lease that is named but not its
    session's, COVERED for what another session's lease covers. Not `rivals`: the caller knows that the op touches
    nothing of the latter kind. Raises UnknownFeature for FEATURE with a bit that this program lacks."""
    rows, op = MutableRows(txn), numbered.op
    refused = leases.refusal(rows, numbered.lease, op if rivals else None, context.sid)
    return Verdict(refused) if refused else _HANDLERS[type(op)](rows, op, context)


def apply_record(txn: Transaction, header: RecordHeader, raw_ops: Sequence[bytes | msgspec.Raw]) -> list[Verdict]:
    """Apply a record's ops in order, each on what those before it left; one verdict for each.

    An op of a session that is not live, or of another incarnation, gets ESHUTDOWN; one whose number has been passed
    gets EALREADY; bytes that are no op get EINVAL. Every other op moves the session's `last_op`, whatever its verdict.
    Raises UnknownFeature, after which `txn` must be dropped."""
    rows = MutableRows(txn)
    volume = rows.volume()
    if volume is not None and volume.features & ~KNOWN_FEATURES:
        raise UnknownFeature(f"the volume has features {volume.features:#x} switched on", hint=sessions.UPDATE_HINT)
    sid, incarnation = header.sid, header.incarnation
    possible = sessions.is_identity(sid, incarnation)
    session = _live(rows, sid, incarnation) if possible else None
    last_op = None if session is None else session.last_op  # None: not live
    rivals = leases.has_rivals(rows, sid)  # ops of this record give leases to no other session
    verdicts: list[Verdict] = []
    for index, raw in enumerate(raw_ops):
        numbered = ops.decode_op(raw)
        if numbered is None:
            verdicts.append(Verdict(errno.EINVAL))
            continue
        op, context = numbered.op, Context(header.seq, index, sid, incarnation)
        entering = possible and isinstance(op, _ENTERING)
        if last_op is None and not entering and not isinstance(op, ops.Format):
            verdict = Verdict(FENCED)
        elif last_op is not None and numbered.number <= last_op:
            verdict = Verdict(DUPLICATE)
        else:
            verdict = apply_op(txn, numbered, context, rivals=rivals)
            if last_op is not None or (entering and verdict.errno == 0):
                last_op = None if isinstance(op, ops.End) and verdict.errno == 0 else numbered.number
        verdicts.append(verdict)
    if last_op is not None:
        session = _live(rows, sid, incarnation)
        if session is not None:
            rows.put(session_key(sid), replace(session, last_op=last_op, last_seq=header.seq))
    return verdicts


def _live(rows: MutableRows, sid: int, incarnation: int) -> SessionRow | None:
    session = rows.session(sid)
    return session if session is not None and session.incarnation == incarnation else None
