"""Checkpoint segments: what goes in comes out, and nothing that was damaged does."""

from __future__ import annotations

import random
import struct

import msgspec
import pytest
import xxhash
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from s3vfs.errors import Damaged
from s3vfs.replica.segments import BLOCK_BYTES, Segment, read_segment, write_segments

Rows = list[tuple[bytes, bytes | None]]


def rows_of(count: int, value_bytes: int = 40) -> Rows:
    random_bytes = random.Random(count).randbytes
    return [(b"I" + number.to_bytes(8), random_bytes(value_bytes)) for number in range(count)]


def only_segment(rows: Rows) -> Segment:
    (segment,) = write_segments(rows)
    return segment


def built(blocks: list[tuple[Rows, int | None]], **wrong: object) -> bytes:
    """A segment made by hand from docs/format.md, section 6. A block is rows and the decoded length that it claims."""
    data = b"S3VSEG\0\1"
    index: list[object] = []
    for rows, claimed in blocks:
        data += wrong.get("gap_before", b"") if index else b""  # type: ignore[operator]
        decoded = b"".join(
            struct.pack(">HI", len(key), 0xFFFFFFFF if value is None else len(value)) + key + (value or b"")
            for key, value in rows
        )
        stored = zstandard.ZstdCompressor().compress(decoded)
        index.append([wrong.get("first", rows[0][0]), len(data), len(stored), wrong.get("block_rows", len(rows))])
        data += xxhash.xxh3_64_digest(stored)
        data += struct.pack(">II", len(decoded) if claimed is None else claimed, len(stored)) + stored
    data += wrong.get("gap", b"")  # type: ignore[operator]
    packed = msgspec.msgpack.encode(wrong.get("index", index))
    total = wrong.get("rows", sum(len(rows) for rows, _ in blocks))
    trailer = struct.pack(">QQQ", len(data), len(packed), total) + xxhash.xxh3_64_digest(packed) + b"S3VEND\0\1"
    return data + packed + trailer


@settings(max_examples=60, deadline=None)
@given(
    rows=st.dictionaries(st.binary(min_size=1, max_size=300), st.none() | st.binary(max_size=3000), min_size=1),
    segment_bytes=st.sampled_from([1, 600, 5000, 1 << 20]),
)
def test_rows_come_back_as_they_were(rows: dict[bytes, bytes | None], segment_bytes: int) -> None:
    ordered = sorted(rows.items())
    segments = list(write_segments(ordered, segment_bytes=segment_bytes))
    assert [row for segment in segments for row in read_segment(segment.data, level=1)] == ordered
    for segment in segments:
        inside = list(read_segment(segment.data, level=1))
        assert (segment.rows, segment.first, segment.last) == (len(inside), inside[0][0], inside[-1][0])
        assert segment.xxh3 == xxhash.xxh3_64_digest(segment.data)


def test_no_rows_make_no_segment() -> None:
    assert list(write_segments([])) == []


def test_segments_are_bounded_and_cut_between_blocks() -> None:
    rows = rows_of(40_000, 100)  # incompressible: 4.5 MB
    segments = list(write_segments(rows, segment_bytes=1 << 20))
    assert len(segments) >= 5
    for segment in segments:
        index_offset = struct.unpack(">Q", segment.data[-40:-32])[0]
        assert index_offset <= 1 << 20
    assert [row for segment in segments for row in read_segment(segment.data)] == rows


def test_a_row_larger_than_a_block_is_kept_whole() -> None:
    rows: Rows = [(b"A", b"x" * (3 * BLOCK_BYTES)), (b"B", b"")]
    assert list(read_segment(only_segment(rows).data)) == rows


def test_bytes_are_those_of_the_format() -> None:
    rows: Rows = [(b"Da", b"one"), (b"Db", b""), (b"I1", b"\xff" * 9)]
    assert list(read_segment(built([(rows[:2], None), (rows[2:], None)]))) == rows
    data = only_segment(rows).data
    assert data[:8] == b"S3VSEG\0\1"
    index_offset, index_bytes, count = struct.unpack(">QQQ", data[-40:-16])
    index = msgspec.msgpack.decode(data[index_offset : index_offset + index_bytes])
    assert count == 3
    assert index == [[b"Da", 8, index_offset - 8 - 16, 3]]
    assert data[-16:-8] == xxhash.xxh3_64_digest(data[index_offset:-40])
    assert struct.unpack(">II", data[16:24]) == (3 * (6 + 2) + 3 + 9, index_offset - 24)
    assert data[8:16] == xxhash.xxh3_64_digest(data[24:index_offset])


