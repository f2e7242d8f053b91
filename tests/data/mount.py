"""One mount of the test volume: its session, its faults, its requests, its Contents. What most data tests begin
with.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from s3vfs.data.cache import Cache
from s3vfs.data.contents import Contents
from s3vfs.data.protocol import Limits, Sizes
from s3vfs.objects.counting import Counters, Operation, counted
from s3vfs.objects.faults import Script, with_faults
from s3vfs.objects.runner import Runner
from s3vfs.session.spill import Spill
from tests.data.double import Client, Volume, environment

# Small enough that a test file has many of both.
SMALL = Sizes(object_bytes=64, sector_bytes=16)
QUICK = Limits(
    uploads=4,
    unpublished_bytes=1 << 30,
    reserve_bytes=0,
    fetch_bytes=32,
    readahead_first_bytes=32,
    readahead_most_bytes=256,
    guess_most_bytes=0,
    io_timeout_s=30,
)


def in_use(folder: Path) -> list[Path]:
    """The local files of working files in `folder`, but for those that wait, empty, for the next ones."""
    return [path for path in (folder / "working").iterdir() if path.stat().st_size]


@dataclass
class Mount:
    volume: Volume
    client: Client
    contents: Contents
    script: Script
    counters: Counters
    folder: Path

    def puts(self) -> int:
        """Bulk PUT requests so far."""
        return self.counters[Operation.BULK_PUT].requests

    def gets(self) -> int:
        """Bulk GET requests so far."""
        return self.counters[Operation.BULK_GET].requests

    def working_path(self, ino: int) -> Path:
        """The local file of an inode that has one."""
        return self.contents._files[ino].working.path

    async def whole(self, ino: int) -> bytes:
        return bytes(await self.contents.read(ino, 0, 1 << 30))


def build(
    volume: Volume,
    folder: Path,
    *,
    sizes: Sizes = SMALL,
    limits: Limits = QUICK,
    run: Runner | None = None,
    boot_id: str = "boot",
    cache_bytes: int = 1 << 30,
    resumed: bool = True,
) -> Mount:
    """A mount whose `contents.run` has not been started. Call inside trio."""
    script, counters = Script(), Counters()
    store = counted(with_faults(volume.bucket.open(), script, sleep=time.sleep), counters)
    client = Client(volume, store, environment(run, boot_id=boot_id))
    if resumed:
        client.sid = volume.sids.setdefault(folder, client.sid)
    cache = Cache(folder / "blocks", sizes.sector_bytes, cache_bytes, 0, client.environment.boottime_ns)
    contents = Contents(client, folder / "working", cache, sizes=sizes, limits=limits, spill=Spill(folder / "spill"))
    return Mount(volume, client, contents, script, counters, folder)


@asynccontextmanager
async def mounted(
    volume: Volume,
    folder: Path,
    *,
    sizes: Sizes = SMALL,
    limits: Limits = QUICK,
    run: Runner | None = None,
    boot_id: str = "boot",
    cache_bytes: int = 1 << 30,
    resumed: bool = True,
) -> AsyncIterator[Mount]:
    """A running mount. Leaving it is like killing the daemon: nothing is published any more, nothing is drained."""
    mount = build(
        volume,
        folder,
        sizes=sizes,
        limits=limits,
        run=run,
        boot_id=boot_id,
        cache_bytes=cache_bytes,
        resumed=resumed,
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(mount.contents.run)
        try:
            yield mount
        finally:
            volume.clients.remove(mount.client)
            nursery.cancel_scope.cancel()


async def until(condition: object, deadline_s: float = 10) -> None:
    """Poll a condition; TooSlowError after the deadline."""
    assert callable(condition)
    with trio.fail_after(deadline_s):
        while not condition():  # noqa: ASYNC110
            await trio.sleep(0.01)
