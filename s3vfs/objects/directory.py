"""A bucket that is a local directory: `file://`. For laptops, demos and tests; several processes may share it.

A key is a file at the same relative path. What makes it a bucket:

- A body is written to a file without a name, synced, and only then linked: a key never shows half an object, and a
  crash leaves nothing behind.
- if_absent is link(2), which fails where the name exists. Everything that depends on what is there now (if_match,
  replacement, deletion) holds flock(2) on the key's directory meanwhile.
- A name is durable (the directory is synced) before the answer.
- Directories are made with the first key in them and removed with the last, as prefixes come and go on S3.

One crash leftover is possible: the second name of a replacement (RESERVED_NAME), which the next replacement of
the same key takes over. Listings never show it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import os
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from s3vfs.errors import BucketMissing, ObjectExists, ObjectMissing, StoreDenied, StoreError, StoreUnreachable
from s3vfs.objects.keys import RESERVED_NAME, check_key, check_listing, content_etag
from s3vfs.objects.protocol import Listed, Outcome, Page, Reply
from s3vfs.objects.runner import Runner
from s3vfs.objects.store import OpenedStore

if TYPE_CHECKING:
    from typing_extensions import Buffer

# Buffers in one writev(2): Linux's IOV_MAX.
_BUFFERS_AT_ONCE = 1024

# How often a key's directory may vanish (its last key deleted by another process) while a key is put into it.
_ATTEMPTS = 100

# Who holds a directory's lock renames one synced file: milliseconds. A holder that was stopped must not hang us too.
LOCK_TIMEOUT_S = 30.0
_LOCK_POLL_S = 0.002

_HINTS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
}


async def open_directory(
    root: str, url: str, *, run: Runner, create: bool = False, date_ns: Callable[[], int] = time.time_ns
) -> OpenedStore:
    """Open the directory `root` as a store; `create` makes its last component. Raises BucketMissing, StoreDenied."""
    files = DirectoryFiles(root)
    await run(files.prepare, create)
    return OpenedStore(url, DirectoryControl(files, run, date_ns), DirectoryBulk(files))


class DirectoryFiles:
    """The blocking work, in terms of keys. Thread-safe, holds no descriptors between calls."""

    def __init__(self, root: str, *, pause: Callable[[float], None] = time.sleep) -> None:
        self._root = root
        self._pause = pause
        self._number = itertools.count()

    def prepare(self, create: bool) -> None:
        with _translated(self._root):
            if create:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(self._root)
                    _sync_directory(os.path.dirname(self._root))
            self._require_root()

    def read(self, key: str) -> bytes | None:
        """The whole body, or None where there is no such key."""
        with _translated(key), self._opened_file(key) as fd:
            return None if fd is None else _read_all(fd)

    def read_range(self, key: str, offset: int, length: int) -> bytes | None:
        """Up to `length` bytes from `offset`, or None where there is no such key."""
        with _translated(key), self._opened_file(key) as fd:
            return None if fd is None else os.pread(fd, length, offset)

    def put(self, key: str, body: Sequence[Buffer], *, if_absent: bool, if_match: str = "") -> bool:
        """Make the object whole or not at all; False when the condition did not hold."""
        check_key(key)
        folder, name = os.path.split(key)
        with _translated(key):
            for _ in range(_ATTEMPTS):
                try:
                    with self._opened(folder, make=not if_match) as directory:
                        if directory is None:
                            return False
                        if if_absent:
                            return self._link_new(directory, name, body)
                        return self._replace(directory, name, body, if_match)
                except FileNotFoundError:
                    continue  # the directory was removed with its last key; make it again
        raise StoreUnreachable(f"cannot put {key}: its directory is removed again and again")

    def _link_new(self, directory: int, name: str, body: Sequence[Buffer]) -> bool:
        if _exists(directory, name):
            return False  # spares writing a body that cannot win
        with self._body_file(body) as link:
            try:
                link(directory, name)
            except FileExistsError:
                return False
        os.fsync(directory)
        return True

    def _replace(self, directory: int, name: str, body: Sequence[Buffer], if_match: str) -> bool:
        second_name = RESERVED_NAME + name
        with self._body_file(body) as link, self._locked(directory):
            if if_match and if_match != _etag_at(directory, name):
                return False
            with contextlib.suppress(FileNotFoundError):
                os.unlink(second_name, dir_fd=directory)
            link(directory, second_name)
            os.rename(second_name, name, src_dir_fd=directory, dst_dir_fd=directory)
            os.fsync(directory)
        return True

    def delete(self, key: str, *, if_match: str = "") -> bool:
        """False when the condition did not hold; True when the key is gone, or never was."""
        check_key(key)
        folder, name = os.path.split(key)
        with _translated(key):
            with self._opened(folder, make=False) as directory:
                if directory is None:
                    return True
                with self._locked(directory):
                    if if_match and _etag_at(directory, name) not in ("", if_match):
                        return False
                    try:
                        os.unlink(name, dir_fd=directory)
                    except FileNotFoundError:
                        return True
                    except IsADirectoryError:
                        return True  # a prefix, not a key
                    os.fsync(directory)
            self._remove_empty(folder)
        return True

    def list_page(self, prefix: str, *, start_after: str, delimiter: str, limit: int) -> Page:
        check_listing(prefix, delimiter)
        entries: list[Listed] = []
        prefixes: list[str] = []
        last = ""
        with _translated(prefix):
            self._require_root()
            for found, size_bytes in self._walk(prefix.rpartition("/")[0], prefix, start_after, not delimiter):
                if len(entries) + len(prefixes) == limit:
                    return Page(entries, prefixes, True, last)
                last = found
                if found.endswith("/"):
                    prefixes.append(found)
                else:
                    entries.append(Listed(found, size_bytes, ""))
        return Page(entries, prefixes, False, last)

    def _walk(self, folder: str, prefix: str, start_after: str, deep: bool) -> Iterator[tuple[str, int]]:
        """Keys (or, unless `deep`, prefixes that hold keys) below `folder` in key order, with sizes. Opens only
        directories that can hold what is asked for; one that vanishes meanwhile is empty."""
        base = f"{folder}/" if folder else ""
        try:
            with os.scandir(os.path.join(self._root, folder)) as entries:
                # A directory sorts as its keys do: with the slash behind its name.
                names = {base + e.name + ("/" if e.is_dir() else ""): e for e in entries if _is_key_name(e.name)}
        except (FileNotFoundError, NotADirectoryError):
            return
        for path in sorted(names):
            if not path.startswith(prefix):
                continue
            if path.endswith("/"):
                if path <= start_after and not start_after.startswith(path):
                    continue  # all of it was listed before
                if path == start_after and not deep:
                    continue
                below = self._walk(path[:-1], prefix, start_after, True)
                if deep:
                    yield from below
                elif next(below, None) is not None:
                    yield path, 0
            elif path > start_after:
                with contextlib.suppress(FileNotFoundError):
                    yield path, names[path].stat().st_size

    @contextlib.contextmanager
    def _opened_file(self, key: str) -> Iterator[int | None]:
        """A descriptor of the key's file for reading; None where there is no such key."""
        check_key(key)
        try:
            fd = os.open(os.path.join(self._root, key), os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            self._require_root()
            yield None
            return
        try:
            yield None if stat.S_ISDIR(os.fstat(fd).st_mode) else fd
        finally:
            os.close(fd)

    @contextlib.contextmanager
    def _opened(self, folder: str, *, make: bool) -> Iterator[int | None]:
        """A descriptor of the directory; None where it is missing and not to be made."""
        path = os.path.join(self._root, folder) if folder else self._root
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        try:
            directory = os.open(path, flags)
        except FileNotFoundError:
            self._require_root()
            if not make:
                yield None
                return
            self._make(folder)
            directory = os.open(path, flags)
        try:
            yield directory
        finally:
            os.close(directory)

    def _make(self, folder: str) -> None:
        path = self._root
        for part in folder.split("/"):
            parent, path = path, os.path.join(path, part)
            try:
                os.mkdir(path)
            except FileExistsError:
                continue
            _sync_directory(parent)

    def _remove_empty(self, folder: str) -> None:
        """Remove directories that hold no key any more. Failing is no error: listings pass over empty ones."""
        while folder:
            try:
                os.rmdir(os.path.join(self._root, folder))
            except OSError:
                return
            folder = os.path.dirname(folder)

    @contextlib.contextmanager
    def _body_file(self, body: Sequence[Buffer]) -> Iterator[Callable[[int, str], None]]:
        """Write and sync the body; yields what gives it a name in a directory (FileExistsError where taken).

        The file begins in the root: the key's directory may be removed meanwhile, and refuses new files then.
        """
        temporary = ""
        try:
            fd = os.open(self._root, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o644)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
                raise
            # File systems without unnamed files: old overlayfs, NFS.
            temporary = os.path.join(self._root, f"{RESERVED_NAME}{os.getpid()}-{next(self._number)}-{id(body):x}")
            fd = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o644)
        source = temporary or f"/proc/self/fd/{fd}"

        def link(directory: int, name: str) -> None:
            os.link(source, name, dst_dir_fd=directory, follow_symlinks=True)

        try:
            _write_all(fd, body)
            os.fsync(fd)
            yield link
        finally:
            os.close(fd)
            if temporary:
                os.unlink(temporary)

    @contextlib.contextmanager
    def _locked(self, directory: int) -> Iterator[None]:
        for _ in range(round(LOCK_TIMEOUT_S / _LOCK_POLL_S)):
            try:
                fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._pause(_LOCK_POLL_S)
                continue
            try:
                yield
            finally:
                fcntl.flock(directory, fcntl.LOCK_UN)
            return
        raise StoreUnreachable(f"{self._root} stayed locked for {LOCK_TIMEOUT_S:.0f} s", hint="is a process stopped?")

    def _require_root(self) -> None:
        if not os.path.isdir(self._root):
            raise BucketMissing(f"no directory {self._root}", hint="check the path, or make it first")


