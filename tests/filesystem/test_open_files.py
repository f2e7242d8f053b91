"""Handles: holds on orphans, publishing at close, privileges, appends."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from s3vfs.errors import PosixError, StoreUnreachable
from s3vfs.filesystem import Caller, LockKind, NewAttributes
from s3vfs.namespace.rows import ROOT_INO
from tests.filesystem.test_names import FILE, ROOT, SOMEONE, Refused
from tests.filesystem.volume import Client, run


def test_an_unlinked_open_file_is_held_until_its_last_close(tmp_path: Path) -> None:
    async def test(client: Client) -> None:
        fs = client.fs
        first, found = await fs.create(ROOT_INO, b"f", 0o644, os.O_RDWR, ROOT)
        second = await fs.open(found.ino, os.O_RDONLY, ROOT)
        await fs.unlink(ROOT_INO, b"f", ROOT)
        assert client.holders(found.ino) == [client.session.sid]
        assert (await fs.getattr(found.ino)).inode.nlink == 0
        await fs.release(first)
        await fs.release(second)
        await client.until(lambda: not client.holders(found.ino))
        with Refused(errno.ESTALE):
            await fs.getattr(found.ino)
        with Refused(errno.ESTALE):
            await fs.open(found.ino, os.O_RDONLY, ROOT)

    run(tmp_path, test)


def test_closes_that_have_something_to_wait_for_do_nothing_at_once(tmp_path: Path) -> None:
    async def test(client: Client) -> None:
        fs = client.fs
        handle, found = await fs.create(ROOT_INO, b"f", 0o644, os.O_RDWR, ROOT)
        await fs.write(handle, 0, b"abc")
        assert not fs.flush_at_once(handle, 1)
        assert not fs.release_at_once(handle, 1)
        assert fs.is_open(found.ino)
        await fs.flush(handle, 1)
        await fs.lock(handle, 1, 0, 5, LockKind.EXCLUSIVE, flock=False, wait=False, pid=1)
        assert not fs.flush_at_once(handle, 1)  # it takes the lock away
        assert fs.flush_at_once(handle, 2)
        assert not fs.release_at_once(handle, 1)
        await fs.flush(handle, 1)
        await fs.lock(handle, 3, 0, 0, LockKind.SHARED, flock=True, wait=False, pid=1)
        assert not fs.release_at_once(handle, 3, flock=True)
        await fs.release(handle, 3, flock=True)
        assert not fs.is_open(found.ino)

    run(tmp_path, test)


def test_closes_of_clean_files_are_done_at_once(tmp_path: Path) -> None:
    async def test(client: Client) -> None:
        fs = client.fs
        handle, found = await fs.create(ROOT_INO, b"f", 0o644, os.O_RDWR, ROOT)
        assert fs.flush_at_once(handle, 1)
        await fs.unlink(ROOT_INO, b"f", ROOT)
        assert client.holders(found.ino) == [client.session.sid]
        assert fs.release_at_once(handle, 1)
        assert not fs.is_open(found.ino)
        with Refused(errno.EBADF):
            fs.release_at_once(handle, 1)
        await client.until(lambda: not client.holders(found.ino))

    run(tmp_path, test)


def test_a_replaced_open_file_is_held(tmp_path: Path) -> None:
    async def test(client: Client) -> None:
        fs = client.fs
        handle, found = await fs.create(ROOT_INO, b"f", 0o644, os.O_RDWR, ROOT)
        await fs.mknod(ROOT_INO, b"g", FILE, 0, ROOT)
        await fs.rename(ROOT_INO, b"g", ROOT_INO, b"f", 0, ROOT)
        assert client.holders(found.ino) == [client.session.sid]
        await fs.release(handle)
        await client.until(lambda: not client.holders(found.ino))

    run(tmp_path, test)


def test_a_file_that_is_not_open_is_not_held(tmp_path: Path) -> None:
    async def test(client: Client) -> None:
        found = await client.fs.mknod(ROOT_INO, b"f", FILE, 0, ROOT)
        await client.fs.unlink(ROOT_INO, b"f", ROOT)
        assert client.holders(found.ino) == []

    run(tmp_path, test)


def test_a_file_unlinked_by_others_is_held_by_those_who_have_it_open(tmp_path: Path) -> None:
    async def test(one: Client, two: Client, three: Client) -> None:
        found = await one.fs.mknod(ROOT_INO, b"f", FILE, 0, ROOT)
        await two.fs.lookup(ROOT_INO, b"f")
        handle = await two.fs.open(found.ino, os.O_RDONLY, ROOT)
        await one.fs.unlink(ROOT_INO, b"f", ROOT)
        await two.until(lambda: two.holders(found.ino) == [two.session.sid])
        assert (await two.fs.getattr(found.ino)).inode.nlink == 0
        await three.session.fresh(0)
        assert three.holders(found.ino) == [two.session.sid]
        await two.fs.release(handle)
        await two.until(lambda: not two.holders(found.ino))

    run(tmp_path, test, 3)


def test_a_file_that_lost_its_name_on_the_way_is_opened_and_held_where_it_is_expected(tmp_path: Path) -> None:
    """The kernel was just told of it, and does not look up a third time."""

    async def test(one: Client, two: Client) -> None:
        found = await one.fs.mknod(ROOT_INO, b"f", FILE, 0, ROOT)
        await two.fs.lookup(ROOT_INO, b"f")
        await one.fs.unlink(ROOT_INO, b"f", ROOT)
        await two.session.fresh(0)
        with Refused(errno.ESTALE):
            await two.fs.open(found.ino, os.O_RDONLY, ROOT)
        two.fs.expected = lambda ino: ino == found.ino
        handle = await two.fs.open(found.ino, os.O_RDONLY, ROOT)
        await two.until(lambda: two.holders(found.ino) == [two.session.sid])
        await two.fs.release(handle)
        await two.until(lambda: not two.holders(found.ino))

    run(tmp_path, test, 2)


def test_close_publishes_what_a_writer_wrote(tmp_path: Path) -> None:
    async def test(client: Client) -> None:
        fs = client.fs
        handle, found = await fs.create(ROOT_INO, b"f", 0o644, os.O_WRONLY, ROOT)
        await fs.write(handle, 0, b"data")
        row = client.inode(found.ino)
        assert row is not None
        assert row.size == 0
        assert (await fs.getattr(found.ino)).inode.size == 4
        await fs.flush(handle)
        row = client.inode(found.ino)
        assert row is not None
        assert row.size == 4
        reader = await fs.open(found.ino, os.O_RDONLY, ROOT)
        client.contents.calls.clear()
        await fs.flush(reader)
        await fs.release(reader)
        assert client.contents.calls == []

    run(tmp_path, test)


def test_failures_reach_every_close_and_fsync(tmp_path: Path) -> None:
    """R10."""

    async def test(client: Client) -> None:
        fs = client.fs
        handle, _ = await fs.create(ROOT_INO, b"f", 0o644, os.O_WRONLY, ROOT)
        await fs.write(handle, 0, b"data")
        client.contents.failure = StoreUnreachable("away")
        for _ in range(2):
            with pytest.raises(StoreUnreachable):
                await fs.fsync(handle)
            with pytest.raises(StoreUnreachable):
                await fs.flush(handle)
        with pytest.raises(StoreUnreachable):
            await fs.release(handle)
        assert list(client.contents.handles.values()) == [0]
        client.contents.failure = None

    run(tmp_path, test)


def test_open_truncates_only_after_the_check(tmp_path: Path) -> None:
    async def test(client: Client) -> None:
        fs = client.fs
        handle, found = await fs.create(ROOT_INO, b"f", 0o644, os.O_WRONLY, ROOT)
        await fs.write(handle, 0, b"data")
        await fs.flush(handle)

        async def refuse() -> None:
            raise PosixError(errno.ESTALE)

        with Refused(errno.ESTALE):
            await fs.open(found.ino, os.O_WRONLY | os.O_TRUNC, ROOT, check=refuse)
        assert (await fs.getattr(found.ino)).inode.size == 4
        await fs.open(found.ino, os.O_WRONLY | os.O_TRUNC, ROOT)
        assert (await fs.getattr(found.ino)).inode.size == 0

    run(tmp_path, test)


def test_what_cannot_be_opened(tmp_path: Path) -> None:
    async def test(client: Client) -> None:
        directory = await client.fs.mkdir(ROOT_INO, b"d", 0o755, ROOT)
        with Refused(errno.EISDIR):
            await client.fs.open(directory.ino, os.O_RDONLY, ROOT)
        with Refused(errno.ESTALE):
            await client.fs.open(4711, os.O_RDONLY, ROOT)
        with Refused(errno.EBADF):
            await client.fs.read(4711, 0, 1)
        handle, _ = await client.fs.create(ROOT_INO, b"f", 0o644, os.O_RDONLY, ROOT)
        with Refused(errno.EBADF):
            await client.fs.write(handle, 0, b"x")
        with Refused(errno.EEXIST):
            await client.fs.create(ROOT_INO, b"f", 0o644, os.O_RDONLY, ROOT)

    run(tmp_path, test)


def test_appending_handles_append(tmp_path: Path) -> None:
    async def test(client: Client) -> None:
        handle, found = await client.fs.create(ROOT_INO, b"f", 0o644, os.O_WRONLY | os.O_APPEND, ROOT)
        assert await client.fs.write(handle, 4711, b"line") == 4
        assert client.contents.calls == [("append", found.ino, b"line")]

    run(tmp_path, test)


def test_truncation_by_path_is_published_at_once_by_handle_at_close(tmp_path: Path) -> None:
    async def test(client: Client) -> None:
        fs = client.fs
        handle, found = await fs.create(ROOT_INO, b"f", 0o644, os.O_WRONLY, ROOT)
        await fs.setattr(found.ino, NewAttributes(size=10), ROOT, by_handle=True)
        row = client.inode(found.ino)
        assert row is not None
        assert row.size == 0
        assert (await fs.setattr(found.ino, NewAttributes(size=20), ROOT)).inode.size == 20
        row = client.inode(found.ino)
        assert row is not None
        assert row.size == 20
        await fs.release(handle)
        with Refused(errno.EISDIR):
            await fs.setattr(ROOT_INO, NewAttributes(size=0), ROOT)

    run(tmp_path, test)


def test_times_go_with_unpublished_bytes(tmp_path: Path) -> None:
    async def test(client: Client) -> None:
        fs = client.fs
        handle, found = await fs.create(ROOT_INO, b"f", 0o644, os.O_WRONLY, ROOT)
        await fs.write(handle, 0, b"data")
        records = client.records
        await fs.setattr(found.ino, NewAttributes(mtime_ns=7), ROOT)
        assert client.contents.times == {found.ino: (None, 7)}
        assert client.records == records
        await fs.flush(handle)
        changed = await fs.setattr(found.ino, NewAttributes(atime_ns=8, mtime_ns=9), ROOT)
        assert (changed.inode.atime_ns, changed.inode.mtime_ns) == (8, 9)

    run(tmp_path, test)


@pytest.mark.parametrize(("caller", "kept"), [(ROOT, 0o6755), (SOMEONE, 0o755)])
def test_privileges_after_changes_by(tmp_path: Path, caller: Caller, kept: int) -> None:
    async def test(client: Client) -> None:
        fs = client.fs

        async def mode(ino: int) -> int:
            return stat.S_IMODE((await fs.getattr(ino)).inode.mode)

        handle, found = await fs.create(ROOT_INO, b"f", 0o6755, os.O_WRONLY, caller)
        await fs.write(handle, 0, b"data")
        assert await mode(found.ino) == kept
        await fs.setattr(found.ino, NewAttributes(mode=0o6755), ROOT)
        await fs.write(handle, 0, b"stored", mapped=True)
        assert await mode(found.ino) == 0o6755
        await fs.write(handle, 0, b"again")
        assert await mode(found.ino) == kept
        await fs.setattr(found.ino, NewAttributes(mode=0o6755), ROOT)
        await fs.setattr(found.ino, NewAttributes(size=1), caller)
        assert await mode(found.ino) == kept
        await fs.setattr(found.ino, NewAttributes(mode=0o6755), ROOT)
        await fs.setattr(found.ino, NewAttributes(uid=5, gid=6), ROOT)
        assert await mode(found.ino) == 0o755

    run(tmp_path, test)


def test_a_truncate_by_a_read_only_open_is_published_by_that(tmp_path: Path) -> None:
    async def test(client: Client) -> None:
        _, found = await client.fs.create(ROOT_INO, b"f", 0o644, os.O_WRONLY, ROOT)
        await client.fs.open(found.ino, os.O_WRONLY | os.O_TRUNC, ROOT)
        assert client.contents.calls == [("truncate", found.ino, 0)]
        client.contents.calls.clear()
        await client.fs.open(found.ino, os.O_RDONLY | os.O_TRUNC, ROOT)
        assert client.contents.calls == [("truncate", found.ino, 0), ("publish", found.ino)]

    run(tmp_path, test)


def test_handles_end_with_the_mount(tmp_path: Path) -> None:
    async def test(client: Client) -> None:
        handle, found = await client.fs.create(ROOT_INO, b"f", 0o644, os.O_WRONLY, ROOT)
        await client.fs.open(found.ino, os.O_RDONLY, ROOT)
        client.fs.forget_handles()
        assert list(client.contents.handles.values()) == [0]
        assert not client.fs.is_open(found.ino)
        with Refused(errno.EBADF):
            await client.fs.flush(handle)

    run(tmp_path, test)


def test_a_truncate_takes_privileges_from_the_present_mode(tmp_path: Path) -> None:
    """The kernel sends the mode that it has cached, without setuid."""

    async def test(client: Client) -> None:
        fs = client.fs
        found = await fs.mknod(ROOT_INO, b"f", stat.S_IFREG | 0o4644, 0, ROOT)
        await fs.setattr(found.ino, NewAttributes(mode=0o4606), ROOT)
        changed = await fs.setattr(found.ino, NewAttributes(size=3, mode=0o644), SOMEONE)
        assert stat.S_IMODE(changed.inode.mode) == 0o606

    run(tmp_path, test)


def test_who_is_in_the_group_keeps_setgid_where_the_group_does_not_execute(tmp_path: Path) -> None:
    async def test(client: Client) -> None:
        fs = client.fs
        for gid, left in ((SOMEONE.gid, 0o2666), (SOMEONE.gid + 1, 0o666)):
            found = await fs.mknod(ROOT_INO, b"f%d" % gid, stat.S_IFREG | 0o666, 0, ROOT)
            await fs.setattr(found.ino, NewAttributes(gid=gid), ROOT)
            await fs.setattr(found.ino, NewAttributes(mode=0o6666), ROOT)
            handle = await fs.open(found.ino, os.O_WRONLY, SOMEONE)
            await fs.write(handle, 0, b"x")
            row = client.inode(found.ino)
            assert row is not None
            assert stat.S_IMODE(row.mode) == left
            await fs.release(handle)

    run(tmp_path, test)


def test_a_removed_directory_keeps_its_attributes_for_who_stands_in_it(tmp_path: Path) -> None:
    async def test(one: Client, two: Client) -> None:
        fs = one.fs
        made = await fs.mkdir(ROOT_INO, b"d", 0o755, ROOT)
        assert (await two.fs.lookup(ROOT_INO, b"d")).ino == made.ino
        await fs.rmdir(ROOT_INO, b"d", ROOT)
        assert (await fs.getattr(made.ino)).inode.nlink == 0
        changed = await fs.setattr(made.ino, NewAttributes(mode=0o700), ROOT)
        assert stat.S_IMODE(changed.inode.mode) == 0o700
        with Refused(errno.ENOENT):
            await fs.lookup(made.ino, b"x")
        with Refused(errno.ENOENT):
            await fs.mkdir(made.ino, b"x", 0o755, ROOT)
        await two.session.fresh(0)
        with Refused(errno.ESTALE):
            await two.fs.getattr(made.ino)

    run(tmp_path, test, 2)
