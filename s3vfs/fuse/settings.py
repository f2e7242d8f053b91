"""What a mount is asked to be. A plain value, so that it can be made without importing FUSE, trio or a store."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal


def default_cache_directory() -> Path:
    """/var/cache/s3vfs for root, else $XDG_CACHE_HOME/s3vfs (~/.cache/s3vfs)."""
    if os.geteuid() == 0:
        return Path("/var/cache/s3vfs")
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "s3vfs"


@dataclass(frozen=True, slots=True)
class MountSettings:
    """Options of `s3vfs mount` (docs/operations.md). Paths are absolute; `mountpoint` has no symbolic links.

    `kernel_options` are mount(8)'s own that the kernel or libfuse understands (nosuid, noexec ...).
    """

    url: str
    mountpoint: str
    endpoint_url: str = ""
    region: str = ""
    profile: str = ""
    cache_dir: Path = field(default_factory=default_cache_directory)
    cache_size_bytes: int = 20 << 30
    freshness_s: float = 0.1
    durable_close_above_bytes: int = 8 << 20
    leases: bool = True
    io: Literal["auto", "passthrough", "front", "python"] = "auto"
    io_timeout_s: float = 120.0
    offline: Literal["stale", "error"] = "stale"
    memory_bytes: int = 512 << 20
    read_only: bool = False
    allow_other: bool = field(default_factory=lambda: os.geteuid() == 0)
    nonempty: bool = False
    log_file: Path | None = None
    foreground: bool = False
    verbose: bool = False
    kernel_options: tuple[str, ...] = ()
