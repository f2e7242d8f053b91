"""The persistent block cache: verified sectors of objects on the local disk. Synchronous; called from any thread.

    <folder>/lock                        held by whoever evicts
    <folder>/users                       held, shared, by each process that uses the folder
    <folder>/<2 hex>/<entry>             sparse file, sector i at i * sector_bytes
    <folder>/<2 hex>/<entry>.sums        8 bytes a sector: its xxh3 as the object's row declares it; zeros = not here

Several processes (mounts of one volume on one machine) share a folder without locks. A sector counts only when its sum
is the one that the reader's extents ask for, so the same slot of the same entry can never be mistaken for other
contents. A writer of other contents first clears the sum; a reader looks at the sum before and after it reads. Two
writers of one sum write equal bytes. Each process verifies a sector when it fills it and when it first uses it.

Eviction removes whole entries, oldest use first (the time of `.sums`), by unlink, never by punching: whoever has one
open goes on reading it. A full or failing disk is counted, logged once, and otherwise only means that nothing is
cached.
"""

from __future__ import annotations

import fcntl
import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from resource import RLIMIT_NOFILE, getrlimit

import xxhash

from s3vfs.data.layout import Unit, object_entry

_log = logging.getLogger(__name__)

_ABSENT = bytes(8)
_SUMS = ".sums"
# What `.sums` may take of the disk; counted with each sector, and exactly when the folder is looked at.
_SUMS_BYTES = 4096
# Open entries, two descriptors each: at most a quarter of what the process may open, and so many.
_OPEN_ENTRIES = 2000
# The time of last use is written to disk at most this often.
_TOUCH_NS = 60 * 10**9
# What others get when they ask for room.
_RELIEF_BYTES = 64 * 1024 * 1024
# When eviction did not make enough room, others fill the disk: look again after this long.
_PAUSE_NS = 5 * 10**9
# Eviction goes down to this share of the cap, so that it is rare.
_LOW_WATER = 0.9


@dataclass(frozen=True, slots=True)
class Claim:
    """An entry that somebody wants as a file: the checksum of each slot that must be there."""

    name: str
    sums: dict[int, bytes]


@dataclass(slots=True)
class CacheCounters:
    """Figures for status, since the start."""

    hits: int = 0
    stored: int = 0
    evicted: int = 0
    bad_sectors: int = 0
    disk_errors: int = 0


class _Entry:
    """An open entry. Whoever holds a reference may use the descriptors; they are closed with the last one."""

    __slots__ = ("claimed", "data", "lock", "sums", "touched_ns", "verified")

    def __init__(self, path: Path, *, create: bool) -> None:
        self.data = self.sums = -1
        flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0)
        self.data = os.open(path, flags, 0o600)
        self.sums = os.open(f"{path}{_SUMS}", flags, 0o600)
        self.verified: dict[int, bytes] = {}
        self.lock = threading.Lock()  # of whoever writes
        self.claimed = False
        self.touched_ns = 0

    def __del__(self) -> None:
        for descriptor in (self.data, self.sums):
            if descriptor >= 0:
                os.close(descriptor)

    def sum_of(self, slot: int) -> bytes:
        return os.pread(self.sums, 8, 8 * slot)

    def gone(self) -> bool:
        """Evicted by someone: what is written here would not be found again."""
        return os.fstat(self.data).st_nlink == 0 or os.fstat(self.sums).st_nlink == 0


