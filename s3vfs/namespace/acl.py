"""POSIX access control lists (acl(5)): their form, and how they live with modes. Pure, decides nothing about who may.

The mode is the only truth of what it can say: the rights of the owner, of the mask and of all others. A stored access
ACL adds what a mode cannot: the owning group's own rights and the named users and groups. So a chmod needs to change no
ACL, and whichever of chmod and setfacl comes later in the journal wins, whoever the authors are. `shown` puts both
together again. A default ACL has no mode beside it and is kept as it is.

The form is the kernel's xattr: 4 bytes version, then entries of tag (2), rights (2) and id (4), little-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

from msgspec.structs import replace

from s3vfs.namespace.rows import Inode, MutableRows, Rows, xattr_key

ACCESS = b"system.posix_acl_access"
DEFAULT = b"system.posix_acl_default"
NAMES = frozenset({ACCESS, DEFAULT})

USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER = 1, 2, 4, 8, 16, 32

_VERSION = struct.pack("<I", 2)
_ENTRY = struct.Struct("<HHI")
_UNDEFINED_ID = 2**32 - 1
# What may follow what: owner, named users, owning group, named groups, mask, others.
_ORDER = (USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER)
_ONCE = (USER_OBJ, GROUP_OBJ, OTHER)
_SHIFT = {USER_OBJ: 6, MASK: 3, OTHER: 0}  # where the mode has the entry's rights


class Entry(NamedTuple):
    """`who` is a uid or gid for USER and GROUP; of the others it means nothing."""

    tag: int
    rights: int
    who: int


def parse(value: bytes) -> tuple[Entry, ...] | None:
    """The entries, none for an empty ACL (which says: remove it). None for what is no valid ACL, by the kernel's rules:
    in order; owner, group and others exactly once; a mask where users or groups are named."""
    if value[:4] != _VERSION or len(value) % _ENTRY.size != 4:
        return None
    entries = tuple(Entry(*fields) for fields in _ENTRY.iter_unpack(value[4:]))
    if not entries:
        return entries
    tags = [entry.tag for entry in entries]
    if any(tag not in _ORDER for tag in tags) or any(entry.rights & ~7 for entry in entries):
        return None
    places = [_ORDER.index(tag) for tag in tags]
    if places != sorted(places) or any(tags.count(tag) != 1 for tag in _ONCE) or tags.count(MASK) > 1:
        return None
    named = [entry for entry in entries if entry.tag in (USER, GROUP)]
    if any(entry.who == _UNDEFINED_ID for entry in named) or (named and MASK not in tags):
        return None
    return entries


def encode(entries: Sequence[Entry]) -> bytes:
    """The one form of these entries: ids only where they mean something."""
    return _VERSION + b"".join(
        _ENTRY.pack(tag, rights, who if tag in (USER, GROUP) else _UNDEFINED_ID) for tag, rights, who in entries
    )


def is_minimal(entries: Sequence[Entry]) -> bool:
    """Whether a mode can say all of it."""
    return all(entry.tag in _ONCE for entry in entries)


def permissions(entries: Sequence[Entry]) -> int:
    """The nine mode bits: the group's are those of the mask, where there is one."""
    group_tag = GROUP_OBJ if is_minimal(entries) else MASK
    shifts = {USER_OBJ: 6, group_tag: 3, OTHER: 0}
    if all(entry.tag != group_tag for entry in entries):  # named entries always come with a mask
        raise ValueError("not a valid ACL")
    return sum(entry.rights << shifts[entry.tag] for entry in entries if entry.tag in shifts)


def shown(value: bytes, mode: int) -> bytes:
    """A stored access ACL as it is now: with the mode's rights for owner, mask and others."""
    entries = parse(value) or ()
    return encode(
        [entry._replace(rights=mode >> _SHIFT[entry.tag] & 7) if entry.tag in _SHIFT else entry for entry in entries]
    )


def inherit(default: bytes, mode: int) -> tuple[int, bytes | None]:
    """What a new inode gets from its directory's default ACL: its mode, and its access ACL where the mode is not all.
    `mode` is the one asked for, without umask: the creator's wish limits the inherited rights, the umask does not."""
    entries = parse(default) or ()
    kept = permissions(entries) & mode | mode & ~0o777
    return kept, None if is_minimal(entries) else encode(entries)


def default_of(rows: Rows, ino: int, directory: Inode) -> bytes | None:
    """A directory's default ACL."""
    return rows.xattr(ino, DEFAULT) if directory.xattrs else None


def store(rows: MutableRows, ino: int, inode: Inode, name: bytes, value: bytes | None) -> Inode:
    """Put or remove (None) one ACL row. The inode is returned with its new count, not written."""
    there = rows.xattr(ino, name) is not None
    if value is not None:
        rows.txn.put(xattr_key(ino, name), value)
    elif there:
        rows.delete(xattr_key(ino, name))
    return replace(inode, xattrs=inode.xattrs + (value is not None) - there)
