"""Records and sessions: who is live, duplicates, RESUME, CHALLENGE and EVICT, blocks, holds, volume."""

from __future__ import annotations

import errno

import msgspec
import pytest

from s3vfs.errors import UnknownFeature
from s3vfs.namespace.limits import BLOCK_MAX_INODES, BLOCKS_PER_SESSION, INCARNATION_MAX
from s3vfs.namespace.ops import (
    Announce,
    Beat,
    Block,
    Busy,
    Cancel,
    Challenge,
    Config,
    Drop,
    End,
    Evict,
    Feature,
    Format,
    Grant,
    Hold,
    Lock,
    NumberedOp,
    Op,
    Reap,
    Recall,
    Release,
    Repoint,
    Resume,
    Revoke,
    Seal,
    Snapshot,
    SnapshotReady,
    Unlock,
    Unsnapshot,
    encode_op,
)
from s3vfs.namespace.rows import SessionRow, Volume, session_key
from s3vfs.namespace.verdict import DUPLICATE, FENCED
from tests.namespace.volumes import FORMAT, OTHER, SID, TestVolume, create, object_id, unlink

NEW = 9


@pytest.fixture
def volume() -> TestVolume:
    return TestVolume()


def session(volume: TestVolume, sid: int = SID) -> SessionRow:
    row = volume.rows.session(sid)
    assert row is not None
    return row


def errnos(volume: TestVolume, *ops: Op, sid: int = SID, incarnation: int = 1) -> list[int]:
    return [verdict.errno for verdict in volume.apply(*ops, sid=sid, incarnation=incarnation)]


def test_a_session_counts_its_ops_and_records(volume: TestVolume) -> None:
    volume.ok(Beat(), Beat())
    row = session(volume)
    assert (row.incarnation, row.last_op, row.born, row.last_seq, row.label) == (1, 5, 1, volume.seq, "first")


def test_an_unknown_session_is_fenced(volume: TestVolume) -> None:
    before = dict(volume.base.items())
    assert errnos(volume, Beat(), create(16), Resume(0), End(), sid=NEW) == [FENCED] * 4
    assert dict(volume.base.items()) == before


def test_an_older_or_newer_incarnation_is_fenced(volume: TestVolume) -> None:
    volume.ok(Resume(1), incarnation=2)
    before = dict(volume.base.items())
    for incarnation in (1, 3):
        assert errnos(volume, create(16), Beat(), Announce("x"), incarnation=incarnation) == [FENCED] * 3
    assert dict(volume.base.items()) == before


@pytest.mark.parametrize(
    ("sid", "incarnation"),
    [(0, 1), (-1, 1), (2**63, 1), (2**70, 1), (NEW, 0), (NEW, -1), (NEW, INCARNATION_MAX + 1)],
)
def test_a_session_that_cannot_be_is_fenced(volume: TestVolume, sid: int, incarnation: int) -> None:
    ops = [Announce("x"), Resume(0), Resume(INCARNATION_MAX), Beat()]
    assert errnos(volume, *ops, sid=sid, incarnation=incarnation) == [FENCED] * 4


def test_announce(volume: TestVolume) -> None:
    assert errnos(volume, Announce("x"), sid=NEW, incarnation=2) == [errno.EINVAL]
    assert errnos(volume, Announce("é" * 128), sid=NEW) == [errno.ENAMETOOLONG]
    assert errnos(volume, Announce("me"), Announce("me"), Beat(), sid=NEW) == [0, errno.EEXIST, 0]
    assert session(volume, NEW).born == volume.seq
    assert session(volume, NEW).last_op == volume.numbers[NEW, 1]
    volume.sound()


def test_a_record_may_announce_act_and_end(volume: TestVolume) -> None:
    volume.ok(Challenge(OTHER))
    challenge = volume.seq
    ops = [Announce("x"), Evict(OTHER, challenge), End(), Beat(), Announce("again")]
    assert errnos(volume, *ops, sid=NEW) == [0, 0, 0, FENCED, 0]
    assert volume.rows.session(OTHER) is None
    assert session(volume, NEW).last_op == 5
    volume.sound()


