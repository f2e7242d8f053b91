"""What the data room needs of a session, and the values that its own modules share. No I/O.

`session.Session` is the real one; tests have a small double over a dictionary. Nothing here knows how a commit reaches
the journal.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import xxhash

from s3vfs.environment import Environment
from s3vfs.errors import S3vfsError
from s3vfs.namespace.changes import Changes
from s3vfs.namespace.ops import AnyOp
from s3vfs.namespace.rows import LeaseId
from s3vfs.namespace.transaction import ReadTransaction
from s3vfs.namespace.verdict import Verdict
from s3vfs.objects.protocol import Store

MIB = 1024 * 1024


class Pledge(Protocol):
    """Ops on their way into the journal, all of one group."""

    @property
    def number(self) -> int:
        """The number of the last op: once that is in the journal, all are."""
        ...

    @property
    def settled(self) -> bool:
        """Whether asking again can tell no more."""
        ...

    async def verdicts(self) -> list[Verdict]:
        """As `commit`. May be asked again after StoreUnreachable or a cancellation."""
        ...


class Companion(Protocol):
    """Whose work leaves together with acknowledged ops: see `session.pipeline`."""

    def due(self) -> bool: ...

    async def gather(self) -> Collection[LeaseId]: ...


class DataSession(Protocol):
    """The part of a session that file contents live on."""

    @property
    def environment(self) -> Environment: ...

    @property
    def store(self) -> Store: ...

    def view(self) -> AbstractContextManager[ReadTransaction]:
        """Base and overlay. Synchronous use, never across an await."""
        ...

    @property
    def incarnation(self) -> int: ...

    @property
    def sid(self) -> int:
        """Tells whether an earlier process here was the same session (R13)."""
        ...

    def refusal(self) -> S3vfsError | None:
        """Why nothing can be committed any more: SessionFenced or ReadOnly; None while it can."""
        ...

    def send(self, ops: Sequence[AnyOp]) -> Pledge:
        """Queue one group, in order; it is not on its way before the next checkpoint. Raises SessionFenced, ReadOnly;
        asking for its verdicts raises those, and StoreUnreachable when its fate is not known in time."""
        ...

    async def clear(self, *inos: int) -> None:
        """Returns when no other session's lease covers any of them, as far as this client knows."""
        ...

    def close_of(self, ino: int) -> LeaseId | None:
        """The lease under which a close of the file may be acknowledged now: it is noted, and its bytes are to be sent
        along by the companion. None: the close waits for its record. No checkpoint."""
        ...

    def note_close(self, ino: int, lease: LeaseId) -> None:
        """Again, for a close whose bytes could not be sent."""
        ...

    def closed_under(self, ino: int) -> tuple[LeaseId | None, bool]:
        """The lease under which an earlier daemon acknowledged a close of the file, and whether it still is ours."""
        ...

    def lost(self, ino: int) -> str | None:
        """Why an acknowledged change that names the inode could not be committed, if so: its bytes are spilled."""
        ...

    def accompany(self, companion: Companion) -> None:
        """From now on `companion` is asked to send along what is due whenever a batch is closed."""
        ...

    def send_along(self, ops: Sequence[AnyOp], leases: Sequence[LeaseId | None]) -> Pledge:
        """As `send`, into the batch that is being closed; each op names its lease."""
        ...

    def press(self) -> None:
        """Close a batch now."""
        ...

    def landed(self, incarnation: int, number: int) -> bool:
        """Whether op `number` that this session sent as `incarnation` is in the journal, whatever its verdict."""
        ...

    async def fresh(self, within_s: float | None = None) -> None:
        """Returns when a look at the tail that was sent after now - `within_s` has been applied."""
        ...

    def new_object(self) -> bytes:
        """A 16-byte object id, never repeated."""
        ...

    def pin(self) -> AbstractContextManager[int]:
        """While inside, objects that the present view refers to are not deleted (R11)."""
        ...

    def listen(self, callback: Callable[[Changes, bool], None], *, reloaded: Callable[[], None] | None = None) -> None:
        """`callback(changes, own)` is called on the trio thread after each applied record; `reloaded()` when anything
        may have changed."""
        ...


class Lent(NamedTuple):
    """A local file that the kernel uses for a handle by itself: its number with the kernel. `direct`: for mappings
    only; reads and writes still come here, as their order matters to others, or each is to be published."""

    backing: int
    direct: bool


class Passage(Protocol):
    """A kernel that reads and writes local files by itself: `fuse.passthrough.Passthrough`."""

    @property
    def available(self) -> bool: ...

    @property
    def writes(self) -> bool:
        """Whether writers, too, are served so."""
        ...

    def register(self, fd: int) -> int:
        """The kernel's number for an open file, whatever it was opened for. Raises OSError."""
        ...

    def withdraw(self, backing: int) -> None:
        """No further handle gets it. Raises OSError."""
        ...


