"""CREATE, LINK, UNLINK and RMDIR: entries and links. RENAME has a module of its own.

All check first and write then, so that an op that fails leaves no trace.
"""

from __future__ import annotations

import errno
import stat

from msgspec.structs import replace

from s3vfs.namespace import acl, leasing
from s3vfs.namespace.accounting import change_usage, exceeds_quota
from s3vfs.namespace.limits import ID_MAX, LINK_MAX, TARGET_MAX_BYTES, later, name_error
from s3vfs.namespace.ops import Create, Link, Rmdir, Unlink
from s3vfs.namespace.orphans import drop_link, remove_directory
from s3vfs.namespace.rows import (
    Dentry,
    Inode,
    MutableRows,
    Rows,
    dentry_key,
    inode_key,
    link_key,
    session_key,
    xattr_key,
)
from s3vfs.namespace.verdict import OK, STALE, Context, Verdict

KIND_SHIFT = 12
DIRECTORY = stat.S_IFDIR >> KIND_SHIFT
REGULAR = stat.S_IFREG >> KIND_SHIFT
SYMLINK = stat.S_IFLNK >> KIND_SHIFT
DEVICES = frozenset({stat.S_IFCHR >> KIND_SHIFT, stat.S_IFBLK >> KIND_SHIFT})
KINDS = frozenset({DIRECTORY, REGULAR, SYMLINK, stat.S_IFIFO >> KIND_SHIFT, stat.S_IFSOCK >> KIND_SHIFT}) | DEVICES

NEW_VERSION = 1  # of a new inode: nothing is in it yet


def directory_error(inode: Inode | None) -> int:
    """The errno of looking for a name in what should be a directory, 0 if it is one. A removed one is gone: ENOENT."""
    if inode is None:
        return errno.ENOENT
    return 0 if inode.mode >> KIND_SHIFT == DIRECTORY else errno.ENOTDIR


def sticky_forbids(directory: Inode, entry: Inode, uid: int) -> bool:
    """The restricted deletion flag: only root and the owners of entry or directory may take the entry away."""
    return bool(directory.mode & stat.S_ISVTX) and uid not in (0, directory.uid, entry.uid)


def is_empty(rows: Rows, ino: int, directory: Inode) -> bool:
    return directory.nlink <= 2 and next(rows.entries(ino), None) is None


def touch_directory(directory: Inode, time_ns: int, more_links: int = 0) -> Inode:
    """The directory after its entries have changed."""
    return replace(
        directory,
        nlink=directory.nlink + more_links,
        mtime_ns=later(time_ns, directory.mtime_ns),
        ctime_ns=later(time_ns, directory.ctime_ns),
    )


def create(rows: MutableRows, op: Create, context: Context) -> Verdict:
    """EINVAL for what no inode can be; ENOENT, ENOTDIR for the parent; EEXIST for the name; EMLINK, EDQUOT; ESTALE
    where the number is not from the session's blocks. A setgid directory hands on its group, to directories the bit.
    A default ACL is inherited in place of the umask, a lease by directories."""
    bad = name_error(op.name) or _kind_error(op)
    if bad:
        return Verdict(bad)
    parent = rows.inode(op.parent)
    if parent is None or (bad := directory_error(parent)):
        return Verdict(bad or errno.ENOENT)
    if rows.txn.get(dentry_key(op.parent, op.name)) is not None:
        return Verdict(errno.EEXIST)
    kind = op.mode >> KIND_SHIFT
    is_directory = kind == DIRECTORY
    if is_directory and parent.nlink >= LINK_MAX:
        return Verdict(errno.EMLINK)
    if exceeds_quota(rows, 0, 1):
        return Verdict(errno.EDQUOT)
    session = rows.session(context.sid)
    blocks = None if session is None else _take(session.blocks, op.ino)
    if session is None or blocks is None:
        return Verdict(STALE)
    mode, gid = op.mode, op.gid
    if parent.mode & stat.S_ISGID:
        gid = parent.gid
        if is_directory:
            mode |= stat.S_ISGID
    default = None if kind == SYMLINK else acl.default_of(rows, op.parent, parent)
    access = None
    if default is not None:
        mode, access = acl.inherit(default, mode)
    elif kind != SYMLINK:
        mode &= ~(op.umask & 0o777)
    kept = {acl.ACCESS: access, acl.DEFAULT: default if is_directory else None}
    rows.put(session_key(context.sid), replace(session, blocks=blocks))
    for name, value in kept.items():
        if value is not None:
            rows.txn.put(xattr_key(op.ino, name), value)
    rows.put(
        inode_key(op.ino),
        Inode(
            mode=mode,
            uid=op.uid,
            gid=gid,
            nlink=2 if is_directory else 1,
            size=len(op.target),
            allocated=0,
            atime_ns=op.time_ns,
            mtime_ns=op.time_ns,
            ctime_ns=op.time_ns,
            btime_ns=op.time_ns,
            rdev=op.rdev if kind in DEVICES else 0,
            version=NEW_VERSION,
            xattrs=sum(value is not None for value in kept.values()),
            target=op.target,
        ),
    )
    rows.put(inode_key(op.parent), touch_directory(parent, op.time_ns, 1 if is_directory else 0))
    put_entry(rows, op.parent, op.name, op.ino, kind)
    change_usage(rows, 0, 1)
    if is_directory:
        leasing.inherit(rows, op.parent, op.ino)
    return OK


