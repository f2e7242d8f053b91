"""CREATE, LINK, UNLINK, RMDIR: every errno, and what success leaves."""

from __future__ import annotations

import errno
import stat

import pytest

from s3vfs.namespace.limits import LINK_MAX
from s3vfs.namespace.ops import Config, Format, Link, Rmdir
from s3vfs.namespace.rows import Dentry, Orphan, Usage, inode_key
from tests.namespace.volumes import OTHER, TestVolume, create, unlink

BAD_NAMES = [
    (b"", errno.EINVAL),
    (b".", errno.EINVAL),
    (b"..", errno.EINVAL),
    (b"a/b", errno.EINVAL),
    (b"a\0b", errno.EINVAL),
    (b"n" * 256, errno.ENAMETOOLONG),
    (b"n" * 10_000, errno.ENAMETOOLONG),
]


@pytest.fixture
def volume() -> TestVolume:
    return TestVolume()


def test_a_formatted_volume_is_an_empty_root() -> None:
    volume = TestVolume(formatted=False)
    volume.ok(Format("v", 5, 6, 0o1777, 3, 4, 9))
    root = volume.inode(1)
    assert (root.mode, root.nlink, root.uid, root.gid) == (stat.S_IFDIR | 0o1777, 2, 3, 4)
    assert volume.rows.usage() == Usage(0, 1)
    volume.sound()


@pytest.mark.parametrize(
    ("mode", "target", "nlink", "size"),
    [
        (stat.S_IFREG | 0o640, b"", 1, 0),
        (stat.S_IFDIR | 0o750, b"", 2, 0),
        (stat.S_IFLNK | 0o777, b"../there", 1, 8),
        (stat.S_IFIFO | 0o600, b"", 1, 0),
        (stat.S_IFSOCK | 0o600, b"", 1, 0),
        (stat.S_IFCHR | 0o600, b"", 1, 0),
        (stat.S_IFBLK | 0o600, b"", 1, 0),
    ],
)
def test_create_makes_any_kind_of_inode(volume: TestVolume, mode: int, target: bytes, nlink: int, size: int) -> None:
    volume.ok(create(16, b"x", mode=mode, target=target, uid=5, gid=6, rdev=0x801, time_ns=2000))
    inode = volume.inode(16)
    assert (inode.mode, inode.uid, inode.gid, inode.nlink, inode.size) == (mode, 5, 6, nlink, size)
    assert inode.rdev == (0x801 if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) else 0)
    assert inode.target == target
    assert {inode.atime_ns, inode.mtime_ns, inode.ctime_ns, inode.btime_ns} == {2000}
    assert volume.rows.dentry(1, b"x") == Dentry(16, mode >> 12)
    assert list(volume.rows.links(16)) == [(1, b"x")]
    root = volume.inode(1)
    assert (root.mtime_ns, root.ctime_ns, root.nlink) == (2000, 2000, 3 if stat.S_ISDIR(mode) else 2)
    assert volume.rows.usage() == Usage(0, 2)
    volume.sound()


@pytest.mark.parametrize(("name", "expected"), BAD_NAMES)
def test_bad_names_are_refused_everywhere(volume: TestVolume, name: bytes, expected: int) -> None:
    volume.file(16, b"f")
    assert volume.refused(create(17, name)) == expected
    assert volume.refused(Link(16, 1, name, 5)) == expected
    assert volume.refused(unlink(16, name)) == expected
    assert volume.refused(Rmdir(1, name, 16, 0, 5)) == expected


def test_the_longest_name_is_good(volume: TestVolume) -> None:
    volume.file(16, b"n" * 255)
    volume.sound()


