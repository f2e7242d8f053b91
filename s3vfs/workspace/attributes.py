"""What a file is besides its name and bytes: mode, owner, times, extended attributes; read, given, compared."""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass, field

# Belong to the machine or to the layers of an image, not to the file: a copy gets its own.
_NOT_COPIED = ("trusted.overlay.", "security.selinux", "security.apparmor", "security.ima", "security.evm")

_REFUSED = frozenset({errno.EPERM, errno.EACCES, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL})
_SHOWN = 5


@dataclass(frozen=True)
class Attributes:
    """`mode` has the permission bits only; times in nanoseconds."""

    mode: int
    uid: int
    gid: int
    atime_ns: int
    mtime_ns: int
    xattrs: dict[str, bytes]

    def same_as(self, other: Attributes) -> bool:
        """Equal in all that a reader leaves alone (that is: not the time of access)."""
        return (self.mode, self.uid, self.gid, self.mtime_ns, self.xattrs) == (
            *(other.mode, other.uid, other.gid, other.mtime_ns, other.xattrs),
        )


@dataclass
class Losses:
    """What the file system or our rights would not take. Counted, never fatal here; the caller tells the user."""

    count: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, path: bytes, what: str, error: OSError) -> None:
        self.count += 1
        if len(self.first) < _SHOWN:
            self.first.append(f"{what} of {os.fsdecode(path)}: {error.strerror}")

    def __str__(self) -> str:
        more = f" and {self.count - len(self.first)} more" if self.count > len(self.first) else ""
        return "; ".join(self.first) + more


def read_attributes(path: bytes, status: os.stat_result) -> Attributes:
    """Of `path` itself, a symlink too. `status` is its lstat. Raises OSError."""
    return Attributes(
        stat.S_IMODE(status.st_mode),
        status.st_uid,
        status.st_gid,
        status.st_atime_ns,
        status.st_mtime_ns,
        _read_xattrs(path),
    )


def _read_xattrs(path: bytes) -> dict[str, bytes]:
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            return {}
        raise
    return {
        name: os.getxattr(path, name, follow_symlinks=False)
        for name in sorted(names)
        if not name.startswith(_NOT_COPIED)
    }


def give_attributes(path: bytes, attributes: Attributes, losses: Losses) -> None:
    """Make them those of `path`, a symlink itself too. What is refused is added to `losses`; raises other OSErrors."""
    status = os.lstat(path)
    if (status.st_uid, status.st_gid) != (attributes.uid, attributes.gid):
        try:
            os.chown(path, attributes.uid, attributes.gid, follow_symlinks=False)
        except OSError as error:
            _lost(path, "the owner", error, losses)
    if not stat.S_ISLNK(status.st_mode):
        # After chown, which clears setuid bits; before xattrs, because a changed mode rewrites an ACL's mask.
        os.chmod(path, attributes.mode)
    present = _read_xattrs(path)
    for name, value in attributes.xattrs.items():
        if present.get(name) != value:
            try:
                os.setxattr(path, name, value, follow_symlinks=False)
            except OSError as error:
                _lost(path, name, error, losses)
    for name in present.keys() - attributes.xattrs.keys():
        try:
            os.removexattr(path, name, follow_symlinks=False)
        except OSError as error:
            _lost(path, name, error, losses)
    os.utime(path, ns=(attributes.atime_ns, attributes.mtime_ns), follow_symlinks=False)


def _lost(path: bytes, what: str, error: OSError, losses: Losses) -> None:
    if error.errno not in _REFUSED:
        raise error
    losses.add(path, what, error)
