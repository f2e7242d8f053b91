"""What a record changed, in the terms of those who cache: read off the keys that apply wrote."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass, field

from s3vfs.namespace import acl
from s3vfs.namespace.rows import LeaseId

_U64 = struct.Struct(">Q")
_TWO_U64 = struct.Struct(">QQ")
_LEASE = struct.Struct(">QI")


@dataclass(slots=True)
class Changes:
    """Inodes and names whose rows changed. `contents`: inodes whose extents did; they are in `inodes` too. `links`:
    (inode, directory, name) of links made or gone; whoever gave out a name for an inode learns here that it may no
    longer hold. `acls`: inodes with an ACL made, changed or gone; they are in `inodes` too. `locks`: inodes whose locks
    changed, or who waits for them; nothing else about them need have. `leases`: those that came or went, or cover more
    directories or fewer; `recalls`: those that were asked back, answered BUSY, or went after that; `covers`:
    directories that came under a lease or from under one."""

    dentries: set[tuple[int, bytes]] = field(default_factory=set)
    links: set[tuple[int, int, bytes]] = field(default_factory=set)
    inodes: set[int] = field(default_factory=set)
    contents: set[int] = field(default_factory=set)
    orphans: set[int] = field(default_factory=set)
    acls: set[int] = field(default_factory=set)
    locks: set[int] = field(default_factory=set)
    leases: set[LeaseId] = field(default_factory=set)
    recalls: set[LeaseId] = field(default_factory=set)
    covers: set[int] = field(default_factory=set)


def changes_of(keys: Iterable[bytes]) -> Changes:
    """Sort written and deleted keys by what they mean to a cache."""
    changes = Changes()
    for key in keys:
        tag = key[:1]
        if tag == b"D":
            changes.dentries.add((_U64.unpack_from(key, 1)[0], key[9:]))
        elif tag == b"I" or tag == b"A":
            ino = _U64.unpack_from(key, 1)[0]
            changes.inodes.add(ino)
            if tag == b"A" and key[9:] in acl.NAMES:
                changes.acls.add(ino)
        elif tag == b"P":
            ino, parent = _TWO_U64.unpack_from(key, 1)
            changes.links.add((ino, parent, key[17:]))
        elif tag == b"X":
            ino = _U64.unpack_from(key, 1)[0]
            changes.contents.add(ino)
            changes.inodes.add(ino)
        elif tag == b"U":
            changes.orphans.add(_U64.unpack_from(key, 1)[0])
        elif tag == b"K" or tag == b"W":
            changes.locks.add(_U64.unpack_from(key, 1)[0])
        elif tag == b"G":
            changes.leases.add(_LEASE.unpack_from(key, 1))
        elif tag == b"C":
            changes.recalls.add(_LEASE.unpack_from(key, 1))
        elif tag == b"L":
            changes.covers.add(_U64.unpack_from(key, 1)[0])
    return changes
