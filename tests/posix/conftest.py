"""Mounts, and a local directory that can do all that the cases ask of one."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mounted import pair, root, shared_mount, shared_pair, volume

__all__ = ["pair", "root", "shared_mount", "shared_pair", "volume"]

# user::rwx group::r-x mask::rwx other::---, in the form of the kernel's xattr
_ACL = b"\2\0\0\0" + b"".join(
    tag + b"\0" + bits + b"\0" + b"\xff\xff\xff\xff"
    for tag, bits in ((b"\1", b"\7"), (b"\4", b"\5"), (b"\x10", b"\7"), (b"\x20", b"\0"))
)


def _is_complete(directory: Path) -> bool:
    """Whether this file system has POSIX ACLs and all kinds of extended attributes (tmpfs has user's since 6.6)."""
    probe = directory / "probe"
    probe.touch()
    try:
        for name, value in (("user.p", b"1"), ("trusted.p", b"1"), ("system.posix_acl_access", _ACL)):
            os.setxattr(probe, name, value)
    except OSError:
        return False
    finally:
        probe.unlink()
    return True


@pytest.fixture(scope="session")
def local_place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What the mounts are compared with: tmpfs, else where pytest keeps its directories."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as memory:
        for candidate in (Path(memory), tmp_path_factory.mktemp("local")):
            if _is_complete(candidate):
                yield candidate
                return
        pytest.fail("neither /dev/shm nor the temporary directory has ACLs and extended attributes to compare with")
