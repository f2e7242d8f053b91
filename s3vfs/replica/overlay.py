"""The overlay (R12): ops that are acknowledged but not yet in base, and their effects, read through above base.

Base changes only through records. An op that a session acknowledges ahead of its record is tried here, on base plus
all ops before it, and queued with what it read and wrote. When a record has been applied to base the overlay follows:
own ops leave, and if base is now anything but what the remaining ops were tried on, they are all tried again. The
promise, at any moment: `view(base)` is what base would be if every queued op were applied to it in order.

Pure: knows rows, ops and apply; not which thread, which bucket, which lease. Two rows are counters that every record
moves, and would set off a rebuild each time. They are carried along by difference instead: the volume's usage (unless
a quota makes verdicts depend on it), and the sequence numbers in the own session's row. In the volume's own row every
session's BLOCK moves the next free inode number, which no acknowledged op looks at.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec
from msgspec.structs import replace

from s3vfs.namespace import ops
from s3vfs.namespace.apply import apply_op
from s3vfs.namespace.folding import folded
from s3vfs.namespace.rows import (
    USAGE_KEY,
    VOLUME_KEY,
    Inode,
    LeaseId,
    Rows,
    SessionRow,
    Usage,
    Volume,
    decode_inode,
    encode_row,
    inode_key,
    session_key,
)
from s3vfs.namespace.scratch import KeyRange, ScratchTransaction
from s3vfs.namespace.transaction import ReadTransaction
from s3vfs.namespace.verdict import Context, Verdict
from s3vfs.replica.layer import Layer, LayeredView

# Session and volume ops are never acknowledged ahead of their record: others act on them.
_ACKNOWLEDGEABLE = (
    *(ops.Create, ops.Link, ops.Unlink, ops.Rmdir, ops.Rename, ops.Setattr, ops.Setxattr, ops.Removexattr),
    *(ops.Write, ops.Append, ops.Punch, ops.Clone, ops.DeclareObject, ops.Hold, ops.Drop, ops.Reap),
)

_decode_session = msgspec.msgpack.Decoder(SessionRow).decode


@dataclass(slots=True)
class Pending:
    """A queued op. `verdict` is the speculative one; it is OK at first, and another one after a rebuild says so.
    Everything below it is the overlay's own."""

    numbered: ops.NumberedOp
    context: Context
    verdict: Verdict
    serial: int
    keys: frozenset[bytes] = frozenset()  # read, or written, one by one
    ranges: Sequence[KeyRange] = ()
    writes: Mapping[bytes, bytes | None] = field(default_factory=dict)
    more_bytes: int = 0  # what it adds to the usage
    more_inodes: int = 0


@dataclass(frozen=True, slots=True)
class Folded:
    """A queued CREATE that says more than it did: `numbered` is what becomes of `pending`, `inode` what it makes."""

    numbered: ops.NumberedOp
    pending: Pending
    inode: Inode


