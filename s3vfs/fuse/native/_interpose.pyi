"""What interpose.c and passthrough.c show to Python."""

from collections.abc import Callable
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

def install(handler: Callable[..., object] | None, passthrough: bool = False, /) -> None:
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
