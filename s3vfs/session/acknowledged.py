"""Work that was acknowledged ahead of its record: the overlay, the log on disk, and what becomes of it (R7, R8, R12).

An op is tried on base plus everything acknowledged before it, noted in the log, queued, and only then acknowledged.
When its record comes out otherwise, because the lease was revoked or the session ended, it is *lost*: kept in words in
the spill directory, and reported by every following fsync and close of the inodes that it names (R10). After a restart
the queue goes on under the leases that are still there.
"""

from __future__ import annotations

import errno
import logging
import stat
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from types import TracebackType

import msgspec
import trio

from s3vfs.environment import Environment
from s3vfs.errors import StoreUnreachable
from s3vfs.namespace.changes import Changes, changes_of
from s3vfs.namespace.leases import leases_touched
from s3vfs.namespace.ops import (
    AnyOp,
    Create,
    Link,
    NumberedOp,
    Removexattr,
    Rename,
    Rmdir,
    Setattr,
    Unlink,
    encode_op,
    inodes_of,
)
from s3vfs.namespace.rows import LeaseId, Rows
from s3vfs.namespace.transaction import ReadTransaction
from s3vfs.namespace.verdict import OK, Context, Verdict
from s3vfs.replica.layer import Layer, LayeredView
from s3vfs.replica.overlay import Overlay
from s3vfs.replica.protocol import Applied
from s3vfs.session import front_log
from s3vfs.session.base import Base
from s3vfs.session.batches import Group
from s3vfs.session.leases import Leases
from s3vfs.session.options import WINDOW_OPS
from s3vfs.session.pipeline import Pipeline
from s3vfs.session.queue_log import LeftBehind, QueueLog, carried, left_behind
from s3vfs.session.spill import Spill

_log = logging.getLogger(__name__)

# Where a quota leaves no more than this, ops wait for their record, which says whether they fit.
_QUOTA_MARGIN_BYTES = 256 << 20
_QUOTA_MARGIN_INODES = 20_000
# Inodes whose loss is reported; and changes in one spill folder.
_LOST_INODES = 100_000
_CHANGES_IN_FOLDER = 10_000
# So many ops may be answered ahead of those that are told of.
_OPS_AHEAD = 1_000
_TAKEN = "it was refused: others had the lease by then"


class _Layered:
    """The context of one view. A class, since a generator costs more than what is read through it."""

    __slots__ = ("_base", "_layer")

    def __init__(self, base: AbstractContextManager[ReadTransaction], layer: Layer) -> None:
        self._base = base
        self._layer = layer

    def __enter__(self) -> ReadTransaction:
        return LayeredView(self._base.__enter__(), self._layer)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._base.__exit__(kind, error, traceback)