def test_ops_are_applied_once(volume: TestVolume) -> None:
    raw = [volume.number(create(16 + i, b"%d" % i), SID, 1) for i in range(3)]
    assert [verdict.errno for verdict in volume.record(raw[:2])] == [0, 0]
    again = volume.record(raw)
    assert [verdict.errno for verdict in again] == [DUPLICATE, DUPLICATE, 0]
    assert session(volume).last_op == 6
    volume.sound()


def test_a_refused_op_uses_up_its_number(volume: TestVolume) -> None:
    raw = volume.number(unlink(99, b"none"), SID, 1)
    assert [verdict.errno for verdict in volume.record([raw, raw])] == [errno.ENOENT, DUPLICATE]


def test_bytes_that_are_no_op_get_einval_and_spoil_nothing_else(volume: TestVolume) -> None:
    good = [volume.number(create(16 + i, b"%d" % i), SID, 1) for i in range(2)]
    bad = [b"", b"\xc1", b"\x93\x01\xc0\x91\x63", b"\x93\x7f\xc0\x92\x1f\xa1\xff", b"\x91" * 5000]
    verdicts = volume.record([good[0], *bad, msgspec.Raw(good[1])])
    assert [verdict.errno for verdict in verdicts] == [0, *[errno.EINVAL] * 5, 0]
    volume.sound()


def test_a_lease_that_nobody_has_is_stale(volume: TestVolume) -> None:
    assert [v.errno for v in volume.record([volume.number(Beat(), SID, 1, lease=(1, 0))])] == [errno.ESTALE]


def test_resume_takes_over_blocks_and_holds_and_counts_anew(volume: TestVolume) -> None:
    volume.file(16, b"f")
    volume.ok(unlink(16, b"f", hold=True))
    assert errnos(volume, Resume(0), incarnation=1) == [FENCED]
    assert errnos(volume, Resume(1), incarnation=3) == [FENCED]
    assert errnos(volume, Beat(), Resume(1), create(17, b"a"), incarnation=2) == [FENCED, 0, 0]
    row = session(volume)
    assert (row.incarnation, row.last_op, row.last_seq, row.born) == (2, 3, volume.seq, 1)
    assert list(volume.rows.held(SID)) == [16]
    assert errnos(volume, Beat()) == [FENCED]
    assert [v.errno for v in volume.record([encode_op(NumberedOp(2, None, Resume(1)))], incarnation=2)] == [DUPLICATE]
    assert errnos(volume, Resume(1), incarnation=2) == [FENCED]
    volume.sound()


def test_the_largest_incarnation_is_the_last(volume: TestVolume) -> None:
    row = session(volume)
    fields = {name: getattr(row, name) for name in row.__struct_fields__} | {"incarnation": INCARNATION_MAX}
    volume.rows.put(session_key(SID), SessionRow(**fields))
    assert errnos(volume, Resume(INCARNATION_MAX), incarnation=INCARNATION_MAX + 1) == [FENCED]


def test_an_answered_challenge_forbids_eviction(volume: TestVolume) -> None:
    volume.ok(Challenge(OTHER))
    challenge = volume.seq
    volume.ok(Beat(), sid=OTHER)
    assert volume.refused(Evict(OTHER, challenge)) == errno.ESTALE
    volume.ok(Challenge(OTHER))
    assert volume.refused(Evict(OTHER, challenge)) == errno.ESTALE
    volume.ok(Evict(OTHER, volume.seq - 2))  # `refused` makes two records of its own
    assert volume.rows.session(OTHER) is None


def test_a_second_challenger_does_not_spoil_the_first_ones_wait(volume: TestVolume) -> None:
    volume.ok(Challenge(OTHER))
    first = volume.seq
    volume.ok(Announce("third"), Challenge(OTHER), sid=NEW)
    volume.ok(Evict(OTHER, first))


