"""Making a volume: HEAD, record 1, and volume.json last, as the mark that the volume exists (docs/format.md).

| a format that ends after | leaves                | the next format                                        |
|--------------------------|-----------------------|--------------------------------------------------------|
| the probe                | nothing               | begins                                                 |
| HEAD                     | HEAD, generation 1    | goes on with its uuid                                  |
| record 1                 | HEAD and record 1     | goes on if asked for the same name and quotas          |
| volume.json              | a volume              | refuses: VolumeExists                                  |

Formats that run at the same time meet at the same three keys, each of which has one winner (R1, R2), so they make one
volume between them, and only the one whose volume.json it is reports success.
"""

from __future__ import annotations

import stat
import uuid

from s3vfs.environment import Environment
from s3vfs.errors import Damaged, Trimmed, UsageError, VolumeExists
from s3vfs.journal.bucket import BucketJournal
from s3vfs.journal.conditional import occupy
from s3vfs.journal.head import Head, encode_head, parse_head
from s3vfs.journal.keys import HEAD_KEY, VOLUME_KEY
from s3vfs.journal.record import APPLY_VERSION, ZERO_HASH, Header, decode_record, encode_record
from s3vfs.journal.volume import SECTOR_BYTES, VolumeInfo, encode_volume, parse_volume
from s3vfs.namespace.apply import apply_record
from s3vfs.namespace.dictionary import DictTransaction
from s3vfs.namespace.limits import OBJECT_MAX_BYTES
from s3vfs.namespace.ops import Format, NumberedOp, decode_op, encode_op
from s3vfs.objects.probe import probe_conditional_writes
from s3vfs.objects.protocol import Outcome, Store

DEFAULT_OBJECT_BYTES = 8 << 20
ROOT_MODE = stat.S_IFDIR | 0o755


async def format_volume(
    store: Store,
    *,
    name: str,
    uid: int,
    gid: int,
    environment: Environment,
    object_size: int = DEFAULT_OBJECT_BYTES,
    quota_bytes: int = 0,
    quota_inodes: int = 0,
) -> VolumeInfo:
    """Make a volume in this place of the bucket; its root belongs to `uid` and `gid`. Quota 0 = none.

    Repeatable after any error or crash. Goes on by itself while the store does not answer. Raises UsageError for
    settings that no volume can have, VolumeExists where there is one or where an unfinished format had other settings,
    UnsafeBucket, Damaged where volume.json is missing from a volume in use, and what the store raises.
    """
    if not SECTOR_BYTES <= object_size <= OBJECT_MAX_BYTES or object_size % SECTOR_BYTES:
        raise UsageError(f"object size {object_size}", hint="give a multiple of 256 KiB, at most 64 MiB")
    op = Format(name, quota_bytes, quota_inodes, ROOT_MODE, uid, gid, environment.wall_ns())
    await _refuse_volume(store)
    batch = environment.new_uuid()
    _record_1(Head(bytes(16)), op, batch, environment)  # settings are refused before anything is written
    await probe_conditional_writes(store, new_uuid=lambda: uuid.UUID(bytes=environment.new_uuid()))
    head = await _settle_head(store, environment)
    await _settle_record_1(store, head, op, batch, environment)
    volume = VolumeInfo(head.volume, name, object_size, environment.wall_ns())
    settled = await occupy(store.control, VOLUME_KEY, encode_volume(volume), environment)
    if not settled.own:
        raise _exists(store, parse_volume(settled.body))
    return volume


def _record_1(head: Head, op: Format, batch: bytes, environment: Environment) -> bytes:
    """The record that makes base. Raises UsageError where apply would reject it."""
    header = Header(
        apply_version=APPLY_VERSION,
        features=0,
        volume=head.volume,
        epoch=head.engine.epoch,
        seq=1,
        previous=ZERO_HASH,
        digest=ZERO_HASH,
        sid=environment.random.randrange(1, 2**63),
        incarnation=1,
        batch=batch,
        author_time_ns=op.time_ns,
        round_trip_us=0,
        losses=0,
        background=False,
    )
    raw = [encode_op(NumberedOp(1, None, op))]
    if apply_record(DictTransaction(), header, raw)[0].errno:
        raise UsageError(
            f"volume name {op.name!r}, quotas {op.quota_bytes} and {op.quota_inodes}, owner {op.uid}:{op.gid}",
            hint="one of these cannot be stored",
        )
    return encode_record(header, raw)


async def _settle_head(store: Store, environment: Environment) -> Head:
    """The HEAD that is there, or a new one with a new uuid."""
    reply = await store.control.get(HEAD_KEY)
    if reply.outcome is Outcome.OK:
        return parse_head(reply.body)
    new = Head(environment.new_uuid())
    settled = await occupy(store.control, HEAD_KEY, encode_head(new), environment)
    return parse_head(settled.body)


async def _settle_record_1(store: Store, head: Head, op: Format, batch: bytes, environment: Environment) -> None:
    """See that record 1 is there and says the same as `op`, times and owner aside. Raises VolumeExists or Damaged."""
    head.require_writable()
    journal = BucketJournal(store.control, head.volume, environment)
    data, used = None, head.generation > 1
    if not used:
        try:
            if await journal.append(1, _record_1(head, op, batch, environment), batch):
                return
            data, used = await journal.read(1), await journal.tail(1) > 1
        except Trimmed:
            used = True
    if used or data is None:
        await _refuse_volume(store)
        raise Damaged(
            f"{store.url}: {VOLUME_KEY} is missing from a volume that is in use",
            hint="write it again from a backup, or remove the rest of the volume",
        )
    record = decode_record(data)
    first = decode_op(record.ops[0]) if record.ops else None
    if first is None or not isinstance(first.op, Format) or record.header.volume != head.volume:
        raise Damaged(f"{store.url}: record 1 does not make a volume")
    found = first.op
    if (found.name, found.quota_bytes, found.quota_inodes) != (op.name, op.quota_bytes, op.quota_inodes):
        await _refuse_volume(store)
        raise VolumeExists(
            f"{store.url}: an unfinished format with name {found.name!r} and quotas of {found.quota_bytes} bytes and "
            f"{found.quota_inodes} inodes is there",
            hint="repeat it with those, or remove what it left",
        )


async def _refuse_volume(store: Store) -> None:
    """Raises VolumeExists where a volume is there."""
    reply = await store.control.get(VOLUME_KEY)
    if reply.outcome is Outcome.OK:
        raise _exists(store, parse_volume(reply.body))


def _exists(store: Store, volume: VolumeInfo) -> VolumeExists:
    return VolumeExists(f"{store.url} holds the volume {volume.name!r} already", hint="mount it")