@pytest.mark.parametrize(
    ("op", "expected"),
    [
        (create(16, mode=0o644), errno.EINVAL),
        (create(16, mode=0o160000), errno.EINVAL),
        (create(16, mode=1 << 40 | stat.S_IFREG), errno.EINVAL),
        (create(16, uid=2**32), errno.EINVAL),
        (create(16, gid=2**32), errno.EINVAL),
        (create(16, rdev=2**32, mode=stat.S_IFCHR), errno.EINVAL),
        (create(16, target=b"t"), errno.EINVAL),
        (create(16, mode=stat.S_IFLNK, target=b""), errno.ENOENT),
        (create(16, mode=stat.S_IFLNK, target=b"a\0"), errno.EINVAL),
        (create(16, mode=stat.S_IFLNK, target=b"t" * 4096), errno.ENAMETOOLONG),
        (create(16, parent=99), errno.ENOENT),
        (create(18, parent=17), errno.ENOTDIR),
        (create(18, b"there"), errno.EEXIST),
        (create(15), errno.ESTALE),
        (create(17), errno.ESTALE),
        (create(1016), errno.ESTALE),
        (create(2**63 - 1), errno.ESTALE),
    ],
)
def test_create_refuses(volume: TestVolume, op: object, expected: int) -> None:
    volume.ok(create(17, b"there"))
    assert volume.refused(op) == expected  # type: ignore[arg-type]


def test_inode_numbers_come_from_the_sessions_block_and_only_once(volume: TestVolume) -> None:
    volume.file(16, b"a")
    volume.file(20, b"b")  # skipping is fine
    assert volume.refused(create(18, b"c")) == errno.ESTALE
    volume.ok(create(1015, b"last"))
    session = volume.rows.session(7)
    assert session is not None
    assert session.blocks == ()
    volume.ok(create(1016, b"theirs"), sid=OTHER)
    volume.sound()


def test_a_setgid_directory_hands_on_its_group(volume: TestVolume) -> None:
    volume.directory(16, b"d", mode=0o2775, gid=50)
    volume.ok(create(17, b"f", 16, gid=9), create(18, b"s", 16, gid=9, mode=stat.S_IFDIR | 0o700))
    assert (volume.inode(17).gid, volume.inode(17).mode) == (50, stat.S_IFREG | 0o644)
    assert (volume.inode(18).gid, volume.inode(18).mode) == (50, stat.S_IFDIR | 0o2700)


def test_quota_on_inodes_counts_links_of_the_tree(volume: TestVolume) -> None:
    volume.ok(Config(None, None, 2))
    volume.file(16, b"a")
    assert volume.refused(create(17, b"b")) == errno.EDQUOT
    volume.ok(Link(16, 1, b"second", 5))  # no inode more
    volume.ok(unlink(16, b"a"), unlink(16, b"second"))
    volume.file(17, b"b")  # the orphan does not count
    volume.sound()


def test_link_counts_are_bounded(volume: TestVolume) -> None:
    volume.file(16, b"f")
    volume.directory(17, b"d")
    for ino in (16, 17):
        inode = volume.inode(ino)
        fields = {name: getattr(inode, name) for name in inode.__struct_fields__} | {"nlink": LINK_MAX}
        volume.rows.put(inode_key(ino), type(inode)(**fields))
    assert volume.refused(Link(16, 1, b"g", 5)) == errno.EMLINK
    assert volume.refused(create(18, b"s", 17, mode=stat.S_IFDIR)) == errno.EMLINK
    volume.ok(create(18, b"s", 17))


def test_link_adds_a_name_and_a_ctime(volume: TestVolume) -> None:
    volume.file(16, b"f")
    volume.ok(Link(16, 1, b"g", 5))
    inode = volume.inode(16)
    assert (inode.nlink, inode.ctime_ns, inode.mtime_ns) == (2, 1001, 1000)
    assert list(volume.rows.links(16)) == [(1, b"f"), (1, b"g")]
    volume.sound()


@pytest.mark.parametrize(
    ("op", "expected"),
    [
        (Link(99, 1, b"g", 5), errno.ENOENT),
        (Link(18, 1, b"g", 5), errno.ENOENT),  # an orphan stays one
        (Link(16, 99, b"g", 5), errno.ENOENT),
        (Link(16, 16, b"g", 5), errno.ENOTDIR),
        (Link(17, 1, b"g", 5), errno.EPERM),
        (Link(16, 1, b"f", 5), errno.EEXIST),
        (Link(17, 1, b"f", 5), errno.EEXIST),
    ],
)
def test_link_refuses(volume: TestVolume, op: Link, expected: int) -> None:
    volume.file(16, b"f")
    volume.directory(17, b"d")
    volume.file(18, b"gone")
    volume.ok(unlink(18, b"gone"))
    assert volume.refused(op) == expected


