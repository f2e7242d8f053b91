"""Two ops of one author as one, where nobody can tell the difference.

Who unpacks an archive makes each file, writes it, and then sets owner and mode. While the CREATE has not left, it may
as well say so from the start: one op in the journal instead of three, and others see the file as it is meant to be.
"""

from __future__ import annotations

import stat

from msgspec.structs import replace

from s3vfs.namespace.attributes import new_mode
from s3vfs.namespace.limits import ID_MAX
from s3vfs.namespace.ops import Create, Setattr, SetattrMask
from s3vfs.namespace.rows import Inode, Rows

_FOLDABLE = SetattrMask.MODE | SetattrMask.UID | SetattrMask.GID


def folded(rows: Rows, create: Create, made: Inode, change: Setattr) -> tuple[Create, Inode] | None:
    """A CREATE that does what `create` and then `change` do, and the inode that it makes; None where there is none.
    `made`: the inode as `create` has made it, changed by nobody since. All but its ctime, which is that of the CREATE:
    the caller sees to it that a later op carries the other one.

    Only what the directory has no say in: where it hands on its group or an ACL, nothing is folded.
    """
    mask = change.mask
    if mask & ~_FOLDABLE or not stat.S_ISREG(made.mode) or made.xattrs:
        return None
    uid = change.uid if mask & SetattrMask.UID else made.uid
    gid = change.gid if mask & SetattrMask.GID else made.gid
    parent = rows.inode(create.parent)
    if parent is None or parent.xattrs or parent.mode & stat.S_ISGID or uid > ID_MAX or gid > ID_MAX:
        return None
    mode = new_mode(made.mode, change)
    return replace(create, mode=mode, uid=uid, gid=gid, umask=0), replace(made, mode=mode, uid=uid, gid=gid)
