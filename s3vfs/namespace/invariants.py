"""What must hold between the rows of any base, at any seq. For tests, the simulator and fsck.

Reads only. Needs memory for one number per directory; everything else is looked up row by row.
"""

from __future__ import annotations

import stat
import struct
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

from s3vfs.namespace.digest import digest_of
from s3vfs.namespace.features import LEASES, LOCKS
from s3vfs.namespace.limits import DIRECTORIES_PER_LEASE, INTEGER_MAX, LEASES_PER_SESSION, name_error
from s3vfs.namespace.locks import FCNTL, Claim, conflict, grantable
from s3vfs.namespace.names import DIRECTORY, KIND_SHIFT, KINDS, SYMLINK
from s3vfs.namespace.rows import (
    ROOT_INO,
    SECTOR_BYTES,
    USAGE_KEY,
    VOLUME_KEY,
    CoverRow,
    Extent,
    Inode,
    ObjectRow,
    Rows,
    cover_key,
    encode_row,
    grant_key,
    granted_key,
    held_key,
    hold_key,
    inode_key,
    link_key,
    object_key,
    orphan_key,
    reference_key,
    session_key,
    session_lease_key,
)

_U64 = struct.Struct(">Q")
_TWO_U64 = struct.Struct(">QQ")
_LEASE = struct.Struct(">QI")
_PLACE = struct.Struct(">QQI")
_KNOWN_TAGS = frozenset(b"VZDIPXAORSUHhKWGLglC")
_LAST_KEY = b"\xff"


def problems(rows: Rows, digest: int | None = None) -> Iterator[str]:
    """One line for each contradiction, none for a sound base. `digest`, where given, is compared with the rows'."""
    if rows.volume() is None:
        if next(rows.txn.range(b"", _LAST_KEY), None) is not None:
            yield "there are rows, but no volume row"
        return
    if digest is not None and digest_of(rows.txn.range(b"", _LAST_KEY)) != digest:
        yield "the digest is not that of the rows"
    yield from _unknown_rows(rows)
    yield from _inodes(rows)
    yield from _names(rows)
    yield from _unreachable(rows)
    yield from _strays(rows)
    yield from _objects(rows)
    yield from _sessions(rows)
    yield from _locks(rows)
    yield from _leases(rows)


def _unknown_rows(rows: Rows) -> Iterator[str]:
    for tag in range(256):
        if tag not in _KNOWN_TAGS and tag != _LAST_KEY[0]:
            for key, _ in rows.txn.range(bytes([tag]), bytes([tag + 1])):
                yield f"row {key.hex()} is of no known kind"
    for key in (VOLUME_KEY, USAGE_KEY):
        if rows.txn.get(key) is None:
            yield f"row {key.decode()} is missing"
        for other, _ in rows.txn.range(key + b"\0", bytes([key[0] + 1])):
            yield f"row {other.hex()} is of no known kind"


def _inodes(rows: Rows) -> Iterator[str]:
    """Each inode on its own: links, size, extents, attributes; and usage, their sum."""
    used_bytes = used_inodes = 0
    for key, _ in rows.txn.range(b"I", b"J"):
        ino = _U64.unpack_from(key, 1)[0]
        inode = rows.inode(ino)
        if inode is None:
            continue
        if inode.nlink:
            used_bytes += inode.allocated
            used_inodes += 1
        for problem in (*_links(rows, ino, inode), *_contents(rows, ino, inode)):
            yield f"inode {ino}: {problem}"
        if sum(1 for _ in rows.xattr_names(ino)) != inode.xattrs:
            yield f"inode {ino}: xattrs is {inode.xattrs}, but there are others"
    usage = rows.usage()
    if (usage.bytes, usage.inodes) != (used_bytes, used_inodes):
        yield f"usage is {usage}, but {used_bytes} bytes and {used_inodes} inodes are used"


