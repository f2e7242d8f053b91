"""Spilling: work that cannot go on is kept where its user finds it, named in status and in the log (R13).

    spill/<utc time>-<n>/
        bytes           what was written, at its file offsets (sparse); not there for changes of names and attributes
        about.json      path, inode, reason, ranges; or the changes, in words

Blocks for as long as the local disk does. Knows nothing of sessions and of the bucket.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_log = logging.getLogger(__name__)
_COPY_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Spilled:
    """One spilled file. `path`: where it stood in the volume, as far as known. `ranges`: (offset, length) of what had
    not been published; the rest of `bytes` is only context."""

    folder: Path
    path: bytes
    ino: int
    reason: str
    ranges: tuple[tuple[int, int], ...]
    changes: tuple[str, ...] = ()


class Spill:
    """The spill directory of one session directory. `wall_ns` names the folders."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def keep(
        self, *, path: bytes, ino: int, reason: str, ranges: Sequence[tuple[int, int]], source: Path, wall_ns: int
    ) -> Spilled:
        """Copy `ranges` of the file `source` (all of it when empty) to a new spill folder, lastingly, and log it.

        Raises OSError when the local disk does not take it: the source is untouched then.
        """
        folder = self._new_folder(wall_ns)
        kept = tuple(ranges) or ((0, source.stat().st_size),)
        with open(source, "rb") as reader, open(folder / "bytes", "wb") as writer:
            for offset, length in kept:
                reader.seek(offset)
                writer.seek(offset)
                while length > 0 and (part := reader.read(min(length, _COPY_BYTES))):
                    writer.write(part)
                    length -= len(part)
            writer.flush()
            os.fsync(writer.fileno())
        spilled = Spilled(folder, path, ino, reason, kept)
        self._describe(spilled)
        _log.error("kept unpublished bytes of %s in %s: %s", os.fsdecode(path) or f"inode {ino}", folder, reason)
        return spilled

    def keep_changes(self, *, changes: Sequence[str], reason: str, wall_ns: int) -> Spilled:
        """Keep a list of acknowledged changes of names and attributes, lastingly, and log it. Raises OSError."""
        folder = self._new_folder(wall_ns)
        spilled = Spilled(folder, b"", 0, reason, (), tuple(changes))
        self._describe(spilled)
        _log.error("%d acknowledged changes were lost, listed in %s: %s", len(changes), folder, reason)
        return spilled

    def _new_folder(self, wall_ns: int) -> Path:
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(wall_ns // 10**9))
        number = 0
        while True:
            folder = self._root / f"{stamp}-{number}"
            try:
                folder.mkdir(parents=True)
            except FileExistsError:
                number += 1
            else:
                return folder

    def _describe(self, spilled: Spilled) -> None:
        fields = {
            "format": 1,
            "path": os.fsdecode(spilled.path),
            "ino": spilled.ino,
            "reason": spilled.reason,
            "ranges": spilled.ranges,
            "changes": spilled.changes,
        }
        with open(spilled.folder / "about.json", "w", errors="surrogateescape") as file:
            json.dump(fields, file, ensure_ascii=True)
            file.flush()
            os.fsync(file.fileno())
        for folder in (spilled.folder, self._root):
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def list(self) -> list[Spilled]:
        """All that is kept, oldest first. A folder without a readable description (the disk filled up while it was
        written) is listed too, with that as its reason."""
        if not self._root.is_dir():
            return []
        found = []
        for folder in sorted(self._root.iterdir()):
            try:
                fields = json.loads((folder / "about.json").read_text())
                ranges = tuple((int(offset), int(length)) for offset, length in fields["ranges"])
                found.append(
                    Spilled(
                        folder,
                        os.fsencode(fields["path"]),
                        int(fields["ino"]),
                        str(fields["reason"]),
                        ranges,
                        tuple(str(change) for change in fields.get("changes", ())),
                    )
                )
            except (OSError, ValueError, KeyError, TypeError) as error:
                found.append(Spilled(folder, b"", 0, f"no description: {error}", ()))
        return found
