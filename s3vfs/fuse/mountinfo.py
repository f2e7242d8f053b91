"""What is mounted where: /proc/self/mountinfo, read without touching any mount (a dead one would hang or fail).

Format: proc_pid_mountinfo(5). Paths are text with surrogateescape, as os.fsdecode gives them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

FILE_SYSTEM_TYPE = "fuse.s3vfs"

_ESCAPE = re.compile(rb"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mount:
    """One line. `device` is "major:minor"; `root` is the part of the file system that is visible here ("/": all)."""

    device: str
    root: str
    mountpoint: str
    options: str
    type: str
    source: str
    super_options: str

    @property
    def ours(self) -> bool:
        return self.type == FILE_SYSTEM_TYPE

    @property
    def user_id(self) -> int:
        """The user whose daemon serves a FUSE mount; 0 where the kernel does not say."""
        for option in self.super_options.split(","):
            if option.startswith("user_id="):
                return int(option[8:])
        return 0


def read_mounts() -> list[Mount]:
    """All mounts of this mount namespace, in the kernel's order: a later one covers an earlier one."""
    return parse_mounts(Path("/proc/self/mountinfo").read_bytes())


def parse_mounts(text: bytes) -> list[Mount]:
    """Parse the file's content. Lines that do not have the documented form are left out."""
    mounts = []
    for line in text.splitlines():
        before, separator, after = line.partition(b" - ")
        left, right = before.split(b" "), after.split(b" ")
        if not separator or len(left) < 6 or len(right) < 3:
            continue
        mounts.append(
            Mount(
                device=left[2].decode("ascii"),
                root=_unescape(left[3]),
                mountpoint=_unescape(left[4]),
                options=os.fsdecode(left[5]),
                type=os.fsdecode(right[0]),
                source=_unescape(right[1]),
                super_options=os.fsdecode(right[2]),
            )
        )
    return mounts


def _unescape(field: bytes) -> str:
    return os.fsdecode(_ESCAPE.sub(lambda match: bytes([int(match[1], 8) & 0xFF]), field))


def mount_at(path: str, mounts: Iterable[Mount]) -> Mount | None:
    """The topmost mount exactly at `path` (absolute, normal)."""
    found = None
    for mount in mounts:
        if mount.mountpoint == path:
            found = mount
    return found


def mount_containing(path: str, mounts: Iterable[Mount]) -> Mount | None:
    """The mount that `path` (absolute, normal, without symbolic links) lies in: the longest, then the topmost one."""
    found: Mount | None = None
    for mount in mounts:
        top = mount.mountpoint.rstrip("/")
        inside = path == mount.mountpoint or path.startswith(top + "/")
        if inside and (found is None or len(mount.mountpoint) >= len(found.mountpoint)):
            found = mount
    return found
