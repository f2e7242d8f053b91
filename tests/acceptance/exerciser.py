"""Random work on one mount or on two, compared byte by byte with a model after each step.

One seed is one history. A file belongs to one mount at a time: before the other one touches it, what was written is
fsynced or closed, and the other side opens it anew (close-to-open); appends and names are exact at any time. Handles
that stay open across such a change of hands may only be closed. What the kernel may have cached (attributes, and names
given to calls that are no opens) may be a second old: link counts are asked again, names are opened first.

Alone: `python -m tests.acceptance.exerciser DIRECTORY [DIRECTORY] --seed 7 --steps 5000` on mounts of your own.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import errno
import mmap
import os
import random
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

# fallocate(2)
KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 0x01, 0x02, 0x10
_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)

_MOST_FILES = 12
_MOST_HANDLES = 10
# Longer than the kernel may believe in what another mount has changed (docs/semantics.md).
_CACHED_S = 3.0


class Wrong(AssertionError):
    """What a mount said is not what the model says."""


@dataclass(eq=False)
class File:
    """One inode. `owner`: the mount that may use open handles of it; `names`: its links."""

    data: bytearray
    owner: int
    number: int
    names: set[tuple[Directory, str]] = field(default_factory=set)
    dirty: bool = False


@dataclass(eq=False)
class Directory:
    parent: Directory | None
    name: str
    entries: dict[str, File | Directory] = field(default_factory=dict)

    @property
    def path(self) -> str:
        return self.name if self.parent is None else f"{self.parent.path}/{self.name}"


@dataclass(eq=False)
class Handle:
    """`stale`: another mount has changed the file since, so only close is promised."""

    fd: int
    file: File
    mount: int
    append: bool
    writable: bool
    stale: bool = False


class Exerciser:
    """`roots`: the same directory, through one or more mounts. `sizes_bytes`: files are mostly as large as that."""

    def __init__(self, roots: Sequence[Path], seed: int, *, sizes_bytes: int = 1 << 20) -> None:
        self.roots = roots
        self.random = random.Random(seed)
        self.sizes_bytes = sizes_bytes
        self.top = Directory(None, ".")
        self.files: list[File] = []
        self.directories: list[Directory] = [self.top]
        self.handles: list[Handle] = []
        self.journal: deque[str] = deque(maxlen=60)
        self.counts: dict[str, int] = {}
        self._made = 0
        self._steps: list[tuple[Callable[[], None], int]] = [
            (self.create, 6),
            (self.open, 8),
            (self.write, 20),
            (self.read, 20),
            (self.read_path, 10),
            (self.append, 6),
            (self.truncate_handle, 6),
            (self.truncate_path, 4),
            (self.map, 5),
            (self.punch, 6),
            (self.zero, 4),
            (self.allocate, 3),
            (self.copy_range, 6),
            (self.seek, 5),
            (self.reopen_elsewhere, 4),
            (self.fsync, 6),
            (self.close, 8),
            (self.rename, 6),
            (self.link, 2),
            (self.unlink, 4),
            (self.make_directory, 2),
            (self.remove_directory, 2),
            (self.list_directory, 4),
            (self.stat, 10),
            (self.replace, 3),
            (self.times, 2),
        ]

    # -- the run ------------------------------------------------------------------------------------------------------

    def run(self, *, steps: int = 0, seconds: float = 0.0) -> int:
        """So many steps, or for so long. Returns how many were made. Raises Wrong, with the last steps."""
        ends_s = time.monotonic() + seconds
        made = 0
        try:
            while made < steps or (seconds and time.monotonic() < ends_s):
                (step,) = self.random.choices(
                    [step for step, _ in self._steps], weights=[weight for _, weight in self._steps]
                )
                self.counts[step.__name__] = self.counts.get(step.__name__, 0) + 1
                step()
                made += 1
            for handle in list(self.handles):
                self._close(handle)
            self.check_all(self.roots)
        except (Wrong, OSError) as error:
            raise Wrong(f"after {made} steps: {error!r}\n" + "\n".join(self.journal)) from error
        return made

    def note(self, text: str) -> None:
        self.journal.append(text)

    def check_all(self, roots: Sequence[Path]) -> None:
        """Each file and each directory, through each of these roots. All handles are closed, or were fsynced."""
        for root in roots:
            for directory in self.directories:
                names = sorted(os.listdir(root / directory.path))
                if names != sorted(directory.entries):
                    raise Wrong(f"{root / directory.path} lists {names}, not {sorted(directory.entries)}")
            for file in self.files:
                for directory, name in file.names:
                    path = root / directory.path / name
                    self._compare(path.read_bytes(), file.data, 0, f"{path} (file {file.number})")
                    self._await_links(path, len(file.names))

    def _await_links(self, path: Path, want: int) -> None:
        ends_s = time.monotonic() + _CACHED_S
        while (links := path.stat().st_nlink) != want:
            if time.monotonic() > ends_s:
                raise Wrong(f"{path} has {links} links, not {want}")
            time.sleep(0.02)

    @staticmethod
    def _compare(got: bytes, want: bytes | bytearray | memoryview, offset: int, what: str) -> None:
        if got == want:
            return
        at = next((i for i, (a, b) in enumerate(zip(got, want, strict=False)) if a != b), min(len(got), len(want)))
        raise Wrong(
            f"{what}: {len(got)} bytes for {len(want)} from {offset}; differs at {offset + at}:"
            f" {got[at : at + 16].hex()} for {bytes(want[at : at + 16]).hex()}"
        )

    # -- choices ------------------------------------------------------------------------------------------------------

    def _mount(self) -> int:
        return self.random.randrange(len(self.roots))

    def _path(self, mount: int, directory: Directory, name: str) -> Path:
        return self.roots[mount] / directory.path / name

    def _named(self) -> File | None:
        files = [file for file in self.files if file.names]
        return self.random.choice(files) if files else None

    def _a_name(self, file: File) -> tuple[Directory, str]:
        return self.random.choice(sorted(file.names, key=lambda each: (each[0].path, each[1])))

    def _new_name(self) -> str:
        self._made += 1
        return f"n{self._made}"

    def _bytes(self, length: int) -> bytes:
        return (
            self.random.randbytes(length)
            if length < 4096
            else (self.random.randbytes(251) * (length // 251 + 1))[:length]
        )

    def _span(self, file: File) -> tuple[int, int]:
        """Where to write: anywhere in the file, or beyond its end, mostly little."""
        kind = self.random.random()
        at = self.random.randrange(len(file.data) + 1 + (20_000 if kind < 0.15 else 0))
        if kind > 0.8:
            at -= at % 4096
        most = self.sizes_bytes if self.random.random() < 0.1 else 30_000
        return at, self.random.randrange(1, most)

    def _look(self, path: Path) -> None:
        """An open makes the kernel look again where its name is outdated."""
        if len(self.roots) > 1:
            os.close(os.open(path, os.O_RDONLY))

    def _handle(self, *, writable: bool) -> Handle | None:
        found = [each for each in self.handles if not each.stale and (each.writable or not writable)]
        return self.random.choice(found) if found else None

    def _take(self, file: File, mount: int) -> None:
        """`mount` is about to open or change the contents of `file`: what others wrote is made known first."""
        if file.owner == mount:
            return
        for handle in [each for each in self.handles if each.file is file]:
            if self.random.random() < 0.6:
                self._close(handle)
                continue
            if not handle.stale:
                self.note(f"fsync {handle.fd} of {file.number}, before mount {mount} takes it")
                os.fsync(handle.fd)
            handle.stale = True
        file.owner = mount

    # -- handles ------------------------------------------------------------------------------------------------------

    def create(self) -> None:
        if len([file for file in self.files if file.names]) >= _MOST_FILES:
            return self.unlink()
        mount = self._mount()
        directory, name = self.random.choice(self.directories), self._new_name()
        file = File(bytearray(), mount, self._made)
        self.note(f"create {directory.path}/{name} on {mount} (file {file.number})")
        fd = os.open(self._path(mount, directory, name), os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o644)
        self._link(file, directory, name)
        self.files.append(file)
        self.handles.append(Handle(fd, file, mount, False, True))
        data = self._bytes(self.random.randrange(self.sizes_bytes) if self.random.random() < 0.3 else 5000)
        os.write(fd, data)
        file.data[:] = data
        return None

    def open(self) -> None:
        file = self._named()
        if file is None or len(self.handles) >= _MOST_HANDLES:
            return self.close()
        mount = self._mount()
        directory, name = self._a_name(file)
        self._take(file, mount)
        kind = self.random.random()
        flags = os.O_RDONLY if kind < 0.3 else os.O_RDWR
        append = kind > 0.85
        emptied = 0.8 < kind < 0.85
        flags |= (os.O_APPEND if append else 0) | (os.O_TRUNC if emptied else 0)
        fd = os.open(self._path(mount, directory, name), flags)
        self.note(
            f"open {directory.path}/{name} on {mount} as {fd}: append {append}, truncate {emptied} ({file.number})"
        )
        if emptied:
            file.data.clear()
        self.handles.append(Handle(fd, file, mount, append, flags & os.O_RDWR != 0))
        return None

    def _close(self, handle: Handle) -> None:
        self.note(f"close {handle.fd} of file {handle.file.number}")
        self.handles.remove(handle)
        os.close(handle.fd)
        self._forget(handle.file)

    def close(self) -> None:
        if self.handles:
            self._close(self.random.choice(self.handles))

    def fsync(self) -> None:
        if handle := self._handle(writable=True):
            self.note(f"fsync {handle.fd} of file {handle.file.number}")
            os.fsync(handle.fd)

    def write(self) -> None:
        handle = self._handle(writable=True)
        if handle is None:
            return self.open()
        file = handle.file
        at, length = self._span(file)
        if handle.append:
            at = len(file.data)
        data = self._bytes(length)
        self.note(f"write {at}+{length} to {handle.fd} (file {file.number})")
        done = os.write(handle.fd, data) if handle.append else os.pwrite(handle.fd, data, at)
        if done != length:
            raise Wrong(f"wrote {done} of {length}")
        self._store(file, at, data)
        return None

    def _store(self, file: File, at: int, data: bytes) -> None:
        if len(file.data) < at:
            file.data.extend(bytes(at - len(file.data)))
        file.data[at : at + len(data)] = data

    def read(self) -> None:
        handle = self._handle(writable=False)
        if handle is None:
            return self.open()
        file = handle.file
        at, length = self._span(file)
        self.note(f"read {at}+{length} of {handle.fd} (file {file.number})")
        self._compare(os.pread(handle.fd, length, at), file.data[at : at + length], at, f"file {file.number}")
        if os.fstat(handle.fd).st_size != len(file.data):
            raise Wrong(f"file {file.number}: fstat says {os.fstat(handle.fd).st_size}, not {len(file.data)}")
        return None

    def map(self) -> None:
        handle = self._handle(writable=True)
        if handle is None or handle.append or len(handle.file.data) < 2:
            return
        file = handle.file
        at = self.random.randrange(len(file.data) - 1)
        length = min(self.random.randrange(1, 20_000), len(file.data) - at)
        self.note(f"map and store {at}+{length} of {handle.fd} (file {file.number})")
        data = self._bytes(length)
        with mmap.mmap(handle.fd, len(file.data)) as mapped:
            self._compare(mapped[at : at + length], file.data[at : at + length], at, f"mapped file {file.number}")
            mapped[at : at + length] = data
            mapped.flush()
        self._store(file, at, data)

    def punch(self) -> None:
        self._fallocate(PUNCH_HOLE | KEEP_SIZE)

    def zero(self) -> None:
        self._fallocate(ZERO_RANGE | self.random.choice((0, KEEP_SIZE)))

    def allocate(self) -> None:
        self._fallocate(self.random.choice((0, KEEP_SIZE)))

    def _fallocate(self, mode: int) -> None:
        handle = self._handle(writable=True)
        if handle is None:
            return
        file = handle.file
        at, length = self._span(file)
        self.note(f"fallocate {mode} {at}+{length} of {handle.fd} (file {file.number})")
        if _libc.fallocate(handle.fd, mode, at, length):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        if not mode & KEEP_SIZE:
            self._resize(file, max(len(file.data), at + length))
        if mode & (PUNCH_HOLE | ZERO_RANGE):
            end = min(at + length, len(file.data))
            file.data[at:end] = bytes(max(0, end - at))

    def copy_range(self) -> None:
        """Between two handles of one mount; the kernel copies from a mount to another by itself."""
        source, target = self._handle(writable=False), self._handle(writable=True)
        if source is None or target is None or target.append:
            return
        from_, length = self._span(source.file)
        at, _ = self._span(target.file)
        want = min(length, max(0, len(source.file.data) - from_))
        if source.file is target.file and abs(from_ - at) < want:
            return
        self.note(
            f"copy {from_}+{length} of {source.fd} to {target.fd} at {at}"
            f" (file {source.file.number} to {target.file.number})"
        )
        done = 0
        while done < want:
            count = os.copy_file_range(source.fd, target.fd, length - done, from_ + done, at + done)
            if not count:
                raise Wrong(f"copied {done} of {want} bytes")
            done += count
        if want:
            self._store(target.file, at, bytes(source.file.data[from_ : from_ + want]))

    def seek(self) -> None:
        """What SEEK_DATA and SEEK_HOLE call a hole is zeros, up to the end."""
        handle = self._handle(writable=False)
        if handle is None:
            return
        data, at = handle.file.data, 0
        position = os.lseek(handle.fd, 0, os.SEEK_CUR)
        self.note(f"seek through {handle.fd} (file {handle.file.number})")
        while at < len(data):
            try:
                found = os.lseek(handle.fd, at, os.SEEK_DATA)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
                found = len(data)
            if found < at or any(data[at:found]):
                raise Wrong(f"file {handle.file.number}: no hole in {at} to {found}")
            if found == len(data):
                break
            at = os.lseek(handle.fd, found, os.SEEK_HOLE)
            if not found < at <= len(data):
                raise Wrong(f"file {handle.file.number}: data from {found} to {at} of {len(data)}")
        os.lseek(handle.fd, position, os.SEEK_SET)

    def reopen_elsewhere(self) -> None:
        """Close, and go on at once through another mount."""
        handle = self._handle(writable=True)
        if handle is None or handle.append or not handle.file.names:
            return
        file = handle.file
        mount = (handle.mount + 1) % len(self.roots)
        self._close(handle)
        directory, name = self._a_name(file)
        self._take(file, mount)
        fd = os.open(self._path(mount, directory, name), os.O_RDWR)
        self.note(f"reopen {directory.path}/{name} on {mount} as {fd} (file {file.number})")
        self.handles.append(Handle(fd, file, mount, False, True))
        at, length = self._span(file)
        self._compare(os.pread(fd, length, at), file.data[at : at + length], at, f"reopened file {file.number}")

    def truncate_handle(self) -> None:
        handle = self._handle(writable=True)
        if handle is None:
            return
        size = self._new_size(handle.file)
        self.note(f"ftruncate {handle.fd} to {size} (file {handle.file.number})")
        os.ftruncate(handle.fd, size)
        self._resize(handle.file, size)

    def _new_size(self, file: File) -> int:
        if self.random.random() < 0.2:
            return 0
        return self.random.randrange(len(file.data) + (30_000 if self.random.random() < 0.4 else 1))

    @staticmethod
    def _resize(file: File, size: int) -> None:
        del file.data[size:]
        file.data.extend(bytes(size - len(file.data)))

    # -- by path ------------------------------------------------------------------------------------------------------

    def read_path(self) -> None:
        file = self._named()
        if file is None:
            return
        mount = self._mount()
        self._take(file, mount)
        directory, name = self._a_name(file)
        path = self._path(mount, directory, name)
        self.note(f"read all of {path} (file {file.number})")
        self._compare(path.read_bytes(), file.data, 0, f"{path} (file {file.number})")

    def append(self) -> None:
        """From any mount, without taking the file: only where no other mount has unpublished work on it."""
        file = self._named()
        if file is None:
            return
        mount = self._mount()
        self._take(file, mount)
        directory, name = self._a_name(file)
        data = self._bytes(self.random.randrange(1, 10_000))
        self.note(f"append {len(data)} to {directory.path}/{name} on {mount} (file {file.number})")
        fd = os.open(self._path(mount, directory, name), os.O_WRONLY | os.O_APPEND)
        try:
            os.write(fd, data)
        finally:
            os.close(fd)
        file.data += data

    def truncate_path(self) -> None:
        file = self._named()
        if file is None:
            return
        mount = self._mount()
        self._take(file, mount)
        directory, name = self._a_name(file)
        size = self._new_size(file)
        self.note(f"truncate {directory.path}/{name} to {size} on {mount} (file {file.number})")
        self._look(self._path(mount, directory, name))
        os.truncate(self._path(mount, directory, name), size)
        self._resize(file, size)

    def times(self) -> None:
        file = self._named()
        if file is None:
            return
        mount = self._mount()
        self._take(file, mount)
        directory, name = self._a_name(file)
        path = self._path(mount, directory, name)
        mtime_ns = self.random.randrange(10**18)
        self.note(f"utime {path} (file {file.number})")
        self._look(path)
        os.utime(path, ns=(mtime_ns, mtime_ns))
        if path.stat().st_mtime_ns != mtime_ns:
            raise Wrong(f"{path}: mtime {path.stat().st_mtime_ns}, not {mtime_ns}")

    def stat(self) -> None:
        file = self._named()
        if file is None:
            return
        mount = file.owner
        directory, name = self._a_name(file)
        path = self._path(mount, directory, name)
        self._look(path)
        if (size := path.stat().st_size) != len(file.data):
            raise Wrong(f"{path}: {size} bytes, not {len(file.data)} (file {file.number})")
        self._await_links(path, len(file.names))

    # -- names --------------------------------------------------------------------------------------------------------

    def _link(self, file: File, directory: Directory, name: str) -> None:
        directory.entries[name] = file
        file.names.add((directory, name))

    def _unlink(self, file: File, directory: Directory, name: str) -> None:
        del directory.entries[name]
        file.names.remove((directory, name))
        self._forget(file)

    def _forget(self, file: File) -> None:
        if not file.names and file in self.files and not any(each.file is file for each in self.handles):
            self.files.remove(file)

    def _orphaning(self, file: File, mount: int) -> None:
        """The last name goes, on `mount`: handles elsewhere are closed before or are only closed afterwards."""
        if len(file.names) == 1:
            self._take(file, mount)

    def rename(self) -> None:
        """To a new name, or over another file."""
        file, other = self._named(), self._named()
        if file is None or other is None:
            return
        mount = self._mount()
        directory, name = self._a_name(file)
        if self.random.random() < 0.5 or other is file:
            into, new = self.random.choice(self.directories), self._new_name()
        else:
            into, new = self._a_name(other)
            self._orphaning(other, mount)
        self._look(self._path(mount, directory, name))  # two links of one file, says an outdated name: nothing is done
        self.note(f"rename {directory.path}/{name} to {into.path}/{new} on {mount} (file {file.number})")
        os.rename(self._path(mount, directory, name), self._path(mount, into, new))
        if new in into.entries:
            self._unlink(other, into, new)
        self._unlink_name(file, directory, name)
        self._link(file, into, new)

    @staticmethod
    def _unlink_name(file: File, directory: Directory, name: str) -> None:
        del directory.entries[name]
        file.names.remove((directory, name))

    def replace(self) -> None:
        """As editors save: a new file, written and closed, renamed over the old one."""
        file = self._named()
        if file is None:
            return
        mount = self._mount()
        directory, name = self._a_name(file)
        self._orphaning(file, mount)
        data = self._bytes(self.random.randrange(40_000))
        beside = self._new_name()
        path = self._path(mount, directory, name)
        made = File(bytearray(data), mount, self._made)
        self.note(f"replace {path} (file {file.number} by {made.number})")
        path.with_name(beside).write_bytes(data)
        os.replace(path.with_name(beside), path)
        self.files.append(made)
        self._unlink(file, directory, name)
        self._link(made, directory, name)

    def link(self) -> None:
        file = self._named()
        if file is None:
            return
        mount = self._mount()
        directory, name = self._a_name(file)
        into, new = self.random.choice(self.directories), self._new_name()
        self._look(self._path(mount, directory, name))
        self.note(f"link {directory.path}/{name} as {into.path}/{new} on {mount} (file {file.number})")
        os.link(self._path(mount, directory, name), self._path(mount, into, new))
        self._link(file, into, new)

    def unlink(self) -> None:
        file = self._named()
        if file is None:
            return
        mount = self._mount()
        directory, name = self._a_name(file)
        self._orphaning(file, mount)
        self.note(f"unlink {directory.path}/{name} on {mount} (file {file.number})")
        os.unlink(self._path(mount, directory, name))
        self._unlink(file, directory, name)

    def make_directory(self) -> None:
        if len(self.directories) > 5:
            return
        mount = self._mount()
        parent, name = self.random.choice(self.directories), self._new_name()
        self.note(f"mkdir {parent.path}/{name} on {mount}")
        self._path(mount, parent, name).mkdir()
        made = Directory(parent, name)
        parent.entries[name] = made
        self.directories.append(made)

    def remove_directory(self) -> None:
        """An empty one goes; one that is not empty refuses, or moves."""
        mount = self._mount()
        directory = self.random.choice(self.directories)
        if directory.parent is None:
            return
        path = self.roots[mount] / directory.path
        if directory.entries:
            with contextlib.suppress(OSError):
                os.rmdir(path)
                raise Wrong(f"{path} was removed although it is not empty")
            name = self._new_name()
            self.note(f"rename directory {directory.path} to {name} on {mount}")
            os.rename(path, self.roots[mount] / name)
            del directory.parent.entries[directory.name]
            directory.parent, directory.name = self.top, name
            self.top.entries[name] = directory
            return
        self.note(f"rmdir {directory.path} on {mount}")
        os.rmdir(path)
        del directory.parent.entries[directory.name]
        self.directories.remove(directory)

    def list_directory(self) -> None:
        mount = self._mount()
        directory = self.random.choice(self.directories)
        path = self.roots[mount] / directory.path
        found = {entry.name: entry.is_dir() for entry in os.scandir(path)}
        want = {name: isinstance(entry, Directory) for name, entry in directory.entries.items()}
        if found != want:
            raise Wrong(f"{path} lists {found}, not {want}")
        self._await_links(path, 2 + sum(want.values()))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("roots", nargs="+", type=Path, help="the same empty directory, through each mount")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--steps", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=0)
    parser.add_argument("--sizes", type=int, default=1 << 20)
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    exerciser = Exerciser(arguments.roots, arguments.seed, sizes_bytes=arguments.sizes)
    print(exerciser.run(steps=arguments.steps, seconds=arguments.seconds), "steps", exerciser.counts)
    return 0


if __name__ == "__main__":
    sys.exit(main())
