"""WRITE, APPEND, PUNCH, CLONE and the objects that they refer to."""

from __future__ import annotations

import errno

import pytest

from s3vfs.namespace.limits import OBJECT_MAX_BYTES
from s3vfs.namespace.ops import Append, Clone, Collected, Condemn, Config, DeclareObject, Op, Punch, Reap
from s3vfs.namespace.rows import ObjectRow, Usage
from tests.namespace.volumes import TestVolume, declare, object_id, setattr_op, unlink, write

TOP = 2**63 - 1


@pytest.fixture
def volume() -> TestVolume:
    """Files 16 and 17, a directory 18, objects 1 and 2 of 1000 bytes, 3 is condemned."""
    volume = TestVolume()
    volume.file(16, b"f")
    volume.file(17, b"g")
    volume.directory(18, b"d")
    for number in (1, 2, 3):
        volume.object(number)
    volume.ok(Condemn(object_id(3)))
    return volume


def object_row(volume: TestVolume, number: int) -> ObjectRow:
    row = volume.rows.object(object_id(number))
    assert row is not None
    return row


def append(ino: int, length: int, number: int = 1, start: int = 0) -> Append:
    return Append(ino, length, object_id(number), start, 900, 1000)


def clone(source: int, start: int, length: int, ino: int, offset: int, version: int = 0) -> Clone:
    return Clone(source, start, length, ino, offset, version, 1000)


@pytest.mark.parametrize(
    ("op", "expected"),
    [
        (write(99, (0, 1, 1, 0)), errno.ENOENT),
        (write(18, (0, 1, 1, 0)), errno.EISDIR),
        (write(16, (0, 0, 1, 0)), errno.EINVAL),
        (write(16, (0, 1, 1, 0), (TOP, 1, 1, 0)), errno.EFBIG),
        (write(16, (TOP, TOP, 1, 0)), errno.EFBIG),
        (write(16, (0, 1, 1, 0), (5, 1, 9, 0)), errno.ESTALE),
        (write(16, (0, 1, 3, 0)), errno.ESTALE),
        (write(16, (0, 1, 1, 1000)), errno.ESTALE),
        (write(16, (0, 1001, 1, 0)), errno.ESTALE),
        (write(16, (0, 1, 1, TOP)), errno.ESTALE),
        (append(99, 1), errno.ENOENT),
        (append(18, 1), errno.EISDIR),
        (append(16, 0), errno.EINVAL),
        (append(16, 1, 9), errno.ESTALE),
        (append(16, 1001), errno.ESTALE),
        (append(16, TOP), errno.EFBIG),
        (Punch(99, 0, 1, 5), errno.ENOENT),
        (Punch(18, 0, 1, 5), errno.EISDIR),
        (Punch(16, 0, 0, 5), errno.EINVAL),
        (clone(99, 0, 1, 16, 0), errno.ENOENT),
        (clone(16, 0, 1, 99, 0), errno.ENOENT),
        (clone(18, 0, 1, 16, 0), errno.EISDIR),
        (clone(16, 0, 1, 18, 0), errno.EISDIR),
        (clone(16, 0, 0, 17, 0), errno.EINVAL),
        (clone(16, 0, 101, 17, 0), errno.EINVAL),
        (clone(16, TOP, TOP, 17, 0), errno.EINVAL),
        (clone(16, 0, 10, 17, TOP), errno.EFBIG),
        (clone(16, 0, 10, 16, 9), errno.EINVAL),
        (clone(16, 9, 10, 16, 0), errno.EINVAL),
        (clone(16, 0, 10, 16, 0), errno.EINVAL),
        (clone(16, 0, 10, 17, 0, 1), errno.ESTALE),
        (declare(1), errno.EEXIST),
        (declare(3), errno.EEXIST),
        (declare(9, 0), errno.EINVAL),
        (declare(9, OBJECT_MAX_BYTES + 1), errno.EINVAL),
        (DeclareObject(object_id(9), 10, 11, 0, b"", b"", bytes(8)), errno.EINVAL),
        (DeclareObject(object_id(9), 10, 10, 0, b"", b"", bytes(16)), errno.EINVAL),
        (DeclareObject(object_id(9), 10, 10, 0, b"", b"x", bytes(8)), errno.EINVAL),
        (DeclareObject(object_id(9), 10, 10, 1, b"", b"", bytes(8)), errno.EOPNOTSUPP),
        (DeclareObject(object_id(9), 10, 10, 0, b"k", b"", bytes(8)), errno.EOPNOTSUPP),
        (Condemn(object_id(9)), errno.ENOENT),
        (Condemn(object_id(1)), errno.EBUSY),
        (Collected(object_id(9)), errno.ENOENT),
        (Collected(object_id(1)), errno.EBUSY),
        (Collected(object_id(2)), errno.EBUSY),
    ],
)
def test_content_ops_refuse(volume: TestVolume, op: Op, expected: int) -> None:
    volume.ok(write(16, (0, 100, 1, 0)))
    assert volume.refused(op) == expected


