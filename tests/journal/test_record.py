"""Records: what goes in comes out, and no damage goes unnoticed (docs/format.md, section 3)."""

from __future__ import annotations

import struct

import msgspec
import pytest
import xxhash
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from s3vfs.errors import Damaged, UnknownFeature
from s3vfs.journal.record import Header, decode_record, encode_record, record_hash

UUIDS = st.binary(min_size=16, max_size=16)
NUMBERS = st.integers(0, 2**63 - 1)
HEADERS = st.builds(
    Header,
    st.just(1),
    st.just(0),
    UUIDS,
    NUMBERS,
    NUMBERS,
    UUIDS,
    UUIDS,
    NUMBERS,
    NUMBERS,
    UUIDS,
    NUMBERS,
    NUMBERS,
    NUMBERS,
    st.booleans(),
)
OPS = st.lists(
    st.recursive(st.integers(-9, 9) | st.binary(max_size=400), st.lists, max_leaves=6).map(msgspec.msgpack.encode)
)
HEADER = Header(1, 0, bytes(16), 0, 7, b"p" * 16, b"d" * 16, 5, 1, b"b" * 16, 10**18, 3, 0, False)
SMALL = encode_record(HEADER, [b"\x01", b"\xa3abc"])
LARGE = encode_record(HEADER, [msgspec.msgpack.encode([number, b"some name"]) for number in range(150)])


def make(body: bytes, *, flags: int = 0, version: int = 1, zero: int = 0, length: int | None = None) -> bytes:
    """A record's object with a right checksum around anything."""
    tail = struct.pack(">I", len(body) if length is None else length) + body
    return struct.pack(">4sBBHQ", b"S3VJ", version, flags, zero, xxhash.xxh3_64_intdigest(tail)) + tail


@given(HEADERS, OPS)
@settings(max_examples=60, deadline=None)
def test_a_record_comes_back_as_it_was_written(header: Header, ops: list[bytes]) -> None:
    data = encode_record(header, ops)
    record = decode_record(data)
    assert record.header == header
    assert [bytes(op) for op in record.ops] == ops
    assert record.hash == record_hash(data)


def test_a_long_body_is_compressed_and_a_short_one_is_not() -> None:
    assert LARGE[5] == 1
    assert len(LARGE) < 150 * 12
    assert SMALL[5] == 0


@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["plain", "compressed"])
def test_every_single_flipped_bit_is_noticed(data: bytes) -> None:
    for position in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[position // 8] ^= 1 << position % 8
        with pytest.raises((Damaged, UnknownFeature)):
            decode_record(bytes(flipped))


@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["plain", "compressed"])
def test_a_truncated_or_lengthened_record_is_noticed(data: bytes) -> None:
    for length in range(len(data)):
        with pytest.raises(Damaged):
            decode_record(data[:length])
    with pytest.raises(Damaged):
        decode_record(data + b"\0")


def test_a_newer_format_flag_feature_or_apply_version_stops_the_reader() -> None:
    body = SMALL[20:]
    for data in (
        make(body, version=2),
        make(body, flags=2),
        make(body, zero=1),
        encode_record(msgspec.structs.replace(HEADER, features=1 << 40), []),
        encode_record(msgspec.structs.replace(HEADER, apply_version=3), []),
    ):
        with pytest.raises(UnknownFeature, match="update"):
            decode_record(data)


def test_fields_appended_by_a_newer_program_are_passed_over() -> None:
    header = [*msgspec.structs.astuple(HEADER), "new"]
    assert decode_record(make(msgspec.msgpack.encode([header, [], "new"]))).header == HEADER


def test_a_right_checksum_around_nonsense_is_damage() -> None:
    fields = list(msgspec.structs.astuple(HEADER))
    deep = b"\x91" * 100_000 + b"\x01"
    for body in (
        b"",
        b"\xc1",
        msgspec.msgpack.encode([fields[:-1], []]),
        msgspec.msgpack.encode([[*fields[:2], b"short", *fields[3:]], []]),
        msgspec.msgpack.encode([[*fields[:4], -1, *fields[5:]], []]),
        b"\x92" + msgspec.msgpack.encode(fields) + b"\x91" + deep,
    ):
        with pytest.raises(Damaged):
            decode_record(make(body))


def test_a_compressed_body_may_not_claim_one_length_and_have_another() -> None:
    frame = zstandard.ZstdCompressor().compress(bytes(5000))
    for data in (
        make(frame, flags=1, length=4999),
        make(frame, flags=1, length=65 << 20),
        make(frame + frame, flags=1, length=5000),
        make(zstandard.ZstdCompressor().compress(bytes(128 << 20)), flags=1, length=100),
    ):
        with pytest.raises(Damaged):
            decode_record(data)


def test_a_body_above_the_limit_is_refused_by_its_author() -> None:
    with pytest.raises(ValueError, match="bytes"):
        encode_record(HEADER, [msgspec.msgpack.encode(bytes(64 << 20))])
