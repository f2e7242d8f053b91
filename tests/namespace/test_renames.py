"""RENAME: every errno, link counts of the parents, orphans, NOREPLACE and EXCHANGE."""

from __future__ import annotations

import errno

import pytest

from s3vfs.namespace.ops import Link, Rename
from s3vfs.namespace.rows import Dentry, Orphan
from tests.namespace.volumes import TestVolume, rename, unlink

A, B, SUB, FULL, INNER, F, G = 16, 17, 18, 19, 20, 21, 22
NOREPLACE, EXCHANGE = 1, 2


@pytest.fixture
def volume() -> TestVolume:
    """/a/sub/ /b/ /full/inner /f /g"""
    volume = TestVolume()
    volume.directory(A, b"a")
    volume.directory(B, b"b")
    volume.directory(SUB, b"sub", A)
    volume.directory(FULL, b"full")
    volume.file(INNER, b"inner", FULL)
    volume.file(F, b"f")
    volume.file(G, b"g")
    return volume


@pytest.mark.parametrize(
    ("op", "expected"),
    [
        (rename(F, b"", b"x"), errno.EINVAL),
        (rename(F, b"f", b".."), errno.EINVAL),
        (rename(F, b"f", b"x" * 256), errno.ENAMETOOLONG),
        (rename(F, b"f", b"x", flags=3), errno.EINVAL),
        (rename(F, b"f", b"x", flags=4), errno.EINVAL),
        (rename(F, b"f", b"x", parent=99), errno.ENOENT),
        (rename(F, b"f", b"x", new_parent=99), errno.ENOENT),
        (rename(F, b"f", b"x", parent=G), errno.ENOTDIR),
        (rename(F, b"f", b"x", new_parent=G), errno.ENOTDIR),
        (rename(F, b"none", b"x"), errno.ENOENT),
        (rename(G, b"f", b"x"), errno.ESTALE),
        (rename(F, b"f", b"x", replaced=G), errno.ESTALE),
        (rename(F, b"f", b"g"), errno.ESTALE),
        (rename(F, b"f", b"g", replaced=A), errno.ESTALE),
        (rename(F, b"f", b"g", replaced=G, flags=NOREPLACE), errno.EEXIST),
        (rename(F, b"f", b"g", flags=NOREPLACE), errno.EEXIST),
        (rename(F, b"f", b"x", flags=EXCHANGE), errno.ENOENT),
        (rename(A, b"a", b"g", replaced=G), errno.ENOTDIR),
        (rename(F, b"f", b"a", replaced=A), errno.EISDIR),
        (rename(A, b"a", b"full", replaced=FULL), errno.ENOTEMPTY),
        (rename(A, b"a", b"x", new_parent=A), errno.EINVAL),
        (rename(A, b"a", b"x", new_parent=SUB), errno.EINVAL),
        (rename(A, b"a", b"sub", new_parent=A, replaced=SUB), errno.EINVAL),
        (rename(A, b"a", b"sub", new_parent=A, replaced=SUB, flags=EXCHANGE), errno.EINVAL),
        (rename(SUB, b"sub", b"a", parent=A, replaced=A, flags=EXCHANGE), errno.EINVAL),
        (rename(SUB, b"sub", b"a", parent=A, replaced=A), errno.ENOTEMPTY),
        (rename(INNER, b"inner", b"full", parent=FULL, replaced=FULL), errno.EISDIR),
    ],
)
def test_rename_refuses(volume: TestVolume, op: Rename, expected: int) -> None:
    assert volume.refused(op) == expected


def test_a_file_moves_between_directories(volume: TestVolume) -> None:
    volume.ok(rename(F, b"f", b"x", new_parent=A, time_ns=5000))
    assert volume.rows.dentry(1, b"f") is None
    assert volume.rows.dentry(A, b"x") == Dentry(F, 8)
    assert list(volume.rows.links(F)) == [(A, b"x")]
    assert {volume.inode(ino).ctime_ns for ino in (1, A, F)} == {5000}
    assert volume.inode(F).mtime_ns == 1000
    volume.sound()


