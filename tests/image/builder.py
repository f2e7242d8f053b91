"""Builds the image as a machine without container registries can: buildah, on a base made with debootstrap.

Knows buildah, debootstrap and this machine's apt and pip settings. The settings reach the build as files that are
mounted while it runs, so that they are neither in the repository nor in the image.

    with ImageBuilder() as builder:
        image = builder.build(checkout)

Needs root, and the Debian packages buildah and debootstrap (`./dev test` installs them).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

BASE = "localhost/s3vfs-base"
IMAGE = "localhost/s3vfs"

# A base is made once for a machine and used for a week: debootstrap takes 30 s to a minute.
BASE_CACHE = Path("/var/cache/s3vfs-tests")
BASE_LIFETIME_S = 7 * 24 * 3600
# Goes up when `_make_base` changes.
BASE_RECIPE = 1

# Trees of two stages, each twice (vfs copies), are in memory where that has room for them.
STORAGE_BYTES = 4 << 30
COMMAND_TIMEOUT_S = 900.0

# What Debian's slim images leave out, and fsync for every unpacked file.
_DPKG_SLIM = """\
force-unsafe-io
path-exclude=/usr/share/doc/*
path-exclude=/usr/share/locale/*
path-exclude=/usr/share/man/*
"""
_LEFT_OUT = ("usr/share/doc", "usr/share/locale", "usr/share/man", "var/lib/apt/lists", "var/cache/apt/archives")

# Settings of pip that are about where packages come from, not about one machine's files.
_PIP_SETTINGS = ("index-url", "extra-index-url", "proxy", "trusted-host", "timeout", "default-timeout", "retries")
_PIP_CA = "/run/build/ca.crt"


@dataclass(frozen=True)
class ImageConfig:
    """What a container engine reads from the image."""

    environment: dict[str, str]
    entrypoint: list[str]
    command: list[str]
    health: list[str]
    volumes: list[str]
    user: str


class ImageBuilder:
    """A container storage of its own, gone with the `with` block. `seconds` has how long each step took."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        missing = [name for name in ("buildah", "debootstrap") if shutil.which(name) is None]
        if missing:
            raise RuntimeError(
                f"missing: {' '.join(missing)}; apt-get install -y --no-install-recommends {' '.join(missing)}"
            )
        if os.geteuid() != 0:
            raise RuntimeError("debootstrap and chroot need root: run the tests in tests/image as root")
        self.folder = Path(tempfile.mkdtemp(prefix="s3vfs-image-", dir=roomy_folder()))

    def __enter__(self) -> ImageBuilder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A test that failed may have left directories that the driver sealed.
        subprocess.run(
            ["chattr", "-R", "-f", "-i", str(self.folder)], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self._buildah("umount", "--all")
        self._buildah("rm", "--all")
        self._buildah("rmi", "--all", "--force")
        shutil.rmtree(self.folder)

    def build(self, checkout: Path) -> ImageConfig:
        """Run the Dockerfile. Raises CalledProcessError, after printing what the build said."""
        self._provide_base()
        began = time.monotonic()
        mounted = [f"--volume={source}:{target}:ro" for source, target in settings_of_this_machine(self.folder).items()]
        self._buildah(
            "build", "--pull-never", "--format=docker", "--jobs=2", f"--build-arg=BASE_IMAGE={BASE}", f"--tag={IMAGE}",
            *mounted, str(checkout),
        )  # fmt: skip
        self.seconds["build"] = time.monotonic() - began
        return self._config()

    def root_of_container(self) -> Path:
        """A new container's file system."""
        return Path(self._buildah("mount", self._buildah("from", "--pull-never", IMAGE)))

    # -- the base -----------------------------------------------------------------------------------------------------

    def _provide_base(self) -> None:
        began = time.monotonic()
        mirror, codename = mirror_of_apt()
        kept = BASE_CACHE / f"{codename}-{os.uname().machine}-{BASE_RECIPE}.tar"
        if not kept.exists() or time.time() - kept.stat().st_mtime > BASE_LIFETIME_S:
            self._make_base(mirror, codename, kept)
        self._buildah("pull", "--quiet", f"docker-archive:{kept}")
        self.seconds["base"] = time.monotonic() - began

    def _make_base(self, mirror: str, codename: str, kept: Path) -> None:
        """What debian:12-slim is, near enough: the essential packages and apt, without documentation."""
        container = self._buildah("from", "scratch")
        root = Path(self._buildah("mount", container))
        run(["debootstrap", "--variant=minbase", codename, str(root), mirror])
        (root / "etc/dpkg/dpkg.cfg.d/slim").write_text(_DPKG_SLIM)
        for name in _LEFT_OUT:
            shutil.rmtree(root / name)
            (root / name).mkdir()
        self._buildah("commit", "--quiet", "--rm", container, BASE)
        kept.parent.mkdir(parents=True, exist_ok=True)
        fresh = kept.with_suffix(f".{os.getpid()}")
        self._buildah("push", "--quiet", BASE, f"docker-archive:{fresh}:{BASE}")
        fresh.replace(kept)

    # -- buildah ------------------------------------------------------------------------------------------------------

    def _config(self) -> ImageConfig:
        config: dict[str, Any] = json.loads(self._buildah("inspect", "--type=image", IMAGE))["Docker"]["config"]
        return ImageConfig(
            environment=dict(pair.split("=", 1) for pair in config["Env"]),
            entrypoint=config["Entrypoint"],
            command=config["Cmd"],
            health=config["Healthcheck"]["Test"],
            volumes=list(config["Volumes"]),
            user=config["User"],
        )

    def _buildah(self, *arguments: str) -> str:
        place = [f"--root={self.folder}/storage", f"--runroot={self.folder}/run", "--storage-driver=vfs"]
        return run(["buildah", *place, *arguments], BUILDAH_ISOLATION="chroot")


def run(command: list[str], **environment: str) -> str:
    """What it printed on stdout. Raises CalledProcessError, after printing all that it said."""
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=COMMAND_TIMEOUT_S,
        env={**os.environ, "LC_ALL": "C.UTF-8", **environment},
    )
    if done.returncode != 0:
        print(done.stdout, done.stderr, sep="\n")
    done.check_returncode()
    return done.stdout.strip()


def settings_of_this_machine(folder: Path) -> dict[Path, str]:
    """Files in `folder` with this machine's settings of apt and pip, and where another system reads them."""
    apt = folder / "apt.conf"
    wanted = ("Acquire::Check", "Acquire::http", "Acquire::Retries")
    dump = run(["apt-config", "dump"])
    apt.write_text("".join(line + "\n" for line in dump.splitlines() if line.startswith(wanted)))
    settings = _pip_settings()
    lines = ["[global]", *(f"{name} = {settings[name]}" for name in _PIP_SETTINGS if name in settings)]
    mounts = {apt: "/etc/apt/apt.conf.d/99build"}
    if "cert" in settings:
        authorities = folder / "ca.crt"
        shutil.copyfile(settings["cert"], authorities)
        lines.append(f"cert = {_PIP_CA}")
        mounts[authorities] = _PIP_CA
    pip = folder / "pip.conf"
    pip.write_text("\n".join(lines) + "\n")
    mounts[pip] = "/etc/pip.conf"
    return mounts


def roomy_folder() -> str:
    """Where trees of this size go: memory, where that has room for them."""
    shm = "/dev/shm"
    if os.access(shm, os.W_OK) and shutil.disk_usage(shm).free > STORAGE_BYTES:
        return shm
    return "/var/tmp"


def mirror_of_apt() -> tuple[str, str]:
    """(address, codename) that apt takes this release's main packages from. Raises where apt knows none."""
    codename = run(["sh", "-c", '. /etc/os-release; echo "$VERSION_CODENAME"'])
    listing = run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)", "Created-By: Packages"]
    )
    for line in listing.splitlines():
        address, release, component = line.split()
        if release == codename and component == "main":
            return address, codename
    raise RuntimeError(f"apt has no package list for {codename}: run apt-get update")


def _pip_settings() -> dict[str, str]:
    """pip's settings by name; those of the environment win, as they do for pip."""
    listing = run([sys.executable, "-m", "pip", "config", "list"])
    found: dict[str, str] = {}
    for section in ("global.", "install.", ":env:."):
        for line in listing.splitlines():
            name, _, value = line.partition("=")
            if name.startswith(section):
                found[name.removeprefix(section)] = value.strip("'\"")
    return found
