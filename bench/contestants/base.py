"""What a contestant is to the bench: something that can make an empty volume and mount it twice on this machine."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from bench.daemons import Daemon, StartFailed, detach, is_mounted
from bench.site import CLIENTS, Site

# Publishing what is pending may take a while at the end of a mount.
UMOUNT_LIMIT_S = 120.0


def program(name: str) -> Path | None:
    """A program of this interpreter's environment, or of the system."""
    found = shutil.which(name, path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")
    return Path(found) if found else None


def run(command: list[str | Path], environment: dict[str, str], limit_s: float = UMOUNT_LIMIT_S) -> None:
    """A program to its end. Raises StartFailed with its last line."""
    words = [str(word) for word in command]
    try:
        done = subprocess.run(words, env={**os.environ, **environment}, capture_output=True, text=True, timeout=limit_s)
    except subprocess.TimeoutExpired:
        raise StartFailed(f"{Path(words[0]).name} {words[1]} took more than {limit_s:.0f} s") from None
    if done.returncode:
        told = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
        raise StartFailed(f"{Path(words[0]).name} {words[1]} ended with {done.returncode}: {told[-1][-300:]}")


class Contestant:
    """One competitor. `name` is what its cells are filed under."""

    name: str
    behind_proxy = True  # else neither delayed nor counted

    def missing(self) -> str:
        """Why it cannot take part on this machine; empty when it can."""
        return ""

    def version(self) -> str:
        return ""

    def volume(self, site: Site, folder: Path) -> Volume:
        """A fresh volume, not yet formatted; `folder` is its own, and empty."""
        raise NotImplementedError


class Volume:
    """An empty volume, and its two mounts `a` and `b`, each with a cache of its own."""

    def __init__(self, site: Site, folder: Path) -> None:
        self.site = site
        self.folder = folder
        self.key = f"{folder.name}-{os.getpid()}"  # a name on the server that nobody else uses
        self._daemons: dict[str, Daemon] = {}
        self._servers: list[Daemon] = []

    # -- what a contestant says -----------------------------------------------------------------------------------

    def format(self) -> None:
        """Make the volume."""

    def command(self, client: str) -> list[str | Path]:
        """The daemon, in the foreground."""
        raise NotImplementedError

    def environment(self, client: str) -> dict[str, str]:
        return self.site.environment(client)

    def umount_command(self, client: str) -> list[str | Path]:
        """What asks for an end at which everything is published."""
        return ["umount", self.path(client)]

    def publish(self) -> None:
        """What has to happen before a second look can count, where there is no second mount (local only)."""

    # -- what all have in common ----------------------------------------------------------------------------------

    def path(self, client: str) -> Path:
        return self.folder / f"mnt-{client}"

    def cache(self, client: str) -> Path:
        return self.folder / f"cache-{client}"

    def serve(self, name: str, command: list[str | Path], *, log: Path | None = None) -> Daemon:
        """A server of the contestant's own, until `close`. Its CPU time counts."""
        daemon = Daemon(command, log or self.folder / f"{name}.log", {})
        self._servers.append(daemon)
        return daemon

    def mount(self, *clients: str) -> None:
        """Returns when all of these answer."""
        for client in clients:
            self._start(client)
        for client in clients:
            self._daemons[client].wait_ready(functools.partial(is_mounted, self.path(client)))
            os.statvfs(self.path(client))

    def _start(self, client: str) -> None:
        self.path(client).mkdir(exist_ok=True)
        self.cache(client).mkdir(exist_ok=True)
        name = type(self).__module__.rpartition(".")[2]
        log = self.folder / f"{name}-{client}.log"
        self._daemons[client] = Daemon(self.command(client), log, self.environment(client))

    def umount(self, client: str) -> None:
        """Unmount and wait until the daemon has ended. Raises StartFailed when that takes too long."""
        run(self.umount_command(client), self.environment(client))
        daemon = self._daemons[client]
        if not daemon.wait_ended(UMOUNT_LIMIT_S):
            raise StartFailed(f"the daemon goes on {UMOUNT_LIMIT_S:.0f} s after umount")
        del self._daemons[client]

    def wipe(self, client: str) -> None:
        """Forget what the client has cached."""
        shutil.rmtree(self.cache(client), ignore_errors=True)

    def cpu_s(self, client: str) -> float:
        """CPU seconds of the client's daemon so far; those of the contestant's own servers count to `a`."""
        own = [self._daemons[client]] if client in self._daemons else []
        return sum(daemon.cpu_s() for daemon in own + (self._servers if client == "a" else []))

    def close(self) -> None:
        """Nothing is left: no mount, no daemon, no file. The volume is thrown away, so nobody is waited for."""
        for client in CLIENTS:
            detach(self.path(client))
        for daemon in [*self._daemons.values(), *self._servers]:
            daemon.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    @contextlib.contextmanager
    def opened(self) -> Iterator[Volume]:
        """Formatted and mounted twice, until the end of the block."""
        try:
            self.format()
            self.mount(*CLIENTS)
            yield self
        finally:
            self.close()
