"""Publish everything and unmount.

Waits, with a progress bar, until all acknowledged work is in the bucket, then unmounts, and waits for the daemon to
end. Exit code 0: everything is in the bucket and the session has ended. 10: unmounted, but some work is not in the
bucket; it is kept on local disk (the message says where) and the next mount with the same cache goes on with it.
"""

from __future__ import annotations

import argparse
import json
import os
import time

from s3vfs.cli.arguments import add_json
from s3vfs.cli.progress import Progress
from s3vfs.cli.running import RunningMount, mount_of
from s3vfs.errors import MountError, Unpublished
from s3vfs.fuse.control import DaemonGone, RemoteError
from s3vfs.fuse.mountpoint import NoMount, resolve, unmount

EXAMPLES = """\
  s3vfs umount /mnt/volume
"""

# After its last answer the daemon only closes files.
_EXIT_TIMEOUT_S = 30.0


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("mountpoint", metavar="MOUNTPOINT")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    mountpoint = resolve(arguments.mountpoint)
    running = mount_of(mountpoint)
    if running.mountpoint != mountpoint:
        raise NoMount(arguments.mountpoint)
    if running.record is None or running.dead:
        return _remove_dead(running)
    try:
        with Progress("publishing") as progress:
            result = running.call("umount", progress)
    except RemoteError as error:
        if error.exit_code == Unpublished.exit_code:
            _wait_for_exit(running.record.pid)
        raise
    except DaemonGone:
        # The daemon ended without telling how: only the session directory knows what is left.
        raise Unpublished(
            f"the daemon of {mountpoint} ended before it had confirmed that everything is published",
            hint=f"mount again with the same cache to go on; its work is kept in {running.record.session_directory}",
        ) from None
    _wait_for_exit(running.record.pid)
    if arguments.json:
        print(json.dumps(result))
    return 0


def _remove_dead(running: RunningMount) -> int:
    """Unmount what no daemon serves any more."""
    if not running.dead:
        running.call("status")  # raises: it cannot be found
    unmount(running.mountpoint, lazy=True)
    kept = running.record.session_directory if running.record else "the session directory in the cache"
    raise Unpublished(
        f"{running.mountpoint} is unmounted, but its daemon had died: perhaps not everything is published",
        hint=f"mount again with the same cache to publish what may be left in {kept}",
    )


def _wait_for_exit(pid: int) -> None:
    """Return when the daemon has ended, so that the same directory can be mounted at once."""
    deadline = time.monotonic() + _EXIT_TIMEOUT_S
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except OSError:
            return
        time.sleep(0.02)
    raise MountError(f"the mount's daemon (process {pid}) has unmounted but does not end", hint="see its log")
