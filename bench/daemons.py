"""Processes that the bench starts: ended by their id, with what they started; their CPU time; what is mounted."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_MNT_DETACH = 2
POLL_S = 0.02


class StartFailed(Exception):
    """A daemon did not get ready; the message ends with the last lines of its log."""


def _processes() -> dict[int, tuple[int, int, float]]:
    """pid -> (parent, session, CPU seconds of it and of its ended children)."""
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):
                fields = Path("/proc", name, "stat").read_text().rsplit(")", 1)[1].split()
                found[int(name)] = int(fields[1]), int(fields[3]), sum(map(int, fields[11:15])) / _TICKS
    return found


class Daemon:
    """A process in a session of its own. It gets SIGTERM if the bench dies without ending it."""

    def __init__(self, command: list[str | Path], log: Path, environment: dict[str, str]) -> None:
        self.log = log
        dying_with_us = ["setpriv", "--pdeathsig", "TERM"] if shutil.which("setpriv") else []
        with open(log, "ab") as output:
            self._process = subprocess.Popen(
                [*dying_with_us, *map(str, command)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **environment},
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def _family(self) -> dict[int, float]:
        """CPU seconds of the daemon and everything that it started, by pid."""
        processes = _processes()
        family = {self.pid}
        grown = True
        while grown:
            more = {
                pid
                for pid, (parent, session, _) in processes.items()
                if pid not in family and (parent in family or session == self.pid)
            }
            family |= more
            grown = bool(more)
        return {pid: processes[pid][2] for pid in family if pid in processes}

    def cpu_s(self) -> float:
        return sum(self._family().values())

    def wait_ready(self, ready: Callable[[], bool], limit_s: float = 90.0) -> None:
        deadline_s = time.monotonic() + limit_s
        while not ready():
            if self._process.poll() is not None or time.monotonic() > deadline_s:
                lines = self.log.read_text(errors="replace").splitlines()
                raise StartFailed(f"{self.log.stem} did not start: " + " / ".join(lines[-3:])[-400:])
            time.sleep(POLL_S)

    def wait_ended(self, limit_s: float) -> bool:
        """Whether it has ended by itself in this time."""
        deadline_s = time.monotonic() + limit_s
        while self._process.poll() is None or self._family():
            if time.monotonic() > deadline_s:
                return False
            time.sleep(POLL_S)
        return True

    def kill(self) -> None:
        """SIGKILL to it and to all that it started, and wait for the end of it."""
        for pid in self._family():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.wait_ended(10.0)


def is_mounted(path: Path) -> bool:
    """From the kernel's list: nothing is asked of a mount that may hang."""
    wanted = os.fsencode(path)
    lines = Path("/proc/self/mountinfo").read_bytes().splitlines()
    return any(line.split(b" ")[4] == wanted for line in lines)


def detach(path: Path) -> None:
    """umount -l, as often as something is mounted there."""
    libc = ctypes.CDLL(None)
    while is_mounted(path) and libc.umount2(os.fsencode(path), _MNT_DETACH) == 0:
        pass
