"""Packs: files in an archive that hold many pieces. Named by their index, never changed, safe to find and use again.

    magic "s3vfsPK1"; the pieces; index; length of the index (8 bytes, little-endian); SHA-256 of the index; magic

The index is JSON, [[SHA-256 of the piece (hex), offset in the pack, length], ...]. The name is the first 32 hex digits
of the SHA-256 of the index: equal pieces in equal order make the same pack. A pack is written under a name that begins
with `tmp-`, synced, and renamed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from pathlib import Path

from s3vfs.errors import ArchiveDamaged
from s3vfs.workspace.entries import Piece

PACK_BYTES = 64 << 20  # large enough for full bandwidth, small enough to be done again after an interruption
TEMPORARY = "tmp-"
_SUFFIX = ".pack"
_MAGIC = b"s3vfsPK1"
_FOOTER_BYTES = 8 + 32 + len(_MAGIC)
_OPEN_PACKS = 8  # for each thread
_SEALS_UNDER_WAY = 2  # on a shared volume a sync waits for the bucket: meanwhile the next pack is filled


@dataclass(frozen=True)
class Place:
    """Where a piece is."""

    __slots__ = ("length", "offset", "pack")  # there may be millions

    pack: int
    offset: int
    length: int


@dataclass
class PackList:
    """The packs that are known, by number, and where each piece is."""

    names: list[str] = field(default_factory=list)
    places: dict[bytes, Place] = field(default_factory=dict)

    def add(self, name: str, index: list[tuple[bytes, int, int]]) -> None:
        number = len(self.names)
        self.names.append(name)
        for digest, offset, length in index:
            self.places.setdefault(digest, Place(number, offset, length))


class PackWriter:
    """Writes new pieces to new packs of `directory`, and enters them into `known`. `close` leaves all of it synced."""

    def __init__(self, directory: Path, run: str, known: PackList, executor: Executor) -> None:
        self._directory = directory
        self._run = run
        self._known = known
        self._executor = executor
        self._seals: list[Future[str]] = []
        self._settled = 0
        self._numbers: list[int] = []
        self._descriptor = -1
        self._index: list[tuple[bytes, int, int]] = []
        self._position = 0
        self.stored_bytes = 0

    def add(self, digest: bytes, data: bytes) -> None:
        """Store the piece unless it is stored already."""
        if digest in self._known.places:
            return
        if self._descriptor < 0:
            self._begin()
        _write(self._descriptor, data)
        self._known.places[digest] = Place(self._numbers[-1], self._position, len(data))
        self._index.append((digest, self._position, len(data)))
        self._position += len(data)
        self.stored_bytes += len(data)
        if self._position >= PACK_BYTES:
            self._seal()

    def close(self) -> None:
        """All packs have their names and are on disk. Raises OSError of any of them."""
        self._seal()
        self._settle(0)

    def _begin(self) -> None:
        path = self._directory / f"{TEMPORARY}{self._run}-{len(self._numbers)}"
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        _write(self._descriptor, _MAGIC)
        self._position = len(_MAGIC)
        self._index = []
        self._numbers.append(len(self._known.names))
        self._known.names.append("")  # until it is sealed

    def _seal(self) -> None:
        if self._descriptor < 0:
            return
        path = self._directory / f"{TEMPORARY}{self._run}-{len(self._numbers) - 1}"
        self._seals.append(self._executor.submit(_seal, self._descriptor, path, self._index))
        self._descriptor = -1
        self._settle(_SEALS_UNDER_WAY)

    def _settle(self, under_way: int) -> None:
        """Wait until no more than this many packs are being sealed."""
        while len(self._seals) - self._settled > under_way:
            self._known.names[self._numbers[self._settled]] = self._seals[self._settled].result()
            self._settled += 1


def _seal(descriptor: int, path: Path, index: list[tuple[bytes, int, int]]) -> str:
    text = json.dumps([[digest.hex(), offset, length] for digest, offset, length in index]).encode()
    digest = hashlib.sha256(text)
    try:
        _write(descriptor, text + len(text).to_bytes(8, "little") + digest.digest() + _MAGIC)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    name = digest.hexdigest()[:32]
    os.replace(path, path.with_name(name + _SUFFIX))
    return name


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def pack_path(directory: Path, name: str) -> Path:
    return directory / (name + _SUFFIX)


def list_packs(directory: Path) -> list[str]:
    """The names of all complete packs."""
    return [name[: -len(_SUFFIX)] for name in os.listdir(directory) if name.endswith(_SUFFIX)]


def read_index(path: Path) -> list[tuple[bytes, int, int]]:
    """What a pack says that it has. Raises ArchiveDamaged, OSError."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        file.seek(max(0, size - _FOOTER_BYTES))
        footer = file.read()
        length = int.from_bytes(footer[:8], "little")
        begin = size - _FOOTER_BYTES - length
        if footer[-len(_MAGIC) :] == _MAGIC and begin >= len(_MAGIC):
            file.seek(begin)
            text = file.read(length)
            if hashlib.sha256(text).digest() == footer[8:40]:
                return [(bytes.fromhex(digest), offset, count) for digest, offset, count in json.loads(text)]
    raise ArchiveDamaged(f"the pack {path} is damaged")


class PackReader:
    """Reads pieces, verified. May be used by several threads; each keeps a few packs open until `close`."""

    def __init__(self, directory: Path, known: PackList) -> None:
        self._directory = directory
        self._known = known
        self._mine = threading.local()
        self._all: list[OrderedDict[int, int]] = []

    def read(self, piece: Piece) -> bytes:
        """Raises ArchiveDamaged for anything but the right bytes, OSError."""
        place = self._known.places.get(piece.digest)
        if place is None:
            raise ArchiveDamaged(f"no pack of the archive has the piece {piece.digest.hex()}")
        data = os.pread(self._open(place.pack), place.length, place.offset)
        if len(data) != piece.length or hashlib.sha256(data).digest() != piece.digest:
            raise ArchiveDamaged(
                f"the pack {self._path(place.pack)} is damaged at {place.offset}",
                hint="an older generation may be whole",
            )
        return data

    def close(self) -> None:
        for descriptors in self._all:
            for descriptor in descriptors.values():
                os.close(descriptor)
        self._all.clear()

    def _path(self, number: int) -> Path:
        return pack_path(self._directory, self._known.names[number])

    def _open(self, number: int) -> int:
        descriptors: OrderedDict[int, int] | None = getattr(self._mine, "descriptors", None)
        if descriptors is None:
            descriptors = self._mine.descriptors = OrderedDict()
            self._all.append(descriptors)
        descriptor = descriptors.get(number)
        if descriptor is None:
            try:
                descriptor = os.open(self._path(number), os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                raise ArchiveDamaged(f"the pack {self._path(number)} is missing") from None
            if len(descriptors) >= _OPEN_PACKS:
                os.close(descriptors.popitem(last=False)[1])
            descriptors[number] = descriptor
        else:
            descriptors.move_to_end(number)
        return descriptor


@contextlib.contextmanager
def reader(directory: Path, known: PackList) -> Iterator[Callable[[Piece], bytes]]:
    made = PackReader(directory, known)
    try:
        yield made.read
    finally:
        made.close()
