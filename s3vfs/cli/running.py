"""From a path to the daemon that serves it. Blocks; asks no mount before it is known to be alive."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from s3vfs.errors import MountError
from s3vfs.fuse.control import DaemonGone, call
from s3vfs.fuse.mountinfo import Mount, mount_containing, read_mounts
from s3vfs.fuse.mountpoint import Health, NoMount, health
from s3vfs.fuse.registry import MountRecord, find


@dataclass(frozen=True, slots=True)
class RunningMount:
    """A mount, and what its daemon has written about itself (None where that is not visible from here)."""

    mount: Mount
    record: MountRecord | None

    @property
    def mountpoint(self) -> str:
        return self.mount.mountpoint

    @property
    def dead(self) -> bool:
        return health(self.mountpoint) is Health.DEAD

    def call(self, command: str, on_progress: Callable[[dict[str, Any]], None] | None = None) -> dict[str, Any]:
        """Ask the daemon. Raises RemoteError, MountError for a dead daemon or one that cannot be reached."""
        if self.record is not None:
            try:
                return call(self.record.socket, command, on_progress)
            except DaemonGone:
                if not self.dead:
                    raise
        if self.dead:
            kept = f"; unpublished work is kept in {self.record.session_directory}" if self.record else ""
            raise MountError(
                f"the daemon of {self.mountpoint} is dead{kept}", hint="mount it again: the new mount goes on with it"
            )
        raise MountError(
            f"the daemon of {self.mountpoint} cannot be found",
            hint="run this as the user who mounted it, outside of any container",
        )


def mount_of(path: str) -> RunningMount:
    """The mount of ours that `path` lies in. Raises NoMount."""
    mounts = read_mounts()
    mount = mount_containing(os.path.abspath(path), mounts)
    if mount is None or not mount.ours:
        mount = mount_containing(os.path.realpath(path), mounts)
    if mount is None or not mount.ours:
        raise NoMount(path)
    return RunningMount(mount, find(mount.device, mount.user_id))


def is_url(text: str) -> bool:
    return "://" in text
