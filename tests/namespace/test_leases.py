"""GRANT, RECALL, BUSY, RELEASE, REVOKE, what a lease covers, and R6: who is refused what, and who is not."""

from __future__ import annotations

import errno
import stat

import pytest

from s3vfs.namespace import leases, leasing, limits, ops
from s3vfs.namespace.changes import changes_of
from s3vfs.namespace.digest import DigestingTransaction
from s3vfs.namespace.leases import covering, lease_of_directory, leases_touched
from s3vfs.namespace.rows import GrantRow, LeaseId, RecallRow
from s3vfs.namespace.scratch import ScratchTransaction
from s3vfs.namespace.verdict import COVERED, STALE
from tests.namespace.volumes import (
    OTHER,
    SID,
    TestVolume,
    create,
    declare,
    object_id,
    rename,
    setattr_op,
    unlink,
    write,
)

# Everything below 100 is SID's own making; MINE and THEIRS are directories of the root, FREE one that nobody covers.
MINE, THEIRS, FREE = 20, 21, 22
IN_MINE, IN_THEIRS, IN_FREE = 30, 31, 32  # a file in each, named f


@pytest.fixture
def volume() -> TestVolume:
    volume = TestVolume()
    for ino, name in ((MINE, b"mine"), (THEIRS, b"theirs"), (FREE, b"free")):
        volume.directory(ino, name)
    for ino, parent in ((IN_MINE, MINE), (IN_THEIRS, THEIRS), (IN_FREE, FREE)):
        volume.file(ino, b"f", parent)
    volume.ok(ops.Feature(0), declare(1))
    return volume


def grant(volume: TestVolume, *directories: int, sid: int = SID) -> LeaseId:
    volume.ok(ops.Grant(directories), sid=sid)
    volume.sound()
    return volume.seq, 0


def recall(volume: TestVolume, lease: LeaseId, *, sid: int = OTHER) -> LeaseId:
    volume.ok(ops.Recall(*lease), sid=sid)
    volume.sound()
    return volume.seq, 0


def named(volume: TestVolume, lease: LeaseId, op: ops.Op, *, sid: int = SID) -> int:
    """Apply an op that names a lease; its errno."""
    [verdict] = volume.record([volume.number(op, sid, 1, lease)], sid=sid)
    volume.sound()
    return verdict.errno


def nothing_covered(volume: TestVolume) -> bool:
    return not list(volume.rows.grants()) and not list(volume.rows.covers())


def directory(ino: int, name: bytes, parent: int) -> ops.Create:
    return create(ino, name, parent, mode=stat.S_IFDIR | 0o755)


# -- GRANT ------------------------------------------------------------------------------------------------------------


def test_a_grant_is_one_lease_on_all_its_directories(volume: TestVolume) -> None:
    volume.ok(ops.Beat(), ops.Grant((MINE, FREE)))
    lease = (volume.seq, 1)
    assert leases.grant(volume.rows, lease) == GrantRow(SID, 1, MINE, 2)
    assert [lease_of_directory(volume.rows, ino) for ino in (MINE, FREE, THEIRS, 1)] == [lease, lease, None, None]
    assert list(volume.rows.directories(lease)) == [MINE, FREE]
    assert list(volume.rows.leases(SID)) == [lease]
    volume.sound()


def test_a_grant_is_refused_as_a_whole(volume: TestVolume) -> None:
    grant(volume, MINE)
    grant(volume, THEIRS, sid=OTHER)
    for directories, expected in [
        ((), errno.EINVAL),
        ((FREE, FREE), errno.EINVAL),
        (tuple(range(1, 1002)), errno.EINVAL),
        ((FREE, 99), errno.ENOENT),
        ((FREE, IN_FREE), errno.ENOTDIR),
        ((FREE, THEIRS), errno.EBUSY),
        ((FREE, MINE), errno.EEXIST),
        ((FREE, THEIRS, MINE, 99), errno.EBUSY),
        ((99, THEIRS), errno.ENOENT),
    ]:
        assert volume.refused(ops.Grant(directories)) == expected


def test_a_thousand_directories_can_be_granted_at_once(volume: TestVolume) -> None:
    inos = tuple(range(2016, 2016 + limits.DIRECTORIES_PER_GRANT))
    volume.ok(ops.Block(1000), *(directory(ino, b"%d" % ino, FREE) for ino in inos))
    lease = grant(volume, *inos)
    assert len(list(volume.rows.directories(lease))) == 1000
    volume.ok(ops.Release(*lease))
    volume.sound()
    assert nothing_covered(volume)