class DirectoryControl:
    """`Control` over a directory; every call to the disk goes through the runner."""

    def __init__(self, files: DirectoryFiles, run: Runner, date_ns: Callable[[], int]) -> None:
        self._files = files
        self._run = run
        self._date_ns = date_ns

    async def get(self, key: str) -> Reply:
        body = await self._run(self._files.read, key)
        if body is None:
            return self._reply(Outcome.MISSING)
        return Reply(Outcome.OK, self._date_ns(), content_etag(body), body)

    async def head(self, key: str) -> Reply:
        reply = await self.get(key)
        return Reply(reply.outcome, reply.date_ns, reply.etag)

    async def put(self, key: str, body: bytes, *, if_absent: bool = False, if_match: str = "") -> Reply:
        def put() -> bool:
            return self._files.put(key, [body], if_absent=if_absent, if_match=if_match)

        if not await self._run(put):
            return self._reply(Outcome.REFUSED)
        return self._reply(Outcome.OK, content_etag(body))

    async def delete(self, key: str, *, if_match: str = "") -> Reply:
        deleted = await self._run(lambda: self._files.delete(key, if_match=if_match))
        return self._reply(Outcome.OK if deleted else Outcome.REFUSED)

    async def list_page(self, prefix: str, *, start_after: str = "", delimiter: str = "", limit: int = 1000) -> Page:
        return await self._run(
            lambda: self._files.list_page(prefix, start_after=start_after, delimiter=delimiter, limit=limit)
        )

    async def aclose(self) -> None:
        """Nothing is held."""

    def _reply(self, outcome: Outcome, etag: str = "") -> Reply:
        return Reply(outcome, self._date_ns(), etag)


