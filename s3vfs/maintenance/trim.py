"""When to publish a checkpoint and how far to trim: the round that every mount makes in the background now and then.

Any number of clients may do it at once: HEAD takes the newest checkpoint, and trimming is safe in itself (R5).
Thresholds are drawn a little differently each time, so that usually one client is first and the others see its work.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import trio

from s3vfs.environment import Environment
from s3vfs.errors import Damaged, S3vfsError, UnknownFeature
from s3vfs.journal.head import CheckpointRef, HeadState
from s3vfs.journal.protocol import Journal
from s3vfs.journal.volume import VolumeInfo
from s3vfs.maintenance.checkpoint import publish_checkpoint
from s3vfs.namespace.rows import Rows
from s3vfs.objects.protocol import Store
from s3vfs.replica.protocol import Replica
from s3vfs.replica.segments import SEGMENT_BYTES

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Policy:
    """Numbers of one volume's upkeep; a simulation makes them small, so that it happens all the time.

    A checkpoint costs one PUT for each 16 MiB of rows, and saves who comes later from reading the records below it.
    """

    checkpoint_records: int = 5_000  # 16 requests at a time of 20 ms each read these in about 6 s
    checkpoint_bytes: int = 64 << 20  # of records: about as much as a second of download
    keep_records: int = 5_000  # below the checkpoint, so that a client a little behind need not load it
    trim_records: int = 1_000  # at least this many in one step, for each step is two rewrites of HEAD
    interval_s: float = 60.0
    segment_bytes: int = SEGMENT_BYTES


@dataclass(frozen=True, slots=True)
class Round:
    """What one round did. `covered`: the seq of HEAD's checkpoint afterwards, 0 for none."""

    published: CheckpointRef | None
    covered: int
    boundary: int
    deleted: int


async def maintain(
    replica: Replica,
    journal: Journal,
    store: Store,
    environment: Environment,
    volume: VolumeInfo,
    policy: Policy,
    *,
    new_bytes: int = 0,
) -> Round:
    """One round: publish a checkpoint if one is due, then trim if that is.

    `new_bytes` is how many bytes of records this client knows above HEAD's checkpoint. Nothing is lost when it ends
    early, by an error or cancelled: the next round, anyone's, goes on. Raises as `publish_checkpoint` and `trim`.
    """
    volume.require_writable()
    state = await journal.refresh_head()
    state.head.require_writable()
    published = None
    if _checkpoint_is_due(state, replica.position.seq, new_bytes, policy, environment):
        published = await publish_checkpoint(
            replica, journal, store, environment, volume, segment_bytes=policy.segment_bytes
        )
        state = journal.head()
    report = await journal.trim(trim_target(state, replica, policy))
    checkpoint = journal.head().head.checkpoint
    return Round(published, checkpoint.seq if checkpoint else 0, report.boundary, report.deleted)


def _checkpoint_is_due(state: HeadState, seq: int, new_bytes: int, policy: Policy, environment: Environment) -> bool:
    records = seq - (state.head.checkpoint.seq if state.head.checkpoint else 0)
    if records <= 0:
        return False
    patience = environment.random.uniform(1.0, 1.5)
    return records >= patience * policy.checkpoint_records or new_bytes >= patience * policy.checkpoint_bytes


def trim_target(state: HeadState, replica: Replica, policy: Policy) -> int:
    """The boundary to ask for; the present one where no step is worth it.

    The checkpoint that HEAD names may be newer than this replica. What lies above the replica may hold a snapshot that
    is not ready, so the boundary stays below it. A snapshot that is not ready needs a checkpoint at or below its
    seq and all records from there to it: as long as there is one, the boundary stays where it is.
    """
    head = state.head
    if head.checkpoint is None:
        return head.boundary
    with replica.read() as txn:
        if any(not snapshot.checkpoint for _, snapshot in Rows(txn).snapshots()):
            return head.boundary
    target = min(head.checkpoint.seq, replica.position.seq) + 1 - policy.keep_records
    return target if target >= head.boundary + policy.trim_records else head.boundary


async def keep_maintained(
    replica: Replica,
    journal: Journal,
    store: Store,
    environment: Environment,
    volume: VolumeInfo,
    policy: Policy,
    *,
    record_bytes: Callable[[], int],
) -> None:
    """Rounds for as long as the mount lives; cancel it to end it. `record_bytes` counts the bytes of records that this
    client has read and written so far.

    A client that has applied nothing new makes no round: whoever writes also tidies. A failed round is logged and
    repeated. Returns, with a line in the log, only where the volume itself forbids upkeep (UnknownFeature, Damaged).
    """
    covered, counted_from, seen = 0, record_bytes(), -1
    while True:
        await trio.sleep(policy.interval_s * environment.random.uniform(0.5, 1.5))
        position = replica.position.seq
        if position == seen:
            continue
        new_bytes = record_bytes() - counted_from
        try:
            done = await maintain(replica, journal, store, environment, volume, policy, new_bytes=new_bytes)
        except (Damaged, UnknownFeature) as error:
            _log.error("no more checkpoints and trimming by this mount: %s", error)
            return
        except S3vfsError as error:
            _log.warning("checkpoint or trimming failed, it will be tried again: %s", error)
            continue
        seen = position
        if done.covered > covered:
            covered, counted_from = done.covered, record_bytes()
        if done.published:
            _log.info("published checkpoint %s at record %d", done.published.uuid.hex(), done.published.seq)
