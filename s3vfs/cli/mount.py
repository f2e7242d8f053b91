"""Mount a volume on a directory.

Returns once the mount answers; the work is done by a process of its own, which ends when the directory is unmounted. A
failure is told in one line and leaves nothing mounted. Options may be given as --long-option or in -o, as in fstab.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import traceback
from dataclasses import replace

from s3vfs.cli import EXIT_INTERRUPTED, explain
from s3vfs.cli.arguments import URL_HELP
from s3vfs.cli.mount_options import OPTIONS, add_mount_options, settings_from, to_arguments
from s3vfs.errors import MountError
from s3vfs.fuse.control import RemoteError
from s3vfs.fuse.mountpoint import check_fuse, resolve
from s3vfs.fuse.settings import MountSettings
from s3vfs.objects.url import parse_url

EXAMPLES = """\
  s3vfs mount file:///srv/volume /mnt/volume
  s3vfs mount s3://bucket/volume /mnt/volume --cache-dir /fast/disk --cache-size 200GiB
  s3vfs mount s3://bucket/volume /mnt/volume --endpoint-url http://127.0.0.1:8333 --read-only
  s3vfs mount s3://bucket/volume /mnt/volume -o freshness=0,noexec
  s3vfs mount file:///srv/volume /mnt/volume --foreground --verbose
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("url", metavar="URL", help=URL_HELP)
    parser.add_argument("mountpoint", metavar="MOUNTPOINT", help="an empty directory")
    add_mount_options(parser)
    parser.add_argument("--foreground", action="store_true", help="serve in this process; Ctrl-C unmounts")
    parser.add_argument(
        "-o", dest="dash_o", action="append", default=[], metavar="OPT,OPT=VALUE", help="options as in fstab"
    )
    parser.add_argument("--ready-fd", type=int, default=None, help=argparse.SUPPRESS)


def run(arguments: argparse.Namespace) -> int:
    given = {option.field: getattr(arguments, option.field) for option in OPTIONS}
    settings = settings_from(arguments.url, arguments.mountpoint, arguments.dash_o, given)
    settings = replace(settings, foreground=arguments.foreground, verbose=arguments.verbose)
    if arguments.ready_fd is not None:
        return _serve_and_report(settings, arguments.ready_fd)
    return start_mount(settings)


def start_mount(settings: MountSettings) -> int:
    """Mount as the settings say, in this process or in one of its own; the exit code. Raises S3vfsError."""
    parse_url(settings.url)
    settings = replace(settings, mountpoint=resolve(settings.mountpoint))
    check_fuse(allow_other=settings.allow_other)
    if settings.foreground:
        from s3vfs.fuse.daemon import run_daemon  # late: pyfuse3, trio and lmdb are the daemon's alone

        return run_daemon(settings, lambda: None)
    return _spawn(settings)


def _spawn(settings: MountSettings) -> int:
    """Start the daemon and wait until it serves or has failed."""
    reader, writer = os.pipe()
    # -P: a module in the present directory must not be imported instead of ours.
    command = [sys.executable, "-P", "-m", "s3vfs", "mount", f"--ready-fd={writer}", *to_arguments(settings)]
    with open(reader, "rb") as answers:
        process = subprocess.Popen(
            command, pass_fds=[writer], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True
        )
        os.close(writer)
        try:
            answer = answers.readline()
            if answer:
                message = json.loads(answer)
                if "error" in message:
                    process.wait()
                    raise RemoteError(message["error"], "", message["exit_code"])
                return 0
            code = process.wait()
        except KeyboardInterrupt:
            process.send_signal(signal.SIGTERM)
            process.wait()
            raise
    how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
    raise MountError(
        f"the mount's daemon ended {how} before it could serve", hint="try again with --foreground --verbose"
    )


def _serve_and_report(settings: MountSettings, ready_fd: int) -> int:
    """The daemon's own side of `_spawn`: one line into the pipe, then on without a terminal."""
    reported = False

    def report(message: dict[str, object]) -> None:
        nonlocal reported
        if not reported:
            reported = True
            os.write(ready_fd, json.dumps(message).encode() + b"\n")
            os.close(ready_fd)

    def ready() -> None:
        nothing = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1, 2):
            os.dup2(nothing, standard)
        os.close(nothing)
        report({"mounted": os.getpid()})

    os.chdir("/")
    try:
        from s3vfs.fuse.daemon import run_daemon  # late: see start_mount

        return run_daemon(settings, ready)
    except (Exception, KeyboardInterrupt, BaseExceptionGroup) as error:
        line, code = explain(error)
        if code == EXIT_INTERRUPTED or reported:
            return code
        if settings.verbose:
            traceback.print_exception(error)  # stderr still is the caller's
        report({"error": line, "exit_code": code})
        return code
