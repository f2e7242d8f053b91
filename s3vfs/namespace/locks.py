"""LOCK, UNLOCK, CANCEL: who holds which bytes of an inode, who waits, and who is granted what when something is let
go.

POSIX record locks (fcntl) and whole-file locks (flock) stand side by side and never conflict with each other; an
owner's locks never conflict with its own. Held locks are K rows, waiting requests W rows. Whatever lets something go
grants to those who wait in the same step, in the order in which they came: so a waiter has its lock as soon as the
record is in the journal, whether or not its session is looking.

*Order.* A request that need not wait is measured against held locks only, as Linux does it. One that may wait also
stands behind the conflicting requests that came before it, so that readers who come and go never starve a writer. It
passes them where standing behind them could last for ever: where they wait, directly or through others, for its own
owner; and, up to PASSES_MAX times, where they wait for its session (one process may hold one lock through two
descriptors, which the journal cannot see).
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from msgspec.structs import replace

from s3vfs.namespace.limits import INTEGER_MAX, LOCKS_PER_INODE, PASSES_MAX, WAITS_PER_INODE
from s3vfs.namespace.ops import Cancel, Lock, Unlock
from s3vfs.namespace.rows import HeldLock, LockRow, MutableRows, Rows, Waiting, WaitRow, lock_key, wait_key
from s3vfs.namespace.verdict import OK, Context, Verdict

# Bits of `kind`.
FCNTL = 1
EXCLUSIVE = 2
_KINDS = FCNTL | EXCLUSIVE
_INDEX_MAX = 2**32 - 1  # four bytes of a W row's key


class Claim(Protocol):
    """A held lock or a request: whose, and which bytes (`end` inclusive)."""

    @property
    def sid(self) -> int: ...
    @property
    def owner(self) -> int: ...
    @property
    def start(self) -> int: ...
    @property
    def end(self) -> int: ...
    @property
    def kind(self) -> int: ...


def conflict(one: Claim, other: Claim) -> bool:
    """Whether the two cannot be held at once."""
    return (
        not (one.kind ^ other.kind) & FCNTL
        and bool((one.kind | other.kind) & EXCLUSIVE)
        and one.start <= other.end
        and other.start <= one.end
        and (one.owner != other.owner or one.sid != other.sid)
    )


def blockers(rows: Rows, ino: int, claim: Claim) -> Iterator[HeldLock]:
    """Held locks that stand against the claim."""
    return (held for held in rows.locks(ino) if conflict(claim, held))


def lock(rows: MutableRows, op: Lock, context: Context) -> Verdict:
    """Granted: value 0. Waiting: value 1 + the index of the W row, whose seq is the record's; the lock is there once
    that row is gone.

    EAGAIN: held by another, and `wait` is not set. EDEADLK (fcntl): another waits, directly or through others, for
    what this owner holds. ENOENT: no such inode. ENOLCK: too many. EINVAL: a range or kind that there cannot be. A
    waiting flock gives up what its owner holds, as flock(2) does, so that two who convert do not wait for each other.
    """
    if not _possible(op):
        return Verdict(errno.EINVAL)
    if rows.inode(op.ino) is None:
        return Verdict(errno.ENOENT)
    request = WaitRow(context.sid, op.owner, op.start, op.end, op.kind, 0)
    held = list(rows.locks(op.ino))
    blocked = any(conflict(request, other) for other in held)
    if blocked and not op.wait:
        return Verdict(errno.EAGAIN)
    order = _Order(rows)
    waits = list(rows.waits(op.ino)) if op.wait else []
    passed = None if blocked else order.passed(request, waits)
    if passed is not None:
        if len(held) >= LOCKS_PER_INODE:
            return Verdict(errno.ENOLCK)
        _grant(rows, op.ino, request, context.seq, context.index, passed)
        _settle(rows, op.ino)  # a lock turned into a shared one may let others in
        return OK
    if op.kind & FCNTL and order.waits_for(op.ino, request, lambda other: _same_owner(other, request)):
        return Verdict(errno.EDEADLK)
    if len(waits) >= WAITS_PER_INODE:
        return Verdict(errno.ENOLCK)
    if not op.kind & FCNTL:
        _release(rows, op.ino, context.sid, op.owner, op.start, op.end)
    rows.put(wait_key(op.ino, context.seq, context.index), request)
    # What this request waits for may give earlier ones a right to pass, on any inode: see _Order.
    for ino in sorted({waiting.ino for waiting in rows.all_waits()}):
        _settle(rows, ino)
    waiting_still = rows.wait(op.ino, context.seq, context.index) is not None
    return Verdict(0, 1 + context.index if waiting_still else 0)


def unlock(rows: MutableRows, op: Unlock, context: Context) -> Verdict:
    """Let go of the owner's locks on these bytes, whatever their mode; it need not hold any. EINVAL as LOCK. What the
    owner waits for stays as it is."""
    if not _possible(op):
        return Verdict(errno.EINVAL)
    if _release(rows, op.ino, context.sid, op.owner, op.start, op.end):
        _settle(rows, op.ino)
    return OK


def cancel(rows: MutableRows, op: Cancel, context: Context) -> Verdict:
    """Withdraw a request. ENOENT: it waits no longer; EPERM: another session's."""
    row = rows.wait(op.ino, op.seq, op.index) if op.index <= _INDEX_MAX else None
    if row is None:
        return Verdict(errno.ENOENT)
    if row.sid != context.sid:
        return Verdict(errno.EPERM)
    rows.delete(wait_key(op.ino, op.seq, op.index))
    _settle(rows, op.ino)
    return OK


