"""The simulated world: one bucket with a clock of its own, the truth about its journal, a trace.

The truth is what no client can see: the first content of every record key, when it appeared, and who sent it. Oracles
are built on it. Nothing here knows sessions.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import trio
import xxhash

from s3vfs.journal.keys import record_seq
from s3vfs.journal.record import Record, decode_record
from s3vfs.namespace.ops import DeclareObject, decode_op
from s3vfs.objects.memory import MemoryBucket
from tests.session.volume import EPOCH_NS, UUID

VOLUME = UUID
MOST_REQUESTS = 20_000  # a history that needs more is going round in circles; usual are about 500
PREFIX = "v"


class Violation(AssertionError):
    """An oracle has found that a promise was broken."""


@dataclass(frozen=True, slots=True)
class Appeared:
    """A record in truth: what, when (trio seconds), and by which life of a client ("" = none, e.g. format)."""

    record: Record
    data: bytes
    at_s: float
    life: str


@dataclass
class World:
    """`generator` drives the weather and the events; clients have generators of their own."""

    seed: int
    keep_trace: bool = False
    generator: random.Random = field(init=False)
    bucket: MemoryBucket = field(init=False)
    clock_jump_ns: int = 0
    truth: dict[int, Appeared] = field(default_factory=dict)
    times: list[float] = field(default_factory=list)  # times[seq - 1]: when record seq appeared
    ghosts: int = 0
    requests: int = 0
    trace: list[str] = field(default_factory=list)
    nursery: trio.Nursery = field(init=False)

    def __post_init__(self) -> None:
        self.generator = random.Random(self.seed)
        self.bucket = MemoryBucket(self.date_ns)

    def date_ns(self) -> int:
        """The bucket's Date: whole seconds, as S3's."""
        now_ns = EPOCH_NS + int(trio.current_time() * 1e9) + self.clock_jump_ns
        return now_ns - now_ns % 10**9

    def say(self, who: str, what: str) -> None:
        if self.keep_trace:
            self.trace.append(f"{trio.current_time():9.3f} {who:12} {what}")

    def count_request(self) -> None:
        self.requests += 1
        if self.requests > MOST_REQUESTS:
            raise Violation(f"stuck: more than {MOST_REQUESTS} requests")

    # -- truth --------------------------------------------------------------------------------------------------

    @property
    def tail(self) -> int:
        return len(self.times)

    def tail_at(self, at_s: float) -> int:
        """The highest seq that had appeared strictly before `at_s`."""
        low, high = 0, len(self.times)
        while low < high:
            middle = (low + high) // 2
            if self.times[middle] < at_s:
                low = middle + 1
            else:
                high = middle
        return low

    def put_took_effect(self, key: str, data: bytes, life: str) -> None:
        """A PUT has just created `key` (relative to the volume)."""
        seq = record_seq(key) if key.startswith("journal/") else None
        if seq is None:
            return
        if seq in self.truth:
            # A very late PUT at a trimmed key: nobody may ever trust it (R5).
            self.ghosts += 1
            self.say(life, f"ghost of record {seq}")
            return
        if seq != self.tail + 1:
            raise Violation(f"record {seq} appeared while the tail was {self.tail}: the journal has a hole")
        record = decode_record(data)
        self.truth[seq] = Appeared(record, data, trio.current_time(), life)
        self.times.append(trio.current_time())
        self.say(life, f"record {seq} of {record.header.sid:x}.{record.header.incarnation}, {len(record.ops)} ops")
        self._check_objects_are_there(record)

    def _check_objects_are_there(self, record: Record) -> None:
        """R9, at the very moment at which metadata begins to refer to an object."""
        for raw in record.ops:
            numbered = decode_op(raw)
            if numbered is not None and isinstance(numbered.op, DeclareObject):
                key = f"{PREFIX}/{data_key(numbered.op.object)}"
                if self.bucket.peek(key) is None:
                    raise Violation(f"R9: record {record.header.seq} declares {key}, which is not in the bucket")


def data_key(object_id: bytes) -> str:
    """Where an object lies (docs/format.md, section 1)."""
    shard = xxhash.xxh3_64_intdigest(object_id) & 0xFF
    return f"data/{shard:02x}/{object_id[:8].hex()}-{object_id[8:12].hex()}-{object_id[12:].hex()}"
