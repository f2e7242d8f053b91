"""A checkpoint in a bucket fills a replica, or says what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import trio

from s3vfs.errors import Damaged, ObjectMissing, S3vfsError
from s3vfs.namespace.digest import digest_of, digest_to_bytes
from s3vfs.objects.memory import MemoryBucket
from s3vfs.objects.runner import ThreadRunner
from s3vfs.objects.store import OpenedStore
from s3vfs.replica import segments
from s3vfs.replica.lmdb_replica import LmdbReplica
from s3vfs.replica.manifest import Manifest, SegmentEntry, encode_manifest, manifest_key, segment_key
from s3vfs.replica.memory_replica import MemoryReplica
from s3vfs.replica.protocol import EMPTY, Position, Replica
from s3vfs.replica.restore import restore
from s3vfs.replica.segments import write_segments
from tests.replica.histories import VOLUME, Author, all_rows, begin, create, random_op

UUID = b"checkpoint-uuid1"


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a small state fills several segments."""
    monkeypatch.setattr(segments, "BLOCK_BYTES", 2000)


@pytest.fixture
def store() -> OpenedStore:
    return MemoryBucket(lambda: 10**18).open("volume")


@pytest.fixture(params=["lmdb", "memory"])
def replica(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Replica]:
    made: Replica
    if request.param == "lmdb":
        made = LmdbReplica.open(tmp_path / "replica", volume=VOLUME, boot_id="boot")
    else:
        made = MemoryReplica(VOLUME)
    yield made
    made.close()


@pytest.fixture
def source() -> MemoryReplica:
    made, author, random = MemoryReplica(VOLUME), Author(1), Random(5)
    begin(made, author)
    for _ in range(150):
        with made.read() as txn:
            ops = random_op(random, txn, author)
        author.commit(made, ops)
    author.commit(made, [create(author, b"file %d" % number) for number in range(500)])
    return made


def publish(store: OpenedStore, source: Replica) -> Manifest:
    """Segments, then the manifest, in small pieces."""
    with source.snapshot() as (position, rows):
        entries = []
        for number, segment in enumerate(write_segments(rows, segment_bytes=4096)):
            key = segment_key(UUID, number)
            store.bulk.put_new(key, [segment.data])
            entries.append(SegmentEntry.of(key, segment))
    manifest = Manifest(VOLUME, position, 10**18, tuple(entries))
    assert len(entries) > 1
    write_manifest(store, manifest)
    return manifest


def write_manifest(store: OpenedStore, manifest: Manifest) -> None:
    trio.run(store.control.put, manifest_key(UUID), encode_manifest(manifest))


def restored(store: OpenedStore, replica: Replica) -> Position:
    async def main() -> Position:
        return await restore(store, UUID, replica, ThreadRunner(2))

    return trio.run(main)


def test_a_published_replica_comes_back(store: OpenedStore, source: MemoryReplica, replica: Replica) -> None:
    publish(store, source)
    begin(replica, Author(7))  # something else was there before
    assert restored(store, replica) == source.position == replica.position
    assert all_rows(replica) == all_rows(source)
    author = Author(2)
    author.announce(replica)
    assert author.commit(replica, [create(author, b"goes on")]).verdicts[0].errno == 0


def test_a_checkpoint_that_is_gone_leaves_the_replica_alone(store: OpenedStore, replica: Replica) -> None:
    begin(replica, Author(1))
    before, rows = replica.position, all_rows(replica)
    with pytest.raises(ObjectMissing):
        restored(store, replica)
    assert (replica.position, all_rows(replica)) == (before, rows)


def test_another_volumes_checkpoint_is_refused(store: OpenedStore, source: MemoryReplica) -> None:
    publish(store, source)
    with pytest.raises(Damaged, match="belongs to volume"):
        restored(store, MemoryReplica(b"another-volume-1"))


def test_a_missing_or_changed_segment_leaves_the_replica_as_it_was(
    store: OpenedStore, source: MemoryReplica, replica: Replica
) -> None:
    manifest = publish(store, source)
    entry = manifest.segments[1]
    good = bytes(store.bulk.get_range(entry.key, 0, entry.size_bytes))
    store.bulk.delete(entry.key)
    begin(replica, Author(1))
    before = replica.position
    with pytest.raises(ObjectMissing):
        restored(store, replica)
    assert replica.position == before
    for bad in (good[:100] + bytes([good[100] ^ 1]) + good[101:], good[:-1] + b"?"):
        store.bulk.delete(entry.key)
        store.bulk.put_new(entry.key, [bad])
        with pytest.raises(Damaged, match="bytes that its manifest"):
            restored(store, replica)
        assert replica.position == before
    store.bulk.delete(entry.key)
    store.bulk.put_new(entry.key, [good[:-1]])
    with pytest.raises(S3vfsError):
        restored(store, replica)
    assert replica.position == before


def test_a_manifest_that_is_not_of_these_segments_is_refused(
    store: OpenedStore, source: MemoryReplica, replica: Replica
) -> None:
    manifest = publish(store, source)
    first, *others = manifest.segments
    for wrong in (
        replace(manifest, segments=tuple(others)),
        replace(manifest, position=replace(manifest.position, digest=bytes(16))),
        replace(manifest, segments=(replace(first, last=first.last[:-1]), *others)),
        replace(manifest, segments=(replace(first, first=b"A"), *others)),
        replace(manifest, segments=(replace(first, rows=first.rows + 1), *others)),
    ):
        write_manifest(store, wrong)
        with pytest.raises(Damaged):
            restored(store, replica)
        assert replica.position == EMPTY
    write_manifest(store, manifest)
    restored(store, replica)
    assert all_rows(replica) == all_rows(source)


def test_higher_levels_replace_and_delete_rows_of_lower_ones(store: OpenedStore, replica: Replica) -> None:
    levels: list[list[tuple[bytes, bytes | None]]] = [
        [(b"A", b"0"), (b"B", b"0"), (b"C", b"0"), (b"E", b"0"), (b"F", b"0")],
        [(b"B", None), (b"C", b"1"), (b"D", b"1"), (b"F", None)],
        [(b"C", None), (b"D", b"2"), (b"F", b"2"), (b"G", None)],
    ]
    entries = []
    for level, rows in enumerate(levels):
        (segment,) = write_segments(rows)
        store.bulk.put_new(segment_key(UUID, level), [segment.data])
        entries.append(SegmentEntry.of(segment_key(UUID, level), segment, level=level))
    expected = [(b"A", b"0"), (b"D", b"2"), (b"E", b"0"), (b"F", b"2")]
    position = Position(9, bytes(16), digest_to_bytes(digest_of(expected)))
    write_manifest(store, Manifest(VOLUME, position, 0, tuple(reversed(entries))))
    restored(store, replica)
    assert all_rows(replica) == expected
