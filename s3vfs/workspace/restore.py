"""Restore a workspace from an archive, exactly as it was.

`restoring.json` is written first and removed last, after everything is on disk: a directory that has it is half
restored, and the next run goes on with it. A file appears under its name when it is complete; one that is there already
is kept only if its attributes *and its bytes* are those of the archive. Every byte that is written has been checked
against its SHA-256.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from s3vfs.errors import ArchiveDamaged, ArchiveMissing, WorkspaceBusy
from s3vfs.workspace.archive import (
    Progress,
    archive_id,
    generations_directory,
    packs_directory,
    remember,
    stands_at,
    unchanged_times,
)
from s3vfs.workspace.attributes import Losses, give_attributes
from s3vfs.workspace.durable import alone_or_not, sync_directory, sync_filesystem, write_json
from s3vfs.workspace.entries import Entry, Kind, Piece, entry_of, order_of, pieces_of
from s3vfs.workspace.layout import STATE_NAME, Workspace
from s3vfs.workspace.manifest import Manifest, Totals, list_generations, read_manifest
from s3vfs.workspace.packs import reader
from s3vfs.workspace.sparse import open_for_reading, write_at
from s3vfs.workspace.tree import is_directory, remove, walk

_PREFIX = b".s3vfs-restore-"  # of files that are not complete yet
_WORKERS = 4  # a shared volume answers several reads in the time of one
_AHEAD = 64  # files handed to the workers before one is waited for


@dataclass(frozen=True)
class Restored:
    """`already`: the directory was of this generation, and was not looked at. `losses`: what could not be kept."""

    archive: str
    generation: int
    totals: Totals
    kept_files: int = 0
    already: bool = False
    losses: str = ""


def open_archive(place: Path, generation: int | None) -> Manifest:
    """A generation (the latest where it is None), checked. Raises ArchiveMissing, ArchiveDamaged, UnknownFeature."""
    archive_id(place)
    generations = list_generations(generations_directory(place))
    if not generations:
        raise ArchiveMissing(f"the archive {place} has no generation yet")
    return read_manifest(generations_directory(place), generations[-1] if generation is None else generation)


def check_archive(place: Path, generation: int | None, on_progress: Callable[[Progress], None]) -> Manifest:
    """Read every piece of a generation. Raises ArchiveDamaged at the first that is not what it was."""
    manifest = open_archive(place, generation)
    progress = Progress(total_bytes=sum(place.length for place in manifest.packs.places.values()))
    with reader(packs_directory(place), manifest.packs) as read:
        in_order = sorted(manifest.packs.places.items(), key=lambda item: (item[1].pack, item[1].offset))
        for digest, at in in_order:
            read(Piece(0, at.length, digest))
            progress.done_bytes += at.length
            on_progress(progress)
    for entry in manifest.entries():
        for piece in entry.pieces:
            if piece.digest not in manifest.packs.places:
                raise ArchiveDamaged(f"{os.fsdecode(entry.path)} has a piece that is in no pack")
    return manifest


def restore(
    workspace: Workspace,
    place: Path,
    on_progress: Callable[[Progress], None],
    *,
    generation: int | None = None,
    replace: bool = False,
) -> Restored:
    """Make the directory equal to a generation. `replace`: one with other content too, which is lost then.

    Raises ArchiveMissing, ArchiveDamaged, WorkspaceBusy, OSError; what is restored until then stays for the next run.
    """
    manifest = open_archive(place, generation)
    workspace.state.mkdir(parents=True, exist_ok=True)
    with alone_or_not(workspace.transfer_lock) as lock:
        if lock is None:
            raise WorkspaceBusy(f"{workspace.directory} is being archived or restored already")
        header = manifest.header
        if not workspace.restoring.exists():
            if not replace and stands_at(workspace, header):
                return Restored(header.archive, header.generation, manifest.totals, already=True)
            if not replace and (found := _content(workspace)) is not None:
                raise WorkspaceBusy(
                    f"{workspace.directory} is not empty (it has {os.fsdecode(found)})",
                    hint="restore into an empty volume, or with --replace, which removes what is there",
                )
            write_json(workspace.restoring, {"archive": header.archive, "generation": header.generation})
        with reader(packs_directory(place), manifest.packs) as read:
            run = _Run(workspace, manifest, read, on_progress)
            run.run()
        remember(workspace, header.archive, header.generation)
        with unchanged_times(workspace.state):
            workspace.restoring.unlink()
            sync_directory(workspace.state)
        return Restored(*(header.archive, header.generation, manifest.totals, run.kept_files), losses=str(run.losses))


def _content(workspace: Workspace) -> bytes | None:
    """A name in the directory that is not one of ours alone."""
    for path, _ in walk(os.fsencode(workspace.directory), workspace.is_own):
        if path not in (b"", STATE_NAME.encode()):
            return path
    return None


class _Run:
    """Files by several threads, the rest in order by one."""

    def __init__(
        self,
        workspace: Workspace,
        manifest: Manifest,
        read: Callable[[Piece], bytes],
        on_progress: Callable[[Progress], None],
    ) -> None:
        self._workspace = workspace
        self._root = os.fsencode(workspace.directory)
        self._manifest = manifest
        self._read = read
        self._on_progress = on_progress
        self._progress = Progress(total_bytes=manifest.totals.data_bytes)
        self._guard = threading.Lock()  # over losses, kept_files and _inodes, which the workers share
        self._inodes: set[tuple[int, int]] = set()
        self.losses = Losses()
        self.kept_files = 0

    def run(self) -> None:
        directories: list[Entry] = []
        links: list[Entry] = []
        with ThreadPoolExecutor(_WORKERS, "restore") as executor:
            try:
                self._follow(executor, self._tree(directories, links))
            except BaseException:
                executor.shutdown(cancel_futures=True)
                raise
        for entry in links:
            self._link(entry)
        self._remove_extra()
        for entry in reversed(directories):  # last: what is made in a directory changes its times
            assert entry.attributes is not None
            give_attributes(self._path(entry.path), entry.attributes, self.losses)
        sync_filesystem(self._workspace.directory)

    def _path(self, path: bytes) -> bytes:
        return os.path.join(self._root, path) if path else self._root

    def _tree(self, directories: list[Entry], links: list[Entry]) -> Iterator[Entry]:
        """Makes directories on the way, gives the files."""
        made: set[bytes] = set()
        for entry in self._manifest.entries():
            for path in (entry.path, entry.target if entry.kind is Kind.LINK else entry.path):
                if path and os.path.dirname(path) not in made:  # it might lead through a symlink to anywhere
                    raise ArchiveDamaged(f"{os.fsdecode(path)} is in the archive, but the directory it is in is not")
            if entry.kind is Kind.DIRECTORY:
                path = self._path(entry.path)
                if os.path.lexists(path) and not is_directory(path):
                    remove(path)
                if os.path.lexists(path):
                    os.chmod(path, 0o700)
                else:
                    os.mkdir(path, 0o700)
                directories.append(entry)
                made.add(entry.path)
            elif entry.kind is Kind.LINK:
                links.append(entry)
            else:
                yield entry

    def _follow(self, executor: ThreadPoolExecutor, entries: Iterable[Entry]) -> None:
        under_way: deque[tuple[Future[None], Entry]] = deque()
        for entry in entries:
            under_way.append((executor.submit(self._make, entry), entry))
            if len(under_way) > _AHEAD:
                self._done(*under_way.popleft())
        while under_way:
            self._done(*under_way.popleft())

    def _done(self, future: Future[None], entry: Entry) -> None:
        future.result()
        self._progress.files += entry.kind is Kind.FILE
        self._progress.done_bytes += sum(piece.length for piece in entry.pieces)
        self._on_progress(self._progress)

    # -- one name -----------------------------------------------------------------------------------------------------

    def _make(self, entry: Entry) -> None:
        path = self._path(entry.path)
        if os.path.lexists(path):
            if self._is_there(path, entry):
                with self._guard:
                    self.kept_files += 1
                return
            if is_directory(path):
                remove(path)
        directory, name = os.path.split(path)
        fresh = os.path.join(directory, _PREFIX + name[: 255 - len(_PREFIX)])
        if os.path.lexists(fresh):
            os.unlink(fresh)
        self._create(fresh, entry)
        losses = Losses()
        assert entry.attributes is not None
        give_attributes(fresh, entry.attributes, losses)
        os.rename(fresh, path)
        with self._guard:
            self.losses.count += losses.count
            self.losses.first += losses.first

    def _create(self, fresh: bytes, entry: Entry) -> None:
        assert entry.attributes is not None
        if entry.kind is Kind.SYMLINK:
            os.symlink(entry.target, fresh)
        elif entry.kind is Kind.FIFO:
            os.mkfifo(fresh, 0o600)
        elif entry.kind in (Kind.CHARACTER, Kind.BLOCK):
            os.mknod(fresh, 0o600 | (0o020000 if entry.kind is Kind.CHARACTER else 0o060000), entry.device)
        else:
            descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                for piece in entry.pieces:
                    write_at(descriptor, self._read(piece), piece.offset)
                os.ftruncate(descriptor, entry.size_bytes)
            finally:
                os.close(descriptor)

    def _is_there(self, path: bytes, entry: Entry) -> bool:
        """It is what the archive has, to the last byte, and no other name of this archive has the same inode."""
        status = os.lstat(path)
        found = entry_of(self._root, entry.path, status)
        if (
            found is None
            or (found.kind, found.target, found.device) != (entry.kind, entry.target, entry.device)
            or (found.attributes is None or entry.attributes is None)
            or not found.attributes.same_as(entry.attributes)
            or found.size_bytes != entry.size_bytes
        ):
            return False
        if status.st_nlink > 1:
            with self._guard:
                if (status.st_dev, status.st_ino) in self._inodes:
                    return False
                self._inodes.add((status.st_dev, status.st_ino))
        if entry.kind is not Kind.FILE:
            return True
        descriptor = open_for_reading(path)
        try:
            return tuple(pieces_of(descriptor, status, lambda digest, data: None)) == entry.pieces
        finally:
            os.close(descriptor)

    def _link(self, entry: Entry) -> None:
        path, target = self._path(entry.path), self._path(entry.target)
        if os.path.lexists(path):
            if os.path.samestat(os.lstat(path), os.lstat(target)):
                return
            remove(path)
        os.link(target, path, follow_symlinks=False)

    def _remove_extra(self) -> None:
        """What is in the directory, but not in the archive."""
        wanted = self._manifest.entries()
        current = next(wanted, None)
        extra: list[bytes] = []
        for path, _ in walk(self._root, self._workspace.is_own):
            order = order_of(path)
            while current is not None and current.order < order:
                current = next(wanted, None)
            if (current is None or current.path != path) and path != STATE_NAME.encode():
                extra.append(path)
        for path in extra:
            remove(self._path(path))
