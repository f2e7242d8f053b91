"""Manifests: one file for each generation of an archive, gzip over lines of JSON.

    {"format": 1, "archive": ..., "generation": n, "run": ..., "began_ns": ..., "host": ..., "s3vfs": ...}
    {"pack": name, "size": bytes of the file, "pieces": [[SHA-256, offset, length], ...]}      pieces that are used
    {"path": ..., "kind": ..., ...}                                                            as a sorted walk goes
    {"end": true, "entries": ..., "files": ..., "data_bytes": ..., "sha256": of all lines before}

A manifest is written under another name, synced, and linked to `<n>.manifest`: only one archiver can make generation n,
and a manifest that has its name is whole.
"""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import json
import os
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from s3vfs.errors import ArchiveDamaged, ArchiveMissing, UnknownFeature, WorkspaceBusy
from s3vfs.workspace.durable import sync_directory
from s3vfs.workspace.entries import Entry
from s3vfs.workspace.packs import PackList

FORMAT = 1
_SUFFIX = ".manifest"
_LEVEL = 3


@dataclass(frozen=True)
class Header:
    """Who made a generation, and when it began to look."""

    archive: str
    generation: int
    run: str
    began_ns: int
    host: str
    program_version: str


@dataclass(frozen=True)
class Totals:
    """What a generation has: entries of any kind, files among them, bytes of their data without holes."""

    entries: int = 0
    files: int = 0
    data_bytes: int = 0


@dataclass
class Manifest:
    """A manifest that has been read once and found whole. `entries` reads it again."""

    path: Path
    header: Header
    totals: Totals
    packs: PackList
    pack_sizes: dict[str, int] = field(default_factory=dict)

    def entries(self) -> Iterator[Entry]:
        """In order. Raises ArchiveDamaged, OSError."""
        for value in _lines(self.path):
            if "path" in value:
                yield Entry.from_json(value)


def list_generations(directory: Path) -> list[int]:
    """Ascending."""
    names = (name[: -len(_SUFFIX)] for name in os.listdir(directory) if name.endswith(_SUFFIX))
    return sorted(int(name) for name in names if name.isdecimal())


def manifest_path(directory: Path, generation: int) -> Path:
    return directory / f"{generation:08d}{_SUFFIX}"


def read_manifest(directory: Path, generation: int) -> Manifest:
    """Read and check all of it. Raises ArchiveMissing, ArchiveDamaged, UnknownFeature, OSError."""
    path = manifest_path(directory, generation)
    if not path.exists():
        raise ArchiveMissing(f"the archive has no generation {generation}")
    header: Header | None = None
    totals: Totals | None = None
    packs = PackList()
    sizes: dict[str, int] = {}
    try:
        for value in _lines(path):
            if header is None:
                if value["format"] != FORMAT:
                    raise UnknownFeature(f"{path} has format {value['format']}", hint="update s3vfs")
                header = Header(
                    *(value["archive"], int(value["generation"]), value["run"], int(value["began_ns"])),
                    *(value["host"], value["s3vfs"]),
                )
            elif "pack" in value:
                index = [(bytes.fromhex(digest), offset, length) for digest, offset, length in value["pieces"]]
                packs.add(value["pack"], index)
                sizes[value["pack"]] = int(value["size"])
            elif "end" in value:
                totals = Totals(int(value["entries"]), int(value["files"]), int(value["data_bytes"]))
    except (KeyError, ValueError, TypeError) as error:
        raise ArchiveDamaged(f"{path} is damaged: {error}") from error
    if header is None or totals is None:
        raise ArchiveDamaged(f"{path} is damaged: it has no end")
    return Manifest(path, header, totals, packs, sizes)


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """Each line's object; the last one is given only if the checksum in it is right. Raises ArchiveDamaged, OSError.

    Nothing stays open: whoever stops in the middle, at an error, may have to unmount what the manifest is on.
    """
    digest = hashlib.sha256()
    ended = False
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(path.read_bytes())) as file:
            for line in file:
                value = json.loads(line)
                if ended or not isinstance(value, dict):
                    raise ArchiveDamaged(f"{path} is damaged")
                if "end" in value:
                    ended = True
                    if value.get("sha256") != digest.hexdigest():
                        raise ArchiveDamaged(f"{path} is damaged: wrong checksum")
                digest.update(line)
                yield value
    except (EOFError, ValueError, zlib.error, gzip.BadGzipFile) as error:
        raise ArchiveDamaged(f"{path} is damaged: {error}") from error
    if not ended:
        raise ArchiveDamaged(f"{path} is damaged: it has no end")


def line_of(value: dict[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


def write_manifest(
    directory: Path,
    header: Header,
    packs: Iterable[tuple[str, int, list[tuple[bytes, int, int]]]],
    entries: Iterable[bytes],
    totals: Totals,
) -> None:
    """Make the generation exist. `packs`: (name, size of the file, pieces used); `entries`: lines.

    Raises WorkspaceBusy when it exists already.
    """
    fresh = directory / f"tmp-{header.run}"
    with open(fresh, "wb") as file:
        with gzip.GzipFile("", "wb", _LEVEL, file, 0) as lines:
            _write_lines(lines, header, packs, entries, totals)
        file.flush()
        os.fsync(file.fileno())
    path = manifest_path(directory, header.generation)
    try:
        os.link(fresh, path)
    except FileExistsError:
        os.unlink(fresh)
        raise WorkspaceBusy("somebody else has just written to this archive", hint="run this again") from None
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        os.rename(fresh, path)  # a file system without hard links
    else:
        os.unlink(fresh)
    sync_directory(directory)


def _write_lines(
    file: IO[bytes] | gzip.GzipFile,
    header: Header,
    packs: Iterable[tuple[str, int, list[tuple[bytes, int, int]]]],
    entries: Iterable[bytes],
    totals: Totals,
) -> None:
    digest = hashlib.sha256()

    def put(value: dict[str, Any]) -> None:
        put_line(line_of(value))

    def put_line(line: bytes) -> None:
        digest.update(line)
        file.write(line)

    put(
        {
            "format": FORMAT,
            "archive": header.archive,
            "generation": header.generation,
            "run": header.run,
            "began_ns": header.began_ns,
            "host": header.host,
            "s3vfs": header.program_version,
        }
    )
    for name, size, index in packs:
        pieces = [[piece.hex(), offset, length] for piece, offset, length in index]
        put({"pack": name, "size": size, "pieces": pieces})
    for line in entries:
        put_line(line)
    put(
        {
            "end": True,
            "entries": totals.entries,
            "files": totals.files,
            "data_bytes": totals.data_bytes,
            "sha256": digest.hexdigest(),
        }
    )
