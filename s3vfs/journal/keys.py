"""Where things lie in the bucket, relative to the volume's prefix (docs/format.md, section 1). Pure."""

from __future__ import annotations

VOLUME_KEY = "volume.json"
HEAD_KEY = "HEAD"
JOURNAL_PREFIX = "journal/"
SHARDS = 16  # stores partition by prefix; consecutive records should not all fall into one partition


def record_key(seq: int) -> str:
    """The key of record `seq` (1 and up)."""
    return f"{shard_prefix(seq % SHARDS)}{seq:016x}"


def shard_prefix(shard: int) -> str:
    """What the keys of the records with seq % 16 = `shard` begin with. Within it, key order is seq order."""
    return f"{JOURNAL_PREFIX}{shard:x}/"


def record_seq(key: str) -> int | None:
    """The seq of a record's key; None for anything that `record_key` cannot have made."""
    digits = key.rpartition("/")[2]
    if len(digits) != 16 or not set(digits) <= set("0123456789abcdef"):
        return None
    seq = int(digits, 16)
    return seq if seq > 0 and record_key(seq) == key else None
