"""What the native front has answered and nobody else has heard of yet, on local disk (DESIGN 9).

The front answers by itself what programs do to files that they have just made, and tells within the same call. A daemon
that is killed in between leaves it here, in `queue/front`, for the next one.

    header   64 bytes: magic "S3VFSFL1", sid (8), incarnation (4), 0 (4), xxh3_128 of the boot id (16), big-endian
    entry    little-endian: its length (4), a multiple of 8; kind (4); seq of a lease (8), inode (8), directory (8);
             time, atime, mtime (8 each, ns); index of the lease, SetattrMask's bits, mode, uid, gid, length of the name
             (4 each); the name, padded with zeros

Kinds: 1 a file was made; 2 its attributes were set; 4 it was closed. A length of 0 is the end; it is written last of
an entry, so no checksum is needed against a kill, and another boot's are not believed. The file has its whole length
from the start: it is mapped, and a full disk would be met by a signal. Everything here blocks.
"""

from __future__ import annotations

import os
import stat
import struct
from dataclasses import dataclass
from pathlib import Path

import xxhash

from s3vfs.namespace.ops import AnyOp, Create, Setattr, SetattrMask
from s3vfs.namespace.rows import LeaseId

HEADER_BYTES = 64
FILE_BYTES = 64 * 1024
_NAME = "front"
_MAGIC = b"S3VFSFL1"
_HEADER = struct.Struct(">8sQII16s")
_ENTRY = struct.Struct("<IIQQQqqqIIIIII")
MADE, CHANGED, CLOSED = 1, 2, 4  # kinds


@dataclass(frozen=True, slots=True)
class Answered:
    """One answer: an op, or, without one, a close of the inode; under which lease."""

    ino: int
    lease: LeaseId
    op: AnyOp | None


def create(folder: Path, sid: int, incarnation: int, boot_id: str) -> int:
    """An empty one, in the place of one that is there: its first `HEADER_BYTES` are written, the rest is the front's.
    Returns a descriptor, which the caller closes. Raises OSError."""
    folder.mkdir(mode=0o700, exist_ok=True)
    fd = os.open(folder / _NAME, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(fd, 0, FILE_BYTES)
        os.pwrite(fd, _HEADER.pack(_MAGIC, sid, incarnation, 0, _digest(boot_id)), 0)
    except OSError:
        os.close(fd)
        raise
    return fd


def _digest(boot_id: str) -> bytes:
    return xxhash.xxh3_128_digest(boot_id.encode())


def answered(folder: Path, boot_id: str) -> tuple[int, list[Answered]]:
    """What an earlier daemon left, in order, and its session."""
    try:
        data = (folder / _NAME).read_bytes()
    except FileNotFoundError:
        return 0, []
    if len(data) < HEADER_BYTES:
        return 0, []
    magic, sid, _, _, boot = _HEADER.unpack_from(data)
    if magic != _MAGIC or boot != _digest(boot_id):
        return 0, []
    found = []
    at = HEADER_BYTES
    while at + _ENTRY.size <= len(data) and (length := _ENTRY.unpack_from(data, at)[0]):
        found.append(_read(data, at))
        at += length
    return sid, found


def _read(data: bytes, at: int) -> Answered:
    fields = _ENTRY.unpack_from(data, at)
    _, kind, seq, ino, parent, time_ns, atime_ns, mtime_ns, index, mask, mode, uid, gid, length = fields
    op: AnyOp | None = None
    if kind == MADE:
        name = data[at + _ENTRY.size : at + _ENTRY.size + length]
        op = Create(parent, name, ino, mode, uid, gid, 0, b"", time_ns)
    elif kind == CHANGED:
        atime_ns = atime_ns if mask & SetattrMask.ATIME else 0
        mtime_ns = mtime_ns if mask & SetattrMask.MTIME else 0
        op = Setattr(ino, mask, stat.S_IMODE(mode), uid, gid, 0, atime_ns, mtime_ns, time_ns)
    return Answered(ino, (seq, index), op)


def remove(folder: Path) -> None:
    """What it says has been taken up. Raises OSError."""
    (folder / _NAME).unlink(missing_ok=True)
