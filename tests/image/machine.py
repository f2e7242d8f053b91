"""A fresh machine: a Debian (or Ubuntu) made with debootstrap, in namespaces and a chroot of its own.

    with FreshMachine(Distribution("trixie"), checkout) as machine:
        machine.run_as("root", "./dev demo")

It has what debootstrap's smallest variant has, a user `anna`, a clone of the checkout in each of both homes, this
machine's settings of apt and pip, and devices with the modes that udev gives them. Needs root, debootstrap and git.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from tests.image.builder import (
    BASE_CACHE,
    BASE_LIFETIME_S,
    mirror_of_apt,
    roomy_folder,
    run,
    settings_of_this_machine,
)
from tests.image.container import Container

# apt, pip and a compiler, on a busy machine.
SETUP_TIMEOUT_S = 1800.0

USER = "anna"
_HOMES = {"root": "/root", USER: f"/home/{USER}"}
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_ENTER = """\
set -eu
root=$1
mount --bind "$root" "$root"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
while read -r name major minor mode; do
    mknod -m "$mode" "$root/dev/$name" c "$major" "$minor"
done <<'DEVICES'
null 1 3 666
zero 1 5 666
full 1 7 666
random 1 8 666
urandom 1 9 666
tty 5 0 666
fuse 10 229 666
DEVICES
ln -s /proc/self/fd "$root/dev/fd"
mkdir -m 1777 "$root/dev/shm"
mount -t proc proc "$root/proc"
mount --rbind /sys "$root/sys"
exec chroot "$root" sleep infinity
"""


@dataclass(frozen=True)
class Distribution:
    """`mirror` and `components`: Debian's, as this machine's apt has them, where they are not given."""

    codename: str
    mirror: str = ""
    components: str = "main"

    def provide(self) -> Path:
        """The system as a tar file, made once a week."""
        kept = BASE_CACHE / f"machine-{self.codename}-{os.uname().machine}.tar"
        if kept.exists() and time.time() - kept.stat().st_mtime < BASE_LIFETIME_S:
            return kept
        kept.parent.mkdir(parents=True, exist_ok=True)
        fresh = kept.with_suffix(f".{os.getpid()}")
        with tempfile.TemporaryDirectory(prefix="s3vfs-machine-", dir=roomy_folder()) as tree:
            os.chmod(tree, 0o755)  # it becomes the root directory
            command = ["debootstrap", "--variant=minbase", f"--components={self.components}"]
            if not self.mirror:
                run([*command, self.codename, tree, mirror_of_apt()[0]])
            else:  # another distribution's: its keys are not here, and its newest codename may be unknown
                run([*command, "--no-check-gpg", self.codename, tree, self.mirror, *_script_for(self.codename)])
            run(["tar", "-C", tree, "-cf", str(fresh), "."])
        fresh.replace(kept)
        return kept


def _script_for(codename: str) -> list[str]:
    scripts = Path("/usr/share/debootstrap/scripts")
    return [] if (scripts / codename).exists() else [str(scripts / "gutsy")]  # what Ubuntu's codenames are links to


class FreshMachine(Container):
    """Gone with the `with` block, with all that runs in it."""

    def __init__(self, distribution: Distribution, checkout: Path) -> None:
        if os.geteuid() != 0 or shutil.which("debootstrap") is None:
            raise RuntimeError("tests of fresh machines need root and the package debootstrap")
        kept = distribution.provide()
        self._folder = Path(tempfile.mkdtemp(prefix="s3vfs-fresh-", dir=roomy_folder()))
        root = self._folder / "root"
        root.mkdir()
        run(["tar", "-C", str(root), "-xpf", str(kept)])
        shutil.copy("/etc/resolv.conf", root / "etc/resolv.conf")
        if not os.path.lexists(root / "etc/mtab"):  # as every boot makes it; fusermount3 reads it
            os.symlink("../proc/self/mounts", root / "etc/mtab")
        for source, target in settings_of_this_machine(self._folder).items():
            place = root / target.lstrip("/")
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, place)
        run(["chroot", str(root), "useradd", "--create-home", "--shell", "/bin/sh", USER])
        for user, home in _HOMES.items():
            run(["git", "clone", "--quiet", "--no-hardlinks", str(checkout), f"{root}{home}/s3vfs"])
            run(["chroot", str(root), "chown", "-R", f"{user}:", f"{home}/s3vfs"])
        self._begin(root, {"PATH": _PATH, "LC_ALL": "C.UTF-8"}, _ENTER, [])

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        shutil.rmtree(self._folder)

    def run_as(self, user: str, line: str, *, check: bool = True) -> subprocess.CompletedProcess[str]:
        """A line typed in the checkout by root or by anna."""
        script = f"cd && cd s3vfs && {line}"
        if user == "root":
            words = ["env", "HOME=/root", "sh", "-c", script]
        else:
            words = ["runuser", "--login", user, "--command", script]
        return self.run(*words, check=check, timeout_s=SETUP_TIMEOUT_S)
