"""R3: apply never raises, whatever bytes and values a record carries; what it accepts leaves a sound base."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from s3vfs.namespace import ops
from s3vfs.namespace.ops import NumberedOp, Op, encode_op
from tests.namespace.volumes import OTHER, SID, TestVolume, create, object_id, setattr_op, unlink, write

KINDS = tuple(kind for kind in ops.AnyOp.__args__ if kind is not ops.Feature)

# Values at the edges of everything that an op can mean, so that combinations meet.
numbers = st.sampled_from(
    [0, 1, 2, 3, 5, 7, 8, 10, 16, 17, 18, 19, 20, 21, 50, 100, 999, 1000, 2**31, 2**32 - 1, 2**32, 2**53]
    + [2**62, 2**63 - 2, 2**63 - 1, 0o40755, 0o100644, 0o120777, 0o20600]
) | st.integers(0, 2**63 - 1)
names = st.sampled_from([b"f", b"d", b"s", b"new", b"", b".", b"..", b"a/b", b"\0", b"x" * 255, b"x" * 600])
octets = names | st.binary(max_size=40)
ids = st.sampled_from([object_id(number) for number in range(6)])
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=5) | st.just("n" * 300)


def _strategy(kind: Any) -> st.SearchStrategy[Any]:
    if kind is int:
        return numbers
    if kind is bytes:
        return octets
    if kind is bool:
        return st.booleans()
    if kind is str:
        return texts
    if getattr(kind, "__metadata__", None):
        return ids if kind == ops.ObjectId else numbers
    if kind == tuple[ops.ExtentWrite, ...]:
        return st.lists(_struct(ops.ExtentWrite), max_size=4).map(tuple)
    if kind == tuple[ops.Unsigned, ...]:
        return st.lists(numbers, max_size=3).map(tuple)
    if kind == str | None:
        return st.none() | texts
    assert kind == ops.Unsigned | None, kind
    return st.none() | numbers


def _struct(kind: type[msgspec.Struct]) -> st.SearchStrategy[Any]:
    fields = msgspec.structs.fields(kind)
    return st.tuples(*(_strategy(field.type) for field in fields)).map(lambda values: kind(*values))


def _is_feature(raw: bytes) -> bool:
    """FEATURE is the one op that may stop the client."""
    numbered = ops.decode_op(raw)
    return numbered is not None and isinstance(numbered.op, ops.Feature)


any_op: st.SearchStrategy[Op] = st.sampled_from(KINDS).flatmap(_struct)


def _lively_volume() -> TestVolume:
    """A directory, hard link, orphan, symlink, extents, attributes, a hold, locks, leases: something for each op to
    find."""
    volume = TestVolume()
    volume.file(16, b"f")
    volume.directory(17, b"d")
    volume.ok(ops.Link(16, 17, b"f", 5), create(18, b"s", mode=0o120777, target=b"d"), create(19, b"o"))
    for number in (1, 2):
        volume.object(number)
    volume.ok(write(16, (0, 100, 1, 0), (150, 50, 2, 0)), write(19, (0, 10, 1, 100)))
    volume.ok(unlink(19, b"o", hold=True), ops.Setxattr(17, b"user.x", b"v", 0, 5), setattr_op(17, 1, mode=0o1777))
    volume.ok(ops.Feature(1), ops.Lock(16, 1, 5, 19, 3, False), ops.Lock(19, 2, 0, 2**63 - 1, 0, False))
    volume.ok(ops.Lock(16, 1, 10, 50, 1, True), ops.Lock(19, 2, 0, 2**63 - 1, 2, True), sid=OTHER)
    volume.directory(20, b"mine")
    volume.directory(21, b"theirs")
    volume.ok(ops.Feature(0), create(1016, b"inside", 21), sid=OTHER)
    volume.ok(ops.Grant((17, 20)), create(22, b"below", 20, mode=0o40755))
    volume.ok(ops.Grant((21,)), ops.Recall(volume.seq, 0), sid=OTHER)
    volume.ok(ops.Recall(volume.seq, 0))
    return volume


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([SID, OTHER]), st.lists(any_op, max_size=6)), max_size=6))
def test_any_op_gets_a_verdict_and_leaves_a_sound_base(records: list[tuple[int, list[Op]]]) -> None:
    volume = _lively_volume()
    for sid, made in records:
        assert len(volume.apply(*made, sid=sid)) == len(made)
    volume.sound()


@settings(max_examples=300, deadline=None)
@given(any_op)
def test_a_refused_op_changes_nothing(op: Op) -> None:
    volume = _lively_volume()
    volume.apply()
    before = {key: value for key, value in volume.base.items() if key[:1] != b"S"}
    blocks = [row.blocks for _, row in volume.rows.sessions()]
    [verdict] = volume.apply(op)
    if verdict.errno:
        assert {key: value for key, value in volume.base.items() if key[:1] != b"S"} == before
        assert [row.blocks for _, row in volume.rows.sessions()] == blocks


@settings(max_examples=300, deadline=None)
@given(st.lists(st.binary(max_size=80), max_size=5), st.integers(), st.integers())
def test_any_bytes_get_a_verdict(raw: list[bytes], sid: int, incarnation: int) -> None:
    volume = TestVolume()
    assert len(volume.record(raw)) == len(raw)
    assert len(volume.record(raw, sid=sid, incarnation=incarnation)) == len(raw)
    volume.sound()


@settings(max_examples=500, deadline=None)
@given(any_op, st.data())
def test_any_damage_to_an_op_gets_a_verdict(op: Op, data: st.DataObject) -> None:
    raw = bytearray(encode_op(NumberedOp(100, None, op)))  # type: ignore[arg-type]
    for _ in range(data.draw(st.integers(0, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(raw)))
    volume = _lively_volume()
    damaged = [piece for piece in (bytes(raw), bytes(raw[:cut])) if not _is_feature(piece)]
    assert len(volume.record(damaged)) == len(damaged)
    volume.sound()


@settings(max_examples=200, deadline=None)
@given(
    st.recursive(st.none() | st.integers(-5, 2**64 - 1) | st.binary(max_size=3) | st.floats(), st.lists, max_leaves=20)
)
def test_any_shape_gets_a_verdict(shape: object) -> None:
    volume = TestVolume()
    for code in (1, 7, 31, 38, 40):
        assert len(volume.record([msgspec.msgpack.encode([100, None, [code, shape]])])) == 1
    volume.sound()
