"""The session directory on local disk: who this mount is, and that nobody else is it (R13).

    <cache>/<volume uuid, 32 hex>/sessions/<name>/
        lock            flock'ed while a process uses the directory
        session.json    sid and incarnation; written, with fsync, before they are used in the journal
        sent            the highest op number that was sent; tells an older copy of this directory from the last one
        queue/          acknowledged ops that are not in the journal yet (queue_log.py, front_log.py)
        index/          the replica (LMDB)
        working/        working files
        spill/          what could not go on

Everything here blocks for as long as the local disk does. Knows no bucket and no trio.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import struct
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from s3vfs.errors import SessionBusy, SessionError

_FORMAT = 1
_SENT = struct.Struct(">QQQ")  # sid, incarnation, op number

# <linux/fs.h>, on 64-bit machines.
_FS_IOC_GETFLAGS = 0x80086601
_FS_IOC_SETFLAGS = 0x40086602
_FS_TOPDIR_FL = 0x00020000


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a session is. `settled`: the journal has accepted this incarnation; else it may or may not be there, and
    then `number`, the last op number of the record that asked for it, tells our attempt from a stranger's. `former`:
    (incarnation, last op number that is in the journal) of those before, oldest first: the journal forgets it when the
    next one takes over. `sent`: no higher op number has been sent from here, as far as a killed process can know.
    `place`: of the directory that it was written in. `copied`: it has come from another one, whose process may be
    alive."""

    sid: int
    incarnation: int
    boot_id: str
    number: int
    settled: bool
    former: tuple[tuple[int, int], ...] = ()
    sent: int = field(default=0, compare=False)
    place: str = field(default="", compare=False)
    copied: bool = False


def _spread(folder: Path) -> None:
    """Tell ext2 to ext4 that what lies in the folders of this one is not related (chattr +T), so that each gets a part
    of the disk to itself. Without a journal, ext4 takes no inode again for minutes after it was deleted, and looks at
    all of those first when it makes a file: others' are then elsewhere. Other file systems refuse, or need no hint."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            flags = bytearray(8)
            fcntl.ioctl(descriptor, _FS_IOC_GETFLAGS, flags)
            (now,) = struct.unpack_from("=I", flags)
            if not now & _FS_TOPDIR_FL:
                fcntl.ioctl(descriptor, _FS_IOC_SETFLAGS, struct.pack("=Q", now | _FS_TOPDIR_FL))
        finally:
            os.close(descriptor)


def _make_apart(folder: Path) -> None:
    """Which part of the disk ext4 gives to a folder of a spread one follows from its name: the next session with this
    name, in another cache, would get the part where the last one's files were deleted. So it is named afterwards."""
    draft = folder.with_name(f".{secrets.token_hex(8)}")
    draft.mkdir(mode=0o700)
    try:
        draft.rename(folder)
    except OSError:
        draft.rmdir()
        if not folder.is_dir():
            raise  # else another process was faster


class SessionDirectory:
    """An open, locked session directory. Raises SessionBusy when another process has it."""

    def __init__(self, cache: Path, volume: bytes, name: str) -> None:
        self.path = cache / volume.hex() / "sessions" / name
        self.index = self.path / "index"
        self.working = self.path / "working"
        self.spill = self.path / "spill"
        self.queue = self.path / "queue"
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        _spread(self.path.parent)
        if not self.path.exists():
            _make_apart(self.path)
        for folder in (self.index, self.working, self.spill):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._identity_path = self.path / "session.json"
        self._sent_fd = -1
        self._lock_fd = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(self._lock_fd, 32, 0).decode("ascii", "replace").strip()
            os.close(self._lock_fd)
            self._lock_fd = -1
            if not isinstance(error, BlockingIOError):
                raise SessionError(f"cannot lock {self.path}: {error.strerror}") from error
            raise SessionBusy(
                f"session {name!r} is in use" + (f" by process {holder}" if holder else ""),
                hint="unmount it first, or mount elsewhere with another session name",
            ) from None
        os.ftruncate(self._lock_fd, 0)
        os.pwrite(self._lock_fd, f"{os.getpid()}\n".encode("ascii"), 0)

    @property
    def place(self) -> str:
        """What tells this directory from a copy of it, within one boot. While its lock is ours, whoever had it before
        has ended."""
        state = os.fstat(self._lock_fd)
        return f"{state.st_dev}:{state.st_ino}"

    def read_identity(self) -> Identity | None:
        """The identity used last, or None where there is none. Raises SessionError where the file is unreadable:
        guessing would risk a second session with one set of working files."""
        try:
            text = self._identity_path.read_text()
        except FileNotFoundError:
            return None
        try:
            fields: dict[str, Any] = json.loads(text)
            if fields["format"] != _FORMAT:
                raise SessionError(f"{self._identity_path} has format {fields['format']}", hint="update s3vfs")
            sid, incarnation, number = int(fields["sid"], 16), int(fields["incarnation"]), int(fields["number"])
            return Identity(
                sid,
                incarnation,
                str(fields["boot_id"]),
                number,
                bool(fields["settled"]),
                tuple((int(earlier), int(last)) for earlier, last in fields.get("former", ())),
                max(number, self._read_sent(sid, incarnation)),
                str(fields.get("place", "")),
                bool(fields.get("copied", False)),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise SessionError(
                f"{self._identity_path} is unreadable",
                hint="move it away to begin a new session; keep working/ beside it",
            ) from error

    def write_identity(self, identity: Identity) -> None:
        """Replace the identity, atomically and lastingly: it is on disk when this returns (R13)."""
        fields = {
            "format": _FORMAT,
            "sid": f"{identity.sid:016x}",
            "incarnation": identity.incarnation,
            "boot_id": identity.boot_id,
            "number": identity.number,
            "settled": identity.settled,
            "former": identity.former,
            "place": self.place,
            "copied": identity.copied,
        }
        fresh = self._identity_path.with_suffix(".new")
        with open(fresh, "w") as file:
            json.dump(fields, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, self._identity_path)
        self._sync_folder()

    def remove_identity(self) -> None:
        """The session has ended: the next mount here begins a new one."""
        self._identity_path.unlink(missing_ok=True)
        self._sync_folder()

    def note_sent(self, sid: int, incarnation: int, number: int) -> None:
        """Ops up to `number` are about to be sent. A killed process leaves it, a power cut may not. Raises OSError."""
        if self._sent_fd < 0:
            self._sent_fd = os.open(self.path / "sent", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.pwrite(self._sent_fd, _SENT.pack(sid, incarnation, number), 0)

    def _read_sent(self, sid: int, incarnation: int) -> int:
        try:
            noted = _SENT.unpack((self.path / "sent").read_bytes())
        except (FileNotFoundError, struct.error):
            return 0
        return noted[2] if noted[:2] == (sid, incarnation) else 0

    def _sync_folder(self) -> None:
        descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Give the lock back; whatever is in the directory stays."""
        if self._sent_fd >= 0:
            os.close(self._sent_fd)
            self._sent_fd = -1
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    def __enter__(self) -> SessionDirectory:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