def test_an_append_behind_the_largest_size_is_too_big(volume: TestVolume) -> None:
    volume.ok(setattr_op(16, 8, size=TOP))
    assert volume.refused(append(16, 1)) == errno.EFBIG
    assert volume.refused(write(16, (TOP, 1, 1, 0))) == errno.EFBIG
    volume.ok(write(16, (TOP - 1, 1, 1, 0)))
    volume.sound()


@pytest.mark.parametrize(
    ("new", "expected"),
    [
        ((100, 100, 2, 0), [(100, 100, 2, 0)]),
        ((90, 120, 2, 0), [(90, 120, 2, 0)]),
        ((100, 50, 2, 0), [(100, 50, 2, 0), (150, 50, 1, 50)]),
        ((90, 50, 2, 0), [(90, 50, 2, 0), (140, 60, 1, 40)]),
        ((150, 50, 2, 0), [(100, 50, 1, 0), (150, 50, 2, 0)]),
        ((150, 80, 2, 0), [(100, 50, 1, 0), (150, 80, 2, 0)]),
        ((120, 30, 2, 0), [(100, 20, 1, 0), (120, 30, 2, 0), (150, 50, 1, 50)]),
        ((0, 100, 2, 0), [(0, 100, 2, 0), (100, 100, 1, 0)]),
        ((200, 10, 2, 0), [(100, 100, 1, 0), (200, 10, 2, 0)]),
    ],
)
def test_a_later_extent_replaces_what_it_overlaps_byte_by_byte(
    volume: TestVolume, new: tuple[int, int, int, int], expected: list[tuple[int, int, int, int]]
) -> None:
    volume.ok(write(16, (100, 100, 1, 0)))
    volume.ok(write(16, new))
    assert volume.extents(16) == expected
    total = sum(length for _, length, _, _ in expected)
    assert volume.inode(16).allocated == total
    assert volume.rows.usage() == Usage(total, 4)
    volume.sound()


def test_one_write_may_cut_one_extent_several_times(volume: TestVolume) -> None:
    volume.ok(write(16, (0, 100, 1, 0)))
    volume.ok(write(16, (10, 10, 2, 0), (30, 10, 2, 10), (95, 10, 2, 20)))
    assert volume.extents(16) == [
        (0, 10, 1, 0),
        (10, 10, 2, 0),
        (20, 10, 1, 20),
        (30, 10, 2, 10),
        (40, 55, 1, 40),
        (95, 10, 2, 20),
    ]
    assert (object_row(volume, 1).references, object_row(volume, 1).live_bytes) == (3, 75)
    volume.sound()


def test_of_overlapping_extents_in_one_write_the_later_wins(volume: TestVolume) -> None:
    volume.ok(write(16, (10, 10, 1, 0), (0, 30, 2, 0), (5, 3, 1, 50), (4, 2, 1, 90)))
    assert volume.extents(16) == [(0, 4, 2, 0), (4, 2, 1, 90), (6, 2, 1, 51), (8, 22, 2, 8)]
    volume.sound()


def test_the_size_is_the_largest_of_old_given_and_ends(volume: TestVolume) -> None:
    volume.ok(write(16, (0, 10, 1, 0), size=5, mtime_ns=77))
    assert (volume.inode(16).size, volume.inode(16).mtime_ns, volume.inode(16).version) == (10, 77, 2)
    volume.ok(write(16, size=30))
    assert (volume.inode(16).size, volume.inode(16).version) == (30, 3)
    volume.ok(write(16, size=20, mtime_ns=5))
    inode = volume.inode(16)
    assert (inode.size, inode.version, inode.mtime_ns, inode.ctime_ns) == (30, 3, 5, 1003)
    volume.sound()


def test_an_object_without_references_is_condemned_by_that_record(volume: TestVolume) -> None:
    volume.ok(write(16, (0, 10, 1, 0)), write(17, (0, 10, 1, 0)))
    volume.ok(write(16, (0, 10, 2, 0)))
    assert object_row(volume, 1).condemned == 0
    volume.ok(write(17, (0, 10, 2, 0)))
    assert object_row(volume, 1).condemned == volume.seq
    assert volume.refused(write(16, (0, 10, 1, 0))) == errno.ESTALE
    volume.ok(Collected(object_id(1)))
    assert volume.rows.object(object_id(1)) is None
    volume.sound()


