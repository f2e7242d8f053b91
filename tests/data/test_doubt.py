"""Commits whose answer nobody has heard: after a kill, or after patience has ended, exactly what did not take effect is
published again, so that what another client has written since stays."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

from s3vfs.data import publish
from s3vfs.errors import StoreUnreachable, UnknownFeature
from s3vfs.namespace.ops import Config
from s3vfs.objects.counting import Operation
from s3vfs.objects.faults import Failure, Fault, Rule
from tests.data.double import Volume
from tests.data.mount import QUICK, Mount, in_use, mounted, until

PUTS = frozenset({Operation.BULK_PUT})
AWAY = Rule(Fault(Failure.BEFORE), PUTS, times=None)


def run(main: Callable[[], Awaitable[None]]) -> None:
    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


async def write(mount: Mount, ino: int, offset: int, data: bytes) -> None:
    mount.contents.opened(ino, True)
    await mount.contents.write(ino, offset, data)
    await mount.contents.publish(ino)
    mount.contents.closed(ino, True)


async def killed_in_publish(
    volume: Volume,
    folder: Path,
    ino: int,
    change: Callable[[Mount], Awaitable[None]],
    *,
    answers: int = 0,
    between: bool = False,
) -> None:
    """A mount changes the file, and is killed while it publishes. `answers` commits are answered; one more takes
    effect, unheard, unless the kill comes `between` the two."""
    killed = trio.Event()
    saved: dict[Path, bytes] = {}

    def answer() -> None:
        done = len(volume.records) - records
        if done > answers or (done == answers and between):
            mount.client.never_answer = done > answers
            mount.script.add(AWAY)
            killed.set()

    async with mounted(volume, folder) as mount:
        mount.contents.opened(ino, True)
        await change(mount)
        records = len(volume.records)
        mount.client.before_answer = answer
        async with trio.open_nursery() as nursery:
            nursery.start_soon(mount.contents.publish, ino)
            await killed.wait()
            for _ in range(20):  # a commit that was answered is concluded before the process dies
                await trio.lowlevel.checkpoint()
            saved = {path: path.read_bytes() for path in (folder / "working").iterdir()}
            nursery.cancel_scope.cancel()
    # What the cancelled tasks did to the files on their way out, a kill would not have done.
    for path in (folder / "working").iterdir():
        path.unlink()
    for path, data in saved.items():
        path.write_bytes(data)


@pytest.mark.parametrize(("answers", "between"), [(0, False), (1, False), (2, False), (1, True), (2, True)])
@pytest.mark.parametrize("pieces", [False, True], ids=["regions", "packs"])
def test_after_a_kill_between_commits_only_those_that_took_no_effect_are_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answers: int, between: bool, pieces: bool
) -> None:
    monkeypatch.setattr(publish, "_REGIONS_IN_COMMIT", 2)
    monkeypatch.setattr(publish, "ONE_COMMIT_PIECES", 2)
    # Six regions of 64 bytes, or as many pieces of 20: three commits.
    step, length = (64, 20) if pieces else (64, 64)

    async def change(mount: Mount) -> None:
        for start in range(0, 6 * step, step):
            await mount.contents.write(ino, start, b"a" * length)

    async def main() -> None:
        await killed_in_publish(volume, tmp_path / "a", ino, change, answers=answers, between=between)
        async with mounted(volume, tmp_path / "b") as other:
            before = await other.whole(ino)
            await write(other, ino, 0, b"b" * 6 * step)
        async with mounted(volume, tmp_path / "a") as again:
            await again.contents.publish_all()
            after = await again.whole(ino)
        assert len(after) == 6 * step
        for at in range(6 * step):
            written = at % step < length
            if written and not before[at : at + 1].strip(b"\0"):
                assert after[at : at + 1] == b"a", f"{at} was acknowledged and is lost"
            else:
                assert after[at : at + 1] == b"b", f"{at} was written by the other since"
        published = sum(extent.length for op in volume.writes() for extent in op.extents)
        assert published == 6 * length + 6 * step, "every byte once"

    volume = Volume()
    ino = volume.make_file()
    run(main)


def test_a_truncate_that_was_in_the_journal_when_the_daemon_was_killed_is_not_repeated(tmp_path: Path) -> None:
    async def change(mount: Mount) -> None:
        await mount.contents.truncate(ino, 0)

    async def main() -> None:
        async with mounted(volume, tmp_path / "b") as other:
            await write(other, ino, 0, b"old" * 10)
        await killed_in_publish(volume, tmp_path / "a", ino, change)
        assert volume.inode(ino).size == 0
        async with mounted(volume, tmp_path / "b") as other:
            await write(other, ino, 0, b"new")
        async with mounted(volume, tmp_path / "a") as again:
            await again.contents.publish_all()
            assert await again.whole(ino) == b"new"

    volume = Volume()
    ino = volume.make_file()
    run(main)


def test_times_that_were_in_the_journal_when_the_daemon_was_killed_are_not_set_again(tmp_path: Path) -> None:
    async def change(mount: Mount) -> None:
        await mount.contents.write(ino, 0, b"x")
        mount.client.before_answer = partial(mount.contents.set_times, ino, 7, 8)
        await mount.contents.publish(ino)  # the times, set while the bytes are on their way, go out alone
        assert mount.contents.status()["unpublished_files"] == 1

    async def main() -> None:
        await killed_in_publish(volume, tmp_path / "a", ino, change)
        assert volume.inode(ino).mtime_ns == 8
        async with mounted(volume, tmp_path / "b") as other:
            await write(other, ino, 0, b"y")
        mtime_ns = volume.inode(ino).mtime_ns
        async with mounted(volume, tmp_path / "a") as again:
            await again.contents.publish_all()
        assert volume.inode(ino).mtime_ns == mtime_ns != 8

    volume = Volume()
    ino = volume.make_file()
    run(main)


def test_a_region_that_was_uploaded_early_is_not_put_over_what_came_after_its_commit(tmp_path: Path) -> None:
    async def change(mount: Mount) -> None:
        await mount.contents.write(ino, 0, b"a" * 130)
        await until(lambda: mount.puts() == 2)

    async def main() -> None:
        await killed_in_publish(volume, tmp_path / "a", ino, change)
        async with mounted(volume, tmp_path / "b") as other:
            await write(other, ino, 0, b"b" * 130)
        async with mounted(volume, tmp_path / "a") as again:
            await again.contents.publish_all()
            assert await again.whole(ino) == b"b" * 130

    volume = Volume()
    ino = volume.make_file()
    run(main)


def test_a_refusal_that_nobody_heard_is_no_success(tmp_path: Path) -> None:
    async def change(mount: Mount) -> None:
        await mount.contents.write(ino, 0, b"x" * 30)

    async def main() -> None:
        volume.apply([Config("volume", 10, 0)], None)
        await killed_in_publish(volume, tmp_path, ino, change)
        assert volume.inode(ino).size == 0
        volume.apply([Config("volume", 0, 0)], None)
        async with mounted(volume, tmp_path) as again:
            await again.contents.publish_all()
            assert await again.whole(ino) == b"x" * 30
        assert volume.inode(ino).size == 30

    volume = Volume()
    ino = volume.make_file()
    run(main)


def test_a_commit_that_outlasts_patience_is_decided_before_anything_is_sent_again(tmp_path: Path) -> None:
    async def main() -> None:
        volume = Volume()
        ino = volume.make_file()
        async with mounted(volume, tmp_path / "a") as mount, mounted(volume, tmp_path / "b") as other:
            mount.contents.opened(ino, True)
            await mount.contents.write(ino, 0, b"a" * 30)
            mount.client.unheard = True
            with pytest.raises(StoreUnreachable):
                await mount.contents.publish(ino)
            assert mount.contents.status()["unpublished_bytes"] == 30
            await write(other, ino, 0, b"b" * 10)
            await mount.contents.write(ino, 20, b"c" * 20)
            with pytest.raises(StoreUnreachable):
                await mount.contents.publish(ino)
            assert await mount.whole(ino) == b"a" * 20 + b"c" * 20
            mount.client.unheard = False
            await mount.contents.publish(ino)
            assert await mount.whole(ino) == b"b" * 10 + b"a" * 10 + b"c" * 20
            assert [[extent.length for extent in op.extents] for op in volume.writes()] == [[30], [10], [20]]
            assert mount.contents.failure(ino) is None

    run(main)


def test_a_file_that_is_removed_while_its_commit_is_in_doubt_is_let_go(tmp_path: Path) -> None:
    async def main() -> None:
        volume = Volume()
        ino = volume.make_file()
        async with mounted(volume, tmp_path) as mount:
            mount.contents.opened(ino, True)
            await mount.contents.write(ino, 0, b"a" * 30)
            mount.client.unheard = True
            with pytest.raises(StoreUnreachable):
                await mount.contents.publish(ino)
            volume.unlink(ino)
            mount.contents.closed(ino, True)
            await until(lambda: mount.contents.status()["unpublished_files"] == 0)
            mount.client.unheard = False
            await trio.sleep(60)
            assert mount.contents.status()["failures"] == []
            assert not in_use(tmp_path)

    run(main)


def test_bytes_of_a_session_that_is_not_ours_any_more_are_spilled(tmp_path: Path) -> None:
    async def main() -> None:
        volume = Volume()
        ino = volume.make_file(b"report")
        async with mounted(volume, tmp_path) as mount:
            mount.contents.opened(ino, True)
            await mount.contents.write(ino, 0, b"old")
        async with mounted(volume, tmp_path / "b") as other:
            await write(other, ino, 0, b"new")
        async with mounted(volume, tmp_path, resumed=False) as again:
            await again.contents.publish_all()
            assert await again.whole(ino) == b"new"
        (kept,) = (tmp_path / "spill").iterdir()
        assert (kept / "bytes").read_bytes() == b"old"
        assert "the session that has them was ended" in (kept / "about.json").read_text()

    run(main)


@pytest.mark.parametrize("answers", [0, 1, 2])
def test_holes_that_were_in_the_journal_when_the_daemon_was_killed_are_not_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answers: int
) -> None:
    monkeypatch.setattr(publish, "ONE_COMMIT_HOLES", 2)

    async def change(mount: Mount) -> None:
        for start in range(0, 60, 10):
            await mount.contents.punch(ino, start, 5)

    async def main() -> None:
        async with mounted(volume, tmp_path / "b") as other:
            await write(other, ino, 0, b"a" * 60)
        await killed_in_publish(volume, tmp_path / "a", ino, change, answers=answers)
        made = 2 * (answers + 1)
        assert volume.inode(ino).allocated == 60 - 5 * made
        async with mounted(volume, tmp_path / "b") as other:
            await write(other, ino, 0, b"b" * 60)
        async with mounted(volume, tmp_path / "a") as again:
            await again.contents.publish_all()
            want = b"b" * 10 * made + (bytes(5) + b"b" * 5) * (6 - made)
            assert await again.whole(ino) == want

    volume = Volume()
    ino = volume.make_file()
    run(main)


def test_what_another_version_left_is_neither_read_nor_deleted(tmp_path: Path) -> None:
    volume = Volume()
    left = tmp_path / "working"

    async def first() -> None:
        async with mounted(volume, tmp_path, limits=replace(QUICK, dirty_age_s=1e6)) as mount:
            await mount.contents.write(volume.make_file(), 0, b"precious")

    run(first)
    (log,) = left.glob("*.log")
    raw = bytearray(log.read_bytes())
    raw[7:8] = b"1"
    log.write_bytes(raw)

    async def second() -> None:
        async with mounted(volume, tmp_path):
            pass

    with pytest.raises(ExceptionGroup) as raised:
        run(second)
    assert raised.group_contains(UnknownFeature, match="another version", depth=None)
    assert log.with_suffix("").read_bytes() == b"precious"
    assert log.read_bytes() == raw
