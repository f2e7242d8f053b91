"""What the commands that take a URL share: the store, a look at the volume without a mount, and a commit to it.

A look follows the journal as a read-only mount does, on a replica in a temporary directory: it leaves no trace in the
bucket, and needs permission to get and list only. A command that changes something is a session of one record.
"""

from __future__ import annotations

import socket
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from s3vfs.environment import Environment, read_boot_id
from s3vfs.fuse.status import describe_base
from s3vfs.journal.bucket import BucketJournal
from s3vfs.journal.volume import VolumeInfo, load_volume
from s3vfs.objects.protocol import Store
from s3vfs.objects.runner import ThreadRunner
from s3vfs.objects.url import StoreOptions, StoreUrl, open_store
from s3vfs.replica.lmdb_replica import LmdbReplica
from s3vfs.session.command import Command, open_command
from s3vfs.session.session import Session, open_session

# Commands do little at the same time: a listing, a few deletions.
THREADS = 16


def command_environment() -> Environment:
    """The real world, for one command."""
    return Environment(ThreadRunner(THREADS), read_boot_id())


@asynccontextmanager
async def opened(
    url: str | StoreUrl, options: StoreOptions, environment: Environment, *, create: bool = False
) -> AsyncIterator[Store]:
    """The store at `url`, closed at the end. Raises as `open_store`."""
    store = await open_store(url, options, run=environment.run, create=create)
    try:
        yield store
    finally:
        await store.aclose()


@asynccontextmanager
async def local_replica(volume: VolumeInfo, environment: Environment) -> AsyncIterator[LmdbReplica]:
    """An empty replica for as long as the command runs: on disk, because a volume may be larger than memory."""
    with tempfile.TemporaryDirectory(prefix="s3vfs-look-") as directory:
        replica = LmdbReplica.open(Path(directory, "index"), volume=volume.uuid, boot_id=environment.boot_id)
        try:
            yield replica
        finally:
            replica.close()


@asynccontextmanager
async def observed(store: Store, volume: VolumeInfo, environment: Environment) -> AsyncIterator[Session]:
    """A read-only session that has applied the tail. Raises StoreError, Damaged, UnknownFeature."""
    volume.require_readable()
    async with local_replica(volume, environment) as replica:
        journal = BucketJournal(store.control, volume.uuid, environment)
        async with open_session(environment, store, journal, replica, None) as session:
            yield session


@asynccontextmanager
async def commanding(store: Store, environment: Environment) -> AsyncIterator[Command]:
    """A command that may commit ops to the volume at `store`. Raises NotAVolume, UnknownFeature, StoreError."""
    volume = await load_volume(store)
    volume.require_writable()
    async with local_replica(volume, environment) as replica:
        journal = BucketJournal(store.control, volume.uuid, environment)
        label = f"command on {socket.gethostname()}"
        async with open_command(environment, store, journal, replica, label=label) as command:
            yield command


async def volume_figures(store: Store, environment: Environment) -> dict[str, Any]:
    """Name, quota, usage, sessions and journal position of the volume at `store`, from the journal alone."""
    volume = await load_volume(store)
    async with observed(store, volume, environment) as session:
        head = (await session.journal.refresh_head()).head
        return {
            **describe_base(session, volume),
            "journal": {
                "applied_seq": session.applied_seq,
                "checkpoint_seq": head.checkpoint.seq if head.checkpoint else 0,
                "boundary": head.boundary,
            },
        }