class DirectoryBulk:
    """`Bulk` over a directory: one pread, one writev, no copies in between."""

    def __init__(self, files: DirectoryFiles) -> None:
        self._files = files

    def get_range(self, key: str, offset: int, length: int) -> Buffer:
        part = self._files.read_range(key, offset, length)
        if part is None:
            raise ObjectMissing(f"no object {key}")
        if len(part) != length:
            raise StoreUnreachable(f"object {key}: {len(part)} bytes at {offset} instead of {length}")
        return part

    def put_new(self, key: str, body: Sequence[Buffer]) -> None:
        if not self._files.put(key, body, if_absent=True):
            raise ObjectExists(f"object {key} exists already")

    def delete(self, key: str) -> None:
        self._files.delete(key)

    def close(self) -> None:
        """Nothing is held."""


def _is_key_name(name: str) -> bool:
    return not name.startswith(RESERVED_NAME)


def _exists(directory: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _etag_at(directory: int, name: str) -> str:
    """The ETag of the file, or "" where there is none."""
    try:
        fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
    except FileNotFoundError:
        return ""
    try:
        return content_etag(_read_all(fd))
    finally:
        os.close(fd)


def _read_all(fd: int) -> bytes:
    with open(fd, "rb", buffering=0, closefd=False) as file:
        return file.read()


def _write_all(fd: int, body: Sequence[Buffer]) -> None:
    waiting = [view for view in (memoryview(part).cast("B") for part in body) if view]
    start = 0
    while start < len(waiting):
        written = os.writev(fd, waiting[start : start + _BUFFERS_AT_ONCE])
        while start < len(waiting) and written >= len(waiting[start]):
            written -= len(waiting[start])
            start += 1
        if written:
            waiting[start] = waiting[start][written:]


def _sync_directory(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextlib.contextmanager
def _translated(what: str) -> Iterator[None]:
    """Foreign errors end here: OSError becomes the store's error tree."""
    try:
        yield
    except (PermissionError, FileNotFoundError) as error:
        kind = StoreDenied if isinstance(error, PermissionError) else BucketMissing
        raise kind(f"{what}: {error.strerror}") from error
    except OSError as error:
        if error.errno in (errno.EROFS,):
            raise StoreDenied(f"{what}: {error.strerror}") from error
        if error.errno in (errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG):
            raise StoreError(f"{what}: a directory cannot hold this key beside the others: {error.strerror}") from error
        raise StoreUnreachable(f"{what}: {error.strerror}", hint=_HINTS.get(error.errno or 0, "")) from error
