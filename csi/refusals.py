"""How an RPC is refused: a gRPC status code by name, and a line that says why. Knows no gRPC: errands need none.

Which code means what to the orchestrator is in the CSI specification, "Error Scheme" and the table below each RPC.
"""

from __future__ import annotations

import enum

from s3vfs.errors import S3vfsError


class Code(enum.Enum):
    """The codes that this driver answers; the names are gRPC's."""

    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    NOT_FOUND = "NOT_FOUND"
    ALREADY_EXISTS = "ALREADY_EXISTS"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    RESOURCE_EXHAUSTED = "RESOURCE_EXHAUSTED"
    FAILED_PRECONDITION = "FAILED_PRECONDITION"
    ABORTED = "ABORTED"
    OUT_OF_RANGE = "OUT_OF_RANGE"
    INTERNAL = "INTERNAL"
    UNAVAILABLE = "UNAVAILABLE"
    DATA_LOSS = "DATA_LOSS"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"


class Refusal(Exception):
    """The RPC is answered with `code`; `str()` is the message that the orchestrator shows. Never holds a secret."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


# What the exit codes of s3vfs (docs/operations.md) mean to an orchestrator. 8 is "in use", which ends by itself.
_BY_EXIT_CODE = {
    2: Code.INVALID_ARGUMENT,
    3: Code.NOT_FOUND,
    4: Code.PERMISSION_DENIED,
    5: Code.UNAVAILABLE,
    6: Code.FAILED_PRECONDITION,
    7: Code.DATA_LOSS,
    8: Code.UNAVAILABLE,
    9: Code.FAILED_PRECONDITION,
    10: Code.UNAVAILABLE,
}


def refusal_of(exit_code: int, line: str) -> Refusal:
    """What a command that ended with `exit_code` and `line` means."""
    return Refusal(_BY_EXIT_CODE.get(exit_code, Code.INTERNAL), line.removeprefix("s3vfs: ").strip())


def from_error(error: S3vfsError) -> Refusal:
    return refusal_of(error.exit_code, str(error))


def invalid(message: str) -> Refusal:
    return Refusal(Code.INVALID_ARGUMENT, message)
