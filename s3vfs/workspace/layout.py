"""Where things are in a workspace. Paths only: nothing is read but what tells one layout from the other."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

DEFAULT_DIRECTORY = "/workspace"
VARIABLE = "S3VFS_WORKSPACE"  # set by env.sh: commands inside a workspace need not name it
MARKER_NAME = ".s3vfs-init"
FOREIGN_MARKER_NAME = ".packet-init"  # of another tool that fills homes: a home that has it is complete
STATE_NAME = ".s3vfs"


@dataclass(frozen=True)
class Workspace:
    """A workspace volume at `directory`; its home is `directory/home`, or with `home_at_root` the directory itself."""

    directory: Path
    home_at_root: bool = False

    @property
    def home(self) -> Path:
        return self.directory if self.home_at_root else self.directory / "home"

    @property
    def state(self) -> Path:
        return self.directory / STATE_NAME

    @property
    def marker(self) -> Path:
        """Exists once the home is complete, and never before."""
        return self.home / MARKER_NAME

    @property
    def foreign_marker(self) -> Path:
        return self.home / FOREIGN_MARKER_NAME

    @property
    def prepared_marker(self) -> Path:
        """The marker's text before it counts: where it is in the home, everything else is there too."""
        return self.home / (MARKER_NAME + ".new")

    @property
    def copying(self) -> Path:
        """A copy of the home that is being made; without worth to the next start."""
        return self.state / "home.copying"

    @property
    def copied(self) -> Path:
        """A complete copy of the home, on disk, that is being moved to where it belongs."""
        return self.state / "home.copied"

    @property
    def lock(self) -> Path:
        """Held while the home is filled."""
        return self.state / "lock"

    @property
    def environment(self) -> Path:
        return self.state / "env.sh"

    @property
    def user_environment(self) -> Path:
        """The user's own settings, read last by env.sh, never written by us."""
        return self.state / "env.user.sh"

    @property
    def requirements(self) -> Path:
        return self.directory / "requirements.txt"

    @property
    def boot_state(self) -> Path:
        return self.state / "boot.json"

    @property
    def boot_log(self) -> Path:
        return self.state / "boot.log"

    @property
    def boot_lock(self) -> Path:
        return self.state / "boot.lock"

    @property
    def transfer_lock(self) -> Path:
        """Held while the workspace is archived or restored."""
        return self.state / "transfer.lock"

    @property
    def archive_state(self) -> Path:
        """Which generation of which archive this directory last was equal to."""
        return self.state / "archive.json"

    @property
    def restoring(self) -> Path:
        """Exists while a restore has not come to its end."""
        return self.state / "restoring.json"

    @property
    def transfer(self) -> Path:
        """A temporary mount and its cache."""
        return self.state / "transfer"

    @property
    def mount_lock(self) -> Path:
        """Held as long as the temporary mount is."""
        return self.state / "transfer.mount.lock"

    def is_own(self, path: bytes) -> bool:
        """This path below the directory is this node's own, and in no archive: locks, copies under way, lost+found."""
        head, _, name = path.rpartition(b"/")
        if head != STATE_NAME.encode():
            return path == b"lost+found"
        own = (
            *(self.lock, self.boot_lock, self.transfer_lock, self.mount_lock, self.transfer),
            *(self.copying, self.copied, self.archive_state, self.restoring),
        )
        return name.endswith(b".tmp") or any(name == os.fsencode(found.name) for found in own)


def workspace_at(directory: str | os.PathLike[str], *, home_at_root: bool = False) -> Workspace:
    """The workspace at `directory`, with the layout that its markers show, else the one asked for."""
    path = Path(os.path.abspath(directory))
    if (path / MARKER_NAME).exists():
        return Workspace(path, True)
    if any((path / "home" / name).exists() for name in (MARKER_NAME, FOREIGN_MARKER_NAME)):
        return Workspace(path, False)
    if (path / FOREIGN_MARKER_NAME).exists() and not (path / "home").exists():
        return Workspace(path, True)
    return Workspace(path, home_at_root)
