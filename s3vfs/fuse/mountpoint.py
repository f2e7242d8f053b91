"""The directory under a mount: may we mount there, is a dead mount in the way, and how it is unmounted.

Blocks. Knows no session and no bucket; needs no daemon to answer.
"""

from __future__ import annotations

import ctypes
import enum
import errno
import os
import shutil
import stat
import subprocess
import threading
from pathlib import Path

from s3vfs.errors import MountError
from s3vfs.fuse.mountinfo import Mount, mount_at, read_mounts

# How long a mount may take to answer statfs before it counts as stuck: far above a loaded machine's worst.
PROBE_TIMEOUT_S = 10.0

_MNT_FORCE = 1
_MNT_DETACH = 2
_UMOUNT_NOFOLLOW = 8


class Health(enum.Enum):
    """ALIVE: answers, or refuses for a reason of its own. DEAD: its daemon has gone. STUCK: no answer in time."""

    ALIVE = "alive"
    DEAD = "dead"
    STUCK = "stuck"


def health(mountpoint: str) -> Health:
    """Ask the mount for statfs, which the kernel never answers from a cache."""
    answers: list[Health] = []

    def ask() -> None:
        try:
            os.statvfs(mountpoint)
        except OSError as error:
            dead = error.errno in (errno.ENOTCONN, errno.ECONNABORTED)
            answers.append(Health.DEAD if dead else Health.ALIVE)
        else:
            answers.append(Health.ALIVE)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PROBE_TIMEOUT_S)
    return answers[0] if answers else Health.STUCK


def resolve(path: str) -> str:
    """The absolute path without symbolic links in its parents; the last component is not asked (it may be dead).

    Raises MountError when the parent directory is not there.
    """
    absolute = os.path.abspath(path)
    parent, name = os.path.split(absolute)
    try:
        parent = os.path.realpath(parent, strict=True)
    except OSError as error:
        raise MountError(f"{path}: {error.strerror}", hint="make the directory first (mkdir -p)") from None
    final = os.path.join(parent, name) if name else parent
    if mount_at(final, read_mounts()) is None and os.path.islink(final):
        return os.path.realpath(final)
    return final


def prepare(mountpoint: str, *, nonempty: bool) -> None:
    """Check that `mountpoint` (resolved) can be mounted on; a dead mount of ours there is unmounted first.

    Raises MountError with a line that says what to do.
    """
    while (mount := mount_at(mountpoint, read_mounts())) is not None:
        if not mount.ours:
            if nonempty:
                break
            raise MountError(f"{mountpoint} is a mountpoint already ({mount.type})", hint="mount on another directory")
        if health(mountpoint) is not Health.DEAD:
            raise MountError(
                f"{mountpoint} is mounted already ({mount.source})", hint=f"s3vfs umount {mountpoint} ends that mount"
            )
        unmount(mountpoint, lazy=True)
    try:
        status = os.stat(mountpoint)
        if not stat.S_ISDIR(status.st_mode):
            raise MountError(f"{mountpoint} is not a directory")
        if not nonempty and os.listdir(mountpoint):
            raise MountError(
                f"{mountpoint} is not empty", hint="mount on an empty directory, or cover its files with --nonempty"
            )
    except FileNotFoundError:
        raise MountError(f"{mountpoint} does not exist", hint=f"mkdir -p {mountpoint}") from None
    except OSError as error:
        raise MountError(f"{mountpoint}: {error.strerror}") from None


def check_fuse(*, allow_other: bool) -> None:
    """Raise MountError where this user cannot mount FUSE file systems at all."""
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        raise MountError(
            "/dev/fuse is missing",
            hint="load the kernel module (modprobe fuse), or give the container --device /dev/fuse",
        ) from None
    except OSError as error:
        raise MountError(
            f"/dev/fuse cannot be opened ({error.strerror})",
            hint="run as root, or allow this user or container to use it",
        ) from None
    if os.geteuid() == 0:
        return
    if shutil.which("fusermount3") is None:
        raise MountError("fusermount3 is missing", hint="install the package fuse3, or mount as root")
    if allow_other and not _user_allow_other():
        raise MountError(
            "--allow-other is not permitted to ordinary users here",
            hint="add the line user_allow_other to /etc/fuse.conf, or mount as root",
        )


def _user_allow_other() -> bool:
    try:
        lines = Path("/etc/fuse.conf").read_text().splitlines()
    except OSError:
        return False
    return any(line.strip() == "user_allow_other" for line in lines)


def unmount(mountpoint: str, *, lazy: bool = False, force: bool = False) -> None:
    """Unmount. Raises MountError when it is in use (`lazy`: detaches it all the same) or not permitted. `force`, root's
    alone: whatever waits for an answer of the daemon gets ECONNABORTED."""
    if os.geteuid() == 0:
        libc = ctypes.CDLL(None, use_errno=True)
        flags = _UMOUNT_NOFOLLOW | (_MNT_DETACH if lazy else 0) | (_MNT_FORCE if force else 0)
        if libc.umount2(os.fsencode(mountpoint), flags) == 0:
            return
        code = ctypes.get_errno()
    else:
        command = ["fusermount3", "-u", *(["-z"] if lazy else []), "--", mountpoint]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode == 0:
            return
        said = " ".join(done.stderr.split())
        if "busy" not in said.lower():
            raise MountError(f"cannot unmount {mountpoint}: {said}")
        code = errno.EBUSY
    if code == errno.EBUSY:
        raise MountError(
            f"{mountpoint} is in use", hint=f"close the programs that use it (fuser -vm {mountpoint} lists them)"
        )
    raise MountError(f"cannot unmount {mountpoint}: {os.strerror(code)}")


class NoMount(MountError):
    """No volume is mounted there."""

    errno = errno.ENOENT
    exit_code = 3

    def __init__(self, path: str) -> None:
        super().__init__(f"no volume is mounted on {path}", hint="`findmnt -t fuse.s3vfs` lists the mounts")


def find_mount(path: str) -> Mount:
    """The mount of ours that is exactly at `path`. Raises NoMount otherwise."""
    mount = mount_at(resolve(path), read_mounts())
    if mount is None or not mount.ours:
        raise NoMount(path)
    return mount
