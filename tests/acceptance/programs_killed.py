"""tar and git at work on a mount that is killed: what each of them had been answered by then.

tar prints a name before it unpacks it, so whatever stands before the last line is done. git says nothing, so strace
writes down each call that changes a name or closes a file, with its result.
"""

from __future__ import annotations

import hashlib
import os
import random
import re
import subprocess
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

# strace -f -y: "pid call(arguments) = result"; a descriptor is shown as 3</path>.
_CALL = re.compile(r"^\d+\s+(?:<\.\.\. )?(\w+)(?: resumed>)?\(?(.*)\)\s+= (-?\d+)")
_BEGUN = re.compile(r"^(\d+)\s+(\w+)\((.*) <unfinished \.\.\.>$")
_RESUMED = re.compile(r"^(\d+)\s+<\.\.\. (\w+) resumed>(.*)$")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
_OF_DESCRIPTOR = re.compile(r"^\d+<([^>]*)>")
_TRACED = "openat,open,creat,close,mkdir,mkdirat,rename,renameat,renameat2,link,linkat,unlink,unlinkat,rmdir"


def make_tree(folder: Path, files: int, seed: int) -> None:
    """`files` small files, 25 a directory, below `folder`; random, so that no two are equal."""
    chance = random.Random(seed)
    for number in range(files):
        path = folder / f"d{number // 25}" / f"f{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(chance.randbytes(chance.choice([0, 100, 3_000, 20_000])))
        os.chmod(path, chance.choice([0o644, 0o755, 0o600]))
        os.utime(path, ns=(10**18 + number, 10**18 + number * 1000))


def make_archive(tree: Path, archive: Path) -> None:
    with tarfile.open(archive, "w") as tar:
        for path in sorted(tree.rglob("*")):
            tar.add(path, arcname=str(path.relative_to(tree)), recursive=False)


class Untar:
    """GNU tar unpacking `archive` into `target`."""

    def __init__(self, archive: Path, target: Path, printed: Path) -> None:
        self._printed = printed
        with open(printed, "wb") as output:
            self.process = subprocess.Popen(
                ["tar", "-xvpf", str(archive), "-C", str(target)], stdout=output, stderr=subprocess.DEVNULL
            )

    def lines(self) -> list[str]:
        return self._printed.read_text().splitlines()


def untar_problems(tree: Path, target: Path, done: list[str], begun: list[str]) -> list[str]:
    """What `target` lacks of what tar had done, and what is there that tar never began."""
    found = []
    for name in done:
        source, copy = tree / name, target / name
        if not copy.exists():
            found.append(f"{name} is missing")
        elif source.is_file():
            if copy.read_bytes() != source.read_bytes():
                found.append(f"{name} has other bytes")
            want, got = source.stat(), copy.stat()
            if (want.st_mode, want.st_mtime_ns) != (got.st_mode, got.st_mtime_ns):
                found.append(f"{name} has mode {got.st_mode:o} and mtime {got.st_mtime_ns}")
    there = {str(path.relative_to(target)) for path in target.rglob("*")}
    known = {name.rstrip("/") for name in begun}
    found += [f"{name} was never unpacked" for name in sorted(there - known)]
    return found


