"""One action in a process of its own: orders on standard input, the result on standard output, both JSON.

The caller's side is `Waiting` and `perform`: it gives an action its time, and ends it when that is over.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import actions

_ROOT = Path(__file__).parents[1]
# A process that hangs in a call to a mount ends with the mount: it is not waited for longer than this.
_END_S = 5.0


@dataclass(frozen=True, slots=True)
class Result:
    began_s: float
    ended_s: float
    figures: dict[str, float] = field(default_factory=dict)
    error: str = ""

    @property
    def took_s(self) -> float:
        return self.ended_s - self.began_s


class Waiting:
    """An action whose process has started and waits for its word: what follows is not delayed by starting Python."""

    def __init__(self, name: str, arguments: dict[str, Any]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.step"],
            cwd=_ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"name": name, "arguments": arguments}) + "\n")
        self._process.stdin.flush()
        self._process.stdout.readline()  # it has imported what it needs

    def go(self, limit_s: float) -> Result:
        """Do it. An error, or an action that took too long, is told in the result, not raised."""
        try:
            output, _ = self._process.communicate("go\n", timeout=limit_s)
        except subprocess.TimeoutExpired:
            return Result(0.0, 0.0, error=f"not done after {limit_s:.0f} s")
        finally:
            self.end()
        try:
            return Result(**json.loads(output))
        except ValueError:
            return Result(0.0, 0.0, error=f"the workload's process ended with {self._process.returncode}")

    def end(self) -> None:
        """Whatever it is doing."""
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)  # its own group: it and the programs that it started
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_END_S)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


def perform(name: str, arguments: dict[str, Any], limit_s: float) -> Result:
    """Start and do it at once."""
    return Waiting(name, arguments).go(limit_s)


def main() -> None:
    order = json.loads(sys.stdin.readline())
    print("ready", flush=True)
    if sys.stdin.readline():
        json.dump(actions.run(order["name"], order["arguments"]), sys.stdout)


if __name__ == "__main__":
    main()
