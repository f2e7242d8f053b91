"""The pattern of every mutation: evaluate on a view, try the op, commit it, evaluate again where another was faster.

The journal's order is the only arbiter. So a call that looks possible is committed at once, without asking first
whether the view is young: the op says what its author saw. A refusal, on the other hand, is final only on a view that
includes everything committed before the call began.
"""

from __future__ import annotations

import errno
import stat
from collections.abc import Callable, Collection
from itertools import islice

from s3vfs.errors import PosixError, ReadOnly
from s3vfs.filesystem.callers import supplementary_groups
from s3vfs.filesystem.contracts import FileContents, FilesystemSession, Found
from s3vfs.filesystem.orphans import Orphans
from s3vfs.filesystem.removed import RemovedDirectories
from s3vfs.namespace.apply import apply_op
from s3vfs.namespace.limits import COVERED_LINKS_MAX
from s3vfs.namespace.ops import (
    AnyOp,
    Create,
    Link,
    NumberedOp,
    Removexattr,
    Rename,
    Rmdir,
    Setattr,
    Setxattr,
    Unlink,
    inodes_of,
)
from s3vfs.namespace.rows import Inode, Rows
from s3vfs.namespace.scratch import ScratchTransaction
from s3vfs.namespace.verdict import COVERED, OK, STALE, Context, Verdict

# Lost evaluations in a row before a call gives up. Each means that another client changed the very same name meanwhile.
ATTEMPTS = 50
# How old a view may be for attributes that are read by inode (DESIGN 7: at most 1 s old).
ATTRIBUTES_WITHIN_S = 1.0


class NeedsInodeNumber(Exception):
    """An evaluation found no inode number to take: reserve some and evaluate again."""


class Core:
    """What all calls share. Every topic of `Filesystem` extends this."""

    def __init__(
        self,
        session: FilesystemSession,
        contents: FileContents,
        *,
        read_only: bool = False,
        groups_of: Callable[[int], Collection[int]] = supplementary_groups,
    ) -> None:
        """`groups_of`: the supplementary groups of a thread."""
        self._groups_of = groups_of
        self._session = session
        self._contents = contents
        self._read_only = read_only
        self._orphans = Orphans(session)
        # Whether a caller was just told of this inode and comes back for it, whatever has become of its name.
        self.expected: Callable[[int], bool] = lambda ino: False
        # Whether the kernel walks a path for the second time somewhere: what it is told then is remembered.
        self.walked: Callable[[], bool] = lambda: False
        self._removed = RemovedDirectories()

    @property
    def read_only(self) -> bool:
        return self._read_only

    async def keep_orphans(self) -> None:
        """To be run beside the calls, until cancelled: HOLD and DROP for files that are open without a name."""
        if not self._read_only:
            await self._orphans.run()

    def _now_ns(self) -> int:
        return self._session.environment.wall_ns()

    def _require_writable(self) -> None:
        if self._read_only:
            raise ReadOnly("the mount is read-only")

    async def _commit(
        self, evaluate: Callable[[Rows], AnyOp | None], *inos: int, ctime_follows: bool = False
    ) -> Verdict:
        """Commit the op that `evaluate` builds from a view of `inos`; None: there is nothing to do. Returns at once
        where leases allow it, else when its record has been applied; it then asks for the lease of the directory.

        `ctime_follows`: see `FilesystemSession.acknowledge`. `evaluate` may raise PosixError, runs without a
        checkpoint, and may be run again on a newer view. Raises the errno of a refusal, ReadOnly, SessionFenced,
        StoreUnreachable.
        """
        self._require_writable()
        young = False
        for _ in range(ATTEMPTS):
            op: AnyOp | None = None
            refusal = self._session.refusal()  # apply would call such a session's ops outdated
            if refusal is not None:
                raise refusal
            try:
                with self._session.view() as txn:
                    op = evaluate(Rows(txn))
                if op is None:
                    return OK
                verdict = self._session.acknowledge(op, ctime_follows=ctime_follows)
                if verdict is not None:
                    if verdict.errno:
                        raise PosixError(verdict.errno)
                    return verdict
                with self._session.view() as txn:
                    self._try(ScratchTransaction(txn), op)
                    wishes = self._session.wish(Rows(txn), _directories_of(Rows(txn), op))
            except PosixError as error:
                if error.errno == COVERED and op is not None:
                    await self._session.clear(*inodes_of(op))
                    continue
                if young:
                    raise
                await self._session.reach(*inos, within_s=0)
                young = True
                continue
            except NeedsInodeNumber:
                await self._session.reserve_inos()
                continue
            verdict = (await self._session.commit([*wishes, op]))[-1]
            if not verdict.errno:
                return verdict
            if verdict.errno == COVERED:
                await self._session.clear(*inodes_of(op))
            elif verdict.errno != STALE:
                raise PosixError(verdict.errno)
            young = True  # the view includes the record that this op lost against
        raise PosixError(errno.EAGAIN, "others change the same names all the time")

    def _try(self, scratch: ScratchTransaction, op: AnyOp) -> None:
        """What apply would say to `op` now; sending a record only to be refused would cost the bucket's time."""
        context = Context(seq=0, index=0, sid=self._session.sid, incarnation=self._session.incarnation)
        verdict = apply_op(scratch, NumberedOp(0, None, op), context)
        if verdict.errno:
            raise PosixError(verdict.errno)

    def _inode(self, rows: Rows, ino: int) -> Inode:
        """The inode's row, or what a directory was that has been removed through this mount. Raises ESTALE for one that
        is gone otherwise, or that no name leads to, nobody here has open and nobody is expected to: whoever came by a
        name then looks that name up again."""
        inode = rows.inode(ino)
        if inode is None and (removed := self._removed.get(ino)) is not None:
            return removed
        if inode is None or (inode.nlink == 0 and not self._orphans.is_open(ino) and not self.expected(ino)):
            raise PosixError(errno.ESTALE)
        return inode

    def _found(self, rows: Rows, ino: int) -> Found:
        return Found(ino, self._contents.attributes(ino, self._inode(rows, ino)))

    def _look(self, ino: int) -> Found:
        """As `_found`, on a view of its own."""
        with self._session.view() as txn:
            return self._found(Rows(txn), ino)


def _directories_of(rows: Rows, op: AnyOp) -> list[int]:
    """The directories whose lease would cover what the op touches."""
    match op:
        case Create() | Link() | Unlink() | Rmdir():
            return [op.parent]
        case Rename():
            return [op.parent, op.new_parent]
        case Setattr() | Setxattr() | Removexattr():
            inode = rows.inode(op.ino)
            if inode is not None and is_directory(inode):
                return [op.ino]
            return [parent for parent, _ in islice(rows.links(op.ino), COVERED_LINKS_MAX)]
    return []


def is_directory(inode: Inode) -> bool:
    return stat.S_ISDIR(inode.mode)
