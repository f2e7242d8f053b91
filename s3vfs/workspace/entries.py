"""What an archive says of each file: entries, to and from JSON; and the pieces that contents are cut into."""

from __future__ import annotations

import base64
import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any

from s3vfs.errors import ArchiveDamaged
from s3vfs.workspace.attributes import Attributes, read_attributes
from s3vfs.workspace.sparse import data_ranges

# Pieces end at multiples of this, so that a change in a large file stores its surroundings only.
PIECE_BYTES = 8 << 20


class Kind(Enum):
    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"
    FIFO = "fifo"
    CHARACTER = "character device"
    BLOCK = "block device"
    LINK = "link"  # another name of a file that came before


@dataclass(frozen=True)
class Piece:
    """`length` bytes at `offset` of a file, and their SHA-256. What is in no piece is a hole."""

    __slots__ = ("digest", "length", "offset")  # there may be millions

    offset: int
    length: int
    digest: bytes


@dataclass(frozen=True)
class Entry:
    """One name. `path` is below the workspace, b"" for the workspace itself.

    A LINK has `target` (the path of the first name) and nothing else. `changed_ns` (ctime) and `inode` are those of the
    node that archived it: they say whether the file has been touched since. `changed_ns` 0: look at it again anyway.
    """

    path: bytes
    kind: Kind
    attributes: Attributes | None = None
    target: bytes = b""
    device: int = 0
    size_bytes: int = 0
    changed_ns: int = 0
    inode: int = 0
    pieces: tuple[Piece, ...] = ()

    @property
    def order(self) -> tuple[bytes, ...]:
        return order_of(self.path)

    def to_json(self) -> dict[str, Any]:
        value: dict[str, Any] = {"path": _text(self.path), "kind": self.kind.value}
        if self.target:
            value["target"] = _text(self.target)
        if self.attributes is not None:
            found = self.attributes
            value.update({"mode": found.mode, "uid": found.uid, "gid": found.gid})
            value.update({"atime_ns": found.atime_ns, "mtime_ns": found.mtime_ns})
            if found.xattrs:
                value["xattrs"] = {name: base64.b64encode(data).decode() for name, data in found.xattrs.items()}
        if self.device:
            value["device"] = self.device
        if self.kind is Kind.FILE:
            value.update({"size": self.size_bytes, "ctime_ns": self.changed_ns, "inode": self.inode})
            value["pieces"] = [[piece.offset, piece.length, piece.digest.hex()] for piece in self.pieces]
        return value

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Entry:
        """Raises ArchiveDamaged."""
        try:
            attributes = None
            if "mode" in value:
                mode, uid, gid = int(value["mode"]), int(value["uid"]), int(value["gid"])
                xattrs = {name: base64.b64decode(data) for name, data in value.get("xattrs", {}).items()}
                attributes = Attributes(mode, uid, gid, int(value["atime_ns"]), int(value["mtime_ns"]), xattrs)
            return cls(
                _safe(_bytes(value["path"])),
                Kind(value["kind"]),
                attributes,
                _target(value),
                int(value.get("device", 0)),
                int(value.get("size", 0)),
                int(value.get("ctime_ns", 0)),
                int(value.get("inode", 0)),
                tuple(Piece(int(a), int(b), bytes.fromhex(c)) for a, b, c in value.get("pieces", ())),
            )
        except (KeyError, ValueError, TypeError) as error:
            raise ArchiveDamaged(f"an entry of the archive is unreadable: {error}") from error


def order_of(path: bytes) -> tuple[bytes, ...]:
    """Sorts as `walk` walks."""
    return tuple(path.split(b"/")) if path else ()


def entry_of(root: bytes, path: bytes, status: os.stat_result) -> Entry | None:
    """The entry of what is at `path`, without the contents of a file; None for a socket. Raises OSError."""
    full = os.path.join(root, path) if path else root
    attributes = read_attributes(full, status)
    mode = status.st_mode
    if stat.S_ISREG(mode):
        return Entry(
            path,
            Kind.FILE,
            attributes,
            size_bytes=status.st_size,
            changed_ns=status.st_ctime_ns,
            inode=status.st_ino,
        )
    if stat.S_ISDIR(mode):
        return Entry(path, Kind.DIRECTORY, attributes)
    if stat.S_ISLNK(mode):
        return Entry(path, Kind.SYMLINK, attributes, os.readlink(full))
    if stat.S_ISFIFO(mode):
        return Entry(path, Kind.FIFO, attributes)
    if stat.S_ISSOCK(mode):
        return None
    return Entry(path, Kind.BLOCK if stat.S_ISBLK(mode) else Kind.CHARACTER, attributes, device=status.st_rdev)


def pieces_of(descriptor: int, status: os.stat_result, on_data: Callable[[bytes, bytes], None]) -> Iterator[Piece]:
    """Read an open file; `on_data(digest, data)` is called for each piece before it is named."""
    for start, end in data_ranges(descriptor, status):
        position = start
        while position < end:
            wanted = min(end, (position // PIECE_BYTES + 1) * PIECE_BYTES) - position
            data = _read(descriptor, wanted, position)
            if not data:
                return  # the file has become shorter meanwhile
            digest = hashlib.sha256(data).digest()
            on_data(digest, data)
            yield Piece(position, len(data), digest)
            position += len(data)


def _read(descriptor: int, length: int, offset: int) -> bytes:
    data = os.pread(descriptor, length, offset)
    if len(data) == length or not data:
        return data
    parts = [data]
    done = len(data)
    while done < length and (data := os.pread(descriptor, length - done, offset + done)):
        parts.append(data)
        done += len(data)
    return b"".join(parts)


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _target(value: dict[str, Any]) -> bytes:
    target = _bytes(value.get("target", ""))
    return _safe(target) if value["kind"] == Kind.LINK.value else target


def _safe(path: bytes) -> bytes:
    """An archive must not lead out of the directory that it is restored to."""
    if path.startswith(b"/") or (path and any(part in (b"", b".", b"..") for part in path.split(b"/"))):
        raise ValueError(f"path {path!r}")
    return path
