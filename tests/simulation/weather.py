"""The way between one client's process and the bucket: slow, lossy, throttled, frozen, hours late.

A request, once sent, is carried by the world: it takes effect even if its sender is killed meanwhile.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NoReturn

import trio
from msgspec import structs

from s3vfs.errors import ObjectExists, ObjectMissing, StoreThrottled, StoreUnreachable
from s3vfs.journal.record import decode_record, encode_record
from s3vfs.objects.memory import MemoryBucket
from s3vfs.objects.protocol import Outcome, Page, Reply
from s3vfs.objects.store import OpenedStore
from tests.simulation.world import PREFIX, World

if TYPE_CHECKING:
    from typing_extensions import Buffer

ANSWER_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Climate:
    """Probabilities of what happens to one request, and its usual time one way."""

    lost_before: float = 0.0
    lost_answer: float = 0.0
    throttled: float = 0.0
    late: float = 0.0  # the effect comes long after the sender has given up
    one_way_s: float = 0.02


CALM = Climate()
ROUGH = Climate(lost_before=0.05, lost_answer=0.08, throttled=0.03, late=0.08, one_way_s=0.15)
OUTAGE = Climate(lost_before=0.8, lost_answer=0.1, late=0.1)


class Freezer:
    """Stops a client as SIGSTOP or a paused machine does: nothing of it goes out, no answer comes in."""

    def __init__(self) -> None:
        self._thawed = trio.Event()
        self._thawed.set()

    @property
    def frozen(self) -> bool:
        return not self._thawed.is_set()

    def freeze(self) -> None:
        if self._thawed.is_set():
            self._thawed = trio.Event()

    def thaw(self) -> None:
        self._thawed.set()

    async def gate(self) -> None:
        while self.frozen:
            await self._thawed.wait()


class Way:
    """One client's way to the bucket. `life` names the process that sends, for the truth."""

    def __init__(self, world: World, generator: random.Random) -> None:
        self.world = world
        self.generator = generator
        self.climate = CALM
        self.freezer = Freezer()
        self.corrupt_next_record = False

    def store(self, life: str) -> OpenedStore:
        return OpenedStore("memory://simulation", _Control(self, life), _Bulk(self, life))

    async def request(self, what: str, effect: Callable[[], Reply]) -> Reply:
        """Carry one request. Raises StoreUnreachable, StoreThrottled."""
        self.world.count_request()
        await self.freezer.gate()
        climate, draw = self.climate, self.generator.random
        if draw() < climate.throttled:
            await trio.sleep(climate.one_way_s)
            raise StoreThrottled(f"{what}: slow down")
        if draw() < climate.lost_before:
            await trio.sleep(draw() * ANSWER_TIMEOUT_S)
            raise StoreUnreachable(f"{what}: lost before it arrived")
        answer_lost = draw() < climate.lost_answer
        late = draw() < climate.late
        there_s = self.generator.uniform(ANSWER_TIMEOUT_S, 60) if late else draw() * 2 * climate.one_way_s
        # Most of what a frozen machine had sent is still in its own buffers, and goes out when it thaws.
        buffered = draw() < 0.7
        replies: list[Reply] = []
        answered = trio.Event()

        async def carry() -> None:
            await trio.sleep(there_s)
            if buffered:
                await self.freezer.gate()
            replies.append(effect())
            await trio.sleep(draw() * 2 * climate.one_way_s)
            answered.set()

        self.world.nursery.start_soon(carry)
        with trio.move_on_after(ANSWER_TIMEOUT_S):
            await answered.wait()
        await self.freezer.gate()
        if answer_lost or not answered.is_set():
            raise StoreUnreachable(f"{what}: no answer")
        return replies[0]


