"""What happens to unpublished bytes: published when asked and when old, tried again, spilled when they cannot go on,
taken up after a restart, and let go when clean. The rules R10 and R14 (without passthrough) are kept here.

Knows when; `publish` knows how. Works on the `OpenFile`s that `Contents` keeps.
"""

from __future__ import annotations

import errno
import logging
import math
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import trio

from s3vfs.data.backed import NEVER, Backed, Seal
from s3vfs.data.cache import Cache
from s3vfs.data.deferral import Deferral
from s3vfs.data.failures import LocalDiskError, NotWrittenBack, again, local_disk
from s3vfs.data.fetch import Fetcher
from s3vfs.data.gather import gather
from s3vfs.data.images import Images
from s3vfs.data.layout import file_entry
from s3vfs.data.lending import Lending
from s3vfs.data.openfile import OpenFile
from s3vfs.data.origin import Origin
from s3vfs.data.pending import Pending
from s3vfs.data.protocol import DataSession, Limits, Sizes, Spilling
from s3vfs.data.publish import Publisher
from s3vfs.data.rangelog import Replayed, replay
from s3vfs.data.room import Room
from s3vfs.data.spares import Spares
from s3vfs.data.upload import Uploader
from s3vfs.data.whereabouts import path_of
from s3vfs.data.working import WorkingFile
from s3vfs.errors import PosixError, S3vfsError, SessionFenced, StoreUnreachable, acknowledged_lost
from s3vfs.namespace.rows import Inode, LeaseId, Rows
from s3vfs.namespace.verdict import COVERED

_log = logging.getLogger(__name__)

# How often unpublished files are looked at, while there are any.
_TICK_S = 0.25
# Pauses between attempts in the background, after a failure.
_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 30.0
# Attempts within one publish when base has moved under it.
_STALE_ATTEMPTS = 3


