"""The simulated world: one bucket with a clock of its own, the truth about its journal, a trace.

The truth is what no client can see: the first content of every record key, when it appeared, and who sent it. Oracles
are built on it. Nothing here knows sessions.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field

import trio
import xxhash

from s3vfs.journal.keys import record_seq
from s3vfs.journal.record import Record, decode_record
from s3vfs.namespace.apply import apply_record
from s3vfs.namespace.dictionary import DictTransaction
from s3vfs.namespace.ops import DeclareObject, Evict, Resume, Revoke, decode_op
from s3vfs.namespace.rows import Rows
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
    quiet: int = field(init=False)  # how seldom clients look at what others own; else nobody keeps a lease for long
    clock_jump_ns: int = 0
    truth: dict[int, Appeared] = field(default_factory=dict)
    times: list[float] = field(default_factory=list)  # times[seq - 1]: when record seq appeared
    ghosts: int = 0
    requests: int = 0
    state: DictTransaction = field(default_factory=DictTransaction)  # what the journal says now
    taken: Counter[int] = field(default_factory=Counter)  # by session: how often others took a lease or the office
    trace: list[str] = field(default_factory=list)
    nursery: trio.Nursery = field(init=False)
    _last_client: dict[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.generator = random.Random(self.seed)
        self.bucket = MemoryBucket(self.date_ns)
        self.quiet = (1, 3, 6)[self.seed % 3]

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
        self.say(life, f"record {seq} of {record.header.sid:x}.{record.header.incarnation}: {_summary(record)}")
        self._check_objects_are_there(record)
        self._follow(record, life)

    def _follow(self, record: Record, life: str) -> None:
        verdicts = apply_record(self.state, record.header, record.ops)
        for raw, verdict in zip(record.ops, verdicts, strict=True):
            numbered = decode_op(raw)
            if numbered is None or verdict.errno:
                continue
            match numbered.op:
                case Revoke(seq=seq):
                    self.taken[self.truth[seq].record.header.sid] += 1
                case Evict(sid=sid):
                    self.taken[sid] += 1
                case Resume():
                    self.taken[record.header.sid] += self._last_client.get(record.header.sid) != _client(life)
        self._last_client[record.header.sid] = _client(life)

    def contents(self, ino: int) -> bytes | None:
        """What the journal and the bucket say that the file is; None where it is gone."""
        rows = Rows(self.state)
        inode = rows.inode(ino)
        if inode is None:
            return None
        data = bytearray(inode.size)
        for offset, extent in rows.extents(ino, 0, inode.size):
            body = self.bucket.peek(f"{PREFIX}/{data_key(extent.object)}")
            if body is None:
                raise Violation(f"R9: object {extent.object.hex()} is not in the bucket")
            end = min(offset + extent.length, inode.size)
            data[offset:end] = body[extent.object_offset : extent.object_offset + end - offset]
        return bytes(data)

    def _check_objects_are_there(self, record: Record) -> None:
        """R9, at the very moment at which metadata begins to refer to an object."""
        for raw in record.ops:
            numbered = decode_op(raw)
            if numbered is not None and isinstance(numbered.op, DeclareObject):
                key = f"{PREFIX}/{data_key(numbered.op.object)}"
                if self.bucket.peek(key) is None:
                    raise Violation(f"R9: record {record.header.seq} declares {key}, which is not in the bucket")


def _client(life: str) -> str:
    return life.partition(".")[0]


def _summary(record: Record) -> str:
    """Its ops, for the trace."""
    kinds = Counter("?" if op is None else type(op.op).__name__ for op in map(decode_op, record.ops))
    return ", ".join(kind if count == 1 else f"{count} {kind}" for kind, count in kinds.items())


def data_key(object_id: bytes) -> str:
    """Where an object lies (docs/format.md, section 1)."""
    shard = xxhash.xxh3_64_intdigest(object_id) & 0xFF
    return f"data/{shard:02x}/{object_id[:8].hex()}-{object_id[8:12].hex()}-{object_id[12:].hex()}"
