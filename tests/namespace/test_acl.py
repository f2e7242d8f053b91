"""POSIX ACLs: their form, the mode beside them, inheritance; and the ops that set them, whatever their order."""

from __future__ import annotations

import errno
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3vfs.namespace import acl
from s3vfs.namespace.acl import GROUP, GROUP_OBJ, MASK, OTHER, USER, USER_OBJ, Entry
from s3vfs.namespace.changes import changes_of
from s3vfs.namespace.ops import XATTR_DROP_SETGID, Removexattr, Rmdir, SetattrMask, Setxattr
from s3vfs.namespace.rows import xattr_key
from tests.namespace.test_attributes import setattr_op
from tests.namespace.volumes import TestVolume, create, write

_NOBODY = 2**32 - 1


def rich(owner: int = 7, user: int = 6, group: int = 5, mask: int = 6, other: int = 0) -> tuple[Entry, ...]:
    return (
        Entry(USER_OBJ, owner, _NOBODY),
        Entry(USER, user, 1000),
        Entry(GROUP_OBJ, group, _NOBODY),
        Entry(MASK, mask, _NOBODY),
        Entry(OTHER, other, _NOBODY),
    )


def minimal(mode: int) -> tuple[Entry, ...]:
    bits = zip((USER_OBJ, GROUP_OBJ, OTHER), (mode >> 6, mode >> 3, mode), strict=True)
    return tuple(Entry(tag, right & 7, _NOBODY) for tag, right in bits)


rights = st.integers(0, 7)
ids = st.integers(0, 2**32 - 2)


@st.composite
def acls(draw: st.DrawFn) -> tuple[Entry, ...]:
    """Any valid one."""
    users = [Entry(USER, draw(rights), who) for who in draw(st.lists(ids, max_size=3))]
    groups = [Entry(GROUP, draw(rights), who) for who in draw(st.lists(ids, max_size=3))]
    with_mask = bool(users or groups) or draw(st.booleans())
    mask = [Entry(MASK, draw(rights), _NOBODY)] if with_mask else []
    own, group, other = (Entry(tag, draw(rights), _NOBODY) for tag in (USER_OBJ, GROUP_OBJ, OTHER))
    return (own, *users, group, *groups, *mask, other)


@given(acls())
def test_what_is_encoded_is_parsed(entries: tuple[Entry, ...]) -> None:
    assert acl.parse(acl.encode(entries)) == entries


@given(st.binary(max_size=64))
def test_parsing_is_total(value: bytes) -> None:
    entries = acl.parse(value)
    if entries:
        acl.permissions(entries)
    entries = acl.parse(b"\2\0\0\0" + value)
    if entries:
        acl.permissions(entries)


@given(acls(), st.integers(0, 0o7777))
def test_a_stored_acl_is_shown_with_the_rights_of_the_mode(entries: tuple[Entry, ...], mode: int) -> None:
    shown = acl.parse(acl.shown(acl.encode(entries), mode))
    assert shown is not None
    assert [(entry.tag, entry.who) for entry in shown] == [(entry.tag, entry.who) for entry in entries]
    if not acl.is_minimal(entries):
        assert acl.permissions(shown) == mode & 0o777
    kept = [entry for entry in entries if entry.tag in (USER, GROUP, GROUP_OBJ)]
    assert [entry for entry in shown if entry.tag in (USER, GROUP, GROUP_OBJ)] == kept


@given(acls(), st.integers(0, 0o7777))
def test_inheriting_grants_no_more_than_was_asked_for(entries: tuple[Entry, ...], mode: int) -> None:
    kept, access = acl.inherit(acl.encode(entries), mode)
    assert kept & ~mode == 0
    assert kept & 0o777 == acl.permissions(entries) & mode & 0o777
    assert kept & 0o7000 == mode & 0o7000
    assert (access is None) == acl.is_minimal(entries)


