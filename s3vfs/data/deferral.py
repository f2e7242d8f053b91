"""Closes that were acknowledged under a lease, and how their bytes follow.

The bytes stay in the working file, which outlives the daemon; the close is noted in the session's log. When the session
closes its next batch it asks for them: all of them are packed, uploaded, and their ops join that very batch, behind the
names. So a record never shows a name without the bytes that were closed under it, and packs are as large as batches.
Each op names the lease: where that was lost meanwhile the ops are refused, and the bytes spilled, since somebody else
may have written there (DESIGN 6).

While a close is on its way nobody else publishes the file (`settled`): that publish would wait for a record behind the
batch, and the batch for it.
"""

from __future__ import annotations

import errno
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import trio

from s3vfs.data.delivery import Delivery
from s3vfs.data.failures import local_disk
from s3vfs.data.openfile import OpenFile
from s3vfs.data.packer import Packer, Parcel
from s3vfs.data.protocol import DataSession, Limits, Pledge, Sizes
from s3vfs.data.publish import ONE_COMMIT_HOLES, ONE_COMMIT_PIECES, Publisher
from s3vfs.data.upload import Uploader
from s3vfs.errors import PosixError, S3vfsError, SessionFenced, StoreError, acknowledged_lost
from s3vfs.namespace.ops import AnyOp
from s3vfs.namespace.rows import LeaseId, Rows
from s3vfs.namespace.verdict import COVERED

_log = logging.getLogger(__name__)

# Before a close that could not be sent is tried again; names wait as long.
_PAUSE_S = 1.0


@dataclass(eq=False, slots=True)
class _Close:
    """One acknowledged close. `sent`: its ops are in the batch, or never will be. `done`: their fate is known, or they
    were never sent (`failed`) and are tried again. `in_parts`: its bytes, of which there have become many since, take
    several records. `in_doubt`: all of it was sent under its lease, and only what became of that is to be learnt: what
    was written since has no close, and perhaps no lease any more."""

    file: OpenFile
    lease: LeaseId
    size_bytes: int
    sent: trio.Event = field(default_factory=trio.Event)
    done: trio.Event = field(default_factory=trio.Event)
    failed: bool = False
    in_parts: bool = False
    in_doubt: bool = False

    @property
    def unfinished(self) -> bool:
        """Whether some of it is still to be sent, with a later batch."""
        return self.in_parts or (self.failed and not self.in_doubt)


_NONE: Sequence[None] = (None,)


