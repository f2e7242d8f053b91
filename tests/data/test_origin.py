"""Which published bytes a lent file is the image of, and what of it was written unseen."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from s3vfs.data.backed import Backed, data_spans, differing, scan
from s3vfs.data.origin import Origin, Piece
from s3vfs.data.ranges import RangeSet
from s3vfs.namespace.ops import ExtentWrite

_ONE, _TWO = b"1" * 16, b"2" * 16


def image(origin: Origin) -> list[tuple[bytes, int] | None]:
    """What each byte is."""
    found: list[tuple[bytes, int] | None] = [None] * origin.size
    for piece in origin.pieces:
        for at in range(piece.start, piece.end):
            assert found[at] is None
            found[at] = piece.object, piece.offset + at - piece.start
    return found


@pytest.mark.parametrize("seed", range(20))
def test_random_changes_are_those_of_a_list_of_bytes(seed: int) -> None:
    chance = random.Random(seed)
    origin = Origin(100, 1, [Piece(0, 100, _ONE, 0)])
    model: list[tuple[bytes, int] | None] = [(_ONE, at) for at in range(100)]
    for _ in range(60):
        before = Origin(origin.size, 1, list(origin.pieces))
        start = chance.randrange(150)
        length = chance.randrange(1, 40)
        kind = chance.randrange(3)
        if kind == 0:
            shift = chance.randrange(50)
            origin.write([ExtentWrite(start, length, _TWO, shift)])
            model += [None] * (start + length - len(model))
            model[start : start + length] = [(_TWO, shift + at) for at in range(length)]
        elif kind == 1:
            origin.clear(start, start + length)
            for at in range(start, min(start + length, len(model))):
                model[at] = None
        else:
            origin.cut(start)
            model = model[:start] + [None] * (start - len(model))
        assert image(origin) == model
        old, new = image(before), image(origin)
        most = max(len(old), len(new))
        old += [None] * (most - len(old))
        new += [None] * (most - len(new))
        unlike = RangeSet((at, at + 1) for at in range(most) if old[at] != new[at])
        assert before.differences(origin) == unlike == origin.differences(before)


def test_what_differs_is_told_to_the_byte_but_for_chance() -> None:
    before = bytearray(1000)
    after = bytearray(1000)
    for at in (0, 10, 14, 18, 500, 999):
        after[at] = 1
    assert list(differing(after, before)) == [(0, 1), (10, 19), (500, 501), (999, 1000)]
    assert not list(differing(before, before))
    written = os.urandom(100_000)
    assert list(differing(written, bytes(b ^ 1 for b in written))) == [(0, 100_000)]
    assert sum(1 for _ in differing(os.urandom(1 << 18), os.urandom(1 << 18))) < 3


def test_a_scan_reads_what_is_no_hole(tmp_path: Path) -> None:
    with open(tmp_path / "file", "w+b") as file:
        file.truncate(1 << 20)
        os.pwrite(file.fileno(), b"x" * 10, 300_000)
        spans = list(data_spans(file.fileno(), 1 << 20))
        assert all(start <= 300_000 < end for start, end in spans)
        seen, _ = scan(file.fileno(), 1 << 20, 65536)
        assert list(seen) == [4]


def test_sums_are_of_whole_sectors_of_the_copy() -> None:
    backed = Backed(16, Origin())
    body = memoryview(bytes(range(100)))
    backed.copied(0, body[:40], 40)
    assert sorted(backed.sums) == [0, 1, 2]
    assert backed.sums[2][0] == 8
    backed.copied(20, body[20:36], 40)  # of the second and the third sector only parts were published anew
    assert sorted(backed.sums) == [0]
    backed.copied(32, body[32:48], 100)
    assert sorted(backed.sums) == [0, 2]
    backed.cut(16)
    assert sorted(backed.sums) == [0]
    backed.cleared(4, 5)
    assert not backed.sums
