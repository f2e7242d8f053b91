"""Inodes without links: how they come to be, who holds them, how they leave.

A file whose last link goes stays as an orphan, since some session may have it open. Sessions say so with HOLD; once
nobody holds it, REAP removes it. A removed directory leaves at once: nothing can be reached through it any more.
"""

from __future__ import annotations

import errno

from msgspec.structs import replace

from s3vfs.namespace.accounting import change_usage
from s3vfs.namespace.extents import plan_extents
from s3vfs.namespace.leasing import uncover
from s3vfs.namespace.limits import INTEGER_MAX, later
from s3vfs.namespace.locks import forget_inode
from s3vfs.namespace.ops import Drop, Hold, Reap
from s3vfs.namespace.rows import (
    Inode,
    MutableRows,
    Orphan,
    held_key,
    hold_key,
    inode_key,
    orphan_key,
    xattr_key,
)
from s3vfs.namespace.verdict import OK, Context, Verdict


def drop_link(rows: MutableRows, ino: int, inode: Inode, time_ns: int, hold: bool, context: Context) -> None:
    """Take one link from an inode that is no directory. After its last one it is an orphan, and its bytes leave the
    usage; `hold` keeps it for the author's session."""
    nlink = inode.nlink - 1
    rows.put(inode_key(ino), replace(inode, nlink=nlink, ctime_ns=later(time_ns, inode.ctime_ns)))
    if nlink == 0:
        rows.put(orphan_key(ino), Orphan(context.seq))
        change_usage(rows, -inode.allocated, -1)
        if hold:
            _put_hold(rows, ino, context.sid)


def remove_directory(rows: MutableRows, ino: int) -> None:
    """Remove an empty directory's own rows; its entry is the caller's."""
    _delete_xattrs(rows, ino)
    uncover(rows, ino)
    rows.delete(inode_key(ino))
    change_usage(rows, 0, -1)


def hold(rows: MutableRows, op: Hold, context: Context) -> Verdict:
    """ENOENT: no such inode any more; EINVAL: it still has links. Holding twice is fine."""
    if rows.orphan(op.ino) is None:
        return Verdict(errno.ENOENT if rows.inode(op.ino) is None else errno.EINVAL)
    _put_hold(rows, op.ino, context.sid)
    return OK


def drop(rows: MutableRows, op: Drop, context: Context) -> Verdict:
    """ENOENT: this session holds no such orphan."""
    if rows.txn.get(hold_key(op.ino, context.sid)) is None:
        return Verdict(errno.ENOENT)
    rows.delete(hold_key(op.ino, context.sid))
    rows.delete(held_key(context.sid, op.ino))
    return OK


def reap(rows: MutableRows, op: Reap, context: Context) -> Verdict:
    """ENOENT: no such orphan; EBUSY: a session holds it."""
    inode = rows.inode(op.ino)
    if inode is None or rows.orphan(op.ino) is None:
        return Verdict(errno.ENOENT)
    if next(rows.holders(op.ino), None) is not None:
        return Verdict(errno.EBUSY)
    plan = plan_extents(rows, op.ino, inode, [(0, INTEGER_MAX)], [])
    plan.make(rows, context.seq)
    _delete_xattrs(rows, op.ino)
    forget_inode(rows, op.ino)
    rows.delete(orphan_key(op.ino))
    rows.delete(inode_key(op.ino))
    return OK


def release_holds(rows: MutableRows, sid: int) -> None:
    """Drop all holds of a session that ends."""
    for ino in list(rows.held(sid)):
        rows.delete(hold_key(ino, sid))
        rows.delete(held_key(sid, ino))


def _put_hold(rows: MutableRows, ino: int, sid: int) -> None:
    rows.txn.put(hold_key(ino, sid), b"")
    rows.txn.put(held_key(sid, ino), b"")


def _delete_xattrs(rows: MutableRows, ino: int) -> None:
    for name in list(rows.xattr_names(ino)):
        rows.delete(xattr_key(ino, name))
