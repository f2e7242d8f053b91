"""The directory that an archive is in: one that is there, or one on a volume that is mounted for the time of the work.

Knows of the mount only that there are commands `s3vfs mount` and `s3vfs umount`.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from s3vfs.errors import UsageError, WorkspaceError
from s3vfs.workspace.durable import alone
from s3vfs.workspace.layout import Workspace
from s3vfs.workspace.tree import remove

DEFAULT_PATH = "workspace-archive"  # in a volume that is named by its URL
_CACHE_SIZE = "1GiB"  # each byte is read or written once


@contextlib.contextmanager
def reached(
    target: str, workspace: Workspace, *, path: str, store_options: Sequence[str], read_only: bool
) -> Iterator[Path]:
    """The archive's directory, for a directory or a URL. After the block everything written there is in the bucket.

    `path` (in the volume) and `store_options` (--endpoint-url ...) are for URLs. Raises UsageError, WorkspaceError.
    """
    if "://" not in target:
        yield Path(os.path.realpath(target))
        return
    inside = Path(path.strip("/"))
    if ".." in inside.parts or not inside.parts:
        raise UsageError(f"--path {path!r} is no directory below the volume's root")
    workspace.state.mkdir(parents=True, exist_ok=True)
    transfer = workspace.transfer
    with alone(workspace.mount_lock, lambda: None):
        mountpoint = transfer / "mnt"
        if os.path.ismount(mountpoint):  # an earlier run was killed
            # Should this fail, either the next mount goes on with what is in the cache, or it says what is wrong.
            with contextlib.suppress(WorkspaceError):
                _command("umount", str(mountpoint))
        with contextlib.suppress(FileExistsError):  # also a mount whose daemon is dead, which `mount` clears away
            os.makedirs(mountpoint)
        options = [f"--cache-dir={transfer / 'cache'}", f"--cache-size={_CACHE_SIZE}", *store_options]
        _command("mount", target, str(mountpoint), *options, *(["--read-only"] if read_only else []))
        try:
            yield mountpoint / inside
        finally:
            _command("umount", str(mountpoint))
        remove(os.fsencode(transfer))


def _command(*words: str) -> None:
    """Run s3vfs. Raises WorkspaceError with what it said."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "s3vfs", *words], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()
        said = lines[-1].replace("s3vfs: ", "", 1) if lines else f"exit code {done.returncode}"
        raise WorkspaceError(f"s3vfs {words[0]} failed: {said}")
