"""Publish everything and unmount.

Waits, with a progress bar, until all acknowledged work is in the bucket, then unmounts, and waits for the daemon to
end. Exit code 0: everything is in the bucket and the session has ended. 10: unmounted, but some work is not in the
bucket; it is kept on local disk (the message says where) and the next mount with the same cache goes on with it.
"""

from __future__ import annotations

import argparse
import json
import os
import select
from collections.abc import Callable, Iterator
from contextlib import contextmanager

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
    with _exit_of(running.record.pid) as wait_for_exit:
        try:
            with Progress("publishing") as progress:
                result = running.call("umount", progress)
        except RemoteError as error:
            if error.exit_code == Unpublished.exit_code:
                wait_for_exit()
            raise
        except DaemonGone:
            # It ended without telling how: only the session directory knows what is left.
            raise Unpublished(
                f"the daemon of {mountpoint} ended before it had confirmed that everything is published",
                hint=f"mount again with the same cache to go on with what is in {running.record.session_directory}",
            ) from None
        wait_for_exit()
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


@contextmanager
def _exit_of(pid: int) -> Iterator[Callable[[], None]]:
    """Gives a function that returns when the process, which runs now, has ended: then the same directory can be mounted
    at once. (A pidfd: it tells of an end before the parent has collected it, and never means another process.)"""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        yield lambda: None
        return

    def wait() -> None:
        ended, _, _ = select.select([descriptor], [], [], _EXIT_TIMEOUT_S)
        if not ended:
            raise MountError(f"the mount's daemon (process {pid}) has unmounted but does not end", hint="see its log")

    try:
        yield wait
    finally:
        os.close(descriptor)