def test_every_flipped_bit_is_noticed() -> None:
    data = only_segment(rows_of(20)).data
    for position in range(len(data)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[position] ^= 1 << bit
            with pytest.raises(Damaged):
                list(read_segment(bytes(flipped)))


def test_flipped_bits_are_noticed_anywhere_in_a_large_segment() -> None:
    data = only_segment(rows_of(10_000, 100)).data
    source = random.Random(7)
    for _ in range(200):
        flipped = bytearray(data)
        flipped[source.randrange(len(data))] ^= 1 << source.randrange(8)
        with pytest.raises(Damaged):
            list(read_segment(bytes(flipped)))


def test_every_truncation_and_addition_is_noticed() -> None:
    data = only_segment(rows_of(20)).data
    for length in range(len(data)):
        with pytest.raises(Damaged):
            list(read_segment(data[:length]))
    with pytest.raises(Damaged):
        list(read_segment(data + b"\0"))


@pytest.mark.parametrize(
    "data",
    [
        built([]),
        built([([(b"b", b""), (b"a", b"")], None)]),
        built([([(b"a", b""), (b"a", b"")], None)]),
        built([([(b"b", b"")], None), ([(b"a", b"")], None)]),
        built([([(b"", b"x")], None)]),
        built([([(b"k" * 512, b"x")], None)]),
        built([([(b"a", b"")], 6)]),
        built([([(b"a", b"")], 8)]),
        built([([(b"a", b"")], None)], rows=2),
        built([([(b"a", b"")], None)], block_rows=2, rows=2),
        built([([(b"a", b"")], None)], block_rows=0, rows=0),
        built([([(b"a", b"")], None)], first=b"b"),
        built([([(b"a", b"")], None)], gap=b"?"),
        built([([(b"a", b"")], None), ([(b"b", b"")], None)], gap_before=b"?"),
        built([([(b"a", b"")], None)], index=[[b"a", 8]]),
        built([([(b"a", b"")], None)], index="no list"),
        built([([(b"a", b"")], None)], index=[[b"a", 9, 16, 1]]),
        built([([(b"a", b"")], None)], index=[[b"a", 8, 1 << 40, 1]]),
        built([([(b"a", b"")], None)], index=[[b"a", 8, -3, 1]]),
        built([([(b"a", None)], None)]),
    ],
    ids=[
        "empty",
        "order",
        "duplicate",
        "order-of-blocks",
        "empty-key",
        "long-key",
        "short-claim",
        "long-claim",
        "total",
        "more-rows-claimed",
        "fewer-rows-claimed",
        "first-key",
        "gap",
        "gap-between-blocks",
        "short-entry",
        "no-list",
        "offset",
        "beyond",
        "negative",
        "deleted-in-level-0",
    ],
)
def test_wellformed_checksums_do_not_excuse_contradictions(data: bytes) -> None:
    with pytest.raises(Damaged):
        list(read_segment(data))


def test_a_row_that_claims_more_than_its_block_is_refused() -> None:
    decoded = struct.pack(">HI", 1, 50) + b"a" + b"only this"
    stored = zstandard.ZstdCompressor().compress(decoded)
    data = b"S3VSEG\0\1" + xxhash.xxh3_64_digest(stored) + struct.pack(">II", len(decoded), len(stored)) + stored
    index = msgspec.msgpack.encode([[b"a", 8, len(stored), 1]])
    data += index + struct.pack(">QQQ", len(data), len(index), 1) + xxhash.xxh3_64_digest(index) + b"S3VEND\0\1"
    with pytest.raises(Damaged):
        list(read_segment(data))


@pytest.mark.parametrize("rows", [[(b"b", b""), (b"a", b"")], [(b"a", b""), (b"a", b"")], [(b"", b"")]])
def test_rows_out_of_order_are_not_written(rows: Rows) -> None:
    with pytest.raises(Damaged):
        list(write_segments(rows))
