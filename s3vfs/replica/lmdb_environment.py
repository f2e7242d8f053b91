"""Opening the LMDB files of a replica: whether they can be trusted, how large a map, how much disk is kept in hand.

Knows files and LMDB; knows nothing of rows. Everything here is local and can be rebuilt from the bucket, so whatever
is doubtful is thrown away rather than repaired.

The files are written without fsync (0.4 ms saved a transaction). They survive a killed process, because the kernel
has what was written; they do not survive a power cut, after which a page may be old, new or torn, and walking torn
pages can crash a process. A *stamp* beside them tells the two apart before LMDB looks at anything: a plain file with
the volume and the boot id, readable whatever happened. It is removed before the data files are and written after new
ones exist, so that no crash leaves a stamp beside files that it does not describe.
"""

from __future__ import annotations

import errno
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lmdb

from s3vfs.errors import Damaged, S3vfsError

LAYOUT = 2  # of rows and meta row in the data file; another one is rebuilt

# Address space only: without writemap the file grows as it is used. 1 TiB holds some 7 billion files, fits many times
# into 47 bits, and needs no remapping while readers are active. The smaller ones are for `ulimit -v` and 32 bits.
MAP_BYTES = (1 << 40, 1 << 36, 1 << 32, 1 << 30)

# Readers are short but for publishing a checkpoint; a slot costs 64 bytes.
MAX_READERS = 512
SPARE_TRANSACTIONS = 16  # reset and renewed by the library: a read transaction costs 0.4 us instead of 2

# Disk space beyond what is in use, so that applying goes on when the cache or a neighbour fills the disk (DESIGN 8).
RESERVE_BYTES = 16 << 20

# Where the next state is made, in the directory of the present one.
_NEXT = "next"

_DATA = "data.mdb"
_LOCK = "lock.mdb"
_STAMP = "stamp"


def open_environment(path: Path, *, volume: bytes, boot_id: str) -> tuple[lmdb.Environment, str]:
    """The environment in the directory `path` (made if need be), and why earlier files were thrown away ("" if they
    were not). Raises S3vfsError when the disk or the address space does not allow it."""
    stamp = f"{LAYOUT}\n{volume.hex()}\n{boot_id}\n".encode()
    with disk_errors(path):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        drop_next(path)
        distrust = _why_distrusted(path, stamp)
        if not distrust:
            try:
                environment = _open_files(path)
                if _complete(environment, path):
                    return environment, ""
                environment.close()
                distrust = "its file is truncated"
            except (lmdb.InvalidError, lmdb.CorruptedError, lmdb.VersionMismatchError) as error:
                distrust = f"it is unreadable ({error})"
        fresh = not (path / _DATA).exists()
        return start_afresh(path, volume=volume, boot_id=boot_id), "" if fresh else distrust


def start_next(path: Path, *, volume: bytes, boot_id: str) -> lmdb.Environment:
    """An empty environment beside the one in `path`; what an earlier one has left there goes."""
    (path / _NEXT).mkdir(mode=0o700, exist_ok=True)
    return start_afresh(path / _NEXT, volume=volume, boot_id=boot_id)


def drop_next(path: Path) -> None:
    """Remove what a load that failed, or was killed, has left: disk space, no state."""
    shutil.rmtree(path / _NEXT, ignore_errors=True)


def take_next(path: Path) -> lmdb.Environment:
    """Replace the files in `path` by those of `start_next`, which must be closed. Whoever has the former environment
    open keeps its state. A crash leaves one of the two: the data file alone decides."""
    os.rename(path / _NEXT / _DATA, path / _DATA)
    (path / _LOCK).unlink(missing_ok=True)  # it names readers of the other file
    drop_next(path)
    return _open_files(path)


