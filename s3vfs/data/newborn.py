"""Files that the front makes by itself: their local files before, and what becomes of them afterwards.

The front (fuse/native/births.c) takes the next of some prepared files when a program makes one, and says later what has
been done to it.
"""

from __future__ import annotations

import logging

from s3vfs.data.failures import local_disk
from s3vfs.data.fronting import Fronting
from s3vfs.data.openfile import OpenFile
from s3vfs.data.protocol import MIB, Stream
from s3vfs.data.upkeep import Upkeep
from s3vfs.data.working import WorkingFile
from s3vfs.namespace.rows import LeaseId

_log = logging.getLogger(__name__)

# Larger files are closed by the daemon's own code, which may want to wait for the bucket.
_CLOSE_MOST_BYTES = MIB


class Newborn:
    """One for each `Contents`, working on its files."""

    def __init__(self, files: dict[int, OpenFile], upkeep: Upkeep, fronting: Fronting) -> None:
        self._files = files
        self._upkeep = upkeep
        self._fronting = fronting
        self._prepared: dict[int, WorkingFile] = {}
        self._born = 0

    def prepare(self, ino: int) -> Stream | None:
        """A file that nobody has made yet, under a new number: how the front may write to it. None: it may not now."""
        if self._born:
            self._upkeep.spares.look_ahead()
        working = self._upkeep.place(ino)
        stream = self._fronting.prepare(working)
        if stream is not None:
            self._prepared[ino] = working
        return stream

    def unprepare(self, ino: int) -> None:
        """The number is for something else."""
        working = self._prepared.pop(ino)
        with local_disk():
            working.remove()

    def clear(self) -> None:
        """Nobody makes a file any more."""
        for ino in list(self._prepared):
            self.unprepare(ino)

    def born(self, ino: int, *, writable: bool) -> None:
        """It has been made; `writable`: and a handle of it is open."""
        self._born += 1
        file = self._files[ino] = OpenFile(ino, self._prepared.pop(ino))
        if writable:
            file.writers = file.cached = 1

    def closable(self) -> tuple[int, int]:
        """How many bytes may be closed now without waiting, altogether and in one file."""
        return self._upkeep.deferral.room_bytes, _CLOSE_MOST_BYTES

    def closed_ahead(self, ino: int, lease: LeaseId) -> None:
        """A close was answered, under that lease: its bytes leave together with the names, or else as soon as
        possible."""
        file = self._files[ino]
        if not self._upkeep.close_at_once(file, lease):
            _log.info("inode %d: its close was answered, and waits for its record", ino)
            self._upkeep.publish_soon(file)

    def settle(self, ino: int) -> None:
        """All handles that the front has given out are gone again."""
        file = self._files.get(ino)
        if file is None:  # nothing was written to it: its close has let go of it
            return
        self._fronting.closed(file)
        if not file.working.dirty or file.orphan:
            self._upkeep.retire(file)
