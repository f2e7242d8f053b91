"""SETATTR and extended attributes."""

from __future__ import annotations

import errno
import stat

import pytest

from s3vfs.namespace.ops import Config, Op, Removexattr, Setxattr
from s3vfs.namespace.rows import Usage
from tests.namespace.volumes import TestVolume, create, setattr_op, unlink, write

MODE, UID, GID, SIZE, ATIME, MTIME = 1, 2, 4, 8, 16, 32


@pytest.fixture
def volume() -> TestVolume:
    """A file 16, a directory 17, a symlink 18, an object 1."""
    volume = TestVolume()
    volume.file(16, b"f")
    volume.directory(17, b"d")
    volume.ok(create(18, b"l", mode=stat.S_IFLNK | 0o777, target=b"f"))
    volume.object(1)
    return volume


@pytest.mark.parametrize(
    ("op", "expected"),
    [
        (setattr_op(99, MODE), errno.ENOENT),
        (setattr_op(16, 256), errno.EINVAL),
        (setattr_op(16, UID, uid=2**32), errno.EINVAL),
        (setattr_op(16, GID, gid=2**32), errno.EINVAL),
        (setattr_op(17, SIZE), errno.EISDIR),
        (setattr_op(18, SIZE), errno.EINVAL),
        (Setxattr(99, b"user.a", b"", 0, 5), errno.ENOENT),
        (Setxattr(16, b"", b"", 0, 5), errno.ERANGE),
        (Setxattr(16, b"n" * 256, b"", 0, 5), errno.ERANGE),
        (Setxattr(16, b"a\0", b"", 0, 5), errno.EINVAL),
        (Setxattr(16, b"user.a", b"", 3, 5), errno.ENODATA),  # both: never right, as in Linux
        (Setxattr(16, b"user.there", b"", 3, 5), errno.EEXIST),
        (Setxattr(16, b"user.a", b"", 4, 5), errno.EINVAL),
        (Setxattr(16, b"user.a", bytes(64 * 1024 + 1), 0, 5), errno.E2BIG),
        (Setxattr(16, b"user.a", b"", 2, 5), errno.ENODATA),
        (Setxattr(16, b"user.there", b"", 1, 5), errno.EEXIST),
        (Removexattr(99, b"user.a", 5), errno.ENOENT),
        (Removexattr(16, b"user.a", 5), errno.ENODATA),
        (Removexattr(16, b"", 5), errno.ERANGE),
    ],
)
def test_attribute_ops_refuse(volume: TestVolume, op: Op, expected: int) -> None:
    volume.ok(Setxattr(16, b"user.there", b"v", 0, 5))
    assert volume.refused(op) == expected


def test_only_what_the_mask_names_changes(volume: TestVolume) -> None:
    fields = {"mode": 0o600, "uid": 1, "gid": 2, "size": 3, "atime_ns": 4, "mtime_ns": 5}
    before = volume.inode(16)
    for bit, name in zip((MODE, UID, GID, SIZE, ATIME, MTIME), fields, strict=True):
        old = volume.inode(16)
        volume.ok(setattr_op(16, bit, **fields, time_ns=7))
        new = volume.inode(16)
        changed = {field for field in old.__struct_fields__ if getattr(old, field) != getattr(new, field)}
        assert changed == {name, "ctime_ns"} | ({"version", "mtime_ns"} if bit == SIZE else set())
        assert new.ctime_ns == old.ctime_ns + 1  # the author's clock is behind
    assert stat.S_ISREG(volume.inode(16).mode)
    assert volume.inode(16).version == before.version + 1
    volume.sound()


def test_type_bits_of_a_mode_are_ignored(volume: TestVolume) -> None:
    volume.ok(setattr_op(17, MODE, mode=stat.S_IFREG | 0o1711))
    assert volume.inode(17).mode == stat.S_IFDIR | 0o1711
    volume.sound()


