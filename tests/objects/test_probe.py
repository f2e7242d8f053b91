"""The probe lets safe buckets pass, names what is wrong with others, and leaves nothing behind."""

from __future__ import annotations

import random
import re
import uuid
from collections.abc import Awaitable, Callable

import pytest
import trio
from trio.testing import MockClock

from s3vfs.errors import StoreDenied, StoreUnreachable, UnsafeBucket
from s3vfs.objects.counting import Operation
from s3vfs.objects.faults import Failure, Fault, Rule, Script, SeededFaults, with_faults
from s3vfs.objects.memory import MemoryBucket
from s3vfs.objects.probe import probe_conditional_writes
from s3vfs.objects.protocol import Control, Outcome, Reply, Store
from s3vfs.objects.store import OpenedStore


class Behind:
    """Passes everything on: the base of the broken stores below."""

    def __init__(self, inner: Control) -> None:
        self._inner = inner
        self.get = inner.get
        self.head = inner.head
        self.delete = inner.delete
        self.list_page = inner.list_page
        self.aclose = inner.aclose

    async def put(self, key: str, body: bytes, *, if_absent: bool = False, if_match: str = "") -> Reply:
        return await self._inner.put(key, body, if_absent=if_absent, if_match=if_match)


class IgnoresIfNoneMatch(Behind):
    async def put(self, key: str, body: bytes, *, if_absent: bool = False, if_match: str = "") -> Reply:
        return await self._inner.put(key, body, if_match=if_match)


class IgnoresIfMatch(Behind):
    async def put(self, key: str, body: bytes, *, if_absent: bool = False, if_match: str = "") -> Reply:
        return await self._inner.put(key, body, if_absent=if_absent)


class ChecksThenPuts(Behind):
    """A gap between the check and the effect, as in servers without a lock."""

    async def put(self, key: str, body: bytes, *, if_absent: bool = False, if_match: str = "") -> Reply:
        head = await self._inner.head(key)
        if (if_absent and head.outcome is Outcome.OK) or (if_match and head.etag != if_match):
            return Reply(Outcome.REFUSED, head.date_ns)
        await trio.sleep(0.001)
        return await self._inner.put(key, body)


class RefusesButWrites(Behind):
    """Answers the loser correctly, and overwrites the winner all the same."""

    async def put(self, key: str, body: bytes, *, if_absent: bool = False, if_match: str = "") -> Reply:
        reply = await self._inner.put(key, body, if_absent=if_absent, if_match=if_match)
        if reply.outcome is Outcome.REFUSED and b"writer" in body:
            await self._inner.put(key, body)
        return reply


def probe(store: Store) -> None:
    async def main() -> None:
        await probe_conditional_writes(store, new_uuid=uuid.uuid4)

    trio.run(main, clock=MockClock(autojump_threshold=0))


def broken(bucket: MemoryBucket, kind: type[Behind]) -> OpenedStore:
    store = bucket.open()
    return OpenedStore(store.url, kind(store.control), store.bulk)


@pytest.fixture
def bucket() -> MemoryBucket:
    return MemoryBucket(lambda: 0)


def test_a_safe_bucket_passes_and_is_left_as_it_was(bucket: MemoryBucket) -> None:
    probe(bucket.open("volume"))
    assert bucket.keys() == []


def test_every_kind_of_bucket_that_we_support_passes(opener: Callable[[], Awaitable[Store]]) -> None:
    async def main() -> None:
        with trio.fail_after(60):
            store = await opener()
            await probe_conditional_writes(store, new_uuid=uuid.uuid4)
            assert list((await store.control.list_page("")).entries) == []
            await store.aclose()

    trio.run(main)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (IgnoresIfNoneMatch, "ignores If-None-Match"),
        (IgnoresIfMatch, "ignores If-Match"),
        (ChecksThenPuts, "lets 2 of 2 concurrent"),
        (RefusesButWrites, "overwrite the winner"),
    ],
)
def test_an_unsafe_bucket_is_refused_with_its_name_and_left_clean(
    bucket: MemoryBucket, kind: type[Behind], message: str
) -> None:
    with pytest.raises(UnsafeBucket, match=re.escape(message)) as caught:
        probe(broken(bucket, kind))
    assert str(caught.value).startswith("memory://")
    assert bucket.keys() == []


@pytest.mark.parametrize("seed", range(20))
def test_lost_answers_and_failures_are_never_held_against_the_store(bucket: MemoryBucket, seed: int) -> None:
    policy = SeededFaults(random.Random(seed), before=0.05, lost_answer=0.1, throttled=0.05, delayed=0.3)
    store = with_faults(bucket.open(), policy, sleep=lambda seconds: None)
    try:
        probe(store)
    except StoreUnreachable:
        return  # undecided, and said so


def test_a_store_that_never_answers_is_unreachable_not_unsafe(bucket: MemoryBucket) -> None:
    script = Script(Rule(Fault(Failure.LOST_ANSWER), frozenset({Operation.PUT}), times=None))
    with pytest.raises(StoreUnreachable):
        probe(with_faults(bucket.open(), script, sleep=lambda seconds: None))
    assert bucket.keys() == []


def test_missing_permission_is_reported_as_such(bucket: MemoryBucket) -> None:
    script = Script(Rule(Fault(Failure.DENIED), frozenset({Operation.PUT}), skip=9, times=None))
    with pytest.raises(StoreDenied):
        probe(with_faults(bucket.open(), script, sleep=lambda seconds: None))


def test_a_failing_clean_up_does_not_hide_the_verdict(bucket: MemoryBucket) -> None:
    script = Script(Rule(Fault(Failure.DENIED), frozenset({Operation.DELETE}), times=None))
    probe(with_faults(bucket.open(), script, sleep=lambda seconds: None))
    left = bucket.keys()
    assert left
    assert all(key.startswith("probe/") for key in left)
