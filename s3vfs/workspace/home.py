"""Fill the home of a workspace from the image's home, once.

The order of what is on disk decides what the next start does, under `Workspace.lock`:

    found                                      what a kill left behind        what is done
    the marker (ours or .packet-init)          all done                       nothing
    no marker, `.s3vfs-init.new` in the home   killed just before the marker  rename it to the marker
    `.s3vfs/home.copied`                       complete copy, not all moved   move the rest, then the marker
    `.s3vfs/home.copying`                      half a copy                    remove it, copy again
    none of these                              first start                    copy

The copy is made in `home.copying`, with the marker's text in `.s3vfs-init.new`; the file system is synced; it is
renamed to `home.copied`, then to `home`; then the text is renamed to the marker. So a home with a marker is complete,
also after a power cut. Where a home is there already without a marker (made by hand, by a volume's subPath, or the
volume itself with --home-at-root), the names that it lacks are moved in one by one and nothing in it is replaced;
`.s3vfs-init.new` goes last.
"""

from __future__ import annotations

import json
import os
import pwd
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from s3vfs.errors import UsageError, WorkspaceError
from s3vfs.workspace.attributes import Losses, give_attributes, read_attributes
from s3vfs.workspace.durable import alone, sync_directory, sync_filesystem, write_durably
from s3vfs.workspace.layout import FOREIGN_MARKER_NAME, MARKER_NAME, STATE_NAME, Workspace
from s3vfs.workspace.tree import Copied, add_missing, copy_tree, remove

MARKER_VERSION = 1
CACHES = (b".cache",)  # what programs make again by themselves

_OURS = frozenset(os.fsencode(n) for n in (MARKER_NAME, MARKER_NAME + ".new", FOREIGN_MARKER_NAME, STATE_NAME))


@dataclass(frozen=True)
class Filling:
    """What to fill a home with. `leave_out`: patterns of paths below the source, `*` matches `/` too."""

    source: Path
    program_version: str
    keep_caches: bool = False
    leave_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class Filled:
    """`copied` is False where the home was complete already; `marker` is what the marker says."""

    copied: bool
    marker: dict[str, Any]
    losses: str = ""


def default_source() -> Path:
    """The home that the image gives to this user. Not $HOME, which may lead into the workspace already."""
    try:
        return Path(pwd.getpwuid(os.geteuid()).pw_dir)
    except KeyError:
        return Path(os.environ.get("HOME", "/"))


def fill_home(
    workspace: Workspace,
    filling: Filling,
    *,
    now_ns: Callable[[], int],
    on_wait: Callable[[], None],
    on_progress: Callable[[Copied], None],
) -> Filled:
    """Make the home complete and mark it. Raises WorkspaceError, UsageError, OSError: then there is no marker."""
    _check(workspace, filling)
    if (done := _complete(workspace)) is not None:
        return done  # without the lock: a complete home on a read-only volume is complete
    workspace.state.mkdir(parents=True, exist_ok=True)
    with alone(workspace.lock, on_wait):
        if (done := _complete(workspace)) is not None:
            return done
        losses = ""
        if not workspace.prepared_marker.exists():
            if not workspace.copied.exists():
                losses = _copy(workspace, filling, now_ns, on_progress)
            losses = "; ".join(filter(None, (losses, _move(workspace))))
        remove(os.fsencode(workspace.copied))
        os.rename(workspace.prepared_marker, workspace.marker)
        _give_times(workspace.home, filling.source)
        sync_directory(workspace.home)
        return Filled(True, _read_marker(workspace.marker), losses)


def _give_times(home: Path, source: Path) -> None:
    """Writing the marker has changed them."""
    if source.is_dir():
        status = source.stat()
        os.utime(home, ns=(status.st_atime_ns, status.st_mtime_ns))


def _check(workspace: Workspace, filling: Filling) -> None:
    if workspace.home_at_root and os.path.realpath(filling.source) == os.path.realpath(workspace.directory):
        raise UsageError(
            f"{filling.source} is the volume itself",
            hint="mount the volume elsewhere in the init container, and name that",
        )
    if not workspace.directory.is_dir():
        raise WorkspaceError(f"{workspace.directory} is no directory", hint="mount the workspace volume there first")
    home = workspace.home
    if home.is_dir() and home.stat().st_dev != workspace.directory.stat().st_dev:
        raise WorkspaceError(f"{home} is a volume of its own", hint=f"s3vfs workspace init {home} --home-at-root")


def _complete(workspace: Workspace) -> Filled | None:
    for marker in (workspace.marker, workspace.foreign_marker):
        if marker.exists():
            return Filled(False, _read_marker(marker))
    return None


def _read_marker(path: Path) -> dict[str, Any]:
    """{} for a foreign one, whose format is not known."""
    try:
        value = json.loads(path.read_bytes())
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _copy(
    workspace: Workspace, filling: Filling, now_ns: Callable[[], int], on_progress: Callable[[Copied], None]
) -> str:
    """Leaves a complete, synced `home.copied`; returns what could not be kept."""
    copying, source = os.fsencode(workspace.copying), os.fsencode(filling.source)
    remove(copying)
    volume = os.stat(workspace.directory)
    patterns = [pattern.encode("utf-8", "surrogateescape") for pattern in filling.leave_out]

    def unwanted(path: bytes) -> bool:
        if path in _OURS or (path in CACHES and not filling.keep_caches):
            return True
        if any(fnmatchcase(path, pattern) for pattern in patterns):
            return True
        status = os.lstat(os.path.join(source, path))
        return (status.st_dev, status.st_ino) == (volume.st_dev, volume.st_ino)  # the workspace inside the home

    if os.path.isdir(source):
        copied = copy_tree(source, copying, unwanted, on_progress)
    else:
        os.mkdir(copying, 0o700)
        copied = Copied(directories=1)
    marker = {
        "version": MARKER_VERSION,
        "s3vfs": filling.program_version,
        "source": str(filling.source),
        "time_ns": now_ns(),
        "files": copied.files,
        "directories": copied.directories,
        "symlinks": copied.symlinks,
        "left_out": copied.left_out,
        "copied_bytes": copied.copied_bytes,
        "not_kept": copied.losses.count,
    }
    write_durably(workspace.copying / workspace.prepared_marker.name, json.dumps(marker, indent=1).encode() + b"\n")
    sync_filesystem(workspace.directory)
    os.rename(workspace.copying, workspace.copied)
    sync_directory(workspace.state)
    return str(copied.losses)


def _move(workspace: Workspace) -> str:
    """From a complete `home.copied` to a home that has everything, `.s3vfs-init.new` included; what was not kept."""
    losses = Losses()
    copied, home = os.fsencode(workspace.copied), os.fsencode(workspace.home)
    if not os.path.lexists(home):
        os.rename(copied, home)
    else:
        prepared = os.fsencode(workspace.prepared_marker.name)
        if workspace.home_at_root:  # it becomes the home: with the home's owner and mode
            give_attributes(home, read_attributes(copied, os.lstat(copied)), losses)
        add_missing(copied, home, prepared)
        sync_filesystem(workspace.directory)
        os.rename(os.path.join(copied, prepared), os.path.join(home, prepared))
    sync_directory(workspace.home)
    sync_directory(workspace.directory)
    return str(losses)
