"""Random histories of two mounts and a kill, against plain bytes."""

from __future__ import annotations

import random
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from s3vfs.data.protocol import data_key
from s3vfs.errors import StoreDenied
from s3vfs.namespace.rows import Rows
from s3vfs.objects.counting import Operation
from s3vfs.objects.faults import Failure, Fault, Rule
from tests.data.double import Volume
from tests.data.mount import Mount, in_use, mounted

SPAN = 400
offsets = st.integers(0, SPAN)
step = st.one_of(
    st.tuples(st.just("write"), offsets, st.integers(1, 150)),
    st.tuples(st.just("truncate"), offsets, st.just(0)),
    st.tuples(st.just("read"), offsets, st.integers(1, SPAN)),
    st.tuples(st.just("publish"), st.just(0), st.just(0)),
    st.tuples(st.just("reopen"), st.just(0), st.just(0)),
    st.tuples(st.just("kill"), st.just(0), st.just(0)),
    st.tuples(st.just("wait"), st.integers(0, 8), st.just(0)),
    st.tuples(st.just("punch"), offsets, st.integers(1, 200)),
    st.tuples(st.just("zero"), offsets, st.integers(1, 200)),
    st.tuples(st.just("clone"), offsets, st.integers(1, 200)),
    st.tuples(st.just("clone back"), offsets, st.integers(1, 200)),
    st.tuples(st.just("foreign write"), offsets, st.integers(1, 150)),
    st.tuples(st.just("foreign truncate"), offsets, st.just(0)),
    st.tuples(st.just("append"), st.just(0), st.integers(1, 60)),
    st.tuples(st.just("publish meanwhile"), st.integers(0, 12), st.just(0)),
    st.tuples(st.just("fail to publish"), st.integers(0, 3), st.just(0)),
)


class Bytes:
    """A file as a bytearray with POSIX's rules."""

    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, offset: int, data: bytes) -> None:
        self.truncate(max(len(self.data), offset))
        self.data[offset : offset + len(data)] = data

    def truncate(self, size: int) -> None:
        del self.data[size:]
        self.data.extend(bytes(size - len(self.data)))

    def punch(self, offset: int, length: int) -> None:
        end = min(offset + length, len(self.data))
        self.data[offset:end] = bytes(max(0, end - offset))


async def check_bucket(volume: Volume) -> None:
    """R9: every object that a record declares is in the bucket, whole."""
    for declared in volume.declared():
        body = volume.bucket.peek(data_key(declared.object))
        assert body is not None
        assert len(body) == declared.size


def check_rows(volume: Volume, ino: int) -> None:
    extents = list(Rows(volume.rows).extents(ino))
    assert all(extent.length for _, extent in extents)


