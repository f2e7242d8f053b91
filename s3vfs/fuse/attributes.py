"""Inodes as the kernel wants them: pyfuse3's EntryAttributes."""

from __future__ import annotations

import stat

from s3vfs.filesystem import Found
from s3vfs.fuse.libfuse import pyfuse3

# What buffered readers and writers take as their unit: a FUSE request costs about 100 us whatever its size.
BLOCK_SIZE_BYTES = 64 * 1024
# Directories have no size of their own; programs expect one block.
DIRECTORY_BYTES = 4096
_SECTOR_BYTES = 512  # the unit of st_blocks
# What space is counted in, as local file systems do: `du` and programs that look for holes expect whole blocks.
_ALLOCATION_BYTES = 4096


def fill(entry: pyfuse3.EntryAttributes, found: Found) -> None:
    """Set everything but the time-outs."""
    ino, inode = found
    entry.st_ino = ino
    mode = entry.st_mode = inode.mode
    entry.st_nlink = inode.nlink
    entry.st_uid = inode.uid
    entry.st_gid = inode.gid
    entry.st_rdev = inode.rdev
    entry.st_blksize = BLOCK_SIZE_BYTES
    if stat.S_ISDIR(mode):
        entry.st_size = DIRECTORY_BYTES
        entry.st_blocks = DIRECTORY_BYTES // _SECTOR_BYTES
    else:
        entry.st_size = inode.size
        entry.st_blocks = -(-inode.allocated // _ALLOCATION_BYTES) * (_ALLOCATION_BYTES // _SECTOR_BYTES)
    entry.st_atime_ns = inode.atime_ns
    entry.st_mtime_ns = inode.mtime_ns
    entry.st_ctime_ns = inode.ctime_ns
