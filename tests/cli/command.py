"""The command line, called in this process (a mount still has a daemon of its own), and mounts that must not stay."""

from __future__ import annotations

import contextlib
import ctypes
import io
import json
import os
import select
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from s3vfs.cli import main
from s3vfs.fuse.mountinfo import Mount, mount_at, read_mounts
from s3vfs.fuse.registry import find

_MNT_DETACH = 2


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str

    def fails(self, code: int, *words: str) -> None:
        """It ended with `code`, and told so in one line that has `words`."""
        assert self.code == code, self
        assert self.err.startswith("s3vfs: "), self
        assert self.err.count("\n") == 1, self
        for word in words:
            assert word in self.err, self

    def ok(self) -> Done:
        """It ended with 0."""
        assert self.code == 0, self
        return self

    def json(self) -> Any:
        """The one object that it printed."""
        return json.loads(self.ok().out)


def s3vfs(*arguments: str | Path) -> Done:
    """Run a command to its end; nobody is at its stdin. In this process, because an interpreter's start costs more than
    most commands do; but `mount`, whose daemon would be our child, in one of its own."""
    words = [str(argument) for argument in arguments]
    if words[0] == "mount":
        done = subprocess.run(command_line(words), stdin=subprocess.DEVNULL, capture_output=True, text=True)
        return Done(done.returncode, done.stdout, done.stderr)
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(words)
        except SystemExit as ended:
            code = int(ended.code or 0)
    return Done(code, out.getvalue(), err.getvalue())


def command_line(arguments: Sequence[str | Path]) -> list[str]:
    return [sys.executable, "-m", "s3vfs", *map(str, arguments)]


@dataclass
class Place:
    """A volume on file:// and mountpoints for it. `clear` leaves nothing mounted and no daemon behind."""

    folder: Path
    made: list[Path] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"file://{self.folder}/volume"

    def format(self, *options: str) -> Place:
        s3vfs("format", self.url, "--name", "work", *options).ok()
        return self

    def directory(self, name: str = "mnt") -> Path:
        path = self.folder / name
        if path not in self.made:  # a dead mount there could not be looked at
            path.mkdir()
            self.made.append(path)
        return path

    def try_mount(self, name: str = "mnt", *options: str, url: str = "") -> Done:
        return s3vfs("mount", url or self.url, self.directory(name), f"--cache-dir={self.cache(name)}", *options)

    def mount(self, name: str = "mnt", *options: str) -> Path:
        self.try_mount(name, *options).ok()
        return self.directory(name)

    def cache(self, name: str = "mnt") -> Path:
        return self.folder / f"cache-{name}"

    def clear(self) -> None:
        libc = ctypes.CDLL(None)
        for path in self.made:
            while (mount := mounted_on(path)) is not None:
                record = find(mount.device, os.geteuid())
                libc.umount2(os.fsencode(path), _MNT_DETACH)
                if record is not None:
                    end(record.pid)


def mounted_on(path: Path) -> Mount | None:
    """The volume that is mounted on `path`."""
    mount = mount_at(str(path), read_mounts())
    return mount if mount is not None and mount.ours else None


def daemon_of(path: Path) -> int:
    """The process that serves the mount."""
    mount = mounted_on(path)
    assert mount is not None
    record = find(mount.device, os.geteuid())
    assert record is not None
    return record.pid


def end(pid: int) -> None:
    """SIGKILL, and return when it has ended."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    os.kill(pid, 9)
    wait_for_end(descriptor)


def wait_for_end(descriptor: int) -> None:
    ended, _, _ = select.select([descriptor], [], [], 30)
    os.close(descriptor)
    assert ended, "the process does not end"
