"""Records: header, ops and their bytes (docs/format.md, section 3). Knows nothing of where records are kept."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import msgspec
import xxhash
import zstandard

from s3vfs.errors import Damaged, UnknownFeature
from s3vfs.namespace.features import KNOWN_FEATURES

FORMAT_VERSION = 1
APPLY_VERSION = 2
MAGIC = b"S3VJ"
ZERO_HASH = bytes(16)
MAX_BODY_BYTES = 64 << 20
COMPRESS_ABOVE_BYTES = 1024  # below it zstd's frame costs about what it saves

_PREFIX = struct.Struct(">4sBBHQI")
_COMPRESSED = 1

Unsigned = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Hash = Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
Uuid = Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]


class Header(msgspec.Struct, array_like=True, frozen=True):
    """Who wrote the record, where it stands, on what state. `seq` starts at 1; docs/format.md has each field."""

    apply_version: Unsigned
    features: Unsigned
    volume: Uuid
    epoch: Unsigned
    seq: Unsigned
    previous: Hash
    digest: Hash
    sid: Unsigned
    incarnation: Unsigned
    batch: Uuid
    author_time_ns: Unsigned
    round_trip_us: Unsigned
    losses: Unsigned
    background: bool


class _Body(msgspec.Struct, array_like=True, frozen=True):
    header: Header
    ops: list[msgspec.Raw]


@dataclass(frozen=True, slots=True)
class Record:
    """A decoded record. `ops` are still raw: each is decoded by itself, so that one bad op spoils no other (R3).
    `hash` is the record hash that the next header must name."""

    header: Header
    ops: Sequence[bytes | msgspec.Raw]
    hash: bytes


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Body)


def record_hash(data: bytes) -> bytes:
    return xxhash.xxh3_128_digest(data)


def encode_record(header: Header, ops: Sequence[bytes]) -> bytes:
    """The record's object. `ops` are wire forms. Raises ValueError for a body above MAX_BODY_BYTES."""
    body = _encoder.encode(_Body(header, [msgspec.Raw(op) for op in ops]))
    if len(body) > MAX_BODY_BYTES:
        raise ValueError(f"record body of {len(body)} bytes")
    length, flags = len(body), 0
    if length > COMPRESS_ABOVE_BYTES:
        compressed = zstandard.ZstdCompressor(level=1).compress(body)
        if len(compressed) < length:
            body, flags = compressed, _COMPRESSED
    tail = struct.pack(">I", length) + body
    return _PREFIX.pack(MAGIC, FORMAT_VERSION, flags, 0, xxhash.xxh3_64_intdigest(tail), length) + body


def decode_record(data: bytes) -> Record:
    """The record in `data`. Raises Damaged where bytes contradict themselves, UnknownFeature where this program is too
    old to read them (R3)."""
    if len(data) < _PREFIX.size:
        raise Damaged("a record is truncated")
    magic, version, flags, zero, checksum, length = _PREFIX.unpack_from(data)
    if magic != MAGIC:
        raise Damaged("a record does not begin with its magic")
    if version != FORMAT_VERSION:
        raise UnknownFeature(f"record format {version}", hint="a newer s3vfs wrote this volume; update this one")
    if xxhash.xxh3_64_intdigest(memoryview(data)[16:]) != checksum:
        raise Damaged("a record's checksum is wrong")
    if flags & ~_COMPRESSED or zero:
        raise UnknownFeature(f"record flags {flags:#x}", hint="a newer s3vfs wrote this volume; update this one")
    if length > MAX_BODY_BYTES:
        raise Damaged(f"a record claims a body of {length} bytes")
    body: bytes = data[_PREFIX.size :]
    if flags & _COMPRESSED:
        try:
            # The frame's own claim is checked first: it, and not `max_output_size`, decides what is allocated.
            if zstandard.frame_content_size(body) != length:
                raise Damaged("a record's body has the wrong length")
            body = zstandard.ZstdDecompressor().decompress(body, max_output_size=length, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise Damaged(f"a record does not decompress: {error}") from error
    if len(body) != length:
        raise Damaged("a record's body has the wrong length")
    try:
        decoded = _decoder.decode(body)
    except (msgspec.DecodeError, msgspec.ValidationError, RecursionError) as error:
        raise Damaged(f"a record's body is malformed: {error}") from error
    header = decoded.header
    if header.features & ~KNOWN_FEATURES or header.apply_version > APPLY_VERSION:
        raise UnknownFeature(
            f"record {header.seq} uses features {header.features:#x}, apply version {header.apply_version}",
            hint="a newer s3vfs wrote to this volume; update this one",
        )
    return Record(header, decoded.ops, record_hash(data))
