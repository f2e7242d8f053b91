"""Real mounts for tests: one daemon process each, checked through ordinary system calls from the test's process.

A test never serves and uses a mount in one process: that dead-locks. Every mount made here is gone at the end of its
test, whatever happened, and a daemon that logged an error without being expected to fails its test.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

_T = TypeVar("_T")
_COMMAND = (sys.executable, "-m", "s3vfs")
_MNT_DETACH = 2


def eventually(condition: Callable[[], _T], *, within_s: float = 10.0) -> _T:
    """The first true value of `condition`, asked again and again; OSError counts as not yet. Fails after `within_s`."""
    deadline_s = time.monotonic() + within_s
    while True:
        try:
            value = condition()
        except OSError as caught:
            value, error = None, caught
        else:
            error = None
        if value:
            return value  # type: ignore[return-value]
        if time.monotonic() > deadline_s:
            raise AssertionError(f"not within {within_s} s; last: {value!r} {error!r}")
        time.sleep(0.005)


def format_volume(url: str, *arguments: str, environment: dict[str, str] | None = None) -> None:
    """Make a volume at `url`."""
    subprocess.run(
        [*_COMMAND, "format", url, *arguments], check=True, capture_output=True, env=_environment(environment)
    )


def _environment(more: dict[str, str] | None) -> dict[str, str]:
    return {**os.environ, **(more or {})}


def differs_with_passthrough(what: str) -> pytest.MarkDecorator:
    """For a test of something that docs/semantics.md takes back for mounts with `--io passthrough`."""
    return pytest.mark.xfail(os.environ.get("S3VFS_TEST_IO") == "passthrough", reason=f"docs/semantics.md: {what}")


class Mount:
    """One mount of `url`. `path` is its mountpoint; it can be used once `start` has returned.

    `options` are those of `s3vfs mount`. The same object can be started again after a kill: its cache, and with it its
    session, is the same then. `command` and
    `environment`: what is started, and what it finds there besides ours.
    """

    def __init__(
        self, url: str, folder: Path, *options: str, environment: dict[str, str] | None = None, quiet: bool = True
    ) -> None:
        self.url = url
        self.path = folder / "mnt"
        self.cache = folder / "cache"
        self.log = folder / "daemon.log"
        self.errors = folder / "stderr"
        self._log_from = 0
        self.quiet = quiet
        self.command = _COMMAND
        self._options = options
        self.environment = environment
        self._process: subprocess.Popen[bytes] | None = None
        self.path.mkdir(parents=True)

    def start(self) -> Mount:
        """Mount, and return when the mount answers. Fails with the daemon's log otherwise."""
        self._log_from = len(self.log_text())
        with open(self.errors, "ab") as errors:
            self._process = subprocess.Popen(
                [
                    *(*self.command, "mount", self.url, str(self.path), "--foreground"),
                    *("--cache-dir", str(self.cache), "--log-file", str(self.log)),
                    *self._options,
                    *self._io(),
                ],
                env=_environment(self.environment),
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
            )
        eventually(self._is_up, within_s=90)
        return self

    def _io(self) -> tuple[str, ...]:
        """S3VFS_TEST_IO=passthrough (front, python) runs tests that do not choose for themselves that way."""
        chosen = os.environ.get("S3VFS_TEST_IO", "")
        return ("--io", chosen) if chosen and "--io" not in self._options else ()

    def _is_up(self) -> bool:
        if self.process.poll() is not None:
            raise AssertionError(f"the daemon ended with {self.process.returncode}:\n{self.errors.read_text()}")
        return any(line.get("message") == "mounted" for line in self.log_lines(self.log_text()[self._log_from :]))

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "not started"
        return self._process

    # -- what the daemon says -----------------------------------------------------------------------------------------

    def log_text(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def log_lines(self, text: str | None = None) -> list[dict[str, object]]:
        """The log (or this part of it) as dictionaries."""
        lines = []
        for line in (self.log_text() if text is None else text).splitlines():
            with contextlib.suppress(ValueError):
                lines.append(json.loads(line))
        return lines

    def anonymous_bytes(self) -> int:
        """RssAnon of the daemon: memory that is nobody's cache."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("no RssAnon")

    # -- what befalls it ----------------------------------------------------------------------------------------------

    def kill(self) -> None:
        """kill -9, and clear the dead mount away: open handles give ENOTCONN from here on."""
        self.process.kill()
        self.process.wait()
        self.detach()

    def freeze(self) -> None:
        """SIGSTOP: the daemon answers nothing until `thaw`."""
        os.kill(self.process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.process.pid, signal.SIGCONT)

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        self.freeze()
        try:
            yield
        finally:
            self.thaw()

    def sync(self) -> None:
        """`s3vfs sync`: returns when all that this mount has answered is in the bucket."""
        subprocess.run([*_COMMAND, "sync", str(self.path)], check=True, capture_output=True)

    def umount(self) -> int:
        """`s3vfs umount`: returns the daemon's exit code, after everything has been published."""
        subprocess.run([*_COMMAND, "umount", str(self.path)], check=True, capture_output=True)
        return self.process.wait(60)

    def detach(self) -> None:
        """umount -l, without asking the daemon."""
        libc = ctypes.CDLL(None)
        while libc.umount2(os.fsencode(self.path), _MNT_DETACH) == 0:
            pass

    def clear(self) -> None:
        """Whatever state it is in: no daemon and no mount is left."""
        if self._process is not None and self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                self.thaw()
            self.detach()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self.detach()


class Volume:
    """A formatted volume in a directory, and the mounts that a test makes of it."""

    def __init__(self, folder: Path, url: str = "", environment: dict[str, str] | None = None) -> None:
        self.folder = folder
        self.url = url or f"file://{folder}/bucket"
        self._environment = environment
        self.mounts: list[Mount] = []
        if not url:
            (folder / "bucket").mkdir()
        format_volume(self.url, environment=environment)

    def mount(self, *options: str, quiet: bool = True) -> Mount:
        """A new client. `quiet`: errors in its log are not expected."""
        folder = self.folder / f"client{len(self.mounts)}"
        mount = Mount(self.url, folder, *options, environment=self._environment, quiet=quiet)
        self.mounts.append(mount)
        return mount.start()

    def clear(self) -> None:
        for mount in self.mounts:
            mount.clear()

    def check_logs(self) -> None:
        """No daemon may have met anything unexpected."""
        for mount in self.mounts:
            if mount.quiet:
                bad = [line for line in mount.log_lines() if line.get("level") in ("error", "critical")]
                assert not bad, bad


@contextlib.contextmanager
def volume_in(folder: Path, url: str = "", environment: dict[str, str] | None = None) -> Iterator[Volume]:
    made = Volume(folder, url, environment)
    try:
        yield made
    finally:
        made.clear()
    made.check_logs()


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Volume]:
    """A volume of the test's own."""
    with volume_in(tmp_path) as made:
        yield made


