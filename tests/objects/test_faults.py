"""Faults happen exactly as ordered, and everything is counted."""

from __future__ import annotations

import random
import threading

import pytest
import trio
from trio.testing import MockClock

from s3vfs.errors import ObjectExists, StoreDenied, StoreThrottled, StoreUnreachable
from s3vfs.objects.counting import Counters, Operation, Tally, counted
from s3vfs.objects.faults import NO_FAULT, Failure, Fault, Request, Rule, Script, SeededFaults, with_faults
from s3vfs.objects.memory import MemoryBucket
from s3vfs.objects.protocol import Outcome
from s3vfs.objects.store import OpenedStore

PUTS = frozenset({Operation.PUT, Operation.BULK_PUT})
GETS = frozenset({Operation.GET, Operation.BULK_GET})


@pytest.fixture
def bucket() -> MemoryBucket:
    return MemoryBucket(lambda: 0)


def faulty(bucket: MemoryBucket, *rules: Rule) -> OpenedStore:
    return with_faults(bucket.open(), Script(*rules), sleep=lambda seconds: None)


def test_a_failure_before_leaves_nothing_and_a_lost_answer_leaves_the_object(bucket: MemoryBucket) -> None:
    store = faulty(
        bucket,
        Rule(Fault(Failure.BEFORE), key="before"),
        Rule(Fault(Failure.LOST_ANSWER), key="^lost"),
        Rule(Fault(Failure.LOST_ANSWER), key="data/lost"),
    )

    async def main() -> None:
        with pytest.raises(StoreUnreachable):
            await store.control.put("before", b"1", if_absent=True)
        assert bucket.peek("before") is None
        with pytest.raises(StoreUnreachable):
            await store.control.put("lost", b"1", if_absent=True)
        assert bucket.peek("lost") == b"1"
        assert (await store.control.put("lost", b"2", if_absent=True)).outcome is Outcome.REFUSED
        with pytest.raises(StoreUnreachable):
            store.bulk.put_new("data/lost", [b"1"])

    trio.run(main)
    assert bucket.peek("data/lost") == b"1"


def test_throttling_and_denial_have_their_own_errors(bucket: MemoryBucket) -> None:
    store = faulty(bucket, Rule(Fault(Failure.THROTTLED)), Rule(Fault(Failure.DENIED)))

    async def main() -> None:
        with pytest.raises(StoreThrottled):
            await store.control.get("a")
        with pytest.raises(StoreDenied):
            await store.control.get("a")
        assert (await store.control.get("a")).outcome is Outcome.MISSING

    trio.run(main)


def test_rules_skip_count_and_can_be_cleared(bucket: MemoryBucket) -> None:
    script = Script(Rule(Fault(Failure.BEFORE), PUTS, key="^journal/", skip=1, times=2))
    asked = [script(Request(Operation.PUT, "journal/1", n)).failure for n in range(5)]
    assert asked == [Failure.NONE, Failure.BEFORE, Failure.BEFORE, Failure.NONE, Failure.NONE]
    assert script(Request(Operation.GET, "journal/1", 5)) == NO_FAULT
    script.add(Rule(Fault(Failure.DENIED), times=None))
    assert script(Request(Operation.GET, "x", 6)).failure is Failure.DENIED
    assert script(Request(Operation.GET, "x", 7)).failure is Failure.DENIED
    script.clear()
    assert script(Request(Operation.GET, "x", 8)) == NO_FAULT


def test_control_delays_pass_on_trios_clock_on_both_sides_of_the_effect(bucket: MemoryBucket) -> None:
    store = faulty(bucket, Rule(Fault(delay_before_s=3600, delay_after_s=7200)))

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.control.put, "a", b"1")
            await trio.sleep(3599)
            assert bucket.peek("a") is None
            await trio.sleep(2)
            assert bucket.peek("a") == b"1"
        assert trio.current_time() - started == 10800

    started = 0.0

    async def timed() -> None:
        nonlocal started
        started = trio.current_time()
        await main()

    trio.run(timed, clock=MockClock(autojump_threshold=0))


def test_bulk_delays_use_the_sleep_that_was_passed_in(bucket: MemoryBucket) -> None:
    slept: list[float] = []
    policy = Script(Rule(Fault(delay_before_s=1, delay_after_s=2)))
    with_faults(bucket.open(), policy, sleep=slept.append).bulk.put_new("a", [b"1"])
    assert slept == [1, 2]


@pytest.mark.parametrize(("bit", "expected"), [(0, b"\x01\x00"), (9, b"\x00\x02"), (16, b"\x01\x00")])
def test_one_bit_of_a_bulk_read_is_wrong_once(bucket: MemoryBucket, bit: int, expected: bytes) -> None:
    store = faulty(bucket, Rule(Fault(flip_bit=bit), GETS))
    store.bulk.put_new("a", [b"\0\0"])
    assert bytes(store.bulk.get_range("a", 0, 2)) == expected
    assert bytes(store.bulk.get_range("a", 0, 2)) == b"\0\0"


def test_one_seed_is_one_history() -> None:
    def history(seed: int) -> list[Fault]:
        policy = SeededFaults(
            random.Random(seed), before=0.2, lost_answer=0.2, throttled=0.1, flipped_bit=0.1, delayed=0.5
        )
        return [policy(Request(Operation.GET, "a", number)) for number in range(200)]

    assert history(1) == history(1)
    assert history(1) != history(2)
    failures = [fault.failure for fault in history(1)]
    assert {Failure.NONE, Failure.BEFORE, Failure.LOST_ANSWER, Failure.THROTTLED} == set(failures)


def test_requests_refusals_errors_and_bytes_are_counted_by_operation(bucket: MemoryBucket) -> None:
    counters = Counters()
    store = counted(faulty(bucket, Rule(Fault(Failure.BEFORE), key="broken")), counters)

    async def main() -> None:
        await store.control.put("a", b"12345", if_absent=True)
        await store.control.put("a", b"123", if_absent=True)
        await store.control.get("a")
        await store.control.get("missing")
        await store.control.head("a")
        await store.control.list_page("")
        with pytest.raises(StoreUnreachable):
            await store.control.delete("broken")
        store.bulk.put_new("data", [b"1234", memoryview(b"56")])
        with pytest.raises(ObjectExists):
            store.bulk.put_new("data", [b"1"])
        store.bulk.get_range("data", 2, 3)
        store.bulk.delete("data")
        await store.aclose()

    trio.run(main)
    assert counters.snapshot() == {
        "put": Tally(requests=2, refused=1, bytes_sent=8),
        "get": Tally(requests=2, refused=1, bytes_received=5),
        "head": Tally(requests=1),
        "list": Tally(requests=1),
        "delete": Tally(requests=1, errors=1),
        "bulk_put": Tally(requests=2, refused=1, bytes_sent=7),
        "bulk_get": Tally(requests=1, bytes_received=3),
        "bulk_delete": Tally(requests=1),
    }
    assert counters[Operation.GET].bytes_received == 5
    assert counters.total() == Tally(requests=11, refused=3, errors=1, bytes_sent=15, bytes_received=8)


def test_counters_lose_nothing_between_threads(bucket: MemoryBucket) -> None:
    counters = Counters()
    store = counted(bucket.open(), counters)
    store.bulk.put_new("data", [b"1234"])

    def read() -> None:
        for _ in range(200):
            store.bulk.get_range("data", 0, 4)

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counters[Operation.BULK_GET] == Tally(requests=1600, bytes_received=6400)
