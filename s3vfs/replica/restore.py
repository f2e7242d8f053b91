"""Filling a replica from a checkpoint in the bucket (docs/format.md, section 6).

One segment of each level is in memory at a time; rows stream from the decoded blocks into the replica. Nothing is taken
on trust: segments against the manifest, blocks against their hashes, all rows together against the digest.
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import merge
from typing import TYPE_CHECKING

import xxhash

from s3vfs.errors import Damaged, ObjectMissing
from s3vfs.objects.protocol import Bulk, Outcome, Store
from s3vfs.objects.runner import Runner
from s3vfs.replica.manifest import Manifest, SegmentEntry, manifest_key, parse_manifest, segments_by_level
from s3vfs.replica.protocol import Position, Replica, Row
from s3vfs.replica.segments import read_segment

if TYPE_CHECKING:
    from typing_extensions import Buffer


async def restore(store: Store, checkpoint: bytes, replica: Replica, run: Runner) -> Position:
    """Replace everything in `replica` by the checkpoint with that uuid (16 bytes); the position it then has.

    Raises ObjectMissing where the checkpoint is not there (any more: look at HEAD again), Damaged where it contradicts
    itself or belongs to another volume, UnknownFeature, and what the store and the replica raise. The replica stays as
    it was until all rows are there, and after an error; it changes in the caller's thread. Cancelling waits until
    staging, in a worker thread, has ended.
    """
    manifest = await fetch_manifest(store, checkpoint)
    if manifest.volume != replica.volume:
        raise Damaged(f"checkpoint {checkpoint.hex()} belongs to volume {manifest.volume.hex()}")
    install = await run(replica.stage, checkpoint_rows(store.bulk, manifest), manifest.position)
    install()
    return manifest.position


async def fetch_manifest(store: Store, checkpoint: bytes) -> Manifest:
    """The manifest of the checkpoint with that uuid. Raises ObjectMissing, Damaged, UnknownFeature."""
    reply = await store.control.get(manifest_key(checkpoint))
    if reply.outcome is not Outcome.OK:
        raise ObjectMissing(f"checkpoint {checkpoint.hex()} has no manifest")
    return parse_manifest(reply.body)


def checkpoint_rows(bulk: Bulk, manifest: Manifest) -> Iterator[Row]:
    """All rows of the checkpoint in key order, fetched as they are consumed. Blocks: consume it in a worker thread.

    Raises Damaged, ObjectMissing and what the store raises. The digest is left to whoever has seen all rows.
    """
    levels = [_level_rows(bulk, entries) for entries in segments_by_level(manifest)]
    if len(levels) == 1:
        yield from ((key, value) for key, _, value in levels[0] if value is not None)
        return
    last = None
    # Ranks make equal keys arrive highest level first, and keep values out of the comparison.
    for key, _, value in merge(*levels):
        if key != last and value is not None:
            yield key, value
        last = key


def _level_rows(bulk: Bulk, entries: list[SegmentEntry]) -> Iterator[tuple[bytes, int, bytes | None]]:
    """(key, rank, value) of one level; rank is lower the higher the level."""
    for entry in entries:
        first = last = b""
        rows = 0
        for key, value in read_segment(_fetch(bulk, entry), level=entry.level):
            first = first or key
            last = key
            rows += 1
            yield key, -entry.level, value
        if (first, last, rows) != (entry.first, entry.last, entry.rows):
            raise Damaged(f"{entry.key} does not have the keys that its manifest states")


def _fetch(bulk: Bulk, entry: SegmentEntry) -> memoryview:
    data: Buffer = bulk.get_range(entry.key, 0, entry.size_bytes)
    view = memoryview(data).cast("B")
    if len(view) != entry.size_bytes or xxhash.xxh3_64_digest(view) != entry.xxh3:
        raise Damaged(f"{entry.key} does not have the bytes that its manifest states")
    return view
