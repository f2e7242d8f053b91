"""The volume's and the sessions' own ops: FORMAT, ANNOUNCE, RESUME, END, BEAT, CHALLENGE, EVICT, BLOCK, CONFIG,
FEATURE.

Whether a record's session is live, and `last_op` and `last_seq`, are decided for the whole record in apply.
"""

from __future__ import annotations

import errno
import stat

from msgspec.structs import replace

from s3vfs.errors import UnknownFeature
from s3vfs.namespace.features import KNOWN_FEATURES
from s3vfs.namespace.leasing import release_session_leases
from s3vfs.namespace.limits import (
    BLOCK_MAX_INODES,
    BLOCKS_PER_SESSION,
    ID_MAX,
    INCARNATION_MAX,
    INTEGER_MAX,
    LABEL_MAX_BYTES,
)
from s3vfs.namespace.locks import release_session_locks, release_session_waits
from s3vfs.namespace.ops import Announce, Beat, Block, Challenge, Config, End, Evict, Feature, Format, Resume
from s3vfs.namespace.orphans import release_holds
from s3vfs.namespace.rows import (
    FIRST_INO,
    ROOT_INO,
    USAGE_KEY,
    VOLUME_KEY,
    Inode,
    MutableRows,
    SessionRow,
    Usage,
    Volume,
    inode_key,
    session_key,
)
from s3vfs.namespace.verdict import FENCED, OK, STALE, Context, Verdict

UPDATE_HINT = "a newer s3vfs wrote to this volume; update this one"
_BITS_MAX = 62  # masks of features are integers in rows


def format_volume(rows: MutableRows, op: Format, context: Context) -> Verdict:
    """The first rows: volume, usage, root. Only in record 1 and only once (EEXIST); needs no session, since there is no
    volume yet to announce one in."""
    if context.seq != 1 or rows.volume() is not None:
        return Verdict(errno.EEXIST)
    bad = _label_error(op.name) if op.name else errno.EINVAL
    if bad or stat.S_IFMT(op.mode) not in (0, stat.S_IFDIR) or op.mode >> 16 or op.uid > ID_MAX or op.gid > ID_MAX:
        return Verdict(bad or errno.EINVAL)
    rows.put(VOLUME_KEY, Volume(op.name, op.quota_bytes, op.quota_inodes, features=0, epoch=0, next_ino=FIRST_INO))
    rows.put(USAGE_KEY, Usage(0, 1))
    rows.put(
        inode_key(ROOT_INO),
        Inode(
            mode=stat.S_IFDIR | stat.S_IMODE(op.mode),
            uid=op.uid,
            gid=op.gid,
            nlink=2,
            size=0,
            allocated=0,
            atime_ns=op.time_ns,
            mtime_ns=op.time_ns,
            ctime_ns=op.time_ns,
            btime_ns=op.time_ns,
            rdev=0,
            version=1,
            xattrs=0,
            target=b"",
        ),
    )
    return OK


def announce(rows: MutableRows, op: Announce, context: Context) -> Verdict:
    """A new session, incarnation 1 (else EINVAL). EEXIST where this incarnation lives, ESHUTDOWN where another does."""
    row = rows.session(context.sid)
    if row is not None:
        return Verdict(errno.EEXIST if row.incarnation == context.incarnation else FENCED)
    bad = _label_error(op.label)
    if bad or context.incarnation != 1:
        return Verdict(bad or errno.EINVAL)
    rows.put(
        session_key(context.sid),
        SessionRow(
            incarnation=1,
            last_op=0,
            blocks=(),
            born=context.seq,
            last_seq=context.seq,
            label=op.label,
            challenge=0,
        ),
    )
    return OK


def resume(rows: MutableRows, op: Resume, context: Context) -> Verdict:
    """R13: the next incarnation takes over if the stored one is what its author expected; else ESHUTDOWN. Blocks,
    holds, locks and leases go over to it; op numbers begin anew, and nobody waits any more."""
    row = rows.session(context.sid)
    if row is None or row.incarnation != op.expected or context.incarnation != op.expected + 1:
        return Verdict(FENCED)
    rows.put(session_key(context.sid), replace(row, incarnation=context.incarnation, last_op=0, last_seq=context.seq))
    release_session_waits(rows, context.sid)
    return OK


