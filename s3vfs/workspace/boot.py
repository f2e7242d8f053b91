"""Install what requirements.txt asks for, when it has changed. Never in the way of a pod's start.

Whatever happens is recorded in boot.json, and told; the next boot tries again what did not end well.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from s3vfs.workspace.durable import alone_or_not, read_json, write_json
from s3vfs.workspace.environment import packages_directory
from s3vfs.workspace.layout import Workspace

_LOG_LIMIT_BYTES = 1 << 20
_GRACE_S = 3.0  # from SIGTERM to SIGKILL


class Ending(Enum):
    """How a boot ended."""

    NOTHING = "no requirements.txt"
    UNCHANGED = "installed before, unchanged"
    INSTALLED = "installed"
    FAILED = "failed"
    TIMED_OUT = "timed out"
    BUSY = "another pod is installing"

    @property
    def good(self) -> bool:
        return self in (Ending.NOTHING, Ending.UNCHANGED, Ending.INSTALLED)


@dataclass(frozen=True)
class Installer:
    """`python` runs pip; `version` is its "3.12"; `options` are handed to pip."""

    python: str
    version: str
    limit_s: float
    options: tuple[str, ...] = ()


def boot(workspace: Workspace, installer: Installer, *, now_ns: Callable[[], int]) -> Ending:
    """Install if requirements.txt is not what was installed last. Takes at most the limit and a few seconds.

    Raises OSError where the volume cannot be written to.
    """
    try:
        text = workspace.requirements.read_bytes()
    except FileNotFoundError:
        return Ending.NOTHING
    # An image with another Python needs all of them again: they go to another directory.
    digest = hashlib.sha256(installer.version.encode() + b"\0" + text).hexdigest()
    workspace.state.mkdir(exist_ok=True)
    with alone_or_not(workspace.boot_lock) as lock:
        if lock is None:
            return Ending.BUSY
        last = read_json(workspace.boot_state)
        if last.get("hash") == digest and last.get("status") == Ending.INSTALLED.value:
            return Ending.UNCHANGED
        began_ns = now_ns()
        ending, code = _install(workspace, installer, lock)
        record = {
            "hash": digest,
            "python": installer.version,
            "status": ending.value,
            "exit_code": code,
            "began_ns": began_ns,
            "took_ns": now_ns() - began_ns,
        }
        write_json(workspace.boot_state, record)
        return ending


def _install(workspace: Workspace, installer: Installer, lock: int) -> tuple[Ending, int | None]:
    target = packages_directory(workspace, installer.version)
    command = [installer.python, "-m", "pip", "install", "--no-input", "--disable-pip-version-check", "--upgrade"]
    command += ["--target", str(target), *installer.options, "-r", str(workspace.requirements)]
    log_path = workspace.boot_log
    if log_path.exists() and log_path.stat().st_size > _LOG_LIMIT_BYTES:
        os.replace(log_path, log_path.with_suffix(".log.1"))
    with open(log_path, "ab") as log:
        log.write(f"\n$ {' '.join(command)}\n".encode())
        log.flush()
        try:
            process = subprocess.Popen(
                command,
                cwd=workspace.directory,
                env={**os.environ, "PIP_CACHE_DIR": str(workspace.directory / "pip-cache"), "PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[lock],  # should we be killed, the lock lasts as long as pip does
                start_new_session=True,
            )
        except OSError as error:
            log.write(f"{installer.python}: {error.strerror}\n".encode())
            return Ending.FAILED, None
        try:
            code = process.wait(installer.limit_s)
        except subprocess.TimeoutExpired:
            _end_group(process)
            log.write(f"ended after {installer.limit_s:g} s: the time limit\n".encode())
            return Ending.TIMED_OUT, None
        except BaseException:
            _end_group(process)
            raise
        return (Ending.INSTALLED, code) if code == 0 else (Ending.FAILED, code)


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """pip and the compilers that it has started."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(_GRACE_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
