"""What a lease covers, and R6: nobody else changes it.

A lease, named by the seq and index of its GRANT, covers directories (L rows): their entries and their own inodes. An
inode that is no directory is covered with all its links, where one lease covers every directory that they are in; so a
file may be linked and unlinked under a lease, as git does it. An orphan is covered by none.

Coverage of what a session's lease covers ends through that session, or with the lease, and in no other way: every op
that could end it touches it. So a holder that finds something covered in its replica has the newest state of it, as
long as the lease lives (R8).

Reads only; the ops that make and end leases are in `leasing`.
"""

from __future__ import annotations

import stat
from collections.abc import Callable
from typing import Any

from s3vfs.namespace import ops
from s3vfs.namespace.features import LEASES
from s3vfs.namespace.limits import COVERED_LINKS_MAX
from s3vfs.namespace.rows import GrantRow, Inode, LeaseId, Rows
from s3vfs.namespace.verdict import COVERED, STALE

INDEX_MAX = 2**32 - 1  # four bytes of a key
_NOTHING: frozenset[LeaseId | None] = frozenset()
_UNCOVERED: frozenset[LeaseId | None] = frozenset([None])
_Known = dict[int, LeaseId | None]  # of directories that have been looked at
_OWN_LOOKED_AT = 64  # so many leases are looked at once for each record; beyond that, at what each op touches


def grant(rows: Rows, lease: LeaseId) -> GrantRow | None:
    """The lease, while it lives; None for what never was one, too."""
    return rows.grant(lease) if lease[1] <= INDEX_MAX else None


def lease_of_directory(rows: Rows, directory: int) -> LeaseId | None:
    """The lease that covers the directory's entries and its own inode."""
    row = rows.cover(directory)
    return None if row is None else (row.seq, row.index)


def covering(rows: Rows, ino: int) -> LeaseId | None:
    """The lease that covers the inode, whatever its kind."""
    return _covering(rows, ino, rows.inode(ino), {})


def leases_touched(rows: Rows, op: ops.Op) -> frozenset[LeaseId | None]:
    """The leases that cover what the op would change, as the rows are before it. None is among them where it changes,
    or depends on, something that no lease covers. So where all of them are a session's own, nobody else can come
    between this op and its record. Empty for ops that R6 does not concern (locks, holds, objects, sessions).

    Reads nothing but the V row while leases are not switched on."""
    touched = _TOUCHED.get(type(op))
    if touched is None:
        return _NOTHING
    volume = rows.volume()
    if volume is None or not volume.features >> LEASES & 1:
        return _UNCOVERED
    return touched(rows, op)


def has_rivals(rows: Rows, sid: int) -> bool:
    """Whether another session may have a lease: where none has, R6 refuses nothing for what an op touches."""
    return any(row.sid != sid or count == _OWN_LOOKED_AT for count, (_, row) in enumerate(rows.grants()))


def refusal(rows: Rows, named: LeaseId | None, op: ops.Op | None, sid: int) -> int:
    """R6: ESTALE where the op names a lease that is not live, or not its session's; COVERED where it touches what
    another session's lease covers; else 0. No `op`: it touches nothing of the latter kind."""
    if named is not None:
        row = grant(rows, named)
        if row is None or row.sid != sid:
            return STALE
    for lease in leases_touched(rows, op) if op is not None else ():
        if lease is not None and lease != named:
            row = grant(rows, lease)
            if row is not None and row.sid != sid:
                return COVERED
    return 0


# -- what each op touches ---------------------------------------------------------------------------------------------


def _directory(rows: Rows, ino: int, known: _Known) -> LeaseId | None:
    if ino not in known:
        known[ino] = lease_of_directory(rows, ino)
    return known[ino]


def _covering(rows: Rows, ino: int, inode: Inode | None, known: _Known) -> LeaseId | None:
    if inode is None:
        return None
    if stat.S_ISDIR(inode.mode):
        return _directory(rows, ino, known)
    if inode.nlink == 1:
        link = next(rows.links(ino), None)
        return None if link is None else _directory(rows, link[0], known)
    if not 0 < inode.nlink <= COVERED_LINKS_MAX:
        return None
    found: LeaseId | None = None
    for parent, _ in rows.links(ino):
        lease = _directory(rows, parent, known)
        if lease is None or (found is not None and lease != found):
            return None
        found = lease
    return found


def _create(rows: Rows, op: ops.Create) -> frozenset[LeaseId | None]:
    return frozenset([lease_of_directory(rows, op.parent)])


def _entry(rows: Rows, op: ops.Link | ops.Unlink | ops.Rmdir) -> frozenset[LeaseId | None]:
    known: _Known = {}
    return frozenset([_directory(rows, op.parent, known), _covering(rows, op.ino, rows.inode(op.ino), known)])


def _rename(rows: Rows, op: ops.Rename) -> frozenset[LeaseId | None]:
    known: _Known = {}
    touched = {_directory(rows, op.parent, known), _directory(rows, op.new_parent, known)}
    for ino in (op.ino, op.replaced) if op.replaced else (op.ino,):
        inode = rows.inode(ino)
        touched.add(_covering(rows, ino, inode, known))
        if op.parent != op.new_parent and inode is not None and stat.S_ISDIR(inode.mode):
            touched.add(None)  # whether it would come to lie below itself is decided by directories further up
    return frozenset(touched)


def _inode(rows: Rows, op: Any) -> frozenset[LeaseId | None]:
    return frozenset([covering(rows, op.ino)])


def _clone(rows: Rows, op: ops.Clone) -> frozenset[LeaseId | None]:
    """Reading the source touches nothing, but the outcome depends on it."""
    target = covering(rows, op.ino)
    return frozenset([target]) if covering(rows, op.source) == target else frozenset([target, None])


_TOUCHED: dict[type[ops.Op], Callable[[Rows, Any], frozenset[LeaseId | None]]] = {
    ops.Create: _create,
    ops.Link: _entry,
    ops.Unlink: _entry,
    ops.Rmdir: _entry,
    ops.Rename: _rename,
    ops.Clone: _clone,
    **dict.fromkeys((ops.Setattr, ops.Setxattr, ops.Removexattr, ops.Write, ops.Append, ops.Punch), _inode),
}
