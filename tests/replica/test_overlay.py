"""R12: through the overlay one sees what base will be, whatever happens to base meanwhile."""

from __future__ import annotations

import errno
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s3vfs.namespace import ops as o
from s3vfs.namespace.apply import apply_op
from s3vfs.namespace.changes import changes_of
from s3vfs.namespace.dictionary import DictTransaction
from s3vfs.namespace.rows import ROOT_INO, USAGE_KEY, Rows, session_key
from s3vfs.namespace.verdict import OK, Context, Verdict
from s3vfs.replica.layer import Layer, LayeredView
from s3vfs.replica.memory_replica import MemoryReplica
from s3vfs.replica.overlay import Changed, Overlay, Rebuilt
from s3vfs.replica.protocol import Row
from tests.replica.histories import VOLUME, Author, all_rows, begin, create, random_op

EVERYTHING = (b"\1", b"\xff")


class World:
    """A base, one session with an overlay on it, and another session that only commits."""

    def __init__(self, *, quota_inodes: int = 0) -> None:
        self.replica = MemoryReplica(VOLUME)
        self.own, self.foreign = Author(1), Author(2)
        begin(self.replica, self.own, self.foreign, quota_inodes=quota_inodes)
        self.overlay = Overlay()

    def context(self, ahead: int = 1) -> Context:
        return Context(self.replica.position.seq + ahead, 0, self.own.sid, 1)

    def acknowledge(self, op: o.AnyOp) -> Verdict:
        with self.replica.read() as base:
            return self.overlay.acknowledge(base, self.own.numbered(op), self.context())

    def commit_own(self, count: int, extra: list[o.AnyOp] | None = None) -> Rebuilt:
        """The oldest `count` queued ops, then `extra` ones that were not acknowledged, in one record."""
        numbered = [pending.numbered for pending in self.overlay.pending[:count]]
        numbered += [self.own.numbered(op) for op in extra or []]
        applied = self.own.commit_numbered(self.replica, numbered)
        own = {one.number: verdict for one, verdict in zip(numbered, applied.verdicts, strict=True)}
        with self.replica.read() as base:
            return self.overlay.record_applied(base, applied.keys, own)

    def commit_foreign(self, ops: list[o.AnyOp]) -> Rebuilt:
        applied = self.foreign.commit(self.replica, ops)
        with self.replica.read() as base:
            return self.overlay.record_applied(base, applied.keys)

    def rows(self) -> list[Row]:
        with self.replica.read() as base:
            return list(self.overlay.view(base).range(*EVERYTHING))

    def check(self) -> None:
        """The promise of R12, row by row."""
        model = DictTransaction(all_rows(self.replica))
        for pending in self.overlay.pending:
            assert apply_op(model, pending.numbered, pending.context) == pending.verdict
        expected = list(model.items())
        assert self.rows() == expected
        with self.replica.read() as base:
            view = self.overlay.view(base)
            assert list(view.range(*EVERYTHING, reverse=True)) == expected[::-1]
            for key, value in expected:
                assert view.get(key) == value
            for key, _ in all_rows(self.replica):
                assert view.get(key) == model.get(key)


@settings(max_examples=150, deadline=None)
@given(random=st.randoms(use_true_random=False), quota=st.sampled_from([0, 0, 8]), steps=st.integers(1, 30))
def test_the_view_is_base_with_all_queued_ops_applied(random: Random, quota: int, steps: int) -> None:
    world = World(quota_inodes=quota)
    for _ in range(steps):
        kind = random.choice(["own"] * 5 + ["commit", "commit", "foreign", "foreign", "block", "config", "withdraw"])
        with world.replica.read() as base:
            view = world.overlay.view(base)
            ops = random_op(random, view, world.own if kind == "own" else world.foreign)
        if kind == "own":
            for op in ops:
                world.acknowledge(op)
        elif kind == "commit":
            world.commit_own(random.randrange(1 + len(world.overlay)))
        elif kind == "foreign":
            world.commit_foreign(ops)
        elif kind == "block":  # numbered after all queued ops, so it can only go with all of them
            world.commit_own(len(world.overlay), [o.Block(5), o.Beat()])
        elif kind == "config":
            world.commit_foreign([o.Config(None, None, random.choice([0, 6, 100])), o.Challenge(world.own.sid)])
        elif len(world.overlay) and random.random() < 0.3:
            chosen = random.choice(world.overlay.pending).numbered.number
            with world.replica.read() as base:
                world.overlay.withdraw(base, {chosen})
        world.check()
    world.commit_own(len(world.overlay))
    assert len(world.overlay) == 0
    assert world.rows() == all_rows(world.replica)


