"""The tests in two processes side by side (pytest-xdist): most wait for daemons, so that one leaves a core idle.

Work is given out a file at a time, in the order that `pytest_collection_modifyitems` makes: those that take a minute
first, those that take seconds last, so that both processes end together.

Each process has a mount namespace of its own, empty of FUSE mounts at first. Tests make further namespaces (pods,
containers, ordinary users), which begin as a copy: with the neighbour's mounts in it, those would live on there after
their unmount, and their daemons with them.

Each process is a process group of its own too. Ctrl-C and the time limit of ./dev reach the first process alone, which
passes one SIGINT on and waits until what was running has been cleared away.

Nothing of this happens without pytest-xdist's -n, as in ./dev test-long.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from s3vfs.fuse.mountinfo import read_mounts

HERE = Path(__file__).parent

# Directories of tests by how long their files take; those named in neither come between.
FIRST = ("image", "workspace", "suites", "acceptance")
LAST = (
    *("simulation", "objects", "data", "filesystem", "journal", "maintenance", "namespace", "proxy", "replica"),
    *("servers", "session"),
)

# Until the processes have stopped, when a run is interrupted. Less than what ./dev gives before it kills.
STOP_TIMEOUT_S = 45.0

_CLONE_NEWNS = 0x00020000
_MS_REC_PRIVATE = 0x4000 | 1 << 18
_MNT_DETACH = 2

# The processes that have not ended their work, each with its id: seen from the first process.
_running: dict[Any, int] = {}
_crashed: list[str] = []


# -- in each of the processes -----------------------------------------------------------------------------------------


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput"):
        os.setpgid(0, 0)
        _leave_mount_namespace()


def _leave_mount_namespace() -> None:
    """For this thread, which runs the tests, and all that it starts. Without root it stays: nobody unshares then."""
    if os.geteuid() != 0:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS) != 0 or libc.mount(b"none", b"/", None, _MS_REC_PRIVATE, None) != 0:
        raise OSError(ctypes.get_errno(), "no mount namespace of its own for a test process")
    for mount in reversed(read_mounts()):
        if mount.ours:
            libc.umount2(os.fsencode(mount.mountpoint), _MNT_DETACH)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A stable order: files stay whole."""

    def place(item: pytest.Item) -> int:
        directory = item.path.relative_to(HERE).parts[0]
        if directory in FIRST:
            return FIRST.index(directory)
        return len(FIRST) + (1 + LAST.index(directory) if directory in LAST else 0)

    items.sort(key=place)


# -- in the first process ---------------------------------------------------------------------------------------------


@pytest.hookimpl(optionalhook=True)
def pytest_testnodeready(node: Any) -> None:
    _running[node] = node.gateway._io.popen.pid  # execnet has no public name for it


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object | None) -> None:
    _running.pop(node, None)
    if error:
        _crashed.append(node.gateway.id)


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Any:
    """What a process reports travels as UTF-8; names of files that are none come out escaped."""
    return _printable((yield))


def _printable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {_printable(key): _printable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_printable(item) for item in value)
    return value


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Before pytest-xdist ends the processes, which it kills after 10 s. One that crashed between two tests fails the
    run as well."""
    if exitstatus in (pytest.ExitCode.INTERRUPTED, pytest.ExitCode.INTERNAL_ERROR):
        for pid in _running.values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGINT)
        ends_s = time.monotonic() + STOP_TIMEOUT_S
        for node in _running:
            with contextlib.suppress(Exception):  # a process that dies instead has stopped too
                node.channel.waitclose(max(0.0, ends_s - time.monotonic()))
    elif exitstatus == pytest.ExitCode.OK and _crashed:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