def test_an_object_that_replaces_itself_lives_on(volume: TestVolume) -> None:
    volume.ok(write(16, (0, 10, 1, 0)))
    volume.ok(write(16, (0, 10, 1, 0)))
    volume.ok(write(16, (0, 10, 1, 500)))
    assert (object_row(volume, 1).condemned, object_row(volume, 1).references) == (0, 1)
    volume.sound()


def test_condemning_twice_keeps_the_first_seq(volume: TestVolume) -> None:
    first = object_row(volume, 3).condemned
    volume.ok(Condemn(object_id(3)))
    assert object_row(volume, 3).condemned == first


def test_appends_are_placed_at_the_end_and_say_where(volume: TestVolume) -> None:
    assert [verdict.value for verdict in volume.ok(append(16, 10), append(16, 5, 2))] == [0, 10]
    volume.ok(setattr_op(16, 8, size=100))
    assert [verdict.value for verdict in volume.ok(append(16, 1, 1, 20))] == [100]
    assert volume.extents(16) == [(0, 10, 1, 0), (10, 5, 2, 0), (100, 1, 1, 20)]
    assert volume.inode(16).size == 101
    volume.sound()


def test_a_hole_keeps_the_size(volume: TestVolume) -> None:
    volume.ok(write(16, (0, 100, 1, 0)))
    volume.ok(Punch(16, 20, 30, 5000))
    assert volume.extents(16) == [(0, 20, 1, 0), (50, 50, 1, 50)]
    volume.ok(Punch(16, 90, TOP, 5001))
    volume.ok(Punch(16, TOP, TOP, 5002))
    assert volume.extents(16) == [(0, 20, 1, 0), (50, 40, 1, 50)]
    inode = volume.inode(16)
    assert (inode.size, inode.allocated, inode.mtime_ns, inode.version) == (100, 60, 5002, 4)
    volume.sound()


def test_a_clone_shares_extents_and_its_holes_punch(volume: TestVolume) -> None:
    volume.ok(write(16, (0, 100, 1, 0), (200, 100, 1, 500)))
    volume.ok(write(17, (0, 1000, 2, 0)))
    volume.ok(clone(16, 50, 200, 17, 10, volume.inode(16).version))
    assert volume.extents(17) == [(0, 10, 2, 0), (10, 50, 1, 50), (160, 50, 1, 500), (210, 790, 2, 210)]
    assert (object_row(volume, 1).references, object_row(volume, 1).live_bytes) == (4, 300)
    assert volume.inode(17).size == 1000
    volume.sound()


def test_a_clone_within_one_file_may_not_overlap_but_may_touch(volume: TestVolume) -> None:
    volume.ok(write(16, (0, 100, 1, 0)))
    volume.ok(clone(16, 0, 50, 16, 50))
    assert volume.extents(16) == [(0, 50, 1, 0), (50, 50, 1, 0)]
    volume.ok(clone(16, 0, 100, 16, 100))
    assert volume.inode(16).size == 200
    volume.sound()


def test_quota_on_bytes_bounds_growth_only(volume: TestVolume) -> None:
    volume.ok(Config(None, 100, None), write(16, (0, 60, 1, 0)))
    assert volume.refused(write(16, (60, 41, 1, 0))) == errno.EDQUOT
    assert volume.refused(append(16, 41)) == errno.EDQUOT
    assert volume.refused(clone(16, 0, 41, 17, 0)) == errno.EDQUOT
    volume.ok(write(16, (20, 80, 2, 0)))
    volume.ok(Config(None, 10, None))
    volume.file(19, b"empty")  # no bytes more
    volume.ok(write(16, (0, 100, 2, 0)), Punch(16, 0, 1, 5), unlink(16, b"f"))
    volume.ok(write(16, (0, 500, 2, 0)))  # an orphan is not counted
    assert volume.rows.usage() == Usage(0, 4)
    volume.sound()


def test_a_reaped_orphan_gives_its_objects_back(volume: TestVolume) -> None:
    volume.ok(write(16, (0, 100, 1, 0), (300, 5, 2, 0)), write(17, (0, 1, 2, 0)), unlink(16, b"f"))
    assert object_row(volume, 1).condemned == 0
    volume.ok(Reap(16))
    assert volume.rows.inode(16) is None
    assert (object_row(volume, 1).condemned, object_row(volume, 2).condemned) == (volume.seq, 0)
    volume.sound()