def test_a_session_has_only_so_many_leases(volume: TestVolume, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leasing, "LEASES_PER_SESSION", 2)
    grant(volume, MINE)
    second = grant(volume, FREE)
    grant(volume, THEIRS, sid=OTHER)
    assert volume.refused(ops.Grant((1,))) == errno.ENOLCK
    volume.ok(ops.Release(*second), ops.Grant((1,)))


def test_a_removed_directory_cannot_be_granted(volume: TestVolume) -> None:
    volume.ok(unlink(IN_FREE, b"f", FREE), ops.Rmdir(1, b"free", FREE, 0, 5))
    assert volume.refused(ops.Grant((FREE,))) == errno.ENOENT


# -- coverage ---------------------------------------------------------------------------------------------------------


def test_a_lease_covers_the_directory_and_what_is_only_in_it(volume: TestVolume) -> None:
    volume.ok(directory(40, b"sub", MINE), create(41, b"s", MINE, mode=stat.S_IFLNK | 0o777, target=b"t"))
    lease = grant(volume, MINE)
    assert [covering(volume.rows, ino) for ino in (MINE, IN_MINE, 41)] == [lease] * 3
    assert [covering(volume.rows, ino) for ino in (1, FREE, IN_FREE, 40, 999)] == [None] * 5


def test_a_file_is_covered_while_all_its_links_are(volume: TestVolume) -> None:
    lease = grant(volume, MINE, FREE)
    theirs = grant(volume, THEIRS, sid=OTHER)
    volume.ok(ops.Link(IN_MINE, MINE, b"2", 5), ops.Link(IN_MINE, FREE, b"3", 5))
    assert covering(volume.rows, IN_MINE) == lease
    volume.ok(ops.Link(IN_MINE, 1, b"4", 5))
    assert covering(volume.rows, IN_MINE) is None
    volume.ok(unlink(IN_MINE, b"4"))
    assert covering(volume.rows, IN_MINE) == lease
    volume.ok(ops.Release(*theirs), sid=OTHER)
    other = grant(volume, THEIRS)
    volume.ok(ops.Link(IN_MINE, THEIRS, b"5", 5))
    assert other != lease
    assert covering(volume.rows, IN_MINE) is None


def test_a_file_with_many_links_is_covered_by_nobody(volume: TestVolume) -> None:
    lease = grant(volume, MINE)
    for number in range(2, limits.COVERED_LINKS_MAX + 1):
        volume.ok(ops.Link(IN_MINE, MINE, b"%d" % number, 5))
    assert covering(volume.rows, IN_MINE) == lease
    volume.ok(ops.Link(IN_MINE, MINE, b"last", 5))
    assert covering(volume.rows, IN_MINE) is None
    volume.ok(setattr_op(IN_MINE, 1, mode=0o600), sid=OTHER)


def test_an_orphan_is_covered_by_nobody(volume: TestVolume) -> None:
    grant(volume, MINE)
    volume.ok(unlink(IN_MINE, b"f", MINE, hold=True))
    assert covering(volume.rows, IN_MINE) is None
    volume.ok(setattr_op(IN_MINE, 1, mode=0o600), sid=OTHER)


def test_a_new_directory_comes_under_its_parents_lease(volume: TestVolume) -> None:
    lease = grant(volume, MINE)
    volume.ok(directory(40, b"a", MINE), directory(41, b"b", 40), directory(42, b"c", FREE), create(43, b"f", 41))
    assert [covering(volume.rows, ino) for ino in (40, 41, 42, 43)] == [lease, lease, None, lease]
    assert list(volume.rows.directories(lease)) == [MINE, 40, 41]
    row = volume.rows.grant(lease)
    assert row is not None
    assert row.directories == 3
    volume.sound()


def test_a_lease_grows_only_so_far(volume: TestVolume, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leasing, "DIRECTORIES_PER_LEASE", 2)
    lease = grant(volume, MINE)
    volume.ok(directory(40, b"a", MINE), directory(41, b"b", MINE), directory(42, b"c", 41))
    assert [covering(volume.rows, ino) for ino in (40, 41, 42)] == [lease, None, None]
    volume.ok(ops.Rmdir(MINE, b"a", 40, 0, 5), directory(43, b"d", MINE))
    assert covering(volume.rows, 43) == lease
    volume.sound()
    assert covering(volume.rows, 41) is None
    grant(volume, 41)


