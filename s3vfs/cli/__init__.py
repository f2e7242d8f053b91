"""The command line: finds the command, imports only its module, turns errors into one line and an exit code.

Knows what the commands are called, nothing of what they do. A command module has EXAMPLES (text for --help),
`configure` (adds its arguments to a parser) and `run` (does it, returns the exit code, raises S3vfsError).
"""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from typing import Protocol, cast

import s3vfs
from s3vfs.errors import S3vfsError

# What each command is for, in the order of --help. The module has the command's name, with underscores.
COMMANDS = {
    "format": "make a new, empty volume in a bucket",
    "config": "change the name or the quota of a volume",
    "mount": "mount a volume on a directory",
    "umount": "publish everything and unmount",
    "status": "show sessions, pending work, cache, usage and errors",
    "sync": "wait until all acknowledged work is in the bucket",
    "ls": "list the volumes under a bucket or prefix",
    "destroy": "delete a volume and everything in it",
    "evict": "end a dead session",
    "workspace": "keep a home and packages across pods; archive and restore them",
    "install-helper": "make `mount -t fuse.s3vfs` and fstab work",
}
_HIDDEN = ("mount-helper",)  # what mount(8) runs, through the script that install-helper writes

EXIT_CODES = """\
exit codes:
  0  done                                  6  the bucket's conditional writes are unsafe
  1  another error                         7  the volume is damaged
  2  wrong usage                           8  in use: session, mountpoint, or volume already there
  3  no such bucket, volume or mount       9  the volume needs a newer s3vfs
  4  permission denied                    10  acknowledged work is not in the bucket yet (it is kept)
  5  the bucket does not answer          130  interrupted
"""

EXIT_INTERRUPTED = 130

# `s3vfs workspace` runs in images with Python 3.8, which has no groups of exceptions.
_GROUPS: tuple[type[BaseExceptionGroup[BaseException]], ...] = (
    (BaseExceptionGroup,) if sys.version_info >= (3, 11) else ()
)
_EXPLAINED: tuple[type[BaseException], ...] = (Exception, KeyboardInterrupt, *_GROUPS)
_EXIT_BROKEN_PIPE = 128 + signal.SIGPIPE


class Command(Protocol):
    """What a command module offers."""

    EXAMPLES: str

    def configure(self, parser: argparse.ArgumentParser) -> None: ...

    def run(self, arguments: argparse.Namespace) -> int: ...


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; its exit code. Wrong usage, --help and --version leave through SystemExit, as argparse does."""
    top = _top_parser().parse_args(argv)
    if top.command is None:
        _top_parser().print_help()
        return 0
    command = cast(Command, importlib.import_module("s3vfs.cli." + top.command.replace("-", "_")))
    parser = _command_parser(top.command, command)
    given = {name: value for name, value in vars(top).items() if name not in ("command", "arguments")}
    arguments = parser.parse_args(top.arguments, argparse.Namespace(**given))
    try:
        code = command.run(arguments)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # the reader of our output has gone: nothing is left to tell it, at exit neither
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _EXIT_BROKEN_PIPE
    except _EXPLAINED as error:
        if arguments.verbose:
            traceback.print_exception(type(error), error, error.__traceback__)
        line, code = explain(error)
        print(f"s3vfs: {line}", file=sys.stderr)
        return code


def explain(error: BaseException) -> tuple[str, int]:
    """The line that a user sees for an error, and the exit code. Looks into groups, which trio's nurseries raise."""
    found = list(_leaves(error))
    for leaf in found:
        if isinstance(leaf, KeyboardInterrupt):
            return "interrupted", EXIT_INTERRUPTED
    for leaf in found:
        if not isinstance(leaf, (S3vfsError, OSError)):
            return f"unexpected error, please report it (--verbose shows where): {_described(leaf)}", 1
    for leaf in found:
        if isinstance(leaf, S3vfsError):
            return _one_line(str(leaf)), leaf.exit_code
    return _one_line(str(found[0])), 1


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, _GROUPS):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]


def _described(error: BaseException) -> str:
    return _one_line(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _top_parser() -> argparse.ArgumentParser:
    width = max(map(len, COMMANDS)) + 2
    listing = "\n".join(f"  {name:<{width}}{purpose}" for name, purpose in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="s3vfs",
        usage="s3vfs [-h] [--version] [-v] COMMAND ...",
        description="A shared POSIX file system whose only server is a bucket.",
        epilog=f"commands:\n{listing}\n\n`s3vfs COMMAND --help` has the options and examples.\n\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"s3vfs {s3vfs.__version__}")
    parser.add_argument("-v", "--verbose", action="store_true", help="show what happens, and tracebacks of errors")
    for option in ("--endpoint-url", "--region", "--profile"):  # every command that takes a URL shows them
        parser.add_argument(option, default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    parser.add_argument("command", nargs="?", choices=[*COMMANDS, *_HIDDEN], metavar="COMMAND", help=argparse.SUPPRESS)
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return parser


def _command_parser(name: str, command: Command) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"s3vfs {name}",
        description=(command.__doc__ or "").strip(),
        epilog=f"examples:\n{command.EXAMPLES}\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    if name not in _HIDDEN:
        parser.add_argument("-v", "--verbose", action="store_true", help="show what happens, and tracebacks of errors")
    command.configure(parser)
    return parser
