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
from tests.servers.place import ServerPlace

KINDS = ["memory", "directory", "moto", "seaweed"]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Which kind of bucket `opener` opens."""
    name: str = request.param
    return name


@pytest.fixture
def opener(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, aws_environment: pytest.MonkeyPatch
) -> Callable[[], Awaitable[Store]]:
    """Opens one fresh place in a bucket of each kind."""
    if kind == "memory":
        bucket = MemoryBucket(time.time_ns)

        async def open_memory() -> Store:
            return bucket.open("some/volume")

        return open_memory
    if kind == "directory":
        url = f"file://{tmp_path}/volume"
    else:
        place: ServerPlace = request.getfixturevalue(kind)
        url = place.fresh_url("contract")
        for name, value in place.environment().items():
            aws_environment.setenv(name, value)

    async def open_url() -> Store:
        return await open_store(url, run=ThreadRunner(8), create=True)

    return open_url