def test_a_removed_directory_leaves_its_lease_which_stays(volume: TestVolume) -> None:
    lease = grant(volume, FREE)
    assert named(volume, lease, unlink(IN_FREE, b"f", FREE)) == 0
    assert named(volume, lease, ops.Rmdir(1, b"free", FREE, 0, 5)) == 0
    assert list(volume.rows.directories(lease)) == []
    assert list(volume.rows.covers()) == []
    assert named(volume, lease, ops.Beat()) == 0
    volume.ok(ops.Release(*lease))
    volume.sound()


def test_a_replaced_directory_leaves_its_lease(volume: TestVolume) -> None:
    lease = grant(volume, MINE)
    volume.ok(directory(40, b"a", MINE), directory(41, b"b", FREE))
    volume.ok(rename(41, b"b", b"a", parent=FREE, new_parent=MINE, replaced=40))
    assert list(volume.rows.directories(lease)) == [MINE]
    assert covering(volume.rows, 41) is None
    volume.sound()


@pytest.mark.parametrize("flags", [0, ops.RENAME_EXCHANGE])
def test_a_directory_that_moves_keeps_its_coverage(volume: TestVolume, flags: int) -> None:
    lease = grant(volume, MINE)
    volume.ok(directory(40, b"a", MINE), directory(41, b"b", FREE))
    new_name, replaced = (b"b", 41) if flags else (b"x", 0)
    volume.ok(rename(40, b"a", new_name, parent=MINE, new_parent=FREE, replaced=replaced, flags=flags))
    assert covering(volume.rows, 40) == lease
    assert covering(volume.rows, 41) is None
    volume.sound()


# -- R6 ---------------------------------------------------------------------------------------------------------------

FOREIGN = [
    create(1016, b"new", MINE),
    directory(1016, b"new", MINE),
    ops.Link(IN_FREE, MINE, b"new", 5),
    ops.Link(IN_MINE, FREE, b"new", 5),
    unlink(IN_MINE, b"f", MINE),
    ops.Rmdir(1, b"mine", MINE, 0, 5),
    ops.Rmdir(MINE, b"sub", 40, 0, 5),
    rename(IN_MINE, b"f", b"g", parent=MINE, new_parent=MINE),
    rename(IN_MINE, b"f", b"g", parent=MINE, new_parent=FREE),
    rename(IN_FREE, b"f", b"g", parent=FREE, new_parent=MINE),
    rename(IN_FREE, b"f", b"f", parent=FREE, new_parent=MINE, replaced=IN_MINE),
    rename(IN_FREE, b"f", b"f", parent=FREE, new_parent=MINE, replaced=IN_MINE, flags=ops.RENAME_EXCHANGE),
    rename(MINE, b"mine", b"moved"),
    rename(FREE, b"free", b"mine", replaced=MINE),
    rename(FREE, b"free", b"mine", replaced=MINE, flags=ops.RENAME_EXCHANGE),
    setattr_op(MINE, 1, mode=0o700),
    setattr_op(IN_MINE, 1, mode=0o600),
    write(IN_MINE, (0, 10, 1, 0)),
    ops.Append(IN_MINE, 10, object_id(1), 0, 5, 5),
    ops.Punch(IN_MINE, 0, 5, 5),
    ops.Clone(IN_FREE, 0, 5, IN_MINE, 0, 0, 5),
    ops.Setxattr(MINE, b"user.x", b"v", 0, 5),
    ops.Setxattr(IN_MINE, b"user.x", b"v", 0, 5),
    ops.Removexattr(IN_MINE, b"user.x", 5),
]


@pytest.mark.parametrize("op", FOREIGN, ids=repr)
def test_what_a_lease_covers_is_for_its_session_to_change(volume: TestVolume, op: ops.Op) -> None:
    volume.ok(directory(40, b"sub", MINE), write(IN_FREE, (0, 100, 1, 0)))
    lease = grant(volume, MINE)
    assert lease in leases_touched(volume.rows, op)
    assert volume.refused(op, sid=OTHER) == COVERED
    [verdict] = volume.apply(op)
    assert verdict.errno not in (COVERED, STALE) or isinstance(op, ops.Create)
    volume.sound()


