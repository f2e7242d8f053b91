"""What the workloads write: the same bytes on every machine, made from a seed, about as large as a library's sources.

Kept on a file system in memory, so that dropping the page cache does not make the source slow.
"""

from __future__ import annotations

import io
import os
import random
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

from bench import parity

SEED = 20260
FILES = 5_000  # untarred; about 70 MB
FILES_PER_DIRECTORY = 20
CLONED_FILES = 1_000
COMMITS = 10
DD_BYTES = 128 << 20
_EPOCH = 1_700_000_000
_GIT = {
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_AUTHOR_NAME": "bench",
    "GIT_AUTHOR_EMAIL": "bench@example.org",
    "GIT_COMMITTER_NAME": "bench",
    "GIT_COMMITTER_EMAIL": "bench@example.org",
}


def small_content(number: int, size: int) -> bytes:
    """The bytes of small file `number`."""
    return random.Random(number).randbytes(size)


@dataclass(frozen=True)
class SourceTree:
    """Relative path -> bytes, in the order of an archive (directories first, files of one directory together)."""

    directories: list[str]
    files: dict[str, bytes]

    def manifest(self) -> parity.Manifest:
        made: parity.Manifest = dict.fromkeys(self.directories)
        made.update({name: (len(data), parity.digest(data)) for name, data in self.files.items()})
        return made


def source_tree(count: int) -> SourceTree:
    """`count` text files of 14 KB on average (most are small, a few have some 100 KB), 20 in a directory."""
    chance = random.Random(SEED)
    words = ["".join(chance.choices("abcdefghijklmnopqrstuvwxyz_", k=chance.randint(2, 11))) for _ in range(4_000)]
    lines = [
        "    " * chance.randint(0, 3) + " ".join(chance.choices(words, k=chance.randint(2, 12))) for _ in range(20_000)
    ]
    directories: list[str] = []
    files: dict[str, bytes] = {}
    folder = ""
    for number in range(count):
        if number % FILES_PER_DIRECTORY == 0:
            group = number // FILES_PER_DIRECTORY
            if group % 10 == 0:
                directories.append(f"library{group // 10:02d}")
            folder = f"library{group // 10:02d}/package{group % 10}"
            directories.append(folder)
        size = min(int(chance.lognormvariate(8.7, 1.25)), 600_000)
        text = "\n".join([f"# module {number}", *chance.choices(lines, k=size // 45 + 1)])
        files[f"{folder}/module{number:05d}.py"] = text.encode()[:size]
    return SourceTree(directories, files)


def write_archive(tree: SourceTree, path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        for name in tree.directories:
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode, entry.mtime = tarfile.DIRTYPE, 0o755, _EPOCH
            archive.addfile(entry)
        for name, data in tree.files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode, entry.mtime = len(data), 0o644, _EPOCH
            archive.addfile(entry, io.BytesIO(data))


def write_repository(tree: SourceTree, path: Path) -> None:
    """A packed repository whose last commit holds the tree."""

    def git(*arguments: str, number: int = 0) -> None:
        date = f"{_EPOCH + number} +0000"
        environment = {**os.environ, **_GIT, "GIT_AUTHOR_DATE": date, "GIT_COMMITTER_DATE": date}
        subprocess.run(["git", "-C", str(path), *arguments], check=True, capture_output=True, env=environment)

    path.mkdir()
    git("init", "--quiet", "--initial-branch=main")
    names = list(tree.files)
    for number in range(COMMITS):
        for name in names[number::COMMITS]:
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(tree.files[name])
        git("add", "--all")
        git("commit", "--quiet", "--message", f"step {number}", number=number)
    git("gc", "--quiet")


class Inputs:
    """Makes each input when it is first asked for; one for each size."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def archive(self, count: int) -> tuple[Path, Path, list[str]]:
        """An archive of `count` files, its manifest's file, the files' names in order."""
        path, manifest = self._folder / f"tree-{count}.tar", self._folder / f"tree-{count}.json"
        if not manifest.exists():
            tree = source_tree(count)
            write_archive(tree, path)
            parity.save(tree.manifest(), manifest)
        return path, manifest, [name for name, entry in parity.load(manifest).items() if entry]

    def repository(self, count: int) -> tuple[Path, Path]:
        """A repository of `count` files and its manifest's file."""
        path, manifest = self._folder / f"repository-{count}", self._folder / f"repository-{count}.json"
        if not manifest.exists():
            tree = source_tree(count)
            write_repository(tree, path)
            parity.save(tree.manifest(), manifest)
        return path, manifest

    def block(self, size: int) -> tuple[Path, Path]:
        """`size` random bytes, and the manifest of a folder that holds them as `large`."""
        path, manifest = self._folder / f"block-{size}", self._folder / f"block-{size}.json"
        if not manifest.exists():
            data = random.Random(SEED).randbytes(size)
            path.write_bytes(data)
            parity.save({"large": (size, parity.digest(data))}, manifest)
        return path, manifest

    def small(self, count: int, size: int, folders: int = 0) -> Path:
        """The manifest's file of `folders` directories of `count` small files each (0: all in one)."""
        manifest = self._folder / f"small-{count}-{size}-{folders}.json"
        if not manifest.exists():
            made: parity.Manifest = {}
            for folder in range(max(1, folders)):
                prefix = f"d{folder:04d}/" if folders else ""
                if prefix:
                    made[prefix[:-1]] = None
                for number in range(count):
                    made[f"{prefix}f{number:06d}"] = (size, parity.digest(small_content(number, size)))
            parity.save(made, manifest)
        return manifest
