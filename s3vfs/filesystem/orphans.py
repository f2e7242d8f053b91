"""Which inodes are open on this mount, and which of them the journal must keep although no name leads to them.

The wish is simple: an orphan that is open here is held by this session, any other is not. So there is no protocol of
steps: whatever happens (an own unlink, a foreign one, a close, a record that crossed) only marks the inode, and one
task compares wish and rows and appends what is missing.
"""

from __future__ import annotations

import logging

import trio

from s3vfs.errors import S3vfsError, SessionError
from s3vfs.filesystem.contracts import FilesystemSession
from s3vfs.namespace.changes import Changes
from s3vfs.namespace.ops import AnyOp, Drop, Hold
from s3vfs.namespace.rows import Rows, hold_key

_log = logging.getLogger(__name__)

# Ops in one commit: a process that ends may close thousands of unlinked files at once.
_BATCH_OPS = 1_000
_RETRY_S = 1.0


class Orphans:
    """Reference counts of open inodes, and the task that appends HOLD and DROP."""

    def __init__(self, session: FilesystemSession) -> None:
        self._session = session
        self._open: dict[int, int] = {}
        self._unlinked: set[int] = set()  # open ones that are known to be orphans
        self._marked: set[int] = set()
        self._wake = trio.Event()
        session.listen(self._hear, reloaded=self._hear_reload)

    def is_open(self, ino: int) -> bool:
        return ino in self._open

    def opened(self, ino: int, *, linked: bool = False) -> None:
        """`linked`: a name leads to it now, as the caller has just seen."""
        self._open[ino] = self._open.get(ino, 0) + 1
        if linked:
            return
        with self._session.view() as txn:
            if Rows(txn).orphan(ino) is not None:
                self._unlinked.add(ino)
                self._mark(ino)

    def closed(self, ino: int) -> None:
        """One handle less. After the last one of an orphan, its hold is dropped in the background."""
        count = self._open[ino] - 1
        if count:
            self._open[ino] = count
            return
        del self._open[ino]
        if ino in self._unlinked:
            self._unlinked.remove(ino)
            self._mark(ino)

    def _hear(self, changes: Changes, own: bool) -> None:
        for ino in changes.orphans:
            if ino in self._open:
                self._unlinked.add(ino)
            self._mark(ino)  # it may have been closed between its unlink and that op's record

    def _hear_reload(self) -> None:
        for ino in self._open:
            self._unlinked.add(ino)
            self._mark(ino)

    def _mark(self, ino: int) -> None:
        self._marked.add(ino)
        self._wake.set()

    async def run(self) -> None:
        """Until cancelled, or until the session has ended. Holds of this session's former life are dropped first."""
        with self._session.view() as txn:
            for ino in Rows(txn).held(self._session.sid):
                self._mark(ino)
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            while self._marked:
                batch = [self._marked.pop() for _ in range(min(len(self._marked), _BATCH_OPS))]
                ops = self._missing(batch)
                if not ops:
                    continue
                try:
                    await self._session.commit(ops)
                except SessionError as error:
                    _log.warning("open files without a name are no longer held: %s", error)
                    return
                except S3vfsError as error:
                    _log.warning("holding open files without a name: %s", error)
                    self._marked.update(batch)
                    await trio.sleep(_RETRY_S)

    def _missing(self, inos: list[int]) -> list[AnyOp]:
        ops: list[AnyOp] = []
        with self._session.view() as txn:
            rows = Rows(txn)
            for ino in inos:
                held = txn.get(hold_key(ino, self._session.sid)) is not None
                wanted = ino in self._open and rows.orphan(ino) is not None
                if wanted and not held:
                    ops.append(Hold(ino))
                elif held and not wanted:
                    ops.append(Drop(ino))
        return ops
