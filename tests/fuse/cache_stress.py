"""One mount's part in a stress of kernel caches: threads that change names and bytes, and threads that check what the
other mount's threads have changed.

Every name has a version, counted in memory that both processes share: the *intended* one before its change begins, the
*done* one, with the time, after it returned. Bytes, sizes and existence tell a reader which version it sees. So a
reader knows without asking anyone: an open must not see less than what was done before it began; a stat may, for as
long as names and attributes may be cached; and whoever waits longer than anything may take is named.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

# Names of each kind that each mount changes.
NAMES = 3
KINDS = ("replaced", "written", "grown", "toggled", "swapped")
_ROWS = 2 * NAMES * len(KINDS)
_RING = 4096
PAGES_BYTES = 3 * 4096
_RENAME_EXCHANGE, _AT_FDCWD = 2, -100
_libc = ctypes.CDLL(None, use_errno=True)


class Board:
    """Intended and done versions, and when they were done (CLOCK_MONOTONIC, seconds): shared memory, 8-byte words."""

    BYTES = _ROWS * (2 + _RING) * 8

    def __init__(self, path: Path) -> None:
        with open(path, "r+b") as file:
            self._area = mmap.mmap(file.fileno(), self.BYTES)
        self._words = memoryview(self._area).cast("q")
        self._times = memoryview(self._area).cast("d")

    @staticmethod
    def _row(kind: str, owner: int, number: int) -> int:
        return ((KINDS.index(kind) * 2 + owner) * NAMES + number) * (2 + _RING)

    def intend(self, kind: str, owner: int, number: int) -> int:
        row = self._row(kind, owner, number)
        self._words[row] += 1
        return self._words[row]

    def do(self, kind: str, owner: int, number: int, version: int) -> None:
        row = self._row(kind, owner, number)
        self._times[row + 2 + version % _RING] = time.monotonic()
        self._words[row + 1] = version

    def intended(self, kind: str, owner: int, number: int) -> int:
        return self._words[self._row(kind, owner, number)]

    def done(self, kind: str, owner: int, number: int) -> int:
        return self._words[self._row(kind, owner, number) + 1]

    def done_at_s(self, kind: str, owner: int, number: int, version: int) -> float:
        return self._times[self._row(kind, owner, number) + 2 + version % _RING]


@dataclass
class Report:
    """`stale_s`: the age of the most outdated answer of stat; `pause_s`: the longest that a thread of this process was
    kept from running, which nobody can tell from age; `slowest`: (seconds, what)."""

    wrong: list[str] = field(default_factory=list)
    stale_s: float = 0.0
    pause_s: float = 0.0
    slowest: tuple[float, str] = (0.0, "")
    hanging: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)


class Worker:
    """`me`: 0 or 1, whose names are changed here; the other's are looked at."""

    def __init__(self, root: Path, board: Board, me: int, seconds: float) -> None:
        self.root, self.board, self.me = root, board, me
        self.ends_s = time.monotonic() + seconds
        self.report = Report()
        self._calls: dict[str, tuple[float, str]] = {}

    # -- the run ------------------------------------------------------------------------------------------------------

    def run(self, hang_s: float) -> Report:
        jobs: list[Callable[[random.Random], None]] = [
            *(self.replace, self.write, self.grow, self.toggle, self.swap, self.litter),
            *(
                self.open_replaced,
                self.open_written,
                self.open_grown,
                self.open_toggled,
                self.open_swapped,
                self.map_written,
            ),
            *(self.stat_replaced, self.stat_toggled, self.stat_through_handle, self.list_names),
        ]
        threads = [
            threading.Thread(target=self._repeat, args=(job, seed), name=job.__name__, daemon=True)
            for seed, job in enumerate(jobs)
        ]
        for thread in threads:
            thread.start()
        self._watch_the_clock()
        for thread in threads:
            thread.join(max(0.0, self.ends_s + hang_s - time.monotonic()))
        now_s = time.monotonic()
        for thread in threads:
            if thread.is_alive():
                began_s, what = self._calls.get(thread.name, (now_s, "nothing"))
                self.report.hanging.append(f"{thread.name}: {what} for {now_s - began_s:.1f} s")
        return self.report

    def _watch_the_clock(self) -> None:
        """Sleeps that last too long show how late any answer may have been noticed."""
        while (before_s := time.monotonic()) < self.ends_s:
            time.sleep(0.02)
            self.report.pause_s = max(self.report.pause_s, time.monotonic() - before_s - 0.02)

    def _repeat(self, job: Callable[[random.Random], None], seed: int) -> None:
        chance = random.Random(1000 * self.me + seed)
        count = 0
        while time.monotonic() < self.ends_s and not self.report.wrong:
            try:
                job(chance)
            except Exception as error:
                self.report.wrong.append(f"{job.__name__} on mount {self.me}: {error!r}")
            count += 1
        self.report.counts[job.__name__] = count

    @contextlib.contextmanager
    def _timed(self, what: str) -> object:  # type: ignore[misc]
        began_s = time.monotonic()
        self._calls[threading.current_thread().name] = began_s, what
        try:
            yield
        finally:
            took_s = time.monotonic() - began_s
            if took_s > self.report.slowest[0]:
                self.report.slowest = took_s, what

    def _path(self, kind: str, owner: int, number: int) -> Path:
        return self.root / f"{kind}-{owner}-{number}"

    # -- changes ------------------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Version 1 of everything that is always there."""
        for number in range(NAMES):
            for kind in ("swapped", "swapping"):
                self._path(kind, self.me, number).mkdir()
                (self._path(kind, self.me, number) / "file").write_text(kind)
            self._replace(number)
            self._write(number)
            self._grow(number)

    def replace(self, chance: random.Random) -> None:
        self._replace(chance.randrange(NAMES))

    def _replace(self, number: int) -> None:
        """A name's file is replaced by another; its size is the version."""
        version = self.board.intend("replaced", self.me, number)
        new = self._path("new", self.me, number)
        with self._timed("write and rename"):
            new.write_bytes(b"r" * version)
            os.rename(new, self._path("replaced", self.me, number))
        self.board.do("replaced", self.me, number, version)

    def write(self, chance: random.Random) -> None:
        self._write(chance.randrange(NAMES))

    def _write(self, number: int) -> None:
        """A file is written in place; each word of it is the version."""
        version = self.board.intend("written", self.me, number)
        with self._timed("open, write and close"):
            fd = os.open(self._path("written", self.me, number), os.O_WRONLY | os.O_CREAT, 0o644)
            try:
                os.pwrite(fd, version.to_bytes(8, "little") * (PAGES_BYTES // 8), 0)
            finally:
                os.close(fd)
        self.board.do("written", self.me, number, version)

    def grow(self, chance: random.Random) -> None:
        self._grow(chance.randrange(NAMES))

    def _grow(self, number: int) -> None:
        """A file gets one more byte; its size is the version."""
        version = self.board.intend("grown", self.me, number)
        with self._timed("open, write a byte and close"):
            fd = os.open(self._path("grown", self.me, number), os.O_WRONLY | os.O_CREAT, 0o644)
            try:
                os.pwrite(fd, b"g", version - 1)
            finally:
                os.close(fd)
        self.board.do("grown", self.me, number, version)

    def toggle(self, chance: random.Random) -> None:
        """A name appears (odd) and vanishes (even)."""
        number = chance.randrange(NAMES)
        version = self.board.intend("toggled", self.me, number)
        path = self._path("toggled", self.me, number)
        with self._timed("create or unlink"):
            if version % 2:
                os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))
            else:
                os.unlink(path)
        self.board.do("toggled", self.me, number, version)

    def swap(self, chance: random.Random) -> None:
        """Two directories change places."""
        number = chance.randrange(NAMES)
        version = self.board.intend("swapped", self.me, number)
        paths = [os.fsencode(self._path(kind, self.me, number)) for kind in ("swapped", "swapping")]
        with self._timed("exchange"):
            if _libc.renameat2(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], _RENAME_EXCHANGE):
                raise OSError(ctypes.get_errno(), "renameat2")
        self.board.do("swapped", self.me, number, version)

    def litter(self, chance: random.Random) -> None:
        """Names that are nobody's business, in the same directory."""
        path = self.root / f"litter-{self.me}-{chance.randrange(9)}"
        with self._timed("mkdir and rmdir"):
            path.mkdir()
            (path / "x").touch()
            (path / "x").rename(path / "y")
            (path / "y").unlink()
            path.rmdir()

    # -- opens: exact -------------------------------------------------------------------------------------------------

    def _other(self, chance: random.Random) -> tuple[int, int]:
        return 1 - self.me, chance.randrange(NAMES)

    def open_replaced(self, chance: random.Random) -> None:
        owner, number = self._other(chance)
        least = self.board.done("replaced", owner, number)
        with self._timed("open and read a replaced name"):
            data = self._path("replaced", owner, number).read_bytes()
        self._check(len(data) >= least, f"replaced: opened version {len(data)} after {least} was done")
        self._check(not data.strip(b"r"), "replaced: bytes of no version")

    def open_written(self, chance: random.Random) -> None:
        owner, number = self._other(chance)
        least = self.board.done("written", owner, number)
        with self._timed("open and read a written file"):
            data = self._path("written", owner, number).read_bytes()
        self._check_words(data, least, "read")

    def open_grown(self, chance: random.Random) -> None:
        """Read without asking for the size first: the kernel must not cut it at one that it has cached. (Where another
        change comes meanwhile, it may: it drops the answer to its own question for the size then.)"""
        owner, number = self._other(chance)
        least = self.board.done("grown", owner, number)
        with self._timed("open and read a growing file"):
            fd = os.open(self._path("grown", owner, number), os.O_RDONLY)
            try:
                data = os.read(fd, 1 << 20)
            finally:
                os.close(fd)
        if self.board.intended("grown", owner, number) == least:
            self._check(len(data) >= least, f"grown: read {len(data)} bytes after {least} were done")
        self._check(not data.strip(b"g"), "grown: bytes that nobody wrote")

    def map_written(self, chance: random.Random) -> None:
        owner, number = self._other(chance)
        least = self.board.done("written", owner, number)
        with (
            self._timed("map a written file"),
            open(self._path("written", owner, number), "rb") as file,
            mmap.mmap(file.fileno(), PAGES_BYTES, prot=mmap.PROT_READ) as area,
        ):
            data = bytes(area)
        self._check_words(data, least, "mapped")

    def _check_words(self, data: bytes, least: int, how: str) -> None:
        self._check(len(data) == PAGES_BYTES, f"written: {how} {len(data)} bytes")
        oldest = min(memoryview(data).cast("q"))
        self._check(oldest >= least, f"written: {how} version {oldest} after {least} was done")

    def open_toggled(self, chance: random.Random) -> None:
        owner, number = self._other(chance)
        before = self.board.done("toggled", owner, number)
        with self._timed("open a name that may be there"):
            try:
                os.close(os.open(self._path("toggled", owner, number), os.O_RDONLY))
                there = True
            except FileNotFoundError:
                there = False
        if self.board.intended("toggled", owner, number) == before:
            self._check(there == bool(before % 2), f"toggled: opened {there} at version {before}")

    def open_swapped(self, chance: random.Random) -> None:
        owner, number = self._other(chance)
        before = self.board.done("swapped", owner, number)
        with self._timed("open below a directory that moves"):
            text = (self._path("swapped", owner, number) / "file").read_text()
        if self.board.intended("swapped", owner, number) == before:
            want = ("swapped", "swapping")[before % 2]
            self._check(text == want, f"swapped: opened {text} at version {before}")

    def list_names(self, chance: random.Random) -> None:
        """Names that are always there are listed once each."""
        with self._timed("list"):
            names = os.listdir(self.root)
        for kind in ("replaced", "written", "grown", "swapped", "swapping"):
            for owner in range(2):
                for number in range(NAMES):
                    name = self._path(kind, owner, number).name
                    self._check(names.count(name) == 1, f"{name} is listed {names.count(name)} times")

    # -- stat: as old as promised -------------------------------------------------------------------------------------

    def stat_replaced(self, chance: random.Random) -> None:
        owner, number = self._other(chance)
        began_s = time.monotonic()
        with self._timed("stat a replaced name"):
            version = self._path("replaced", owner, number).stat().st_size
        self._note_age("replaced", owner, number, version, began_s)

    def stat_through_handle(self, chance: random.Random) -> None:
        """An open file that loses its name shows it."""
        owner, number = self._other(chance)
        with open(self._path("replaced", owner, number), "rb") as file:
            version = os.fstat(file.fileno()).st_size
            while time.monotonic() < self.ends_s:
                began_s = time.monotonic()
                with self._timed("fstat"):
                    linked = os.fstat(file.fileno()).st_nlink
                if not linked:
                    break
                self._note_age("replaced", owner, number, version, began_s)
                time.sleep(0.005)

    def _note_age(self, kind: str, owner: int, number: int, version: int, began_s: float) -> None:
        if self.board.done(kind, owner, number) > version:
            self._note_stale(began_s - self.board.done_at_s(kind, owner, number, version + 1))

    def stat_toggled(self, chance: random.Random) -> None:
        owner, number = self._other(chance)
        began_s = time.monotonic()
        with self._timed("stat a name that may be there"):
            there = self._path("toggled", owner, number).exists()
        version = self.board.done("toggled", owner, number)
        if there != bool(version % 2) and self.board.intended("toggled", owner, number) == version:
            self._note_stale(began_s - self.board.done_at_s("toggled", owner, number, version))

    def _note_stale(self, age_s: float) -> None:
        self.report.stale_s = max(self.report.stale_s, age_s)

    @staticmethod
    def _check(right: bool, message: str) -> None:
        if not right:
            raise AssertionError(message)


def work(root: Path, board: Path, me: int, seconds: float, hang_s: float, ready: object, answers: object) -> None:
    """A process of its own. `ready`: a barrier; `answers`: a queue that takes (me, Report)."""
    worker = Worker(root, Board(board), me, 0.0)
    try:
        worker.prepare()
    except OSError as error:
        worker.report.wrong.append(f"prepare: {errno.errorcode.get(error.errno or 0)} {error!r}")
    ready.wait()  # type: ignore[attr-defined]
    worker.ends_s = time.monotonic() + seconds
    answers.put((me, worker.run(hang_s)))  # type: ignore[attr-defined]