class Acknowledged:
    """The acknowledged work of one session. `folder`: the log's."""

    def __init__(
        self,
        environment: Environment,
        base: Base,
        pipeline: Pipeline,
        leases: Leases,
        folder: Path,
        spill: Spill,
    ) -> None:
        self._environment = environment
        self._base = base
        self._pipeline = pipeline
        self._leases = leases
        self.folder = folder
        self._spill = spill
        self._overlay = Overlay()
        self._queue_log = QueueLog(folder, base.sid, base.incarnation)
        self._lost: list[tuple[NumberedOp, str]] = []
        self._lost_work = trio.Event()
        self._settled_parts: list[int] = []
        self._keeping = trio.Lock()
        self._lost_inos: dict[int, str] = {}
        self._closes: dict[int, LeaseId] = {}
        self.last_ino = 0  # the highest number that a former daemon gave to a new inode; also where that was lost
        pipeline.cut = self._queue_log.cut
        pipeline.settled = self._part_settled
        base.follow = self._follow
        base.follow_reload = self._follow_reload
        base.state_listeners.append(self._watch)

    def __len__(self) -> int:
        return len(self._overlay)

    def seen_through(self, base: AbstractContextManager[ReadTransaction]) -> AbstractContextManager[ReadTransaction]:
        """A view of base with everything acknowledged above it (R12)."""
        layer = self._overlay.layer
        return _Layered(base, layer) if layer.rows else base

    # -- acknowledging ------------------------------------------------------------------------------------------------

    def acknowledge(self, op: AnyOp, *, ctime_follows: bool = False) -> Verdict | None:
        """Take the op at once, if leases in force cover all that it touches; its verdict is then OK, or a refusal that
        is final. None: it has to wait for its record. `ctime_follows`: an op that comes along with the same record, or
        later, will set the inode's ctime. No checkpoint."""
        if not self._leases.held or not self._pipeline.open or self._base.loading:
            return None
        pipeline = self._pipeline
        if len(self._overlay) >= WINDOW_OPS or (pipeline.awaiting and pipeline.awaits(inodes_of(op))):
            return None
        with self._base.read() as txn:
            if ctime_follows and isinstance(op, Setattr) and self._fold(txn, op):
                self._tell(op)
                return OK
            rows = Rows(self._overlay.view(txn))
            touched = leases_touched(rows, op)
            if not touched or not self._leases.relied_on(touched) or _near_quota(rows):
                return None
            lease = min(lease for lease in touched if lease is not None)
            self._tell(op)
            # All that it touches is that lease's: reading its row is enough to hear when that ends.
            return self._take(txn, NumberedOp(self._pipeline.next_staged(), lease, op), rivals=len(touched) > 1)

    def _tell(self, op: AnyOp) -> None:
        """Before an op is taken: who answers by itself must not do what depends on it."""
        parents: tuple[int, ...] = ()
        if isinstance(op, Create | Link):
            self._leases.reliant.named(op.parent, op.name)
            parents = (op.parent,)
        elif isinstance(op, Rename):  # an exchange gives names to both
            self._leases.reliant.named(op.parent, op.name)
            self._leases.reliant.named(op.new_parent, op.new_name)
            parents = (op.parent, op.new_parent)
        elif isinstance(op, Unlink | Rmdir):
            self._leases.reliant.named(op.parent, b"")
            parents = (op.parent,)
        for ino in inodes_of(op):
            if ino not in parents:
                self._leases.reliant.estrange(ino)

    def answered(self, op: AnyOp, lease: LeaseId, *, ctime_follows: bool = False) -> None:
        """As `acknowledge`, for an op that was answered a moment ago, when it could rely on that lease. Where it cannot
        go on any more it is lost, and reported."""
        refusal = self._base.refusal()
        if refusal is not None or not self._pipeline.open:
            self._lose(NumberedOp(0, lease, op), str(refusal or "the session was closed"))
            return
        self._leases.use(lease)
        with self._base.read() as txn:
            if ctime_follows and isinstance(op, Setattr) and self._fold(txn, op):
                return
            numbered = NumberedOp(self._pipeline.next_staged(), lease, op)
            verdict = self._overlay.acknowledge(txn, numbered, self._context(), rivals=False)
        if verdict.errno:
            self._lose(numbered, f"{_TAKEN} (errno {verdict.errno})")
            return
        wire = encode_op(numbered)
        try:
            self._queue_log.op(wire)
        except OSError as error:
            _log.error(
                "the local disk does not take the queue: a kill now would lose op %d: %s", numbered.number, error
            )
        self._pipeline.stage(numbered, wire, partial(self._fate, numbered))

    def _fold(self, txn: ReadTransaction, op: Setattr) -> bool:
        """Whether the CREATE of the inode, which has not left yet, says from now on what the op says."""
        first = self._pipeline.first_open
        found = None if first is None else self._overlay.foldable(txn, op, first)
        if found is None or not self._leases.relied_on([found.numbered.lease]):
            return False
        wire = encode_op(found.numbered)
        try:
            self._queue_log.op(wire)
        except OSError:
            return False  # then it is tried by itself
        self._overlay.fold(found)
        self._pipeline.restage(found.numbered, wire, partial(self._fate, found.numbered))
        return True

    def _take(self, txn: ReadTransaction, numbered: NumberedOp, *, rivals: bool = True) -> Verdict | None:
        verdict = self._overlay.acknowledge(txn, numbered, self._context(), rivals=rivals)
        if verdict.errno:
            return verdict
        wire = encode_op(numbered)
        try:
            self._queue_log.op(wire)
        except OSError as error:
            _log.warning("the local disk does not take the queue, so changes wait for their records: %s", error)
            self._overlay.withdraw(txn, [numbered.number])
            return None
        self._pipeline.stage(numbered, wire, partial(self._fate, numbered))
        return verdict

    def _context(self) -> Context:
        return Context(self._base.applied_seq + 1, 0, self._base.sid, self._base.incarnation)

    def relied_on_until_ns(self) -> int:
        """How long leases may be relied on without asking, by CLOCK_BOOTTIME, if nothing more is heard; 0: not now."""
        if not self._leases.held or not self._pipeline.open or self._base.loading:
            return 0
        if len(self._overlay) >= WINDOW_OPS - _OPS_AHEAD:
            return 0
        with self._base.read() as txn:
            if _near_quota(Rows(self._overlay.view(txn))):
                return 0
        return self._leases.strong_until_ns()

    def lease_of(self, directory: int) -> LeaseId | None:
        """The lease under which files may be made in a directory without asking: nothing that names it waits for its
        record, and it hands on neither a group nor an ACL."""
        if not self._leases.held or self._pipeline.awaits([directory]):
            return None
        with self._base.read() as txn:
            rows = Rows(self._overlay.view(txn))
            inode = rows.inode(directory)
            if inode is None or inode.xattrs or inode.mode & stat.S_ISGID:
                return None
            return self._leases.covering(rows, directory)

    def close_of(self, ino: int) -> LeaseId | None:
        """The lease under which a close of the file may be acknowledged now; noted in the log. None: it waits."""
        if not self._leases.held or not self._pipeline.open or self._base.loading or self._pipeline.awaits([ino]):
            return None
        with self._base.read() as txn:
            rows = Rows(self._overlay.view(txn))
            lease = self._overlay.created_under(ino)
            if lease is None or not self._leases.relied_on([lease]):
                lease = self._leases.covering(rows, ino)
            if lease is None or _near_quota(rows):
                return None
        return lease if self.note_close(ino, lease) else None

    def note_close(self, ino: int, lease: LeaseId) -> bool:
        """Whether the log took the close. It is due with the next batch."""
        try:
            self._queue_log.close_of(ino, lease)
        except OSError as error:
            _log.warning("the local disk does not take the queue, so closes wait for their records: %s", error)
            return False
        self._pipeline.wake()
        return True

    # -- records ------------------------------------------------------------------------------------------------------

    def _follow(self, applied: Applied, own: bool) -> Changes | None:
        """What looks different because acknowledged ops had to be tried again, besides what the record says."""
        self._leases.hear(applied.changes)
        if not len(self._overlay):
            return None
        verdicts = dict(zip(self._pipeline.in_flight, applied.verdicts, strict=True)) if own else None
        with self._base.read() as txn:
            rebuilt = self._overlay.record_applied(txn, applied.keys, verdicts)
        for changed in rebuilt.changed:
            refused = changed.verdict.errno and not _is_done(changed.numbered.op, changed.verdict)
            if changed.queued and refused:  # its record will say so, too: nobody may rely on it till then
                self._note_lost(changed.numbered, _TAKEN)
        return changes_of(rebuilt.keys) if rebuilt.keys else None

    def _follow_reload(self) -> None:
        self._leases.reloaded()
        row = self._base.row
        with self._base.read() as txn:
            gone = [
                pending.numbered.number
                for pending in self._overlay.pending
                if row is None or self._base.fenced or pending.numbered.number <= row.last_op
            ]
            self._overlay.withdraw(txn, gone)

    def _watch(self) -> None:
        """Out of office: nothing that was acknowledged can be committed any more; the pipeline tells op by op."""
        if self._base.refusal() is not None and len(self._overlay):
            with self._base.read() as txn:
                self._overlay.withdraw(txn, [pending.numbered.number for pending in self._overlay.pending])
            for hear in tuple(self._base.reload_listeners):
                hear()

    def _fate(self, numbered: NumberedOp, group: Group) -> None:
        if isinstance(group.error, StoreUnreachable):
            _log.warning("the verdict of op %d cannot be known; it is in the journal", numbered.number)
        elif group.error is not None:
            self._lose(numbered, str(group.error))
        elif group.verdicts[0].errno and not _is_done(numbered.op, group.verdicts[0]):
            self._lose(numbered, f"{_TAKEN} (errno {group.verdicts[0].errno})")

    # -- what is lost -------------------------------------------------------------------------------------------------

    def lost(self, ino: int) -> str | None:
        """Why an acknowledged change that names this inode was lost, if so (R10)."""
        return self._lost_inos.get(ino)

    def _lose(self, numbered: NumberedOp, reason: str) -> None:
        self._lost.append((numbered, reason))
        self._note_lost(numbered, reason)
        self._lost_work.set()

    def _note_lost(self, numbered: NumberedOp, reason: str) -> None:
        for ino in inodes_of(numbered.op):
            if len(self._lost_inos) < _LOST_INODES:
                self._lost_inos[ino] = reason

    def _part_settled(self, part: int) -> None:
        self._settled_parts.append(part)
        if self._lost:
            self._lost_work.set()  # removed once what was lost is in the spill directory
        else:
            self._remove_parts()

    def _remove_parts(self) -> None:
        parts, self._settled_parts = self._settled_parts, []
        for part in parts:
            try:
                self._queue_log.settled(part)
            except OSError as error:
                _log.warning("a part of the queue's log cannot be removed: %s", error)

    async def run(self) -> None:
        """Write down what is lost, until cancelled."""
        while True:
            await self._lost_work.wait()
            self._lost_work = trio.Event()
            await trio.sleep(0.1)  # they come in crowds
            await self.keep_lost()

    async def keep_lost(self) -> None:
        """Everything that is lost so far is in the spill directory."""
        async with self._keeping:  # who ends the session waits for what is being written down
            await self._keep_lost()

    async def _keep_lost(self) -> None:
        while self._lost:
            lost = self._lost[:_CHANGES_IN_FOLDER]
            keep = partial(
                self._spill.keep_changes,
                changes=[described(numbered.op) for numbered, _ in lost],
                reason=lost[0][1],
                wall_ns=self._environment.wall_ns(),
            )
            try:
                await self._environment.run(keep)
            except OSError as error:
                _log.error("%d lost changes cannot be written down: %s", len(lost), error)
                for numbered, reason in lost:
                    _log.error("lost: %s: %s", described(numbered.op), reason)
            del self._lost[: len(lost)]
        if self._settled_parts and self._lost_inos:  # the parts would tell it after a kill, until the bytes are spilled
            try:
                self._queue_log.carry(self._closes, self._lost_inos)
            except OSError as error:
                _log.warning("a restart will not know of lost changes: %s", error)
        self._remove_parts()

    # -- after a restart ----------------------------------------------------------------------------------------------

    async def take_up(self, former: Sequence[tuple[int, int]]) -> None:
        """Go on with what an earlier daemon had acknowledged. `former`: see `Identity.former`. Before the pipeline
        runs."""
        found = await self._environment.run(left_behind, self.folder)
        before = await self._environment.run(carried, self.folder)
        self._closes.update(before.closes)
        self._lost_inos.update(before.lost)
        self.last_ino = max(before.lost, default=0)
        landed = dict(former)
        seen: set[tuple[LeaseId | None, AnyOp]] = set()  # a part may have been copied when its reader was killed
        for _, part in found:
            if part.sid:
                self._take_up_part(part, landed.get(part.incarnation, 0), seen)
        await self._take_up_answers()
        self._leases.withheld = bool(self._closes)
        await self.keep_lost()
        self._queue_log.carry(self._closes, self._lost_inos)
        for path, _ in found:
            await self._environment.run(path.unlink)
        await self._environment.run(front_log.remove, self.folder)

    def ended(self) -> None:
        """The session has ended in order. Raises OSError."""
        if self._lost_inos:
            self._queue_log.carry({}, {})

    def taken_up(self) -> None:
        """The data room has seen to everything that `closed_under` and `lost` say of a former daemon."""
        self._leases.withheld = False
        self._closes.clear()
        self._queue_log.carry({}, {})

    def _take_up_part(self, part: LeftBehind, last_op: int, seen: set[tuple[LeaseId | None, AnyOp]]) -> None:
        ours = part.sid == self._base.sid
        self._closes.update(part.closes)
        with self._base.read() as txn:
            for left in part.ops:
                if (left.lease, left.op) in seen:
                    continue
                seen.add((left.lease, left.op))
                if ours and isinstance(left.op, Create):
                    self.last_ino = max(self.last_ino, left.op.ino)
                if not ours:
                    self._lose(left, "the session that acknowledged it was ended")
                elif left.number > last_op:
                    numbered = msgspec.structs.replace(left, number=self._pipeline.next_staged())
                    verdict = self._take(txn, numbered)
                    if verdict is None or verdict.errno:
                        self._lose(left, "it cannot go on after the restart: others had the lease by then")

    async def _take_up_answers(self) -> None:
        """What the front had answered and nobody has put into the queue, or not all of it."""
        sid, answers = await self._environment.run(front_log.answered, self.folder, self._environment.boot_id)
        for answer in answers:
            numbered = NumberedOp(0, answer.lease, answer.op) if answer.op is not None else None
            if numbered is None:
                self._closes[answer.ino] = answer.lease
            elif sid != self._base.sid:
                self._lose(numbered, "the session that acknowledged it was ended")
            else:
                self._take_up_answer(numbered)

    def _take_up_answer(self, numbered: NumberedOp) -> None:
        with self._base.read() as txn:
            if isinstance(numbered.op, Create):
                self.last_ino = max(self.last_ino, numbered.op.ino)
                if Rows(self._overlay.view(txn)).inode(numbered.op.ino) is not None:
                    return  # the queue has it
            verdict = self._take(txn, msgspec.structs.replace(numbered, number=self._pipeline.next_staged()))
        if verdict is None or verdict.errno:
            self._lose(numbered, "it cannot go on after the restart: others had the lease by then")

    def closed_under(self, ino: int) -> tuple[LeaseId | None, bool]:
        """The lease under which an earlier daemon acknowledged the file's last close, if so; and whether it still is
        this session's."""
        lease = self._closes.get(ino)
        if lease is None:
            return None, False
        with self._base.read() as txn:
            row = Rows(txn).grant(lease)
        return lease, row is not None and row.sid == self._base.sid

    def close(self) -> None:
        self._queue_log.close()


def _is_done(op: AnyOp, verdict: Verdict) -> bool:
    """Whether the refusal says that what the op was to do has been done: bytes that were on their way when it was
    acknowledged have taken the capabilities away that it was to remove."""
    return isinstance(op, Removexattr) and verdict.errno == errno.ENODATA


def _near_quota(rows: Rows) -> bool:
    volume = rows.volume()
    if volume is None or not (volume.quota_bytes or volume.quota_inodes):
        return False
    usage = rows.usage()
    bytes_left = volume.quota_bytes - usage.bytes if volume.quota_bytes else _QUOTA_MARGIN_BYTES
    inodes_left = volume.quota_inodes - usage.inodes if volume.quota_inodes else _QUOTA_MARGIN_INODES
    return bytes_left < _QUOTA_MARGIN_BYTES or inodes_left < _QUOTA_MARGIN_INODES


def described(op: AnyOp) -> str:
    """An op in words, for a user who looks for what was lost."""
    fields = {name: getattr(op, name) for name in op.__struct_fields__}
    return f"{type(op).__name__.upper()} " + " ".join(f"{name}={value!r}" for name, value in fields.items())
