"""Durability parity: when does another, cold mount have the right bytes? Looks through plain system calls only.

A manifest says what a tree must hold: relative path -> (size, xxh3-128), or None for a directory. Every name, every
size and every byte is compared, and a name too many counts as wrong, too.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import xxhash

Manifest = dict[str, tuple[int, str] | None]

# Several readers, for everyone: the second look is to show when the bytes are there, not how fast one reader is.
READERS = 8
PAUSE_S = 0.02
_PIECE_BYTES = 1 << 20


def digest(data: bytes) -> str:
    return xxhash.xxh3_128_hexdigest(data)


def save(manifest: Manifest, path: Path) -> None:
    path.write_text(json.dumps(manifest))


def load(path: Path) -> Manifest:
    return {name: tuple(entry) if entry else None for name, entry in json.loads(path.read_text()).items()}


def manifest_of(folder: Path) -> Manifest:
    """What is in a (local) folder now."""
    manifest: Manifest = {}
    for parent, directories, files in os.walk(folder):
        for name in directories:
            manifest[os.path.relpath(os.path.join(parent, name), folder)] = None
        for name in files:
            data = Path(parent, name).read_bytes()
            manifest[os.path.relpath(os.path.join(parent, name), folder)] = (len(data), digest(data))
    return manifest


def _wrong_file(path: Path, size: int, expected: str) -> str:
    """What is wrong with one file; empty when nothing is."""
    try:
        hasher = xxhash.xxh3_128()
        found = 0
        with open(path, "rb", buffering=0) as file:
            if os.fstat(file.fileno()).st_size != size:
                return "another size"
            while piece := file.read(_PIECE_BYTES):
                found += len(piece)
                hasher.update(piece)
    except OSError as error:
        return os.strerror(error.errno or 0)
    if found != size:
        return f"{found} bytes instead of {size}"
    return "" if hasher.hexdigest() == expected else "other bytes"


def _listings(manifest: Manifest) -> dict[str, set[str]]:
    """Names by directory, the root included as the empty string."""
    listings: dict[str, set[str]] = {"": set()}
    for name, entry in manifest.items():
        parent, _, last = name.rpartition("/")
        listings.setdefault(parent, set()).add(last)
        if entry is None:
            listings.setdefault(name, set())
    return listings


def _wrong_listing(path: Path, names: set[str], ignored: frozenset[str]) -> str:
    try:
        found = set(os.listdir(path)) - ignored
    except OSError as error:
        return os.strerror(error.errno or 0)
    if missing := names - found:
        return f"{len(missing)} names missing, such as {min(missing)}"
    if more := found - names:
        return f"{len(more)} names too many, such as {min(more)}"
    return ""


@dataclass
class Check:
    """A comparison that can be repeated: only what was wrong is looked at again."""

    folder: Path
    manifest: Manifest
    ignored: frozenset[str] = frozenset()  # names that no listing need have

    def __post_init__(self) -> None:
        self._files = {name: entry for name, entry in self.manifest.items() if entry is not None}
        self._folders = _listings(self.manifest)

    def look(self, readers: int = READERS) -> dict[str, str]:
        """What is still wrong, by relative path."""
        wrong = {}
        for name, names in list(self._folders.items()):
            if what := _wrong_listing(self.folder / name, names, self.ignored):
                wrong[name or "."] = what
            else:
                del self._folders[name]
        with ThreadPoolExecutor(readers) as threads:
            for name, what in threads.map(self._look_at, list(self._files)):
                if what:
                    wrong[name] = what
                else:
                    del self._files[name]
        return wrong

    def _look_at(self, name: str) -> tuple[str, str]:
        size, expected = self._files[name]
        return name, _wrong_file(self.folder / name, size, expected)


def first_lines(wrong: dict[str, str], count: int = 3) -> str:
    """A few of the differences, in words."""

    def told() -> Iterator[str]:
        for name, what in list(wrong.items())[:count]:
            yield f"{name}: {what}"

    more = f" and {len(wrong) - count} more" if len(wrong) > count else ""
    return "; ".join(told()) + more


class NotThere(Exception):
    """The second mount did not get to see the right bytes in time."""


def await_parity(
    folder: Path, manifest: Manifest, *, limit_s: float, ignored: frozenset[str] = frozenset()
) -> dict[str, float]:
    """Look until everything is right; how many looks it took. Raises NotThere after `limit_s`."""
    check = Check(folder, manifest, ignored)
    deadline_s = time.monotonic() + limit_s
    looks, wrong_at_first = 1, 0
    while wrong := check.look():
        if looks == 1:
            wrong_at_first = len(wrong)
        if time.monotonic() > deadline_s:
            raise NotThere(f"not what was written, {limit_s:.0f} s later: {first_lines(wrong)}")
        looks += 1
        time.sleep(PAUSE_S)
    return {"looks": looks, "wrong at first look": wrong_at_first}


def await_absence(folder: Path, *, limit_s: float) -> dict[str, float]:
    """Look until no file is left in `folder`. Raises NotThere after `limit_s`. (Empty directories do not count: some S3
    servers go on listing them for a while, and what is no object can come and go there.)"""
    deadline_s = time.monotonic() + limit_s
    looks = 1
    while left := sum(len(files) for _, _, files in os.walk(folder)):
        if time.monotonic() > deadline_s:
            raise NotThere(f"{left} files are still there, {limit_s:.0f} s later")
        looks += 1
        time.sleep(PAUSE_S)
    return {"looks": looks}
