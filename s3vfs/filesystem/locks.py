"""Locks: flock(2) and the record locks of fcntl(2), exact between all mounts, since the journal grants them.

A lock call returns when the record that grants it, and with it everything before, has been applied here. What is let go
of, by unlock, close or exit, is given back with or after the bytes that were written under it (DESIGN 6), by jobs of
the keeper, which outlive their caller. What the kernel has cached of the inode is the caller's business (fuse).
"""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import NamedTuple

import trio

from s3vfs.errors import PosixError, S3vfsError, StoreError
from s3vfs.filesystem.contracts import Conflict, FileContents, FilesystemSession, LockKind, Readers
from s3vfs.filesystem.files import Files
from s3vfs.filesystem.lock_keeper import Job, LockKeeper, Run, whole
from s3vfs.filesystem.lock_owners import Owner, Owners
from s3vfs.namespace.features import LOCKS
from s3vfs.namespace.limits import INTEGER_MAX
from s3vfs.namespace.locks import EXCLUSIVE, FCNTL, blockers
from s3vfs.namespace.ops import AnyOp, Cancel, Feature, Lock, Unlock
from s3vfs.namespace.rows import HeldLock, Rows, WaitRow
from s3vfs.session.batches import Group

# No owner of this session: numbers of incarnations begin at 2^31.
_NOBODY = 1
# How long a call that was cancelled waits for its request to be withdrawn; the keeper goes on after that.
_UNDO_S = 3.0
# A lock is granted on the strength of a look at the journal that was sent less than this ago: half of what a silent
# holder has before it is evicted.
LIVELY_S = 5.0


class _Request(NamedTuple):
    """A LOCK on its way. `before`: what its owner held of these bytes."""

    ino: int
    owner: Owner
    op: Lock
    before: Sequence[HeldLock]
    group: Group


