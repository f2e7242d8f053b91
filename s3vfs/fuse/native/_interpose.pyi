"""What interpose.c, passthrough.c, front.c, births.c and readers.c show to Python."""

from collections.abc import Callable, Iterable
from typing import final

@final
class Request:
    """One request of the kernel. Answered once: a second answer raises RuntimeError, and dropped without one it answers
    EIO.

    Each answer returns 0, or the errno with which the kernel refused it (ENOENT: it no longer wants it).
    """

    @property
    def uid(self) -> int: ...
    @property
    def gid(self) -> int: ...
    @property
    def pid(self) -> int:
        """The caller's thread; 0 where it cannot be seen from this process's PID namespace."""

    @property
    def answered(self) -> bool: ...
    def reply_error(self, errno: int, /) -> int:
        """0: success."""

    def reply_count(self, count: int, /) -> int:
        """copy_file_range, append: bytes, below 2**32."""

    def reply_offset(self, offset: int, /) -> int:
        """lseek."""

    def reply_lock(self, kind: int, start: int, end: int, pid: int, /) -> int:
        """getlk. `kind`: F_RDLCK, F_WRLCK, F_UNLCK; `end` inclusive, 2**63-1: to the end."""

    def when_interrupted(self, callback: Callable[[], object], /) -> None:
        """Have `callback` called when a signal reaches the one who waits: now, when it has already. It may not answer.
        Once a request."""

@final
class Stream:
    """What the front may do with one inode by itself; at first nothing. Raises ValueError for an inode that has one."""

    def __new__(cls, ino: int, /) -> Stream: ...
    @property
    def armed(self) -> bool:
        """Whether it takes writes."""

    def arm(self, fd: int, log_fd: int, log_end: int, last_start: int, last_end: int, span_bytes: int, /) -> None:
        """Take writes from now on, into these files. `last_start`, `last_end`: the range of the log's last entry, if
        that is a write, which then may grow; else -1. A write that reaches a multiple of `span_bytes` is not taken.
        Both descriptors are the caller's, and live until `disarm`, and so does what is said of the log."""

    def arm_new(self, path: bytes, log_path: bytes, log_head: bytes, span_bytes: int, /) -> None:
        """As `arm`, for files that are not there: the first write makes them, and what is noted then has their
        descriptors."""

    def disarm(self) -> None: ...
    def set_plain(self, plain: bool, /) -> None:
        """Whether the inode is known to have no security.capability."""

    def end(self) -> None:
        """Disarmed for ever. Its inode may get another one."""

def more() -> bool:
    """Whether the main loop should try to read a request again without a turn of trio's loop."""

def turned() -> None:
    """The loop has had a turn."""

def allow(more_bytes: int, /) -> int:
    """All streams together may take so many bytes more. How many that are now."""

def front_counts() -> dict[str, int]:
    """What was answered in this session: writes, written_bytes, xattrs; of files that the front has made: creates,
    lookups, getattrs, setattrs, closes; the ends of readers (ends); how often the front looked again for a request
    (looks), and how often there was none (vain_looks)."""

# -- files that the front makes by itself: see births.c ---------------------------------------------------------------

def write_down(fd: int, first: int, size: int, /) -> None:
    """Where answers are written down before they are given: a file of that size, mapped, from byte `first` on. Without
    it none are. Raises OSError."""

def replies(entry_ns: int, attributes_ns: int, block_bytes: int, /) -> None:
    """How long the kernel may keep names and attributes; st_blksize."""

def trust(until_ns: int, closing_bytes: int, file_bytes: int, /) -> None:
    """Leases may be relied on until then, by CLOCK_BOOTTIME; 0: not at all. So many bytes may be closed, altogether and
    in one file."""

def distrust() -> None:
    """Everything is Python's: no directory is known, and no file that was made before."""

def directory(ino: int, lease_seq: int, lease_index: int, names: Iterable[bytes], /) -> None:
    """Files may be made in it. `names`: all that it has. Its attributes are Python's until `show`."""

