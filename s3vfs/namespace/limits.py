"""Limits that apply decides by (docs/format.md, section 8), and the arithmetic that keeps values inside them."""

from __future__ import annotations

import errno

NAME_MAX_BYTES = 255  # POSIX NAME_MAX; keys then fit LMDB's 511 bytes
TARGET_MAX_BYTES = 4095  # PATH_MAX without its NUL
XATTR_NAME_MAX_BYTES = 255
XATTR_VALUE_MAX_BYTES = 64 * 1024
INTEGER_MAX = 2**63 - 1  # every integer in a row; also off_t, so the largest file
LINK_MAX = 2**31 - 1
ID_MAX = 2**32 - 1  # uid_t, gid_t and dev_t of the kernel's protocol
OBJECT_MAX_BYTES = 64 << 20  # one GET, one retry
BLOCK_MAX_INODES = 65_536
BLOCKS_PER_SESSION = 64  # bounds the session's row; older blocks are forgotten, their numbers never used
LABEL_MAX_BYTES = 255
INCARNATION_MAX = 2**32 - 1  # eight hex digits in a data key
LOCKS_PER_INODE = 10_000  # this and the next bound what one LOCK or UNLOCK makes every client do
WAITS_PER_INODE = 1_000
PASSES_MAX = 16  # requests that may overtake one that waits, because it waits for their session: namespace.locks
EXTENTS_PER_CLONE = 100_000  # bounds what one small op makes every client do
DIRECTORIES_PER_GRANT = 1_000
DIRECTORIES_PER_LEASE = 10_000  # with those made later: bounds what one RELEASE or REVOKE makes every client do
LEASES_PER_SESSION = 1_000  # the same for END and EVICT, and for the count that every GRANT makes
COVERED_LINKS_MAX = 4  # of an inode that a lease covers, all of them: bounds the work of every op on it


def name_error(name: bytes) -> int:
    """The errno of a name that cannot stand in a directory, 0 for a good one."""
    if len(name) > NAME_MAX_BYTES:
        return errno.ENAMETOOLONG
    if name in (b"", b".", b"..") or b"/" in name or b"\0" in name:
        return errno.EINVAL
    return 0


def later(time_ns: int, old_ns: int) -> int:
    """max(time, old + 1), the rule for ctimes, held inside what a row can carry."""
    return min(max(time_ns, old_ns + 1), INTEGER_MAX)
