"""Which daemon serves which mount: one small file per mount, and beside it the daemon's control socket.

    /run/s3vfs | $XDG_RUNTIME_DIR/s3vfs | /tmp/s3vfs-<uid>        mode 0700
        <major>-<minor>.json                                      the record
        <major>-<minor>.sock                                      the socket, mode 0600

The device number is that of the mounted file system: it is the same for every path inside and for bind mounts of it. A
file that a killed daemon left behind is replaced by the next mount that gets the same number.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from s3vfs.errors import MountError


@dataclass(frozen=True, slots=True)
class MountRecord:
    """What others need to know about one mount. No credentials: it is shown in status."""

    device: str
    url: str
    mountpoint: str
    pid: int
    socket: str
    session_directory: str
    log_file: str
    read_only: bool
    version: str


def runtime_directory() -> Path:
    """This user's directory, made when it is missing. Raises MountError where it is not safe to use."""
    uid = os.geteuid()
    directory = next(candidate for candidate in _candidates(uid) if candidate.parent.is_dir())
    directory.mkdir(mode=0o700, exist_ok=True)
    if not _safe(directory, uid):
        raise MountError(f"{directory} belongs to somebody else or is open to others", hint="remove it")
    return directory


def socket_path(directory: Path, device: str) -> Path:
    return directory / f"{device.replace(':', '-')}.sock"


def publish(directory: Path, record: MountRecord) -> None:
    """Make the record visible, atomically."""
    path = _record_path(directory, record.device)
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(asdict(record)))
    os.replace(fresh, path)


def withdraw(directory: Path, record: MountRecord) -> None:
    """Remove the record, unless another daemon has taken its place. The socket is its server's to remove."""
    present = _load(_record_path(directory, record.device))
    if present is not None and present.pid == record.pid:
        _record_path(directory, record.device).unlink(missing_ok=True)


def find(device: str, uid: int) -> MountRecord | None:
    """The record of the mount with this device number, served by a daemon of user `uid`; None where there is none."""
    for directory in _candidates(uid):
        if _safe(directory, uid):
            record = _load(_record_path(directory, device))
            if record is not None:
                return record
    return None


def _candidates(uid: int) -> Iterator[Path]:
    if uid == 0:
        yield Path("/run/s3vfs")
        return
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and uid == os.geteuid():
        yield Path(runtime) / "s3vfs"
    yield Path(f"/run/user/{uid}/s3vfs")
    yield Path(f"/tmp/s3vfs-{uid}")


def _safe(directory: Path, uid: int) -> bool:
    try:
        status = os.lstat(directory)
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == uid and not status.st_mode & 0o077


def _record_path(directory: Path, device: str) -> Path:
    return directory / f"{device.replace(':', '-')}.json"


def _load(path: Path) -> MountRecord | None:
    try:
        return MountRecord(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):  # none, or one of another version: as good as none
        return None