@dataclass(slots=True)
class Cache:
    """`cap_bytes` bounds what all processes together keep; `reserve_bytes` of the disk stay free besides.
    `stopwatch_ns` tells how long ago an entry was used; `wall_ns` is what that looks like on disk."""

    folder: Path
    sector_bytes: int
    cap_bytes: int
    reserve_bytes: int
    stopwatch_ns: Callable[[], int]
    counters: CacheCounters = field(default_factory=CacheCounters)
    _open: OrderedDict[str, _Entry] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _evicting: threading.Lock = field(default_factory=threading.Lock)
    _used_bytes: int = -1
    _claimed_bytes: int = 0
    _user: int = -1
    _unseen_bytes: int = 0
    _not_before_ns: int = 0
    _most_open: int = field(default_factory=lambda: min(_OPEN_ENTRIES, getrlimit(RLIMIT_NOFILE)[0] // 8))
    _complained: bool = False

    # -- reading ------------------------------------------------------------------------------------------------------

    def knows(self, unit: Unit) -> bool:
        """Whether this process has verified the sector in its place before."""
        return self._verified(unit) is not None

    def _verified(self, unit: Unit) -> tuple[_Entry, int] | None:
        """Where this process has seen the sector right: in its entry, or in that of its object."""
        for name, slot in _places(unit):
            entry = self._open.get(name)
            if entry is not None and entry.verified.get(slot) == unit.checksum:
                return entry, slot
        return None

    def read_verified(self, unit: Unit, skip: int, target: memoryview) -> bool:
        """Copy a part of a sector that this process has verified before, without waiting for the disk. False: the
        target's bytes mean nothing, ask `find`."""
        place = self._verified(unit)
        if place is None:
            return False
        entry, slot = place
        try:
            good = (
                entry.sum_of(slot) == unit.checksum
                and os.preadv(entry.data, [target], slot * self.sector_bytes + skip, os.RWF_NOWAIT) == len(target)
                and entry.sum_of(slot) == unit.checksum
            )
            if good:
                self._used(entry)
            return good
        except OSError:  # it would have to wait, or the disk fails: `find` tells which
            return False

    def find(self, unit: Unit) -> bytes | None:
        """The whole sector, verified now, from its places or from another version of the same file. May block."""
        try:
            for name, slot in _places(unit):
                data = self._load(name, slot, unit)
                if data is not None:
                    return data
            return self._carry_over(unit)
        except OSError as error:
            self._failed(error)
            return None

    def _load(self, name: str, slot: int, unit: Unit) -> bytes | None:
        entry = self._entry(name, create=False)
        if entry is None or entry.sum_of(slot) != unit.checksum:
            return None
        data = os.pread(entry.data, unit.length, slot * self.sector_bytes)
        if xxhash.xxh3_64_digest(data) != unit.checksum or len(data) != unit.length:
            if entry.sum_of(slot) == unit.checksum:  # not merely being replaced
                self.counters.bad_sectors += 1
                _log.warning("cache entry %s: sector %d is damaged; it is fetched again", name, slot)
                os.pwrite(entry.sums, _ABSENT, 8 * slot)
            return None
        entry.verified[slot] = unit.checksum
        self._used(entry)
        self.counters.hits += 1
        return data

    def _carry_over(self, unit: Unit) -> bytes | None:
        """Another version of the file may have the same sector: only what changed has to be fetched."""
        if not unit.entry.startswith("f-"):
            return None
        stem = unit.entry[: unit.entry.rindex("-") + 1]
        try:
            names = os.listdir(self._path(unit.entry).parent)
        except FileNotFoundError:
            return None
        for name in sorted(names, reverse=True):
            if name.startswith(stem) and not name.endswith(_SUMS) and name != unit.entry:
                data = self._load(name, unit.slot, unit)
                if data is not None:
                    self.store(unit, data)
                    return data
        return None

    # -- filling ------------------------------------------------------------------------------------------------------

    def store(self, unit: Unit, data: bytes | memoryview) -> bool:
        """Keep a sector whose checksum the caller has just verified. False when the disk did not take it."""
        try:
            if not self._make_room(unit.length + _SUMS_BYTES):
                return False
            entry = self._entry(unit.entry, create=True)
            assert entry is not None
            present = entry.sum_of(unit.slot)
            if present not in (b"", _ABSENT, unit.checksum):
                os.pwrite(entry.sums, _ABSENT, 8 * unit.slot)
            with entry.lock:
                if entry.claimed:
                    return False
                _write_all(entry.data, data, unit.slot * self.sector_bytes)
                _write_all(entry.sums, unit.checksum, 8 * unit.slot)
        except OSError as error:
            self._failed(error)
            return False
        entry.verified[unit.slot] = unit.checksum
        self.counters.stored += 1
        return True

    def join(self) -> None:
        """Say that this process uses the folder. Raises OSError."""
        if self._user < 0:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._user = os.open(self.folder / "users", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._user, fcntl.LOCK_SH)

    def leave(self) -> None:
        """It no longer does."""
        if self._user >= 0:
            os.close(self._user)
            self._user = -1

    def _alone(self) -> bool:
        """Whether no other process uses the folder."""
        if self._user < 0:
            return False
        try:
            fcntl.flock(self._user, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        finally:
            fcntl.flock(self._user, fcntl.LOCK_SH)
        return True

    def holds(self, name: str) -> bool:
        """Whether this process has used such an entry."""
        return name in self._open

    def claim(self, claim: Claim, target: Path) -> int | None:
        """Move an entry away, to be `target`, if this process has verified all of it, and no other uses the folder:
        those would have to fetch it again. The bytes that it takes, under the cap, until `returned` gets them."""
        entry = self._open.get(claim.name)
        if entry is None or not all(entry.verified.get(slot) == checksum for slot, checksum in claim.sums.items()):
            return None
        path = self._path(claim.name)
        try:
            present = os.pread(entry.sums, 8 * (max(claim.sums, default=-1) + 1), 0)
            if any(present[8 * slot : 8 * slot + 8] != checksum for slot, checksum in claim.sums.items()):
                return None
            with entry.lock:
                if not self._alone() or entry.gone():
                    return None
                held_bytes = 512 * os.fstat(entry.data).st_blocks
                os.rename(path, target)
                entry.claimed = True
            Path(f"{path}{_SUMS}").unlink(missing_ok=True)
        except OSError as error:
            self._failed(error)
            return None
        with self._lock:
            self._open.pop(claim.name, None)
            self._used_bytes = max(self._used_bytes - held_bytes, 0)
            self._claimed_bytes += held_bytes
        return held_bytes

    def returned(self, held_bytes: int) -> None:
        """What was claimed is about to be adopted again, or gone."""
        with self._lock:
            self._claimed_bytes -= held_bytes

    def adopt(self, name: str, source: Path, table: bytes, held_bytes: int, *, verified: bool = False) -> bool:
        """Make a local file, which nobody can write to any more, the entry `name`, without a copy. `table`: 8 bytes
        for each sector, zeros where it does not hold it; `verified`: it has just been compared. False when there is
        such an entry already or the disk refuses; the file stays where it is then."""
        path = self._path(name)
        try:
            if path.exists() or not self._make_room(held_bytes):
                return False
            path.parent.mkdir(parents=True, exist_ok=True)
            beside = Path(f"{path}{_SUMS}.{os.getpid()}")
            beside.write_bytes(table)
            os.rename(beside, f"{path}{_SUMS}")
            os.rename(source, path)
            if verified and (entry := self._entry(name, create=False)) is not None:
                sums = ((slot, table[8 * slot : 8 * slot + 8]) for slot in range(len(table) // 8))
                entry.verified.update((slot, checksum) for slot, checksum in sums if checksum != _ABSENT)
        except OSError as error:
            self._failed(error)
            return False
        return True

    def store_object(self, object_id: bytes, checksums: bytes, data: memoryview) -> None:
        """Keep all sectors of an object that was just uploaded."""
        for sector in range(len(checksums) // 8):
            part = data[sector * self.sector_bytes : (sector + 1) * self.sector_bytes]
            checksum = checksums[8 * sector : 8 * sector + 8]
            if not self.store(Unit(object_entry(object_id), sector, object_id, sector, len(part), checksum), part):
                return

    # -- entries ------------------------------------------------------------------------------------------------------

    def _path(self, name: str) -> Path:
        family = name[: name.rindex("-")] if name.startswith("f-") else name  # versions of a file stand together
        spread = xxhash.xxh32_intdigest(family.encode()) & 0xFF
        return self.folder / f"{spread:02x}" / name

    def _entry(self, name: str, *, create: bool) -> _Entry | None:
        with self._lock:
            entry = self._open.get(name)
            if entry is not None:
                self._open.move_to_end(name)
                if not (create and entry.gone()):
                    return entry
            path = self._path(name)
            if create:
                path.parent.mkdir(parents=True, exist_ok=True)
            try:
                entry = _Entry(path, create=create)
            except FileNotFoundError:
                self._open.pop(name, None)
                return None
            self._open[name] = entry
            while len(self._open) > self._most_open:
                self._open.popitem(last=False)
            return entry

    def _used(self, entry: _Entry) -> None:
        now_ns = self.stopwatch_ns()
        if now_ns - entry.touched_ns > _TOUCH_NS:
            entry.touched_ns = now_ns
            os.utime(entry.sums)

    def _failed(self, error: OSError) -> None:
        self.counters.disk_errors += 1
        if not self._complained:
            self._complained = True
            _log.warning("the cache disk under %s fails (%s): reading goes on without it", self.folder, error)

    # -- room ---------------------------------------------------------------------------------------------------------

    @property
    def used_bytes(self) -> int:
        """What the folder holds, as far as this process knows."""
        return max(self._used_bytes, 0)

    def _make_room(self, more_bytes: int) -> bool:
        """Whether `more_bytes` may be added; evicts where needed. Looks at the whole folder at the start, and again
        when this process has added a twentieth of the cap: others add too."""
        if not self.cap_bytes:
            return False
        with self._lock:
            self._unseen_bytes += more_bytes
            look = self._used_bytes < 0 or self._unseen_bytes > self.cap_bytes // 20
            self._used_bytes += more_bytes
            over = self._used_bytes + self._claimed_bytes > self.cap_bytes
        short = self._free_bytes() < self.reserve_bytes + more_bytes
        due = look or ((over or short) and self.stopwatch_ns() >= self._not_before_ns)
        if due and self._evicting.acquire(blocking=False):
            try:
                self._evict(more_bytes)
            finally:
                self._evicting.release()
            short = self._free_bytes() < self.reserve_bytes + more_bytes
            if short:
                self._not_before_ns = self.stopwatch_ns() + _PAUSE_NS
        return not short and self._used_bytes + self._claimed_bytes <= self.cap_bytes

    def relieve(self) -> None:
        """The disk is short for others: give up entries until the reserve and a little more are free again."""
        if self.folder.is_dir() and self._evicting.acquire(blocking=False):
            try:
                self._evict(_RELIEF_BYTES)
            except OSError as error:
                self._failed(error)
            finally:
                self._evicting.release()

    def _free_bytes(self) -> int:
        try:
            state = os.statvfs(self.folder)
        except FileNotFoundError:
            self.folder.mkdir(parents=True, exist_ok=True)
            state = os.statvfs(self.folder)
        return state.f_bavail * state.f_frsize

    def _evict(self, more_bytes: int) -> None:
        lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            entries = self._scan()
            claimed = self._claimed_bytes
            used = sum(size for _, size, _ in entries) + claimed + more_bytes
            free = self._free_bytes() - more_bytes
            wanted = int(self.cap_bytes * _LOW_WATER) if used > self.cap_bytes else self.cap_bytes
            for _, size, path in sorted(entries):
                if used <= wanted and free >= self.reserve_bytes:
                    break
                for gone in (path, f"{path}{_SUMS}"):
                    Path(gone).unlink(missing_ok=True)
                with self._lock:
                    self._open.pop(os.path.basename(path), None)
                used -= size
                free += size
                self.counters.evicted += 1
            with self._lock:
                self._used_bytes = used - claimed
                self._unseen_bytes = 0
        finally:
            os.close(lock)

    def _scan(self) -> list[tuple[int, int, str]]:
        """(time of last use, bytes on disk, path) of every entry."""
        sizes: dict[str, int] = {}
        used: dict[str, int] = {}
        for folder in os.scandir(self.folder):
            if not folder.is_dir():
                continue
            for file in os.scandir(folder.path):
                try:
                    state = file.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                path = file.path.removesuffix(_SUMS)
                sizes[path] = sizes.get(path, 0) + 512 * state.st_blocks
                if path != file.path:
                    used[path] = state.st_mtime_ns
        return [(used.get(path, 0), size, path) for path, size in sizes.items()]


def _places(unit: Unit) -> tuple[tuple[str, int], ...]:
    """Entries and slots where the sector may be: an object that was uploaded from here is kept as a pack is."""
    if unit.entry.startswith("f-"):
        return ((unit.entry, unit.slot), (object_entry(unit.object), unit.sector))
    return ((unit.entry, unit.slot),)


def _write_all(descriptor: int, data: bytes | memoryview, offset: int) -> None:
    view = memoryview(data)
    while view:
        count = os.pwrite(descriptor, view, offset)
        offset += count
        view = view[count:]
