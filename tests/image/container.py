"""Runs an image's file system as a container engine would, as far as mounts need: namespaces for mounts and processes,
a chroot, /dev, /proc, the environment of the image, and a directory of this machine for its volume.

    with Container(root, config, cache, ["tini", "--", "sleep", "infinity"]) as container:
        container.run("s3vfs", "--version")

Everything in it ends with the `with` block: the kernel kills a process namespace with its first process.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.image.builder import ImageConfig

START_TIMEOUT_S = 30.0
COMMAND_TIMEOUT_S = 120.0

_ENTER = """\
set -eu
root=$1 cache=$2
shift 2
mount --bind "$root" "$root"
mount --bind /dev "$root/dev"
mount -t proc proc "$root/proc"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mkdir -p "$root/var/cache/s3vfs"
mount --bind "$cache" "$root/var/cache/s3vfs"
exec chroot "$root" "$@"
"""


class Container:
    """One container. `run` is what `docker exec` is."""

    def __init__(self, root: Path, config: ImageConfig, cache: Path, command: list[str]) -> None:
        cache.mkdir(exist_ok=True)
        self._begin(root, {"HOME": "/root", **config.environment}, _ENTER, [str(cache), *command])

    def _begin(self, root: Path, environment: dict[str, str], script: str, arguments: list[str]) -> None:
        self.root = root
        self._environment = environment
        enter = ["unshare", "--mount", "--propagation=private", "--pid", "--fork", "--kill-child"]
        self._outside = subprocess.Popen(
            [*enter, "sh", "-c", script, "sh", str(root), *arguments],
            stdin=subprocess.DEVNULL,
            env={**os.environ, **self._environment},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._outside.poll() is None:
            self._outside.kill()
        self._outside.wait()

    def run(
        self, *command: str, check: bool = True, timeout_s: float = COMMAND_TIMEOUT_S
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside. Raises CalledProcessError (unless `check` is off), after printing what it said."""
        done = subprocess.run(
            ["nsenter", f"--target={self._first_process()}", "--mount", "--pid", "--root", "--wd", "--", *command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            env=self._environment,
        )
        if check and done.returncode != 0:
            print(done.stdout, done.stderr, sep="\n")
            done.check_returncode()
        return done

    def shell(self, script: str, *, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.run("sh", "-euc", script, check=check)

    def stop(self, timeout_s: float) -> int:
        """SIGTERM to the first process, as `docker stop` does; the exit code."""
        os.kill(self._first_process(), signal.SIGTERM)
        return self._outside.wait(timeout_s)

    def wait_for(self, script: str, timeout_s: float) -> None:
        """Return when the shell script answers 0."""
        deadline = time.monotonic() + timeout_s
        while (done := self.shell(script, check=False)).returncode != 0:
            assert time.monotonic() < deadline, done
            select.select([], [], [], 0.1)

    def _first_process(self) -> int:
        """Its process id outside, once it has entered the root."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            assert self._outside.poll() is None, f"the container ended with {self._outside.returncode}"
            children = Path(f"/proc/{self._outside.pid}/task/{self._outside.pid}/children").read_text().split()
            if children and os.path.realpath(f"/proc/{children[0]}/root") == str(self.root):
                return int(children[0])
            select.select([], [], [], 0.02)
        raise AssertionError("the container does not start")
