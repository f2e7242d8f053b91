"""Several jobs at the same time, one result: the first error, as itself. Knows nothing of what the jobs do."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

import trio


async def gather(jobs: Iterable[Callable[[], Awaitable[None]]]) -> None:
    """Run all jobs to their ends; then raise the first error that any of them raised. Cancellation passes through."""
    errors: list[Exception] = []

    async def one(job: Callable[[], Awaitable[None]]) -> None:
        try:
            await job()
        except Exception as error:
            errors.append(error)

    async with trio.open_nursery() as nursery:
        for job in jobs:
            nursery.start_soon(one, job)
    if errors:
        raise errors[0]