def release_session_waits(rows: MutableRows, sid: int) -> None:
    """A new incarnation takes over (R13): those who waited are gone. What was held stays until it says UNLOCK: it
    publishes first what was written under it."""
    _forget(rows, [], [waiting for waiting in rows.all_waits() if waiting.row.sid == sid])


def release_session_locks(rows: MutableRows, sid: int) -> None:
    """The session has ended: its locks and requests go, others are granted theirs."""
    _forget(
        rows,
        [(ino, held) for ino, held in rows.all_locks() if held.sid == sid],
        [waiting for waiting in rows.all_waits() if waiting.row.sid == sid],
    )


def forget_inode(rows: MutableRows, ino: int) -> None:
    """The inode leaves, and with it all locks and requests."""
    for held in list(rows.locks(ino)):
        rows.delete(lock_key(ino, held.sid, held.owner, held.start))
    for waiting in list(rows.waits(ino)):
        rows.delete(wait_key(ino, waiting.seq, waiting.index))


def _possible(op: Lock | Unlock) -> bool:
    """The lowest bit of an owner is that of its kind, so that no owner ever has locks of both."""
    if op.kind & ~_KINDS or op.start > op.end or (op.owner ^ op.kind) & FCNTL:
        return False
    return bool(op.kind & FCNTL) or (op.start == 0 and op.end == INTEGER_MAX)


def _same_owner(one: Claim, other: Claim) -> bool:
    return one.sid == other.sid and one.owner == other.owner


# -- order ------------------------------------------------------------------------------------------------------------


