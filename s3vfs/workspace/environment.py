"""The settings of a workspace as one shell file, `.s3vfs/env.sh`, and the ways that lead to it.

The file is generated: written as a whole, only when it would be another one, never appended to. It is POSIX sh, can be
read any number of times (nothing is on a path twice) and under `set -eu`, and starts no process: bash reads it before
every script.
"""

from __future__ import annotations

import errno
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from s3vfs.errors import WorkspaceError
from s3vfs.workspace.durable import write_durably
from s3vfs.workspace.layout import VARIABLE, Workspace

PROFILE_DIRECTORY = Path("/etc/profile.d")
PROFILE_NAME = "s3vfs-workspace.sh"
_MARK = "# s3vfs workspace"
_PROFILES = (".bash_profile", ".bash_login", ".profile")  # a login bash reads the first that exists

_TEMPLATE = """\
# Written by `s3vfs workspace env`, and again when it would be another one. Your own settings: env.user.sh beside it.
{variable}={directory}
export {variable}

if [ -d "${variable}{home}" ] && [ -w "${variable}{home}" ]; then
    HOME=${variable}{home}
    export HOME
fi

# _s3vfs_front VALUE NEW: VALUE with NEW, one directory or several, at its front, unless it is in there already.
_s3vfs_front() {{
    case ":$1:" in
        *":$2:"*) _s3vfs_path=$1 ;;
        *) _s3vfs_path=$2${{1:+:$1}} ;;
    esac
}}

# Compiled packages fit one version of Python: they have a directory of their own, which is looked into first.
_s3vfs_front "${{PATH:-/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin}}" \\
    "${variable}/bin:${variable}/pip-packages-{python}/bin:${variable}/pip-packages/bin"
PATH=$_s3vfs_path
export PATH
_s3vfs_front "${{PYTHONPATH:-}}" "${variable}/pip-packages-{python}:${variable}/pip-packages"
PYTHONPATH=$_s3vfs_path
export PYTHONPATH
unset _s3vfs_path
unset -f _s3vfs_front

PIP_CACHE_DIR=${variable}/pip-cache
export PIP_CACHE_DIR
CONDA_ENVS_PATH=${variable}/envs
export CONDA_ENVS_PATH
CONDA_PKGS_DIRS=${variable}/envs/.pkgs
export CONDA_PKGS_DIRS
HF_HOME=${variable}/huggingface
export HF_HOME

# bash reads this file before every script from here on.
BASH_ENV=${variable}/.s3vfs/env.sh
export BASH_ENV

if [ -r "${variable}/.s3vfs/env.user.sh" ]; then
    . "${variable}/.s3vfs/env.user.sh"
fi
"""


def python_version(python: str) -> str:
    """ "3.12" of the interpreter that users call `python`; of our own where there is none."""
    try:
        done = subprocess.run(
            [python, "-I", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=30,
        )
    except (OSError, subprocess.TimeoutExpired):
        done = None
    if done is None or done.returncode != 0:
        return "{}.{}".format(*sys.version_info[:2])
    return done.stdout.strip()


def packages_directory(workspace: Workspace, version: str) -> Path:
    """Where packages for this version of Python are."""
    return workspace.directory / f"pip-packages-{version}"


def environment_text(workspace: Workspace, version: str, mounted_at: str = "") -> str:
    """env.sh. `mounted_at`: where the volume is when the file is read, if not where it is now."""
    directory = mounted_at or str(workspace.directory)
    if ":" in directory:
        raise WorkspaceError(f"{directory} has a colon in its name", hint="it cannot be on PATH; mount it elsewhere")
    return _TEMPLATE.format(
        variable=VARIABLE,
        directory=shlex.quote(directory),
        home="" if workspace.home_at_root else "/home",
        python=version,
    )


def write_environment(workspace: Workspace, text: str) -> bool:
    """True when it was written, False when it was there already. Raises OSError."""
    workspace.state.mkdir(parents=True, exist_ok=True)
    (workspace.directory / "bin").mkdir(exist_ok=True)
    if _is(workspace.environment, text):
        return False
    write_durably(workspace.environment, text.encode())
    return True


def _is(path: Path, text: str) -> bool:
    try:
        return path.read_text() == text
    except FileNotFoundError:
        return False


def write_profile(directory: Path, environment: str) -> bool:
    """Let every login shell read `environment`. False where `directory` is missing or not ours to write to."""
    path = directory / PROFILE_NAME
    text = f"{_hook(environment)}\n"
    try:
        if not _is(path, text):
            write_durably(path, text.encode())
    except (FileNotFoundError, PermissionError):
        return False
    except OSError as error:
        if error.errno == errno.EROFS:
            return False
        raise
    return True


def write_home_profile(workspace: Workspace, environment: str) -> Path:
    """One line in the file that a login shell of this home reads; added once, other lines are left as they are."""
    path = next((found for name in _PROFILES if (found := workspace.home / name).exists()), workspace.home / ".profile")
    former = path.read_bytes() if path.exists() else b""
    if _MARK.encode() not in former:
        separator = b"" if not former or former.endswith(b"\n") else b"\n"
        mode = path.stat().st_mode & 0o7777 if path.exists() else 0o644
        write_durably(path, former + separator + _hook(environment).encode() + b"\n", mode)
    return path


def _hook(environment: str) -> str:
    quoted = shlex.quote(environment)
    return f"if [ -r {quoted} ]; then . {quoted}; fi  {_MARK}"


def run_inside(workspace: Workspace, command: Sequence[str]) -> None:
    """Become `command`, with the settings of env.sh. Returns never; raises OSError."""
    script = '. "$1"; shift; exec "$@"'
    os.execvp("sh", ["sh", "-c", script, "s3vfs-workspace", str(workspace.environment), *command])