def link(rows: MutableRows, op: Link, context: Context) -> Verdict:
    """ENOENT for a missing or orphaned inode, EPERM for a directory, EEXIST, EMLINK."""
    bad = name_error(op.name)
    if bad:
        return Verdict(bad)
    parent = rows.inode(op.parent)
    if parent is None or (bad := directory_error(parent)):
        return Verdict(bad or errno.ENOENT)
    inode = rows.inode(op.ino)
    if inode is None or inode.nlink == 0:
        return Verdict(errno.ENOENT)
    kind = inode.mode >> KIND_SHIFT
    if rows.txn.get(dentry_key(op.parent, op.name)) is not None:
        return Verdict(errno.EEXIST)
    if kind == DIRECTORY:
        return Verdict(errno.EPERM)
    if inode.nlink >= LINK_MAX:
        return Verdict(errno.EMLINK)
    rows.put(inode_key(op.ino), replace(inode, nlink=inode.nlink + 1, ctime_ns=later(op.time_ns, inode.ctime_ns)))
    rows.put(inode_key(op.parent), touch_directory(parent, op.time_ns))
    put_entry(rows, op.parent, op.name, op.ino, kind)
    return OK


def unlink(rows: MutableRows, op: Unlink, context: Context) -> Verdict:
    """ENOENT where there is no such name, ESTALE where it is another inode's, EPERM by the sticky bit, EISDIR."""
    found = _removal(rows, op)
    if isinstance(found, Verdict):
        return found
    parent, inode = found
    if inode.mode >> KIND_SHIFT == DIRECTORY:
        return Verdict(errno.EISDIR)
    delete_entry(rows, op.parent, op.name, op.ino)
    rows.put(inode_key(op.parent), touch_directory(parent, op.time_ns))
    drop_link(rows, op.ino, inode, op.time_ns, op.hold, context)
    return OK


def rmdir(rows: MutableRows, op: Rmdir, context: Context) -> Verdict:
    """As UNLINK, with ENOTDIR and ENOTEMPTY."""
    found = _removal(rows, op)
    if isinstance(found, Verdict):
        return found
    parent, inode = found
    if inode.mode >> KIND_SHIFT != DIRECTORY:
        return Verdict(errno.ENOTDIR)
    if not is_empty(rows, op.ino, inode):
        return Verdict(errno.ENOTEMPTY)
    delete_entry(rows, op.parent, op.name, op.ino)
    rows.put(inode_key(op.parent), touch_directory(parent, op.time_ns, -1))
    remove_directory(rows, op.ino)
    return OK


def delete_entry(rows: MutableRows, parent: int, name: bytes, ino: int) -> None:
    rows.delete(dentry_key(parent, name))
    rows.delete(link_key(ino, parent, name))


def put_entry(rows: MutableRows, parent: int, name: bytes, ino: int, kind: int) -> None:
    rows.put(dentry_key(parent, name), Dentry(ino, kind))
    rows.txn.put(link_key(ino, parent, name), b"")


def _removal(rows: Rows, op: Unlink | Rmdir) -> Verdict | tuple[Inode, Inode]:
    """The parent and the inode that UNLINK and RMDIR name, or what is wrong with them."""
    bad = name_error(op.name)
    if bad:
        return Verdict(bad)
    parent = rows.inode(op.parent)
    if parent is None or (bad := directory_error(parent)):
        return Verdict(bad or errno.ENOENT)
    entry = rows.dentry(op.parent, op.name)
    if entry is None:
        return Verdict(errno.ENOENT)
    inode = rows.inode(op.ino)
    if entry.ino != op.ino or inode is None:
        return Verdict(STALE)
    if sticky_forbids(parent, inode, op.uid):
        return Verdict(errno.EPERM)
    return parent, inode


def _kind_error(op: Create) -> int:
    """The errno of mode, owner, device and target of an inode that cannot be, 0 if it can."""
    kind = op.mode >> KIND_SHIFT
    if kind not in KINDS or op.uid > ID_MAX or op.gid > ID_MAX or op.rdev > ID_MAX:
        return errno.EINVAL
    if kind != SYMLINK:
        return errno.EINVAL if op.target else 0
    if not op.target:
        return errno.ENOENT  # as symlink(2)
    if len(op.target) > TARGET_MAX_BYTES:
        return errno.ENAMETOOLONG
    return errno.EINVAL if b"\0" in op.target else 0


def _take(blocks: tuple[tuple[int, int], ...], ino: int) -> tuple[tuple[int, int], ...] | None:
    """The blocks after `ino` has been used, None where it is in none. Numbers below it in its block are given up."""
    for position, (start, end) in enumerate(blocks):
        if start <= ino < end:
            left = ((ino + 1, end),) if ino + 1 < end else ()
            return blocks[:position] + left + blocks[position + 1 :]
    return None