class Upkeep:
    """One for each `Contents`."""

    def __init__(
        self,
        session: DataSession,
        folder: Path,
        cache: Cache,
        files: dict[int, OpenFile],
        publisher: Publisher,
        room: Room,
        sizes: Sizes,
        limits: Limits,
        spill: Spilling,
        uploader: Uploader,
        fetcher: Fetcher,
    ) -> None:
        self._session = session
        self._folder = folder
        self._cache = cache
        self._files = files
        self._publisher = publisher
        self._room = room
        self._sizes = sizes
        self._limits = limits
        self._spill = spill
        self.deferral = Deferral(session, sizes, limits, uploader, self._lose, self._landed, self._drop)
        self.images = Images(session, fetcher, sizes, limits, self.wake)
        self.lending = Lending(session, cache, self.images, self._harvest, files, room, sizes, limits, self._forget)
        self.spares = Spares(folder)
        self._fenced: SessionFenced | None = None
        self._work = trio.Event()
        self._hurry = trio.Event()

    # -- asked for ----------------------------------------------------------------------------------------------------

    def place(self, ino: int) -> WorkingFile:
        """A new one; see `WorkingFile.place`."""
        return self._place(self.spares.new(), ino, self.spares)

    def _place(self, name: str, ino: int, spares: Spares | None) -> WorkingFile:
        boot_id, sid = self._session.environment.boot_id, self._session.sid
        return WorkingFile.place(name, ino, boot_id, sid, self._sizes.object_bytes, spares)

    def check(self) -> None:
        """Raises SessionFenced when nothing of this mount can be committed any more: handles give EIO."""
        if self._fenced is not None:
            raise SessionFenced(self._fenced.message, hint=self._fenced.hint)
        refusal = self._session.refusal()
        if isinstance(refusal, SessionFenced):
            self.wake()
            raise refusal

    def wake(self) -> None:
        """There are unpublished changes."""
        if not self._work.is_set():
            self._work.set()

    def publish_soon(self, file: OpenFile) -> None:
        """As if the file had been written to long ago."""
        file.working.dirty_since_s = -math.inf
        self.wake()

    def hurry(self) -> None:
        """Writers wait: publish now, whatever the age."""
        self._hurry.set()
        self._work.set()

    def settled(self, file: OpenFile) -> None:
        """Whole regions of the file may have settled: begin their uploads."""
        if not file.orphan:
            self._publisher.upload_settled(file.working)

    async def publish(self, file: OpenFile, *, orphans: bool = False, unseen: bool = True) -> None:
        """See `Contents.publish`. Files without a link are left alone, unless `orphans`: nobody can find them again.
        `unseen`: look for what a kernel has written, too."""
        if file.failure is not None and file.lost:
            raise again(file.failure)
        await self._settled(file)
        if unseen:
            await self._harvest(file)
        if file.working.dirty:
            seen = file.attempt
            contended = file.publishing.locked()
            async with file.publishing:
                if contended and file.failure is not None and file.failed_attempt >= seen:
                    raise again(file.failure)
                await self._attempt(file, orphans=orphans)
        self.retire(file)
        if file.failure is not None:
            raise again(file.failure)

    async def close(self, file: OpenFile) -> None:
        """As `publish`, or at once where a lease lets the close be acknowledged."""
        if not file.lost:
            await self._harvest(file)
        if not self._close_found(file):
            await self.publish(file)

    def close_at_once(self, file: OpenFile, answered: LeaseId | None = None) -> bool:
        """As `close`, where that needs no waiting, and nothing is to be told; False: nothing was done. `answered`: it
        has been, under that lease. No checkpoint."""
        try:
            return file.untold is None and self.images.harvest_at_once(file) and self._close_found(file, answered)
        except (OSError, LocalDiskError):
            return False  # `close` meets it again, and reports it

    def release_at_once(self, file: OpenFile) -> bool:
        """As `close_at_once`, for the end of a handle, which nobody waits for: a close that is due takes along what
        came since."""
        due = file.failure is None and file.working.backed is None and self.deferral.due_of(file.ino)
        return due or self.close_at_once(file)

    def _close_found(self, file: OpenFile, answered: LeaseId | None = None) -> bool:
        """The close of a file of which all writes are known."""
        if file.failure is not None:
            return False
        if not file.working.dirty:
            self.retire(file)
            return True
        return not file.orphan and self.deferral.acknowledge(file, answered=answered)

    async def _harvest(self, file: OpenFile) -> None:
        """See `Images.harvest`. What the disk has not kept is not published: what is there is spilled."""
        try:
            await self.images.harvest(file)
        except NotWrittenBack as error:
            await self._give_up(file, error)
            raise again(error) from error

    async def _settled(self, file: OpenFile) -> None:
        """No close of the file is on its way. Raises its failure while one cannot be sent: under its lease it goes,
        and in no other way."""
        await self.deferral.settled(file.ino)
        if self.deferral.pending(file.ino) and file.failure is not None:
            raise again(file.failure)

    @asynccontextmanager
    async def published(self, file: OpenFile) -> AsyncIterator[None]:
        """As `publish`, and inside no other publish of the file is under way; orphans too."""
        if file.failure is not None and file.lost:
            raise again(file.failure)
        await self._settled(file)
        await self._harvest(file)
        async with file.publishing:
            if file.working.dirty:
                await self._attempt(file, orphans=True)
            if file.failure is not None:
                raise again(file.failure)
            yield

    async def publish_all(self) -> None:
        """Every file with unpublished changes."""
        await gather([partial(self.publish, file) for file in self._files.values() if self._may_be_dirty(file)])
        for file in list(self._files.values()):
            error = file.failure or file.untold
            if error is not None:
                raise again(error)

    @staticmethod
    def _may_be_dirty(file: OpenFile) -> bool:
        backed = file.working.backed
        return not file.lost and (file.working.dirty or (backed is not None and backed.writable))

    def _dirty(self) -> list[OpenFile]:
        return [file for file in self._files.values() if file.working.dirty and not file.lost]

    async def _attempt(self, file: OpenFile, *, orphans: bool) -> None:
        inode = self._inode(file.ino)
        if inode is None or (inode.nlink == 0 and not orphans):
            if inode is None:
                await self._gone(file)
            file.retry_at_s = trio.current_time() + self._limits.dirty_age_s
            return
        file.attempt += 1
        attempt, stale = file.attempt, 0
        patience_s = trio.current_time() + self._limits.io_timeout_s
        try:
            while True:
                try:
                    with local_disk():
                        await self._publisher.publish(file.working)
                    break
                except PosixError as error:
                    if error.errno == COVERED:  # another's lease: who asks for it back may find the next one there
                        if trio.current_time() > patience_s:
                            raise StoreUnreachable("others keep changing the same directory") from None
                    elif error.errno not in (errno.ESTALE, errno.ENOENT) or stale == _STALE_ATTEMPTS - 1:
                        raise
                    else:
                        stale += 1
                    await self._session.fresh(0)
                    await self._session.clear(file.ino)
                    if self._inode(file.ino) is None:
                        return await self._gone(file)
            file.failure = None
            file.pause_s = 0.0
        except S3vfsError as error:
            file.failure = error
            file.failed_attempt = attempt
            file.pause_s = min(max(2 * file.pause_s, _FIRST_PAUSE_S), _LONGEST_PAUSE_S)
            file.retry_at_s = trio.current_time() + file.pause_s
            self._work.set()
            _log.warning("inode %d is not in the bucket: %s", file.ino, error)
            if isinstance(error, SessionFenced):
                first, self._fenced = self._fenced is None, self._fenced or error
                await self._give_up(file, error)
                if first:
                    await self._give_up_all(error)
            raise again(error) from error
        finally:
            self._room.freed()

    def _inode(self, ino: int) -> Inode | None:
        with self._session.view() as txn:
            return Rows(txn).inode(ino)

    # -- in the background --------------------------------------------------------------------------------------------

    async def run(self, nursery: trio.Nursery) -> None:
        """Publish what is old, or whatever there is when writers wait; begin uploads of what has settled."""
        while True:
            await self._make_room()
            dirty = self._dirty()
            if not dirty:
                self._work = trio.Event()
                await self._work.wait()
                continue
            hurry = self._hurry.is_set() or self._crowded()
            self._hurry = trio.Event()
            now_s = trio.current_time()
            refusal = self._session.refusal()
            if isinstance(refusal, SessionFenced) and self._fenced is None:
                self._fenced = refusal
                await self._give_up_all(refusal)
            if self._fenced is None:
                for file in dirty:
                    self.settled(file)
                    age_s = now_s - file.working.dirty_since_s
                    due = (hurry or age_s >= self._limits.dirty_age_s) and now_s >= file.retry_at_s
                    if due and not file.publishing.locked() and not self.deferral.pending(file.ino):
                        nursery.start_soon(self._publish_quietly, file, hurry)
            with trio.move_on_after(_TICK_S):
                await self._hurry.wait()

    def _crowded(self) -> bool:
        return self._room.unpublished_bytes > self._limits.unpublished_bytes // 2

    async def _publish_quietly(self, file: OpenFile, hurry: bool) -> None:
        try:
            await self.publish(file, orphans=hurry, unseen=False)
        except S3vfsError:
            return  # kept as the file's failure, logged, and reported to whoever asks (R10)

    async def _make_room(self) -> None:
        """Open working files keep clean bytes for reading. When they are too many, the bucket and the cache have them;
        when the disk is short, the cache gives way as well."""
        if self._room.kept_bytes <= self._limits.kept_bytes and not self._room.disk_short:
            return
        for file in self._files.values():
            if file.working.valid and not file.loading:
                try:
                    file.working.drop_clean()
                except OSError as error:  # the bytes are clean and in the bucket: only the space is not regained
                    _log.warning("inode %d: local space is not freed: %s", file.ino, error)
        if self._room.disk_short:
            await self._session.environment.run(self._cache.relieve)
        self._room.freed()

    # -- clean files --------------------------------------------------------------------------------------------------

    def retire(self, file: OpenFile) -> None:
        """Let go of a file that nobody has open. Clean bytes that are whole sectors of objects become the cache's
        entry of this version, by rename: no handle is left, so no writer can exist (R14)."""
        if file.lost and not file.in_use and self._fenced is None and not file.publishing.locked():
            self._begin_anew(file)
            return
        inode = None
        if not file.in_use and file.working.dirty and not file.lost:
            inode = self._inode(file.ino)
            if (inode is not None and inode.nlink) or self._session.lost(file.ino) is not None:
                return
            if not file.publishing.locked():
                self._drop(file)  # unlinked, and now closed for the last time
        if not file.idle or file.publishing.locked():
            return
        working = file.working
        if working.backed is not None:
            self.lending.idle(file)
            return
        table = working.sum_table(self._sizes.sector_bytes)
        if table and (inode := self._inode(file.ino)) is not None and inode.version == working.base_version:
            working.close()
            name = file_entry(file.ino, inode.version)
            self._cache.adopt(name, working.path, table, working.valid.total_bytes)
        with local_disk():
            if file.loading:
                working.remove()
            else:
                working.hand_on()
        self._forget(file)

    async def _gone(self, file: OpenFile) -> None:
        """There is no such inode: it was removed; or its own making was lost, which this raises."""
        reason = self._session.lost(file.ino)
        if reason is None:
            self._drop(file)
            return
        error = acknowledged_lost(reason)
        await self._lose(file, error)
        raise error

    def _drop(self, file: OpenFile) -> None:
        """The inode is gone, and its unpublished bytes with it, as unlink promises."""
        file.working.discard()
        self._publisher.forget(file.ino)
        file.failure = None

    def _begin_anew(self, file: OpenFile) -> None:
        """What was lost of the file is kept elsewhere, and nobody has it open any more: who opens it now sees what the
        journal has, and is told."""
        self._forget(file)
        if self._inode(file.ino) is not None:
            self._files[file.ino] = OpenFile(file.ino, self.place(file.ino), untold=file.failure)

    def tell(self, file: OpenFile) -> None:
        """Raises a loss that nobody has been told of yet (R10)."""
        error, file.untold = file.untold, None
        if error is not None:
            self.retire(file)
            raise again(error)

    def clear(self) -> None:
        """The daemon ends: local files that nothing is in are deleted."""
        self.spares.clear()

    def _forget(self, file: OpenFile) -> None:
        self._publisher.forget(file.ino)
        if self._files.get(file.ino) is file:
            del self._files[file.ino]

    # -- what cannot go on --------------------------------------------------------------------------------------------

    async def _give_up_all(self, error: SessionFenced) -> None:
        """The session is out of office: handles give EIO. Files that are being published hear it themselves."""
        self._room.freed()
        self.deferral.abandon()
        for file in self._dirty():
            if not file.publishing.locked():
                await self._give_up(file, error)

    async def _lose(self, file: OpenFile, error: S3vfsError) -> None:
        """What was acknowledged of this file cannot go on."""
        if isinstance(error, SessionFenced):
            first, self._fenced = self._fenced is None, self._fenced or error
            await self._give_up(file, error)
            if first:
                await self._give_up_all(error)
        else:
            await self._give_up(file, error)

    def _landed(self, file: OpenFile) -> None:
        """An acknowledged close is in the journal, or has failed."""
        self._room.freed()
        self.retire(file)
        if file.working.dirty:
            self.wake()

    async def _give_up(self, file: OpenFile, error: S3vfsError) -> None:
        """Keep the unpublished bytes of a file for their user (R13)."""
        if not file.lost:
            file.failure = error  # not an earlier one, which said that it goes on
        file.lost = True
        async with file.storing:  # a write in a worker thread is kept too, and uses the descriptor until it ends
            await self.images.harvest_to_spill(file)
            await self._keep(file.working, str(error))
            file.working.discard()
            with local_disk():
                file.working.remove()
        self.retire(file)

    async def _keep(self, working: WorkingFile, reason: str) -> None:
        ranges = [(start, end - start) for start, end in working.unpublished()]
        if not ranges:
            return
        with self._session.view() as txn:
            path = path_of(Rows(txn), working.ino)
        wall_ns = self._session.environment.wall_ns()
        keep = partial(
            self._spill.keep,
            path=path,
            ino=working.ino,
            reason=reason,
            ranges=ranges,
            source=working.path,
            wall_ns=wall_ns,
        )
        with local_disk():
            await self._session.environment.run(keep)

    # -- after a restart ----------------------------------------------------------------------------------------------

    async def recover(self) -> None:
        """Take up the working files that an earlier daemon left. After another boot their bytes are doubtful, and those
        of a session that is not ours any more may be outdated: spilled (R13)."""
        with local_disk():
            logs = sorted(self._folder.glob("*.log"))
            found = [(path, replay(path, self._session.environment.boot_id)) for path in logs]
        for path, replayed in found:
            if replayed is not None:
                await self._take_up(path, replayed)
            else:
                path.unlink()
        known = {file.working.path for file in self._files.values()}
        for leftover in self._folder.iterdir():
            if leftover.suffix != ".log" and leftover not in known:
                leftover.unlink()

    async def _take_up(self, log: Path, replayed: Replayed) -> None:
        with self._session.view() as txn:
            inode = Rows(txn).inode(replayed.ino)
        # Another session's op numbers say nothing about this one's row. It may be long gone, and this one have been
        # resumed since, where daemons were killed before they came to this.
        ours = replayed.sid == self._session.sid
        took_effect = partial(self._publisher.took_effect, replayed.ino)
        pending = replayed.remaining(took_effect if ours else lambda *_: False)
        working = self._place(os.fspath(log.with_suffix("")), replayed.ino, None)
        reason = self._session.lost(replayed.ino)
        if reason is None and not ours:  # whether their file was lost or removed, nobody can say any more
            reason = "the session that has them was ended, and nobody knows their file"
        if pending.dirty and inode is None and reason is not None:
            working.pending = pending
            await self._keep(working, reason)
            working.remove()
            return
        if replayed.backed is not None and inode is not None and inode.nlink:
            await self._take_up_backed(replayed, working, pending, inode)
            return
        if not pending or inode is None or inode.nlink == 0:
            if pending.dirty:
                _log.warning("unpublished bytes of inode %d go with it: it is gone", replayed.ino)
            working.remove()
            return
        if not (replayed.same_boot and ours):
            reason = "the machine was restarted" if not replayed.same_boot else "the session that has them was ended"
            working.pending = pending
            await self._keep(working, f"{reason} before these bytes were in the bucket")
            working.remove()
            return
        lease, still_ours = self._session.closed_under(replayed.ino)
        if lease is not None and not still_ours:
            working.pending = pending
            await self._keep(working, "its close was acknowledged under a lease that others have taken since")
            working.remove()
            return
        await self._resume(replayed, working, pending)

    async def _resume(self, replayed: Replayed, working: WorkingFile, pending: Pending) -> None:
        lease, _ = self._session.closed_under(replayed.ino)
        with local_disk():
            working.resume(pending, working.base_version or replayed.base_version, trio.current_time())
        file = self._files[replayed.ino] = OpenFile(replayed.ino, working)
        if lease is not None:
            self.deferral.take_up(file, lease)
        _log.info("inode %d: %d unpublished bytes taken up", replayed.ino, pending.dirty.total_bytes)

    async def _take_up_backed(self, replayed: Replayed, working: WorkingFile, pending: Pending, inode: Inode) -> None:
        """A file that a kernel may have written to, and may be writing to now: programs of before the kill still can.
        What differs from the version that it is the image of was written there. Where nobody knows that version any
        more, what is pending or was written since the last look is kept for its user."""
        if not working.path.exists():
            working.remove()
            return
        ours = replayed.sid == self._session.sid and replayed.same_boot
        took = [
            share
            for incarnation, number, share in replayed.sent
            if ours and self._publisher.took_effect(replayed.ino, incarnation, number, share)
        ]
        # Each of our own ops has moved the version by one at most; who else has written would have moved it further.
        own = sum(share.cut + len(share.holes) + share.contents for share in took)
        lease, still_ours = self._session.closed_under(replayed.ino)
        if not ours or (lease is not None and not still_ours) or not 0 <= inode.version - replayed.base_version <= own:
            reason = "the machine was restarted, or others have changed the file, before these bytes were in the bucket"
            await self._keep_unseen(replayed, working, pending, reason)
            return
        with self._session.view() as txn:
            origin = Origin.of(Rows(txn), replayed.ino, inode)
        backed = Backed(self._sizes.sector_bytes, origin, writable=True, seal=NEVER, floor_ns=inode.mtime_ns)
        backed.chosen_ns = pending.mtime_ns
        working.backed = backed
        working.log.backed = replayed.backed
        working.base_version = inode.version
        if origin.pieces:
            backed.pins.enter_context(self._session.pin())
        await self._resume(replayed, working, pending)

    async def _keep_unseen(self, replayed: Replayed, working: WorkingFile, pending: Pending, reason: str) -> None:
        state = working.status()
        if Seal.of(state) != replayed.backed or pending.dirty:
            pending.dirty.add(0, state.st_size)
            working.pending = pending
            await self._keep(working, reason)
        working.remove()
