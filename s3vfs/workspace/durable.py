"""What must be on disk before something else may be, and who may work alone. Blocks."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


def sync_filesystem(path: Path) -> None:
    """Everything written so far to the file system that `path` is on is on disk when this returns. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if libc.syncfs(descriptor) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(path))
    finally:
        os.close(descriptor)


def sync_directory(path: Path) -> None:
    """The names in `path` are on disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_durably(path: Path, content: bytes, mode: int = 0o644) -> None:
    """`path` has this content or its former one, whatever happens; on disk when this returns."""
    fresh = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, mode)
    try:
        os.fchmod(descriptor, mode)
        with open(descriptor, "wb", closefd=False) as file:
            file.write(content)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.replace(fresh, path)
    sync_directory(path.parent)


def write_json(path: Path, value: dict[str, Any]) -> None:
    write_durably(path, json.dumps(value, indent=1).encode() + b"\n")


def read_json(path: Path) -> dict[str, Any]:
    """The object in `path`; {} where there is none, or none that can be read."""
    try:
        value = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


@contextlib.contextmanager
def alone(lock: Path, on_wait: Callable[[], None]) -> Iterator[int]:
    """Hold the lock; its descriptor. Calls `on_wait` once, and waits, when somebody else has it."""
    with _opened(lock) as descriptor:
        if not _taken(descriptor):
            on_wait()
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor


@contextlib.contextmanager
def alone_or_not(lock: Path) -> Iterator[int | None]:
    """Hold the lock; its descriptor, or None when somebody else has it. Never waits."""
    with _opened(lock) as descriptor:
        yield descriptor if _taken(descriptor) else None


@contextlib.contextmanager
def _opened(lock: Path) -> Iterator[int]:
    # Read-only: flock needs no more, and another user's process may wait for it too.
    descriptor = os.open(lock, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
