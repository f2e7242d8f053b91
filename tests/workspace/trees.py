"""Trees for tests: made with everything that a copy could lose, and described so that two can be compared."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

WORKSPACE = (sys.executable, "-m", "s3vfs", "workspace")


def make_home(home: Path) -> None:
    """A home with hard links, symlinks, odd modes and names, owners, times, xattrs and holes."""
    home.mkdir(parents=True)
    (home / ".bashrc").write_text("alias ll='ls -l'\n")
    (home / "code").mkdir(mode=0o750)
    (home / "code" / "run").write_text("#!/bin/sh\n")
    (home / "code" / "run").chmod(0o4755)
    os.link(home / "code" / "run", home / "code" / "same")
    os.link(home / "code" / "run", home / "third-name")
    os.symlink("code/run", home / "link")
    os.symlink("/nowhere", home / "code" / "dangling")
    (home / "empty").mkdir(mode=0o1777)
    (home / "closed").write_bytes(b"secret")
    (home / "closed").chmod(0)
    Path(os.fsdecode(os.fsencode(home) + b"/\xff\nname")).write_bytes(b"\x00\x01")
    os.chown(home / ".bashrc", 1234, 4321)
    os.chown(home / "link", 1234, 4321, follow_symlinks=False)
    os.setxattr(home / ".bashrc", "user.colour", b"blue\x00\xff")
    os.setxattr(home / "code", "user.kind", b"directory")
    with open(home / "sparse", "wb") as file:
        file.truncate(12 << 20)
        file.seek(5 << 20)
        file.write(b"in the middle")
    with open(home / "large", "wb") as file:
        file.write(os.urandom(9 << 20))
    for number, path in enumerate(sorted(home.rglob("*"))):
        os.utime(path, ns=(10**18 + number, 10**18 + 123_456_789 * number), follow_symlinks=False)
    os.utime(home, ns=(10**18, 10**18 + 5))


def add_what_is_left_out(home: Path) -> None:
    (home / ".cache" / "pip").mkdir(parents=True)
    (home / ".cache" / "pip" / "http").write_text("x")
    os.mkfifo(home / "fifo")
    os.mknod(home / "socket", 0o600 | stat.S_IFSOCK)


def make_many(home: Path, count: int) -> None:
    """`count` small files, 200 in each directory."""
    for number in range(count):
        directory = home / f"d{number // 200:03d}"
        if number % 200 == 0:
            directory.mkdir(parents=True)
        (directory / f"f{number}").write_bytes(b"%d" % number)


def described(root: Path, leave_out: Callable[[str], bool] = lambda path: False) -> dict[str, Any]:
    """Everything that two equal trees share, by path: contents, mode, owner, mtime, xattrs, links, holes."""
    result: dict[str, Any] = {}
    groups: dict[tuple[int, int], str] = {}
    for path in [root, *sorted(root.rglob("*"))]:
        name = str(path.relative_to(root))
        if leave_out(name):
            continue
        status = path.lstat()
        mode = status.st_mode
        facts: dict[str, Any] = {
            "mode": oct(mode),
            "owner": (status.st_uid, status.st_gid),
            "mtime_ns": status.st_mtime_ns,
            "xattrs": {
                n: os.getxattr(path, n, follow_symlinks=False) for n in os.listxattr(path, follow_symlinks=False)
            },
        }
        if stat.S_ISLNK(mode):
            facts["target"] = os.readlink(path)
        if stat.S_ISREG(mode):
            facts["content"] = path.read_bytes()
            facts["sparse"] = status.st_size > 1 << 20 and status.st_blocks * 512 < status.st_size // 2
        if not stat.S_ISDIR(mode):
            facts["first_name"] = groups.setdefault((status.st_dev, status.st_ino), name)
        result[name] = facts
    return result


def workspace(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """`s3vfs workspace ...` in a process of its own."""
    return subprocess.run(
        [*WORKSPACE, *map(str, arguments)], capture_output=True, text=True, stdin=subprocess.DEVNULL, **options
    )


def ok(*arguments: str | Path, **options: Any) -> str:
    """As `workspace`; what it printed. It must end well."""
    done = workspace(*arguments, **options)
    assert done.returncode == 0, done
    return done.stdout