@pytest.mark.parametrize(
    "entries",
    [
        rich()[:-1],
        rich()[1:],
        (*rich(), rich()[-1]),
        tuple(entry for entry in rich() if entry.tag != MASK),
        (rich()[0], rich()[2], rich()[1], *rich()[3:]),
        (rich(owner=8)),
        (rich()[0]._replace(tag=3), *rich()[1:]),
        (rich()[0], Entry(USER, 7, _NOBODY), *rich()[2:]),
        (*rich()[:4], rich()[3], rich()[4]),
    ],
)
def test_what_is_no_acl(entries: tuple[Entry, ...]) -> None:
    assert acl.parse(acl.encode(entries)) is None


def test_wrong_lengths_and_versions_are_no_acl() -> None:
    good = acl.encode(rich())
    for value in (b"", good[:3], good[:-1], good + b"\0", b"\1" + good[1:]):
        assert acl.parse(value) is None
    assert acl.parse(good[:4]) == ()


@pytest.fixture
def volume() -> TestVolume:
    volume = TestVolume()
    volume.file(16, b"f")
    volume.directory(17, b"d")
    volume.ok(create(18, b"l", mode=stat.S_IFLNK | 0o777, target=b"f"))
    return volume


def set_acl(ino: int, entries: tuple[Entry, ...], name: bytes = acl.ACCESS, flags: int = 0) -> Setxattr:
    return Setxattr(ino, name, acl.encode(entries), flags, 5)


def access(volume: TestVolume, ino: int) -> tuple[Entry, ...] | None:
    """As getxattr shows it."""
    value = volume.rows.xattr(ino, acl.ACCESS)
    return None if value is None else acl.parse(acl.shown(value, volume.inode(ino).mode))


def test_an_access_acl_sets_the_mode_and_its_mask_is_the_groups(volume: TestVolume) -> None:
    volume.ok(setattr_op(16, SetattrMask.MODE, mode=0o4644), set_acl(16, rich()))
    assert volume.inode(16).mode == stat.S_IFREG | 0o4760
    assert access(volume, 16) == rich()
    assert volume.inode(16).xattrs == 1
    volume.sound()


def test_a_minimal_acl_is_only_a_mode(volume: TestVolume) -> None:
    volume.ok(set_acl(16, rich()), set_acl(16, minimal(0o741)))
    assert volume.inode(16).mode == stat.S_IFREG | 0o741
    assert (access(volume, 16), volume.inode(16).xattrs) == (None, 0)
    volume.sound()


def test_the_later_of_chmod_and_setfacl_wins(volume: TestVolume) -> None:
    volume.ok(set_acl(16, rich()), setattr_op(16, SetattrMask.MODE, mode=0o640))
    assert access(volume, 16) == rich(owner=6, mask=4)
    volume.ok(set_acl(16, rich()))
    assert access(volume, 16) == rich()
    assert volume.inode(16).mode == stat.S_IFREG | 0o760


def test_removing_an_acl_leaves_the_mode(volume: TestVolume) -> None:
    volume.ok(set_acl(16, rich()), Removexattr(16, acl.ACCESS, 5))
    assert volume.inode(16).mode == stat.S_IFREG | 0o760
    volume.ok(set_acl(16, rich()), set_acl(16, ()))
    assert (access(volume, 16), volume.inode(16).xattrs) == (None, 0)
    volume.ok(set_acl(17, rich(), acl.DEFAULT), set_acl(17, (), acl.DEFAULT), set_acl(17, (), acl.DEFAULT))
    assert volume.inode(17).xattrs == 0
    volume.sound()


def test_setgid_goes_when_its_author_may_not_keep_it(volume: TestVolume) -> None:
    volume.ok(setattr_op(16, SetattrMask.MODE, mode=0o2755), set_acl(16, rich()))
    assert volume.inode(16).mode & stat.S_ISGID
    volume.ok(set_acl(16, rich(), flags=XATTR_DROP_SETGID))
    assert not volume.inode(16).mode & stat.S_ISGID


@pytest.mark.parametrize(
    ("op", "expected"),
    [
        (set_acl(99, rich()), errno.ENOENT),
        (set_acl(18, rich()), errno.EOPNOTSUPP),
        (set_acl(16, rich(), acl.DEFAULT), errno.EACCES),
        (set_acl(16, rich()[1:]), errno.EINVAL),
        (set_acl(17, rich()[1:], acl.DEFAULT), errno.EINVAL),
        (set_acl(16, rich(), flags=8), errno.EINVAL),
    ],
)
def test_acls_are_refused(volume: TestVolume, op: Setxattr, expected: int) -> None:
    assert volume.refused(op) == expected


