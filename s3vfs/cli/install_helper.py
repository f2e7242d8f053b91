"""Make `mount -t fuse.s3vfs` and fstab work, by writing /sbin/mount.fuse.s3vfs (needs root).

Then a line of /etc/fstab may say:

  s3://bucket/volume  /mnt/volume  fuse.s3vfs  _netdev,nofail,cache_size=200GiB  0  0

The helper calls the Python that this command runs with; install again when that one moves.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path

from s3vfs.errors import S3vfsError, UsageError

EXAMPLES = """\
  s3vfs install-helper
  s3vfs install-helper --remove
"""

HELPER = Path("/sbin/mount.fuse.s3vfs")
_MARK = "# written by `s3vfs install-helper`"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--remove", action="store_true", help="take the helper away again")
    parser.add_argument("--path", type=Path, default=HELPER, help=f"write it elsewhere [{HELPER}]")


def run(arguments: argparse.Namespace) -> int:
    path: Path = arguments.path
    try:
        if path.exists() and _MARK not in path.read_text(errors="replace"):
            raise UsageError(f"{path} exists and is not ours", hint="move it away first")
        if arguments.remove:
            path.unlink(missing_ok=True)
            return 0
        fresh = path.with_name(path.name + ".new")
        fresh.write_text(helper_script(sys.executable))
        fresh.chmod(0o755)
        os.replace(fresh, path)
    except PermissionError as error:
        raise S3vfsError(f"{path}: {error.strerror}", hint="run as root") from None
    print(f"{path} is installed: mount -t fuse.s3vfs URL DIR -o OPTIONS works now")
    return 0


def helper_script(python: str) -> str:
    """The script's text. mount(8) may call it with an empty environment."""
    return f'#!/bin/sh\n{_MARK}\nexec {shlex.quote(python)} -P -m s3vfs mount-helper "$@"\n'