@pytest.mark.parametrize("offset", [-1, 1, 2, 100])
def test_only_a_challenge_that_was_made_counts(volume: TestVolume, offset: int) -> None:
    volume.ok(Challenge(OTHER))
    challenge = volume.seq + offset
    if offset < 0:
        volume.ok(Beat(), sid=OTHER)
    assert volume.refused(Evict(OTHER, challenge)) == errno.ESTALE


def test_challenge_and_evict_in_one_record_are_refused(volume: TestVolume) -> None:
    assert errnos(volume, Challenge(OTHER), Evict(OTHER, volume.seq + 1)) == [0, errno.ESTALE]


def test_sessions_that_are_not_there_or_oneself_cannot_be_evicted(volume: TestVolume) -> None:
    assert volume.refused(Challenge(NEW)) == errno.ESRCH
    assert volume.refused(Evict(NEW, 1)) == errno.ESRCH
    assert volume.refused(Evict(SID, 1)) == errno.EINVAL


def test_a_resume_answers_a_challenge(volume: TestVolume) -> None:
    volume.ok(Challenge(OTHER))
    challenge = volume.seq
    volume.ok(Resume(1), sid=OTHER, incarnation=2)
    assert volume.refused(Evict(OTHER, challenge)) == errno.ESTALE


def test_end_and_evict_drop_holds(volume: TestVolume) -> None:
    volume.file(16, b"f")
    volume.ok(unlink(16, b"f", hold=True), Challenge(OTHER))
    challenge = volume.seq
    volume.ok(Announce("third"), Hold(16), sid=NEW)
    assert list(volume.rows.holders(16)) == [SID, NEW]
    volume.ok(End(), sid=NEW)
    volume.sound()
    assert volume.refused(Reap(16)) == errno.EBUSY
    volume.ok(Evict(OTHER, challenge), Drop(16), Reap(16))
    volume.sound()


def test_evict_drops_holds(volume: TestVolume) -> None:
    volume.file(16, b"f")
    volume.ok(unlink(16, b"f"))
    volume.ok(Hold(16), sid=OTHER)
    volume.ok(Challenge(OTHER))
    volume.ok(Evict(OTHER, volume.seq), Reap(16))
    volume.sound()


def test_holds(volume: TestVolume) -> None:
    volume.file(16, b"f")
    assert volume.refused(Hold(16)) == errno.EINVAL
    assert volume.refused(Hold(99)) == errno.ENOENT
    assert volume.refused(Reap(16)) == errno.ENOENT
    assert volume.refused(Reap(99)) == errno.ENOENT
    volume.ok(unlink(16, b"f"), Hold(16), Hold(16))
    volume.ok(Hold(16), sid=OTHER)
    volume.ok(Drop(16))
    assert volume.refused(Drop(16)) == errno.ENOENT
    assert volume.refused(Reap(16)) == errno.EBUSY
    volume.ok(Drop(16), sid=OTHER)
    volume.ok(Reap(16))
    volume.sound()


def test_blocks_follow_each_other_and_join(volume: TestVolume) -> None:
    assert [v.value for v in volume.ok(Block(10), Block(10))] == [2016, 2026]
    assert session(volume).blocks == ((16, 1016), (2016, 2036))
    assert volume.refused(Block(0)) == errno.EINVAL
    assert volume.refused(Block(BLOCK_MAX_INODES + 1)) == errno.EINVAL
    volume.ok(Block(BLOCK_MAX_INODES), create(2030, b"f"), create(17, b"g"))
    assert session(volume).blocks == ((18, 1016), (2031, 2036 + BLOCK_MAX_INODES))
    volume.sound()


def test_only_so_many_blocks_are_kept(volume: TestVolume) -> None:
    for _ in range(BLOCKS_PER_SESSION):
        volume.ok(Block(1))
        volume.ok(Block(1), sid=OTHER)
    assert len(session(volume).blocks) == BLOCKS_PER_SESSION
    assert volume.refused(create(16)) == errno.ESTALE
    volume.sound()


