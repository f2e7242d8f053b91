"""SETATTR and extended attributes.

What POSIX asks of chmod, chown, utimensat, truncate and setfacl in one op. The kernel decides who may; here is only
what follows. Clearing setuid and setgid before a *write* is its author's, who alone knows whose it is: a SETATTR with
PRIVILEGES. File capabilities end with every write, whoever writes.
"""

from __future__ import annotations

import errno
import stat

from msgspec.structs import replace

from s3vfs.namespace import acl
from s3vfs.namespace.accounting import change_usage
from s3vfs.namespace.extents import plan_extents
from s3vfs.namespace.limits import (
    ID_MAX,
    INTEGER_MAX,
    XATTR_NAME_MAX_BYTES,
    XATTR_VALUE_MAX_BYTES,
    later,
)
from s3vfs.namespace.ops import (
    XATTR_CREATE,
    XATTR_DROP_SETGID,
    XATTR_REPLACE,
    Removexattr,
    Setattr,
    SetattrMask,
    Setxattr,
)
from s3vfs.namespace.rows import Inode, MutableRows, inode_key, xattr_key
from s3vfs.namespace.verdict import OK, Context, Verdict

CAPABILITY = b"security.capability"
_PERMISSIONS = 0o7777
_OWNER = SetattrMask.UID | SetattrMask.GID
_TIMES = SetattrMask.ATIME | SetattrMask.MTIME
_ALL = SetattrMask.MODE | _OWNER | SetattrMask.SIZE | _TIMES | SetattrMask.PRIVILEGES | SetattrMask.SETGID
_ENDS_CAPABILITIES = _OWNER | SetattrMask.SIZE | SetattrMask.PRIVILEGES


def setattr(rows: MutableRows, op: Setattr, context: Context) -> Verdict:
    """ENOENT for a missing inode; EISDIR, EINVAL for a size of what is no file. Of `mode` only the permission bits are
    taken. A new owner without a new mode clears setuid, and setgid where the group may execute, except on directories;
    PRIVILEGES does, too, and SETGID clears setgid whatever the group may. New owners and sizes end file capabilities. A
    new size without a new mtime sets mtime to the op's time (truncate(2))."""
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
    if mask & _ENDS_CAPABILITIES:
        inode = without_capabilities(rows, op.ino, inode)
    rows.put(
        inode_key(op.ino),
        replace(
            inode,
            mode=new_mode(inode.mode, op),
            uid=op.uid if mask & SetattrMask.UID else inode.uid,
            gid=op.gid if mask & SetattrMask.GID else inode.gid,
            atime_ns=op.atime_ns if mask & SetattrMask.ATIME else inode.atime_ns,
            mtime_ns=mtime_ns,
            ctime_ns=later(op.time_ns, inode.ctime_ns),
        ),
    )
    return OK


def setxattr(rows: MutableRows, op: Setxattr, context: Context) -> Verdict:
    """ERANGE and E2BIG for the limits, EEXIST and ENODATA by the flags, as setxattr(2). An access ACL sets the mode,
    and leaves no row where the mode says all of it; EINVAL for what is no ACL, EACCES for a default one of what is no
    directory, EOPNOTSUPP for symbolic links; CREATE and REPLACE do not count for ACLs (as in Linux)."""
    bad = _xattr_name_error(op.name)
    if bad:
        return Verdict(bad)
    flags = op.flags & ~XATTR_DROP_SETGID if op.name in acl.NAMES else op.flags
    if flags & ~(XATTR_CREATE | XATTR_REPLACE):
        return Verdict(errno.EINVAL)
    if len(op.value) > XATTR_VALUE_MAX_BYTES:
        return Verdict(errno.E2BIG)
    inode = rows.inode(op.ino)
    if inode is None:
        return Verdict(errno.ENOENT)
    if op.name in acl.NAMES:
        return _set_acl(rows, op, inode)
    there = rows.xattr(op.ino, op.name) is not None
    if there and flags & XATTR_CREATE:
        return Verdict(errno.EEXIST)
    if not there and flags & XATTR_REPLACE:
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


def without_capabilities(rows: MutableRows, ino: int, inode: Inode) -> Inode:
    """The inode after its file capabilities have ended; its row is the caller's to write."""
    if not inode.xattrs or stat.S_ISDIR(inode.mode) or rows.xattr(ino, CAPABILITY) is None:
        return inode
    rows.delete(xattr_key(ino, CAPABILITY))
    return replace(inode, xattrs=inode.xattrs - 1)


def without_privileges(mode: int) -> int:
    """`mode` without setuid, and without setgid where the group may execute; of directories these mean something
    else."""
    if stat.S_ISDIR(mode):
        return mode
    mode &= ~stat.S_ISUID
    return mode & ~stat.S_ISGID if mode & stat.S_IXGRP else mode


def _set_acl(rows: MutableRows, op: Setxattr, inode: Inode) -> Verdict:
    entries = acl.parse(op.value)
    if stat.S_ISLNK(inode.mode):
        return Verdict(errno.EOPNOTSUPP)
    if entries is None:
        return Verdict(errno.EINVAL)
    if op.name == acl.DEFAULT:
        if not stat.S_ISDIR(inode.mode):
            return Verdict(errno.EACCES)
        inode = acl.store(rows, op.ino, inode, op.name, acl.encode(entries) if entries else None)
    else:
        mode = inode.mode
        if entries:
            mode = mode & ~0o777 | acl.permissions(entries)
        if entries and op.flags & XATTR_DROP_SETGID:
            mode &= ~stat.S_ISGID
        minimal = not entries or acl.is_minimal(entries)
        inode = acl.store(rows, op.ino, inode, op.name, None if minimal else acl.encode(entries))
        inode = replace(inode, mode=mode)
    rows.put(inode_key(op.ino), replace(inode, ctime_ns=later(op.time_ns, inode.ctime_ns)))
    return OK


def new_mode(mode: int, op: Setattr) -> int:
    """What the op makes of an inode's mode."""
    if op.mask & SetattrMask.MODE:
        mode = stat.S_IFMT(mode) | op.mode & _PERMISSIONS
    elif op.mask & _OWNER:
        mode = without_privileges(mode)
    if op.mask & SetattrMask.PRIVILEGES:
        mode = without_privileges(mode)
    if op.mask & SetattrMask.SETGID and not stat.S_ISDIR(mode):
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
