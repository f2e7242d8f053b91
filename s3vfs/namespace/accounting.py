"""Usage and quota: bytes in extents and the number of linked inodes, the root included."""

from __future__ import annotations

from s3vfs.namespace.rows import USAGE_KEY, MutableRows, Rows, Usage


def exceeds_quota(rows: Rows, more_bytes: int, more_inodes: int) -> bool:
    """Whether an op that changes usage by this much has to get EDQUOT. What does not grow is always allowed."""
    if more_bytes <= 0 and more_inodes <= 0:
        return False
    volume = rows.volume()
    if volume is None or not (volume.quota_bytes or volume.quota_inodes):
        return False
    usage = rows.usage()
    return (more_bytes > 0 and 0 < volume.quota_bytes < usage.bytes + more_bytes) or (
        more_inodes > 0 and 0 < volume.quota_inodes < usage.inodes + more_inodes
    )


def change_usage(rows: MutableRows, more_bytes: int, more_inodes: int) -> None:
    if more_bytes or more_inodes:
        usage = rows.usage()
        rows.put(USAGE_KEY, Usage(usage.bytes + more_bytes, usage.inodes + more_inodes))
