"""Where suites run: a local directory, and mounts of a volume on file:// and on SeaweedFS.

All of it lies in one directory that other users may enter, unlike pytest's own temporary ones: suites also run as an
unprivileged user, because root is refused nothing and skips what tests permissions.
"""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.mounted import Mount
from tests.suites import unprivileged
from tests.suites.unprivileged import NOBODY

# A suite that hangs is to end before the test that runs it does.
LIMIT_S = 500.0
LONG_LIMIT_S = 3000.0


@dataclass(frozen=True)
class Place:
    """A directory to run suites in. `store` is "local" or what the mounted volume is kept in."""

    store: str
    path: Path
    mount: Mount | None = None
    _numbers: itertools.count[int] = field(default_factory=itertools.count, repr=False)

    def fresh(self, name: str, *, nobody: bool = False) -> Path:
        """A new empty directory."""
        made = self.path / f"{name}-{next(self._numbers)}"
        made.mkdir()
        if nobody:
            os.chown(made, NOBODY, NOBODY)
        return made


def run(
    command: Sequence[str | os.PathLike[str]],
    cwd: Path,
    *,
    nobody: bool = False,
    limit_s: float = LIMIT_S,
    environment: dict[str, str] | None = None,
) -> tuple[int, str]:
    """The command's exit code and all that it printed. Its temporary directory is `cwd`. `nobody`: without any
    privilege."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "AWS_", "XDG_"))}
    variables |= {"TMPDIR": str(cwd), "HOME": str(cwd), "PYTHONDONTWRITEBYTECODE": "1", **(environment or {})}
    arguments = [os.fspath(word) for word in command]
    if nobody:
        arguments = _as_nobody(arguments)
    with tempfile.TemporaryFile() as out:
        process = subprocess.Popen(
            arguments, cwd=cwd, env=variables, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
        )
        try:
            process.wait(limit_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            out.write(f"\n[ended: it took more than {limit_s} s]\n".encode())
        out.seek(0)
        return process.returncode, out.read().decode(errors="replace")


def _as_nobody(arguments: list[str]) -> list[str]:
    return ["unshare", "--mount", "--propagation", "private", sys.executable, unprivileged.__file__, *arguments]