class Locks(Files):
    """lock, test_lock, and what closes mean for locks. A read-only mount has no session, and so no locks (ENOLCK).
    `readers`: who answers the end of handles that only read, where there is one."""

    readers: Readers | None = None

    def __init__(self, session: FilesystemSession, contents: FileContents, *, read_only: bool = False) -> None:
        super().__init__(session, contents, read_only=read_only)
        self._owners = Owners()
        self._lockers: dict[int, set[Owner]] = {}  # by handle: who has asked through it
        self._keeper = LockKeeper(session, contents, self._owners.any_held)
        self._lock_counts: Counter[str] = Counter()

    async def keep_orphans(self) -> None:
        """Also what is to be done about locks in the background."""
        if self._read_only:
            return
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keeper.run)
            await super().keep_orphans()

    # -- calls ----------------------------------------------------------------------------------------------------

    async def lock(
        self, handle: int, owner: int, start: int, end: int, kind: LockKind, *, flock: bool, wait: bool, pid: int
    ) -> None:
        """Get or release a lock on bytes `start` to `end`, inclusive (`TO_THE_END`: however far the file grows).
        `flock`: of the whole file, with the semantics of flock(2); `owner`: any 64 bits of the kernel's.

        EAGAIN: held by another, and `wait` is not set; a flock that was to be converted is lost then, as on Linux.
        With `wait` it returns when it is granted; cancelling withdraws the request. EDEADLK: see namespace.locks.
        ENOLCK: too many, or the mount is read-only. UNLOCK publishes; it raises what prevents that.
        """
        ino = self._file(handle).ino
        if self.readers is not None:  # any close of the file gives up what its process has locked
            self.readers.no_readers(ino)
        if self._read_only:
            raise PosixError(errno.ENOLCK)
        if flock:
            start, end = 0, INTEGER_MAX
        if not 0 <= start <= end <= INTEGER_MAX:
            raise PosixError(errno.EINVAL)
        if kind is LockKind.UNLOCK:
            known = self._owners.find(owner, flock)
            if known is not None:
                await self._give_back(known, ino, start, end)
            return
        async with self._asking(handle, ino, owner, flock, pid) as asking:
            await self._session.clear(ino)  # what others were told of it before is seen under the lock
            await self._keeper.drained((asking.number, ino))
            number_kind = (0 if flock else FCNTL) | (EXCLUSIVE if kind is LockKind.EXCLUSIVE else 0)
            await self._acquire(asking, ino, Lock(ino, asking.number, start, end, number_kind, wait))
            await self._contents.catch_up(ino)

    def given_out(self, handle: int) -> None:
        """The handle goes to the kernel, whose requests about its end may be answered without a call."""
        file = self._file(handle)
        if self.readers is not None and not file.writable and not self._lockers:
            self.readers.reader(file.ino, handle)

    async def test_lock(self, handle: int, owner: int, start: int, end: int, kind: LockKind) -> Conflict | None:
        """F_GETLK: the first lock in the way of such a request, None where there is none. Always on a fresh view."""
        ino = self._file(handle).ino
        if not 0 <= start <= end <= INTEGER_MAX or kind is LockKind.UNLOCK:
            raise PosixError(errno.EINVAL)
        await self._session.fresh(0)
        known = self._owners.find(owner, False)
        number = _NOBODY if known is None else known.number
        claim = WaitRow(
            self._session.sid, number, start, end, FCNTL | (EXCLUSIVE if kind is LockKind.EXCLUSIVE else 0), 0
        )
        with self._session.view() as txn:
            held = min(blockers(Rows(txn), ino, claim), key=lambda lock: lock.start, default=None)
        if held is None:
            return None
        holder = self._owners.numbered(held.owner) if held.sid == self._session.sid else None
        return Conflict(held.start, held.end, bool(held.kind & EXCLUSIVE), 0 if holder is None else holder.pid)

    async def flush(self, handle: int, owner: int | None = None) -> None:
        """close(2) of one descriptor. What was written is published; the fcntl locks of `owner` on the file go, in any
        case and after it."""
        ino = self._file(handle).ino
        known = None if owner is None else self._owners.find(owner, False)
        try:
            await super().flush(handle)
        finally:
            if known is not None:
                for other, lockers in self._lockers.items():
                    if self._file(other).ino == ino:
                        lockers.discard(known)
                await self._quietly_give_back(known, ino)

    def flush_at_once(self, handle: int, owner: int | None = None) -> bool:
        if owner is not None and self._owners.find(owner, False) is not None:
            return False
        return super().flush_at_once(handle)

    def release_at_once(self, handle: int, owner: int | None = None, *, flock: bool = False) -> bool:
        if flock or handle in self._lockers:
            return False
        return super().release_at_once(handle)

    async def release(self, handle: int, owner: int | None = None, *, flock: bool = False) -> None:
        """The last descriptor of the handle is gone, and with it the flock that was taken through it, and record locks
        that belong to the open file itself (F_OFD_SETLK): for those nobody sends a flush with their owner."""
        ino = self._file(handle).ino
        lockers = self._lockers.pop(handle, set())
        known = self._owners.find(owner, True) if owner is not None and flock else None
        try:
            for locker in lockers | ({known} if known is not None else set()):
                await self._quietly_give_back(locker, ino)
        finally:
            await super().release(handle)

    def lock_status(self) -> dict[str, int]:
        """Figures for status: `held` and `waiting` now, the rest since the mount."""
        with self._session.view() as txn:
            held = sum(1 for _, lock in Rows(txn).all_locks() if lock.sid == self._session.sid)
        names = ("granted", "waited", "busy", "deadlocks", "cancelled")
        return {
            "held": held,
            "waiting": self._keeper.waiters,
            **{name: self._lock_counts[name] for name in names},
            "challenges": self._keeper.challenges,
            "evictions": self._keeper.evictions,
        }

    # -- getting --------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _asking(self, handle: int, ino: int, name: int, flock: bool, pid: int) -> AsyncIterator[Owner]:
        owner = self._owners.take(name, flock, pid, self._session.incarnation)
        owner.calls[ino] += 1
        self._lockers.setdefault(handle, set()).add(owner)
        try:
            yield owner
        finally:
            owner.calls[ino] -= 1
            self._settle(owner, ino)

    def _settle(self, owner: Owner, ino: int) -> None:
        """Note whether the owner still has to do with the inode."""
        if owner.calls[ino] <= 0:
            del owner.calls[ino]
            with suppress(S3vfsError):  # while a checkpoint is being loaded nobody knows; the next call will
                if not self._held(ino, owner):
                    owner.inos.discard(ino)
        self._owners.forget(owner)
        self._keeper.look()

    def _held(self, ino: int, owner: Owner) -> list[HeldLock]:
        with self._session.view() as txn:
            return Rows(txn).locks_of(ino, self._session.sid, owner.number)

    async def _acquire(self, owner: Owner, ino: int, op: Lock) -> None:
        await whole(self._session)
        if not op.wait:
            await self._refuse_if_held(owner, op)
        request = self._send(owner, ino, op)
        try:
            committed = await self._session.wait(request.group)
            verdict = committed.verdicts[-1]
            if verdict.errno == errno.EAGAIN:
                await self._busy(owner, ino)
            if verdict.errno == errno.EDEADLK:
                self._lock_counts["deadlocks"] += 1
            if verdict.errno:
                raise PosixError(errno.ESTALE if verdict.errno == errno.ENOENT else verdict.errno)
            if verdict.value:
                self._lock_counts["waited"] += 1
                await self._wait_for(ino, committed.seq, verdict.value - 1)
            await self._still_in_office()
        except PosixError:
            raise
        except BaseException:  # cancelled, or the bucket is silent: it must not be granted to nobody
            self._lock_counts["cancelled"] += 1
            undone = self._begin(owner, ino, partial(self._undo, request))
            with trio.move_on_after(_UNDO_S, shield=True):  # who is told EINTR shall not hold it a moment later
                await undone.answered.wait()
            raise
        self._lock_counts["granted"] += 1

    def _send(self, owner: Owner, ino: int, op: Lock) -> _Request:
        with self._session.view() as txn:
            rows = Rows(txn)
            volume = rows.volume()
            before = [held for held in rows.locks_of(ino, self._session.sid, owner.number) if _overlap(held, op)]
        ops: list[AnyOp] = [op]
        if volume is not None and not volume.features >> LOCKS & 1:
            ops.insert(0, Feature(LOCKS))
        owner.inos.add(ino)
        return _Request(ino, owner, op, before, self._session.enqueue(ops))

    async def _refuse_if_held(self, owner: Owner, op: Lock) -> None:
        """Spare the journal a record that only says no. A lock of this session is certain: nobody else gives it back.
        One of another is certain after a look."""
        refusal = self._session.refusal()
        if refusal is not None:
            raise refusal
        held = self._in_the_way(owner, op)
        if held is not None and held.sid != self._session.sid:
            await self._session.fresh(0)
            held = self._in_the_way(owner, op)
        if held is not None:
            await self._busy(owner, op.ino)

    def _in_the_way(self, owner: Owner, op: Lock) -> HeldLock | None:
        claim = WaitRow(self._session.sid, owner.number, op.start, op.end, op.kind, 0)
        with self._session.view() as txn:
            found = list(blockers(Rows(txn), op.ino, claim))
        own = [held for held in found if held.sid == self._session.sid]
        return next(iter(own or found), None)

    async def _busy(self, owner: Owner, ino: int) -> None:
        """Raises EAGAIN. A flock that could not be converted is lost (flock(2))."""
        self._lock_counts["busy"] += 1
        await whole(self._session)
        if owner.flock and self._held(ino, owner):
            await self._give_back(owner, ino, 0, INTEGER_MAX)
        raise PosixError(errno.EAGAIN)

    async def _wait_for(self, ino: int, seq: int, index: int) -> None:
        waiter = self._keeper.waiting(ino, seq, index)
        try:
            await waiter.over.wait()
        finally:
            self._keeper.left(waiter)
        await self._still_in_office()
        with self._session.view() as txn:
            if Rows(txn).inode(ino) is None:
                raise PosixError(errno.ESTALE)

    async def _still_in_office(self) -> None:
        """Whoever was away since it asked may have been evicted, and the lock be another's by now."""
        await self._session.fresh(LIVELY_S)
        refusal = self._session.refusal()
        if refusal is not None:
            raise refusal

    # -- giving back ----------------------------------------------------------------------------------------------

    def _begin(self, owner: Owner, ino: int, run: Run) -> Job:
        """Hand a job to the keeper; until it is done the owner has to do with the inode."""

        async def run_and_settle() -> None:
            failure = None
            try:
                await run()
            except StoreError:
                raise  # it will be tried again
            except S3vfsError as error:
                failure = error
            owner.calls[ino] -= 1
            self._settle(owner, ino)
            if failure is not None:
                raise failure

        owner.calls[ino] += 1
        return self._keeper.begin((owner.number, ino), run_and_settle)

    async def _give_back(self, owner: Owner, ino: int, start: int, end: int) -> None:
        """Raises what kept the bytes under the lock from being published; see `LockKeeper.give_back`."""
        if ino in owner.inos:
            run = partial(self._keeper.give_back, ino, owner.number, start, end)
            await self._keeper.tried(self._begin(owner, ino, run))

    async def _quietly_give_back(self, owner: Owner, ino: int) -> None:
        """At a close, which reports by itself what was not published (R10)."""
        with suppress(S3vfsError):
            await self._give_back(owner, ino, 0, INTEGER_MAX)

    async def _undo(self, request: _Request) -> None:
        """A job: nobody wants the lock any more. If it waits it is withdrawn; if it was granted meanwhile, the owner
        gets back what it had before."""
        await request.group.done.wait()
        op, number = request.op, request.owner.number
        if request.group.error is not None and self._session.refusal() is not None:
            return  # never in effect, or gone with the session
        place = self._place(request)
        before = request.before
        if place is not None:
            (verdict,) = await self._session.commit([Cancel(op.ino, *place)])
            if not verdict.errno:
                return
        elif request.group.verdicts and request.group.verdicts[-1].errno:
            return  # refused
        if op.wait and not op.kind & FCNTL:
            before = []  # given up when it began to wait, or when it was converted
        ops: list[AnyOp] = [
            Lock(op.ino, number, max(held.start, op.start), min(held.end, op.end), held.kind, False) for held in before
        ]
        at = op.start
        for held in before:  # in order, apart
            if held.start > at:
                ops.append(Unlock(op.ino, number, at, held.start - 1, number & FCNTL))
            at = held.end + 1
        if at <= op.end:
            ops.append(Unlock(op.ino, number, at, op.end, number & FCNTL))
        await self._session.commit(ops)

    def _place(self, request: _Request) -> tuple[int, int] | None:
        """Seq and index of the request in the queue, None where it is not there."""
        op = request.op
        with self._session.view() as txn:
            for waiting in Rows(txn).waits(op.ino):
                row = waiting.row
                ours = (row.sid, row.owner) == (self._session.sid, op.owner)
                if ours and (row.start, row.end, row.kind) == (op.start, op.end, op.kind):
                    return waiting.seq, waiting.index
        return None


def _overlap(one: HeldLock, other: Lock) -> bool:
    return one.start <= other.end and other.start <= one.end
