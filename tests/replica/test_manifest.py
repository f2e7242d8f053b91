"""manifest.json: read back as written, with unknown fields kept and contradictions refused."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from s3vfs.errors import Damaged, UnknownFeature
from s3vfs.replica.manifest import (
    Manifest,
    SegmentEntry,
    encode_manifest,
    manifest_key,
    parse_manifest,
    segment_key,
    segments_by_level,
)
from s3vfs.replica.protocol import Position
from s3vfs.replica.segments import write_segments

UUID = bytes(range(16))


def entry(number: int, first: bytes, last: bytes, *, level: int = 0, rows: int = 5) -> SegmentEntry:
    return SegmentEntry(segment_key(UUID, number), level, rows, 1000, b"12345678", first, last)


MANIFEST = Manifest(
    volume=b"v" * 16,
    position=Position(77, b"h" * 16, b"d" * 16),
    created_ns=10**18,
    segments=(entry(0, b"A", b"D\xff"), entry(1, b"I", b"Z")),
)


def changed(**fields: Any) -> bytes:
    return json.dumps({**json.loads(encode_manifest(MANIFEST)), **fields}).encode()


def test_a_manifest_comes_back_as_it_was() -> None:
    assert parse_manifest(encode_manifest(MANIFEST)) == MANIFEST
    assert MANIFEST.rows == 10


def test_keys_and_fields_are_those_of_the_format() -> None:
    assert manifest_key(UUID) == "checkpoint/000102030405060708090a0b0c0d0e0f/manifest.json"
    assert segment_key(UUID, 26) == "checkpoint/000102030405060708090a0b0c0d0e0f/001a.seg"
    fields = json.loads(encode_manifest(MANIFEST))
    assert fields["format"] == 1
    assert fields["digest"] == (b"d" * 16).hex()
    assert set(fields["segments"][0]) == {"key", "level", "rows", "bytes", "xxh3", "first", "last"}
    with pytest.raises(ValueError, match="65536"):
        segment_key(UUID, 65536)


def test_unknown_fields_are_kept() -> None:
    fields = json.loads(encode_manifest(MANIFEST))
    fields["colour"] = "blue"
    fields["segments"][1]["shade"] = [1, 2]
    again = json.loads(encode_manifest(parse_manifest(json.dumps(fields).encode())))
    assert again == fields


def test_an_entry_describes_its_segment() -> None:
    (segment,) = write_segments([(b"A", b"1"), (b"B", b"2")])
    made = SegmentEntry.of("k", segment)
    assert (made.rows, made.size_bytes, made.first, made.last) == (2, len(segment.data), b"A", b"B")
    assert (made.xxh3, made.level) == (segment.xxh3, 0)


@pytest.mark.parametrize("fields", [{"features": 4}, {"apply_version": 3}, {"format": 2}])
def test_what_a_newer_program_wrote_is_refused(fields: dict[str, int]) -> None:
    with pytest.raises(UnknownFeature):
        parse_manifest(changed(**fields))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        changed(rows=11),
        changed(seq=-1),
        changed(digest="00"),
        changed(segments=None),
        changed(segments=[{"key": "k"}]),
        encode_manifest(replace(MANIFEST, segments=(entry(0, b"A", b"I"), entry(1, b"I", b"Z")))),
        encode_manifest(replace(MANIFEST, segments=(entry(0, b"B", b"A"),))),
        encode_manifest(replace(MANIFEST, segments=(entry(0, b"", b"A"),))),
        encode_manifest(MANIFEST).replace(b'"first": "41"', b'"first": "4g"'),
    ],
)
def test_contradictions_are_refused(body: bytes) -> None:
    with pytest.raises(Damaged):
        parse_manifest(body)


def test_levels_may_overlap_each_other() -> None:
    layered = replace(MANIFEST, segments=(entry(2, b"C", b"J", level=1), entry(1, b"I", b"Z"), entry(0, b"A", b"D")))
    parsed = parse_manifest(encode_manifest(layered))
    assert [[e.first for e in level] for level in segments_by_level(parsed)] == [[b"A", b"I"], [b"C"]]
