"""Directories that were removed through this mount while somebody may still stand in them.

Their rows are gone at once, everywhere: nothing can be reached through them. But fstat(2) of a descriptor, or stat(".")
of a process whose working directory was removed, still has an answer on a local file system, so it has one here: what
the directory was last, with no links. Removed through another machine, it is ESTALE, as on NFS.
"""

from __future__ import annotations

from msgspec.structs import replace

from s3vfs.namespace.rows import Inode

# Nobody tells when the last descriptor or working directory has gone; the newest ones are kept, at some 300 bytes each.
KEPT = 1_024


class RemovedDirectories:
    """What the newest ones were last."""

    def __init__(self) -> None:
        self._inodes: dict[int, Inode] = {}

    def removed(self, ino: int, last: Inode, time_ns: int) -> None:
        self._inodes[ino] = replace(last, nlink=0, ctime_ns=time_ns)
        if len(self._inodes) > KEPT:
            del self._inodes[next(iter(self._inodes))]

    def get(self, ino: int) -> Inode | None:
        return self._inodes.get(ino)

    def change(self, ino: int, inode: Inode) -> None:
        """Attributes of a removed directory live here alone."""
        self._inodes[ino] = inode
