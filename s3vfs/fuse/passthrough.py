"""Passthrough of one mount: whether this machine has it, and the files that the kernel uses by itself.

Needs Linux 6.9, a daemon with CAP_SYS_ADMIN, the native extension, and local files that lie on no stacked file system
(overlayfs). Knows no policy: who is served so is `data.lending`'s to say.
"""

from __future__ import annotations

import logging
import os
import tempfile
from pathlib import Path

from s3vfs.fuse.libfuse import interpose, missing

_log = logging.getLogger(__name__)


class Passthrough:
    """`folder`: where the files lie. `writes`: for writers, too. `refused`: why there is none, for people; empty while
    there is."""

    def __init__(self, io: str, folder: Path) -> None:
        self._folder = folder
        self.writes = io == "passthrough"
        self.refused = "the mount has not answered yet"
        self.wanted = False
        if io not in ("auto", "passthrough"):
            self.refused = f"not asked for (--io {io})"
        elif interpose is None:
            self.refused = f"the native extension is missing ({missing})"
        elif os.geteuid() != 0:
            self.refused = "only root may"
        else:
            self.wanted = True

    @property
    def available(self) -> bool:
        return not self.refused

    def probe(self) -> None:
        """Once the mount answers: does the kernel take a file? Blocks for a moment."""
        if not self.wanted:
            return
        assert interpose is not None
        if not interpose.passthrough():
            self.refused = "the kernel does not offer it (Linux 6.9 and newer do)"
        else:
            try:
                with tempfile.TemporaryFile(dir=self._folder) as file:
                    interpose.backing_close(interpose.backing_open(file.fileno()))
                self.refused = ""
            except OSError as error:
                self.refused = f"the kernel refuses files in {self._folder}: {error.strerror}"
        if self.refused:
            _log.info("no passthrough: %s", self.refused)

    def register(self, fd: int) -> int:
        """The kernel's number for an open file. Raises OSError."""
        assert interpose is not None
        backing: int = interpose.backing_open(fd)
        return backing

    def withdraw(self, backing: int) -> None:
        """No further handle gets it; those that have it go on. After the mount's end nothing is left to withdraw."""
        assert interpose is not None
        if interpose.passthrough():
            interpose.backing_close(backing)

    def carry(self, handle: int, backing: int, *, direct: bool) -> None:
        """The reply that comes next, and gives out `handle`, makes the kernel use that file for it; `direct`: for its
        mappings only."""
        assert interpose is not None
        interpose.carry(handle, backing, direct)
