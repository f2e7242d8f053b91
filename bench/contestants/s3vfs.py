"""s3vfs itself, from this checkout."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.contestants.base import Contestant, Volume, run
from bench.site import CACHE_BYTES, Site

_COMMAND: tuple[str, ...] = (sys.executable, "-m", "s3vfs")


class S3vfs(Contestant):
    """`options` are given to each `s3vfs mount`, and are part of the name."""

    def __init__(self, options: Sequence[str] = ()) -> None:
        self.options = list(options)
        self.name = ":".join(["s3vfs", *options])

    def missing(self) -> str:
        known = subprocess.run([*_COMMAND, "mount", "--help"], capture_output=True, text=True).stdout
        unknown = [option for option in self.options if option.split("=")[0] not in known]
        return f"this version has no {', '.join(unknown)}" if unknown else ""

    def version(self) -> str:
        return subprocess.run([*_COMMAND, "--version"], capture_output=True, text=True).stdout.strip()

    def volume(self, site: Site, folder: Path) -> Volume:
        return _Volume(site, folder, self.options)


class _Volume(Volume):
    def __init__(self, site: Site, folder: Path, options: list[str]) -> None:
        super().__init__(site, folder)
        self._options = options
        self._url = f"s3://{site.place.bucket}/{self.key}"

    def format(self) -> None:
        run([*_COMMAND, "format", self._url], self.environment("a"))

    def command(self, client: str) -> list[str | Path]:
        cache = ["--cache-dir", str(self.cache(client)), "--cache-size", str(CACHE_BYTES)]
        return [*_COMMAND, "mount", self._url, self.path(client), "--foreground", *cache, *self._options]

    def umount_command(self, client: str) -> list[str | Path]:
        return [*_COMMAND, "umount", self.path(client)]
