"""Archive a workspace: a new generation that shares all unchanged pieces with those before.

    archive.json                  which archive this is
    generations/<n>.manifest      what the workspace was (manifest.py)
    packs/<name>.pack             the bytes (packs.py)

Packs come first, then the manifest; a generation exists with its manifest's name and is whole then. An interruption
leaves the generations before as they were; packs that were complete are found and used by the next run. Packs go only
after the manifests that name them have gone, and only such as were there when the run began.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from s3vfs.errors import ArchiveDamaged, ArchiveMissing, UnknownFeature, WorkspaceBusy, WorkspaceError
from s3vfs.workspace.durable import alone_or_not, read_json, sync_directory, sync_filesystem, write_json
from s3vfs.workspace.entries import Entry, Kind, entry_of, pieces_of
from s3vfs.workspace.layout import Workspace
from s3vfs.workspace.manifest import (
    FORMAT,
    Header,
    Manifest,
    Totals,
    line_of,
    list_generations,
    manifest_path,
    read_manifest,
    write_manifest,
)
from s3vfs.workspace.packs import TEMPORARY, PackList, PackWriter, list_packs, pack_path, read_index
from s3vfs.workspace.sparse import open_for_reading
from s3vfs.workspace.tree import walk

# A file whose ctime is not clearly older than the last look may have been changed in the same tick of the clock.
_TICK_NS = 10**9
_ATTEMPTS = 3  # to read a file that is being written
_LIVE_SHARE = (
    0.5  # a pack with less than this in use is not used again: its pieces move, and it goes with its generation
)


@dataclass(frozen=True)
class Surroundings:
    """What an archiver takes from outside."""

    now_ns: Callable[[], int]
    new_id: Callable[[], str]
    host: str
    program_version: str


@dataclass(frozen=True)
class ArchiveOptions:
    """`keep`: generations, 1 or more. `overwrite`: go on with an archive that has moved on without this workspace, or
    is another's. `full`: store everything anew."""

    keep: int = 2
    overwrite: bool = False
    full: bool = False


@dataclass
class Progress:
    """How far it is. `total_bytes` is 0 where that is not known yet."""

    files: int = 0
    done_bytes: int = 0
    total_bytes: int = 0
    stored_bytes: int = 0
    unsettled: int = 0  # files that changed whenever they were read


@dataclass(frozen=True)
class Archived:
    """A finished run."""

    archive: str
    generation: int
    totals: Totals
    stored_bytes: int
    unsettled: int
    sockets: int


def packs_directory(place: Path) -> Path:
    return place / "packs"


def generations_directory(place: Path) -> Path:
    return place / "generations"


def archive_id(place: Path) -> str:
    """Raises ArchiveMissing, UnknownFeature."""
    value = read_json(place / "archive.json")
    if not isinstance(value.get("archive"), str):
        raise ArchiveMissing(f"{place} has no archive of a workspace")
    if value.get("format") != FORMAT:
        raise UnknownFeature(f"the archive {place} has format {value.get('format')}", hint="update s3vfs")
    return str(value["archive"])


def stands_at(workspace: Workspace, header: Header) -> bool:
    """The directory came from this generation, or this generation from it (also when the archiver was killed then)."""
    state = read_json(workspace.archive_state)
    return state.get("archive") == header.archive and (
        state.get("generation") == header.generation or state.get("pending") == header.run
    )


def remember(workspace: Workspace, identity: str, generation: int) -> None:
    """The directory is equal to this generation."""
    with unchanged_times(workspace.state):
        write_json(workspace.archive_state, {"archive": identity, "generation": generation})


@contextlib.contextmanager
def unchanged_times(directory: Path) -> Iterator[None]:
    """What is written inside about the archive must not make the directory unlike the archive."""
    status = directory.stat()
    yield
    os.utime(directory, ns=(status.st_atime_ns, status.st_mtime_ns))


def archive(
    workspace: Workspace,
    place: Path,
    options: ArchiveOptions,
    surroundings: Surroundings,
    on_progress: Callable[[Progress], None],
) -> Archived:
    """Write a new generation to the directory `place`. Raises WorkspaceError (busy, damaged), OSError."""
    if not workspace.directory.is_dir():
        raise ArchiveMissing(f"{workspace.directory} is no directory")
    if workspace.directory in (place, *place.parents) and workspace.transfer not in place.parents:
        raise WorkspaceError(f"{place} is in the workspace itself", hint="name a directory on the shared volume")
    workspace.state.mkdir(exist_ok=True)
    with alone_or_not(workspace.transfer_lock) as lock:
        if lock is None:
            raise WorkspaceBusy(f"{workspace.directory} is being archived or restored already")
        if workspace.restoring.exists():
            raise WorkspaceBusy(
                f"{workspace.directory} is restored in part", hint="finish with s3vfs workspace restore"
            )
        return _Run(workspace, place, options, surroundings, on_progress).run()


