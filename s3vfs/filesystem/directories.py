"""Reading directories: a stream of any length in constant memory, in name order, stable while others change entries.

A position is the index of an entry in this handle's own listing. What a listing resumes from is never the index but the
name that stood there, so entries that come and go elsewhere move nothing. Names are remembered for the latest positions
(the kernel resumes within its last batch) and for every 1,024th (for seekdir); from one of those, a seek far back
counts forward.
"""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from s3vfs.errors import PosixError
from s3vfs.filesystem.contracts import FileContents, FilesystemSession, Found
from s3vfs.filesystem.core import Core, is_directory
from s3vfs.filesystem.names import parent_of
from s3vfs.namespace.rows import Dentry, Inode, Rows

# Two thousand names are more than the kernel takes in one reply (32 KiB of at least 150 bytes each), twice over.
RECENT_NAMES = 2_048
ANCHOR_EVERY = 1_024
_FIRST = 2  # the position behind "." and ".."

# Takes (name, inode, position behind it); False: it has no more room, and has not taken this one.
Emit = Callable[[bytes, Found, int], bool]


@dataclass(eq=False, slots=True)
class DirectoryHandle:
    """Names by the position behind them. Insertion order is the order of listing."""

    ino: int
    recent: dict[int, bytes] = field(default_factory=dict)
    anchors: dict[int, bytes] = field(default_factory=dict)

    def rewind(self) -> None:
        self.recent.clear()
        self.anchors.clear()

    def note(self, position: int, name: bytes) -> None:
        self.recent[position] = name
        if len(self.recent) > 2 * RECENT_NAMES:
            for old in list(self.recent)[:RECENT_NAMES]:
                del self.recent[old]
        if (position - _FIRST) % ANCHOR_EVERY == 0:
            self.anchors[position] = name

    def resume(self, position: int) -> tuple[int, bytes | None]:
        """A position not behind this one, and the name there; None = the directory's first. EINVAL for a position that
        this handle never gave out."""
        if position <= _FIRST:
            return _FIRST, None
        name = self.recent.get(position)
        if name is not None:
            return position, name
        anchor = (position - _FIRST) // ANCHOR_EVERY * ANCHOR_EVERY + _FIRST
        if anchor == _FIRST:
            return _FIRST, None
        try:
            return anchor, self.anchors[anchor]
        except KeyError:
            raise PosixError(errno.EINVAL) from None


class Directories(Core):
    """The calls that take a directory's handle."""

    def __init__(self, session: FilesystemSession, contents: FileContents, **options: Any) -> None:
        super().__init__(session, contents, **options)
        self._directories: dict[int, DirectoryHandle] = {}
        self._last_directory = 0

    async def opendir(self, ino: int, *, check: Callable[[], Awaitable[None]] | None = None) -> int:
        """A handle for readdir. ENOTDIR; ESTALE for a directory that has been removed. `check` as in `open`."""
        await self._session.reach(ino)
        if check is not None:
            await check()
        with self._session.view() as txn:
            if not is_directory(self._inode(Rows(txn), ino)):
                raise PosixError(errno.ENOTDIR)
        self._last_directory += 1
        self._directories[self._last_directory] = DirectoryHandle(ino)
        return self._last_directory

    async def readdir(self, handle: int, position: int, emit: Emit) -> None:
        """Hand entries behind `position` (0: from the start, as it is now) to `emit` until it has no more room. `.` and
        `..` come first. Every call opens a view of its own; names that stay are given exactly once."""
        directory = self._directory(handle)
        if position == 0:
            directory.rewind()
        with self._session.view() as txn:
            rows = Rows(txn)
            own = rows.inode(directory.ino)
            if own is None:
                return  # removed meanwhile: empty, as everywhere else
            if position < _FIRST and not self._emit_dots(rows, directory.ino, own, position, emit):
                return
            attributes = self._contents.attributes
            for here, name, dentry in _entries(rows, directory, position):
                inode = rows.inode(dentry.ino)
                if inode is None:
                    continue
                if not emit(name, Found(dentry.ino, attributes(dentry.ino, inode)), here):
                    return
                directory.note(here, name)

    def _emit_dots(self, rows: Rows, ino: int, own: Inode, position: int, emit: Emit) -> bool:
        if position < 1 and not emit(b".", Found(ino, own), 1):
            return False
        parent = parent_of(rows, ino)
        return emit(b"..", Found(parent, rows.inode(parent) or own), 2)

    async def releasedir(self, handle: int) -> None:
        self._directory(handle)
        del self._directories[handle]

    async def fsyncdir(self, handle: int) -> None:
        """What was acknowledged before is in the journal. Raises EIO where changes of it were lost (R10)."""
        await self._session.barrier(self._directory(handle).ino)

    def _directory(self, handle: int) -> DirectoryHandle:
        directory = self._directories.get(handle)
        if directory is None:
            raise PosixError(errno.EBADF)
        return directory


def _entries(rows: Rows, directory: DirectoryHandle, position: int) -> Iterator[tuple[int, bytes, Dentry]]:
    """(position behind it, name, entry) from `position` on."""
    here, after = directory.resume(position)
    for name, dentry in rows.entries(directory.ino, after):
        here += 1
        if here > position:
            yield here, name, dentry
