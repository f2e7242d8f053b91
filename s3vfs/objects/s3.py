"""A bucket over the S3 protocol: opens both sides with one session, so that they always agree."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from s3vfs.errors import UsageError
from s3vfs.objects.runner import Runner
from s3vfs.objects.store import OpenedStore

if TYPE_CHECKING:
    from s3vfs.objects.url import StoreOptions


async def open_s3(
    bucket: str, prefix: str, url: str, options: StoreOptions, *, run: Runner, jitter: Callable[[], float]
) -> OpenedStore:
    """Open `bucket`; keys live below `prefix`."""
    raise UsageError(f"{url}: this build opens file:// only")
