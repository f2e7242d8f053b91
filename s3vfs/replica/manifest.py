"""The manifest of a checkpoint (docs/format.md, sections 2 and 6): which segments, at which position. Pure; no I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from s3vfs.errors import Damaged, UnknownFeature
from s3vfs.journal.documents import NEWER_HINT, Document, encode_document, parse_document
from s3vfs.journal.record import APPLY_VERSION
from s3vfs.namespace.features import KNOWN_FEATURES
from s3vfs.replica.protocol import Position
from s3vfs.replica.segments import Segment

MAX_SEGMENTS = 1 << 16  # their number has four hex digits


def checkpoint_prefix(uuid: bytes) -> str:
    """What the keys of one checkpoint begin with."""
    return f"checkpoint/{uuid.hex()}/"


def manifest_key(uuid: bytes) -> str:
    return f"{checkpoint_prefix(uuid)}manifest.json"


def segment_key(uuid: bytes, number: int) -> str:
    """The key of the segment with that number, 0 and up."""
    if not 0 <= number < MAX_SEGMENTS:
        raise ValueError(f"segment number {number}")
    return f"{checkpoint_prefix(uuid)}{number:04x}.seg"


@dataclass(frozen=True, slots=True)
class SegmentEntry:
    """One segment. `key` is relative to the volume; `size_bytes` and `xxh3` (8 bytes) are of the whole object; `first`
    and `last` are row keys. Where a row key stands in several levels, the highest one holds."""

    key: str
    level: int
    rows: int
    size_bytes: int
    xxh3: bytes
    first: bytes
    last: bytes
    extra: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, key: str, segment: Segment, *, level: int = 0) -> SegmentEntry:
        """The entry of a segment that was written at `key`."""
        return cls(key, level, segment.rows, len(segment.data), segment.xxh3, segment.first, segment.last)

    def encode(self) -> dict[str, Any]:
        return {
            "key": self.key,
            "level": self.level,
            "rows": self.rows,
            "bytes": self.size_bytes,
            "xxh3": self.xxh3.hex(),
            "first": self.first.hex(),
            "last": self.last.hex(),
            **self.extra,
        }


@dataclass(frozen=True, slots=True)
class Manifest:
    """What manifest.json says. `volume` is the uuid; `rows` the sum over the segments. `extra` holds unknown fields."""

    volume: bytes
    position: Position
    created_ns: int
    segments: Sequence[SegmentEntry]
    apply_version: int = APPLY_VERSION
    features: int = 0
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        return sum(entry.rows for entry in self.segments)


def encode_manifest(manifest: Manifest) -> bytes:
    return encode_document(
        {
            "features": manifest.features,
            "volume": manifest.volume.hex(),
            "seq": manifest.position.seq,
            "record_hash": manifest.position.record_hash.hex(),
            "digest": manifest.position.digest.hex(),
            "apply_version": manifest.apply_version,
            "created_ns": manifest.created_ns,
            "rows": manifest.rows,
            "segments": [entry.encode() for entry in manifest.segments],
            **manifest.extra,
        }
    )


def parse_manifest(body: bytes) -> Manifest:
    """Raises Damaged for a manifest that contradicts itself, UnknownFeature for one that this program cannot use."""
    document = parse_document(body, "manifest.json")
    features, apply_version = document.integer("features"), document.integer("apply_version")
    if features & ~KNOWN_FEATURES or apply_version > APPLY_VERSION:
        raise UnknownFeature(
            f"a checkpoint uses features {features:#x}, apply version {apply_version}", hint=NEWER_HINT
        )
    rows = document.integer("rows")
    manifest = Manifest(
        volume=document.hexadecimal("volume", 16),
        position=Position(
            document.integer("seq"), document.hexadecimal("record_hash", 16), document.hexadecimal("digest", 16)
        ),
        created_ns=document.integer("created_ns"),
        segments=tuple(_parse_entry(entry) for entry in document.documents("segments")),
        apply_version=apply_version,
        features=features,
        extra=document.rest(),
    )
    if rows != manifest.rows:
        raise Damaged(f"manifest.json: {rows} rows, but its segments have {manifest.rows}")
    for level in segments_by_level(manifest):
        for before, after in pairwise(level):
            if after.first <= before.last:
                raise Damaged(f"manifest.json: {before.key} and {after.key} overlap within a level")
    return manifest


def segments_by_level(manifest: Manifest) -> list[list[SegmentEntry]]:
    """The segments of each level that there is, lowest level first, each in key order."""
    levels: dict[int, list[SegmentEntry]] = {}
    for entry in sorted(manifest.segments, key=lambda entry: (entry.level, entry.first)):
        levels.setdefault(entry.level, []).append(entry)
    return list(levels.values())


def _parse_entry(document: Document) -> SegmentEntry:
    entry = SegmentEntry(
        key=document.text("key"),
        level=document.integer("level"),
        rows=document.integer("rows"),
        size_bytes=document.integer("bytes"),
        xxh3=document.hexadecimal("xxh3", 8),
        first=_hexadecimal_key(document, "first"),
        last=_hexadecimal_key(document, "last"),
        extra=document.rest(),
    )
    if not entry.first or entry.first > entry.last:
        raise Damaged(f"manifest.json: {entry.key} has no range of keys")
    return entry


def _hexadecimal_key(document: Document, name: str) -> bytes:
    text = document.text(name)
    try:
        return bytes.fromhex(text)
    except ValueError as error:
        raise Damaged(f"manifest.json: {name} is not hex digits") from error