class History:
    """One mount with a working file, whose daemon may be killed, and another mount that writes in between.

    What is unpublished here is laid over foreign changes when it is published: the later record wins. Where a publish
    has begun and nobody knows how far it came (`uncertain`), the next foreign change waits for it."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.volume = Volume()
        self.ino = self.volume.make_file()
        self.random = random.Random(seed)
        self.published = Bytes()
        self.twin = self.volume.make_file()
        self.twin_bytes = Bytes()
        self.unpublished: list[tuple[str, int, bytes]] = []
        self.uncertain = False
        self.nursery: trio.Nursery | None = None

    def now(self) -> bytes:
        """What this mount must see."""
        file = Bytes()
        file.data[:] = self.published.data
        for kind, offset, data in self.unpublished:
            if kind == "write":
                file.write(offset, data)
            elif kind == "punch":
                file.punch(offset, len(data))
            elif kind == "extend":
                file.truncate(max(len(file.data), offset))
            else:
                file.truncate(offset)
        return bytes(file.data)

    def settle(self) -> None:
        self.published.data[:] = self.now()
        self.unpublished.clear()
        self.uncertain = False

    async def run(self, steps: list[tuple[str, int, int]]) -> None:
        at = 0
        while at <= len(steps):
            async with mounted(self.volume, self.folder / "own") as mount:
                mount.contents.opened(self.ino, True)
                mount.contents.opened(self.twin, True)
                assert await mount.whole(self.ino) == self.now()
                async with trio.open_nursery() as self.nursery:
                    while at < len(steps) and steps[at][0] != "kill":
                        await self.act(mount, *steps[at])
                        at += 1
                        size = mount.contents.attributes(self.ino, self.volume.inode(self.ino)).size
                        assert size == len(self.now())
                    self.nursery.cancel_scope.cancel()
            at += 1
        async with mounted(self.volume, self.folder / "own") as mount:
            assert await mount.whole(self.ino) == self.now()
            await mount.contents.publish_all()
            self.settle()
            assert await mount.whole(self.ino) == self.now()
            assert mount.contents.cache.counters.bad_sectors == 0
        async with mounted(self.volume, self.folder / "last") as mount:
            assert await mount.whole(self.ino) == self.now()
            assert await mount.whole(self.twin) == self.twin_bytes.data
            self.check_spans(mount)
        await check_bucket(self.volume)
        check_rows(self.volume, self.ino)
        check_rows(self.volume, self.twin)

    def check_spans(self, mount: Mount) -> None:
        """What is not data is zeros; SEEK_DATA and SEEK_HOLE alternate up to the end."""
        now, at, is_data = self.now(), 0, True
        while at < len(now):
            found = mount.contents.seek(self.ino, at, data=is_data)
            stop = len(now) if found is None else found
            assert is_data is False or not any(now[at:stop]), (at, stop)
            assert found is not None or is_data
            at, is_data = stop, not is_data
        data = mount.contents.data_bytes(self.ino, 0, len(now))
        assert data <= len(now)
        assert now.count(0) >= len(now) - data

    async def publish_if_it_can(self, mount: Mount) -> None:
        with suppress(StoreDenied):
            await mount.contents.publish(self.ino)

    async def act(self, mount: Mount, kind: str, offset: int, length: int) -> None:
        contents, ino = mount.contents, self.ino
        data = self.random.randbytes(length)
        if self.uncertain and kind in ("foreign write", "foreign truncate", "append"):
            await contents.publish(ino)
            self.settle()
        if kind == "write":
            await contents.write(ino, offset, data)
            self.unpublished.append(("write", offset, data))
        elif kind == "truncate":
            await contents.truncate(ino, offset)
            self.unpublished.append(("truncate", offset, b""))
        elif kind in ("punch", "zero"):
            if kind == "zero":
                await contents.extend(ino, offset + length)
                if len(self.now()) < offset + length:
                    self.unpublished.append(("extend", offset + length, b""))
            await contents.punch(ino, offset, length)
            # Only what the file had then: what others put behind its end meanwhile stays.
            self.unpublished.append(("punch", offset, data[: max(0, len(self.now()) - offset)]))
        elif kind in ("clone", "clone back"):
            pair = ((ino, self.now()), (self.twin, bytes(self.twin_bytes.data)))
            (source, there), (target, _) = pair if kind == "clone" else reversed(pair)
            at = offset * 7 % SPAN
            count = await contents.clone(source, offset, target, at, length)
            self.settle()
            assert count == len(there[offset:][:length])
            if count:
                (self.twin_bytes if kind == "clone" else self.published).write(at, there[offset : offset + count])
            assert await mount.whole(self.twin) == self.twin_bytes.data
        elif kind == "read":
            assert bytes(await contents.read(ino, offset, length, contents.readahead())) == self.now()[offset:][:length]
        elif kind == "publish":
            await contents.publish(ino)
            self.settle()
        elif kind == "append":
            await contents.append(ino, data)
            self.settle()
            self.published.write(len(self.published.data), data)
        elif kind == "reopen":
            await contents.publish(ino)
            self.settle()
            contents.closed(ino, True)
            await trio.testing.wait_all_tasks_blocked()
            assert not in_use(self.folder / "own")
            contents.opened(ino, True)
        elif kind == "wait":
            await trio.sleep(offset)
            await trio.testing.wait_all_tasks_blocked()
            if not mount.contents.status()["unpublished_files"]:
                self.settle()
        elif kind == "publish meanwhile":
            assert self.nursery is not None
            self.uncertain = True
            self.nursery.start_soon(self.publish_if_it_can, mount)
            for _ in range(offset):
                await trio.lowlevel.checkpoint()
        elif kind == "fail to publish":
            self.uncertain = True
            mount.script.add(Rule(Fault(Failure.DENIED), frozenset({Operation.BULK_PUT}), skip=offset))
            await self.publish_if_it_can(mount)
            mount.script.clear()
        elif kind == "foreign truncate":
            self.volume.clients[0].foreign_size(ino, offset)
            self.published.truncate(offset)
        else:
            async with mounted(self.volume, self.folder / "other") as other:
                await other.contents.write(ino, offset, data)
                await other.contents.publish(ino)
            self.published.write(offset, data)
        assert await mount.whole(ino) == self.now()
        self.check_spans(mount)


@settings(max_examples=100, deadline=None)
@given(st.lists(step, max_size=25), st.integers(0, 1000))
def test_every_short_history_reads_as_plain_bytes_would(steps: list[tuple[str, int, int]], seed: int) -> None:
    play(steps, seed)


@pytest.mark.parametrize("seed", range(60))
def test_long_histories_read_as_plain_bytes_would(seed: int) -> None:
    generator = random.Random(seed)
    kinds = ["write"] * 5 + [
        "truncate", "read", "publish", "reopen", "kill", "wait", "foreign write", "foreign truncate", "append",
        "punch", "punch", "zero", "clone", "clone back", "publish meanwhile", "publish meanwhile", "fail to publish",
    ]  # fmt: skip
    steps = []
    for _ in range(60):
        kind = generator.choice(kinds)
        offset = generator.randrange({"wait": 8, "publish meanwhile": 12, "fail to publish": 4}.get(kind, SPAN))
        steps.append((kind, offset, generator.randrange(1, 150)))
    play(steps, seed)


def play(steps: list[tuple[str, int, int]], seed: int) -> None:
    with tempfile.TemporaryDirectory(prefix="data-", dir="/dev/shm") as folder:
        trio.run(History(Path(folder), seed).run, steps, clock=trio.testing.MockClock(autojump_threshold=0))