@pytest.mark.parametrize(
    ("op", "expected"),
    [
        (unlink(16, b"none"), errno.ENOENT),
        (unlink(17, b"f"), errno.ESTALE),
        (unlink(99, b"f"), errno.ESTALE),
        (unlink(17, b"d"), errno.EISDIR),
        (unlink(16, b"f", 99), errno.ENOENT),
        (unlink(16, b"f", 16), errno.ENOTDIR),
        (Rmdir(1, b"none", 17, 0, 5), errno.ENOENT),
        (Rmdir(1, b"d", 16, 0, 5), errno.ESTALE),
        (Rmdir(1, b"f", 16, 0, 5), errno.ENOTDIR),
        (Rmdir(1, b"full", 18, 0, 5), errno.ENOTEMPTY),
        (Rmdir(1, b"deep", 20, 0, 5), errno.ENOTEMPTY),
        (Rmdir(99, b"d", 17, 0, 5), errno.ENOENT),
        (Rmdir(16, b"d", 17, 0, 5), errno.ENOTDIR),
    ],
)
def test_removal_refuses(volume: TestVolume, op: object, expected: int) -> None:
    volume.file(16, b"f")
    volume.directory(17, b"d")
    volume.directory(18, b"full")
    volume.file(19, b"f", 18)
    volume.directory(20, b"deep")
    volume.directory(21, b"d", 20)
    assert volume.refused(op) == expected  # type: ignore[arg-type]


def test_unlink_takes_one_link_then_leaves_an_orphan(volume: TestVolume) -> None:
    volume.file(16, b"f")
    volume.ok(Link(16, 1, b"g", 5))
    volume.ok(unlink(16, b"f"))
    assert volume.inode(16).nlink == 1
    assert volume.rows.orphan(16) is None
    volume.ok(unlink(16, b"g", hold=True))
    assert volume.inode(16).nlink == 0
    assert volume.rows.orphan(16) == Orphan(volume.seq)
    assert list(volume.rows.holders(16)) == [7]
    assert list(volume.rows.held(7)) == [16]
    assert volume.rows.usage() == Usage(0, 1)
    volume.sound()


def test_hold_of_a_file_that_keeps_a_link_is_nothing(volume: TestVolume) -> None:
    volume.file(16, b"f")
    volume.ok(Link(16, 1, b"g", 5), unlink(16, b"f", hold=True))
    assert list(volume.rows.holders(16)) == []
    volume.sound()


def test_a_removed_directory_is_gone_at_once(volume: TestVolume) -> None:
    volume.directory(16, b"d")
    volume.directory(17, b"e", 16)
    assert volume.inode(16).nlink == 3
    volume.ok(Rmdir(16, b"e", 17, 0, 3000))
    assert volume.rows.inode(17) is None
    assert (volume.inode(16).nlink, volume.inode(16).mtime_ns) == (2, 3000)
    assert volume.refused(create(18, b"x", 17)) == errno.ENOENT
    volume.sound()


@pytest.mark.parametrize(("uid", "expected"), [(0, 0), (10, 0), (20, 0), (30, errno.EPERM)])
def test_the_sticky_bit_leaves_removal_to_owners_and_root(volume: TestVolume, uid: int, expected: int) -> None:
    volume.directory(16, b"d", mode=0o1777, uid=10)
    volume.file(17, b"f", 16, uid=20)
    volume.directory(18, b"s", 16, uid=20)
    verdicts = volume.apply(unlink(17, b"f", 16, uid=uid), Rmdir(16, b"s", 18, uid, 5))
    assert [verdict.errno for verdict in verdicts] == [expected, expected]
    volume.sound()


def test_times_of_a_directory_only_go_up_and_stop_at_the_largest(volume: TestVolume) -> None:
    volume.ok(create(16, b"late", time_ns=2**63 - 1))
    volume.ok(create(17, b"later", time_ns=5))
    root = volume.inode(1)
    assert (root.mtime_ns, root.ctime_ns) == (2**63 - 1, 2**63 - 1)