class _Order:
    """Who waits for whom, in the rows as they are when it is made."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._waits: dict[tuple[int, int], list[Waiting]] | None = None  # by owner, once it is needed

    def passed(self, request: WaitRow, earlier: Iterable[Waiting]) -> list[Waiting] | None:
        """For a request that no held lock stands against: None where it has to wait for one that came before it, else
        those that it passes on account of its session."""
        counted = []
        for waiting in earlier:
            if not conflict(request, waiting.row):
                continue
            if self.waits_for(waiting.ino, waiting.row, lambda held: _same_owner(held, request)):
                continue
            exhausted = waiting.row.passed >= PASSES_MAX
            if exhausted or not self.waits_for(waiting.ino, waiting.row, lambda held: held.sid == request.sid):
                return None
            counted.append(waiting)
        return counted

    def waits_for(self, ino: int, claim: Claim, wanted: Callable[[HeldLock], bool]) -> bool:
        """Whether a held lock that is `wanted` stands against the claim, or against what the holders of those that do
        are waiting for, and so on."""
        seen: set[tuple[int, int]] = set()
        todo: list[tuple[int, Claim]] = [(ino, claim)]
        while todo:
            for held in blockers(self._rows, *todo.pop()):
                if wanted(held):
                    return True
                holder = held.sid, held.owner
                if holder not in seen:
                    seen.add(holder)
                    todo.extend((waiting.ino, waiting.row) for waiting in self._waits_of(holder))
        return False

    def _waits_of(self, owner: tuple[int, int]) -> list[Waiting]:
        if self._waits is None:
            self._waits = {}
            for waiting in self._rows.all_waits():
                self._waits.setdefault((waiting.row.sid, waiting.row.owner), []).append(waiting)
        return self._waits.get(owner, [])


def _settle(rows: MutableRows, ino: int) -> None:
    """Grant to those who wait, first come, first served, until nobody is left who can be granted anything."""
    granted = True
    while granted:
        granted = False
        earlier: list[Waiting] = []
        held, order = list(rows.locks(ino)), _Order(rows)
        for waiting in list(rows.waits(ino)):
            row = waiting.row
            passed = None if any(conflict(row, other) for other in held) else order.passed(row, earlier)
            if passed is None:
                earlier.append(waiting)
                continue
            rows.delete(wait_key(ino, waiting.seq, waiting.index))
            _grant(rows, ino, row, waiting.seq, waiting.index, passed)
            if passed:
                earlier = [
                    other for other in rows.waits(ino) if (other.seq, other.index) < (waiting.seq, waiting.index)
                ]
            held = [other for other in held if not _same_owner(other, row)]
            held.extend(rows.locks_of(ino, row.sid, row.owner))
            granted, order = True, _Order(rows)


def grantable(rows: Rows, ino: int) -> Iterator[Waiting]:
    """Waiting requests that nothing stands against; between ops there are none."""
    earlier: list[Waiting] = []
    held, order = list(rows.locks(ino)), _Order(rows)
    for waiting in rows.waits(ino):
        blocked = any(conflict(waiting.row, other) for other in held)
        if not blocked and order.passed(waiting.row, earlier) is not None:
            yield waiting
        earlier.append(waiting)


# -- ranges -----------------------------------------------------------------------------------------------------------


def _grant(rows: MutableRows, ino: int, request: WaitRow, seq: int, index: int, passed: Iterable[Waiting]) -> None:
    """The bytes are the owner's in this mode from now on, whatever it held of them; what touches them in the same mode
    becomes one lock with them. `passed` are those whose patience this costs."""
    for waiting in passed:
        row = replace(waiting.row, passed=waiting.row.passed + 1)
        rows.put(wait_key(ino, waiting.seq, waiting.index), row)
    _release(rows, ino, request.sid, request.owner, request.start, request.end)
    start, end = request.start, request.end
    for held in list(rows.locks_of(ino, request.sid, request.owner)):
        if held.kind == request.kind and held.start <= end + 1 and start <= held.end + 1:
            rows.delete(lock_key(ino, held.sid, held.owner, held.start))
            start, end = min(start, held.start), max(end, held.end)
    rows.put(lock_key(ino, request.sid, request.owner, start), LockRow(end, request.kind, seq, index))


def _release(rows: MutableRows, ino: int, sid: int, owner: int, start: int, end: int) -> bool:
    """Take these bytes out of the owner's locks; what is left on either side stays. Whether there were any."""
    overlapping = [held for held in rows.locks_of(ino, sid, owner) if held.start <= end and start <= held.end]
    for held in overlapping:
        rows.delete(lock_key(ino, sid, owner, held.start))
        if held.start < start:
            rows.put(lock_key(ino, sid, owner, held.start), LockRow(start - 1, held.kind, held.seq, held.index))
        if held.end > end:
            rows.put(lock_key(ino, sid, owner, end + 1), LockRow(held.end, held.kind, held.seq, held.index))
    return bool(overlapping)


def _forget(rows: MutableRows, locks: list[tuple[int, HeldLock]], waits: list[Waiting]) -> None:
    for ino, held in locks:
        rows.delete(lock_key(ino, held.sid, held.owner, held.start))
    for waiting in waits:
        rows.delete(wait_key(waiting.ino, waiting.seq, waiting.index))
    for ino in sorted({ino for ino, _ in locks} | {waiting.ino for waiting in waits}):
        _settle(rows, ino)
