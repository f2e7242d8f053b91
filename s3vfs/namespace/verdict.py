"""The result of one op, and where in the journal it stands. Pure values."""

from __future__ import annotations

import errno
from dataclasses import dataclass

# An author evaluates again after ESTALE: base differs from what its op says it saw.
STALE = errno.ESTALE
# The op's number is not above the session's last one: it has been applied before.
DUPLICATE = errno.EALREADY
# The record's session has ended or another incarnation has taken over (R13).
FENCED = errno.ESHUTDOWN
# What the op touches is covered by another session's lease (R6). Of no POSIX call: its author recalls the lease first.
COVERED = errno.EREMCHG


@dataclass(frozen=True, slots=True)
class Verdict:
    """`errno` 0 = OK. `value`: what the op decided, where it decides something (APPEND: the offset; BLOCK: the first
    inode number)."""

    errno: int = 0
    value: int = 0


OK = Verdict()


@dataclass(frozen=True, slots=True)
class Context:
    """Which record, and whose: all that an op may know besides the rows."""

    seq: int
    index: int
    sid: int
    incarnation: int