class Stream(Protocol):
    """How the front writes to one inode: `fuse/native/_interpose.pyi` has the contract."""

    @property
    def armed(self) -> bool: ...

    def arm(self, fd: int, log_fd: int, log_end: int, last_start: int, last_end: int, span_bytes: int, /) -> None: ...

    def arm_new(self, path: bytes, log_path: bytes, log_head: bytes, span_bytes: int, /) -> None: ...

    def disarm(self) -> None: ...

    def set_plain(self, plain: bool, /) -> None: ...

    def end(self) -> None: ...


class Front(Protocol):
    """Who takes writes before they arrive here: `fuse.front.NativeFront`."""

    def stream(self, ino: int) -> Stream:
        """A new one, for an inode that has none."""
        ...

    def allow(self, more_bytes: int) -> int:
        """So many bytes more may be taken. How many that are now."""
        ...


class Spilling(Protocol):
    """Where bytes that cannot go on are kept for their user (R13): `session.spill.Spill`. Blocks."""

    def keep(
        self, *, path: bytes, ino: int, reason: str, ranges: Sequence[tuple[int, int]], source: Path, wall_ns: int
    ) -> object:
        """Keep `ranges` (offset, length) of the file `source`. Raises OSError."""
        ...


@dataclass(frozen=True, slots=True)
class Sizes:
    """What volume.json fixes for ever, in bytes."""

    object_bytes: int = 8 * MIB
    sector_bytes: int = 256 * 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of the data room. Every one has a unit and a reason; a mount may choose others."""

    # Parallel PUTs of data objects. Each has a private copy of up to one object in memory: 6 x 8 MiB.
    uploads: int = 6
    # Unpublished bytes in working files; above it writers wait. On disk, so it may be large.
    unpublished_bytes: int = 8 * 1024 * MIB
    # Disk space that working files leave to others: below it writers wait as well.
    reserve_bytes: int = 512 * MIB
    # Clean bytes that open working files may keep besides; above it they are dropped and read from the bucket.
    kept_bytes: int = 8 * 1024 * MIB
    # A region that nobody has written to for this long has settled.
    settle_s: float = 1.0
    # Dirty data older than this are committed without being asked (DESIGN 6).
    dirty_age_s: float = 5.0
    # A close that leaves more than this waits for the bucket, also under a lease, so that a saved checkpoint is there
    # when save returns (DESIGN 6). 0: every close waits.
    durable_close_above_bytes: int = 8 * MIB
    # Bytes whose close was acknowledged and that are not in the journal: at the bound closes wait.
    acknowledged_bytes: int = 64 * MIB
    # How long a publish or a read tries before it answers EIO; the background goes on trying.
    io_timeout_s: float = 120.0
    # Bytes that one request to the bucket fetches at most: large enough for the connection, small enough to be
    # parallel.
    fetch_bytes: int = 2 * MIB
    # Parallel ranged GETs; with `fetch_bytes` this bounds the memory of reading.
    fetches: int = 8
    # Readahead window of one handle, first and largest.
    readahead_first_bytes: int = MIB
    readahead_most_bytes: int = 32 * MIB
    # Bytes fetched ahead of all readers together: what the fetches under way bring within about a second.
    ahead_bytes: int = 128 * MIB
    # What a mount may fetch on a guess, for readers of small files, before any guess has turned out right: some
    # 1,000 files of source code; and the most that may be on its way or unread: what such fetches bring in a second.
    guess_first_bytes: int = 32 * MIB
    guess_most_bytes: int = 64 * MIB
    # How much of it comes with what somebody waits for, in one request: some 10 ms of it on one connection to S3.
    guess_along_bytes: int = MIB
    # What a request costs a guesser at least: one for each tiny object is dear, and there may be thousands.
    guess_request_bytes: int = 64 * 1024
    # Parallel ranged GETs of guesses; the others of `fetches` are free for what somebody waits for.
    guessed_fetches: int = 4
    # Sectors that the cache disk did not take, kept in memory for the reader who comes back for their other half, or
    # comes to what was fetched ahead. Readahead has no more room than this while the cache takes nothing.
    spare_bytes: int = 32 * MIB
    # Local reads and writes up to this size are done in place: a memory copy is shorter than a change of threads.
    inline_bytes: int = 256 * 1024


def data_key(object_id: bytes) -> str:
    """The bucket key of a data object (docs/format.md, section 1)."""
    spread = xxhash.xxh3_64_intdigest(object_id) & 0xFF
    text = object_id.hex()
    return f"data/{spread:02x}/{text[:16]}-{text[16:24]}-{text[24:]}"
