"""The queue on local disk: acknowledged ops and closes that are not in the journal yet (DESIGN 6).

    queue/<part>        one file for each batch: a header, then entries, appended before anything is acknowledged
    queue/carried       what a restart has to remember until the data room has taken up its files: written as a whole

    header   magic "S3VFSQL1", sid (8), incarnation (4), 0 (4)
    entry    length (4), kind (1), xxh3 of kind and payload (8), payload

Kind 1: an op in its wire form, with its number; it replaces an earlier one with the same number. Kind 2: a close that
was acknowledged: inode, and seq and index of the lease. Kind 3, in `carried`: an inode of which something was lost, and
why. Big-endian. Nothing is fsynced: a killed daemon loses nothing, a power cut what was neither fsynced nor committed.
A part is removed when the fate of all that it holds is known.

Everything here blocks for as long as the local disk does, which is the page cache. Knows no trio.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import xxhash

from s3vfs.namespace.ops import Lease, NumberedOp, decode_op

_MAGIC = b"S3VFSQL1"
_HEADER = struct.Struct(">8sQII")
_ENTRY = struct.Struct(">IB8s")
_CLOSE = struct.Struct(">QQI")
_OP_KIND = 1
_CLOSE_KIND = 2
_LOST_KIND = 3
_INO = struct.Struct(">Q")
_CARRIED = "carried"


@dataclass(frozen=True, slots=True)
class LeftBehind:
    """What an earlier daemon left in one part. `closes`: the lease under which the last close of an inode was
    acknowledged."""

    sid: int
    incarnation: int
    ops: tuple[NumberedOp, ...]
    closes: dict[int, Lease] = field(default_factory=dict)
    lost: dict[int, str] = field(default_factory=dict)


class QueueLog:
    """The log of one session directory. Methods raise OSError."""

    def __init__(self, folder: Path, sid: int, incarnation: int) -> None:
        self._folder = folder
        self._header = _HEADER.pack(_MAGIC, sid, incarnation, 0)
        self._part = 0
        self._fd = -1
        self._size = 0

    def op(self, wire: bytes) -> None:
        """Note an op before it is acknowledged. A note that does not fit leaves no trace."""
        self._append(_OP_KIND, wire)

    def close_of(self, ino: int, lease: Lease) -> None:
        """Note a close before it is acknowledged: the working file holds its bytes."""
        self._append(_CLOSE_KIND, _CLOSE.pack(ino, *lease))

    def _append(self, kind: int, payload: bytes) -> None:
        if self._fd < 0:
            self._begin()
        entry = _entry(kind, payload)
        try:
            written = os.write(self._fd, entry)
            if written != len(entry):
                raise OSError(28, "the local disk is full")
        except OSError:
            os.ftruncate(self._fd, self._size)
            raise
        self._size += len(entry)

    def _begin(self) -> None:
        self._folder.mkdir(mode=0o700, exist_ok=True)
        if not self._part:
            self._part = max((int(path.name) for path in _parts(self._folder)), default=0) + 1
        path = self._folder / str(self._part)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            if os.write(fd, self._header) != len(self._header):
                raise OSError(28, "the local disk is full")
        except OSError:
            os.close(fd)
            path.unlink(missing_ok=True)
            raise
        self._fd, self._size = fd, len(self._header)

    def cut(self) -> int:
        """What follows goes into another part. The number of the one that ends here, 0 where nothing was noted."""
        if self._fd < 0:
            return 0
        os.close(self._fd)
        self._fd = -1
        self._part += 1
        return self._part - 1

    def settled(self, part: int) -> None:
        """The fate of everything in this part is known."""
        if part:
            (self._folder / str(part)).unlink(missing_ok=True)

    def carry(self, closes: Mapping[int, Lease], lost: Mapping[int, str]) -> None:
        """Keep these beside the parts, in place of what was carried before."""
        target = self._folder / _CARRIED
        if not closes and not lost:
            target.unlink(missing_ok=True)
            return
        entries = [_entry(_CLOSE_KIND, _CLOSE.pack(ino, *lease)) for ino, lease in closes.items()]
        entries += [_entry(_LOST_KIND, _INO.pack(ino) + reason.encode()) for ino, reason in lost.items()]
        self._folder.mkdir(mode=0o700, exist_ok=True)
        draft = target.with_suffix(".new")
        draft.write_bytes(self._header + b"".join(entries))
        draft.replace(target)

    def close(self) -> None:
        """Let go of the descriptor; the files stay."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _entry(kind: int, payload: bytes) -> bytes:
    return _ENTRY.pack(len(payload), kind, xxhash.xxh3_64_digest(bytes([kind]) + payload)) + payload


def carried(folder: Path) -> LeftBehind:
    """What an earlier daemon had to remember and has not come to."""
    path = folder / _CARRIED
    return _read(path) if path.exists() else LeftBehind(0, 0, ())


def left_behind(folder: Path) -> list[tuple[Path, LeftBehind]]:
    """What is in the log, oldest part first. An entry that is cut off or damaged ends its part: what follows it was
    never acknowledged, or the machine has lost it."""
    return [(path, _read(path)) for path in sorted(_parts(folder), key=lambda path: int(path.name))]


def _parts(folder: Path) -> Iterator[Path]:
    return (path for path in folder.iterdir() if path.name.isdigit()) if folder.is_dir() else iter(())


def _read(path: Path) -> LeftBehind:
    data = path.read_bytes()
    if len(data) < _HEADER.size or data[:8] != _MAGIC:
        return LeftBehind(0, 0, ())
    _, sid, incarnation, _ = _HEADER.unpack_from(data)
    ops: dict[int, NumberedOp] = {}
    closes: dict[int, Lease] = {}
    lost: dict[int, str] = {}
    at = _HEADER.size
    while at + _ENTRY.size <= len(data):
        length, kind, checksum = _ENTRY.unpack_from(data, at)
        payload = data[at + _ENTRY.size : at + _ENTRY.size + length]
        at += _ENTRY.size + length
        if len(payload) < length or xxhash.xxh3_64_digest(bytes([kind]) + payload) != checksum:
            break
        if kind == _CLOSE_KIND:
            ino, seq, index = _CLOSE.unpack(payload)
            closes[ino] = (seq, index)
        elif kind == _LOST_KIND:
            lost[_INO.unpack_from(payload)[0]] = payload[_INO.size :].decode()
        elif (op := decode_op(payload)) is not None:
            ops[op.number] = op
    return LeftBehind(sid, incarnation, tuple(ops.values()), closes, lost)