def test_a_covered_directory_below_uncovered_ones_can_be_moved_along_with_them(volume: TestVolume) -> None:
    volume.ok(directory(40, b"sub", FREE))
    lease = grant(volume, 40)
    assert volume.refused(rename(40, b"sub", b"x", parent=FREE, new_parent=FREE), sid=OTHER) == COVERED
    volume.ok(rename(FREE, b"free", b"elsewhere"), sid=OTHER)
    assert covering(volume.rows, 40) == lease


@pytest.mark.parametrize(
    "op",
    [
        setattr_op(1, 1, mode=0o700),
        create(1016, b"new"),
        ops.Link(IN_FREE, FREE, b"g", 5),
        unlink(IN_FREE, b"f", FREE),
        ops.Setxattr(FREE, b"user.x", b"v", 0, 5),
        write(IN_FREE, (0, 10, 1, 0)),
        ops.Clone(IN_MINE, 0, 5, IN_FREE, 0, 0, 5),
        ops.Grant((FREE,)),
        ops.Condemn(object_id(2)),
        ops.Beat(),
        ops.Block(5),
        ops.Challenge(SID),
        ops.Config("new", None, None),
        declare(5),
    ],
    ids=repr,
)
def test_what_no_lease_covers_is_for_all(volume: TestVolume, op: ops.Op) -> None:
    volume.ok(write(IN_MINE, (0, 100, 1, 0)), declare(2))
    grant(volume, MINE)
    volume.ok(op, sid=OTHER)
    volume.sound()


def test_locks_holds_and_reaping_ask_no_lease(volume: TestVolume) -> None:
    volume.ok(ops.Feature(1))
    volume.ok(create(41, b"o", MINE))
    volume.ok(unlink(41, b"o", MINE))
    grant(volume, MINE)
    volume.ok(ops.Lock(IN_MINE, 2, 0, 2**63 - 1, 2, False), ops.Hold(41), ops.Drop(41), ops.Reap(41), sid=OTHER)


def test_the_state_before_the_op_decides(volume: TestVolume) -> None:
    """A link out of coverage is refused, though after it the file would be covered by nobody."""
    grant(volume, MINE)
    assert volume.refused(ops.Link(IN_MINE, FREE, b"g", 5), sid=OTHER) == COVERED


def test_r6_comes_before_the_ops_own_errors(volume: TestVolume) -> None:
    grant(volume, MINE)
    for op in (create(1016, b"f", MINE), create(5, b"", MINE), unlink(999, b"f", MINE), setattr_op(MINE, 1 << 40)):
        assert volume.refused(op, sid=OTHER) == COVERED
    assert volume.refused(unlink(999, b"f", MINE)) == STALE
    assert volume.refused(create(40, b"f", MINE)) == errno.EEXIST


def test_a_named_lease_must_live_and_be_the_sessions_own(volume: TestVolume) -> None:
    lease, theirs = grant(volume, MINE), grant(volume, THEIRS, sid=OTHER)
    assert named(volume, lease, create(40, b"a", MINE)) == 0
    assert named(volume, lease, create(41, b"b", FREE)) == 0
    for wrong in (theirs, (lease[0], 1), (1, 0), (2**63 - 1, 2**63 - 1), (lease[0], 2**32)):
        assert named(volume, wrong, create(42, b"c", FREE)) == STALE
        assert named(volume, wrong, ops.Beat()) == STALE
    assert named(volume, theirs, create(42, b"c", THEIRS)) == STALE  # the name is looked at first
    assert named(volume, lease, create(42, b"c", THEIRS)) == COVERED
    volume.ok(ops.Release(*lease))
    assert named(volume, lease, create(42, b"c", MINE)) == STALE
    again = grant(volume, MINE)
    assert named(volume, lease, create(42, b"c", MINE)) == STALE
    assert named(volume, again, create(42, b"c", MINE)) == 0


def test_two_own_leases_stand_in_nobodys_way(volume: TestVolume) -> None:
    lease, other = grant(volume, MINE), grant(volume, FREE)
    op = rename(IN_MINE, b"f", b"g", parent=MINE, new_parent=FREE)
    assert leases_touched(volume.rows, op) == {lease, other}
    assert named(volume, lease, op) == 0
    assert covering(volume.rows, IN_MINE) == other