@dataclass
class Answered:
    """What the calls of a traced program were answered. `there`: paths that must be there, `gone`: that must not be;
    neither where a call about it was still waiting. `closed`: files that it wrote and closed."""

    there: set[str] = field(default_factory=set)
    gone: set[str] = field(default_factory=set)
    closed: set[str] = field(default_factory=set)
    _writing: set[str] = field(default_factory=set)

    def came(self, path: str) -> None:
        self.there.add(path)
        self.gone.discard(path)

    def went(self, path: str) -> None:
        self.there.discard(path)
        self.closed.discard(path)
        self.gone.add(path)

    def unclear(self, path: str) -> None:
        """And all below: it may be a directory that is being renamed."""
        for paths in (self.there, self.gone, self.closed):
            paths.difference_update([one for one in paths if one == path or one.startswith(path + "/")])

    def moved(self, old: str, new: str) -> None:
        was_closed = old in self.closed
        self.went(old)
        self.came(new)
        self.closed.discard(new)
        if was_closed:
            self.closed.add(new)

    def answer(self, call: str, paths: list[str], arguments: str) -> None:
        match call:
            case "openat" | "open" | "creat":
                if "O_CREAT" in arguments or call == "creat":
                    self.came(paths[0])
                if re.search(r"O_WRONLY|O_RDWR|O_CREAT", arguments) or call == "creat":
                    self._writing.add(paths[0])
                    self.closed.discard(paths[0])
            case "close":
                if paths[0] in self._writing:
                    self._writing.discard(paths[0])
                    if paths[0] in self.there:
                        self.closed.add(paths[0])
            case "mkdir" | "mkdirat":
                self.came(paths[0])
            case "rename" | "renameat" | "renameat2":
                self.moved(paths[0], paths[1])
            case "link" | "linkat":
                self.came(paths[1])
                if paths[0] in self.closed:
                    self.closed.add(paths[1])
            case "unlink" | "unlinkat" | "rmdir":
                self.went(paths[0])


def traced(command: list[str], log: Path, folder: Path) -> subprocess.Popen[bytes]:
    """`command` under strace, in `folder`; absolute paths only, please."""
    return subprocess.Popen(
        ["strace", "-f", "-y", "-s", "4096", "-e", f"trace={_TRACED}", "-o", str(log), *command],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def answered(log: Path, folder: Path, below: Path) -> Answered:
    """What strace saw being answered about paths below `below`; relative ones are taken from `folder`."""
    result = Answered()
    waiting: dict[str, tuple[str, str]] = {}
    for line in log.read_text(errors="replace").splitlines():
        begun = _BEGUN.match(line)
        if begun is not None:
            waiting[begun[1]] = begun[2], begun[3]
            continue
        resumed = _RESUMED.match(line)
        if resumed is not None:
            _, arguments = waiting.pop(resumed[1])
            line = f"{resumed[1]} {resumed[2]}({arguments}{resumed[3]}"
        call = _CALL.match(line)
        if call is None:
            continue
        paths = [path for path in _paths(call[1], call[2], folder) if path.startswith(f"{below}/")]
        if not paths:
            continue
        if int(call[3]) >= 0:
            result.answer(call[1], paths, call[2])
        elif "ENOTCONN" in line or "ECONNABORTED" in line:
            for path in paths:
                result.unclear(path)
    for name, arguments in waiting.values():
        for path in _paths(name, arguments, folder):
            result.unclear(path)
    return result


def _paths(call: str, arguments: str, folder: Path) -> Iterator[str]:
    if call == "close":
        descriptor = _OF_DESCRIPTOR.match(arguments)
        if descriptor is not None:
            yield descriptor[1]
        return
    for text in _QUOTED.findall(arguments):
        yield os.path.normpath(folder / text)


def clone_problems(source: Path, clone: Path, known: Answered) -> list[str]:
    """What the clone lacks of what git was answered, and files that it closed and that have other bytes now.

    Files of the work tree are compared with `source`, a repository with a checked-out tree of the same commit; packs
    and loose objects are checked by their own sums. Others (index, refs, config) must not be empty."""
    found = [f"{path} is missing" for path in sorted(known.there) if not os.path.lexists(path)]
    found += [f"{path} is back" for path in sorted(known.gone) if os.path.lexists(path)]
    for path in sorted(known.closed):
        name = Path(path)
        if not name.is_file():
            continue
        relative = name.relative_to(clone)
        data = name.read_bytes()
        if relative.parts[0] != ".git":
            if data != (source / relative).read_bytes():
                found.append(f"{relative} has other bytes")
        elif name.suffix in (".pack", ".idx"):
            if hashlib.sha1(data[:-20]).digest() != data[-20:]:
                found.append(f"{relative} does not have its own sum")
        elif relative.parts[1] == "objects" and len(relative.parts[2]) == 2 and len(name.name) == 38:
            if hashlib.sha1(zlib.decompress(data)).hexdigest() != relative.parts[2] + name.name:
                found.append(f"{relative} is another object")
        elif not data and not name.name.endswith(".lock"):
            found.append(f"{relative} is empty")
    return found
