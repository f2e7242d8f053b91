"""How a session test runs: a formatted volume under mock time, and clients whose requests fail on order."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import trio
from trio.testing import MockClock

from s3vfs.objects.faults import Script, with_faults
from tests.session.volume import Client, Place


def run(tmp_path: Path, main: Callable[[Place], Awaitable[None]]) -> None:
    """A formatted volume under mock time, which must come to an end within a day of it."""

    async def whole() -> None:
        place = Place(tmp_path)
        await place.format()
        with trio.fail_after(86_400):
            await main(place)

    trio.run(whole, clock=MockClock(autojump_threshold=0))


def scripted(place: Place, number: int) -> tuple[Client, Script]:
    """A client whose requests fail on order."""
    script = Script()
    return place.client(number, with_faults(place.bucket.open("v"), script, sleep=lambda _: None)), script