def test_what_an_op_touches_is_what_may_be_acknowledged(volume: TestVolume) -> None:
    volume.ok(directory(40, b"a", MINE), write(IN_MINE, (0, 100, 1, 0)), write(IN_FREE, (0, 100, 1, 0)))
    lease = grant(volume, MINE)
    volume.ok(directory(41, b"b", MINE), create(42, b"g", MINE))
    for op, expected in [
        (create(50, b"x", MINE), {lease}),
        (unlink(IN_MINE, b"f", MINE), {lease}),
        (ops.Link(IN_FREE, MINE, b"x", 5), {lease, None}),
        (ops.Rmdir(MINE, b"a", 40, 0, 5), {lease, None}),  # its own inode is not covered
        (ops.Rmdir(MINE, b"b", 41, 0, 5), {lease}),
        (rename(41, b"b", b"c", parent=MINE, new_parent=MINE), {lease}),
        (rename(IN_MINE, b"f", b"c", parent=MINE, new_parent=41), {lease}),
        (rename(IN_MINE, b"f", b"g", parent=MINE, new_parent=MINE, replaced=42), {lease}),
        (rename(41, b"b", b"c", parent=MINE, new_parent=41), {lease, None}),  # asks those above
        (ops.Clone(IN_MINE, 0, 5, 42, 0, 0, 5), {lease}),
        (ops.Clone(IN_FREE, 0, 5, 42, 0, 0, 5), {lease, None}),
        (ops.Clone(IN_MINE, 0, 5, IN_FREE, 0, 0, 5), {None}),
        (setattr_op(999, 1), {None}),
        (declare(5), set()),
        (ops.Hold(5), set()),
    ]:
        assert leases_touched(volume.rows, op) == expected, op


def test_without_the_feature_only_the_volume_row_is_read() -> None:
    volume = TestVolume()
    volume.file(16, b"f")
    scratch = ScratchTransaction(volume.base)
    rows = type(volume.rows)(scratch)
    assert leases_touched(rows, unlink(16, b"f")) == {None}
    assert leases_touched(rows, ops.Beat()) == set()
    assert leases.refusal(rows, None, unlink(16, b"f"), SID) == 0
    assert scratch.reads == {b"V"}
    assert scratch.ranges == []
    assert named(volume, (1, 0), unlink(16, b"f")) == STALE


# -- asking back, and giving ------------------------------------------------------------------------------------------


def test_a_recall_stands_until_the_lease_goes(volume: TestVolume) -> None:
    lease = grant(volume, MINE)
    first = recall(volume, lease)
    assert volume.rows.recall(lease) == RecallRow(*first, 0)
    volume.ok(ops.Announce("third"), ops.Recall(*lease), sid=9)
    assert volume.rows.recall(lease) == RecallRow(*first, 0)
    assert named(volume, lease, create(40, b"late", MINE)) == 0
    volume.ok(ops.Release(*lease))
    volume.sound()
    assert volume.rows.recall(lease) is None


def test_who_may_ask_and_answer(volume: TestVolume) -> None:
    lease = grant(volume, MINE)
    assert volume.refused(ops.Recall(*lease)) == errno.EINVAL
    assert volume.refused(ops.Busy(*lease)) == errno.EINVAL
    standing = recall(volume, lease)
    assert volume.refused(ops.Busy(*lease), sid=OTHER) == errno.EPERM
    assert volume.refused(ops.Release(*lease), sid=OTHER) == errno.EPERM
    assert volume.refused(ops.Revoke(*lease, *standing)) == errno.EPERM
    for gone in ((lease[0], 1), (1, 0), (lease[0], 2**40)):
        for op in (ops.Recall(*gone), ops.Busy(*gone), ops.Release(*gone), ops.Revoke(*gone, *standing)):
            assert volume.refused(op) == volume.refused(op, sid=OTHER) == errno.ESRCH


def test_a_revocation_names_the_recall_that_stands(volume: TestVolume) -> None:
    lease = grant(volume, MINE)
    assert volume.refused(ops.Revoke(*lease, 0, 0), sid=OTHER) == STALE
    first = recall(volume, lease)
    for wrong in ((first[0], 1), (first[0] - 1, 0), (0, 0), (first[0] + 1, 0)):
        assert volume.refused(ops.Revoke(*lease, *wrong), sid=OTHER) == STALE
    volume.ok(ops.Revoke(*lease, *first), sid=OTHER)
    volume.sound()
    assert nothing_covered(volume)
    volume.ok(create(1016, b"new", MINE), sid=OTHER)