@pytest.fixture
def world() -> World:
    return World()


def test_without_queued_ops_the_view_is_base_itself(world: World) -> None:
    with world.replica.read() as base:
        assert world.overlay.view(base) is base
    assert world.commit_foreign([create(world.foreign, b"x")]) == Rebuilt()


def test_an_acknowledged_op_is_seen_at_once_and_not_in_base(world: World) -> None:
    assert world.acknowledge(create(world.own, b"x")) == OK
    with world.replica.read() as base:
        assert Rows(world.overlay.view(base)).dentry(ROOT_INO, b"x") is not None
        assert Rows(base).dentry(ROOT_INO, b"x") is None
    world.check()


def fold(world: World, change: o.Setattr, first_number: int = 0) -> bool:
    with world.replica.read() as base:
        found = world.overlay.foldable(base, change, first_number)
        if found is not None:
            world.overlay.fold(found)
    return found is not None


def mode_of(ino: int, mode: int) -> o.Setattr:
    return o.Setattr(ino, o.SetattrMask.MODE, mode, 0, 0, 0, 0, 0, 10**18)


def test_a_queued_create_takes_owner_and_mode_in(world: World) -> None:
    op = create(world.own, b"x")
    world.acknowledge(op)
    world.acknowledge(create(world.own, b"y"))
    assert fold(world, mode_of(op.ino, 0o4711))
    world.check()
    with world.replica.read() as base:
        inode = Rows(world.overlay.view(base)).inode(op.ino)
    assert inode is not None
    assert inode.mode == 0o104711
    world.commit_foreign([create(world.foreign, b"z")])  # everything is tried again
    world.check()
    assert world.commit_own(2).changed == ()
    assert not fold(world, mode_of(op.ino, 0o600))
    assert world.rows() == all_rows(world.replica)


def test_a_create_takes_in_nothing_once_it_may_have_left_or_the_inode_has_changed(world: World) -> None:
    op = create(world.own, b"x")
    world.acknowledge(op)
    number = world.overlay.pending[0].numbered.number
    assert not fold(world, mode_of(op.ino, 0o600), number + 1)
    world.acknowledge(o.Link(op.ino, ROOT_INO, b"other", 10**18))
    assert not fold(world, mode_of(op.ino, 0o600), number)
    world.acknowledge(o.Unlink(ROOT_INO, b"other", op.ino, 0, False, 10**18))
    world.acknowledge(o.Unlink(ROOT_INO, b"x", op.ino, 0, False, 10**18))
    assert not fold(world, mode_of(op.ino, 0o600), number)
    world.check()


def test_an_op_that_fails_is_not_queued(world: World) -> None:
    world.acknowledge(create(world.own, b"x"))
    before = world.rows()
    assert world.acknowledge(create(world.own, b"x")).errno == errno.EEXIST
    assert len(world.overlay) == 1
    assert world.rows() == before


@pytest.mark.usefixtures("no_rebuild")
def test_own_ops_leave_without_a_rebuild(world: World) -> None:
    for number in range(20):
        world.acknowledge(create(world.own, b"%d" % number))
    assert world.commit_own(7) == Rebuilt()
    assert len(world.overlay) == 13
    world.check()
    assert world.commit_own(5) == Rebuilt()
    assert world.commit_own(8, [o.Block(7)]) == Rebuilt()
    world.check()
    assert len(world.overlay) == 0


@pytest.mark.usefixtures("no_rebuild")
def test_a_foreign_record_elsewhere_needs_no_rebuild(world: World) -> None:
    directory = create(world.foreign, b"theirs", kind=0o040000)
    world.foreign.commit(world.replica, [directory])
    world.acknowledge(create(world.own, b"ours"))
    usage = dict(world.rows())[USAGE_KEY]
    assert world.commit_foreign([create(world.foreign, b"x", parent=directory.ino)]) == Rebuilt()
    assert world.commit_foreign([o.Challenge(world.own.sid)]) == Rebuilt()
    assert world.commit_foreign([o.Block(7)]) == Rebuilt()
    assert dict(world.rows())[USAGE_KEY] != usage
    world.check()