class _Run:
    """One run, from the first look to the last unlink."""

    def __init__(
        self,
        workspace: Workspace,
        place: Path,
        options: ArchiveOptions,
        surroundings: Surroundings,
        on_progress: Callable[[Progress], None],
    ) -> None:
        self._workspace = workspace
        self._root = os.fsencode(workspace.directory)
        self._place = place
        self._packs = packs_directory(place)
        self._generations = generations_directory(place)
        self._options = options
        self._surroundings = surroundings
        self._on_progress = on_progress
        self._run = surroundings.new_id()
        self._known = PackList()
        self._used: set[bytes] = set()
        self._progress = Progress()
        self._sockets = 0

    def run(self) -> Archived:
        self._packs.mkdir(parents=True, exist_ok=True)
        self._generations.mkdir(exist_ok=True)
        identity = self._identity()
        base = self._base()
        found = list_packs(self._packs)
        self._know(base, found)
        self._remove_temporary()
        # What is in mapped pages gets its ctime now, and every later store gets a later one.
        sync_filesystem(self._workspace.directory)
        began_ns = self._surroundings.now_ns()
        generation = max(list_generations(self._generations), default=0) + 1
        header = Header(
            *(identity, generation, self._run, began_ns),
            *(self._surroundings.host, self._surroundings.program_version),
        )
        with unchanged_times(self._workspace.state), tempfile.TemporaryFile(dir=self._workspace.state) as spool:
            totals = self._store(base, spool)
            sync_directory(self._packs)
            state = {"archive": identity, "generation": generation - 1, "pending": self._run}
            if base is None or base.header.generation != generation - 1:
                state["generation"] = 0
            write_json(self._workspace.archive_state, state)
            spool.seek(0)
            write_manifest(self._generations, header, self._used_packs(), spool, totals)
        remember(self._workspace, identity, generation)
        self._prune(found)
        return Archived(
            *(identity, generation, totals, self._progress.stored_bytes, self._progress.unsettled, self._sockets)
        )

    # -- what is there ------------------------------------------------------------------------------------------------

    def _identity(self) -> str:
        try:
            return archive_id(self._place)
        except ArchiveMissing:
            identity = self._surroundings.new_id()
            write_json(self._place / "archive.json", {"format": FORMAT, "archive": identity})
            return identity

    def _base(self) -> Manifest | None:
        """The latest generation. Raises WorkspaceBusy when this workspace is not what has come of it."""
        generations = list_generations(self._generations)
        if not generations:
            return None
        try:
            base = read_manifest(self._generations, generations[-1])
        except ArchiveDamaged:
            if self._options.full:
                return None
            raise
        if not self._options.overwrite and not stands_at(self._workspace, base.header):
            raise WorkspaceBusy(
                f"{self._place} has generation {base.header.generation} from {base.header.host},"
                f" which {self._workspace.directory} does not have",
                hint="restore it, or archive elsewhere, or put this workspace on top with --overwrite",
            )
        return base

    def _know(self, base: Manifest | None, found: list[str]) -> None:
        """Pieces that need not be stored again."""
        if self._options.full:
            return
        of_base: set[str] = set()
        if base is not None:
            of_base = set(base.packs.names)
            live = [0] * len(base.packs.names)
            for place in base.packs.places.values():
                live[place.pack] += place.length
            kept = [size >= _LIVE_SHARE * base.pack_sizes[base.packs.names[n]] for n, size in enumerate(live)]
            numbers: dict[int, int] = {}
            for digest, place in base.packs.places.items():
                name = base.packs.names[place.pack]
                if kept[place.pack] and name in found:
                    if place.pack not in numbers:
                        numbers[place.pack] = len(self._known.names)
                        self._known.names.append(name)
                    self._known.places[digest] = replace(place, pack=numbers[place.pack])
        for name in found:  # of interrupted runs, and of older generations
            if name not in of_base:
                self._known.add(name, read_index(pack_path(self._packs, name)))

    def _remove_temporary(self) -> None:
        for directory in (self._packs, self._generations):
            for name in os.listdir(directory):
                if name.startswith(TEMPORARY):
                    (directory / name).unlink(missing_ok=True)

    # -- storing ------------------------------------------------------------------------------------------------------

    def _store(self, base: Manifest | None, spool: IO[bytes]) -> Totals:
        entries = 0
        progress = self._progress
        with ThreadPoolExecutor(2, "seal") as executor:
            writer = PackWriter(self._packs, self._run, self._known, executor)
            for entry in self._entries(base, writer):
                self._used.update(piece.digest for piece in entry.pieces)
                spool.write(line_of(entry.to_json()))
                entries += 1
                progress.files += entry.kind is Kind.FILE
                progress.done_bytes += sum(piece.length for piece in entry.pieces)
                progress.stored_bytes = writer.stored_bytes
                self._on_progress(progress)
            writer.close()
        return Totals(entries, progress.files, progress.done_bytes)

    def _entries(self, base: Manifest | None, writer: PackWriter) -> Iterator[Entry]:
        former = _Former(base)
        links: dict[tuple[int, int], bytes] = {}
        for path, status in walk(self._root, self._workspace.is_own):
            first = links.get((status.st_dev, status.st_ino))
            if first is not None and not stat.S_ISDIR(status.st_mode):
                yield Entry(path, Kind.LINK, target=first)
                continue
            try:
                entry = self._entry(path, status, former.at(path), base, writer)
            except FileNotFoundError:  # removed meanwhile
                continue
            if entry is None:
                self._sockets += 1
                continue
            if status.st_nlink > 1 and entry.kind is not Kind.DIRECTORY:
                links[(status.st_dev, status.st_ino)] = path
            yield entry

    def _entry(
        self, path: bytes, status: os.stat_result, former: Entry | None, base: Manifest | None, writer: PackWriter
    ) -> Entry | None:
        entry = entry_of(self._root, path, status)
        if entry is None or entry.kind is not Kind.FILE:
            return entry
        if base is not None and former is not None and self._unchanged(entry, former, base):
            return replace(entry, pieces=former.pieces)
        for _ in range(_ATTEMPTS):
            read, settled = self._read(path, entry, writer)
            if settled:
                return read
        self._progress.unsettled += 1
        return replace(read, changed_ns=0)

    def _read(self, path: bytes, entry: Entry, writer: PackWriter) -> tuple[Entry, bool]:
        """The entry with its contents; False when the file was changed while it was read."""
        descriptor = open_for_reading(os.path.join(self._root, path))
        try:
            before = os.fstat(descriptor)
            pieces = tuple(pieces_of(descriptor, before, writer.add))
            after = os.fstat(descriptor)
        finally:
            os.close(descriptor)
        changed = entry_of(self._root, path, before) or entry
        settled = (before.st_size, before.st_mtime_ns, before.st_ctime_ns) == (
            *(after.st_size, after.st_mtime_ns, after.st_ctime_ns),
        )
        return replace(changed, pieces=pieces), settled

    def _unchanged(self, entry: Entry, former: Entry, base: Manifest) -> bool:
        assert entry.attributes is not None
        return (
            former.kind is Kind.FILE
            and former.attributes is not None
            and former.attributes.mtime_ns == entry.attributes.mtime_ns
            and (former.size_bytes, former.changed_ns, former.inode)
            == (entry.size_bytes, entry.changed_ns, entry.inode)
            and entry.changed_ns < base.header.began_ns - _TICK_NS
            and all(piece.digest in self._known.places for piece in former.pieces)
        )

    def _used_packs(self) -> Iterator[tuple[str, int, list[tuple[bytes, int, int]]]]:
        by_pack: dict[int, list[tuple[bytes, int, int]]] = {}
        for digest in self._used:
            place = self._known.places[digest]
            by_pack.setdefault(place.pack, []).append((digest, place.offset, place.length))
        for number, index in sorted(by_pack.items()):
            name = self._known.names[number]
            size = pack_path(self._packs, name).stat().st_size  # raises if somebody has removed it meanwhile
            yield name, size, sorted(index, key=lambda item: item[1])

    # -- letting go ---------------------------------------------------------------------------------------------------

    def _prune(self, found: list[str]) -> None:
        """Remove old generations, then the packs among `found` that no generation names any more."""
        generations = list_generations(self._generations)
        for generation in generations[: -self._options.keep]:
            manifest_path(self._generations, generation).unlink(missing_ok=True)
        sync_directory(self._generations)
        needed: set[str] = set()
        for generation in list_generations(self._generations):
            needed.update(read_manifest(self._generations, generation).packs.names)
        for name in found:
            if name not in needed:
                pack_path(self._packs, name).unlink(missing_ok=True)


class _Former:
    """Looks up paths in the entries of a generation, in ascending order only, without holding them all."""

    def __init__(self, base: Manifest | None) -> None:
        self._entries = base.entries() if base is not None else iter(())
        self._next = next(self._entries, None)

    def at(self, path: bytes) -> Entry | None:
        order = tuple(path.split(b"/")) if path else ()
        while self._next is not None and self._next.order < order:
            self._next = next(self._entries, None)
        return self._next if self._next is not None and self._next.path == path else None