def corrupted(data: bytes, generator: random.Random) -> bytes:
    """A record that is well-formed and does not belong where it stands (R4)."""
    record = decode_record(data)
    wrong = generator.randbytes(16)
    header = generator.choice(
        (
            structs.replace(record.header, previous=wrong),
            structs.replace(record.header, digest=wrong),
            structs.replace(record.header, seq=record.header.seq + 16),
            structs.replace(record.header, volume=wrong),
        )
    )
    return encode_record(header, [bytes(op) for op in record.ops])


def _bucket(way: Way) -> MemoryBucket:
    return way.world.bucket


class _Control:
    def __init__(self, way: Way, life: str) -> None:
        self._way = way
        self._life = life

    async def get(self, key: str) -> Reply:
        def effect() -> Reply:
            reply = _bucket(self._way).read(f"{PREFIX}/{key}", with_body=True)
            if key.startswith("journal/") and reply.outcome is Outcome.OK and self._way.corrupt_next_record:
                self._way.corrupt_next_record = False
                reply = replace(reply, body=corrupted(reply.body, self._way.generator))
                self._way.world.say(self._life, f"is given a wrong {key}")
            return reply

        return await self._way.request(f"GET {key}", effect)

    async def head(self, key: str) -> Reply:
        return await self._way.request(
            f"HEAD {key}", lambda: _bucket(self._way).read(f"{PREFIX}/{key}", with_body=False)
        )

    async def put(self, key: str, body: bytes, *, if_absent: bool = False, if_match: str = "") -> Reply:
        def effect() -> Reply:
            reply = _bucket(self._way).put(f"{PREFIX}/{key}", body, if_absent=if_absent, if_match=if_match)
            if reply.outcome is Outcome.OK:
                self._way.world.put_took_effect(key, body, self._life)
            return reply

        return await self._way.request(f"PUT {key}", effect)

    async def delete(self, key: str, *, if_match: str = "") -> Reply:
        return await self._way.request(
            f"DELETE {key}", lambda: _bucket(self._way).delete(f"{PREFIX}/{key}", if_match=if_match)
        )

    async def list_page(self, prefix: str, *, start_after: str = "", delimiter: str = "", limit: int = 1000) -> Page:
        pages: list[Page] = []

        def effect() -> Reply:
            bucket = _bucket(self._way)
            pages.append(
                bucket.list_page(f"{PREFIX}/", prefix, start_after=start_after, delimiter=delimiter, limit=limit)
            )
            return bucket.reply(Outcome.OK)

        await self._way.request(f"LIST {prefix}", effect)
        return pages[0]

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


class _Bulk:
    """Synchronous, as Bulk is: faults without delays. `Environment.run` of a simulated client adds the time."""

    def __init__(self, way: Way, life: str) -> None:
        self._way = way
        self._life = life

    def get_range(self, key: str, offset: int, length: int) -> Buffer:
        self._before(f"GET {key}")
        reply = _bucket(self._way).read(f"{PREFIX}/{key}", with_body=True)
        if reply.outcome is Outcome.MISSING:
            raise ObjectMissing(f"no object {key}")
        return memoryview(reply.body)[offset : offset + length]

    def put_new(self, key: str, body: Sequence[Buffer]) -> None:
        self._before(f"PUT {key}")
        reply = _bucket(self._way).put(f"{PREFIX}/{key}", b"".join(body), if_absent=True, if_match="")
        if self._way.generator.random() < self._way.climate.lost_answer:
            _lost(key)
        if reply.outcome is Outcome.REFUSED:
            raise ObjectExists(f"object {key} exists already")

    def delete(self, key: str) -> None:
        self._before(f"DELETE {key}")
        _bucket(self._way).delete(f"{PREFIX}/{key}", if_match="")

    def close(self) -> None:
        """Nothing is held."""

    def _before(self, what: str) -> None:
        if self._way.generator.random() < self._way.climate.lost_before:
            raise StoreUnreachable(f"{what}: lost before it arrived")


def _lost(key: str) -> NoReturn:
    raise StoreUnreachable(f"PUT {key}: no answer")