def _links(rows: Rows, ino: int, inode: Inode) -> Iterator[str]:
    kind = inode.mode >> KIND_SHIFT
    links = sum(1 for _ in rows.links(ino))
    if kind not in KINDS:
        yield f"mode {inode.mode:o} is of no kind"
    if kind == DIRECTORY:
        subdirectories = sum(1 for _, entry in rows.entries(ino) if entry.kind == DIRECTORY)
        if links != (0 if ino == ROOT_INO else 1):
            yield f"a directory with {links} links"
        if inode.nlink != 2 + subdirectories:
            yield f"nlink is {inode.nlink}, but it has {subdirectories} subdirectories"
    elif links != inode.nlink:
        yield f"nlink is {inode.nlink}, but it has {links} links"
    if (inode.nlink == 0) != (rows.orphan(ino) is not None):
        yield f"nlink is {inode.nlink}, orphan: {rows.orphan(ino)}"
    if (kind == SYMLINK) != bool(inode.target):
        yield f"mode {inode.mode:o}, target {inode.target!r}"


def _contents(rows: Rows, ino: int, inode: Inode) -> Iterator[str]:
    if stat.S_ISLNK(inode.mode):
        if inode.size != len(inode.target):
            yield f"size is {inode.size}, but the target has {len(inode.target)} bytes"
    elif not stat.S_ISREG(inode.mode) and inode.size:
        yield f"size is {inode.size}, but it is no file"
    if inode.size > INTEGER_MAX:
        yield f"size is {inode.size}"
    last = allocated = 0
    for offset, extent in rows.extents(ino):
        if offset < last or extent.length < 1:
            yield f"extent at {offset} begins before {last}, or is empty"
        last = offset + extent.length
        allocated += extent.length
        yield from (f"extent at {offset} {problem}" for problem in _extent(rows, ino, offset, extent))
    if last > inode.size:
        yield f"size is {inode.size}, but an extent ends at {last}"
    if allocated != inode.allocated:
        yield f"allocated is {inode.allocated}, but extents have {allocated} bytes"
    if allocated and not stat.S_ISREG(inode.mode):
        yield "extents, but it is no file"


def _extent(rows: Rows, ino: int, offset: int, extent: Extent) -> Iterator[str]:
    target = rows.object(extent.object)
    if target is None:
        yield f"points into the unknown object {extent.object.hex()}"
    elif target.condemned:
        yield f"points into the condemned object {extent.object.hex()}"
    elif extent.object_offset + extent.length > target.size:
        yield f"points behind the end of object {extent.object.hex()}"
    if rows.txn.get(reference_key(extent.object, ino, offset)) is None:
        yield "has no reverse reference"


def _names(rows: Rows) -> Iterator[str]:
    """D and P rows name each other, and inodes that are there and of that kind."""
    for key, _ in rows.txn.range(b"D", b"E"):
        parent, name = _U64.unpack_from(key, 1)[0], key[9:]
        entry = rows.dentry(parent, name)
        if entry is None:
            continue
        directory, inode = rows.inode(parent), rows.inode(entry.ino)
        if directory is None or directory.mode >> KIND_SHIFT != DIRECTORY:
            yield f"entry {name!r} is in {parent}, which is no directory"
        if inode is None or inode.mode >> KIND_SHIFT != entry.kind:
            yield f"entry {name!r} in {parent} names {entry}, which is missing or of another kind"
        if name_error(name):
            yield f"entry {name!r} in {parent} has an impossible name"
        if rows.txn.get(link_key(entry.ino, parent, name)) is None:
            yield f"entry {name!r} in {parent} has no link row"
    for key, _ in rows.txn.range(b"P", b"Q"):
        ino, parent = _TWO_U64.unpack_from(key, 1)
        entry = rows.dentry(parent, key[17:])
        if entry is None or entry.ino != ino:
            yield f"link {key[17:]!r} of {ino} in {parent} has no entry"


