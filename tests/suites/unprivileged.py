"""A program that becomes an ordinary user and runs a command: root is refused nothing, and suites skip what they
cannot see refused.

    unshare --mount --propagation private python unprivileged.py COMMAND...

Interpreters and checkouts often lie in a home directory that only root may enter. In the mount namespace that the
program is started in, such a directory is replaced with one that everybody may enter and that holds only those two.
Knows nothing of s3vfs: it runs by its path.
"""

from __future__ import annotations

import ctypes
import os
import stat
import sys
from pathlib import Path

NOBODY = 65534
_MS_BIND, _MS_REC = 4096, 16384


def _mount(source: str, target: Path, kind: str, flags: int, data: str = "") -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(source.encode(), os.fsencode(target), kind.encode(), flags, data.encode()):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(target))


def _closed_to_others(path: Path) -> Path | None:
    """The topmost directory on the way to `path` that only its owner may enter."""
    for directory in [*reversed(path.parents), path]:
        if not directory.stat().st_mode & stat.S_IXOTH:
            return directory
    return None


def open_ways(paths: list[Path]) -> None:
    """Let everybody in this mount namespace reach these directories."""
    blocked: dict[Path, list[tuple[Path, int]]] = {}
    for path in paths:
        directory = _closed_to_others(path)
        if directory is not None:
            blocked.setdefault(directory, []).append((path, os.open(path, os.O_PATH)))
    for directory, inside in blocked.items():
        _mount("none", directory, "tmpfs", 0, "mode=755")
        for path, descriptor in inside:
            path.mkdir(parents=True, exist_ok=True)
            _mount(f"/proc/self/fd/{descriptor}", path, "", _MS_BIND | _MS_REC)
            os.close(descriptor)


def main() -> None:
    open_ways([Path(sys.base_prefix), Path(__file__).resolve().parents[2]])
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    os.execvp(sys.argv[1], sys.argv[1:])


if __name__ == "__main__":
    main()
