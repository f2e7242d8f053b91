"""What status tells about a volume and a mount, as plain values for JSON (docs/operations.md). Decides nothing."""

from __future__ import annotations

from typing import Any

from s3vfs.journal.volume import VolumeInfo
from s3vfs.namespace.rows import Rows
from s3vfs.session.session import Session


def describe_base(session: Session, volume: VolumeInfo) -> dict[str, Any]:
    """What base says about the volume as a whole: the same for every client."""
    with session.view() as txn:
        rows = Rows(txn)
        row, usage = rows.volume(), rows.usage()
        sessions = [
            {
                "sid": f"{sid:016x}",
                "incarnation": other.incarnation,
                "label": other.label,
                "last_seq": other.last_seq,
                "challenged": other.challenge > other.last_seq,
                "own": sid == session.sid,
            }
            for sid, other in rows.sessions()
        ]
    return {
        "volume": {
            "uuid": volume.uuid.hex(),
            "name": row.name if row else volume.name,
            "object_size": volume.object_size,
            "created_ns": volume.created_ns,
            "quota_bytes": row.quota_bytes if row else 0,
            "quota_inodes": row.quota_inodes if row else 0,
        },
        "usage": {"bytes": usage.bytes, "inodes": usage.inodes},
        "sessions": sessions,
    }
