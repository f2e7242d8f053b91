"""What a figure is worthless without: the machine, its system, the commit, the date."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import datetime
from pathlib import Path

_ROOT = Path(__file__).parents[1]


def _first(path: str, start: str) -> str:
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip().strip('"') for line in lines if line.startswith(start)), "")


def commit() -> str:
    """The checkout's commit, with a + when files differ from it; empty outside of a checkout."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(_ROOT), *arguments], capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else ""

    short = git("rev-parse", "--short", "HEAD")
    return short + ("+" if short and git("status", "--porcelain", "--untracked-files=no") else "")


def facts() -> dict[str, str]:
    memory_kib = int((_first("/proc/meminfo", "MemTotal").split() or ["0"])[0])
    return {
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "machine": f"{os.cpu_count()} cores, {_first('/proc/cpuinfo', 'model name') or platform.machine()}, "
        f"{memory_kib / (1 << 20):.0f} GiB",
        "load": f"{os.getloadavg()[0]:.1f}",  # others' work: a figure of a busy machine is to be known as such
        "kernel": platform.release(),
        "python": platform.python_version(),
        "commit": commit(),
    }