def test_a_foreign_record_in_the_way_changes_the_verdict(world: World) -> None:
    world.acknowledge(create(world.own, b"x"))
    world.acknowledge(create(world.own, b"y"))
    first = world.overlay.pending[0].numbered
    rebuilt = world.commit_foreign([create(world.foreign, b"x")])
    assert rebuilt.changed == (Changed(first, OK, Verdict(errno.EEXIST), queued=True),)
    assert rebuilt.keys
    world.check()
    # Known already: the record says the same, and nothing is reported twice.
    assert world.commit_own(1).changed == ()
    assert world.commit_own(1).changed == ()
    world.check()


def test_a_foreign_name_in_a_directory_that_was_seen_empty_is_noticed(world: World) -> None:
    directory = create(world.own, b"d", kind=0o040000)
    world.own.commit(world.replica, [directory])
    assert world.acknowledge(o.Rmdir(ROOT_INO, b"d", directory.ino, 0, 5)) == OK
    rebuilt = world.commit_foreign([create(world.foreign, b"inside", parent=directory.ino)])
    assert [(one.before, one.verdict.errno) for one in rebuilt.changed] == [(OK, errno.ENOTEMPTY)]
    world.check()


def test_an_own_verdict_unlike_the_speculative_one_is_reported(world: World) -> None:
    unspoken = world.own.numbered(create(world.own, b"d"))  # goes with the record, but was never acknowledged
    directory = create(world.own, b"d", kind=0o040000)
    world.acknowledge(directory)
    world.acknowledge(create(world.own, b"inside", parent=directory.ino))
    first, second = (pending.numbered for pending in world.overlay.pending)
    applied = world.own.commit_numbered(world.replica, [unspoken, first])
    assert [verdict.errno for verdict in applied.verdicts] == [0, errno.EEXIST]
    with world.replica.read() as base:
        rebuilt = world.overlay.record_applied(base, applied.keys, {first.number: applied.verdicts[1]})
    assert rebuilt.changed == (
        Changed(first, OK, Verdict(errno.EEXIST), queued=False),
        Changed(second, OK, Verdict(errno.ENOENT), queued=True),
    )
    world.check()


def test_ops_that_leave_out_of_order_take_no_others_effects_along(world: World) -> None:
    file = create(world.own, b"f")
    world.own.commit(world.replica, [file])
    for mode in (0o600, 0o640):  # the second hides the first, and comes out the same without it
        op = o.Setattr(file.ino, o.SetattrMask.MODE, mode, 0, 0, 0, 0, 0, mode * 10**6)
        assert world.acknowledge(op) == OK
    last = world.overlay.pending[1].numbered
    applied = world.own.commit_numbered(world.replica, [last])
    with world.replica.read() as base:
        world.overlay.record_applied(base, applied.keys, {last.number: applied.verdicts[0]})
    world.check()
    with world.replica.read() as base:
        inode = Rows(world.overlay.view(base)).inode(file.ino)
    assert inode is not None
    assert inode.mode & 0o777 == 0o600


def test_what_base_has_taken_over_looks_the_same_after_a_rebuild(world: World) -> None:
    """A name that the kernel would be told to drop may be that of a newer directory, in which a program stands."""
    first, second = (create(world.own, b"d", kind=0o040000) for _ in range(2))
    for op in (first, o.Rmdir(ROOT_INO, b"d", first.ino, 0, 5), second):
        assert world.acknowledge(op) == OK
    rebuilt = world.commit_own(2, [o.Setattr(ROOT_INO, o.SetattrMask.MODE, 0o700, 0, 0, 0, 0, 0, 6)])
    assert not rebuilt.changed
    changes = changes_of(rebuilt.keys)
    assert ROOT_INO in changes.inodes  # there was a rebuild
    assert not changes.links
    assert not changes.dentries
    world.check()


def test_a_foreign_row_where_an_op_walked_is_noticed(world: World) -> None:
    file = create(world.own, b"f")
    world.own.commit(world.replica, [file, o.Unlink(ROOT_INO, b"f", file.ino, 0, False, 5)])
    assert world.acknowledge(o.Reap(file.ino)) == OK
    rebuilt = world.commit_foreign([o.Hold(file.ino)])
    assert [one.verdict.errno for one in rebuilt.changed] == [errno.EBUSY]
    world.check()


def test_under_a_quota_foreign_growth_changes_verdicts() -> None:
    world = World(quota_inodes=4)
    directory = create(world.foreign, b"theirs", kind=0o040000)
    world.foreign.commit(world.replica, [directory])
    assert world.acknowledge(create(world.own, b"third")) == OK
    assert world.acknowledge(create(world.own, b"fourth")) == OK
    assert world.acknowledge(create(world.own, b"fifth")).errno == errno.EDQUOT
    rebuilt = world.commit_foreign([create(world.foreign, b"x", parent=directory.ino)])
    assert [(one.before, one.verdict.errno) for one in rebuilt.changed] == [(OK, errno.EDQUOT)]
    world.check()