def knows(ino: int, /) -> bool:
    """Whether files may be made in this directory."""

def show(ino: int, mode: int, uid: int, gid: int, links: int, atime_ns: int, mtime_ns: int, ctime_ns: int, /) -> None:
    """The attributes of such a directory, which from now on only the front's own doing changes, or `named`."""

def named(ino: int, name: bytes, /) -> None:
    """Such a directory is changed by others, and may have that name from now on; empty: no new one."""

def estrange(ino: int, /) -> None:
    """Others have a say in this file, or in the entries of this directory."""

def lease_over(seq: int, index: int, /) -> None:
    """What it covers is Python's."""

def stock(stream: Stream, /) -> None:
    """A file to be made, armed for its writes; of a higher inode than those before. Raises ValueError where there are
    too many."""

def unstock() -> int:
    """Take the next one back: its inode, 0 where there is none."""

def stocked() -> int:
    """How many there are."""

# -- the end of handles that only read: see readers.c ----------------------------------------------------------------

def reader(ino: int, handle: int, /) -> None:
    """The end of this handle needs nothing but that Python is told, unless a flock was asked for through it. Raises
    MemoryError."""

def no_readers(ino: int, /) -> None:
    """That does not hold any more of any handle of this inode."""

def install(
    handler: Callable[..., object] | None, passthrough: bool = False, noted: Callable[..., object] | None = None, /
) -> None:
    """A session that pyfuse3 makes from now on calls `handler(call, Request, *arguments)`, on the thread that runs
    pyfuse3's main loop, until its end. Those calls, and their arguments, all int but where said:

        flock            handle, owner, operation (LOCK_SH, LOCK_EX, LOCK_UN; with LOCK_NB it does not wait)
        getlk            handle, owner, kind, start, end
        setlk            handle, owner, kind, start, end, pid, wait (0 or 1)
        fallocate        handle, mode, offset, length
        lseek            handle, offset, whence (SEEK_DATA, SEEK_HOLE)
        copy_file_range  source handle, source offset, handle, offset, length, flags
        append           handle, data (bytes): a write with O_APPEND
        flush            handle, owner
        release          handle, owner, flock (0 or 1)
        setxattr         ino, name (bytes), value (bytes), flags

    None: new sessions are left alone. `passthrough`: such a session asks the kernel for it.

    `noted`: it has a front, which calls this after it has taken writes, before anything else happens on that thread:
    inode, fd, log fd, the log's end, start and end of its last entry, the last write's time in ns, the ranges as a
    tuple of (start, end), and news. Without ranges it tells of files that it has made and could not write to. News:
    what it has done to a file that it has made, the fields of `filesystem.Birth`; else None. When it raises, what was
    written down of the news stays. Of readers that have ended it tells by a call with a tuple of handles alone.
    """

def passthrough() -> bool:
    """Whether the session that is mounted has it: the kernel knows it (Linux 6.9), and it was asked for."""

def backing_open(fd: int, /) -> int:
    """Register an open regular file with the kernel; it is held until `backing_close` and the last release of a handle
    that carries the id. Raises OSError: EPERM without CAP_SYS_ADMIN, ELOOP where the file lies on a stacked file
    system (overlayfs, say)."""

def backing_close(id: int, /) -> None:
    """No further reply may carry the id. Raises OSError."""

def carry(handle: int, id: int, direct: bool, /) -> None:
    """To be called right before pyfuse3 answers the open or create that gives out this handle, on the same thread: the
    kernel then uses the file `id` for it. `direct`: only mappings do, reads and writes still arrive here.

    All handles of one inode must carry the same id, or none, as long as any is open: else the open fails with EIO."""

def sessions() -> int:
    """How many sessions have had these handlers so far."""

def versions() -> tuple[int, int]:
    """libfuse, 314 for 3.14: what this was compiled against, and what is loaded."""
