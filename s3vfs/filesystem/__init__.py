"""POSIX calls in terms of session and contents: one async method a call, inode numbers and `bytes` names.

Knows no FUSE. A call waits for the freshness that DESIGN 7 promises, evaluates what it is to do on a view of the rows,
and commits it through the journal. Errors are S3vfsError, ordinary ones PosixError.
"""

from s3vfs.filesystem.contracts import (
    TO_THE_END,
    Birth,
    Births,
    Caller,
    Conflict,
    FileContents,
    FilesystemSession,
    Found,
    Lent,
    LockKind,
    NewAttributes,
    Readers,
    Statistics,
)
from s3vfs.filesystem.directories import Directories
from s3vfs.filesystem.newborns import Newborns
from s3vfs.filesystem.ranges import Ranges
from s3vfs.filesystem.xattrs import ExtendedAttributes

__all__ = [
    "TO_THE_END",
    "Birth",
    "Births",
    "Caller",
    "Conflict",
    "FileContents",
    "Filesystem",
    "FilesystemSession",
    "Found",
    "Lent",
    "LockKind",
    "NewAttributes",
    "Readers",
    "Statistics",
]


class Filesystem(Newborns, Ranges, Directories, ExtendedAttributes):
    """The whole: names, attributes, files, their ranges and locks, directories, extended attributes. `keep_orphans`
    runs beside the calls."""
