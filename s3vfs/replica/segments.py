"""Checkpoint segments: sorted rows as immutable objects (docs/format.md, section 6). Pure: bytes in, bytes out."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import msgspec
import xxhash
import zstandard

from s3vfs.errors import Damaged
from s3vfs.replica.protocol import check_row_order

# Small enough to be held in memory whole, large enough that a request's latency does not count.
SEGMENT_BYTES = 16 << 20
BLOCK_BYTES = 256 << 10  # decoded; a block ends with the first row that reaches it
MAX_BLOCK_BYTES = 16 << 20  # no writer comes near: bounds the memory that a damaged length can claim

_MAGIC = b"S3VSEG\0\1"
_END_MAGIC = b"S3VEND\0\1"
_BLOCK_HEAD = struct.Struct(">8sII")
_ROW_HEAD = struct.Struct(">HI")
_TRAILER = struct.Struct(">QQQ8s8s")
_DELETED = 0xFFFFFFFF


class _IndexEntry(msgspec.Struct, array_like=True, frozen=True):
    first: bytes
    offset: int
    stored_bytes: int  # of the zstd frame
    rows: int


_encode_index = msgspec.msgpack.Encoder().encode
_index_decoder = msgspec.msgpack.Decoder(list[_IndexEntry])


@dataclass(frozen=True, slots=True)
class Segment:
    """A finished segment and what the manifest says of it. `xxh3` is of `data`, 8 bytes."""

    data: bytes
    rows: int
    first: bytes
    last: bytes
    xxh3: bytes


def write_segments(
    rows: Iterable[tuple[bytes, bytes | None]], *, segment_bytes: int = SEGMENT_BYTES
) -> Iterator[Segment]:
    """Cut rows, which come in strictly ascending key order, into segments; none for no rows. None marks a deletion, for
    levels above 0 only. Blocks and magic take at most `segment_bytes`, or one block where that alone is longer.
    Memory: one segment."""
    writer = _SegmentWriter()
    for block in _blocks(rows):
        if writer.rows and writer.size + len(block.stored) + _BLOCK_HEAD.size > segment_bytes:
            yield writer.finish()
            writer = _SegmentWriter()
        writer.add(block)
    if writer.rows:
        yield writer.finish()


@dataclass(frozen=True, slots=True)
class _Block:
    stored: bytes
    decoded_bytes: int
    rows: int
    first: bytes
    last: bytes


def _blocks(rows: Iterable[tuple[bytes, bytes | None]]) -> Iterator[_Block]:
    compressor = zstandard.ZstdCompressor(level=3)
    decoded = bytearray()
    first, last, count = b"", b"", 0
    for key, value in rows:
        check_row_order(last, key)
        if not count:
            first = key
        last = key
        count += 1
        decoded += _ROW_HEAD.pack(len(key), _DELETED if value is None else len(value)) + key + (value or b"")
        if len(decoded) >= BLOCK_BYTES:
            yield _Block(compressor.compress(decoded), len(decoded), count, first, last)
            decoded.clear()
            count = 0
    if count:
        yield _Block(compressor.compress(decoded), len(decoded), count, first, last)


class _SegmentWriter:
    def __init__(self) -> None:
        self._parts = [_MAGIC]
        self._index: list[_IndexEntry] = []
        self._last = b""
        self.size = len(_MAGIC)
        self.rows = 0

    def add(self, block: _Block) -> None:
        self._index.append(_IndexEntry(block.first, self.size, len(block.stored), block.rows))
        head = _BLOCK_HEAD.pack(xxhash.xxh3_64_digest(block.stored), block.decoded_bytes, len(block.stored))
        self._parts += [head, block.stored]
        self.size += len(head) + len(block.stored)
        self.rows += block.rows
        self._last = block.last

    def finish(self) -> Segment:
        index = _encode_index(self._index)
        trailer = _TRAILER.pack(self.size, len(index), self.rows, xxhash.xxh3_64_digest(index), _END_MAGIC)
        data = b"".join([*self._parts, index, trailer])
        return Segment(data, self.rows, self._index[0].first, self._last, xxhash.xxh3_64_digest(data))


def read_segment(data: bytes | memoryview, *, level: int = 0) -> Iterator[tuple[bytes, bytes | None]]:
    """The rows of a segment in key order; None = deleted. Everything is checked before the row that depends on it is
    given: raises Damaged on any contradiction, on a deletion in level 0 and on an empty segment."""
    view = memoryview(data).cast("B")
    index, index_offset = _read_index(view)
    position, last = len(_MAGIC), b""
    for entry in index:
        if entry.offset != position:
            raise Damaged("a checkpoint segment's index does not fit its blocks")
        block, position = _read_block(view, entry, index_offset)
        count = 0
        for key, value in _rows_of(block):
            if not count and key != entry.first:
                raise Damaged("a checkpoint segment's index names another first key than the block has")
            check_row_order(last, key)
            if value is None and level == 0:
                raise Damaged(f"a checkpoint segment of level 0 deletes key {key.hex()}")
            last = key
            count += 1
            yield key, value
        if count != entry.rows:
            raise Damaged(f"a checkpoint block has {count} rows instead of {entry.rows}")
    if position != index_offset:
        raise Damaged("a checkpoint segment has bytes that its index does not name")


def _read_index(view: memoryview) -> tuple[list[_IndexEntry], int]:
    if len(view) < len(_MAGIC) + _TRAILER.size or view[: len(_MAGIC)] != _MAGIC:
        raise Damaged("a checkpoint segment is truncated or does not begin with its magic")
    end = len(view) - _TRAILER.size
    offset, length, rows, checksum, magic = _TRAILER.unpack_from(view, end)
    if magic != _END_MAGIC or offset + length != end:
        raise Damaged("a checkpoint segment's end is damaged")
    stored = view[offset:end]
    if xxhash.xxh3_64_digest(stored) != checksum:
        raise Damaged("a checkpoint segment's index has a wrong checksum")
    try:
        index = _index_decoder.decode(stored)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise Damaged(f"a checkpoint segment's index is malformed: {error}") from error
    if not index or sum(entry.rows for entry in index) != rows:
        raise Damaged("a checkpoint segment's row count is wrong")
    return index, offset


def _read_block(view: memoryview, entry: _IndexEntry, index_offset: int) -> tuple[bytes, int]:
    """The decoded block, and where the next one begins."""
    start = entry.offset + _BLOCK_HEAD.size
    end = start + entry.stored_bytes
    if entry.stored_bytes < 0 or end > index_offset:
        raise Damaged("a checkpoint block reaches beyond its segment")
    checksum, decoded_bytes, stored_bytes = _BLOCK_HEAD.unpack_from(view, entry.offset)
    stored = view[start:end]
    if stored_bytes != entry.stored_bytes or xxhash.xxh3_64_digest(stored) != checksum:
        raise Damaged("a checkpoint block has a wrong checksum")
    try:
        # The length is in the frame too, and the library believes the frame: compare before it allocates.
        if decoded_bytes > MAX_BLOCK_BYTES or zstandard.frame_content_size(stored) != decoded_bytes:
            raise Damaged("a checkpoint block has a wrong length")
        return zstandard.ZstdDecompressor().decompress(stored, allow_extra_data=False), end
    except zstandard.ZstdError as error:
        raise Damaged(f"a checkpoint block does not decompress: {error}") from error


def _rows_of(block: bytes) -> Iterator[tuple[bytes, bytes | None]]:
    position, end = 0, len(block)
    while position < end:
        if position + _ROW_HEAD.size > end:
            raise Damaged("a checkpoint block ends within a row")
        key_bytes, value_bytes = _ROW_HEAD.unpack_from(block, position)
        value_start = position + _ROW_HEAD.size + key_bytes
        key = block[position + _ROW_HEAD.size : value_start]
        if value_bytes == _DELETED:
            position = value_start
            value = None
        else:
            position = value_start + value_bytes
            value = block[value_start:position]
        if position > end:
            raise Damaged("a checkpoint block ends within a row")
        yield key, value
