"""Workers that know what they were promised: what must be there after a crash, page by page and name by name.

Each worker has a directory of its own and does one call at a time, so that after a crash at most one call of its is in
doubt. A page holds one stamp all over, so a torn or mixed page shows.
"""

from __future__ import annotations

import os
import random
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

PAGE_BYTES = 4096
_STAMP = struct.Struct(">QQ")
HOLE = 0


@dataclass(eq=False)
class Promised:
    """One file. `pages`: what was written, and acknowledged, to each page; `synced`: the same as of the last fsync or
    close; `since`: all that was written, or was being written, to a page since then."""

    number: int
    pages: list[int] = field(default_factory=list)
    synced: list[int] = field(default_factory=list)
    since: dict[int, set[int]] = field(default_factory=dict)
    doubtful: dict[int, int] = field(default_factory=dict)

    def settle(self) -> None:
        self.synced = list(self.pages)
        self.since.clear()


class Worker:
    """Makes, changes, renames and removes files below `directory` until told to stop, or until a call fails."""

    def __init__(self, root: Path, name: str, seed: int) -> None:
        self.name = name
        self.random = random.Random(seed)
        self.names: dict[str, Promised] = {}
        self.removed: set[str] = set()
        self.doubt: tuple[str, ...] = ()
        self.failure: OSError | None = None
        self.calls = 0
        self._stamp = 0
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._open: dict[str, int] = {}
        self._directory = root / name
        self._directory.mkdir()

    # -- work ---------------------------------------------------------------------------------------------------------

    def start(self, root: Path) -> None:
        self._directory = root / self.name
        self.failure = None
        self._stopping.clear()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self) -> None:
        """Returns when the last call has returned or failed. Handles are given up."""
        assert self._thread is not None
        self._stopping.set()
        self._thread.join(180)
        assert not self._thread.is_alive(), f"{self.name} hangs"
        for name, fd in self._open.items():
            try:
                os.close(fd)
                self.names[name].settle()
            except OSError as error:
                self.failure = self.failure or error
        self._open.clear()

    def _run(self) -> None:
        steps: list[tuple[Callable[[], None], int]] = [
            (self._create, 4), (self._write, 10), (self._sync, 4), (self._close, 4), (self._rename, 2),
            (self._replace, 2), (self._unlink, 2),
        ]  # fmt: skip
        try:
            while not self._stopping.is_set():
                (step,) = self.random.choices([step for step, _ in steps], weights=[weight for _, weight in steps])
                step()
                self.doubt = ()
                self.calls += 1
        except OSError as error:
            self.failure = error

    def _next(self) -> int:
        self._stamp += 1
        return self._stamp

    def _any(self) -> str | None:
        return self.random.choice(sorted(self.names)) if self.names else None

    def _create(self) -> None:
        if len(self.names) > 20:
            return
        name = f"f{self._next()}"
        self.doubt = ("create", name)
        fd = os.open(self._directory / name, os.O_CREAT | os.O_EXCL | os.O_RDWR)
        self.names[name] = Promised(self._stamp)
        self._open[name] = fd

    def _write(self) -> None:
        name = self._any()
        if name is None:
            return
        file = self.names[name]
        if name not in self._open:
            self._open[name] = os.open(self._directory / name, os.O_RDWR)
        first = self.random.randrange(len(file.pages) + 3)
        count = self.random.choice([1, 1, 2, 5, 60])
        stamp = self._next()
        for page in range(first, first + count):
            file.since.setdefault(page, set()).add(stamp)
            file.doubtful[page] = stamp
        os.pwrite(self._open[name], _page(file.number, stamp) * count, first * PAGE_BYTES)
        file.doubtful.clear()
        file.pages.extend([HOLE] * (first + count - len(file.pages)))
        file.pages[first : first + count] = [stamp] * count

    def _sync(self) -> None:
        if self._open:
            name = self.random.choice(sorted(self._open))
            os.fsync(self._open[name])
            self.names[name].settle()

    def _close(self) -> None:
        if self._open:
            name = self.random.choice(sorted(self._open))
            fd = self._open.pop(name)
            os.close(fd)
            self.names[name].settle()

    def _rename(self) -> None:
        self._move(f"f{self._next()}")

    def _replace(self) -> None:
        other = self._any()
        if other is not None:
            self._move(other)

    def _move(self, new: str) -> None:
        name = self._any()
        if name is None or name == new:
            return
        self.doubt = ("rename", name, new)
        os.rename(self._directory / name, self._directory / new)
        self._gone(new)
        self.names[new] = self.names.pop(name)
        if name in self._open:
            self._open[new] = self._open.pop(name)
        self.removed.add(name)
        self.removed.discard(new)

    def _unlink(self) -> None:
        name = self._any()
        if name is not None:
            self.doubt = ("unlink", name)
            os.unlink(self._directory / name)
            self._gone(name)
            self.removed.add(name)

    def _gone(self, name: str) -> None:
        self.names.pop(name, None)
        fd = self._open.pop(name, None)
        if fd is not None:
            os.close(fd)

    # -- what must be there -------------------------------------------------------------------------------------------

    def settle_doubt(self, root: Path) -> None:
        """After a crash: which side of the call in flight came to be? Both are right; the model follows."""
        directory = root / self.name
        kind, *names = self.doubt or ("none",)
        if kind == "create" and (directory / names[0]).exists():
            self.names.setdefault(names[0], Promised(self._stamp))
        elif kind == "unlink" and names[0] in self.names and not (directory / names[0]).exists():
            del self.names[names[0]]
            self.removed.add(names[0])
        elif kind == "rename" and names[0] in self.names and not (directory / names[0]).exists():
            self.names[names[1]] = self.names.pop(names[0])
            self.removed.add(names[0])
            self.removed.discard(names[1])
        self.doubt = ()

    def problems(self, root: Path, *, resumed: bool) -> list[str]:
        """`resumed`: the session went on, so acknowledged writes are there too, synced or not. Else only what was
        synced, possibly under some of what came after."""
        directory = root / self.name
        found = []
        there = set(os.listdir(directory))
        if there != set(self.names):
            found.append(
                f"{directory} has {sorted(there - set(self.names))} and lacks {sorted(set(self.names) - there)}"
            )
        for name in sorted(there & set(self.names)):
            found += [f"{directory / name}: {text}" for text in self._compare(directory / name, name, resumed)]
        return found

    def _compare(self, path: Path, name: str, resumed: bool) -> list[str]:
        file = self.names[name]
        data = path.read_bytes()
        if len(data) % PAGE_BYTES:
            return [f"{len(data)} bytes are no whole pages"]
        stamps: list[int] = []
        for at in range(0, len(data), PAGE_BYTES):
            page = data[at : at + PAGE_BYTES]
            number, stamp = _STAMP.unpack_from(page)
            if page == bytes(PAGE_BYTES):
                stamps.append(HOLE)
            elif number == file.number and page == _page(number, stamp):
                stamps.append(stamp)
            else:
                return [f"page {at // PAGE_BYTES} is torn, or another file's: {page[:16].hex()}, file {file.number}"]
        want = file.pages if resumed else file.synced
        found = []
        for index in range(max(len(want), len(stamps))):
            allowed: set[int | None] = {want[index]} if index < len(want) else {HOLE, None}
            allowed |= set() if resumed else file.since.get(index, set())
            if index in file.doubtful:
                allowed.add(file.doubtful[index])
            got = stamps[index] if index < len(stamps) else None
            if got not in allowed:
                found.append(f"page {index} has {got}, allowed are {allowed} ({len(stamps)} pages, not {len(want)})")
        return found[:3]

    def adopt(self, root: Path) -> None:
        """Go on from what is there, once it has been judged."""
        for name, file in self.names.items():
            data = (root / self.name / name).read_bytes()
            file.pages = [_STAMP.unpack_from(data, at)[1] for at in range(0, len(data), PAGE_BYTES)]
            file.doubtful.clear()
            file.settle()


def _page(number: int, stamp: int) -> bytes:
    return _STAMP.pack(number, stamp) * (PAGE_BYTES // _STAMP.size)
