"""RENAME, NOREPLACE and EXCHANGE: the one op that touches two names, up to four inodes, and the shape of the tree."""

from __future__ import annotations

import errno

from msgspec.structs import replace

from s3vfs.namespace.limits import LINK_MAX, later, name_error
from s3vfs.namespace.names import (
    DIRECTORY,
    delete_entry,
    directory_error,
    is_empty,
    put_entry,
    sticky_forbids,
    touch_directory,
)
from s3vfs.namespace.ops import RENAME_EXCHANGE, RENAME_NOREPLACE, Rename
from s3vfs.namespace.orphans import drop_link, remove_directory
from s3vfs.namespace.rows import Dentry, Inode, MutableRows, Rows, inode_key
from s3vfs.namespace.verdict import OK, STALE, Context, Verdict


def rename(rows: MutableRows, op: Rename, context: Context) -> Verdict:
    """Errors as rename(2), in the kernel's order; ESTALE where a name is not the inode that the author saw. Two links
    of one inode: OK, nothing happens (POSIX). EINVAL for a directory that would move below itself."""
    bad = name_error(op.name) or name_error(op.new_name)
    if bad or op.flags not in (0, RENAME_NOREPLACE, RENAME_EXCHANGE):
        return Verdict(bad or errno.EINVAL)
    parent, new_parent = rows.inode(op.parent), rows.inode(op.new_parent)
    bad = directory_error(parent) or directory_error(new_parent)
    if parent is None or new_parent is None or bad:
        return Verdict(bad)
    entry = rows.dentry(op.parent, op.name)
    if entry is None:
        return Verdict(errno.ENOENT)
    inode = rows.inode(op.ino)
    if entry.ino != op.ino or inode is None:
        return Verdict(STALE)
    target = rows.dentry(op.new_parent, op.new_name)
    if target is not None and op.flags == RENAME_NOREPLACE:
        return Verdict(errno.EEXIST)
    if op.replaced != (0 if target is None else target.ino):
        return Verdict(STALE)
    if target is None:
        if op.flags == RENAME_EXCHANGE:
            return Verdict(errno.ENOENT)
        replaced = None
    else:
        if target.ino == op.ino:
            return OK
        replaced = rows.inode(target.ino)
        if replaced is None:
            return Verdict(STALE)
    bad = _forbidden(rows, op, parent, new_parent, entry, inode, target, replaced)
    if bad:
        return Verdict(bad)
    if op.flags == RENAME_EXCHANGE and target is not None and replaced is not None:
        _exchange(rows, op, parent, new_parent, entry, inode, target, replaced)
    else:
        _move(rows, op, parent, new_parent, entry, inode, replaced, context)
    return OK


def _forbidden(
    rows: Rows,
    op: Rename,
    parent: Inode,
    new_parent: Inode,
    entry: Dentry,
    inode: Inode,
    target: Dentry | None,
    replaced: Inode | None,
) -> int:
    """The errno of a rename whose names are as its author saw them, 0 if it is allowed."""
    exchange = op.flags == RENAME_EXCHANGE
    is_directory = entry.kind == DIRECTORY
    crosses = op.parent != op.new_parent
    if crosses and is_directory and _is_above(rows, op.ino, op.new_parent):
        return errno.EINVAL
    swaps_directory = exchange and target is not None and target.kind == DIRECTORY
    if crosses and swaps_directory and _is_above(rows, op.replaced, op.parent):
        return errno.EINVAL
    if sticky_forbids(parent, inode, op.uid) or (replaced is not None and sticky_forbids(new_parent, replaced, op.uid)):
        return errno.EPERM
    if target is not None and replaced is not None and not exchange:
        if is_directory and target.kind != DIRECTORY:
            return errno.ENOTDIR
        if not is_directory and target.kind == DIRECTORY:
            return errno.EISDIR
        if is_directory and not is_empty(rows, target.ino, replaced):
            return errno.ENOTEMPTY
    to_new, to_old = _link_changes(op, entry, target, crosses)
    if (to_new > 0 and new_parent.nlink + to_new > LINK_MAX) or (to_old > 0 and parent.nlink + to_old > LINK_MAX):
        return errno.EMLINK
    return 0


def _link_changes(op: Rename, entry: Dentry, target: Dentry | None, crosses: bool) -> tuple[int, int]:
    """By how much the new and the old parent's link counts change; where both are one directory all is in the first."""
    moved = int(entry.kind == DIRECTORY)
    other = int(target is not None and target.kind == DIRECTORY)
    if op.flags == RENAME_EXCHANGE:
        return (moved - other, other - moved) if crosses else (0, 0)
    return (moved - other, -moved) if crosses else (-other, 0)


def _is_above(rows: Rows, ino: int, directory: int) -> bool:
    """Whether `ino` is `directory` or one of its ancestors. A directory has one link: the walk up is a chain."""
    while directory != ino:
        up = next(rows.links(directory), None)
        if up is None:
            return False
        directory = up[0]
    return True


def _move(
    rows: MutableRows,
    op: Rename,
    parent: Inode,
    new_parent: Inode,
    entry: Dentry,
    inode: Inode,
    replaced: Inode | None,
    context: Context,
) -> None:
    crosses = op.parent != op.new_parent
    target = None if replaced is None else Dentry(op.replaced, replaced.mode >> 12)
    to_new, to_old = _link_changes(op, entry, target, crosses)
    delete_entry(rows, op.parent, op.name, op.ino)
    if target is not None and replaced is not None:
        delete_entry(rows, op.new_parent, op.new_name, op.replaced)
        if target.kind == DIRECTORY:
            remove_directory(rows, op.replaced)
        else:
            drop_link(rows, op.replaced, replaced, op.time_ns, op.hold, context)
    put_entry(rows, op.new_parent, op.new_name, op.ino, entry.kind)
    _put_inodes(rows, op, parent, new_parent, to_new, to_old)
    rows.put(inode_key(op.ino), replace(inode, ctime_ns=later(op.time_ns, inode.ctime_ns)))


def _exchange(
    rows: MutableRows,
    op: Rename,
    parent: Inode,
    new_parent: Inode,
    entry: Dentry,
    inode: Inode,
    target: Dentry,
    replaced: Inode,
) -> None:
    to_new, to_old = _link_changes(op, entry, target, op.parent != op.new_parent)
    delete_entry(rows, op.parent, op.name, op.ino)
    delete_entry(rows, op.new_parent, op.new_name, target.ino)
    put_entry(rows, op.new_parent, op.new_name, op.ino, entry.kind)
    put_entry(rows, op.parent, op.name, target.ino, target.kind)
    _put_inodes(rows, op, parent, new_parent, to_new, to_old)
    rows.put(inode_key(op.ino), replace(inode, ctime_ns=later(op.time_ns, inode.ctime_ns)))
    rows.put(inode_key(target.ino), replace(replaced, ctime_ns=later(op.time_ns, replaced.ctime_ns)))


def _put_inodes(rows: MutableRows, op: Rename, parent: Inode, new_parent: Inode, to_new: int, to_old: int) -> None:
    """Both parents, or the one that is both."""
    rows.put(inode_key(op.new_parent), touch_directory(new_parent, op.time_ns, to_new))
    if op.parent != op.new_parent:
        rows.put(inode_key(op.parent), touch_directory(parent, op.time_ns, to_old))
