"""The workloads of the first bench: plain system calls on a directory, whatever is mounted there.

Each returns figures, never a verdict. Speeds are in MB/s (10^6 bytes) or calls per second.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

BLOCK_BYTES = 1 << 20


def drop_page_cache() -> None:
    """Write everything back, then forget pages, dentries and inodes of the whole machine (root)."""
    os.sync()
    forget_pages()


def forget_pages() -> None:
    """Forget clean pages, dentries and inodes, without waiting for dirty ones (root)."""
    Path("/proc/sys/vm/drop_caches").write_text("3\n")


def _pattern(index: int) -> bytes:
    """One block that neither compresses nor repeats: a sparse or deduplicating store shall not look fast."""
    return os.urandom(BLOCK_BYTES) if index < 16 else b""


def sequential_write(path: Path, size_bytes: int) -> float:
    """Write in 1 MiB calls, fsync, close. MB/s until close has returned."""
    blocks = [_pattern(index) for index in range(16)]
    started = time.perf_counter()
    fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o644)
    try:
        for index in range(size_bytes // BLOCK_BYTES):
            os.write(fd, blocks[index % len(blocks)])
        os.fsync(fd)
    finally:
        os.close(fd)
    return size_bytes / (time.perf_counter() - started) / 1e6


def sequential_read(path: Path) -> float:
    """Read in 1 MiB calls to the end. MB/s."""
    started = time.perf_counter()
    total = 0
    buffer = bytearray(BLOCK_BYTES)
    fd = os.open(path, os.O_RDONLY)
    try:
        while count := os.readv(fd, [buffer]):
            total += count
    finally:
        os.close(fd)
    return total / (time.perf_counter() - started) / 1e6


def _rate(names: list[Path], call: Callable[[Path], object]) -> float:
    started = time.perf_counter()
    for name in names:
        call(name)
    return len(names) / (time.perf_counter() - started)


def _create(path: Path, payload: bytes) -> None:
    fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    if payload:
        os.write(fd, payload)
    os.close(fd)


def small_files(directory: Path, count: int) -> dict[str, float]:
    """Per second: create of empty files, create with 4 KiB, stat with cold kernel caches, unlink."""
    directory.mkdir()
    empty = [directory / f"e{index:06d}" for index in range(count)]
    filled = [directory / f"f{index:06d}" for index in range(count)]
    payload = os.urandom(4096)
    figures = {
        "create/s": _rate(empty, lambda path: _create(path, b"")),
        "create+4KiB/s": _rate(filled, lambda path: _create(path, payload)),
    }
    drop_page_cache()
    figures["stat/s"] = _rate(empty + filled, os.stat)
    figures["unlink/s"] = _rate(empty + filled, os.unlink)
    directory.rmdir()
    return figures
