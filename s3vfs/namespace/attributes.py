"""SETATTR and extended attributes.

What POSIX asks of chmod, chown, utimensat and truncate in one op. The kernel decides who may; here is only what
follows. Clearing setuid and setgid after a *write* is the author's: the kernel asks for it by a SETATTR of the mode.
"""

from __future__ import annotations

import errno
import stat

from msgspec.structs import replace

from s3vfs.namespace.accounting import change_usage
from s3vfs.namespace.extents import plan_extents
from s3vfs.namespace.limits import (
    ID_MAX,
    INTEGER_MAX,
    XATTR_NAME_MAX_BYTES,
    XATTR_VALUE_MAX_BYTES,
    later,
)
from s3vfs.namespace.ops import XATTR_CREATE, XATTR_REPLACE, Removexattr, Setattr, SetattrMask, Setxattr
from s3vfs.namespace.rows import Inode, MutableRows, inode_key, xattr_key
from s3vfs.namespace.verdict import OK, Context, Verdict

_PERMISSIONS = 0o7777
_ALL = SetattrMask.MODE | SetattrMask.UID | SetattrMask.GID | SetattrMask.SIZE | SetattrMask.ATIME | SetattrMask.MTIME


def setattr(rows: MutableRows, op: Setattr, context: Context) -> Verdict:
    """ENOENT for a missing inode; EISDIR, EINVAL for a size of what is no file. Of `mode` only the permission bits are
    taken. A new owner without a new mode clears setuid, and setgid where the group may execute, except on directories.
    A new size without a new mtime sets mtime to the op's time (truncate(2))."""
    mask = op.mask
    if mask & ~_ALL or (mask & SetattrMask.UID and op.uid > ID_MAX) or (mask & SetattrMask.GID and op.gid > ID_MAX):
        return Verdict(errno.EINVAL)
    inode = rows.inode(op.ino)
    if inode is None:
        return Verdict(errno.ENOENT)
    if mask & SetattrMask.SIZE and not stat.S_ISREG(inode.mode):
        return Verdict(errno.EISDIR if stat.S_ISDIR(inode.mode) else errno.EINVAL)
    mtime_ns = inode.mtime_ns
    if mask & SetattrMask.SIZE:
        mtime_ns = op.time_ns
        inode = _truncate(rows, op.ino, inode, op.size, context.seq)
    if mask & SetattrMask.MTIME:
        mtime_ns = op.mtime_ns
    rows.put(
        inode_key(op.ino),
        replace(
            inode,
            mode=_new_mode(inode.mode, op),
            uid=op.uid if mask & SetattrMask.UID else inode.uid,
            gid=op.gid if mask & SetattrMask.GID else inode.gid,
            atime_ns=op.atime_ns if mask & SetattrMask.ATIME else inode.atime_ns,
            mtime_ns=mtime_ns,
            ctime_ns=later(op.time_ns, inode.ctime_ns),
        ),
    )
    return OK


def setxattr(rows: MutableRows, op: Setxattr, context: Context) -> Verdict:
    """ERANGE and E2BIG for the limits, EEXIST and ENODATA by the flags, as setxattr(2)."""
    bad = _xattr_name_error(op.name)
    if bad:
        return Verdict(bad)
    if op.flags not in (0, XATTR_CREATE, XATTR_REPLACE):
        return Verdict(errno.EINVAL)
    if len(op.value) > XATTR_VALUE_MAX_BYTES:
        return Verdict(errno.E2BIG)
    inode = rows.inode(op.ino)
    if inode is None:
        return Verdict(errno.ENOENT)
    there = rows.xattr(op.ino, op.name) is not None
    if there and op.flags == XATTR_CREATE:
        return Verdict(errno.EEXIST)
    if not there and op.flags == XATTR_REPLACE:
        return Verdict(errno.ENODATA)
    rows.txn.put(xattr_key(op.ino, op.name), op.value)
    _count_xattrs(rows, op.ino, inode, 0 if there else 1, op.time_ns)
    return OK


def removexattr(rows: MutableRows, op: Removexattr, context: Context) -> Verdict:
    """ENODATA where there is none of that name."""
    bad = _xattr_name_error(op.name)
    if bad:
        return Verdict(bad)
    inode = rows.inode(op.ino)
    if inode is None:
        return Verdict(errno.ENOENT)
    if rows.xattr(op.ino, op.name) is None:
        return Verdict(errno.ENODATA)
    rows.delete(xattr_key(op.ino, op.name))
    _count_xattrs(rows, op.ino, inode, -1, op.time_ns)
    return OK


def _new_mode(mode: int, op: Setattr) -> int:
    if op.mask & SetattrMask.MODE:
        return stat.S_IFMT(mode) | op.mode & _PERMISSIONS
    if op.mask & (SetattrMask.UID | SetattrMask.GID) and not stat.S_ISDIR(mode):
        mode &= ~stat.S_ISUID
        if mode & stat.S_IXGRP:
            mode &= ~stat.S_ISGID
    return mode


def _truncate(rows: MutableRows, ino: int, inode: Inode, size: int, seq: int) -> Inode:
    """Cut the extents behind the new size; what grows is a hole. The inode is returned, not yet written."""
    if size == inode.size:
        return inode
    allocated = inode.allocated
    if size < inode.size:
        plan = plan_extents(rows, ino, inode, [(size, INTEGER_MAX)], [])
        plan.make(rows, seq)
        allocated += plan.more_bytes
        if inode.nlink:
            change_usage(rows, plan.more_bytes, 0)
    return replace(inode, size=size, allocated=allocated, version=inode.version + 1)


def _count_xattrs(rows: MutableRows, ino: int, inode: Inode, more: int, time_ns: int) -> None:
    rows.put(inode_key(ino), replace(inode, xattrs=inode.xattrs + more, ctime_ns=later(time_ns, inode.ctime_ns)))


def _xattr_name_error(name: bytes) -> int:
    if not 0 < len(name) <= XATTR_NAME_MAX_BYTES:
        return errno.ERANGE
    return errno.EINVAL if b"\0" in name else 0
