"""A read-only mount answers as a read-only mount of a local file system does."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mounted import Volume
from tests.posix.cases_names import PATH_CALLS
from tests.posix.site import ALICE, Site

_MS_RDONLY, _MS_REMOUNT, _MS_BIND = 1, 32, 4096
_MNT_DETACH = 2
_libc = ctypes.CDLL(None, use_errno=True)


def _mount(source: Path, target: Path, flags: int) -> None:
    if _libc.mount(os.fsencode(source), os.fsencode(target), None, flags, None):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


@contextlib.contextmanager
def bound_read_only(source: Path, target: Path) -> Iterator[None]:
    target.mkdir()
    _mount(source, target, _MS_BIND)
    try:
        _mount(source, target, _MS_BIND | _MS_REMOUNT | _MS_RDONLY)
        yield
    finally:
        _libc.umount2(os.fsencode(target), _MNT_DETACH)


def populate(root: Path) -> None:
    (root / "source").write_bytes(b"data")
    (root / "file").write_bytes(b"data")
    (root / "dir").mkdir(mode=0o777)
    (root / "full/sub").mkdir(parents=True)
    os.symlink("file", root / "link")
    os.mkfifo(root / "fifo")
    os.chmod(root / "file", 0o666)


def answers(root: Path) -> list[object]:
    site = Site(root, root)
    before = os.getcwd()
    os.chdir(root)
    try:
        for who in (ALICE, None):
            with contextlib.nullcontext() if who is None else site.user(who):
                for path in ("file", "dir", "full", "link", "missing", "missing/below", "file/below", "dir/new"):
                    for name, call in PATH_CALLS:
                        site.note((path, name, site.attempt(call, path)))
                for flags in (os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_TRUNC, os.O_RDONLY):
                    site.shut(site.open("file", flags))
                site.note(os.access("file", os.W_OK, effective_ids=True))
                site.note(os.access("fifo", os.W_OK, effective_ids=True))
    finally:
        os.chdir(before)
    return site.notes


def test_a_read_only_mount_answers_as_a_local_one(volume: Volume, local_place: Path) -> None:
    writer = volume.mount()
    local = local_place / "read-only"
    local.mkdir()
    for place in (local, writer.path):
        populate(place)
    writer.sync()  # a read-only mount sees what is committed
    reader = volume.mount("--read-only")
    with bound_read_only(local, local_place / "bound"):
        assert answers(reader.path) == answers(local_place / "bound")


def test_nothing_was_changed(volume: Volume) -> None:
    writer = volume.mount()
    populate(writer.path)
    writer.sync()
    reader = volume.mount("--read-only")
    answers(reader.path)
    assert (writer.path / "file").read_bytes() == b"data"
    assert sorted(os.listdir(writer.path)) == sorted(["source", "file", "dir", "full", "link", "fifo"])
    with pytest.raises(OSError, match="Read-only"):
        os.setxattr(reader.path / "file", "system.posix_acl_access", b"\2\0\0\0")
