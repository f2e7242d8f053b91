"""The contents of files: bytes in, bytes out, and when they are in the bucket. The data room's front door.

Who says what about sizes: a truncate is observed here, kept with the unpublished writes, and leaves with them as
SETATTR before WRITE, so their order is kept. The filesystem never commits a size itself; where a truncate must be in
the journal at once (truncate by path), it calls `publish` after it. Times of a file with unpublished changes go the
same way (`set_times`).

Knows no names (but for one log line), no permissions and no FUSE.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import trio

from s3vfs.data import holes
from s3vfs.data.cache import Cache
from s3vfs.data.cloning import Cloner
from s3vfs.data.failures import again, local_disk
from s3vfs.data.fetch import Fetcher
from s3vfs.data.fronting import Fronting
from s3vfs.data.neighbours import Neighbours
from s3vfs.data.newborn import Newborn
from s3vfs.data.openfile import OpenFile
from s3vfs.data.packer import Packer, Parcel
from s3vfs.data.pending import Pending
from s3vfs.data.protocol import DataSession, Front, Lent, Limits, Passage, Sizes, Spilling, Stream, Taken
from s3vfs.data.publish import Publisher
from s3vfs.data.readahead import Pool, Readahead
from s3vfs.data.reading import Reader
from s3vfs.data.room import Room
from s3vfs.data.upkeep import Upkeep
from s3vfs.data.upload import Uploader
from s3vfs.data.whereabouts import path_of
from s3vfs.data.working import WorkingFile
from s3vfs.errors import PosixError, S3vfsError
from s3vfs.namespace.changes import Changes
from s3vfs.namespace.ops import AnyOp, Append
from s3vfs.namespace.rows import Inode, LeaseId, Rows
from s3vfs.namespace.verdict import COVERED

if TYPE_CHECKING:
    from typing_extensions import Buffer

_log = logging.getLogger(__name__)


class Contents:
    """One mount's file contents. `folder` holds the working files. Methods are for the trio thread; `run` must be
    running.

    Raises PosixError (ESTALE: no such inode), StoreError after `io_timeout_s`, Damaged for a bad object,
    SessionFenced; and S3vfsError with the local disk's errno."""

    def __init__(
        self,
        session: DataSession,
        folder: Path,
        cache: Cache,
        *,
        sizes: Sizes,
        limits: Limits,
        spill: Spilling,
    ) -> None:
        self._session = session
        self._folder = folder
        self._sizes = sizes
        self._limits = limits
        self._files: dict[int, OpenFile] = {}
        self.cache = cache
        self.fetcher = Fetcher(session, cache, sizes, limits)
        self._ahead = Pool(lambda: self.fetcher.room_bytes)
        self.neighbours = Neighbours(session, self.fetcher, cache, sizes, limits, trio.current_time)
        self.uploader = Uploader(session, sizes, limits, cache.store_object)
        self.packer = Packer(lambda ops: session.send(ops), self.uploader, sizes.object_bytes)
        self._publisher = Publisher(
            session, sizes, limits, self.uploader, self.packer, trio.current_time, lambda ops: session.send(ops)
        )
        self._room = Room(folder, limits, self._files)
        self._upkeep = Upkeep(
            session,
            folder,
            cache,
            self._files,
            self._publisher,
            self._room,
            sizes,
            limits,
            spill,
            self.uploader,
            self.fetcher,
        )
        self._lending = self._upkeep.lending
        self._reader = Reader(session, self._files, cache, self.fetcher, self.neighbours, sizes, limits)
        self._cloner = Cloner(session, self._upkeep)
        self._fronting = Fronting(session, self._files, self._room, sizes)
        self._newborn = Newborn(self._files, self._upkeep, self._fronting)
        session.listen(self._changed, reloaded=self._reloaded)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Take up what an earlier daemon left, then look after uploads and unpublished bytes until cancelled.
        Cancelling loses nothing: what is unpublished stays in the working files for the next mount."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with local_disk():
            self.cache.join()
        try:
            async with trio.open_nursery() as nursery:
                self._publisher.start(nursery)
                self.fetcher.start(nursery)
                await self._upkeep.recover()
                self._upkeep.deferral.start(nursery)
                nursery.start_soon(self._lending.run)
                nursery.start_soon(self._upkeep.spares.keep, self._session.environment.run)
                task_status.started()
                await self._upkeep.run(nursery)
        finally:
            self._upkeep.deferral.stop()
            self._lending.end()
            self.cache.leave()
            for file in self._files.values():
                file.working.close()
            self._newborn.clear()
            self._upkeep.clear()

    # -- handles ------------------------------------------------------------------------------------------------------

    def opened(self, ino: int, writable: bool) -> None:
        """A handle was opened."""
        file = self._file(ino)
        if writable:
            file.writers += 1
        else:
            file.readers += 1

    def closed(self, ino: int, writable: bool) -> None:
        """A handle was closed. The last one of a clean file lets its local bytes become cache."""
        file = self._files[ino]
        if writable:
            file.writers -= 1
        else:
            file.readers -= 1
        assert file.writers >= 0 <= file.readers
        self._fronting.closed(file)
        self._upkeep.retire(file)

    def _file(self, ino: int) -> OpenFile:
        file = self._files.get(ino)
        if file is None:
            file = self._files[ino] = OpenFile(ino, self._upkeep.place(ino))
        return file

    async def lend(
        self, ino: int, *, readable: bool, writable: bool, direct: bool, created: bool, uid: int
    ) -> Lent | None:
        """See `filesystem.contracts.FileContents.lend`."""
        return await self._lending.lend(
            self._files[ino], readable=readable, writable=writable, direct=direct, created=created, uid=uid
        )

    def returned(self, ino: int, *, lent: bool, readable: bool) -> None:
        """A handle that `lend` was asked for is gone."""
        self._lending.returned(self._files[ino], lent=lent, readable=readable)

    def use(self, passage: Passage) -> None:
        """From now on files may be lent through it."""
        self._lending.passage = passage

    def stand_behind(self, front: Front | None) -> None:
        """From now on it may take writes; None: no longer."""
        self._fronting.front = front

    def created(self, ino: int, inode: Inode) -> None:
        """A new file, as it is now, was opened for writing."""
        self._fronting.created(self._files[ino], inode)

    def prepare(self, ino: int) -> Stream | None:
        """See `Newborn.prepare`."""
        return self._newborn.prepare(ino)

    def unprepare(self, ino: int) -> None:
        """See `Newborn.unprepare`."""
        self._newborn.unprepare(ino)

    def born(self, ino: int, *, writable: bool) -> None:
        """See `Newborn.born`."""
        self._newborn.born(ino, writable=writable)

    def dated(self, ino: int, atime_ns: int | None, mtime_ns: int | None, time_ns: int) -> None:
        """As `set_times` on a file with unpublished bytes, where the log has it already."""
        self._files[ino].working.pending.set_times(atime_ns, mtime_ns, time_ns)

    def closable(self) -> tuple[int, int]:
        """How many bytes may be closed now without waiting, altogether and in one file."""
        return self._newborn.closable()

    def closed_ahead(self, ino: int, lease: LeaseId) -> None:
        """See `Newborn.closed_ahead`."""
        self._newborn.closed_ahead(ino, lease)

    def settle(self, ino: int) -> None:
        """All handles that the front has given out are gone again."""
        self._newborn.settle(ino)

    def reconsider(self, ino: int) -> None:
        """The inode's mode or extended attributes may have changed."""
        self._fronting.reconsider(ino)

    def taken(self, taken: Taken) -> None:
        """The front has stored bytes, and logged them."""
        self._files[taken.ino].working.taken(taken, trio.current_time())
        self._upkeep.wake()

    async def harvest(self, ino: int) -> int:
        """Find what was written unseen. A count that has moved where something was found."""
        file = self._files.get(ino)
        if file is None or file.working.backed is None:
            return 0
        await self._upkeep.images.harvest(file)
        return file.working.backed.found if file.working.backed is not None else 0

    def lags(self, ino: int) -> bool:
        """Whether what readers have been lent lacks what others have written."""
        file = self._files.get(ino)
        backed = None if file is None else file.working.backed
        return backed is not None and backed.stale and backed.reading > 0

    async def catch_up(self, ino: int) -> None:
        """Returns when what readers have been lent has what others have written. Raises what fetching raises."""
        if self.lags(ino):
            await self._upkeep.images.catch_up(self._files[ino])

    def unseen_writers(self, ino: int) -> frozenset[int]:
        """The users, but root, who may be writing to the file without the daemon."""
        return self._lending.writers(ino)

    def readahead(self) -> Readahead:
        """A new handle's state."""
        return Readahead(self._limits.readahead_first_bytes, self._limits.readahead_most_bytes, self._ahead)

    # -- attributes ---------------------------------------------------------------------------------------------------

    def attributes(self, ino: int, inode: Inode) -> Inode:
        """The inode as this mount sees it: size and times of the unpublished changes, where there are any."""
        file = self._files.get(ino)
        if file is None or file.lost:
            return inode
        working, unseen = file.working, file.working.written_unseen()
        if not working.dirty and unseen is None:
            return inode
        size = working.size_over(inode.size)
        mtime_ns, atime_ns, ctime_ns = inode.mtime_ns, inode.atime_ns, inode.ctime_ns
        layers = working.unpublished_over(inode)
        for layer in layers:
            mtime_ns = mtime_ns if layer.mtime_ns is None else layer.mtime_ns
            atime_ns = atime_ns if layer.atime_ns is None else layer.atime_ns
            ctime_ns = max(ctime_ns + 1, layer.ctime_ns) + layer.ops - 1  # as `apply` will have it
        if unseen is not None:
            assert working.backed is not None
            mtime_ns, changed_ns = working.backed.times(unseen)
            ctime_ns, held_bytes = max(ctime_ns, changed_ns), unseen.st_blocks * 512
        else:
            held_bytes = self._published_bytes(ino, inode, layers) + sum(layer.dirty.total_bytes for layer in layers)
        allocated = min(size, held_bytes)
        return msgspec.structs.replace(
            inode, size=size, allocated=allocated, mtime_ns=mtime_ns, atime_ns=atime_ns, ctime_ns=ctime_ns
        )

    def _published_bytes(self, ino: int, inode: Inode, layers: Sequence[Pending]) -> int:
        """What of the inode's allocated bytes unpublished holes and truncates have left."""
        if not any(layer.cuts for layer in layers):
            return inode.allocated
        with self._session.view() as txn:
            return max(0, inode.allocated - holes.hidden_bytes(Rows(txn), ino, layers))

    def seek(self, ino: int, offset: int, *, data: bool) -> int | None:
        """See `holes.seek`. Raises PosixError ESTALE."""
        with self._session.view() as txn:
            rows = Rows(txn)
            inode = rows.inode(ino)
            if inode is None:
                raise PosixError(errno.ESTALE)
            return holes.seek(rows, ino, self._working(ino), offset, inode.size, data=data)

    def data_bytes(self, ino: int, start: int, end: int) -> int:
        """How many bytes of [start, end) take space."""
        with self._session.view() as txn:
            return holes.data_bytes(Rows(txn), ino, self._working(ino), start, end)

    def _working(self, ino: int) -> WorkingFile | None:
        file = self._files.get(ino)
        return None if file is None else file.working

    def set_times(self, ino: int, atime_ns: int | None, mtime_ns: int | None) -> bool:
        """utimensat. True: the file has unpublished changes and the times go out with them. False: nothing was done,
        the caller commits them itself."""
        file = self._files.get(ino)
        if file is None or not (file.working.dirty or (not file.lost and file.working.written_unseen() is not None)):
            return False
        with local_disk():  # also when all of it is on its way: that WRITE has older times, and comes after the caller
            file.working.set_times(atime_ns, mtime_ns, self._session.environment.wall_ns())
        return True

    def carries_ctime(self, ino: int) -> bool:
        """Whether the file has unpublished bytes, none of them on their way: the op that publishes them sets ctime."""
        file = self._files.get(ino)
        if file is None or file.working.backed is not None:  # what a kernel writes is not known yet
            return False
        return bool(file.working.pending.dirty) and file.working.captured is None

    def changed(self, ino: int, time_ns: int) -> None:
        """The inode's attributes changed at that time: the op that publishes the bytes will say so."""
        file = self._files.get(ino)
        if file is not None and file.working.dirty:
            with local_disk():
                file.working.set_times(None, None, time_ns)

    # -- writing ------------------------------------------------------------------------------------------------------

    async def write(self, ino: int, offset: int, data: Buffer) -> int:
        """Write into the working file. Waits while there is no room for unpublished bytes. Returns the number of
        bytes."""
        view = memoryview(data).cast("B")
        length = len(view)
        self._upkeep.check()
        if not length:
            return 0
        if not self._room.admit_at_once(length):
            await self._room.admit(length, self._upkeep.hurry)
            self._upkeep.check()
        file = self._writable(ino)
        working = file.working
        with local_disk(), working.changing(offset, offset + length):
            if length <= self._limits.inline_bytes and not file.storing.locked():
                working.store(offset, view)
                working.written(offset, offset + length, self._session.environment.wall_ns(), trio.current_time())
                self._fronting.wrote(file)
            else:
                async with file.storing:
                    self._check(file)
                    await self._store(working, offset, view)
                    working.written(offset, offset + length, self._session.environment.wall_ns(), trio.current_time())
        if (offset + length) // self._sizes.object_bytes != offset // self._sizes.object_bytes:
            self._upkeep.settled(file)
        self._upkeep.wake()
        return length

    async def _store(self, working: WorkingFile, offset: int, view: memoryview) -> None:
        """Into the local file, by who has `storing`; in a worker thread where it is much."""
        if len(view) <= self._limits.inline_bytes:
            working.store(offset, view)
        else:
            working.touch(offset, offset + len(view), trio.current_time())
            await self._session.environment.run(working.store, offset, view)

    async def truncate(self, ino: int, size: int) -> None:
        """Set the size, down or up. In the journal with the next publish of the file."""
        self._upkeep.check()
        file = self._writable(ino)
        await self._harvest_before(file, size)
        async with file.storing:
            self._check(file)
            with local_disk():
                file.working.truncate(size, self._session.environment.wall_ns(), trio.current_time())
        self._upkeep.wake()

    async def punch(self, ino: int, offset: int, length: int) -> None:
        """Make a hole; the size stays. In the journal with the next publish of the file."""
        self._upkeep.check()
        file = self._writable(ino)
        async with file.storing:
            self._check(file)
            end = min(offset + length, self._size(file))
            if offset < end:
                with local_disk():
                    file.working.punch(offset, end, self._session.environment.wall_ns(), trio.current_time())
                    await self._session.environment.run(file.working.free, offset, end)
        self._room.freed()
        self._upkeep.wake()

    async def extend(self, ino: int, size: int) -> None:
        """The size becomes `size` where it is less; mtime moves in any case. In the journal with the next publish."""
        self._upkeep.check()
        file = self._writable(ino)
        await self._harvest_before(file, size)
        async with file.storing:
            self._check(file)
            least = size if self._size(file) < size else 0  # else it would undo another's truncate
            with local_disk():
                file.working.extend(least, self._session.environment.wall_ns(), trio.current_time())
        self._upkeep.wake()

    async def _harvest_before(self, file: OpenFile, size: int) -> None:
        """The file becomes so long: where its data have ended until now cannot be told afterwards."""
        working = file.working
        if working.backed is not None and working.status().st_size < size:
            await self._upkeep.images.harvest(file)

    async def clone(self, source: int, source_offset: int, ino: int, offset: int, length: int) -> int:
        """See `Cloner.clone`; both inodes are open."""
        self._upkeep.check()
        file = self._files[ino]
        count = await self._cloner.clone(self._files[source], source_offset, file, offset, length)
        self._lending.outdated(file)
        await self.catch_up(ino)
        return count

    def _size(self, file: OpenFile) -> int:
        with self._session.view() as txn:
            inode = Rows(txn).inode(file.ino)
        return file.working.size_over(0 if inode is None else inode.size)

    def _writable(self, ino: int) -> OpenFile:
        """The file, with the version noted that its first unpublished change is made on. Raises PosixError ESTALE, and
        as `_check`."""
        file = self._file(ino)
        self._check(file)
        if not file.working.dirty:
            with self._session.view() as txn:
                inode = Rows(txn).inode(ino)
            if inode is None:
                self._upkeep.retire(file)
                raise PosixError(errno.ESTALE)
            if file.working.backed is None:
                file.working.base_version = inode.version
        with local_disk():
            self._lending.expect_writers(file)
        return file

    def _check(self, file: OpenFile) -> None:
        """Raises why nothing that is stored now would ever be published: the session was ended, or what handles that
        are still open wrote before is lost (R10). To be asked again once the file's `storing` is had, since what is
        stored after a spill would be in neither."""
        self._upkeep.check()
        if file.lost and file.failure is not None:
            raise again(file.failure)

    async def append(self, ino: int, data: Buffer) -> int:
        """Add bytes at the end of the file, wherever that is when the record is applied: never over another node's
        appends. Returns the offset; after the record, or at once where a lease allows it. At most one object's size."""
        view = memoryview(data).cast("B")
        self._upkeep.check()
        if (ahead := await self._append_ahead(ino, view)) is not None:
            return ahead
        await self.publish(ino)  # what this mount wrote before comes before
        with self._session.view() as txn:
            inode = Rows(txn).inode(ino)
        if inode is not None and not inode.nlink:  # nobody else can add to it, and its bytes stay here
            offset = self.attributes(ino, inode).size
            await self.write(ino, offset, view)
            return offset
        most = self._sizes.object_bytes
        places = [await self._append_one(ino, view[at : at + most]) for at in range(0, len(view), most)]
        file = self._files.get(ino)
        if file is not None:
            self._lending.outdated(file)
            await self.catch_up(ino)
        return places[0] if places else 0 if inode is None else inode.size

    async def _append_ahead(self, ino: int, view: memoryview) -> int | None:
        """Under a lease nobody else can come between: the end is where it is here, and the bytes follow as those of a
        close do, naming the lease. None: the append has to wait for its record."""
        await self._room.admit(len(view), self._upkeep.hurry)
        self._upkeep.check()
        file = self._writable(ino)
        deferral, working = self._upkeep.deferral, file.working
        if not view or not deferral.acknowledge(file, len(view)):
            return None
        async with file.storing:
            self._check(file)
            offset = self._size(file)
            end = offset + len(view)
            with local_disk(), working.changing(offset, end):
                if working.backed is not None:  # it has the size that the local file has: nothing may be stored in vain
                    if not deferral.acknowledge(file, len(view)):
                        return None
                    working.store(offset, view)
                else:
                    await self._store(working, offset, view)
                    if self._size(file) != offset or not deferral.acknowledge(file, len(view)):
                        return None
                working.written(offset, end, self._session.environment.wall_ns(), trio.current_time())
        self._upkeep.wake()
        return offset

    async def _append_one(self, ino: int, view: memoryview) -> int:
        def fill(body: memoryview) -> None:
            body[:] = view

        def ops_at(pack: bytes, offset: int) -> list[AnyOp]:
            now_ns = self._session.environment.wall_ns()
            return [Append(ino, len(view), pack, offset, now_ns, now_ns)]

        file = self._file(ino)
        file.committing += 1
        try:
            (verdict,) = await self.packer.send(Parcel(len(view), fill, ops_at))
            while verdict.errno == COVERED:  # another session's lease: it gives it back, and then it counts
                await self._session.fresh(0)
                await self._session.clear(ino)
                (verdict,) = await self.packer.send(Parcel(len(view), fill, ops_at))
        finally:
            file.committing -= 1
            self._upkeep.retire(file)
        if verdict.errno:
            raise PosixError(verdict.errno)
        return verdict.value

    # -- publishing ---------------------------------------------------------------------------------------------------

    async def publish(self, ino: int) -> None:
        """fsync, flush, close: returns when everything written so far is in the journal. Raises what kept it from being
        there; the bytes are kept and tried again in the background, and the failure is raised by every call until
        they are there or it is acknowledged (R10)."""
        file = self._files.get(ino)
        if file is not None:
            await self._upkeep.publish(file)
            self._upkeep.tell(file)

    async def close(self, ino: int) -> None:
        """As `publish`; where a lease allows it and little is left, at once: the bytes follow together with the names
        that were acknowledged before."""
        file = self._files.get(ino)
        if file is not None:
            await self._upkeep.close(file)
            self._upkeep.tell(file)

    def close_at_once(self, ino: int) -> bool:
        """As `close`, where there is nothing to wait for and nothing to report. False: nothing was done."""
        file = self._files.get(ino)
        return file is None or self._upkeep.close_at_once(file)

    def release_at_once(self, ino: int) -> bool:
        """As `close_at_once`, when a handle ends after its last close."""
        file = self._files.get(ino)
        return file is None or self._upkeep.release_at_once(file)

    async def publish_all(self) -> None:
        """sync and umount: every file. Raises the first failure after having tried all of them."""
        await self._upkeep.publish_all()

    def failure(self, ino: int) -> S3vfsError | None:
        """Why the last publish of the inode failed, while its bytes are not in the journal (R10)."""
        file = self._files.get(ino)
        return None if file is None else file.failure or file.untold

    def acknowledge(self, ino: int) -> None:
        """The user has seen the failure: stop reporting it. Unpublished bytes that can still go on do."""
        file = self._files.get(ino)
        if file is not None:
            file.failure = file.untold = None
            self._upkeep.retire(file)

    def status(self) -> dict[str, Any]:
        """Figures and failures, in plain values."""
        return {
            "unpublished_bytes": self._room.unpublished_bytes,
            "unpublished_files": sum(file.working.dirty for file in self._files.values()),
            "uploads_in_flight": self.uploader.buffers.outstanding,
            "objects_put": self.uploader.puts,
            "bytes_put": self.uploader.put_bytes,
            "packs": self.packer.packs + self._upkeep.deferral.packs,
            "acknowledged_closes": self._upkeep.deferral.closes,
            "fetch": msgspec.to_builtins(self.fetcher.counters),
            "neighbours": {"guessed": self.neighbours.guessed, "right": self.neighbours.right},
            "cache": msgspec.to_builtins(self.cache.counters) | {"used_bytes": self.cache.used_bytes},
            "waiting_writers": self._room.waiting,
            "lent": {
                "files": sum(file.working.backed is not None for file in self._files.values()),
                "handles": sum(file.working.backed.carried for file in self._files.values() if file.working.backed),
                "read_opens": self._lending.read_opens,
                "write_opens": self._lending.write_opens,
            },
            "failures": [
                {
                    "ino": file.ino,
                    "path": os.fsdecode(self._path(file.ino)),
                    "error": str(error),
                    "lost": file.lost or file.untold is not None,
                }
                for file in self._files.values()
                if (error := file.failure or file.untold) is not None
            ],
        }

    # -- reading ------------------------------------------------------------------------------------------------------

    async def read(self, ino: int, offset: int, length: int, readahead: Readahead | None = None) -> Buffer:
        """Up to `length` bytes; fewer only at the end of the file. Holes are zeros."""
        return await self._reader.read(ino, offset, length, readahead)

    # -- what others do -----------------------------------------------------------------------------------------------

    def _changed(self, changes: Changes, own: bool) -> None:
        for ino in changes.contents:
            file = self._files.get(ino)
            if file is not None and not (own and (file.committing or file.working.captured is not None)):
                file.working.changed_elsewhere()
                self._lending.outdated(file)
        for ino in changes.inodes & self._files.keys():
            if not own:
                self._note_size(self._files[ino])
                self._fronting.reconsider(ino)
        for ino in changes.orphans & self._files.keys():
            self._note_links(self._files[ino])

    def _note_size(self, file: OpenFile) -> None:
        """A size may change without any contents."""
        backed = file.working.backed
        if backed is not None:
            with self._session.view() as txn:
                inode = Rows(txn).inode(file.ino)
            if inode is not None and inode.size != backed.origin.size:
                self._lending.outdated(file)

    def _note_links(self, file: OpenFile) -> None:
        with self._session.view() as txn:
            inode = Rows(txn).inode(file.ino)
        file.orphan = inode is None or not inode.nlink

    def _reloaded(self) -> None:
        for file in self._files.values():
            file.working.changed_elsewhere()
            self._fronting.reconsider(file.ino)
            self._lending.outdated(file)
            self._note_links(file)

    def _path(self, ino: int) -> bytes:
        with self._session.view() as txn:
            return path_of(Rows(txn), ino)