def _unreachable(rows: Rows) -> Iterator[str]:
    """Every directory is below the root: no cycles, no islands."""
    reached = {ROOT_INO}
    if rows.inode(ROOT_INO) is None:
        yield "there is no root"
    for key, _ in rows.txn.range(b"D", b"E"):
        entry = rows.dentry(_U64.unpack_from(key, 1)[0], key[9:])
        if entry is None or entry.kind != DIRECTORY:
            continue
        path: set[int] = set()
        ino: int | None = entry.ino
        while ino is not None and ino not in reached and ino not in path:
            path.add(ino)
            ino = next((parent for parent, _ in rows.links(ino)), None)
        if ino in reached:
            reached |= path
        else:
            yield f"directory {entry.ino} cannot be reached from the root"


def _strays(rows: Rows) -> Iterator[str]:
    """Rows of inodes that are not there; holds that stand on one side only."""
    for tag in b"XAU":
        last = -1
        for key, _ in rows.txn.range(bytes([tag]), bytes([tag + 1])):
            ino = _U64.unpack_from(key, 1)[0]
            if ino != last and rows.txn.get(inode_key(ino)) is None:
                yield f"row {key.hex()} belongs to inode {ino}, which is missing"
            last = ino
    for ino, orphan in rows.orphans():
        if next(rows.links(ino), None) is not None:
            yield f"orphan {ino} ({orphan}) has links"
    for key, _ in rows.txn.range(b"H", b"I"):
        ino, sid = _TWO_U64.unpack_from(key, 1)
        if rows.txn.get(held_key(sid, ino)) is None or rows.txn.get(session_key(sid)) is None:
            yield f"hold of {ino} by {sid} stands on one side only, or its session has ended"
        if rows.txn.get(orphan_key(ino)) is None:
            yield f"hold of {ino} by {sid}, but it is no orphan"
    for key, _ in rows.txn.range(b"h", b"i"):
        sid, ino = _TWO_U64.unpack_from(key, 1)
        if rows.txn.get(hold_key(ino, sid)) is None:
            yield f"hold of {ino} by {sid} stands on one side only"


def _objects(rows: Rows) -> Iterator[str]:
    for key, _ in rows.txn.range(b"O", b"P"):
        object_id = key[1:]
        row = rows.object(object_id)
        if row is not None:
            yield from (f"object {object_id.hex()}: {problem}" for problem in _object(rows, object_id, row))
    for key, _ in rows.txn.range(b"R", b"S"):
        if rows.txn.get(object_key(key[1:17])) is None:
            yield f"reference {key.hex()} is to an unknown object"


