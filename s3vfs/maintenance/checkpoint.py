"""Publishing a checkpoint: base at one seq, as segments and a manifest in the bucket, named by HEAD (docs/format.md 6).

Loading one is `replica.restore`. Whatever fails or stops half-way leaves objects that no manifest and no HEAD names;
they, and checkpoints that a newer one has superseded, are left to garbage collection, which alone can know whether
a snapshot, or a client that is just loading, needs them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import trio

from s3vfs.environment import Environment
from s3vfs.errors import Damaged, ObjectExists, ObjectMissing, S3vfsError, StoreUnreachable
from s3vfs.journal.conditional import occupy
from s3vfs.journal.head import CheckpointRef, Head
from s3vfs.journal.protocol import Journal
from s3vfs.journal.volume import VolumeInfo
from s3vfs.namespace.digest import digest_to_bytes, row_hash
from s3vfs.namespace.rows import VOLUME_KEY, decode_volume
from s3vfs.objects.protocol import Bulk, Store
from s3vfs.replica.manifest import Manifest, SegmentEntry, encode_manifest, manifest_key, segment_key
from s3vfs.replica.protocol import Position, Replica, Row
from s3vfs.replica.segments import SEGMENT_BYTES, write_segments

PUT_ATTEMPTS = 3


async def publish_checkpoint(
    replica: Replica,
    journal: Journal,
    store: Store,
    environment: Environment,
    volume: VolumeInfo,
    *,
    segment_bytes: int = SEGMENT_BYTES,
) -> CheckpointRef:
    """Write a checkpoint of the replica as it is now, and name it in HEAD unless HEAD names a newer one by then.

    Raises UnknownFeature where the volume may not be written, Damaged where the replica's rows do not have its digest
    (then no manifest is written), and what store and replica raise.
    """
    volume.require_writable()
    (await journal.refresh_head()).head.require_writable()
    checkpoint = await write_checkpoint(replica, store, environment, volume, segment_bytes=segment_bytes)

    def name_it(head: Head) -> Head:
        newer = head.checkpoint is None or head.checkpoint.seq < checkpoint.seq
        return replace(head, checkpoint=checkpoint) if newer else head

    await journal.update_head(name_it)
    return checkpoint


async def write_checkpoint(
    replica: Replica,
    store: Store,
    environment: Environment,
    volume: VolumeInfo,
    *,
    segment_bytes: int = SEGMENT_BYTES,
) -> CheckpointRef:
    """Write segments and manifest of the replica as it is now; nothing names them yet.

    One segment is in memory at a time. Cancelling takes effect between two segments. Raises as `publish_checkpoint`.
    """
    if volume.uuid != replica.volume:
        raise ValueError("the replica belongs to another volume")
    writing = _Writing(replica, store.bulk, environment.new_uuid(), segment_bytes)
    position, entries = await writing.run(environment)
    manifest = Manifest(volume.uuid, position, environment.wall_ns(), entries, features=writing.features)
    settled = await occupy(store.control, manifest_key(writing.uuid), encode_manifest(manifest), environment)
    if not settled.own:
        raise Damaged(f"checkpoint {writing.uuid.hex()} has another manifest", hint="two clients made one uuid")
    return CheckpointRef(writing.uuid, position.seq)


class _Stopped(Exception):
    """The task that wanted the checkpoint was cancelled."""


@dataclass(slots=True)
class _Writing:
    """Cuts, uploads and hashes in one worker thread, where the replica's read transaction lives from begin to end."""

    replica: Replica
    bulk: Bulk
    uuid: bytes
    segment_bytes: int
    stopped: bool = False
    digest: int = 0
    features: int = 0

    async def run(self, environment: Environment) -> tuple[Position, list[SegmentEntry]]:
        """`write` in a worker thread; when cancelled, waits for the segment in hand only."""
        results: list[tuple[Position, list[SegmentEntry]]] = []
        errors: list[S3vfsError] = []

        async def tell_when_cancelled() -> None:
            try:
                await trio.sleep_forever()
            finally:
                self.stopped = True

        async with trio.open_nursery() as nursery:
            nursery.start_soon(tell_when_cancelled)
            try:
                results.append(await environment.run(self.write))
            except _Stopped:
                await trio.lowlevel.checkpoint_if_cancelled()
            except S3vfsError as error:  # raised outside the nursery: callers expect it bare, not in a group
                errors.append(error)
            nursery.cancel_scope.cancel()
        if errors:
            raise errors[0]
        return results[0]

    def write(self) -> tuple[Position, list[SegmentEntry]]:
        """All segments, from one consistent read. Blocks."""
        entries: list[SegmentEntry] = []
        with self.replica.snapshot() as (position, rows):
            segments = write_segments(self._digesting(rows), segment_bytes=self.segment_bytes)
            for number, segment in enumerate(segments):
                if self.stopped:
                    raise _Stopped
                key = segment_key(self.uuid, number)
                put_own(self.bulk, key, segment.data)
                entries.append(SegmentEntry.of(key, segment))
        if digest_to_bytes(self.digest % 2**128) != position.digest:
            raise Damaged(
                f"this client's replica at record {position.seq} does not have the digest that it should have",
                hint="remove the replica to have it rebuilt",
            )
        return position, entries

    def _digesting(self, rows: Iterable[Row]) -> Iterator[Row]:
        for key, value in rows:
            self.digest += row_hash(key, value)
            if key == VOLUME_KEY:
                self.features = decode_volume(value).features
            yield key, value


def put_own(bulk: Bulk, key: str, data: bytes) -> None:
    """PUT at a key that nobody else writes, so that "it exists" after a lost answer can only mean our own bytes (R2).

    Blocks. Raises Damaged where other bytes are there, StoreUnreachable after PUT_ATTEMPTS, and what the store raises.
    """
    for attempt in range(1, PUT_ATTEMPTS + 1):
        try:
            bulk.put_new(key, [data])
            return
        except ObjectExists:
            pass
        except StoreUnreachable:
            if attempt == PUT_ATTEMPTS:
                raise
            continue
        if _is_there(bulk, key, data):
            return
    raise Damaged(f"{key} exists with other bytes than were written", hint="two clients made one uuid")


def _is_there(bulk: Bulk, key: str, data: bytes) -> bool:
    """Whether the key holds `data`. StoreUnreachable is how a read shows a shorter object, too."""
    try:
        return bytes(bulk.get_range(key, 0, len(data))) == data
    except ObjectMissing:
        return False