class Deferral:
    """The acknowledged closes of one mount. `give_up` spills a file's bytes; `landed` is told of a file whose bytes
    are in the journal."""

    def __init__(
        self,
        session: DataSession,
        sizes: Sizes,
        limits: Limits,
        uploader: Uploader,
        give_up: Callable[[OpenFile, S3vfsError], Awaitable[None]],
        landed: Callable[[OpenFile], None],
        drop: Callable[[OpenFile], None],
    ) -> None:
        self._session = session
        self._limits = limits
        self._most_bytes = min(limits.durable_close_above_bytes, sizes.object_bytes)
        self._give_up = give_up
        self._landed = landed
        self._drop = drop
        self._packer = Packer(self._send, uploader, sizes.object_bytes)
        self._publisher = Publisher(session, sizes, limits, uploader, self._packer, trio.current_time, self._send)
        self._due: dict[int, _Close] = {}
        self._leaving: dict[int, list[_Close]] = {}
        self._bytes = 0
        self._nursery: trio.Nursery | None = None
        self.closes = 0

    def start(self, nursery: trio.Nursery) -> None:
        """Work inside `nursery` from now on, as the session's companion."""
        self._nursery = nursery
        self._publisher.start(nursery)
        self._session.accompany(self)

    def stop(self) -> None:
        """Nothing is sent any more: the nursery ends. The leases of what is not in the bucket stay."""
        self._nursery = None

    # -- closes -------------------------------------------------------------------------------------------------------

    def acknowledge(self, file: OpenFile, more_bytes: int = 0, answered: LeaseId | None = None) -> bool:
        """Whether a close of the file, which has unpublished changes, may return now; or a write of `more_bytes`, which
        are noted after this, before the next checkpoint. `answered`: it has returned, under that lease. No
        checkpoint."""
        working = file.working
        due = self._due.get(file.ino)  # the batch has not been closed yet: it takes what is there then
        size_bytes = working.unpublished_bytes + more_bytes
        if self._nursery is None or size_bytes > self._most_bytes or not self._limits.durable_close_above_bytes:
            return False
        others_bytes = self._bytes - (0 if due is None else due.size_bytes)
        if others_bytes + size_bytes > self._limits.acknowledged_bytes or file.failure is not None:
            return False
        if len(working.pending.dirty) > ONE_COMMIT_PIECES or len(working.pending.holes) > ONE_COMMIT_HOLES:
            return False
        if not self.pending(file.ino) and (file.publishing.locked() or working.undecided):
            return False
        if answered is not None:
            self._session.note_close(file.ino, answered)
        lease = answered or self._session.close_of(file.ino)
        if lease is None:
            return False
        self._add(file, lease, size_bytes)
        return True

    def _add(self, file: OpenFile, lease: LeaseId, size_bytes: int) -> None:
        """A close, or another one of a file whose close is due already."""
        self.closes += 1
        due = self._due.setdefault(file.ino, _Close(file, lease, 0))
        self._bytes += size_bytes - due.size_bytes
        due.lease, due.size_bytes, due.in_doubt = lease, size_bytes, False
        if self._bytes >= self._most_bytes:
            self._session.press()

    def take_up(self, file: OpenFile, lease: LeaseId) -> None:
        """A close that an earlier daemon acknowledged."""
        self._session.note_close(file.ino, lease)
        self._add(file, lease, file.working.unpublished_bytes)

    @property
    def room_bytes(self) -> int:
        """How much may be closed now at once, if a lease lets it."""
        if self._nursery is None or not self._limits.durable_close_above_bytes:
            return 0
        return max(0, min(self._most_bytes, self._limits.acknowledged_bytes - self._bytes))

    def pending(self, ino: int) -> bool:
        """Whether a close of the file is on its way."""
        return ino in self._due or ino in self._leaving

    def due_of(self, ino: int) -> bool:
        """Whether the next batch takes what is unpublished of the file then."""
        return ino in self._due

    async def settled(self, ino: int) -> None:
        """Return when no close of the file is on its way any more, or when one could not be sent: it then is due again,
        and the file says why. It hurries."""
        while self.pending(ino):
            close = self._due.get(ino) or self._leaving[ino][-1]
            self._session.press()
            await close.done.wait()
            if close.failed:
                return

    def abandon(self) -> None:
        """The session is out of office: no batch will ask any more."""
        due, self._due = self._due, {}
        for close in due.values():
            self._end(close)

    # -- batches ------------------------------------------------------------------------------------------------------

    @property
    def packs(self) -> int:
        return self._packer.packs

    def due(self) -> bool:
        return bool(self._due) and self._nursery is not None

    async def gather(self) -> set[LeaseId]:
        """See `session.batches.Companion`."""
        if self._nursery is None:
            return {close.lease for close in self._due.values() if close.file.working.dirty}
        unfinished = self._unfinished()
        due = {ino: close for ino, close in self._due.items() if ino not in unfinished}
        # Another close of such a file would wait for the records of the first, and those for this batch.
        self._due = {ino: close for ino, close in self._due.items() if ino in unfinished}
        for ino, close in due.items():
            close.file.working.halt()  # its CREATE leaves now: the front would show a ctime that it will not have
            self._leaving.setdefault(ino, []).append(close)
        if due:
            self._nursery.start_soon(self._publish_all, list(due.values()))
        for close in due.values():
            if not close.sent.is_set():
                await close.sent.wait()
        unsent = {close.lease for close in due.values() if close.failed}
        for ino, close in self._unfinished().items():
            unsent.add(close.lease)
            self._session.note_close(ino, close.lease)  # the rest comes with a later batch
        return unsent

    def _unfinished(self) -> dict[int, _Close]:
        """Closes of which some bytes are still to be sent: only then may their leases end."""
        return {ino: close for ino, closes in self._leaving.items() for close in closes if close.unfinished}

    async def _publish_all(self, closes: Sequence[_Close]) -> None:
        """One task for all files of one parcel each, since a task costs more than what is done for such a file."""
        assert self._nursery is not None
        begun: deque[tuple[_Close, Parcel, Delivery]] = deque()
        for close in closes:
            found = self._begin(close)
            if found is None:
                self._nursery.start_soon(self._publish, close)
            else:
                begun.append((close, *found))
        failed: list[_Close] = []
        try:
            await self._packer.put([parcel for _, parcel, _ in begun])
            while begun:
                close, parcel, delivery = begun[0]
                if not parcel.done.is_set():
                    await parcel.done.wait()
                await self._finish(close, parcel, delivery)
                begun.popleft()
                if close.failed:
                    failed.append(close)
                else:
                    self._over(close)
                    self._landed(close.file)
            if failed:
                await trio.sleep(_PAUSE_S)
        except trio.Cancelled:
            for close, _, _ in begun:
                close.failed = True
            raise
        finally:
            for close in (*failed, *(close for close, _, _ in begun)):
                self._over(close)

    def _begin(self, close: _Close) -> tuple[Parcel, Delivery] | None:
        """The file's publish, begun; None where it is not as simple as that."""
        file = close.file
        if file.publishing.locked() or file.lost or close.in_doubt:
            return None
        with self._session.view() as txn:
            inode = Rows(txn).inode(file.ino)
        if inode is None or not inode.nlink:
            return None
        try:
            found = self._publisher.begin(file.working)
        except (OSError, S3vfsError):
            return None  # it is tried again, and reported
        if found is not None:
            file.publishing.acquire_nowait()
        return found

    async def _finish(self, close: _Close, parcel: Parcel, delivery: Delivery) -> None:
        try:
            with local_disk():
                self._publisher.end(close.file.working, parcel, delivery)
            close.file.failure = None
        except S3vfsError as error:
            await self._failed(close, error)

    def _over(self, close: _Close) -> None:
        """The publish of this close has ended, however that may be."""
        close.file.publishing.release()
        self._left(close)

    def _left(self, close: _Close) -> None:
        leaving = self._leaving[close.file.ino]
        leaving.remove(close)
        if not leaving:
            del self._leaving[close.file.ino]
        if close.failed and self._session.refusal() is None:
            self._again(close)
        self._end(close)

    async def _publish(self, close: _Close) -> None:
        file = close.file
        try:
            async with file.publishing:
                await self._publish_locked(close)
        except trio.Cancelled:
            close.failed = True
            raise
        finally:
            self._left(close)
        self._landed(file)

    def _again(self, close: _Close) -> None:
        """It could not be sent: the next batch tries again, under the same lease, which is not given back before. Or it
        was sent, and is asked for."""
        file = close.file
        if file.ino in self._due or not file.working.dirty or file.lost:
            return
        if close.in_doubt:
            self._add(file, close.lease, file.working.unpublished_bytes)
            self._due[file.ino].in_doubt = True
            self._session.press()
        else:
            self.take_up(file, close.lease)

    def _end(self, close: _Close) -> None:
        self._bytes -= close.size_bytes
        close.sent.set()
        close.done.set()

    async def _publish_locked(self, close: _Close) -> None:
        file = close.file
        if not file.working.dirty or file.lost:
            return
        with self._session.view() as txn:
            inode = Rows(txn).inode(file.ino)
        if inode is None or not inode.nlink:
            if inode is None and (reason := self._session.lost(file.ino)) is not None:
                await self._give_up(file, acknowledged_lost(reason))
            elif inode is None:
                self._drop(file)
            return
        try:
            with local_disk():
                if close.in_doubt:
                    close.sent.set()  # with an earlier batch
                else:
                    close.in_parts = not self._publisher.at_once(file.working)
                await self._publisher.decide(file.working)
                if not close.in_doubt:
                    await self._publisher.publish(file.working)
            file.failure = None
        except S3vfsError as error:
            await self._failed(close, error)
            if close.failed:
                await trio.sleep(_PAUSE_S)

    async def _failed(self, close: _Close, error: S3vfsError) -> None:
        file = close.file
        if isinstance(error, PosixError) and error.errno in (errno.ESTALE, COVERED):
            await self._give_up(file, acknowledged_lost("the lease was gone before this close was in the bucket"))
        elif isinstance(error, SessionFenced | PosixError):
            # Refused, for want of quota perhaps. The lease may have gone with the same record, so that others can have
            # written since: later these bytes must not come over theirs.
            await self._give_up(file, error)
        else:
            if not isinstance(error, StoreError):
                close.sent.set()  # the local disk: names and the lease do not wait for that
            close.in_doubt = bool(file.working.undecided) and not close.in_parts
            close.failed = True
            self._report(file, error)

    def _report(self, file: OpenFile, error: S3vfsError) -> None:
        """R10. It is tried again, under the same lease."""
        file.failure = error
        file.failed_attempt = file.attempt
        file.retry_at_s = trio.current_time() + _PAUSE_S
        _log.warning("inode %d, whose close was acknowledged, is not in the bucket: %s", file.ino, error)

    def _send(self, ops: Sequence[AnyOp]) -> Pledge:
        closes = [self._leaving.get(getattr(op, "ino", 0), _NONE)[0] for op in ops]
        pledge = self._session.send_along(ops, [None if close is None else close.lease for close in closes])
        for close in closes:
            if close is not None:
                close.sent.set()
        return pledge