def end(rows: MutableRows, op: End, context: Context) -> Verdict:
    _remove_session(rows, context.sid)
    return OK


def beat(rows: MutableRows, op: Beat, context: Context) -> Verdict:
    """Nothing but a sign of life: the record itself is one."""
    return OK


def challenge(rows: MutableRows, op: Challenge, context: Context) -> Verdict:
    """ESRCH for a session that has ended."""
    row = rows.session(op.sid)
    if row is None:
        return Verdict(errno.ESRCH)
    rows.put(session_key(op.sid), replace(row, challenge=context.seq))
    return OK


def evict(rows: MutableRows, op: Evict, context: Context) -> Verdict:
    """ESRCH for a session that has ended, ESTALE where a record of it followed the challenge or no such challenge
    stands, EINVAL for the author's own session (that is what END is for)."""
    if op.sid == context.sid:
        return Verdict(errno.EINVAL)
    row = rows.session(op.sid)
    if row is None:
        return Verdict(errno.ESRCH)
    # A later challenge by someone else does not spoil this one; an answer would show in last_seq.
    if not row.last_seq < op.challenge <= row.challenge or op.challenge >= context.seq:
        return Verdict(STALE)
    _remove_session(rows, op.sid)
    return OK


def block(rows: MutableRows, op: Block, context: Context) -> Verdict:
    """Inode numbers for the session: [value, value + count). EINVAL for a count out of range, ENOSPC at the end."""
    volume, row = rows.volume(), rows.session(context.sid)
    if volume is None or row is None or not 0 < op.count <= BLOCK_MAX_INODES:
        return Verdict(errno.EINVAL)
    first, after = volume.next_ino, volume.next_ino + op.count
    if after > INTEGER_MAX:
        return Verdict(errno.ENOSPC)
    blocks = row.blocks
    if blocks and blocks[-1][1] == first:
        blocks = blocks[:-1] + ((blocks[-1][0], after),)
    else:
        blocks = (blocks + ((first, after),))[-BLOCKS_PER_SESSION:]
    rows.put(VOLUME_KEY, replace(volume, next_ino=after))
    rows.put(session_key(context.sid), replace(row, blocks=blocks))
    return Verdict(0, first)


def config(rows: MutableRows, op: Config, context: Context) -> Verdict:
    """EINVAL for an empty name, ENAMETOOLONG. A quota below the usage is allowed: it forbids growth only."""
    volume = rows.volume()
    bad = _label_error(op.name) if op.name else 0
    if volume is None or op.name == "" or bad:
        return Verdict(bad or errno.EINVAL)
    rows.put(
        VOLUME_KEY,
        replace(
            volume,
            name=volume.name if op.name is None else op.name,
            quota_bytes=volume.quota_bytes if op.quota_bytes is None else op.quota_bytes,
            quota_inodes=volume.quota_inodes if op.quota_inodes is None else op.quota_inodes,
        ),
    )
    return OK


def feature(rows: MutableRows, op: Feature, context: Context) -> Verdict:
    """Switch rules on, for good; doing it again changes nothing. Raises UnknownFeature for rules that this program
    lacks: its author rightly uses them from here on (R3)."""
    if op.bit > _BITS_MAX or not KNOWN_FEATURES >> op.bit & 1:
        raise UnknownFeature(f"record {context.seq} switches on feature {op.bit}", hint=UPDATE_HINT)
    volume = rows.volume()
    if volume is None:
        return Verdict(errno.EINVAL)
    rows.put(VOLUME_KEY, replace(volume, features=volume.features | 1 << op.bit))
    return OK


def is_identity(sid: int, incarnation: int) -> bool:
    """Whether a header's session can exist at all; nothing checks its numbers before apply does."""
    return 0 < sid <= INTEGER_MAX and 0 < incarnation <= INCARNATION_MAX


def _remove_session(rows: MutableRows, sid: int) -> None:
    release_holds(rows, sid)
    release_session_locks(rows, sid)
    release_session_leases(rows, sid)
    rows.delete(session_key(sid))


def _label_error(label: str) -> int:
    return errno.ENAMETOOLONG if len(label.encode("utf-8", "surrogatepass")) > LABEL_MAX_BYTES else 0
