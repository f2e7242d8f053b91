"""The one exception tree of s3vfs.

Each class carries the errno that a file system call gets and the exit code that a command ends with. Foreign
exceptions (botocore, obstore, lmdb, OSError) are translated once, where they enter; above that line only these
classes travel. `str(error)` is the one line a user sees: what failed, on what, what to do.
"""

from __future__ import annotations

import errno as _errno
import os


class S3vfsError(Exception):
    """Anything that s3vfs reports. `hint` says what to do; it is printed after the message."""

    errno: int = _errno.EIO
    exit_code: int = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}: {self.hint}" if self.hint else self.message


class UsageError(S3vfsError):
    """Wrong arguments, an unreadable URL, a value out of range."""

    errno = _errno.EINVAL
    exit_code = 2


# -- the bucket ---------------------------------------------------------------------------------------------------


class StoreError(S3vfsError):
    """A request to the bucket did not give a usable answer."""


class StoreUnreachable(StoreError):
    """No answer, a broken answer or a 5xx: the request may or may not have taken effect (DESIGN R2)."""

    exit_code = 5


class StoreThrottled(StoreUnreachable):
    """503 SlowDown or 429: as unreachable, but the store asks for a slower pace."""


class StoreDenied(StoreError):
    """401 or 403: credentials missing, wrong, expired or without the permission."""

    errno = _errno.EACCES
    exit_code = 4


class BucketMissing(StoreError):
    """The bucket (or the directory of a file:// URL) does not exist."""

    errno = _errno.ENOENT
    exit_code = 3


class ObjectMissing(StoreError):
    """A bulk read of a key that is not there."""

    exit_code = 3


class ObjectExists(StoreError):
    """A bulk PUT with If-None-Match found the key occupied. Who wrote it is for the caller to find out (R2)."""


class UnsafeBucket(StoreError):
    """The store lets two conditional PUTs win: no volume may live here (DESIGN 3)."""

    exit_code = 6


# -- the volume ---------------------------------------------------------------------------------------------------


class VolumeError(S3vfsError):
    """The volume as a whole cannot be used."""


class NotAVolume(VolumeError):
    """There is no volume.json under the URL."""

    errno = _errno.ENOENT
    exit_code = 3


class VolumeExists(VolumeError):
    """format found a volume already there."""

    errno = _errno.EEXIST
    exit_code = 8


class UnknownFeature(VolumeError):
    """A format version, feature bit or journal engine that this program does not know (R3)."""

    errno = _errno.EOPNOTSUPP
    exit_code = 9


class Damaged(VolumeError):
    """The journal, a checkpoint or an object contradicts itself: checksum, hash chain or digest (R4)."""

    exit_code = 7


class Trimmed(VolumeError):
    """The record asked for is below the trim boundary: reload from the checkpoint (R5)."""


# -- this client --------------------------------------------------------------------------------------------------


class SessionError(S3vfsError):
    """This client's session cannot do it."""


class SessionBusy(SessionError):
    """Another process holds the session directory, or live sessions forbid the command."""

    errno = _errno.EBUSY
    exit_code = 8


class SessionFenced(SessionError):
    """The session was evicted, or a newer incarnation has taken over: nothing of it can commit any more (R13)."""

    exit_code = 8


class ReadOnly(SessionError):
    """The mount is read-only, by option or because the client stopped itself (R4)."""

    errno = _errno.EROFS


class MountError(S3vfsError):
    """Mounting or unmounting failed."""

    exit_code = 8


class Unpublished(S3vfsError):
    """Acknowledged work is not in the bucket: what umount and sync report when they cannot finish."""

    exit_code = 10


class PosixError(S3vfsError):
    """An ordinary file system error: the errno is the message."""

    def __init__(self, errno: int, message: str = "") -> None:
        super().__init__(message or os.strerror(errno))
        self.errno = errno


# -- workspaces ---------------------------------------------------------------------------------------------------


class WorkspaceError(S3vfsError):
    """A workspace could not be filled, archived or restored."""


class WorkspaceBusy(WorkspaceError):
    """Somebody else works on it, or something is there already that would be lost."""

    errno = _errno.EBUSY
    exit_code = 8


class ArchiveMissing(WorkspaceError):
    """There is no archive of a workspace, or not the generation asked for."""

    errno = _errno.ENOENT
    exit_code = 3


class ArchiveDamaged(WorkspaceError):
    """An archive contradicts its own checksums."""

    exit_code = 7


def acknowledged_lost(reason: str) -> S3vfsError:
    """What fsync and close of an inode say whose acknowledged changes could not be committed (R10, EIO)."""
    return S3vfsError(f"acknowledged changes were lost: {reason}", hint="s3vfs status names where they are kept")
