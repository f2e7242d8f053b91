"""Make a volume of this node a persistent workspace: home, packages and settings that outlive the pod.

Run it in your own image, as init container or entrypoint; it needs Python, and nothing of the mount. `archive` and
`restore` move a workspace to another node by way of a shared volume. docs/workspace.md has recipes.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
import time
import uuid
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import s3vfs
from s3vfs.cli.arguments import add_json, add_store_options, checked, parse_count, parse_seconds
from s3vfs.cli.sizes import format_count, format_size
from s3vfs.errors import UsageError, WorkspaceError
from s3vfs.workspace.archive import Archived, ArchiveOptions, Progress, Surroundings, archive
from s3vfs.workspace.boot import Installer, boot
from s3vfs.workspace.environment import (
    PROFILE_DIRECTORY,
    environment_text,
    python_version,
    run_inside,
    write_environment,
    write_home_profile,
    write_profile,
)
from s3vfs.workspace.home import Filling, default_source, fill_home
from s3vfs.workspace.layout import DEFAULT_DIRECTORY, VARIABLE, Workspace, workspace_at
from s3vfs.workspace.meter import Meter
from s3vfs.workspace.reach import DEFAULT_PATH, reached
from s3vfs.workspace.restore import Restored, check_archive, restore
from s3vfs.workspace.tree import Copied

EXAMPLES = """\
  s3vfs workspace init /workspace
  s3vfs workspace init /mnt/volume --home-at-root
  s3vfs workspace env /workspace
  s3vfs workspace boot /workspace --time-limit 120
  s3vfs workspace run -- jupyter lab
  s3vfs workspace run --start -- sleep infinity
  s3vfs workspace archive /shared/workspaces/anna /workspace
  s3vfs workspace restore /shared/workspaces/anna /workspace
  s3vfs workspace archive s3://bucket/volume --path workspaces/anna
