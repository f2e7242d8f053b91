"""Local files that the kernel uses by itself: who is served so, and what keeps that right (DESIGN 8, "Working files").

*Who.* A writer of a file that it has just created gets the working file. A reader gets the file that the cache has of
the inode, where that is whole and verified: it becomes the working file for as long as it is lent, and goes back
afterwards, both by rename. The kernel holds one mode for each inode until its last handle is gone, so whoever opens it
meanwhile gets the same file, and nobody does who comes while others are served through the daemon.

*Others' changes* cannot be shown to new handles alone. So they are written into the file itself, before an open, a
lock or a stat that includes them is answered. Old handles see them then, too: earlier than they must, which is allowed.
(A new node id for new handles, as the namespace would allow, would split the kernel's pages, locks and attributes of
one inode.)

*What was written* is found at fsync, flush, release, and every now and then, by reading (`images`).

*The end* (R14). Only when nobody here has it open, the kernel's number is withdrawn, our own descriptors are closed,
and the kernel grants a read lease on the file, no writer can exist any more. Then it is read once more; what holds
becomes cache again or is deleted.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Awaitable, Callable

import trio

from s3vfs.data.backed import NEVER, Backed, Seal, scan
from s3vfs.data.cache import Cache, Claim
from s3vfs.data.failures import again, local_disk
from s3vfs.data.images import Images
from s3vfs.data.layout import Part, file_entry
from s3vfs.data.openfile import OpenFile
from s3vfs.data.origin import Origin
from s3vfs.data.protocol import MIB, DataSession, Lent, Limits, Passage, Sizes
from s3vfs.data.ranges import RangeSet
from s3vfs.data.room import Room
from s3vfs.errors import S3vfsError
from s3vfs.namespace.accounting import exceeds_quota
from s3vfs.namespace.rows import Rows

_log = logging.getLogger(__name__)

# Smaller files are read in fewer requests than lending them would save; most of them lie in packs anyway.
LEAST_BYTES = MIB
# A tail in a pack is copied when its file is lent: so much at most.
_MOST_COPIED_BYTES = 8 * MIB
# Nobody holds writers back who do not pass here: with less than this left of the quota, or of the disk beyond its
# reserve, they have to.
_ROOM_BYTES = 1024 * MIB
# A reader's file stays lent for so long after the last handle, for the next one.
_LINGER_S = 2.0
# How often files in use are looked at, and those whose last writer is not gone.
_LOOK_S = 1.0
_FIRST_PAUSE_S = 0.25
# Reading large files through takes no more than a twentieth of the time.
_SHARE = 20
_LONGEST_PAUSE_S = 5.0


class Lending:
    """One for each `Contents`. `harvest`: as that of images, and what is lost is seen to. `forget(file)`: nothing of
    the file is kept here any more."""

    def __init__(
        self,
        session: DataSession,
        cache: Cache,
        images: Images,
        harvest: Callable[[OpenFile], Awaitable[None]],
        files: dict[int, OpenFile],
        room: Room,
        sizes: Sizes,
        limits: Limits,
        forget: Callable[[OpenFile], None],
    ) -> None:
        self._session = session
        self._cache = cache
        self._images = images
        self._harvest = harvest
        self._files = files
        self._room = room
        self._sizes = sizes
        self._limits = limits
        self._forget = forget
        self._work = trio.Event()
        self.passage: Passage | None = None
        self.read_opens = self.write_opens = 0

    # -- opens --------------------------------------------------------------------------------------------------------

    async def lend(
        self, file: OpenFile, *, readable: bool, writable: bool, direct: bool, created: bool, uid: int
    ) -> Lent | None:
        """See `filesystem.contracts.FileContents.lend`."""
        while True:
            if file.lost and file.failure is not None:
                raise again(file.failure)
            if readable:
                await self._images.catch_up(file)
            async with file.storing:
                backed = file.working.backed
                if backed is not None and backed.stale and readable:
                    continue
                if backed is not None and writable:
                    backed = self._give_back(file, backed)
                if backed is None and not (writable or created or direct or file.cached) and self._available():
                    await self._claim(file)
                # No checkpoint from here on.
                trusted = writable and self._may_be_written(file.ino)
                if created and trusted and not direct:
                    self._begin(file)
                lent = self._number(file, writable=writable, trusted=trusted, direct=direct, uid=uid)
                if lent is None:
                    file.cached += 1
                elif readable and file.working.backed is not None:
                    file.working.backed.reading += 1
                return lent

    def returned(self, file: OpenFile, *, lent: bool, readable: bool) -> None:
        """A handle is gone."""
        if not lent:
            file.cached -= 1
            assert file.cached >= 0
            return
        backed = file.working.backed
        if backed is not None:
            backed.carried -= 1
            backed.reading -= readable
            assert backed.carried >= backed.reading >= 0

    def _available(self) -> bool:
        return self.passage is not None and self.passage.available

    def _number(self, file: OpenFile, *, writable: bool, trusted: bool, direct: bool, uid: int) -> Lent | None:
        backed = file.working.backed
        if backed is None or file.cached or not self._available():
            return None
        assert self.passage is not None
        if writable and not trusted:
            if not backed.carried:
                return None
            direct = True
        try:
            if writable:
                self._expect_writers(file, backed)
            if not backed.number:
                fd = os.open(file.working.path, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    backed.number = self.passage.register(fd)
                finally:
                    os.close(fd)
        except OSError as error:
            if backed.carried:
                raise
            _log.warning("inode %d is not lent to the kernel: %s", file.ino, error)
            return None
        backed.carried += 1
        if writable and uid:
            backed.uids.add(uid)
        if writable:
            self.write_opens += 1
        else:
            self.read_opens += 1
        self._work.set()
        return Lent(backed.number, direct)

    def _give_back(self, file: OpenFile, backed: Backed) -> Backed | None:
        """A writer comes whom the daemon serves, and no reader has the file any more: then it need not be whole, and
        nothing has to be looked for in it."""
        if backed.writable or backed.carried or backed.stale or self._may_be_written(file.ino):
            return backed
        try:
            fd = self._lease(file, backed)
        except OSError as error:
            _log.warning("inode %d does not become cache again: %s", file.ino, error)
            return backed
        if fd is None:
            return backed
        os.close(fd)
        self._become_cache(file, backed)
        return None

    def _may_be_written(self, ino: int) -> bool:
        """Whether a kernel may write to it unseen: it would not clear what a write clears, and knows no bounds."""
        if (
            self.passage is None
            or not self.passage.writes
            or self._session.refusal() is not None
            or self._room.scarce(_ROOM_BYTES)
        ):
            return False
        with self._session.view() as txn:
            rows = Rows(txn)
            inode = rows.inode(ino)
            return (
                inode is not None
                and not inode.mode & 0o6000
                and rows.xattr(ino, b"security.capability") is None
                and not exceeds_quota(rows, _ROOM_BYTES, 0)
            )

    def _begin(self, file: OpenFile) -> None:
        """A file that has just been created: its working file is whole, being empty."""
        working = file.working
        if working.backed is not None or working.dirty or not self._available():
            return
        with self._session.view() as txn:
            rows = Rows(txn)
            inode = rows.inode(file.ino)
            if inode is None or inode.size or file.cached:
                return
            origin = Origin.of(rows, file.ino, inode)
        working.base_version = inode.version
        try:
            state = os.fstat(working.open())
            if state.st_size:  # only then: ext4 writes a file to disk at its close that was truncated to nothing
                os.ftruncate(working.open(), 0)
                state = working.status()
            backed = Backed(self._sizes.sector_bytes, origin, floor_ns=inode.ctime_ns)
            backed.seal = Seal.of(state)
            working.backed = backed
        except OSError as error:
            _log.warning("inode %d is not lent to the kernel: %s", file.ino, error)

    def _expect_writers(self, file: OpenFile, backed: Backed) -> None:
        """Before anybody can write: durably marked, so that a restart looks. Raises OSError."""
        if backed.writable:
            return
        working = file.working
        with self._session.view() as txn:
            rows = Rows(txn)
            inode = rows.inode(file.ino)
            if inode is not None and not backed.stale:
                working.base_version = inode.version
            backed.sums = backed.origin.own_sums(rows, self._sizes.sector_bytes)
        backed.seal = Seal.of(working.status())
        working.mark_backed()
        backed.writable = True
        if backed.origin.pieces:
            backed.pins.enter_context(self._session.pin())

    def expect_writers(self, file: OpenFile) -> None:
        """Before the daemon itself changes a file that is lent to readers. Raises OSError."""
        if file.working.backed is not None:
            self._expect_writers(file, file.working.backed)

    def writers(self, ino: int) -> frozenset[int]:
        """The users, but root, who may be writing to the file unseen."""
        file = self._files.get(ino)
        backed = None if file is None else file.working.backed
        return frozenset() if backed is None else frozenset(backed.uids)

    def outdated(self, file: OpenFile) -> None:
        """The inode has another version than the file's."""
        if file.working.backed is not None:
            file.working.backed.stale = True
            self._work.set()

    # -- cache files --------------------------------------------------------------------------------------------------

    async def _claim(self, file: OpenFile) -> None:
        """Take the cache's file of the inode's present version, if that is whole and verified."""
        working = file.working
        plan = self._plan(file)
        if plan is None:
            return
        origin, claim, rest = plan
        copies: list[tuple[int, bytes]] = []
        for part in rest:
            assert part.unit is not None
            whole = await self._session.environment.run(self._cache.find, part.unit)
            if whole is None:
                return
            copies.append((part.start, whole[part.skip : part.skip + part.end - part.start]))
        with self._session.view() as txn:
            inode = Rows(txn).inode(file.ino)
        if inode is None or inode.version != origin.version or not _untouched(file):
            return
        claimed_bytes = self._cache.claim(claim, working.path)
        if claimed_bytes is None:
            return
        working.taken_over()
        try:
            fd = working.open()
            for start, data in copies:
                working.store(start, data)
            os.ftruncate(fd, origin.size)
        except OSError as error:
            _log.warning("inode %d is not lent to the kernel: %s", file.ino, error)
            self._cache.returned(claimed_bytes)
            with local_disk():
                working.remove()
            return
        working.close()
        backed = Backed(self._sizes.sector_bytes, origin, seal=Seal.of(working.status()), claimed_bytes=claimed_bytes)
        working.backed = backed
        working.base_version = inode.version

    def _plan(self, file: OpenFile) -> tuple[Origin, Claim, list[Part]] | None:
        """What to take, and the parts of the file that lie in packs."""
        if not _untouched(file):
            return None
        with self._session.view() as txn:
            rows = Rows(txn)
            inode = rows.inode(file.ino)
            if inode is None or inode.size < LEAST_BYTES:
                return None
            name = file_entry(file.ino, inode.version)
            if not self._cache.holds(name):
                return None
            origin = Origin.of(rows, file.ino, inode)
            sums = origin.own_sums(rows, self._sizes.sector_bytes)
            rest = RangeSet((piece.start, piece.end) for piece in origin.pieces)
            for sector, (length, _) in sums.items():
                rest.remove(sector * self._sizes.sector_bytes, sector * self._sizes.sector_bytes + length)
            if rest.total_bytes > _MOST_COPIED_BYTES:
                return None
            parts = [
                part
                for start, end in rest
                for part in origin.parts(rows, start, end, self._sizes.sector_bytes)
                if part.unit is not None
            ]
        return origin, Claim(name, {sector: checksum for sector, (_, checksum) in sums.items()}), parts

    # -- the end ------------------------------------------------------------------------------------------------------

    def idle(self, file: OpenFile) -> None:
        """Nobody has the file open, and nothing of it is unpublished as far as is known. Small ones end at once."""
        backed = file.working.backed
        assert backed is not None
        backed.idle_since_s = trio.current_time()
        if file.storing.locked():
            self._work.set()
            return
        with self._session.view() as txn:
            inode = Rows(txn).inode(file.ino)
        if inode is None or not inode.nlink or file.lost:
            # Its bytes go with it, or are spilled: whoever still writes to it can be found by nobody.
            self._withdraw(backed)
            self._remove(file, backed)
            return
        try:
            if backed.writable and not backed.stale and file.working.status().st_size <= self._limits.inline_bytes:
                fd = self._lease(file, backed)
                if fd is not None:
                    self._end_small(file, backed, fd)
                    return
        except OSError as error:
            _log.warning("inode %d: its local file is looked at again: %s", file.ino, error)
        self._work.set()

    def _end_small(self, file: OpenFile, backed: Backed, fd: int) -> None:
        """`fd` holds a read lease on it."""
        try:
            state = os.fstat(fd)
            seen, _ = scan(fd, state.st_size, self._sizes.sector_bytes)
        finally:
            os.close(fd)
        if backed.unlike(seen) or state.st_size != backed.origin.size:
            backed.seal = NEVER
            self._work.set()
        else:
            self._let_go(file, backed)

    def _withdraw(self, backed: Backed) -> None:
        number, backed.number = backed.number, 0
        if number and self.passage is not None:
            try:
                self.passage.withdraw(number)
            except OSError as error:  # the kernel keeps it, then, until the mount ends
                _log.warning("a file stays registered with the kernel: %s", error)

    def _lease(self, file: OpenFile, backed: Backed) -> int | None:
        """R14: withdraw the number, close our own descriptors, and ask the kernel for a read lease, which it refuses
        while a writer or a writable mapping lives. A descriptor that holds it. Raises OSError."""
        self._withdraw(backed)
        file.working.close()
        fd = os.open(file.working.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        except BlockingIOError:
            os.close(fd)
            backed.pause_s = min(max(2 * backed.pause_s, _FIRST_PAUSE_S), _LONGEST_PAUSE_S)
            backed.look_at_s = trio.current_time() + backed.pause_s
            return None
        except BaseException:
            os.close(fd)
            raise
        return fd

    async def settle(self, file: OpenFile) -> bool:
        """Try to end it: afterwards it is cache or gone. False: it is not clean, or there are writers."""
        backed = file.working.backed
        if backed is None or not file.idle or file.publishing.locked() or file.storing.locked():
            return True
        async with file.storing:
            with local_disk():
                fd = self._lease(file, backed)
                if fd is None:
                    return False
                try:
                    clean = await self._holds(file, backed, fd)
                finally:
                    os.close(fd)
            if not file.idle or file.working.backed is not backed:
                return True
            if clean:
                self._let_go(file, backed)
        return clean

    async def _holds(self, file: OpenFile, backed: Backed, fd: int) -> bool:
        """Whether the file, which nobody can write to, is what was published."""
        if not backed.writable:
            return True
        state = os.fstat(fd)
        file.loading += 1
        try:
            seen, _ = await self._session.environment.run(scan, fd, state.st_size, self._sizes.sector_bytes)
        finally:
            file.loading -= 1
        return not backed.unlike(seen) and state.st_size == backed.origin.size

    def _let_go(self, file: OpenFile, backed: Backed) -> None:
        """It is clean, nobody can write to it, and nobody has it open."""
        self._become_cache(file, backed)
        self._forget(file)

    def _become_cache(self, file: OpenFile, backed: Backed) -> None:
        """Cache again where it has sectors of its own, else nothing."""
        working = file.working
        with self._session.view() as txn:
            rows = Rows(txn)
            inode = rows.inode(file.ino)
            current = inode is not None and inode.nlink and inode.version == backed.origin.version
            sums = backed.origin.own_sums(rows, self._sizes.sector_bytes) if current and not backed.stale else {}
        working.close()
        self._cache.returned(backed.claimed_bytes)
        if sums and backed.origin.size >= self._sizes.sector_bytes:
            table = bytearray(8 * (max(sums) + 1))
            for sector, (_, checksum) in sums.items():
                table[8 * sector : 8 * sector + 8] = checksum
            held = working.status().st_blocks * 512
            self._cache.adopt(
                file_entry(file.ino, backed.origin.version), working.path, bytes(table), held, verified=True
            )
        with local_disk():
            working.remove()
        working.backed = None

    def _remove(self, file: OpenFile, backed: Backed) -> None:
        self._cache.returned(backed.claimed_bytes)
        with local_disk():
            file.working.remove()
        file.working.backed = None
        self._forget(file)

    def end(self) -> None:
        """The mount ends: what was lent to readers goes back. What may still have writers is found by the next one."""
        for file in list(self._files.values()):
            backed = file.working.backed
            if backed is None:
                continue
            if not backed.writable and file.idle:
                try:
                    fd = self._lease(file, backed)
                    if fd is not None:
                        os.close(fd)
                        self._let_go(file, backed)
                except OSError as error:
                    _log.warning("inode %d does not become cache again: %s", file.ino, error)
            backed.pins.close()

    # -- in the background --------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Look for what was written, and for files whose last writer is gone."""
        looking: set[int] = set()

        async def look(file: OpenFile) -> None:
            try:
                await self._look(file)
            finally:
                looking.discard(file.ino)

        async with trio.open_nursery() as nursery:
            while True:
                files = [file for file in self._files.values() if file.working.backed is not None]
                if not files:
                    self._work = trio.Event()
                    await self._work.wait()
                for file in files:
                    if file.ino not in looking:
                        looking.add(file.ino)
                        nursery.start_soon(look, file)
                await trio.sleep(_FIRST_PAUSE_S)

    async def _look(self, file: OpenFile) -> None:
        backed = file.working.backed
        now_s = trio.current_time()
        if backed is None or file.lost:
            return
        try:
            if not file.idle or file.orphan:
                if now_s >= backed.look_at_s and not file.storing.locked():
                    await self._images.harvest(file, quick=True)
                    took_s = trio.current_time() - now_s
                    backed.look_at_s = now_s + max(_LOOK_S, _SHARE * took_s)
                return
            if not backed.writable and now_s < backed.idle_since_s + _LINGER_S and not backed.stale:
                return
            if now_s >= backed.look_at_s and not await self.settle(file):
                # Somebody still writes, to mapped pages perhaps, of which no time tells.
                await self._harvest(file)
        except (S3vfsError, OSError) as error:
            backed.look_at_s = now_s + _LONGEST_PAUSE_S
            _log.warning("inode %d: its local file is looked at again: %s", file.ino, error)


def _untouched(file: OpenFile) -> bool:
    """Nothing but what the cache has is here of the file, and nobody is about to write."""
    working = file.working
    return not (
        file.writers
        or file.committing
        or file.cached
        or working.dirty
        or working.valid
        or working.backed is not None
        or file.publishing.locked()
    )