def start_afresh(path: Path, *, volume: bytes, boot_id: str) -> lmdb.Environment:
    """An empty environment instead of whatever is in `path`, which must not be open in this process."""
    for name in (_STAMP, _DATA, _LOCK):
        (path / name).unlink(missing_ok=True)
    environment = _open_files(path)
    temporary = path / f"{_STAMP}.new"
    temporary.write_bytes(f"{LAYOUT}\n{volume.hex()}\n{boot_id}\n".encode())
    temporary.replace(path / _STAMP)
    return environment


def _why_distrusted(path: Path, stamp: bytes) -> str:
    try:
        found = (path / _STAMP).read_bytes()
    except FileNotFoundError:
        return "it has no stamp"
    if found == stamp:
        return ""
    layout, volume = (found.split(b"\n") + [b"", b""])[:2]
    ours = stamp.split(b"\n")
    if layout != ours[0]:
        return "it has another layout"
    return "it belongs to another volume" if volume != ours[1] else "it was written before this boot"


def _open_files(path: Path) -> lmdb.Environment:
    for size in MAP_BYTES:
        if size > sys.maxsize:
            continue
        try:
            environment = lmdb.open(
                str(path),
                map_size=size,
                sync=False,
                metasync=False,
                mode=0o600,
                max_readers=MAX_READERS,
                max_spare_txns=SPARE_TRANSACTIONS,
            )
        except lmdb.MemoryError:
            continue
        environment.reader_check()  # slots of readers that were killed would pin old pages for ever
        return environment
    raise S3vfsError(
        f"no address space for the replica in {path}", hint="raise the limit of virtual memory (ulimit -v)"
    )


def _complete(environment: lmdb.Environment, path: Path) -> bool:
    """False where the file is shorter than LMDB believes: reading through the map would be a SIGBUS."""
    return used_bytes(environment) <= (path / _DATA).stat().st_size


def used_bytes(environment: lmdb.Environment) -> int:
    return (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]


class DiskReserve:
    """Keeps allocated disk space ahead of what LMDB uses."""

    def __init__(self, environment: lmdb.Environment, path: Path) -> None:
        self._environment = environment
        self._path = path / _DATA
        self._allocated = 0

    def top_up(self) -> None:
        """Allocate RESERVE_BYTES ahead when less than half of that is left. Raises OSError (ENOSPC): what is left of
        the reserve can still be used."""
        used = used_bytes(self._environment)
        if used + RESERVE_BYTES // 2 <= self._allocated:
            return
        # A descriptor of our own may come and go: LMDB's fcntl locks are on the lock file, not on this one.
        descriptor = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        try:
            os.posix_fallocate(descriptor, 0, used + RESERVE_BYTES)
        finally:
            os.close(descriptor)
        self._allocated = used + RESERVE_BYTES


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Translate what LMDB and the local file system raise."""
    try:
        yield
    except (lmdb.Error, OSError) as error:
        raise translated(error, path) from error


def translated(error: lmdb.Error | OSError, path: Path) -> S3vfsError:
    """Our error for LMDB's or the local file system's."""
    if isinstance(error, lmdb.CorruptedError | lmdb.PageNotFoundError | lmdb.InvalidError):
        return Damaged(f"the replica in {path} is corrupt ({error})", hint="remove that directory to have it rebuilt")
    if _means_full(error, path):
        full = S3vfsError(f"no room for the replica in {path}", hint="free some space on that disk")
        full.errno = errno.ENOSPC
        return full
    return S3vfsError(f"the replica in {path} failed ({error})")


def _means_full(error: lmdb.Error | OSError, path: Path) -> bool:
    # LMDB's own errors have a code; those of the binding (a closed environment) have none.
    code = error.errno if isinstance(error, OSError) else getattr(error, "code", 0)
    if code == errno.EIO:  # what LMDB makes of a short write, and those come first when a disk fills up
        usage = os.statvfs(path)
        return usage.f_bavail * usage.f_frsize < RESERVE_BYTES
    return isinstance(error, lmdb.MapFullError) or code in (errno.ENOSPC, errno.EDQUOT)