"""

_PATTERN_HELP = "leave out paths below the home that match, * matches / too; may be given again"


def configure(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    init = actions.add_parser("init", help="copy the image's home to the volume, once", allow_abbrev=False)
    _add_directory(init)
    _add_filling(init)
    add_json(init)

    env = actions.add_parser("env", help="write the settings that shells and programs read", allow_abbrev=False)
    _add_directory(env)
    _add_home_at_root(env)
    _add_environment(env)
    env.add_argument("--mounted-at", metavar="DIR", default="", help="where the volume will be, if not where it is now")
    env.add_argument("--home-profile", action="store_true", help="add one line to the home's own login profile, too")

    start = actions.add_parser("boot", help="install requirements.txt when it has changed", allow_abbrev=False)
    _add_directory(start)
    _add_boot(start)
    start.add_argument("--python", default="python3", help="whose packages they are [python3]")
    start.add_argument("--strict", action="store_true", help="exit code 1 when it did not end well")

    run = actions.add_parser("run", help="run a program with the settings", allow_abbrev=False)
    run.add_argument("--dir", dest="directory", metavar="DIR", default=_default_directory(), help=_directory_help())
    run.add_argument("--start", action="store_true", help="init, env and boot first: for an entrypoint")
    _add_filling(run)
    _add_environment(run)
    _add_boot(run)
    run.add_argument("program", nargs=argparse.REMAINDER, metavar="-- PROGRAM ARGUMENTS")

    out = actions.add_parser("archive", help="copy the workspace to a shared volume", allow_abbrev=False)
    _add_target(out)
    _add_directory(out)
    out.add_argument("--keep", type=checked(parse_count), default=2, metavar="N", help="generations to keep [2]")
    out.add_argument("--overwrite", action="store_true", help="though the archive has what this workspace has not")
    out.add_argument("--full", action="store_true", help="store everything anew, trusting nothing in the archive")
    add_json(out)
    add_store_options(out)

    back = actions.add_parser("restore", help="copy it back, exactly as it was", allow_abbrev=False)
    _add_target(back)
    _add_directory(back)
    back.add_argument("--generation", type=checked(parse_count), metavar="N", help="an older one [the latest]")
    back.add_argument("--replace", action="store_true", help="remove what the directory has and the archive has not")
    back.add_argument("--check", action="store_true", help="only read and verify the archive")
    add_json(back)
    add_store_options(back)


def _default_directory() -> str:
    return os.environ.get(VARIABLE) or DEFAULT_DIRECTORY


def _directory_help() -> str:
    return f"the workspace volume [${VARIABLE}, or {DEFAULT_DIRECTORY}]"


def _add_directory(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", metavar="DIR", nargs="?", default=_default_directory(), help=_directory_help())


def _add_target(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", metavar="URL_OR_DIR", help="a directory on a shared volume, or a volume's URL")
    parser.add_argument("--path", default=DEFAULT_PATH, help=f"directory in the volume of a URL [{DEFAULT_PATH}]")


def _add_home_at_root(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--home-at-root", action="store_true", help="the volume itself will be the home: mounted over /root, say"
    )


def _add_filling(parser: argparse.ArgumentParser) -> None:
    _add_home_at_root(parser)
    parser.add_argument("--from", dest="source", metavar="DIR", type=Path, help="the home to copy [this user's]")
    parser.add_argument("--keep-caches", action="store_true", help="copy ~/.cache, too")
    parser.add_argument("--leave-out", action="append", default=[], metavar="PATTERN", help=_PATTERN_HELP)


def _add_environment(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--profile-d",
        type=Path,
        default=PROFILE_DIRECTORY,
        metavar="DIR",
        help=f"where login shells look, left alone if it cannot be written to [{PROFILE_DIRECTORY}]",
    )
    parser.add_argument("--python", default="python3", help="whose packages they are [python3]")


def _add_boot(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--time-limit", type=checked(parse_seconds), default=300.0, metavar="S", help="[300]")
    parser.add_argument(
        "--pip-option", action="append", default=[], metavar="OPTION", help="as --pip-option=--no-index"
    )


def run(arguments: argparse.Namespace) -> int:
    actions = {
        "init": _init,
        "env": _env,
        "boot": _boot,
        "run": _run,
        "archive": _archive,
        "restore": _restore,
    }
    return actions[arguments.action](arguments)


def _say(line: str) -> None:
    print(f"s3vfs: {line}", file=sys.stderr, flush=True)


# -- init, env, boot, run ---------------------------------------------------------------------------------------------


def _init(arguments: argparse.Namespace) -> int:
    workspace = workspace_at(arguments.directory, home_at_root=arguments.home_at_root)
    source: Path = arguments.source or default_source()
    filling = Filling(source, s3vfs.__version__, arguments.keep_caches, tuple(arguments.leave_out))
    with Meter(sys.stderr, time.monotonic) as meter:

        def on_progress(copied: Copied) -> None:
            meter(lambda: f"copying {source}: {format_count(copied.files)} files, {format_size(copied.copied_bytes)}")

        filled = fill_home(
            workspace,
            filling,
            now_ns=time.time_ns,
            on_wait=lambda: _say(f"another pod is filling {workspace.home}: waiting for it"),
            on_progress=on_progress,
        )
    if filled.losses:
        _say(f"not kept in {workspace.home}: {filled.losses}")
    if getattr(arguments, "json", False):
        print(json.dumps({"home": str(workspace.home), "copied": filled.copied, "marker": filled.marker}))
    elif filled.copied:
        print(f"{workspace.home} is a copy of {source}: {filled.marker['files']} files")
    return 0


def _env(arguments: argparse.Namespace) -> int:
    workspace = workspace_at(arguments.directory, home_at_root=arguments.home_at_root)
    mounted_at = arguments.mounted_at.rstrip("/") or str(workspace.directory)
    if not os.path.isabs(mounted_at):
        raise UsageError(f"--mounted-at {mounted_at} does not begin with /")
    _write_environment(workspace, arguments, mounted_at)
    if arguments.home_profile:
        write_home_profile(workspace, f"{mounted_at}/.s3vfs/env.sh")
    print(f"{workspace.environment}")
    return 0


def _write_environment(workspace: Workspace, arguments: argparse.Namespace, mounted_at: str) -> None:
    if not workspace.directory.is_dir():
        raise WorkspaceError(f"{workspace.directory} is no directory", hint="mount the workspace volume there first")
    write_environment(workspace, environment_text(workspace, python_version(arguments.python), mounted_at))
    write_profile(arguments.profile_d, f"{mounted_at}/.s3vfs/env.sh")


def _boot(arguments: argparse.Namespace) -> int:
    """0 whatever happens (but for --strict): a pod without its packages is better than none."""
    workspace = workspace_at(arguments.directory)
    installer = Installer(
        arguments.python, python_version(arguments.python), arguments.time_limit, tuple(arguments.pip_option)
    )
    try:
        ending = boot(workspace, installer, now_ns=time.time_ns)
    except OSError as error:
        _say(f"requirements.txt is not installed: {error}")
        good = False
    else:
        good = ending.good
        if not good:
            _say(f"requirements.txt is not installed: {ending.value}: see {workspace.boot_log}")
    return 1 if getattr(arguments, "strict", False) and not good else 0


def _run(arguments: argparse.Namespace) -> int:
    program: list[str] = arguments.program
    if program[:1] == ["--"]:
        program = program[1:]
    if not program:
        raise UsageError("no program to run", hint="s3vfs workspace run -- PROGRAM ARGUMENTS")
    if arguments.start:
        _init(arguments)
    workspace = workspace_at(arguments.directory, home_at_root=arguments.home_at_root)
    if arguments.start or not workspace.environment.exists():
        _write_environment(workspace, arguments, str(workspace.directory))
    if arguments.start:
        _boot(arguments)
    sys.stdout.flush()
    run_inside(workspace, program)
    return 0  # not reached: this process is the program now


# -- archive, restore -------------------------------------------------------------------------------------------------


def _reached(arguments: argparse.Namespace, workspace: Workspace, *, read_only: bool) -> AbstractContextManager[Path]:
    names = ("endpoint_url", "region", "profile")
    options = [f"--{name.replace('_', '-')}={value}" for name in names if (value := getattr(arguments, name))]
    return reached(arguments.target, workspace, path=arguments.path, store_options=options, read_only=read_only)


def _archive(arguments: argparse.Namespace) -> int:
    if arguments.keep < 1:
        raise UsageError("--keep 0 would keep nothing")
    workspace = workspace_at(arguments.directory)
    options = ArchiveOptions(arguments.keep, arguments.overwrite, arguments.full)
    surroundings = Surroundings(time.time_ns, lambda: uuid.uuid4().hex, socket.gethostname(), s3vfs.__version__)
    with _reached(arguments, workspace, read_only=False) as place, Meter(sys.stderr, time.monotonic) as meter:
        done = archive(workspace, place, options, surroundings, lambda progress: meter(lambda: _line(progress)))
    if done.unsettled:
        _say(f"{done.unsettled} files were changed whenever they were read: stop what writes them, and archive again")
    _report(
        done, arguments.json, f"generation {done.generation}: {_totals(done)}, {format_size(done.stored_bytes)} new"
    )
    return 0


def _restore(arguments: argparse.Namespace) -> int:
    workspace = workspace_at(arguments.directory)
    with _reached(arguments, workspace, read_only=True) as place, Meter(sys.stderr, time.monotonic) as meter:

        def on_progress(progress: Progress) -> None:
            meter(lambda: _line(progress))

        if arguments.check:
            manifest = check_archive(place, arguments.generation, on_progress)
            done = Restored(manifest.header.archive, manifest.header.generation, manifest.totals, already=True)
            _report(done, arguments.json, f"generation {done.generation} is whole: {_totals(done)}")
            return 0
        done = restore(workspace, place, on_progress, generation=arguments.generation, replace=arguments.replace)
    what = "is here already" if done.already else "is restored"
    _report(done, arguments.json, f"generation {done.generation} {what}: {_totals(done)}")
    if done.losses:
        raise WorkspaceError(f"everything is restored, but not kept: {done.losses}")
    return 0


def _line(progress: Progress) -> str:
    whole = f" of {format_size(progress.total_bytes)}" if progress.total_bytes else ""
    new = f", {format_size(progress.stored_bytes)} new" if progress.stored_bytes else ""
    return f"{format_count(progress.files)} files, {format_size(progress.done_bytes)}{whole}{new}"


def _totals(done: Archived | Restored) -> str:
    return f"{format_count(done.totals.files)} files, {format_size(done.totals.data_bytes)}"


def _report(done: Archived | Restored, as_json: bool, line: str) -> None:
    figures: dict[str, Any] = asdict(done)
    figures.update(figures.pop("totals"))
    print(json.dumps(figures) if as_json else line)