@pytest.mark.parametrize(
    ("mode", "after"),
    [(0o6755, 0o755), (0o6744, 0o2744), (0o4700, 0o700), (0o755, 0o755)],
)
@pytest.mark.parametrize("mask", [UID, GID, UID | GID])
def test_a_new_owner_ends_setuid_and_setgid(volume: TestVolume, mode: int, after: int, mask: int) -> None:
    volume.ok(setattr_op(16, MODE, mode=mode), setattr_op(17, MODE, mode=mode))
    volume.ok(setattr_op(16, mask, uid=1, gid=1), setattr_op(17, mask, uid=1, gid=1))
    assert stat.S_IMODE(volume.inode(16).mode) == after
    assert stat.S_IMODE(volume.inode(17).mode) == mode
    volume.ok(setattr_op(16, mask | MODE, mode=0o4755))  # the kernel said what it wants
    assert stat.S_IMODE(volume.inode(16).mode) == 0o4755


def test_shrinking_cuts_extents_and_growing_leaves_a_hole(volume: TestVolume) -> None:
    volume.ok(write(16, (0, 100, 1, 0), (200, 100, 1, 100)))
    volume.ok(setattr_op(16, SIZE, size=250, time_ns=5000))
    assert volume.extents(16) == [(0, 100, 1, 0), (200, 50, 1, 100)]
    inode = volume.inode(16)
    assert (inode.size, inode.allocated, inode.mtime_ns, inode.version) == (250, 150, 5000, 3)
    volume.ok(setattr_op(16, SIZE, size=50))
    assert volume.extents(16) == [(0, 50, 1, 0)]
    volume.ok(setattr_op(16, SIZE, size=2**63 - 1))
    assert volume.extents(16) == [(0, 50, 1, 0)]
    assert volume.rows.usage() == Usage(50, 4)
    volume.sound()
    volume.ok(setattr_op(16, SIZE | MTIME, size=0, mtime_ns=3))
    assert volume.inode(16).mtime_ns == 3
    row = volume.rows.object((1).to_bytes(16, "big"))
    assert row is not None
    assert (row.references, row.live_bytes, row.condemned) == (0, 0, volume.seq)
    volume.sound()


def test_shrinking_by_one_byte_cuts_one(volume: TestVolume) -> None:
    volume.ok(write(16, (0, 100, 1, 0)), setattr_op(16, SIZE, size=99))
    assert volume.extents(16) == [(0, 99, 1, 0)]
    volume.sound()


def test_the_same_size_is_no_new_version(volume: TestVolume) -> None:
    volume.ok(setattr_op(16, SIZE, size=0, time_ns=5000))
    assert (volume.inode(16).version, volume.inode(16).mtime_ns) == (1, 5000)


def test_truncating_an_orphan_does_not_touch_usage(volume: TestVolume) -> None:
    volume.ok(write(16, (0, 100, 1, 0)), unlink(16, b"f", hold=True))
    volume.ok(setattr_op(16, SIZE, size=10))
    assert volume.rows.usage() == Usage(0, 3)
    volume.sound()


def test_truncation_works_above_the_quota(volume: TestVolume) -> None:
    volume.ok(write(16, (0, 100, 1, 0)), Config(None, 10, None))
    volume.ok(setattr_op(16, SIZE, size=50), setattr_op(16, SIZE, size=1000))
    volume.sound()


def test_xattrs_are_set_replaced_counted_and_removed(volume: TestVolume) -> None:
    volume.ok(Setxattr(16, b"user.a", b"1", 1, 5), Setxattr(16, b"user.b", bytes(64 * 1024), 0, 5))
    volume.ok(Setxattr(16, b"user.a", b"2", 2, 5), Setxattr(17, b"user.d", b"", 0, 5))
    assert volume.rows.xattr(16, b"user.a") == b"2"
    assert volume.rows.xattr(17, b"user.d") == b""
    assert list(volume.rows.xattr_names(16)) == [b"user.a", b"user.b"]
    assert volume.inode(16).xattrs == 2
    assert volume.inode(16).ctime_ns == 1003
    volume.ok(Removexattr(16, b"user.a", 5))
    assert volume.inode(16).xattrs == 1
    volume.sound()
