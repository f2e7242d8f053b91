"""The S3 store behind a bad network: writes are asked once and their fate is told truly, reads are repeated."""

from __future__ import annotations

import urllib.parse
from collections.abc import Awaitable, Callable, Iterator

import pytest
import trio

from s3vfs.errors import (
    BucketMissing,
    ObjectExists,
    StoreDenied,
    StoreError,
    StoreThrottled,
    StoreUnreachable,
    UsageError,
)
from s3vfs.objects.protocol import Outcome, Store
from s3vfs.objects.runner import ThreadRunner
from s3vfs.objects.url import StoreOptions, open_store
from tests.proxy.proxy import Action, Proxy, Rule
from tests.servers.place import ServerPlace

Check = Callable[[Store], Awaitable[None]]
MIB = 1 << 20
run = ThreadRunner(8)


def upstream(place: ServerPlace) -> tuple[str, int]:
    parts = urllib.parse.urlsplit(place.endpoint_url)
    assert parts.hostname is not None
    assert parts.port is not None
    return parts.hostname, parts.port


@pytest.fixture
def environment(seaweed: ServerPlace, aws_environment: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name, value in seaweed.environment().items():
        aws_environment.setenv(name, value)
    return aws_environment


@pytest.fixture
def proxy(seaweed: ServerPlace, environment: pytest.MonkeyPatch) -> Iterator[Proxy]:
    with Proxy(upstream(seaweed)) as running:
        environment.setenv("AWS_ENDPOINT_URL", running.url)
        yield running


@pytest.fixture
def through(seaweed: ServerPlace, proxy: Proxy) -> Callable[..., None]:
    """Runs a check on a fresh store behind the proxy."""

    def run_check(check: Check, *, io_timeout_s: float = 60) -> None:
        async def main() -> None:
            with trio.fail_after(60):
                options = StoreOptions(io_timeout_s=io_timeout_s)
                store = await open_store(seaweed.fresh_url("faults"), options, run=run)
                try:
                    await check(store)
                finally:
                    await store.aclose()

        trio.run(main)

    return run_check


def puts(proxy: Proxy) -> int:
    return proxy.counts().requests.get("PUT", 0)


def gets(proxy: Proxy) -> int:
    return proxy.counts().requests.get("GET", 0)


def test_a_conditional_put_whose_answer_is_lost_is_asked_once_and_unknown(
    proxy: Proxy, through: Callable[..., None]
) -> None:
    async def check(store: Store) -> None:
        proxy.add(Rule(Action.LOSE_ANSWER, method="PUT"))
        with pytest.raises(StoreUnreachable):
            await store.control.put("journal/0/1", b"mine", if_absent=True)
        assert puts(proxy) == 1
        assert (await store.control.get("journal/0/1")).body == b"mine"

    through(check)


@pytest.mark.parametrize("action", [Action.RESET_REQUEST, Action.ANSWER_500, Action.ANSWER_503])
def test_a_failed_conditional_put_is_asked_once_and_leaves_nothing(
    proxy: Proxy, through: Callable[..., None], action: Action
) -> None:
    error = StoreThrottled if action is Action.ANSWER_503 else StoreUnreachable

    async def check(store: Store) -> None:
        proxy.add(Rule(action, method="PUT", times=2))
        with pytest.raises(error):
            await store.control.put("journal/0/1", b"m" * 200_000, if_absent=True)
        with pytest.raises(error):
            await run(store.bulk.put_new, "data/00/a", [b"m" * 200_000])
        assert puts(proxy) == 2
        assert (await store.control.get("journal/0/1")).outcome is Outcome.MISSING
        assert (await store.control.get("data/00/a")).outcome is Outcome.MISSING

    through(check)


def test_a_bulk_put_whose_answer_is_lost_is_asked_once_and_unknown(proxy: Proxy, through: Callable[..., None]) -> None:
    async def check(store: Store) -> None:
        proxy.add(Rule(Action.LOSE_ANSWER, method="PUT"))
        with pytest.raises(StoreUnreachable):
            await run(store.bulk.put_new, "data/00/a", [b"12345"])
        assert puts(proxy) == 1
        with pytest.raises(ObjectExists):
            await run(store.bulk.put_new, "data/00/a", [b"12345"])

    through(check)


def test_a_conflict_is_neither_won_nor_lost(proxy: Proxy, through: Callable[..., None]) -> None:
    async def check(store: Store) -> None:
        proxy.add(Rule(Action.ANSWER_409, method="PUT", times=None))
        assert (await store.control.put("HEAD", b"1", if_absent=True)).outcome is Outcome.CONFLICT
        assert (await store.control.put("HEAD", b"1", if_match='"0"')).outcome is Outcome.CONFLICT
        with pytest.raises(StoreUnreachable):
            await run(store.bulk.put_new, "data/00/a", [b"1"])
        assert puts(proxy) == 3

    through(check)


@pytest.mark.parametrize("action", [Action.ANSWER_500, Action.ANSWER_503, Action.LOSE_ANSWER, Action.RESET_ANSWER])
def test_reads_are_repeated_until_they_succeed(proxy: Proxy, through: Callable[..., None], action: Action) -> None:
    async def check(store: Store) -> None:
        body = bytes(range(256)) * 4096
        await store.control.put("big", body)
        proxy.add(Rule(action, method="GET", times=2))
        assert (await store.control.get("big")).body == body
        assert gets(proxy) == 3
        proxy.add(Rule(action, method="GET", times=2))
        assert bytes(await run(store.bulk.get_range, "big", 0, MIB)) == body
        assert gets(proxy) == 6
        proxy.add(Rule(action, method="GET", path="list-type=2", times=2))
        assert [entry.key for entry in (await store.control.list_page("")).entries] == ["big"]
        assert gets(proxy) == 9

    through(check)


def test_reads_give_up_after_a_few_tries(proxy: Proxy, through: Callable[..., None]) -> None:
    async def check(store: Store) -> None:
        proxy.add(Rule(Action.ANSWER_503, times=None))
        with pytest.raises(StoreThrottled):
            await store.control.get("a")
        with pytest.raises(StoreThrottled):
            await run(store.bulk.get_range, "a", 0, 1)
        assert 4 <= gets(proxy) <= 10

    through(check)


def test_silence_ends_with_the_io_time_out(proxy: Proxy, through: Callable[..., None]) -> None:
    async def check(store: Store) -> None:
        proxy.add(Rule(Action.HANG, times=None))
        with pytest.raises(StoreUnreachable):
            await store.control.get("a")
        with pytest.raises(StoreUnreachable):
            await store.control.put("a", b"1", if_absent=True)
        with pytest.raises(StoreUnreachable):
            await run(store.bulk.get_range, "a", 0, 1)
        with pytest.raises(StoreUnreachable):
            await run(store.bulk.put_new, "a", [b"1"])
        assert puts(proxy) == 2
        proxy.clear()
        assert (await store.control.get("a")).outcome is Outcome.MISSING

    through(check, io_timeout_s=0.5)


def test_everything_goes_on_after_an_outage(proxy: Proxy, through: Callable[..., None]) -> None:
    async def check(store: Store) -> None:
        await run(store.bulk.put_new, "a", [b"1"])
        await store.control.put("HEAD", b"1")
        proxy.refuse()
        with pytest.raises(StoreUnreachable):
            await store.control.put("HEAD", b"2")
        with pytest.raises(StoreUnreachable):
            await run(store.bulk.put_new, "b", [b"1"])
        proxy.resume()
        assert (await store.control.get("HEAD")).body == b"1"
        assert bytes(await run(store.bulk.get_range, "a", 0, 1)) == b"1"
        assert (await store.control.put("HEAD", b"3")).outcome is Outcome.OK
        await run(store.bulk.put_new, "b", [b"1"])

    through(check)


def test_a_missing_bucket_has_its_own_error(seaweed: ServerPlace, environment: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        store = await open_store("s3://no-such-bucket-here/v", run=run)
        with pytest.raises(BucketMissing):
            await store.control.get("a")
        with pytest.raises(BucketMissing):
            await store.control.list_page("")
        with pytest.raises(BucketMissing):
            await run(store.bulk.get_range, "a", 0, 1)
        with pytest.raises(BucketMissing):
            await store.control.put("a", b"1", if_absent=True)
        with pytest.raises(BucketMissing):
            await run(store.bulk.put_new, "a", [b"1"])
        await store.aclose()

    trio.run(main)


def test_wrong_keys_are_denied_on_both_sides_and_shown_in_no_message(
    seaweed: ServerPlace, environment: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    environment.setenv("AWS_ACCESS_KEY_ID", "AKIAWRONGWRONG")
    environment.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret-wrong")
    caplog.set_level("DEBUG")

    async def main() -> list[StoreError]:
        store = await open_store(seaweed.fresh_url(), run=run)
        caught: list[StoreError] = []
        for call in (store.control.get("a"), store.control.put("a", b"1"), store.control.list_page("")):
            with pytest.raises(StoreDenied) as denied:
                await call
            caught.append(denied.value)
        with pytest.raises(StoreDenied) as denied:
            await run(store.bulk.get_range, "a", 0, 1)
        caught.append(denied.value)
        with pytest.raises(StoreDenied) as denied:
            await run(store.bulk.put_new, "a", [b"1"])
        caught.append(denied.value)
        shown = repr(store) + store.url + repr(store.control) + repr(store.bulk) + repr(vars(store.bulk))
        assert "WRONG" not in shown
        assert "wrong-secret" not in shown
        await store.aclose()
        return caught

    for error in trio.run(main):
        chain: BaseException | None = error
        while chain is not None and not (chain is not error and error.__suppress_context__):
            assert "WRONG" not in f"{chain!r}{chain}"
            assert "wrong-secret" not in f"{chain!r}{chain}"
            chain = chain.__cause__ or chain.__context__
    assert "WRONG" not in caplog.text
    assert "wrong-secret" not in caplog.text


def test_an_unusable_endpoint_is_a_usage_error(environment: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        with pytest.raises(UsageError):
            await open_store("s3://bucket/v", StoreOptions(endpoint_url="not a url"), run=run)

    trio.run(main)


def test_a_put_that_breaks_off_before_its_body_leaves_no_object(proxy: Proxy, through: Callable[..., None]) -> None:
    """Seen: without a checksum, SeaweedFS stored an empty object, which stopped the journal for good."""

    async def check(store: Store) -> None:
        proxy.add(Rule(Action.RESET_REQUEST, method="PUT"))
        with pytest.raises(StoreUnreachable):
            await store.control.put("journal/0/1", b"1", if_absent=True)  # the proxy passes half of it: nothing
        assert (await store.control.put("journal/0/1", b"1", if_absent=True)).outcome is Outcome.OK
        assert (await store.control.get("journal/0/1")).body == b"1"

    through(check)
