"""A store that misbehaves on order: the wrapper that the simulator and the tests put around any store.

What goes wrong is decided by a policy, asked once for each request: a `Script` of rules, or `SeededFaults`, which draws
from a generator that is passed in. A wrapped store is counted by putting `counting.counted` inside or outside it.
"""

from __future__ import annotations

import enum
import random
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn, Protocol

import trio

from s3vfs.errors import StoreDenied, StoreThrottled, StoreUnreachable
from s3vfs.objects.counting import Operation
from s3vfs.objects.protocol import Bulk, Control, Page, Reply, Store
from s3vfs.objects.store import OpenedStore

if TYPE_CHECKING:
    from typing_extensions import Buffer


class Failure(enum.Enum):
    """How a request ends for its caller."""

    NONE = "none"
    BEFORE = "before"  # StoreUnreachable, and nothing happened
    LOST_ANSWER = "lost answer"  # it took effect, then StoreUnreachable; for a read: the answer came broken or short
    THROTTLED = "throttled"  # StoreThrottled, and nothing happened
    DENIED = "denied"  # StoreDenied, and nothing happened


@dataclass(frozen=True, slots=True)
class Request:
    """What a policy may look at. `number` counts all requests of the wrapped store from 0."""

    operation: Operation
    key: str
    number: int


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to one request. The delays are before the effect and between effect and answer.

    `flip_bit`: this bit of a bulk read's answer is wrong (counted modulo its length).
    """

    failure: Failure = Failure.NONE
    delay_before_s: float = 0.0
    delay_after_s: float = 0.0
    flip_bit: int | None = None


NO_FAULT = Fault()


class Policy(Protocol):
    """Decides about each request. Called from worker threads too (bulk)."""

    def __call__(self, request: Request) -> Fault: ...


@dataclass(slots=True)
class Rule:
    """Apply `fault` to requests of these operations (all, when empty) whose key matches, `times` times (None: always)
    after letting `skip` of them pass."""

    fault: Fault
    operations: frozenset[Operation] = frozenset()
    key: str = ""
    skip: int = 0
    times: int | None = 1

    def matches(self, request: Request) -> bool:
        if self.operations and request.operation not in self.operations:
            return False
        return re.search(self.key, request.key) is not None


class Script:
    """A policy of rules; the first one that applies decides. Rules may be added and cleared at any time."""

    def __init__(self, *rules: Rule) -> None:
        self._lock = threading.Lock()
        self._rules = list(rules)

    def add(self, rule: Rule) -> None:
        with self._lock:
            self._rules.append(rule)

    def clear(self) -> None:
        """Everything works again."""
        with self._lock:
            self._rules.clear()

    def __call__(self, request: Request) -> Fault:
        with self._lock:
            for rule in self._rules:
                if rule.times == 0 or not rule.matches(request):
                    continue
                if rule.skip:
                    rule.skip -= 1
                    continue
                if rule.times is not None:
                    rule.times -= 1
                return rule.fault
        return NO_FAULT


@dataclass(slots=True)
class SeededFaults:
    """A policy that draws: each rate is a probability from 0 to 1. One seed is one history as long as requests come
    in one order (no threads)."""

    generator: random.Random
    before: float = 0.0
    lost_answer: float = 0.0
    throttled: float = 0.0
    flipped_bit: float = 0.0
    delayed: float = 0.0
    longest_delay_s: float = 1.0

    def __call__(self, request: Request) -> Fault:
        draw = self.generator.random()
        failure = Failure.NONE
        for candidate, rate in (
            (Failure.BEFORE, self.before),
            (Failure.LOST_ANSWER, self.lost_answer),
            (Failure.THROTTLED, self.throttled),
        ):
            if draw < rate:
                failure = candidate
                break
            draw -= rate
        before_s = after_s = 0.0
        if self.generator.random() < self.delayed:
            before_s = self.generator.uniform(0, self.longest_delay_s)
            after_s = self.generator.uniform(0, self.longest_delay_s)
        flip = self.generator.getrandbits(32) if self.generator.random() < self.flipped_bit else None
        return Fault(failure, before_s, after_s, flip)


def with_faults(store: Store, policy: Policy, *, sleep: Callable[[float], None]) -> OpenedStore:
    """`store`, whose requests `policy` decides about. `sleep` delays bulk requests, in their threads (seconds)."""
    numbers = _Numbers()
    return OpenedStore(
        store.url,
        FaultyControl(store.control, policy, numbers),
        FaultyBulk(store.bulk, policy, numbers, sleep),
    )


class _Numbers:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._next = 0

    def request(self, operation: Operation, key: str) -> Request:
        with self._lock:
            self._next += 1
            return Request(operation, key, self._next - 1)


def _fail_before(request: Request, fault: Fault) -> None:
    what = f"{request.operation.value} {request.key}"
    if fault.failure is Failure.BEFORE:
        raise StoreUnreachable(f"{what}: injected failure before the request")
    if fault.failure is Failure.THROTTLED:
        raise StoreThrottled(f"{what}: injected throttling")
    if fault.failure is Failure.DENIED:
        raise StoreDenied(f"{what}: injected denial")


def _lose(request: Request) -> NoReturn:
    raise StoreUnreachable(f"{request.operation.value} {request.key}: injected loss of the answer")


class FaultyControl:
    """`Control` with faults. Delays are trio sleeps, so that MockClock runs through them."""

    def __init__(self, inner: Control, policy: Policy, numbers: _Numbers) -> None:
        self._inner = inner
        self._policy = policy
        self._numbers = numbers

    async def get(self, key: str) -> Reply:
        request, fault = await self._before(Operation.GET, key)
        reply = await self._inner.get(key)
        await self._after(request, fault)
        return reply

    async def head(self, key: str) -> Reply:
        request, fault = await self._before(Operation.HEAD, key)
        reply = await self._inner.head(key)
        await self._after(request, fault)
        return reply

    async def put(self, key: str, body: bytes, *, if_absent: bool = False, if_match: str = "") -> Reply:
        request, fault = await self._before(Operation.PUT, key)
        reply = await self._inner.put(key, body, if_absent=if_absent, if_match=if_match)
        await self._after(request, fault)
        return reply

    async def delete(self, key: str, *, if_match: str = "") -> Reply:
        request, fault = await self._before(Operation.DELETE, key)
        reply = await self._inner.delete(key, if_match=if_match)
        await self._after(request, fault)
        return reply

    async def list_page(self, prefix: str, *, start_after: str = "", delimiter: str = "", limit: int = 1000) -> Page:
        request, fault = await self._before(Operation.LIST, prefix)
        page = await self._inner.list_page(prefix, start_after=start_after, delimiter=delimiter, limit=limit)
        await self._after(request, fault)
        return page

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def _before(self, operation: Operation, key: str) -> tuple[Request, Fault]:
        request = self._numbers.request(operation, key)
        fault = self._policy(request)
        if fault.delay_before_s:
            await trio.sleep(fault.delay_before_s)
        _fail_before(request, fault)
        return request, fault

    async def _after(self, request: Request, fault: Fault) -> None:
        if fault.delay_after_s:
            await trio.sleep(fault.delay_after_s)
        if fault.failure is Failure.LOST_ANSWER:
            _lose(request)


class FaultyBulk:
    """`Bulk` with faults."""

    def __init__(self, inner: Bulk, policy: Policy, numbers: _Numbers, sleep: Callable[[float], None]) -> None:
        self._inner = inner
        self._policy = policy
        self._numbers = numbers
        self._sleep = sleep

    def get_range(self, key: str, offset: int, length: int) -> Buffer:
        request, fault = self._before(Operation.BULK_GET, key)
        part = self._inner.get_range(key, offset, length)
        self._after(request, fault)
        if fault.flip_bit is None or not length:
            return part
        damaged = bytearray(memoryview(part))
        byte, bit = divmod(fault.flip_bit % (8 * length), 8)
        damaged[byte] ^= 1 << bit
        return damaged

    def put_new(self, key: str, body: Sequence[Buffer]) -> None:
        request, fault = self._before(Operation.BULK_PUT, key)
        self._inner.put_new(key, body)
        self._after(request, fault)

    def delete(self, key: str) -> None:
        request, fault = self._before(Operation.BULK_DELETE, key)
        self._inner.delete(key)
        self._after(request, fault)

    def close(self) -> None:
        self._inner.close()

    def _before(self, operation: Operation, key: str) -> tuple[Request, Fault]:
        request = self._numbers.request(operation, key)
        fault = self._policy(request)
        if fault.delay_before_s:
            self._sleep(fault.delay_before_s)
        _fail_before(request, fault)
        return request, fault

    def _after(self, request: Request, fault: Fault) -> None:
        if fault.delay_after_s:
            self._sleep(fault.delay_after_s)
        if fault.failure is Failure.LOST_ANSWER:
            _lose(request)