def test_another_quota_changes_verdicts(world: World) -> None:
    world.acknowledge(create(world.own, b"x"))
    rebuilt = world.commit_foreign([o.Block(7), o.Config(None, None, 1)])
    assert [(one.before, one.verdict.errno) for one in rebuilt.changed] == [(OK, errno.EDQUOT)]
    world.check()


def test_withdrawn_ops_take_their_effects_along(world: World) -> None:
    directory = create(world.own, b"d", kind=0o040000)
    world.acknowledge(directory)
    world.acknowledge(create(world.own, b"inside", parent=directory.ino))
    world.acknowledge(create(world.own, b"beside"))
    first, second, third = (pending.numbered for pending in world.overlay.pending)
    with world.replica.read() as base:
        rebuilt = world.overlay.withdraw(base, {first.number})
    assert rebuilt.changed == (Changed(second, OK, Verdict(errno.ENOENT), queued=True),)
    assert [pending.numbered for pending in world.overlay.pending] == [second, third]
    world.check()


def test_an_evicted_session_loses_its_ops_verdicts(world: World) -> None:
    world.acknowledge(create(world.own, b"x"))
    world.commit_foreign([o.Challenge(world.own.sid)])
    world.check()
    rebuilt = world.commit_foreign([o.Evict(world.own.sid, world.replica.position.seq)])
    assert [one.verdict.errno != 0 for one in rebuilt.changed] == [True]
    with world.replica.read() as base:
        assert base.get(session_key(world.own.sid)) is None
    world.check()


@pytest.mark.parametrize("op", [o.Announce("x"), o.End(), o.Block(1), o.Beat(), o.Challenge(2)])
def test_session_ops_are_never_acknowledged_early(world: World, op: o.AnyOp) -> None:
    with pytest.raises(ValueError, match="wait for its record"):
        world.acknowledge(op)


def test_numbers_grow(world: World) -> None:
    world.acknowledge(create(world.own, b"x"))
    world.own.number -= 1
    with pytest.raises(ValueError, match="after op"):
        world.acknowledge(create(world.own, b"y"))


@pytest.fixture
def no_rebuild(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> Rebuilt:
        raise AssertionError("rebuilt")

    monkeypatch.setattr(Overlay, "_rebuild", refuse)


KEYS = st.binary(min_size=1, max_size=2).map(lambda key: bytes(b"ABa"[byte % 3] for byte in key))


@settings(max_examples=200, deadline=None)
@given(
    base=st.dictionaries(KEYS, st.binary(max_size=1)),
    changes=st.lists(st.tuples(KEYS, st.none() | st.binary(max_size=1))),
    shown_again=st.sets(KEYS),
    first=KEYS | st.just(b""),
    end=KEYS | st.just(b"\xff"),
    reverse=st.booleans(),
)
def test_a_layer_hides_what_it_has_and_nothing_else(
    base: dict[bytes, bytes],
    changes: list[tuple[bytes, bytes | None]],
    shown_again: set[bytes],
    first: bytes,
    end: bytes,
    reverse: bool,
) -> None:
    layer, model, written = Layer(), dict(base), {}
    for serial, (key, value) in enumerate(changes):
        layer.set(key, value, serial)
        written[key] = value
    layer.remove(shown_again)
    for key, value in written.items():
        if key not in shown_again:
            model.pop(key, None)
            if value is not None:
                model[key] = value
    view = LayeredView(DictTransaction(base.items()), layer)
    expected = sorted(row for row in model.items() if first <= row[0] < end)
    assert list(view.range(first, end, reverse=reverse)) == (expected[::-1] if reverse else expected)
    assert all(view.get(key) == model.get(key) for key in [*base, *written])


def test_many_keys_leave_a_layer_at_once() -> None:
    layer = Layer()
    keys = [b"%c%03d" % (b"AB"[number % 2], number) for number in range(200)]
    for key in keys:
        layer.set(key, b"layer", 1)
    layer.remove(keys[:150])
    view = LayeredView(DictTransaction((key, b"base") for key in keys), layer)
    expected = dict.fromkeys(keys[:150], b"base") | dict.fromkeys(keys[150:], b"layer")
    assert list(view.range(*EVERYTHING)) == sorted(expected.items())
