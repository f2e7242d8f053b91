"""The same session over the real replica, real threads and the real clock."""

from __future__ import annotations

import time
from pathlib import Path

import trio

from s3vfs.environment import Environment
from s3vfs.journal.bucket import BucketJournal
from s3vfs.objects.memory import MemoryBucket
from s3vfs.objects.runner import ThreadRunner
from s3vfs.replica.lmdb_replica import LmdbReplica
from s3vfs.session.directory import SessionDirectory
from s3vfs.session.session import Session, open_session
from tests.session.volume import UUID, create, make_volume, names


def test_commits_survive_a_crash_and_are_resumed_on_lmdb(tmp_path: Path) -> None:
    async def main() -> None:
        surroundings = Environment(ThreadRunner(4), "this boot")
        store = MemoryBucket(time.time_ns).open("v")
        await make_volume(store)

        async def make(session: Session, number: int) -> None:
            # Inode numbers are taken as ops enter the queue, whatever order trio runs these tasks in.
            (verdict,) = await session.commit([create(session, b"%d-%d" % (session.incarnation, number))])
            assert verdict.errno == 0

        async def mount(session: Session, count: int) -> None:
            async with trio.open_nursery() as nursery:
                for number in range(count):
                    nursery.start_soon(make, session, number)

        for incarnation in (1, 2):
            with SessionDirectory(tmp_path, UUID, "m") as directory, trio.CancelScope() as scope:
                replica = LmdbReplica.open(directory.index, volume=UUID, boot_id=surroundings.boot_id)
                journal = BucketJournal(store.control, UUID, surroundings)
                try:
                    async with open_session(surroundings, store, journal, replica, directory) as session:
                        assert session.incarnation == incarnation
                        await mount(session, 100)
                        assert len(names(session)) == 100 * incarnation
                        assert session.counters.records_won < 20
                        scope.cancel()
                        await trio.sleep_forever()
                finally:
                    replica.close()

    trio.run(main)
