"""RangeSet against a plain set of integers."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from s3vfs.data.ranges import RangeSet

SPAN = 40
edges = st.tuples(st.integers(0, SPAN), st.integers(0, SPAN))
steps = st.lists(st.tuples(st.sampled_from(["add", "remove"]), edges), max_size=25)


def build(operations: list[tuple[str, tuple[int, int]]]) -> tuple[RangeSet, set[int]]:
    ranges, model = RangeSet(), set[int]()
    for name, (start, end) in operations:
        if name == "add":
            ranges.add(start, end)
            model |= set(range(start, end))
        else:
            ranges.remove(start, end)
            model -= set(range(start, end))
    return ranges, model


@settings(max_examples=300, deadline=None)
@given(steps)
def test_ranges_are_sorted_merged_and_hold_exactly_what_was_put(operations: list[tuple[str, tuple[int, int]]]) -> None:
    ranges, model = build(operations)
    parts = list(ranges)
    assert {byte for start, end in parts for byte in range(start, end)} == model
    assert all(start < end for start, end in parts)
    assert all(left[1] < right[0] for left, right in pairwise(parts))
    assert ranges.total_bytes == len(model)
    assert ranges.end == max(model, default=-1) + 1


@settings(max_examples=300, deadline=None)
@given(steps, edges)
def test_questions_about_a_range_agree_with_the_bytes(
    operations: list[tuple[str, tuple[int, int]]], edge: tuple[int, int]
) -> None:
    ranges, model = build(operations)
    start, end = edge
    asked = set(range(start, end))
    assert ranges.covers(start, end) == (asked <= model)
    assert ranges.overlaps(start, end) == bool(asked & model)
    assert {byte for low, high in ranges.within(start, end) for byte in range(low, high)} == asked & model
    pieces = list(ranges.split(start, end))
    assert [byte for low, high, _ in pieces for byte in range(low, high)] == sorted(asked)
    assert all((byte in model) == inside for low, high, inside in pieces for byte in range(low, high))


@settings(max_examples=100, deadline=None)
@given(steps, steps)
def test_whole_sets_are_added_and_taken_away(
    left: list[tuple[str, tuple[int, int]]], right: list[tuple[str, tuple[int, int]]]
) -> None:
    ranges, model = build(left)
    others, other_model = build(right)
    before = others.copy()
    both = ranges.copy()
    both.update(others)
    assert both == RangeSet((byte, byte + 1) for byte in model | other_model)
    ranges.subtract(others)
    assert ranges == RangeSet((byte, byte + 1) for byte in model - other_model)
    assert others == before
