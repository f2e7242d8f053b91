"""A memory bucket whose clock is set by the test, and a control store that misbehaves by script."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import trio
import trio.testing

from s3vfs.environment import Environment
from s3vfs.errors import StoreDenied, StoreThrottled, StoreUnreachable
from s3vfs.journal.bucket import BucketJournal
from s3vfs.journal.head import Head, encode_head
from s3vfs.journal.record import ZERO_HASH, Header, encode_record
from s3vfs.objects.memory import MemoryBucket
from s3vfs.objects.protocol import Bulk, Control, Outcome, Page, Reply
from s3vfs.objects.runner import InlineRunner

SECOND = 10**9
START_NS = 1_700_000_000 * SECOND
VOLUME = bytes(range(16))

Act = Callable[[Control, str, Callable[[], Awaitable[Reply]]], Awaitable[Reply]]


async def lost_request(control: Control, key: str, send: Callable[[], Awaitable[Reply]]) -> Reply:
    """The request never reaches the bucket."""
    raise StoreUnreachable("no answer")


async def lost_answer(control: Control, key: str, send: Callable[[], Awaitable[Reply]]) -> Reply:
    """The request takes effect, its answer is lost."""
    await send()
    raise StoreUnreachable("no answer")


async def throttled(control: Control, key: str, send: Callable[[], Awaitable[Reply]]) -> Reply:
    raise StoreThrottled("slow down")


async def denied(control: Control, key: str, send: Callable[[], Awaitable[Reply]]) -> Reply:
    raise StoreDenied("access denied")


async def conflict(control: Control, key: str, send: Callable[[], Awaitable[Reply]]) -> Reply:
    """409 without effect."""
    return Reply(Outcome.CONFLICT, START_NS)


async def conflict_after_effect(control: Control, key: str, send: Callable[[], Awaitable[Reply]]) -> Reply:
    """409 although this very request won, as after a retry inside a proxy."""
    await send()
    return Reply(Outcome.CONFLICT, START_NS)


async def twice(control: Control, key: str, send: Callable[[], Awaitable[Reply]]) -> Reply:
    """Something between repeats the request: the answer is that of the second one."""
    await send()
    return await send()


@dataclass
class ScriptedControl:
    """Passes everything on, after the acts set for that method (one is used up by each request).

    `log` has one (method, key) a request that was made.
    """

    inner: Control
    acts: dict[str, list[Act]] = field(default_factory=dict)
    log: list[tuple[str, str]] = field(default_factory=list)

    async def _do(self, method: str, key: str, send: Callable[[], Awaitable[Reply]]) -> Reply:
        self.log.append((method, key))
        acts = self.acts.get(method)
        if acts:
            return await acts.pop(0)(self.inner, key, send)
        return await send()

    async def get(self, key: str) -> Reply:
        return await self._do("get", key, lambda: self.inner.get(key))

    async def head(self, key: str) -> Reply:
        return await self._do("head", key, lambda: self.inner.head(key))

    async def put(self, key: str, body: bytes, *, if_absent: bool = False, if_match: str = "") -> Reply:
        return await self._do("put", key, lambda: self.inner.put(key, body, if_absent=if_absent, if_match=if_match))

    async def delete(self, key: str, *, if_match: str = "") -> Reply:
        return await self._do("delete", key, lambda: self.inner.delete(key, if_match=if_match))

    async def list_page(self, prefix: str, *, start_after: str = "", delimiter: str = "", limit: int = 1000) -> Page:
        self.log.append(("list", prefix))
        return await self.inner.list_page(prefix, start_after=start_after, delimiter=delimiter, limit=limit)

    async def aclose(self) -> None:
        await self.inner.aclose()

    def count(self, method: str, prefix: str = "") -> int:
        return sum(1 for made, key in self.log if made == method and key.startswith(prefix))


@dataclass
class ScriptedStore:
    """A store whose control side is scripted: `script` is that side."""

    url: str
    control: Control
    bulk: Bulk
    script: ScriptedControl

    async def aclose(self) -> None:
        await self.control.aclose()


class World:
    """One bucket, its clock (`now_ns`, whole seconds in answers, as on S3), and clients of it."""

    def __init__(self) -> None:
        self.now_ns = START_NS
        self.bucket = MemoryBucket(lambda: self.now_ns // SECOND * SECOND)
        self._clients = 0

    def later(self, seconds: float) -> None:
        self.now_ns += int(seconds * SECOND)

    def environment(self) -> Environment:
        self._clients += 1
        number = self._clients
        randomness = random.Random(number)
        return Environment(
            run=InlineRunner(),
            boot_id="boot",
            wall_ns=lambda: START_NS + number,  # no two clocks are equal
            boottime_ns=lambda: int(trio.current_time() * SECOND),
            random=randomness,
            new_uuid=lambda: randomness.randbytes(16),
        )

    def store(self) -> ScriptedStore:
        opened = self.bucket.open()
        script = ScriptedControl(opened.control)
        return ScriptedStore(opened.url, script, opened.bulk, script)

    def content(self) -> dict[str, bytes | None]:
        """Everything in the bucket."""
        keys = self.bucket.keys()
        return {key: self.bucket.peek(key) for key in keys}

    async def client(self) -> tuple[BucketJournal, ScriptedControl]:
        """A journal that has just read HEAD; its control's log starts empty."""
        control = ScriptedControl(self.bucket.open().control)
        journal = BucketJournal(control, VOLUME, self.environment())
        await journal.refresh_head()
        control.log.clear()
        return journal, control

    async def make_head(self, head: Head | None = None) -> None:
        """Write HEAD as the world begins, or as something else made it."""
        await self.bucket.open().control.put("HEAD", encode_head(head or Head(VOLUME)))


def record(seq: int, author: int, text: bytes = b"") -> tuple[bytes, bytes]:
    """The bytes and the batch uuid of some record."""
    batch = author.to_bytes(8, "big") + seq.to_bytes(8, "big")
    header = Header(1, 0, VOLUME, 0, seq, ZERO_HASH, ZERO_HASH, author, 1, batch, START_NS, 0, 0, False)
    return encode_record(header, [b"\xc4" + bytes([len(text)]) + text]), batch


def play(main: Callable[[World], Awaitable[None]], *, with_head: bool = True) -> None:
    """Run a test's coroutine in a fresh world, in virtual time."""

    async def run() -> None:
        world = World()
        if with_head:
            await world.make_head()
        with trio.fail_after(10 * 24 * 3600):  # virtual seconds: a wait without end is an error, not a hang
            await main(world)

    trio.run(run, clock=trio.testing.MockClock(autojump_threshold=0))