def test_create_and_replace_do_not_count(volume: TestVolume) -> None:
    volume.ok(set_acl(16, rich(), flags=2), set_acl(16, rich(), flags=1))


def test_new_inodes_inherit_the_default_acl_and_not_the_umask(volume: TestVolume) -> None:
    volume.ok(set_acl(17, rich(group=7, mask=7, other=4), acl.DEFAULT))
    volume.ok(
        create(19, b"file", parent=17, mode=stat.S_IFREG | 0o666, umask=0o077),
        create(20, b"dir", parent=17, mode=stat.S_IFDIR | 0o777, umask=0o077),
        create(21, b"link", parent=17, mode=stat.S_IFLNK | 0o777, target=b"x", umask=0o077),
    )
    assert volume.inode(19).mode == stat.S_IFREG | 0o664
    assert access(volume, 19) == rich(owner=6, group=7, mask=6, other=4)
    assert volume.inode(20).mode == stat.S_IFDIR | 0o774
    assert volume.rows.xattr(20, acl.DEFAULT) == volume.rows.xattr(17, acl.DEFAULT)
    assert [volume.inode(ino).xattrs for ino in (19, 20, 21)] == [1, 2, 0]
    assert volume.inode(21).mode == stat.S_IFLNK | 0o777
    volume.sound()


def test_without_a_default_acl_the_umask_counts(volume: TestVolume) -> None:
    volume.ok(create(19, b"x", parent=17, mode=stat.S_IFREG | 0o4666, umask=0o027))
    assert volume.inode(19).mode == stat.S_IFREG | 0o4640


def test_acls_leave_with_their_directory(volume: TestVolume) -> None:
    volume.ok(set_acl(17, rich()), set_acl(17, rich(), acl.DEFAULT))
    volume.ok(Rmdir(1, b"d", 17, 0, 5))
    assert list(volume.rows.xattr_names(17)) == []
    volume.sound()


def test_file_capabilities_end_with_writes_sizes_and_owners(volume: TestVolume) -> None:
    capability = Setxattr(16, b"security.capability", b"caps", 0, 5)
    volume.object(1)
    for op in (
        write(16, (0, 10, 1, 0)),
        setattr_op(16, SetattrMask.SIZE, size=3),
        setattr_op(16, SetattrMask.UID, uid=5),
        setattr_op(16, SetattrMask.PRIVILEGES),
    ):
        volume.ok(capability, Setxattr(16, b"user.kept", b"", 0, 5), op)
        assert list(volume.rows.xattr_names(16)) == [b"user.kept"]
        volume.sound()
    volume.ok(capability, setattr_op(16, SetattrMask.MODE, mode=0o700))
    assert volume.inode(16).xattrs == 2


def test_privileges_end_but_not_those_of_directories(volume: TestVolume) -> None:
    for mode, left in ((0o6755, 0o755), (0o6745, 0o2745), (0o1644, 0o1644)):
        volume.ok(setattr_op(16, SetattrMask.MODE, mode=mode), setattr_op(16, SetattrMask.PRIVILEGES))
        assert stat.S_IMODE(volume.inode(16).mode) == left
    volume.ok(setattr_op(17, SetattrMask.MODE, mode=0o6755), setattr_op(17, SetattrMask.PRIVILEGES))
    assert stat.S_IMODE(volume.inode(17).mode) == 0o6755


def test_times_before_1970_are_kept(volume: TestVolume) -> None:
    both = SetattrMask.ATIME | SetattrMask.MTIME
    volume.ok(setattr_op(16, both, atime_ns=-1, mtime_ns=-(2**63)))
    assert (volume.inode(16).atime_ns, volume.inode(16).mtime_ns) == (-1, -(2**63))
    volume.sound()


def test_changes_name_the_inodes_whose_acls_changed() -> None:
    changes = changes_of([xattr_key(16, acl.ACCESS), xattr_key(17, acl.DEFAULT), xattr_key(18, b"user.a")])
    assert changes.acls == {16, 17}
    assert changes.inodes == {16, 17, 18}
