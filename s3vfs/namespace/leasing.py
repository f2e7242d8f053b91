"""GRANT, RECALL, BUSY, RELEASE, REVOKE: how leases come, are asked back, and go; and how directories come under them.

A lease is a G row, with an l row by session, and for each directory an L row and a g row; while somebody wants it back
there is a C row. What it covers, and that nobody else changes that, is in `leases`. Who waits how long before a REVOKE
is the session's: here is only that it names the RECALL that stands, which every BUSY moves.
"""

from __future__ import annotations

import errno
import stat
from itertools import islice

from msgspec.structs import replace

from s3vfs.namespace.leases import grant as find
from s3vfs.namespace.leases import lease_of_directory
from s3vfs.namespace.limits import DIRECTORIES_PER_GRANT, DIRECTORIES_PER_LEASE, LEASES_PER_SESSION
from s3vfs.namespace.ops import Busy, Grant, Recall, Release, Revoke
from s3vfs.namespace.rows import (
    CoverRow,
    GrantRow,
    LeaseId,
    MutableRows,
    RecallRow,
    Rows,
    cover_key,
    grant_key,
    granted_key,
    recall_key,
    session_lease_key,
)
from s3vfs.namespace.verdict import OK, STALE, Context, Verdict


def grant(rows: MutableRows, op: Grant, context: Context) -> Verdict:
    """One lease on all these directories, or none. EINVAL: no directory, too many, or one twice. ENOENT, ENOTDIR.
    EBUSY: another session's lease covers one; EEXIST: an own one does. ENOLCK: the session has too many leases."""
    directories = op.directories
    if not 0 < len(directories) <= DIRECTORIES_PER_GRANT or len(set(directories)) < len(directories):
        return Verdict(errno.EINVAL)
    for directory in directories:
        bad = _directory_error(rows, directory, context.sid)
        if bad:
            return Verdict(bad)
    if sum(1 for _ in islice(rows.leases(context.sid), LEASES_PER_SESSION)) == LEASES_PER_SESSION:
        return Verdict(errno.ENOLCK)
    lease = (context.seq, context.index)
    rows.put(grant_key(lease), GrantRow(context.sid, context.incarnation, directories[0], len(directories)))
    rows.txn.put(session_lease_key(context.sid, lease), b"")
    for directory in directories:
        _put_cover(rows, lease, directory)
    return OK


def recall(rows: MutableRows, op: Recall, context: Context) -> Verdict:
    """Ask the holder to give the lease back. Where somebody has asked already nothing changes: the first RECALL stands.
    ESRCH: no such lease any more. EINVAL: it is the author's own, who may just RELEASE it."""
    lease = (op.seq, op.index)
    row = find(rows, lease)
    if row is None or row.sid == context.sid:
        return Verdict(errno.ESRCH if row is None else errno.EINVAL)
    if rows.recall(lease) is None:
        rows.put(recall_key(lease), RecallRow(context.seq, context.index, 0))
    return OK


def busy(rows: MutableRows, op: Busy, context: Context) -> Verdict:
    """The holder is still at work on a RECALL. It takes that one's place, so that a REVOKE that has not seen it is
    refused. ESRCH; EPERM: another session's lease; EINVAL: nobody has asked for it."""
    lease = (op.seq, op.index)
    row = find(rows, lease)
    if row is None or row.sid != context.sid:
        return Verdict(errno.ESRCH if row is None else errno.EPERM)
    if rows.recall(lease) is None:
        return Verdict(errno.EINVAL)
    rows.put(recall_key(lease), RecallRow(context.seq, context.index, context.seq))
    return OK


def release(rows: MutableRows, op: Release, context: Context) -> Verdict:
    """The holder gives the lease back, asked or not. ESRCH; EPERM: another session's."""
    lease = (op.seq, op.index)
    row = find(rows, lease)
    if row is None or row.sid != context.sid:
        return Verdict(errno.ESRCH if row is None else errno.EPERM)
    _remove(rows, lease, row)
    return OK


def revoke(rows: MutableRows, op: Revoke, context: Context) -> Verdict:
    """The holder has not answered the RECALL that stands, which has to be in an earlier record; from here on what it
    commits under the lease is refused (R6). ESRCH; EPERM: the author's own lease; ESTALE: another RECALL stands, or
    none, or a BUSY."""
    lease = (op.seq, op.index)
    row = find(rows, lease)
    if row is None or row.sid == context.sid:
        return Verdict(errno.ESRCH if row is None else errno.EPERM)
    standing = rows.recall(lease)
    if standing is None or (standing.seq, standing.index) != (op.recall_seq, op.recall_index):
        return Verdict(STALE)
    if standing.seq >= context.seq:
        return Verdict(STALE)
    _remove(rows, lease, row)
    return OK


def release_session_leases(rows: MutableRows, sid: int) -> None:
    """The session has ended, and its leases with it."""
    for lease in list(rows.leases(sid)):
        row = rows.grant(lease)
        if row is not None:
            _remove(rows, lease, row)


def inherit(rows: MutableRows, parent: int, directory: int) -> None:
    """A new directory comes under its parent's lease, if there is one and it does not cover too many already: then the
    new one is uncovered, and may be asked for by a GRANT of its own."""
    lease = lease_of_directory(rows, parent)
    row = None if lease is None else rows.grant(lease)
    if lease is not None and row is not None and row.directories < DIRECTORIES_PER_LEASE:
        rows.put(grant_key(lease), replace(row, directories=row.directories + 1))
        _put_cover(rows, lease, directory)


def uncover(rows: MutableRows, directory: int) -> None:
    """A directory leaves. Its lease stays even without any: ops that name it are on their way."""
    lease = lease_of_directory(rows, directory)
    row = None if lease is None else rows.grant(lease)
    if lease is not None and row is not None:
        rows.put(grant_key(lease), replace(row, directories=row.directories - 1))
        _delete_cover(rows, lease, directory)


def _directory_error(rows: Rows, directory: int, sid: int) -> int:
    """The errno of a GRANT of this directory, 0 if it can be had."""
    inode = rows.inode(directory)
    if inode is None or not stat.S_ISDIR(inode.mode):
        return errno.ENOENT if inode is None else errno.ENOTDIR
    lease = lease_of_directory(rows, directory)
    row = None if lease is None else rows.grant(lease)
    if row is None:
        return 0
    return errno.EEXIST if row.sid == sid else errno.EBUSY


def _remove(rows: MutableRows, lease: LeaseId, row: GrantRow) -> None:
    for directory in list(rows.directories(lease)):
        _delete_cover(rows, lease, directory)
    if rows.recall(lease) is not None:
        rows.delete(recall_key(lease))
    rows.delete(session_lease_key(row.sid, lease))
    rows.delete(grant_key(lease))


def _put_cover(rows: MutableRows, lease: LeaseId, directory: int) -> None:
    rows.put(cover_key(directory), CoverRow(*lease))
    rows.txn.put(granted_key(lease, directory), b"")


def _delete_cover(rows: MutableRows, lease: LeaseId, directory: int) -> None:
    rows.delete(cover_key(directory))
    rows.delete(granted_key(lease, directory))