@dataclass(frozen=True, slots=True)
class Changed:
    """An op whose verdict is not the one it had. `queued`: it still waits for its record, and the new verdict is
    speculative too."""

    numbered: ops.NumberedOp
    before: Verdict
    verdict: Verdict
    queued: bool


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What following a record meant. `keys`: rows that may look different in the view because of a rebuild, besides
    those that the record itself touched; empty when nothing had to be rebuilt."""

    changed: tuple[Changed, ...] = ()
    keys: frozenset[bytes] = frozenset()


class Overlay:
    """The queue of one session's acknowledged ops. Used in one thread.

    `layer` has what the queued ops have made; another one takes its place now and then. It is changed here only.

    `base` is always a transaction over the present base. For every record that is applied to base, `record_applied`
    is called before anything else is asked: until then the overlay stands on a base that is gone.
    """

    def __init__(self) -> None:
        self._queue: list[Pending] = []
        self._creates: dict[int, Pending] = {}  # queued CREATEs by inode
        self.layer = Layer()
        self._serial = 0
        self._more_bytes = 0
        self._more_inodes = 0
        self._session: SessionRow | None = None  # the own session's row in base, when the overlay last looked
        self._volume: Volume | None = None  # likewise

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def pending(self) -> Sequence[Pending]:
        """The queued ops, oldest first."""
        return tuple(self._queue)

    def view(self, base: ReadTransaction) -> ReadTransaction:
        """Base with all queued ops applied. Valid until the next call of any other method."""
        return LayeredView(base, self.layer) if self.layer.rows else base

    def acknowledge(
        self, base: ReadTransaction, numbered: ops.NumberedOp, context: Context, *, rivals: bool = True
    ) -> Verdict:
        """Try the op on top of all queued ones; queue it if it succeeds. Otherwise nothing happened and nothing was
        acknowledged. Numbers grow. `rivals`: see `apply_op`. Raises ValueError for an op that may never be acknowledged
        ahead of its record."""
        if not isinstance(numbered.op, _ACKNOWLEDGEABLE):
            raise ValueError(f"{type(numbered.op).__name__} must wait for its record")
        if self._queue and numbered.number <= self._queue[-1].numbered.number:
            raise ValueError(f"op {numbered.number} after op {self._queue[-1].numbered.number}")
        if not self._queue:
            self._remember(base, context.sid)
        self._serial += 1
        pending = Pending(numbered, context, Verdict(), self._serial)
        verdict = self._try(base, pending, rivals=rivals)
        if not verdict.errno:
            pending.verdict = verdict
            self._queue.append(pending)
            if isinstance(numbered.op, ops.Create):
                self._creates[numbered.op.ino] = pending
        return verdict

    def foldable(self, base: ReadTransaction, change: ops.Setattr, first_number: int) -> Folded | None:
        """How the op could be said by the CREATE of its inode, where that is queued with `first_number` or a later one
        and nothing has changed the inode since."""
        pending = self._untouched(change.ino)
        if pending is None or pending.numbered.number < first_number:
            return None
        create, row = pending.numbered.op, pending.writes[inode_key(change.ino)]
        assert isinstance(create, ops.Create)
        assert row is not None
        both = folded(Rows(self.view(base)), create, decode_inode(row), change)
        return None if both is None else Folded(replace(pending.numbered, op=both[0]), pending, both[1])

    def created_under(self, ino: int) -> LeaseId | None:
        """The lease that a queued CREATE of the inode, which is where that has put it, relies on."""
        pending = self._untouched(ino)
        return None if pending is None else pending.numbered.lease

    def _untouched(self, ino: int) -> Pending | None:
        """The queued CREATE of an inode, if no other queued op has changed its row."""
        pending = self._creates.get(ino)
        found = None if pending is None else self.layer.rows.get(inode_key(ino))
        return pending if pending is not None and found is not None and found[1] == pending.serial else None

    def fold(self, folded: Folded) -> None:
        """The queued CREATE is that one from now on."""
        assert isinstance(folded.numbered.op, ops.Create)
        key, value = inode_key(folded.numbered.op.ino), encode_row(folded.inode)
        folded.pending.numbered = folded.numbered
        folded.pending.writes = {**folded.pending.writes, key: value}
        self.layer.set(key, value, folded.pending.serial)

    def record_applied(
        self, base: ReadTransaction, keys: frozenset[bytes], own: Mapping[int, Verdict] | None = None
    ) -> Rebuilt:
        """Follow a record that was applied to base and touched `keys`. `own`: the verdicts by op number where it was
        this session's. Its ops leave the queue; ops whose verdict is not the one they had are returned."""
        if not self._queue:
            return Rebuilt()
        own = own or {}
        leaving = [pending for pending in self._queue if pending.numbered.number in own]
        staying = [pending for pending in self._queue if pending.numbered.number not in own]
        changed = [
            Changed(pending.numbered, pending.verdict, own[pending.numbered.number], queued=False)
            for pending in leaving
            if pending.verdict != own[pending.numbered.number]
        ]
        if leaving and staying and leaving[-1].serial > staying[0].serial:
            again = self._rebuild(base, staying)  # out of order: no earlier trial says anything about what stays
        else:
            surprises = self._surprises(base, keys, leaving)
            ordered = sorted(surprises)
            if any(_concerns(pending, surprises, ordered) for pending in staying):
                again = self._rebuild(base, staying)
            else:
                again = Rebuilt()
                self._drop(leaving, staying)
                self._carry_counters(base)
        return Rebuilt((*changed, *again.changed), again.keys)

    def withdraw(self, base: ReadTransaction, numbers: Collection[int]) -> Rebuilt:
        """Take ops out that will never be committed (spilled); the others are tried again without them."""
        return self._rebuild(base, [pending for pending in self._queue if pending.numbered.number not in numbers])

    def _try(self, base: ReadTransaction, pending: Pending, *, rivals: bool = True) -> Verdict:
        """Apply the op on base and layer; what it did goes into the layer if it succeeds."""
        view = self.view(base)
        scratch = ScratchTransaction(view)
        verdict = apply_op(scratch, pending.numbered, pending.context, rivals=rivals)
        keys = scratch.reads.union(scratch.writes)
        pending.more_bytes = pending.more_inodes = 0
        if USAGE_KEY in keys:
            before, after = Rows(view).usage(), Rows(scratch).usage()
            pending.more_bytes, pending.more_inodes = after.bytes - before.bytes, after.inodes - before.inodes
            volume = Rows(view).volume()
            if volume is None or not (volume.quota_bytes or volume.quota_inodes):
                keys.discard(USAGE_KEY)
        pending.keys, pending.ranges, pending.writes = frozenset(keys), scratch.ranges, scratch.writes
        for key, value in scratch.writes.items():
            self.layer.set(key, value, pending.serial)
        self._more_bytes += pending.more_bytes
        self._more_inodes += pending.more_inodes
        return verdict

    def _surprises(self, base: ReadTransaction, keys: frozenset[bytes], leaving: Sequence[Pending]) -> frozenset[bytes]:
        """Rows of base that are not what the ops that stay were tried on: those that the record touched, or that the
        leaving ops were expected to write, but for those that came out as expected."""
        expected: dict[bytes, bytes | None] = {}
        for pending in leaving:
            expected.update(pending.writes)
        row = session_key(self._queue[0].context.sid)
        surprises = {key for key in keys if key not in expected}
        surprises.update(key for key, value in expected.items() if base.get(key) != value)
        if row in surprises:
            wanted = expected.get(row)
            before = self._session if row not in expected else None if wanted is None else _decode_session(wanted)
            if _without_sequence(Rows(base).session(self._queue[0].context.sid)) == _without_sequence(before):
                surprises.remove(row)
        if VOLUME_KEY in surprises and _without_numbers(Rows(base).volume()) == _without_numbers(self._volume):
            surprises.remove(VOLUME_KEY)
        return frozenset(surprises)

    def _remember(self, base: ReadTransaction, sid: int) -> None:
        rows = Rows(base)
        self._session, self._volume = rows.session(sid), rows.volume()

    def _drop(self, leaving: Sequence[Pending], staying: list[Pending]) -> None:
        """The leaving ops, which are the oldest: their rows stand in base now."""
        if leaving:
            newest = leaving[-1].serial
            for pending in leaving:
                self._more_bytes -= pending.more_bytes
                self._more_inodes -= pending.more_inodes
            if staying:
                written = {key for pending in leaving for key in pending.writes}
                self.layer.remove([key for key in written if (self.layer.rows.get(key) or (None, 0))[1] <= newest])
            else:
                self.layer = Layer()
            self._stay(staying)

    def _stay(self, staying: list[Pending]) -> None:
        self._queue = staying
        self._creates = {
            pending.numbered.op.ino: pending for pending in staying if isinstance(pending.numbered.op, ops.Create)
        }

    def _carry_counters(self, base: ReadTransaction) -> None:
        """Put the two counting rows, where the layer has them, on top of base as it is now."""
        if not self._queue:
            return
        sid = self._queue[0].context.sid
        rows, key = Rows(base), session_key(sid)
        self._remember(base, sid)
        own = self.layer.rows.get(key)
        if own is not None and own[0] is not None and self._session is not None:
            blocks = _decode_session(own[0]).blocks
            self.layer.set(key, encode_row(replace(self._session, blocks=blocks)), own[1])
        counted = self.layer.rows.get(USAGE_KEY)
        if counted is not None:
            usage = rows.usage()
            total = Usage(usage.bytes + self._more_bytes, usage.inodes + self._more_inodes)
            self.layer.set(USAGE_KEY, encode_row(total), counted[1])

    def _rebuild(self, base: ReadTransaction, staying: list[Pending]) -> Rebuilt:
        """Try all of `staying` again, in order, on base alone."""
        before = self.layer.values()
        self.layer = Layer()
        self._stay(staying)
        self._more_bytes = self._more_inodes = 0
        changed = []
        for pending in staying:
            verdict = self._try(base, pending)
            if verdict != pending.verdict:
                changed.append(Changed(pending.numbered, pending.verdict, verdict, queued=True))
                pending.verdict = verdict
        if staying:
            self._remember(base, staying[0].context.sid)
        view = self.view(base)
        # What has left the layer because base has it now looks the same as before.
        keys = {key for key, value in before.items() if view.get(key) != value}
        keys.update(key for key in self.layer.rows if key not in before)
        return Rebuilt(tuple(changed), frozenset(keys))


def _concerns(pending: Pending, surprises: frozenset[bytes], ordered: Sequence[bytes]) -> bool:
    """Whether the op read, walked over or wrote one of these rows. `ordered`: the same, sorted."""
    if not surprises.isdisjoint(pending.keys):
        return True
    for seen in pending.ranges:
        position = bisect_left(ordered, seen.first)
        if position < len(ordered) and ordered[position] < seen.end:
            return True
    return False


def _without_sequence(row: SessionRow | None) -> SessionRow | None:
    """The session's row as far as acknowledged ops look at it."""
    return None if row is None else replace(row, last_op=0, last_seq=0, challenge=0)


def _without_numbers(row: Volume | None) -> Volume | None:
    """The volume's row as far as acknowledged ops look at it."""
    return None if row is None else replace(row, next_ino=0)
