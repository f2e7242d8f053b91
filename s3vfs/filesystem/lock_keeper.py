"""What has to happen about locks while nobody here waits for it.

*Jobs.* What a caller has let go of, or no longer waits for, is given back even if the bucket is silent at that moment:
in order, for each owner and inode, tried again until it is done. UNLOCK follows the bytes that were written under the
lock: whoever gets it next reads them.

*Watching.* While somebody here waits, the journal is looked at several times a second, and a session that stands in the
way and has been silent for a while is challenged; if it does not answer it is evicted, and its locks go to those who
wait (DESIGN 6).

*A former life.* A session that was taken up again (R13) still holds what its killed processes held. Their bytes are
published first, then everything is let go.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field

import trio

from s3vfs.data.failures import again
from s3vfs.errors import S3vfsError, SessionError, StoreError, StoreUnreachable
from s3vfs.filesystem.contracts import FileContents, FilesystemSession
from s3vfs.filesystem.lock_owners import of_incarnation
from s3vfs.namespace.changes import Changes
from s3vfs.namespace.limits import INTEGER_MAX
from s3vfs.namespace.locks import FCNTL, blockers, conflict
from s3vfs.namespace.ops import AnyOp, Unlock
from s3vfs.namespace.rows import Rows

_log = logging.getLogger(__name__)

# The journal is looked at this often for somebody who has just begun to wait, and who has waited for long: a tenth of
# the time that he has waited, between these bounds.
FIRST_LOOK_S = 0.1
LAST_LOOK_S = 0.5
# A session that holds a lock must notice a challenge in time (DESIGN 6).
HOLDING_LOOK_S = 1.0
# How long a session that is waited for may be silent before it is challenged: first, and after it has answered often.
FIRST_PATIENCE_S = 2.0
LAST_PATIENCE_S = 30.0
# How long a challenged session may take to answer (DESIGN 6), and how long another's challenge is relied on.
ANSWER_S = 10.0
OTHERS_ANSWER_S = 15.0

# How long a caller waits for what is before him; usual is what a publish and a commit take.
_LONGEST_S = 180.0

_RETRY_FIRST_S = 0.5
_RETRY_MOST_S = 10.0

Key = tuple[int, int]  # owner's number, inode
Run = Callable[[], Awaitable[None]]


async def whole(session: FilesystemSession) -> None:
    """Return when the rows can be looked at: not while a checkpoint is being loaded."""
    await session.fresh(math.inf)


@dataclass(eq=False, slots=True)
class Job:
    """`answered` once it has been tried; `error` is why it is not done (yet)."""

    run: Run
    answered: trio.Event = field(default_factory=trio.Event)
    error: S3vfsError | None = None


@dataclass(eq=False, slots=True)
class Waiter:
    """A request in the queue of an inode. `over`: its row is gone, or nothing is certain any more."""

    ino: int
    seq: int
    index: int
    since_s: float
    over: trio.Event = field(default_factory=trio.Event)


@dataclass(eq=False, slots=True)
class _Watched:
    """A session in the way: its last record, and since when that has been the last one."""

    last_seq: int
    since_s: float
    patience_s: float
    challenged: bool = False


class LockKeeper:
    """`held` tells whether anybody here may hold a lock. `run` is to run beside the calls."""

    def __init__(self, session: FilesystemSession, contents: FileContents, held: Callable[[], bool]) -> None:
        self._session = session
        self._contents = contents
        self._held = held
        self._jobs: dict[Key, deque[Job]] = {}
        self._waiters: set[Waiter] = set()
        self._watched: dict[int, _Watched] = {}
        self._nursery: trio.Nursery | None = None
        self._unstarted: list[Key] = []
        self._wake = trio.Event()
        self.challenges = 0
        self.evictions = 0
        session.listen(self._hear, reloaded=self._hear_all)

    # -- jobs -----------------------------------------------------------------------------------------------------

    def begin(self, key: Key, run: Run) -> Job:
        """Queue a job behind the earlier ones of its owner and inode; no checkpoint."""
        job = Job(run)
        queue = self._jobs.get(key)
        if queue is not None:
            queue.append(job)
            return job
        self._jobs[key] = deque([job])
        if self._nursery is None:
            self._unstarted.append(key)
        else:
            self._nursery.start_soon(self._work, key)
        return job

    async def drained(self, key: Key) -> None:
        """Return when nothing is left to be done of what was begun for this owner and inode. Raises StoreError where
        that has been tried in vain; it goes on being tried."""
        while (queue := self._jobs.get(key)) is not None:
            job = queue[0]
            await self._answer(job)  # a job that is done has left the queue by now
            if isinstance(job.error, StoreError):
                raise again(job.error)

    async def tried(self, job: Job) -> None:
        """Return when the job is done. Raises why it could not be done, or not at the first try."""
        await self._answer(job)
        if job.error is not None:
            raise again(job.error)

    async def _answer(self, job: Job) -> None:
        with trio.move_on_after(_LONGEST_S):
            await job.answered.wait()
        if not job.answered.is_set():  # one before it waits for the bucket
            raise StoreUnreachable("the bucket does not answer, so a lock is not given back yet")

    async def _work(self, key: Key) -> None:
        queue = self._jobs[key]
        while queue:
            await self._do(queue[0])
            queue.popleft()
        del self._jobs[key]

    async def _do(self, job: Job) -> None:
        pause_s = _RETRY_FIRST_S
        while True:
            try:
                await whole(self._session)
                await job.run()
                break
            except StoreError as error:
                if job.error is None:
                    _log.warning("a lock is not given back yet: %s", error)
                job.error = error
                job.answered.set()
                await trio.sleep(pause_s)
                pause_s = min(2 * pause_s, _RETRY_MOST_S)
            except S3vfsError as error:  # done as far as it can be: a fenced session has no locks any more
                job.error = error
                break
        job.answered.set()

    # -- waiting --------------------------------------------------------------------------------------------------

    def waiting(self, ino: int, seq: int, index: int) -> Waiter:
        """Somebody waits from now on, until `left`."""
        waiter = Waiter(ino, seq, index, trio.current_time())
        self._waiters.add(waiter)
        self._check([waiter])
        self.look()
        return waiter

    def left(self, waiter: Waiter) -> None:
        self._waiters.discard(waiter)
        self.look()

    @property
    def waiters(self) -> int:
        return len(self._waiters)

    def look(self) -> None:
        """Somebody waits, or holds a lock, who did not, or the other way round."""
        self._wake.set()

    def _hear(self, changes: Changes, own: bool) -> None:
        if changes.locks and self._waiters:
            self._check([waiter for waiter in self._waiters if waiter.ino in changes.locks])

    def _hear_all(self) -> None:
        self._check(list(self._waiters))

    def _check(self, waiters: list[Waiter]) -> None:
        """Wake those, and only those, whose row is gone."""
        with suppress(S3vfsError), self._session.view() as txn:  # a checkpoint is being loaded: then all are checked
            rows = Rows(txn)
            for waiter in waiters:
                if rows.wait(waiter.ino, waiter.seq, waiter.index) is None:
                    waiter.over.set()

    # -- in the background ----------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until cancelled; what is begun after that is left to the end of the session."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                await whole(self._session)
                self._let_go_of_former_lives()
                for key in self._unstarted:
                    nursery.start_soon(self._work, key)
                self._unstarted.clear()
                await self._look_after_waiters()
            finally:
                self._nursery = None
                self._session.look_every(self, None)

    async def _look_after_waiters(self) -> None:
        while True:
            interval_s = self._interval_s()
            self._session.look_every(self, interval_s)
            self._wake = trio.Event()
            with trio.move_on_after(interval_s if self._waiters and interval_s else float("inf")):
                await self._wake.wait()
            await whole(self._session)
            self._watch()

    def _interval_s(self) -> float | None:
        if self._waiters:
            waited_s = trio.current_time() - max(waiter.since_s for waiter in self._waiters)
            return min(max(waited_s / 10, FIRST_LOOK_S), LAST_LOOK_S)
        return HOLDING_LOOK_S if self._held() else None

    def _watch(self) -> None:
        """Challenge whoever stands in the way and is silent."""
        if not self._waiters:
            self._watched.clear()
            return
        if self._session.refusal() is not None:
            for waiter in self._waiters:
                waiter.over.set()
            return
        now_s = trio.current_time()
        with self._session.view() as txn:
            rows = Rows(txn)
            in_the_way = self._in_the_way(rows)
            for sid in [sid for sid, watched in self._watched.items() if sid not in in_the_way]:
                if not self._watched[sid].challenged:
                    del self._watched[sid]
            for sid in in_the_way:
                row = rows.session(sid)
                if row is None:
                    continue
                watched = self._watched.setdefault(sid, _Watched(row.last_seq, now_s, FIRST_PATIENCE_S))
                if watched.last_seq != row.last_seq:
                    watched.last_seq, watched.since_s = row.last_seq, now_s
                others = row.challenge > row.last_seq
                patience_s = max(watched.patience_s, OTHERS_ANSWER_S) if others else watched.patience_s
                if now_s - watched.since_s >= patience_s and not watched.challenged:
                    watched.challenged = True
                    assert self._nursery is not None
                    self._nursery.start_soon(self._challenge, sid, watched)

    def _in_the_way(self, rows: Rows) -> list[int]:
        """Other sessions that those who wait here are waiting for: holders, and those who came before."""
        found: dict[int, None] = {}
        for waiter in self._waiters:
            row = rows.wait(waiter.ino, waiter.seq, waiter.index)
            if row is None:
                continue
            found.update((held.sid, None) for held in blockers(rows, waiter.ino, row))
            for earlier in rows.waits(waiter.ino):
                if (earlier.seq, earlier.index) < (waiter.seq, waiter.index) and conflict(row, earlier.row):
                    found[earlier.row.sid] = None
        found.pop(self._session.sid, None)
        return list(found)

    async def _challenge(self, sid: int, watched: _Watched) -> None:
        self.challenges += 1
        try:
            if await self._session.evict(sid, wait_s=ANSWER_S):
                self.evictions += 1
                _log.warning("session %016x held a lock and did not answer: it was evicted", sid)
        except S3vfsError as error:
            _log.warning("challenging session %016x: %s", sid, error)
        watched.challenged = False
        watched.since_s = trio.current_time()
        watched.patience_s = min(2 * watched.patience_s, LAST_PATIENCE_S)

    def _let_go_of_former_lives(self) -> None:
        sid, incarnation = self._session.sid, self._session.incarnation
        found: dict[Key, None] = {}
        with self._session.view() as txn:
            for ino, held in Rows(txn).all_locks():
                if held.sid == sid and not of_incarnation(held.owner, incarnation):
                    found[held.owner, ino] = None
        for number, ino in found:
            self.begin((number, ino), lambda number=number, ino=ino: self.give_back(ino, number))  # type: ignore[misc]

    async def give_back(self, ino: int, number: int, start: int = 0, end: int = INTEGER_MAX) -> None:
        """A job: publish what was written under the owner's locks on these bytes, then let them go.

        Bytes that cannot be published are reported (R10) and no reason to keep the lock; while the bucket is silent
        both wait."""
        failure: S3vfsError | None = None
        try:
            await self._contents.publish(ino)
        except (StoreError, SessionError):
            raise
        except S3vfsError as error:
            failure = error
        op: AnyOp = Unlock(ino, number, start, end, number & FCNTL)
        await self._session.commit([op])
        if failure is not None:
            raise failure