@pytest.fixture(scope="module")
def shared_mount(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mount]:
    """One mount for all tests of a module that do no harm to it; each works in a directory of its own."""
    with volume_in(tmp_path_factory.mktemp("shared")) as made:
        yield made.mount()


@pytest.fixture
def root(shared_mount: Mount, request: pytest.FixtureRequest) -> Path:
    """An empty directory on the shared mount."""
    path = shared_mount.path / f"{request.node.name.replace('/', '-')[:60]}-{time.monotonic_ns():x}"
    path.mkdir()
    return path


@pytest.fixture(scope="module")
def shared_pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Mount, Mount]]:
    """Two mounts of one volume for all tests of a module, with freshness 0: what one did, the other sees."""
    with volume_in(tmp_path_factory.mktemp("pair")) as made:
        yield made.mount("--freshness", "0"), made.mount("--freshness", "0")


@pytest.fixture
def pair(shared_pair: tuple[Mount, Mount], request: pytest.FixtureRequest) -> tuple[Path, Path]:
    """One new directory, seen through both mounts."""
    name = f"{request.node.name[:60]}-{time.monotonic_ns():x}"
    here, there = shared_pair[0].path / name, shared_pair[1].path / name
    here.mkdir()
    assert there.is_dir()
    return here, there


@pytest.fixture
def two_mounts(volume: Volume) -> tuple[Mount, Mount]:
    """Two mounts of one volume that a test may kill or freeze."""
    return volume.mount("--freshness", "0"), volume.mount("--freshness", "0")