def test_recall_and_revocation_are_not_of_one_record(volume: TestVolume) -> None:
    lease = grant(volume, MINE)
    verdicts = volume.apply(ops.Recall(*lease), ops.Revoke(*lease, volume.seq + 1, 0), sid=OTHER)
    assert [verdict.errno for verdict in verdicts] == [0, STALE]


def test_busy_moves_what_a_revocation_has_to_name(volume: TestVolume) -> None:
    lease = grant(volume, MINE)
    first = recall(volume, lease)
    volume.ok(ops.Beat(), ops.Busy(*lease))
    second = (volume.seq, 1)
    assert volume.rows.recall(lease) == RecallRow(*second, second[0])
    assert volume.refused(ops.Revoke(*lease, *first), sid=OTHER) == STALE
    volume.ok(ops.Recall(*lease), sid=OTHER)
    volume.sound()
    volume.ok(ops.Revoke(*lease, *second), sid=OTHER)
    volume.sound()


def test_anybody_may_revoke_who_names_the_recall(volume: TestVolume) -> None:
    lease = grant(volume, MINE)
    first = recall(volume, lease)
    volume.ok(ops.Announce("third"), ops.Revoke(*lease, *first), sid=9)


def test_after_a_revocation_the_holder_commits_nothing_under_it(volume: TestVolume) -> None:
    lease = grant(volume, MINE)
    volume.ok(ops.Revoke(*lease, *recall(volume, lease)), sid=OTHER)
    assert named(volume, lease, create(40, b"late", MINE)) == STALE
    grant(volume, MINE, sid=OTHER)
    assert named(volume, lease, create(40, b"late", MINE)) == STALE
    assert volume.refused(create(40, b"late", MINE)) == COVERED


def test_a_session_that_is_taken_up_again_keeps_its_leases(volume: TestVolume) -> None:
    lease = grant(volume, MINE)
    volume.ok(ops.Resume(1), incarnation=2)
    volume.sound()
    raw = volume.number(create(40, b"a", MINE), SID, 2, lease)
    assert [v.errno for v in volume.record([raw], incarnation=2)] == [0]
    assert volume.refused(create(1016, b"b", MINE), sid=OTHER) == COVERED
    volume.ok(ops.Release(*lease), incarnation=2)
    volume.sound()


@pytest.mark.parametrize("way", ["end", "evict"])
def test_the_leases_of_a_session_go_with_it(volume: TestVolume, way: str) -> None:
    theirs = grant(volume, THEIRS, sid=OTHER)
    recall(volume, grant(volume, MINE))
    grant(volume, FREE)
    volume.ok(directory(40, b"sub", FREE))
    if way == "end":
        volume.ok(ops.End())
    else:
        volume.ok(ops.Challenge(SID), sid=OTHER)
        volume.ok(ops.Evict(SID, volume.seq), sid=OTHER)
    volume.sound()
    assert [lease for lease, _ in volume.rows.grants()] == [theirs]
    assert [directory for directory, _ in volume.rows.covers()] == [THEIRS]
    volume.ok(ops.Grant((MINE, FREE, 40)), sid=OTHER)


def test_listeners_learn_from_keys_what_became_of_a_lease(volume: TestVolume) -> None:
    def changes(op: ops.Op, sid: int) -> tuple[set[LeaseId], set[LeaseId], set[int]]:
        volume.txn = DigestingTransaction(volume.base, volume.txn.digest)
        volume.ok(op, sid=sid)
        found = changes_of(volume.txn.touched)
        return found.leases, found.recalls, found.covers

    lease = (volume.seq + 1, 0)
    assert changes(ops.Grant((MINE, FREE)), SID) == ({lease}, set(), {MINE, FREE})
    assert changes(create(40, b"a", MINE), SID) == (set(), set(), set())
    assert changes(directory(41, b"b", MINE), SID) == ({lease}, set(), {41})
    assert changes(ops.Recall(*lease), OTHER) == (set(), {lease}, set())
    assert changes(ops.Recall(*lease), OTHER) == (set(), set(), set())
    assert changes(ops.Busy(*lease), SID) == (set(), {lease}, set())
    assert changes(ops.Release(*lease), SID) == ({lease}, {lease}, {MINE, FREE, 41})
