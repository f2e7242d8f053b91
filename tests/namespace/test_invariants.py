"""`problems` finds every kind of contradiction: each damage done to a sound base is named."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from s3vfs.namespace.dictionary import DictTransaction
from s3vfs.namespace.invariants import problems
from s3vfs.namespace.ops import Link, Setxattr
from s3vfs.namespace.rows import (
    Dentry,
    Extent,
    MutableRows,
    Reference,
    Rows,
    Usage,
    dentry_key,
    extent_key,
    held_key,
    hold_key,
    inode_key,
    link_key,
    object_key,
    orphan_key,
    reference_key,
    session_key,
    xattr_key,
)
from tests.namespace.volumes import OTHER, SID, TestVolume, create, object_id, unlink, write

F, D, SUB, GONE, LINK = 16, 17, 18, 19, 20
ONE = object_id(1)


@pytest.fixture
def volume() -> TestVolume:
    volume = TestVolume()
    volume.file(F, b"f")
    volume.directory(D, b"d")
    volume.directory(SUB, b"sub", D)
    volume.ok(create(GONE, b"gone"), create(LINK, b"l", mode=0o120777, target=b"f"))
    volume.object(1)
    volume.object(2)
    volume.ok(Link(F, D, b"also", 5), Setxattr(F, b"user.a", b"v", 0, 5), write(F, (0, 100, 1, 0), (200, 50, 1, 100)))
    volume.ok(unlink(GONE, b"gone", hold=True))
    volume.sound()
    return volume


def changed(key: bytes, **fields: Any) -> Callable[[MutableRows], None]:
    """The row with other fields."""

    def damage(rows: MutableRows) -> None:
        readers: dict[bytes, Callable[[], msgspec.Struct | None]] = {
            b"I": lambda: rows.inode(int.from_bytes(key[1:], "big")),
            b"O": lambda: rows.object(key[1:]),
            b"S": lambda: rows.session(int.from_bytes(key[1:], "big")),
        }
        row = readers[key[:1]]()
        assert row is not None
        rows.put(key, msgspec.structs.replace(row, **fields))

    return damage


def gone(key: bytes) -> Callable[[MutableRows], None]:
    return lambda rows: rows.delete(key)


def copied(source: bytes, key: bytes) -> Callable[[MutableRows], None]:
    return lambda rows: rows.txn.put(key, rows.txn.get(source) or b"")


def added(key: bytes, row: msgspec.Struct | None = None) -> Callable[[MutableRows], None]:
    return lambda rows: rows.txn.put(key, b"" if row is None else msgspec.msgpack.encode(row))


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (gone(b"V"), "no volume row"),
        (gone(b"Z"), "row Z is missing"),
        (added(b"Zx"), "no known kind"),
        (added(b"Q"), "no known kind"),
        (added(b"\xfe\x01"), "no known kind"),
        (added(b"Z", Usage(1, 5)), "usage is"),
        (changed(inode_key(F), nlink=3), "nlink is 3"),
        (changed(inode_key(D), nlink=2), "subdirectories"),
        (changed(inode_key(F), size=249), "an extent ends at 250"),
        (changed(inode_key(F), allocated=149), "allocated is 149"),
        (changed(inode_key(F), xattrs=0), "xattrs is 0"),
        (changed(inode_key(F), mode=0o644), "of no kind"),
        (changed(inode_key(F), mode=0o10644), "it is no file"),
        (changed(inode_key(F), target=b"x"), "target"),
        (changed(inode_key(F), size=2**63), "size is"),
        (changed(inode_key(D), size=1), "it is no file"),
        (changed(inode_key(LINK), size=9), "the target has 1 bytes"),
        (gone(inode_key(F)), "missing"),
        (gone(dentry_key(1, b"f")), "has no entry"),
        (gone(link_key(F, 1, b"f")), "has no link row"),
        (gone(link_key(SUB, D, b"sub")), "a directory with 0 links"),
        (added(link_key(F, 1, b"more")), "has no entry"),
        (added(dentry_key(1, b"f"), Dentry(F, 4)), "of another kind"),
        (added(dentry_key(1, b"a/b"), Dentry(F, 8)), "impossible name"),
        (added(dentry_key(F, b"x"), Dentry(F, 8)), "is no directory"),
        (gone(xattr_key(F, b"user.a")), "xattrs is 1"),
        (added(xattr_key(99, b"user.a")), "belongs to inode 99"),
        (added(extent_key(F, 99), Extent(1, ONE, 0)), "begins before 100"),
        (added(extent_key(F, 150), Extent(0, ONE, 0)), "is empty"),
        (added(extent_key(F, 0), Extent(100, object_id(9), 0)), "unknown object"),
        (added(extent_key(F, 0), Extent(100, ONE, 950)), "behind the end"),
        (gone(reference_key(ONE, F, 0)), "no reverse reference"),
        (gone(extent_key(F, 0)), "is not what stands there"),
        (added(reference_key(ONE, F, 0), Reference(99, 0)), "is not what stands there"),
        (added(reference_key(object_id(9), F, 0), Reference(1, 0)), "to an unknown object"),
        (changed(object_key(ONE), references=1), "claims 1 references"),
        (changed(object_key(ONE), live_bytes=1), "1 live bytes"),
        (changed(object_key(ONE), condemned=5), "but referred to"),
        (changed(object_key(ONE), checksums=b""), "bytes of checksums"),
        (gone(orphan_key(GONE)), "orphan: None"),
        (copied(orphan_key(GONE), orphan_key(F)), "has links"),
        (gone(held_key(SID, GONE)), "one side only"),
        (gone(hold_key(GONE, SID)), "one side only"),
        (gone(session_key(SID)), "its session has ended"),
        (added(hold_key(F, SID)), "is no orphan"),
        (changed(session_key(OTHER), blocks=((16, 30),)), "overlaps another's"),
        (changed(session_key(OTHER), blocks=((1016, 9000),)), "is none"),
        (changed(session_key(SID), blocks=((16, 1016),)), "in the unused block"),
        (copied(inode_key(F), inode_key(99_999)), "nobody was granted"),
    ],
)
def test_damage_is_named(volume: TestVolume, damage: Callable[[MutableRows], None], found: str) -> None:
    damage(volume.rows)
    assert any(found in problem for problem in problems(Rows(volume.base)))


def test_a_cycle_of_directories_is_named(volume: TestVolume) -> None:
    rows = volume.rows
    rows.delete(dentry_key(1, b"d"))
    rows.delete(link_key(D, 1, b"d"))
    rows.put(dentry_key(SUB, b"d"), Dentry(D, 4))
    rows.txn.put(link_key(D, SUB, b"d"), b"")
    found = list(problems(Rows(volume.base)))
    assert f"directory {D} cannot be reached from the root" in found
    assert f"directory {SUB} cannot be reached from the root" in found


def test_a_wrong_digest_is_named(volume: TestVolume) -> None:
    assert list(problems(Rows(volume.base), volume.txn.digest ^ 1)) == ["the digest is not that of the rows"]


def test_no_rows_are_sound() -> None:
    assert list(problems(Rows(DictTransaction()))) == []
