"""What POSIX calls need of the rooms below, and the plain values that go in and out of them. No I/O.

`session.Session` and `data.Contents` are the real ones; tests have small doubles.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from s3vfs.data.protocol import Lent as Lent
from s3vfs.data.protocol import Stream, Taken
from s3vfs.environment import Environment
from s3vfs.errors import S3vfsError
from s3vfs.namespace.changes import Changes
from s3vfs.namespace.ops import AnyOp
from s3vfs.namespace.rows import Inode, LeaseId, Rows
from s3vfs.namespace.transaction import ReadTransaction
from s3vfs.namespace.verdict import Verdict

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from s3vfs.session.batches import Group
    from s3vfs.session.eviction import Committed


class FilesystemSession(Protocol):
    """The part of a session that POSIX calls live on."""

    @property
    def sid(self) -> int: ...

    @property
    def incarnation(self) -> int: ...

    @property
    def environment(self) -> Environment: ...

    def refusal(self) -> S3vfsError | None:
        """Why nothing can be committed any more: SessionFenced or ReadOnly; None while it can."""
        ...

    def view(self) -> AbstractContextManager[ReadTransaction]:
        """Base and overlay, for synchronous use, never across an await."""
        ...

    async def fresh(self, within_s: float | None = None) -> None:
        """Returns when what was committed `within_s` ago (None: the mount's freshness) has been applied."""
        ...

    def covers(self, rows: Rows, ino: int) -> bool:
        """Whether an own lease, relied on now, says that these rows have all that anybody has been told of the
        inode."""
        ...

    async def reach(self, *inos: int, within_s: float | None = None) -> None:
        """Returns when the view has all that anybody has been told of these inodes and of their entries: as `fresh`,
        and after others have given back leases that cover them; at once where an own lease says so."""
        ...

    async def clear(self, *inos: int) -> None:
        """Returns when no other session's lease covers any of them, as far as this client knows."""
        ...

    def acknowledge(self, op: AnyOp, *, ctime_follows: bool = False) -> Verdict | None:
        """Take the op at once where leases allow it; a refusal is final then. None: commit it. `ctime_follows`: an op
        that leaves later will set the inode's ctime (`FileContents.changed`). No checkpoint."""
        ...

    def answered(self, op: AnyOp, lease: LeaseId, *, ctime_follows: bool = False) -> None:
        """Take an op that was answered a moment ago on the strength of that lease. No checkpoint."""
        ...

    def lease_of(self, directory: int) -> LeaseId | None:
        """The own lease under which files may be made in the directory without asking, if it may be relied on now."""
        ...

    def relied_on_until_ns(self) -> int:
        """How long own leases may be relied on without asking, by CLOCK_BOOTTIME; 0: not now."""
        ...

    def take_new_ino(self) -> int | None:
        """As `take_ino`, ahead of need: numbers are used in ascending order only, and `take_ino` gives these first."""
        ...

    def wish(self, rows: Rows, directories: Sequence[int]) -> list[AnyOp]:
        """Ops to commit before one that touches these directories, to have them leased from then on."""
        ...

    async def barrier(self, *inos: int) -> None:
        """Returns when all that was acknowledged is in the journal. EIO where such changes of these inodes were
        lost (R10)."""
        ...

    def require_kept(self, *inos: int) -> None:
        """Raises EIO where acknowledged changes of these inodes were lost (R10)."""
        ...

    async def commit(self, ops: Sequence[AnyOp]) -> list[Verdict]:
        """Enqueues before its first checkpoint; returns after the record with all of `ops` has been applied."""
        ...

    def enqueue(self, ops: Sequence[AnyOp]) -> Group:
        """The first half of `commit`, without a checkpoint. Raises SessionFenced, ReadOnly."""
        ...

    async def wait(self, group: Group) -> Committed:
        """The second half, with the seq of the record. After StoreUnreachable the ops may still take effect; cancelling
        gives up waiting only."""
        ...

    async def evict(self, sid: int, *, wait_s: float) -> bool:
        """End another session that answers no challenge within `wait_s`. False: it does, or there is none."""
        ...

    def look_every(self, who: object, interval_s: float | None) -> None:
        """From now on `who` needs a look at the journal at least that often; None: no longer."""
        ...

    def take_ino(self) -> int | None:
        """A new inode number, to be enqueued in its CREATE before the next checkpoint; None: first `reserve_inos`."""
        ...

    async def reserve_inos(self) -> None: ...

    def listen(self, callback: Callable[[Changes, bool], None], *, reloaded: Callable[[], None] | None = None) -> None:
        """`callback(changes, own)` is called on the trio thread after each applied record, before anyone who waits for
        that record goes on; `reloaded()` after base was replaced as a whole."""
        ...


class FileContents(Protocol):
    """The part of `data.Contents` that POSIX calls live on. Errors are S3vfsError."""

    def readahead(self) -> Any:
        """What one new handle knows about its reader."""
        ...

    async def read(self, ino: int, offset: int, length: int, readahead: Any) -> Buffer: ...

    async def write(self, ino: int, offset: int, data: Buffer) -> int: ...

    async def append(self, ino: int, data: Buffer) -> int: ...

    async def truncate(self, ino: int, size: int) -> None:
        """On the working file; it is in the journal after `publish`."""
        ...

    async def punch(self, ino: int, offset: int, length: int) -> None:
        """Zeros without space, as far as the file reaches; in the journal after `publish`."""
        ...

    async def extend(self, ino: int, size: int) -> None:
        """At least so long, and modified now in any case; in the journal after `publish`."""
        ...

    async def clone(self, source: int, source_offset: int, ino: int, offset: int, length: int) -> int:
        """Share extents of two open inodes, or of one whose ranges do not overlap: in the journal on return. The bytes
        that were shared: fewer at the source's end or after very many extents."""
        ...

    def seek(self, ino: int, offset: int, *, data: bool) -> int | None:
        """The next data or hole from `offset` on; None outside the file and behind the last data."""
        ...

    def data_bytes(self, ino: int, start: int, end: int) -> int:
        """How many bytes of [start, end) take space."""
        ...

    def attributes(self, ino: int, inode: Inode) -> Inode:
        """`inode` with size and times of the working file, where there is one."""
        ...

    def set_times(self, ino: int, atime_ns: int | None, mtime_ns: int | None) -> bool:
        """True: the working file took the times and publishes them with its bytes. False: they are the caller's."""
        ...

    def carries_ctime(self, ino: int) -> bool:
        """Whether unpublished bytes of it will leave later than all that is acknowledged now, with a ctime."""
        ...

    def changed(self, ino: int, time_ns: int) -> None:
        """Where `carries_ctime`: its attributes changed at that time, and its bytes tell."""
        ...

    async def publish(self, ino: int) -> None:
        """All dirty bytes of it are in the bucket and in the journal (R9); those of an orphan stay here. Raises what
        prevents it, again and again until it is mended (R10)."""
        ...

    async def close(self, ino: int) -> None:
        """As `publish`; or, under a lease, everything is on its way together with what was acknowledged before."""
        ...

    def close_at_once(self, ino: int) -> bool:
        """As `close`, where there is nothing to wait for and nothing to report. False: nothing was done."""
        ...

    def release_at_once(self, ino: int) -> bool:
        """As `close_at_once`, for what a mapping has stored after the last close: nobody waits for it."""
        ...

    def opened(self, ino: int, writable: bool) -> None: ...

    def created(self, ino: int, inode: Inode) -> None:
        """A new file, as it is now, was opened for writing: writes may be taken without asking."""
        ...

    def reconsider(self, ino: int) -> None:
        """Mode or extended attributes of the inode may have changed: what was taken for granted of them is asked for
        again."""
        ...

    def closed(self, ino: int, writable: bool) -> None: ...

    def prepare(self, ino: int) -> Stream | None:
        """How the front may write to a file that it makes under this number. None: it may not now."""
        ...

    def unprepare(self, ino: int) -> None:
        """The number is for something else."""
        ...

    def born(self, ino: int, *, writable: bool) -> None:
        """The front has made that file; `writable`: and a handle is open."""
        ...

    def taken(self, taken: Taken) -> None:
        """The front has stored bytes."""
        ...

    def dated(self, ino: int, atime_ns: int | None, mtime_ns: int | None, time_ns: int) -> None:
        """The front has set times of a file with unpublished bytes, or other attributes, at `time_ns`."""
        ...

    def closable(self) -> tuple[int, int]:
        """How many bytes the front may close, altogether and in one file."""
        ...

    def closed_ahead(self, ino: int, lease: LeaseId) -> None:
        """The front has answered a close under that lease."""
        ...

    def settle(self, ino: int) -> None:
        """The handle that the front has given out is gone again."""
        ...

    async def lend(
        self, ino: int, *, readable: bool, writable: bool, direct: bool, created: bool, uid: int
    ) -> Lent | None:
        """For a handle that is about to be given to the kernel. None: the kernel asks here for every byte. To be
        followed by `returned`. `uid`: who opens it."""
        ...

    def returned(self, ino: int, *, lent: bool, readable: bool) -> None:
        """That handle is gone."""
        ...

    async def harvest(self, ino: int) -> int:
        """Find what a kernel has written by itself. A count that has moved where something was found."""
        ...

    def lags(self, ino: int) -> bool:
        """Whether what is lent of the inode lacks what others have written: there is something to `catch_up` with."""
        ...

    async def catch_up(self, ino: int) -> None:
        """Returns when what is lent of the inode has what others have written. Raises what fetching raises."""
        ...

    def unseen_writers(self, ino: int) -> frozenset[int]:
        """The users, but root, who may be writing to the file without anybody here being told."""
        ...


# The last byte of a range that reaches to the end, however far the file grows.
TO_THE_END = 2**63 - 1


class LockKind(IntEnum):
    """What a lock call asks for. The numbers are Linux's F_RDLCK, F_WRLCK and F_UNLCK."""

    SHARED = 0
    EXCLUSIVE = 1
    UNLOCK = 2


class Conflict(NamedTuple):
    """A lock in the way of another: bytes `start` to `end`, inclusive. `pid` 0: its holder is on another machine."""

    start: int
    end: int
    exclusive: bool
    pid: int


class Birth(NamedTuple):
    """What the front has done to a file that it has made, since it last told: `what` is of MADE, CHANGED, CLOSED,
    RELEASED. `name`: where it was made now. `lease`: the directory's. `made` and `now`: mode, uid and gid, first and
    last. `changed`: SetattrMask's bits of what was set; `changed_ns`: when. `given`: what the kernel has of its
    attributes: mode, uid, gid, nlink, size, allocated bytes, atime, mtime, ctime; None where it has none."""

    what: int
    changed: int
    parent: int
    name: bytes | None
    lease: LeaseId
    handle: int
    flags: int
    made: tuple[int, int, int]
    now: tuple[int, int, int]
    made_ns: int
    atime_ns: int
    mtime_ns: int
    changed_ns: int
    given: tuple[int, ...] | None


class Births(Protocol):
    """A front that may make files by itself: `fuse.front.NativeFront`. What it may rely on it is told by the session
    (`session.reliant`)."""

    def knows(self, directory: int) -> bool: ...

    def directory(self, ino: int, lease: LeaseId, names: Iterable[bytes]) -> None:
        """Files may be made in it: it has these names."""
        ...

    def show(self, ino: int, inode: Inode) -> None:
        """The attributes of such a directory, as they are now."""
        ...

    def trust(self, until_ns: int, closing_bytes: int, file_bytes: int) -> None:
        """Leases may be relied on until then, by CLOCK_BOOTTIME; and so many bytes may be closed, altogether and in one
        file."""
        ...

    def stocked(self) -> int:
        """How many files are prepared."""
        ...

    def stock(self, stream: Stream) -> None:
        """One more, of a higher number than those before."""
        ...


class Readers(Protocol):
    """A front that may answer the end of handles that only read: `fuse.front.NativeFront`."""

    def reader(self, ino: int, handle: int) -> None:
        """The end of this handle needs nothing, unless somebody asks for a lock."""
        ...

    def no_readers(self, ino: int) -> None:
        """That does not hold any more of any handle of the inode."""
        ...


class Caller(NamedTuple):
    """Who asks: effective ids, thread id and umask."""

    uid: int = 0
    gid: int = 0
    pid: int = 0
    umask: int = 0


class Found(NamedTuple):
    """An inode as a caller sees it: with size and times of this mount's working file."""

    ino: int
    inode: Inode


class NewAttributes(NamedTuple):
    """What setattr changes; None = stays. Sizes in bytes, times in ns."""

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Statistics:
    """statfs: blocks of `block_bytes`; inodes."""

    block_bytes: int
    blocks: int
    free_blocks: int
    inodes: int
    free_inodes: int
    name_max_bytes: int