def test_inode_numbers_end(volume: TestVolume) -> None:
    volume.base.put(b"V", msgspec.msgpack.encode(Volume("v", 0, 0, 0, 0, 2**63 - 2)))
    assert errnos(volume, Block(2), Block(1), Block(1)) == [errno.ENOSPC, 0, errno.ENOSPC]


def test_format_is_the_first_record_or_nothing(volume: TestVolume) -> None:
    assert errnos(volume, FORMAT) == [errno.EEXIST]
    fresh = TestVolume(formatted=False)
    bad = [Format("", 0, 0, 0, 0, 0, 5), Format("n" * 256, 0, 0, 0, 0, 0, 5), Format("v", 0, 0, 0o100644, 0, 0, 5)]
    assert errnos(fresh, *bad) == [errno.EINVAL, errno.ENAMETOOLONG, errno.EINVAL]
    assert len(fresh.base) == 0
    assert errnos(fresh, FORMAT) == [errno.EEXIST]  # seq 2
    late = TestVolume(formatted=False)
    assert errnos(late, Announce("x"), Block(5), Config("y", None, None), create(16), FORMAT, FORMAT) == [
        *(0, errno.EINVAL, errno.EINVAL, errno.ENOENT, 0, errno.EEXIST)
    ]
    late.sound()


def test_config_changes_what_is_not_null(volume: TestVolume) -> None:
    volume.ok(Config("new", None, 5))
    volume.ok(Config(None, 7, None))
    row = volume.rows.volume()
    assert row is not None
    assert (row.name, row.quota_bytes, row.quota_inodes) == ("new", 7, 5)
    assert volume.refused(Config("", None, None)) == errno.EINVAL
    assert volume.refused(Config("n" * 256, None, None)) == errno.ENAMETOOLONG


@pytest.mark.parametrize(
    "op",
    [
        Grant((1,)),
        Recall(1, 0),
        Busy(1, 0),
        Release(1, 0),
        Revoke(1, 0, 2, 0),
        Lock(16, 1, 0, 5, 0, False),
        Unlock(16, 1, 0, 5, 0),
        Cancel(16, 1, 0),
        Snapshot(b"s", 5),
        SnapshotReady(b"s", bytes(16)),
        Unsnapshot(b"s"),
        Seal("etcd", 1, b""),
        Repoint(16, 0, 1, object_id(1), 0, object_id(2), 0),
    ],
)
def test_later_features_are_refused(volume: TestVolume, op: Op) -> None:
    assert volume.refused(op) == errno.EOPNOTSUPP


@pytest.mark.parametrize("bit", [2, 3, 62, 63, 2**63 - 1])
def test_a_feature_that_this_program_lacks_stops_the_client(volume: TestVolume, bit: int) -> None:
    with pytest.raises(UnknownFeature):
        volume.apply(Feature(bit))


def test_a_volume_with_features_that_this_program_lacks_stops_the_client(volume: TestVolume) -> None:
    assert errnos(volume, Feature(2), sid=NEW) == [FENCED]
    volume.base.put(b"V", msgspec.msgpack.encode(Volume("v", 0, 0, 4, 0, 16)))
    with pytest.raises(UnknownFeature):
        volume.apply(Beat())


def test_a_feature_is_switched_on_for_good(volume: TestVolume) -> None:
    volume.file(16, b"f")
    assert volume.refused(Lock(16, 1, 0, 5, 1, False)) == errno.EOPNOTSUPP
    volume.ok(Feature(1), Lock(16, 1, 0, 5, 1, False))
    features = volume.rows.volume()
    assert features is not None
    assert features.features == 2
    volume.ok(Feature(1), Config("new", 5, 5), Unlock(16, 1, 0, 5, 1))
    volume.sound()
