"""How blocking calls leave the trio thread: one protocol, passed in wherever something blocks.

Knows nothing of stores. `ThreadRunner` is the real one; `InlineRunner` serves the simulator and unit tests, where
threads would make a history unrepeatable.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar, TypeVarTuple

import trio

_Args = TypeVarTuple("_Args")
_Result = TypeVar("_Result")


class Runner(Protocol):
    """`await run(fn, *args)` gives `fn(*args)` and is a checkpoint. `fn` may block; it runs to its end even when the
    caller is cancelled meanwhile, so that what it did is never in doubt because of the runner."""

    async def __call__(self, fn: Callable[[*_Args], _Result], *args: *_Args) -> _Result: ...


class ThreadRunner:
    """Runs calls in trio's worker threads, at most `limit` at the same time; further callers wait in order."""

    def __init__(self, limit: int) -> None:
        self._limiter = trio.CapacityLimiter(limit)

    async def __call__(self, fn: Callable[[*_Args], _Result], *args: *_Args) -> _Result:
        return await trio.to_thread.run_sync(fn, *args, limiter=self._limiter)

    @property
    def busy(self) -> int:
        """How many calls run now: a figure for status."""
        return int(self._limiter.borrowed_tokens)


class InlineRunner:
    """Runs the call in place after one checkpoint: no threads, one history per seed."""

    async def __call__(self, fn: Callable[[*_Args], _Result], *args: *_Args) -> _Result:
        await trio.lowlevel.checkpoint()
        return fn(*args)
