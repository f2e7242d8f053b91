"""A CREATE that says what a SETATTR behind it would do: the same rows, but for ctime; or nothing is folded."""

from __future__ import annotations

import stat

import pytest
from msgspec.structs import replace

from s3vfs.namespace import acl
from s3vfs.namespace.folding import folded
from s3vfs.namespace.limits import ID_MAX
from s3vfs.namespace.ops import Create, Setattr, SetattrMask, Setxattr
from s3vfs.namespace.rows import ROOT_INO, Inode, Rows, inode_key
from tests.namespace.volumes import TestVolume

MASKS = [
    SetattrMask.MODE,
    SetattrMask.UID,
    SetattrMask.UID | SetattrMask.GID,
    SetattrMask.UID | SetattrMask.GID | SetattrMask.MODE,
]
FILE = Create(ROOT_INO, b"f", 16, stat.S_IFREG | 0o6777, 3, 4, 0, b"", 1_000, 0o22)


def change(mask: int, *, mode: int = 0o640, uid: int = 1, gid: int = 2) -> Setattr:
    return Setattr(16, mask, mode, uid, gid, 0, 0, 0, 2_000)


def made(volume: TestVolume, create: Create) -> Inode:
    volume.ok(create)
    inode = volume.rows.inode(create.ino)
    assert inode is not None
    return inode


def rows_of(volume: TestVolume) -> dict[bytes, bytes]:
    return dict(volume.base.items())


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("mode", [0o600, 0o6751, 0o2700, 0o7777])
@pytest.mark.parametrize("create", [FILE, replace(FILE, mode=stat.S_IFREG | 0o600, umask=0)])
def test_one_op_leads_to_the_rows_of_both(create: Create, mask: int, mode: int) -> None:
    apart, together = TestVolume(), TestVolume()
    op = change(mask, mode=mode)
    inode = made(apart, create)
    both = folded(Rows(apart.base), create, inode, op)
    assert both is not None
    apart.ok(op)
    wanted = apart.rows.inode(create.ino)
    assert wanted is not None
    apart.rows.put(inode_key(create.ino), replace(wanted, ctime_ns=create.time_ns))
    assert made(together, both[0]) == both[1]
    expected, found = rows_of(apart), rows_of(together)
    session = b"S" + (7).to_bytes(8, "big")  # counts ops
    del expected[session], found[session]
    assert found == expected


@pytest.mark.parametrize("mask", [SetattrMask.SIZE, SetattrMask.MTIME, SetattrMask.PRIVILEGES, SetattrMask.SETGID])
def test_nothing_but_owner_and_mode_is_folded(mask: int) -> None:
    volume = TestVolume()
    assert folded(volume.rows, FILE, made(volume, FILE), change(mask | SetattrMask.MODE)) is None


def test_an_owner_that_cannot_be_is_left_to_apply() -> None:
    volume = TestVolume()
    assert folded(volume.rows, FILE, made(volume, FILE), change(SetattrMask.UID, uid=ID_MAX + 1)) is None


def test_directories_and_links_are_left_alone() -> None:
    for kind, target in ((stat.S_IFDIR, b""), (stat.S_IFLNK, b"to")):
        volume = TestVolume()
        create = replace(FILE, mode=kind | 0o755, target=target)
        assert folded(volume.rows, create, made(volume, create), change(SetattrMask.MODE)) is None


def test_a_directory_that_hands_on_its_group_has_its_say() -> None:
    volume = TestVolume()
    volume.ok(Setattr(ROOT_INO, SetattrMask.MODE, 0o2755, 0, 0, 0, 0, 0, 500))
    assert folded(volume.rows, FILE, made(volume, FILE), change(SetattrMask.GID)) is None


def test_a_directory_with_a_default_acl_has_its_say() -> None:
    volume = TestVolume()
    minimal = acl.encode([acl.Entry(acl.USER_OBJ, 7, 0), acl.Entry(acl.GROUP_OBJ, 5, 0), acl.Entry(acl.OTHER, 0, 0)])
    volume.ok(Setxattr(ROOT_INO, acl.DEFAULT, minimal, 0, 500))
    assert folded(volume.rows, FILE, made(volume, FILE), change(SetattrMask.MODE)) is None