def _object(rows: Rows, object_id: bytes, row: ObjectRow) -> Iterator[str]:
    references = live_bytes = 0
    for ino, offset, reference in rows.references(object_id):
        references += 1
        live_bytes += reference.length
        extent = next(rows.extents(ino, offset, offset + 1), None)
        if extent != (offset, Extent(reference.length, object_id, reference.object_offset)):
            yield f"reference from {ino} at {offset} is not what stands there"
    if (row.references, row.live_bytes) != (references, live_bytes):
        yield f"claims {row.references} references, {row.live_bytes} live bytes; has {references}, {live_bytes}"
    if row.condemned and references:
        yield f"condemned at {row.condemned}, but referred to"
    if len(row.checksums) != -(-row.size // SECTOR_BYTES) * 8:
        yield f"{len(row.checksums)} bytes of checksums for {row.size} bytes"


def _sessions(rows: Rows) -> Iterator[str]:
    """Blocks of inode numbers: granted, not used, each to one session."""
    volume = rows.volume()
    next_ino = 0 if volume is None else volume.next_ino
    blocks = sorted((start, end, sid) for sid, row in rows.sessions() for start, end in row.blocks)
    last = 0
    for start, end, sid in blocks:
        if not last <= start < end <= next_ino:
            yield f"block [{start}, {end}) of session {sid} overlaps another's or is none"
        last = end
        for key, _ in rows.txn.range(inode_key(start), inode_key(end)):
            yield f"inode {_U64.unpack_from(key, 1)[0]} is in the unused block of session {sid}"
    for key, _ in rows.txn.range(inode_key(next_ino), b"J"):
        yield f"inode {_U64.unpack_from(key, 1)[0]} has a number that nobody was granted"


def _locks(rows: Rows) -> Iterator[str]:
    """Locks and those who wait: of what is there, apart from each other, and nobody waits for nothing."""
    volume = rows.volume()
    locks, waits = list(rows.all_locks()), list(rows.all_waits())
    if (locks or waits) and not (volume is not None and volume.features >> LOCKS & 1):
        yield "there are locks, but their feature is not switched on"
    claims: list[tuple[int, Claim]] = [*locks, *((waiting.ino, waiting.row) for waiting in waits)]
    for ino, claim in claims:
        if rows.inode(ino) is None or rows.session(claim.sid) is None:
            yield f"inode {ino}, or the session of {claim}, is missing"
        if not 0 <= claim.start <= claim.end <= INTEGER_MAX or claim.kind >> 2 or (claim.kind ^ claim.owner) & FCNTL:
            yield f"inode {ino}: {claim} is impossible"
        if not claim.kind & FCNTL and (claim.start, claim.end) != (0, INTEGER_MAX):
            yield f"inode {ino}: {claim} is of a part of the file"
    for (ino, before), (next_ino, after) in pairwise(locks):
        if ino == next_ino and (before.sid, before.owner) == (after.sid, after.owner):
            touching = after.start == before.end + 1 and after.kind == before.kind
            if after.start <= before.end or touching:
                yield f"inode {ino}: {before} and {after} are not two"
    for ino in sorted({ino for ino, _ in locks} | {waiting.ino for waiting in waits}):
        held = list(rows.locks(ino))
        for number, lock in enumerate(held):
            for other in held[number + 1 :]:
                if conflict(lock, other):
                    yield f"inode {ino}: {lock} and {other} cannot both be held"
        for waiting in grantable(rows, ino):
            yield f"inode {ino}: {waiting} waits for nothing"


def _leases(rows: Rows) -> Iterator[str]:
    """Leases: of live sessions, on live directories, each of these under one; and every row has its counterpart."""
    volume = rows.volume()
    on = volume is not None and volume.features >> LEASES & 1
    owned: Counter[int] = Counter()
    for lease, row in rows.grants():
        owned[row.sid] += 1
        if not on:
            yield f"lease {lease}: the feature is not switched on"
        if rows.session(row.sid) is None:
            yield f"lease {lease}: its session {row.sid} is missing"
        if rows.txn.get(session_lease_key(row.sid, lease)) is None:
            yield f"lease {lease} is missing among those of session {row.sid}"
        directories = list(rows.directories(lease))
        if not len(directories) == row.directories <= DIRECTORIES_PER_LEASE:
            yield f"lease {lease} covers {len(directories)} directories, not {row.directories}"
        for directory in directories:
            if rows.txn.get(cover_key(directory)) != encode_row(CoverRow(*lease)):
                yield f"lease {lease} does not cover {directory}, but names it"
    for directory, cover in rows.covers():
        inode = rows.inode(directory)
        if inode is None or not stat.S_ISDIR(inode.mode):
            yield f"{directory} is covered, but is no directory"
        if rows.txn.get(granted_key((cover.seq, cover.index), directory)) is None:
            yield f"directory {directory} is covered by {cover}, which does not name it"
    for key, _ in rows.txn.range(b"g", b"h"):
        if rows.txn.get(grant_key(_LEASE.unpack_from(key, 1))) is None:
            yield f"row {key.hex()} is of no lease"
    for key, _ in rows.txn.range(b"l", b"m"):
        sid, seq, index = _PLACE.unpack_from(key, 1)
        row_of = rows.grant((seq, index))
        if row_of is None or row_of.sid != sid:
            yield f"row {key.hex()} is of no lease"
    for key, _ in rows.txn.range(b"C", b"D"):
        lease = _LEASE.unpack_from(key, 1)
        recall = rows.recall(lease)
        if rows.grant(lease) is None:
            yield f"row {key.hex()} is of no lease"
        if recall is not None and ((recall.seq, recall.index) <= lease or recall.busy not in (0, recall.seq)):
            yield f"lease {lease}: {recall} is impossible"
    for sid, count in owned.items():
        if count > LEASES_PER_SESSION:
            yield f"session {sid} has {count} leases"
