"""One opener for each kind of bucket: the contract suite runs against all of them."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from s3vfs.objects.memory import MemoryBucket
from s3vfs.objects.protocol import Store
from s3vfs.objects.runner import ThreadRunner
from s3vfs.objects.url import open_store

KINDS = ["memory", "directory"]


@pytest.fixture(params=KINDS)
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Awaitable[Store]]:
    """Opens one fresh place in a bucket of each kind."""
    kind: str = request.param
    if kind == "memory":
        bucket = MemoryBucket(time.time_ns)

        async def open_memory() -> Store:
            return bucket.open("some/volume")

        return open_memory
    url = f"file://{tmp_path}/volume"

    async def open_url() -> Store:
        return await open_store(url, run=ThreadRunner(8), create=True)

    return open_url
