"""A volume without a mount: filled by records (hundreds of thousands of entries in seconds), and asked for its rows."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import trio

from s3vfs.environment import Environment, read_boot_id
from s3vfs.journal.bucket import BucketJournal
from s3vfs.journal.volume import load_volume
from s3vfs.namespace.ops import AnyOp, Create
from s3vfs.namespace.rows import ROOT_INO, Rows
from s3vfs.objects.runner import ThreadRunner
from s3vfs.objects.url import open_store
from s3vfs.replica.memory_replica import MemoryReplica
from s3vfs.session.directory import SessionDirectory
from s3vfs.session.session import open_session

_OPS_IN_COMMIT = 5_000
_Answer = TypeVar("_Answer")


def ask(url: str, question: Callable[[Rows], _Answer]) -> _Answer:
    """What `question` gives for the volume's rows as they are now. Leaves no trace in the bucket."""

    async def look() -> _Answer:
        environment = Environment(ThreadRunner(4), read_boot_id())
        store = await open_store(url, run=environment.run)
        volume = await load_volume(store)
        journal = BucketJournal(store.control, volume.uuid, environment)
        async with open_session(environment, store, journal, MemoryReplica(volume.uuid), None) as session:
            with session.view() as txn:
                answer = question(Rows(txn))
        await store.aclose()
        return answer

    return trio.run(look)


def create_files(url: str, folder: Path, directory: bytes, count: int) -> None:
    """Make `directory` in the root and `count` empty files 00000000, 00000001 ... in it."""
    trio.run(_create_files, url, folder, directory, count)


async def _create_files(url: str, folder: Path, directory: bytes, count: int) -> None:
    environment = Environment(ThreadRunner(4), read_boot_id())
    store = await open_store(url, run=environment.run)
    volume = await load_volume(store)
    journal = BucketJournal(store.control, volume.uuid, environment)
    with SessionDirectory(folder, volume.uuid, "author") as home:
        async with open_session(environment, store, journal, MemoryReplica(volume.uuid), home) as session:
            time_ns = time.time_ns()

            async def create(parent: int, names: list[bytes], mode: int) -> list[int]:
                inos: list[int] = []
                ops: list[AnyOp] = []
                for name in names:
                    ino = session.take_ino()
                    while ino is None:
                        await session.commit(ops)
                        ops = []
                        await session.reserve_inos()
                        ino = session.take_ino()
                    inos.append(ino)
                    ops.append(Create(parent, name, ino, mode, 0, 0, 0, b"", time_ns))
                verdicts = await session.commit(ops)
                assert not any(verdict.errno for verdict in verdicts)
                return inos

            (parent,) = await create(ROOT_INO, [directory], 0o040755)
            for first in range(0, count, _OPS_IN_COMMIT):
                names = [b"%08d" % index for index in range(first, min(first + _OPS_IN_COMMIT, count))]
                await create(parent, names, 0o100644)
    await store.aclose()
