"""The double (double.py), whose adapter treats setxattr as nobody should. What it does is the attribute's name:

user.drop       forgets the request             user.raise      raises
user.cycle      leaves it to the garbage collector
user.twice      answers twice                   user.interrupt  answers while it is told of its interruption
user.keep       answers only when the mount is gone
"""

from __future__ import annotations

import errno
import gc
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

import s3vfs.fuse.serve
from s3vfs.fuse.extra_operations import ExtraOperations
from tests.fuse.double import Double, run

if TYPE_CHECKING:
    from s3vfs.fuse.native._interpose import Request

_double = Double(Path(sys.argv[2]))
_kept: list[Request] = []


def _again(name: str, request: Request) -> None:
    """An answer that must not go through."""
    try:
        request.reply_error(errno.EXDEV)
    except RuntimeError as error:
        _double.note(name, error=str(error))


class Careless(ExtraOperations):
    def begin(self, call: str, request: Request, *arguments: Any) -> None:
        if call != "setxattr":
            super().begin(call, request, *arguments)
            return
        name = arguments[1].decode()
        match name:
            case "user.raise":
                raise ValueError("careless")
            case "user.cycle":
                cycle: list[Any] = [request]
                cycle.append(cycle)
                request.when_interrupted(cycle.clear)
                trio.lowlevel.current_trio_token().run_sync_soon(gc.collect)
            case "user.twice":
                request.reply_error(errno.ENOTUNIQ)
                _again(name, request)
            case "user.interrupt":
                _kept.append(request)
                request.when_interrupted(lambda: _again(name, request))
                _double.note("waiting")
            case "user.keep":
                _kept.append(request)
                _double.note("waiting")


async def main() -> None:
    s3vfs.fuse.serve.ExtraOperations = Careless  # type: ignore[misc]
    await run(_double, sys.argv[1])
    for request in _kept:
        _again("afterwards", request)


if __name__ == "__main__":
    trio.run(main)
