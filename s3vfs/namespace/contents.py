"""WRITE, APPEND, PUNCH and CLONE: what a file's bytes are.

All check first and write then. Overlaps are decided by the order of the journal, byte range by byte range: the later
wins.
"""

from __future__ import annotations

import errno
import stat
from collections.abc import Sequence

from msgspec.structs import replace

from s3vfs.namespace.accounting import change_usage, exceeds_quota
from s3vfs.namespace.attributes import without_capabilities
from s3vfs.namespace.extents import Placed, Range, disjoint, part, plan_extents, usable
from s3vfs.namespace.limits import EXTENTS_PER_CLONE, INTEGER_MAX, later
from s3vfs.namespace.ops import Append, Clone, ExtentWrite, Punch, Write
from s3vfs.namespace.rows import Extent, Inode, MutableRows, ObjectRow, Rows, inode_key
from s3vfs.namespace.verdict import OK, STALE, Context, Verdict


def write(rows: MutableRows, op: Write, context: Context) -> Verdict:
    """ENOENT for a missing inode, EISDIR, EINVAL (an empty extent too), EFBIG, EDQUOT; ESTALE for an object that is
    unknown, condemned or too short. The size becomes the largest of the old one, `size` and the ends of the extents."""
    inode = rows.inode(op.ino)
    if inode is None or not stat.S_ISREG(inode.mode):
        return Verdict(_no_file_error(inode))
    bad, size = _extents_error(rows, op.extents)
    if bad:
        return Verdict(bad)
    return _replace_bytes(
        rows,
        op.ino,
        inode,
        cuts=None,
        new=disjoint(op.extents),
        size=max(inode.size, op.size, size),
        mtime_ns=op.mtime_ns,
        time_ns=op.time_ns,
        context=context,
    )


def append(rows: MutableRows, op: Append, context: Context) -> Verdict:
    """As WRITE, at the file's end as it is now; the verdict's value is that offset."""
    inode = rows.inode(op.ino)
    if inode is None or not stat.S_ISREG(inode.mode):
        return Verdict(_no_file_error(inode))
    offset = inode.size
    if offset + op.length > INTEGER_MAX:
        return Verdict(errno.EFBIG)
    bad, size = _extents_error(rows, [ExtentWrite(offset, op.length, op.object, op.object_offset)])
    if bad:
        return Verdict(bad)
    verdict = _replace_bytes(
        rows,
        op.ino,
        inode,
        cuts=None,
        new=[(offset, Extent(op.length, op.object, op.object_offset))],
        size=size,
        mtime_ns=op.mtime_ns,
        time_ns=op.time_ns,
        context=context,
    )
    return verdict if verdict.errno else Verdict(0, offset)


def punch(rows: MutableRows, op: Punch, context: Context) -> Verdict:
    """Make a hole; the size stays, whatever lies behind it is ignored. EINVAL for an empty range."""
    inode = rows.inode(op.ino)
    if inode is None or not stat.S_ISREG(inode.mode):
        return Verdict(_no_file_error(inode))
    if op.length == 0:
        return Verdict(errno.EINVAL)
    return _replace_bytes(
        rows,
        op.ino,
        inode,
        cuts=[(op.offset, min(op.offset + op.length, INTEGER_MAX))],
        new=[],
        size=inode.size,
        mtime_ns=op.time_ns,
        time_ns=op.time_ns,
        context=context,
    )


def clone(rows: MutableRows, op: Clone, context: Context) -> Verdict:
    """Share the source's extents; its holes become holes. EINVAL for an empty range, one behind the source's end, or
    one that overlaps its source; ESTALE for another version of the source; EFBIG, E2BIG (too many extents), EDQUOT."""
    source = rows.inode(op.source)
    if source is None or not stat.S_ISREG(source.mode):
        return Verdict(_no_file_error(source))
    inode = rows.inode(op.ino)
    if inode is None or not stat.S_ISREG(inode.mode):
        return Verdict(_no_file_error(inode))
    if op.source_version not in (0, source.version):
        return Verdict(STALE)
    source_end, end = op.source_offset + op.length, op.offset + op.length
    if op.length == 0 or source_end > source.size:
        return Verdict(errno.EINVAL)
    if op.source == op.ino and op.offset < source_end and op.source_offset < end:
        return Verdict(errno.EINVAL)
    if end > INTEGER_MAX:
        return Verdict(errno.EFBIG)
    new: list[Placed] = []
    for offset, extent in rows.extents(op.source, op.source_offset, source_end):
        if len(new) == EXTENTS_PER_CLONE:
            return Verdict(errno.E2BIG)
        start = max(offset, op.source_offset)
        piece = part(offset, extent, start, min(offset + extent.length, source_end))
        new.append((start - op.source_offset + op.offset, piece))
    return _replace_bytes(
        rows,
        op.ino,
        inode,
        cuts=[(op.offset, end)],
        new=new,
        size=max(inode.size, end),
        mtime_ns=op.time_ns,
        time_ns=op.time_ns,
        context=context,
    )


def _replace_bytes(
    rows: MutableRows,
    ino: int,
    inode: Inode,
    *,
    cuts: list[Range] | None,
    new: list[Placed],
    size: int,
    mtime_ns: int,
    time_ns: int,
    context: Context,
) -> Verdict:
    """Cut `cuts` (None: where the new extents are) and put `new` in, if the quota allows it. Orphans do not count."""
    if cuts is None:
        cuts = [(offset, offset + extent.length) for offset, extent in new]
    plan = plan_extents(rows, ino, inode, cuts, new)
    linked = inode.nlink > 0
    if linked and exceeds_quota(rows, plan.more_bytes, 0):
        return Verdict(errno.EDQUOT)
    changed = bool(plan.removed or plan.placed or size != inode.size)
    plan.make(rows, context.seq)
    if linked:
        change_usage(rows, plan.more_bytes, 0)
    inode = without_capabilities(rows, ino, inode)
    rows.put(
        inode_key(ino),
        replace(
            inode,
            size=size,
            allocated=inode.allocated + plan.more_bytes,
            mtime_ns=mtime_ns,
            ctime_ns=later(time_ns, inode.ctime_ns),
            version=inode.version + changed,
        ),
    )
    return OK


def _extents_error(rows: Rows, extents: Sequence[ExtentWrite]) -> tuple[int, int]:
    """The errno of extents that cannot be, 0 if they can; and where the last one ends."""
    objects: dict[bytes, ObjectRow | None] = {}
    last = 0
    for extent in extents:
        end = extent.offset + extent.length
        if extent.length == 0:
            return errno.EINVAL, 0
        if end > INTEGER_MAX:
            return errno.EFBIG, 0
        if extent.object not in objects:
            objects[extent.object] = rows.object(extent.object)
        if not usable(objects[extent.object], extent.object_offset, extent.length):
            return STALE, 0
        last = max(last, end)
    return 0, last


def _no_file_error(inode: Inode | None) -> int:
    if inode is None:
        return errno.ENOENT
    return errno.EISDIR if stat.S_ISDIR(inode.mode) else errno.EINVAL