def test_a_directory_takes_its_link_count_along(volume: TestVolume) -> None:
    volume.ok(rename(SUB, b"sub", b"moved", parent=A, new_parent=B))
    assert (volume.inode(A).nlink, volume.inode(B).nlink) == (2, 3)
    volume.sound()


def test_a_directory_replaces_an_empty_one(volume: TestVolume) -> None:
    volume.ok(rename(SUB, b"sub", b"b", parent=A, replaced=B))
    assert volume.rows.inode(B) is None
    assert (volume.inode(1).nlink, volume.inode(A).nlink) == (5, 2)
    volume.ok(rename(FULL, b"full", b"b", replaced=SUB))
    assert volume.inode(1).nlink == 4
    volume.sound()


def test_a_replaced_file_becomes_an_orphan_that_its_author_may_hold(volume: TestVolume) -> None:
    volume.ok(rename(F, b"f", b"g", replaced=G, hold=True))
    assert volume.rows.orphan(G) == Orphan(volume.seq)
    assert list(volume.rows.holders(G)) == [7]
    volume.sound()


def test_a_replaced_file_with_another_link_loses_one(volume: TestVolume) -> None:
    volume.ok(Link(G, A, b"also", 5))
    volume.ok(rename(F, b"f", b"g", replaced=G))
    assert volume.inode(G).nlink == 1
    volume.sound()


@pytest.mark.parametrize("flags", [0, EXCHANGE])
def test_two_names_of_one_inode_stay(volume: TestVolume, flags: int) -> None:
    volume.ok(Link(F, A, b"also", 5))
    before = dict(volume.base.items())
    volume.ok(rename(F, b"f", b"also", new_parent=A, replaced=F, flags=flags))
    volume.ok(rename(F, b"f", b"f", replaced=F, flags=flags))
    after = dict(volume.base.items())
    assert {key: after[key] for key in after if key[:1] != b"S"} == {
        key: before[key] for key in before if key[:1] != b"S"
    }


def test_noreplace_takes_a_free_name(volume: TestVolume) -> None:
    volume.ok(rename(F, b"f", b"x", flags=NOREPLACE))
    volume.sound()


def test_exchange_swaps_a_directory_and_a_file_between_parents(volume: TestVolume) -> None:
    volume.ok(rename(SUB, b"sub", b"inner", parent=A, new_parent=FULL, replaced=INNER, flags=EXCHANGE))
    assert volume.rows.dentry(A, b"sub") == Dentry(INNER, 8)
    assert volume.rows.dentry(FULL, b"inner") == Dentry(SUB, 4)
    assert (volume.inode(A).nlink, volume.inode(FULL).nlink) == (2, 3)
    volume.ok(rename(INNER, b"sub", b"inner", parent=A, new_parent=FULL, replaced=SUB, flags=EXCHANGE))
    assert (volume.inode(A).nlink, volume.inode(FULL).nlink) == (3, 2)
    volume.ok(rename(F, b"f", b"full", replaced=FULL, flags=EXCHANGE))
    assert volume.rows.dentry(1, b"f") == Dentry(FULL, 4)
    assert volume.inode(1).nlink == 5
    volume.sound()


def test_the_sticky_bit_guards_both_ends() -> None:
    volume = TestVolume()
    volume.directory(16, b"t", mode=0o1777, uid=1)
    volume.file(17, b"mine", 16, uid=2)
    volume.file(18, b"theirs", 16, uid=3)
    volume.file(19, b"out", uid=2)
    assert volume.refused(rename(18, b"theirs", b"x", parent=16, uid=2)) == errno.EPERM
    assert volume.refused(rename(19, b"out", b"theirs", new_parent=16, replaced=18, uid=2)) == errno.EPERM
    assert (
        volume.refused(rename(17, b"mine", b"theirs", parent=16, new_parent=16, replaced=18, flags=EXCHANGE, uid=2))
        == errno.EPERM
    )
    volume.ok(rename(19, b"out", b"mine", new_parent=16, replaced=17, uid=2))
    volume.sound()


def test_an_orphan_cannot_be_renamed_back(volume: TestVolume) -> None:
    volume.ok(unlink(F, b"f"))
    assert volume.refused(rename(F, b"f", b"x")) == errno.ENOENT
