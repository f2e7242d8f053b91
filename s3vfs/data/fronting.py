"""Which inodes' writes may be taken by the front, before the daemon's own code sees them.

The front (fuse/native/front.c) stores the bytes in the working file and notes them in the range log, as
`Contents.write` would, and says so before any other code of the trio thread runs. It is given an inode when a new file
is created, or after a write that went the long way, and loses it (`WorkingFile.halt`) to whatever else is done to the
file: the next write goes the long way again. So everything that needs a decision, or has to wait, is decided there:
the version that the first change is made on, room for unpublished bytes, privileges that a write takes away, objects
that have settled, a working file that a kernel uses.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping

from s3vfs.data.openfile import OpenFile
from s3vfs.data.protocol import MIB, DataSession, Front, Sizes, Stream
from s3vfs.data.room import Room
from s3vfs.data.working import WorkingFile
from s3vfs.namespace.names import NEW_VERSION
from s3vfs.namespace.rows import Inode, Rows

# Bytes that are taken out of the room for unpublished ones for the front; when less than the second is left, more are.
_ALLOWANCE_BYTES = 4 * MIB
_LEAST_BYTES = MIB

_PRIVILEGES = stat.S_ISUID | stat.S_ISGID


class Fronting:
    """One for each `Contents`, working on its files."""

    def __init__(self, session: DataSession, files: Mapping[int, OpenFile], room: Room, sizes: Sizes) -> None:
        self._session = session
        self._files = files
        self._room = room
        self._sizes = sizes
        self.front: Front | None = None

    def created(self, file: OpenFile, inode: Inode) -> None:
        """A new file, empty and without attributes, that somebody is about to write to."""
        if self.front is None or not self._may_have(file, inode) or not self._allow():
            return
        working = file.working
        if working.stream is None:
            working.stream = self.front.stream(file.ino)
        working.base_version = inode.version
        if working.arm_new(self._sizes.object_bytes):
            working.stream.set_plain(not inode.xattrs)

    def prepare(self, working: WorkingFile) -> Stream | None:
        """How the front may write to a file that it makes itself; None: it may not now."""
        if self.front is None or not self._allow():
            return None
        stream = working.stream = self.front.stream(working.ino)
        working.base_version = NEW_VERSION
        working.arm_new(self._sizes.object_bytes)
        stream.set_plain(True)
        return stream

    def wrote(self, file: OpenFile) -> None:
        """The daemon has written to the file: those who go on may be served by the front."""
        working = file.working
        if self.front is None or (working.stream is not None and working.stream.armed):
            return
        with self._session.view() as txn:
            inode = Rows(txn).inode(file.ino)
        if inode is None or working.captured is not None or not self._may_have(file, inode) or not self._allow():
            return
        if working.stream is None:
            working.stream = self.front.stream(file.ino)
        working.arm(self._sizes.object_bytes)

    def _may_have(self, file: OpenFile, inode: Inode) -> bool:
        return (
            not inode.mode & _PRIVILEGES
            and inode.nlink > 0
            and file.working.backed is None
            and not file.lost
            and file.failure is None
            and not file.storing.locked()
            and self._session.refusal() is None
        )

    def _allow(self) -> bool:
        """Whether the front may take some bytes more."""
        assert self.front is not None
        if self.front.allow(0) >= _LEAST_BYTES:
            return True
        if not self._room.admit_at_once(_ALLOWANCE_BYTES):
            return False
        self.front.allow(_ALLOWANCE_BYTES)
        return True

    def reconsider(self, ino: int) -> None:
        """Mode or attributes of the inode may not be any more what they were."""
        file = self._files.get(ino)
        if file is not None and file.working.stream is not None:
            file.working.stream.set_plain(False)
            file.working.halt()

    def closed(self, file: OpenFile) -> None:
        """A handle was. Only who has a file open is told of its attributes without a look at the bucket."""
        if file.working.stream is not None and not file.readers and not file.writers:
            file.working.stream.set_plain(False)
