"""Files that the native front makes by itself (fuse/native/births.c), and what programs do to them at once.

Here is decided where it may: in directories under an own lease that may be relied on, that hand on neither group nor
ACL, and whose names it has been told; and what it says afterwards is done, as the calls themselves would have done it.
What may not be relied on any more it hears from the session, before it answers anything else.
"""

from __future__ import annotations

import logging
import math
import os
import stat
from itertools import islice

import trio

from s3vfs.data.protocol import Taken
from s3vfs.filesystem.contracts import Birth, Births, Caller, Found
from s3vfs.filesystem.core import is_directory
from s3vfs.filesystem.files import FileHandle
from s3vfs.filesystem.locks import Locks
from s3vfs.namespace.ops import Create, Setattr, SetattrMask
from s3vfs.namespace.rows import Rows
from s3vfs.session.front_log import CHANGED, CLOSED, MADE

_log = logging.getLogger(__name__)

RELEASED = 8  # beside the kinds of what is written down

# What the front may do is looked at again after this time, while it makes files: some ten of them.
_RELY_S = 0.005
# Names of one directory that the front is told: it keeps 16 bytes for each, and adds the new ones itself.
_MOST_NAMES = 2_000
# Files that are prepared: as many as a program makes before the next few can be.
_STOCK = 64
_STOCK_LOW = 32

_IDENTITY = SetattrMask.MODE | SetattrMask.UID | SetattrMask.GID


class Newborns(Locks):
    """`ahead`: the front, where there is one that may make files."""

    ahead: Births | None = None
    _relied_s = -math.inf

    async def create(self, parent: int, name: bytes, mode: int, flags: int, caller: Caller) -> tuple[int, Found]:
        made = await super().create(parent, name, mode, flags, caller)
        self._offer(parent)
        return made

    async def mkdir(self, parent: int, name: bytes, mode: int, caller: Caller) -> Found:
        found = await super().mkdir(parent, name, mode, caller)
        self._offer(found.ino)
        return found

    async def getattr(self, ino: int) -> Found:
        found = await super().getattr(ino)
        if self.ahead is not None and is_directory(found.inode):
            self.ahead.show(*found)
        return found

    def _offer(self, directory: int) -> None:
        """Somebody has made something there, or the directory itself: more may follow."""
        ahead = self.ahead
        if ahead is None:
            return
        self.rely()
        if ahead.knows(directory):
            return
        lease = self._session.lease_of(directory)
        if lease is None:
            return
        with self._session.view() as txn:
            names = [name for name, _ in islice(Rows(txn).entries(directory), _MOST_NAMES + 1)]
            inode = Rows(txn).inode(directory)
        if len(names) <= _MOST_NAMES and inode is not None:
            ahead.directory(directory, lease, names)
            ahead.show(directory, inode)

    def rely(self, *, again: bool = True) -> None:
        """Let the front go on for as long as it may; without `again`, unless that was looked at a moment ago."""
        ahead = self.ahead
        assert ahead is not None
        now_s = trio.current_time()
        if not again and now_s < self._relied_s + _RELY_S:
            return
        self._relied_s = now_s
        until_ns = 0 if self.walked() else self._session.relied_on_until_ns()
        ahead.trust(until_ns, *self._contents.closable())
        if until_ns and ahead.stocked() < _STOCK_LOW:
            self._prepare(ahead)

    def _prepare(self, ahead: Births) -> None:
        for _ in range(_STOCK - ahead.stocked()):
            ino = self._session.take_new_ino()
            stream = None if ino is None else self._contents.prepare(ino)
            if stream is None:
                return
            ahead.stock(stream)

    def born(self, taken: Taken, birth: Birth) -> Found | None:
        """What the front has done. The inode as it is now, unless it is of no interest to a kernel. No checkpoint."""
        ino, contents = taken.ino, self._contents
        released = bool(birth.what & RELEASED)
        if birth.what & MADE:
            self._make_born(taken, birth, open_now=not released)
        if taken.ranges or taken.fd >= 0:
            contents.taken(taken)
        if birth.what & CHANGED:
            self._change_born(ino, birth)
        if birth.what & CLOSED:
            contents.closed_ahead(ino, birth.lease)
        if released and not birth.what & MADE:
            self.released(birth.handle)
        elif released:
            contents.settle(ino)
        return None if birth.given is None else self.peek(ino)

    def released(self, handle: int) -> None:
        """The front has answered the end of the handle. No checkpoint."""
        if not self.release_at_once(handle):
            trio.lowlevel.spawn_system_task(self._release_late, handle)

    async def _release_late(self, handle: int) -> None:
        """The end of a handle that has to wait for something: nobody waits for it."""
        try:
            await self.release(handle)
        except Exception as error:
            _log.warning("the end of a handle: %s", error)

    def _make_born(self, taken: Taken, birth: Birth, *, open_now: bool) -> None:
        assert birth.name is not None
        # What was set before the bytes leave may as well be so from the start: `namespace.folding`.
        mode, uid, gid = birth.now if taken.ranges else birth.made
        create = Create(birth.parent, birth.name, taken.ino, mode, uid, gid, 0, b"", birth.made_ns)
        self._session.answered(create, birth.lease)
        self._contents.born(taken.ino, writable=open_now)
        if open_now:
            self._orphans.opened(taken.ino, linked=True)
            self._files[birth.handle] = FileHandle(
                ino=taken.ino,
                readable=birth.flags & os.O_ACCMODE != os.O_WRONLY,
                writable=True,
                appends=False,
                caller=Caller(birth.made[1], birth.made[2]),
                readahead=self._contents.readahead(),
                privileges_settled=birth.made[1] == 0,
                direct=False,
                with_kernel=True,
            )

    def _change_born(self, ino: int, birth: Birth) -> None:
        mask, (mode, uid, gid) = birth.changed, birth.now
        atime_ns = birth.atime_ns if mask & SetattrMask.ATIME else None
        mtime_ns = birth.mtime_ns if mask & SetattrMask.MTIME else None
        follows = self._contents.carries_ctime(ino)
        if follows:
            mask = 0 if birth.what & MADE else mask & _IDENTITY
        if mask:
            permissions = stat.S_IMODE(mode) if mask & SetattrMask.MODE else 0
            uid, gid = uid if mask & SetattrMask.UID else 0, gid if mask & SetattrMask.GID else 0
            times = (0, 0) if follows else (atime_ns or 0, mtime_ns or 0)
            op = Setattr(ino, mask, permissions, uid, gid, 0, *times, birth.changed_ns)
            self._session.answered(op, birth.lease, ctime_follows=follows)
        if follows:
            self._contents.dated(ino, atime_ns, mtime_ns, birth.changed_ns)
