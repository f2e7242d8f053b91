"""Rows in memory, scratch layers and the digest keep to the Transaction protocol."""

from __future__ import annotations

import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from s3vfs.namespace import sortedkeys
from s3vfs.namespace.dictionary import DictTransaction
from s3vfs.namespace.digest import (
    DigestingTransaction,
    digest_from_bytes,
    digest_of,
    digest_to_bytes,
    row_hash,
)
from s3vfs.namespace.scratch import ScratchTransaction
from s3vfs.namespace.sortedkeys import SortedKeys

keys = st.binary(min_size=1, max_size=2).map(lambda raw: bytes(byte % 4 for byte in raw))
values = st.binary(max_size=2)
changes = st.lists(st.tuples(keys, st.none() | values), max_size=30)


@settings(max_examples=200, deadline=None)
@given(changes, changes, keys, keys)
def test_a_scratch_layer_reads_as_if_its_writes_were_made(
    below: list[tuple[bytes, bytes | None]], above: list[tuple[bytes, bytes | None]], first: bytes, end: bytes
) -> None:
    expected: dict[bytes, bytes] = {}
    base = DictTransaction()
    _change(base, expected, below)
    before = dict(base.items())
    scratch = ScratchTransaction(base)
    top = ScratchTransaction(scratch)
    _change(scratch, expected, above[::2])
    _change(top, expected, above[1::2])
    if len(above) > 1:  # the order of two layers is that of their writes, not of time
        expected = dict(before)
        _change(DictTransaction(), expected, above[::2])
        _change(DictTransaction(), expected, above[1::2])
    rows = sorted((key, value) for key, value in expected.items() if first <= key < end)
    assert list(top.range(first, end)) == rows
    assert list(top.range(first, end, reverse=True)) == rows[::-1]
    assert all(top.get(key) == expected.get(key) for key, _ in below + above)
    assert dict(base.items()) == before
    top.merge_into(scratch)
    scratch.merge_into(base)
    assert dict(base.items()) == expected


def _change(
    txn: DictTransaction | ScratchTransaction, mirror: dict[bytes, bytes], made: list[tuple[bytes, bytes | None]]
) -> None:
    for key, value in made:
        if value is None:
            txn.delete(key)
            mirror.pop(key, None)
        else:
            txn.put(key, value)
            mirror[key] = value


def test_a_scratch_layer_knows_what_it_depends_on() -> None:
    base = DictTransaction([(b"b", b"1"), (b"d", b"2"), (b"f", b"3")])
    scratch = ScratchTransaction(base)
    scratch.put(b"w", b"4")
    assert scratch.get(b"w") == b"4"
    scratch.get(b"r")
    assert next(scratch.range(b"a", b"z"))[0] == b"b"
    assert next(scratch.range(b"e", b"h", reverse=True))[0] == b"f"
    assert scratch.reads == {b"r"}
    assert set(scratch.writes) == {b"w"}
    concerned = {bytes([letter]) for letter in b"abcdefghrwz" if scratch.concerned_by([bytes([letter])])}
    assert concerned == {b"a", b"b", b"f", b"g", b"r", b"w"}  # c to e were never looked at
    list(scratch.range(b"c", b"e"))
    assert scratch.concerned_by([b"z", b"c", b"q"])
    assert not scratch.concerned_by([])


def test_an_empty_stretch_that_was_walked_is_depended_on() -> None:
    scratch = ScratchTransaction(DictTransaction())
    assert list(scratch.range(b"m", b"p")) == []
    assert list(scratch.range(b"s", b"t", reverse=True)) == []
    assert [key for key in (b"l", b"m", b"o", b"p", b"s", b"t") if scratch.concerned_by([key])] == [b"m", b"o", b"s"]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 5000), max_size=400), st.integers(0, 5000), st.integers(0, 5000))
def test_sorted_keys_stay_sorted_over_many_buckets(numbers: list[int], first: int, end: int) -> None:
    some = [number.to_bytes(2, "big") for number in range(0, 5000, 2)]
    kept = SortedKeys(some)
    expected = set(some)
    for number in numbers:
        key = number.to_bytes(2, "big")
        if key in expected:
            kept.remove(key)
            expected.remove(key)
        else:
            kept.add(key)
            expected.add(key)
    assert list(kept) == sorted(expected)
    low, high = first.to_bytes(2, "big"), end.to_bytes(2, "big")
    inside = sorted(key for key in expected if low <= key < high)
    assert list(kept.between(low, high)) == inside
    assert list(kept.between(low, high, reverse=True)) == inside[::-1]


def test_buckets_split_and_vanish() -> None:
    kept = SortedKeys()
    everything = [number.to_bytes(2, "big") for number in range(10 * sortedkeys._SPLIT_ABOVE)]
    for key in everything[::-1]:
        kept.add(key)
    assert list(kept) == everything
    copy = kept.copy()
    for key in everything[1:-1]:
        kept.remove(key)
    assert list(kept) == list(kept.between(b"", b"\xff\xff")) == [everything[0], everything[-1]]
    assert list(copy) == everything


@settings(max_examples=200, deadline=None)
@given(changes)
def test_the_digest_follows_every_change(made: list[tuple[bytes, bytes | None]]) -> None:
    base = DictTransaction([(b"\1", b"x")])
    start = dict(base.items())
    txn = DigestingTransaction(base, digest_of(base.items()))
    _change(txn, {}, made)  # type: ignore[arg-type]
    assert txn.digest == digest_of(base.items())
    after = dict(base.items())
    assert {key for key in start | after if start.get(key) != after.get(key)} <= txn.touched
    for key, _ in list(base.items()):
        txn.delete(key)
    assert txn.digest == 0


def test_a_put_of_what_is_there_touches_nothing() -> None:
    txn = DigestingTransaction(DictTransaction([(b"a", b"1")]), 5)
    txn.put(b"a", b"1")
    txn.delete(b"b")
    assert (txn.touched, txn.digest) == (set(), 5)


def test_the_digest_is_that_of_the_format() -> None:
    assert row_hash(b"V", b"v") == int.from_bytes(xxhash.xxh3_128_digest(b"\0\1Vv"), "big")
    assert digest_to_bytes(1) == bytes(15) + b"\1"
    assert digest_from_bytes(digest_to_bytes(2**128 - 1)) == 2**128 - 1


def test_copies_are_independent() -> None:
    one = DictTransaction([(b"a", b"1")])
    other = one.copy()
    other.put(b"b", b"2")
    one.delete(b"a")
    assert (list(one.items()), list(other.items())) == ([], [(b"a", b"1"), (b"b", b"2")])
    assert (len(one), len(other)) == (0, 2)
