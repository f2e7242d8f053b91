"""Every store keeps the contract of s3vfs/objects/protocol.py, whichever bucket is behind it."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio

from s3vfs.errors import ObjectExists, ObjectMissing, StoreUnreachable, UsageError
from s3vfs.objects.protocol import Control, Outcome, Reply, Store
from s3vfs.objects.runner import ThreadRunner

if TYPE_CHECKING:
    from typing_extensions import Buffer

Opener = Callable[[], Awaitable[Store]]
MIB = 1 << 20


def with_store(opener: Opener, check: Callable[[Store], Awaitable[None]]) -> None:
    """Run `check` on an opened store, under a deadline that only a hanging store meets."""

    async def main() -> None:
        with trio.fail_after(60):
            store = await opener()
            try:
                await check(store)
            finally:
                await store.aclose()

    trio.run(main)


async def all_at_once(calls: list[Callable[[], Awaitable[Reply]]]) -> list[Reply]:
    replies: list[Reply] = []

    async def keep(call: Callable[[], Awaitable[Reply]]) -> None:
        replies.append(await call())

    async with trio.open_nursery() as nursery:
        for call in calls:
            nursery.start_soon(keep, call)
    return replies


async def listed(control: Control, prefix: str, *, delimiter: str = "", limit: int = 1000) -> tuple[list[str], int]:
    """All keys and prefixes in the order of their pages, and the number of pages."""
    found: list[str] = []
    start_after, pages = "", 0
    while True:
        page = await control.list_page(prefix, start_after=start_after, delimiter=delimiter, limit=limit)
        pages += 1
        names = [entry.key for entry in page.entries] + list(page.prefixes)
        assert len(names) <= limit
        found += sorted(names)
        if not page.more:
            return found, pages
        assert page.last == max(names)
        start_after = page.last


def test_what_is_put_is_got_with_its_etag_and_the_stores_date(opener: Opener) -> None:
    async def check(store: Store) -> None:
        put = await store.control.put("journal/3/19", b"body\0bytes")
        got = await store.control.get("journal/3/19")
        head = await store.control.head("journal/3/19")
        assert (put.outcome, got.outcome, head.outcome) == (Outcome.OK,) * 3
        assert got.body == b"body\0bytes"
        assert head.body == b""
        assert put.etag
        assert put.etag == got.etag == head.etag
        assert 0 < put.date_ns <= got.date_ns <= head.date_ns

    with_store(opener, check)


def test_an_empty_body_is_an_object(opener: Opener) -> None:
    async def check(store: Store) -> None:
        await store.control.put("empty", b"")
        got = await store.control.get("empty")
        assert (got.outcome, got.body) == (Outcome.OK, b"")

    with_store(opener, check)


def test_a_missing_key_is_an_answer_with_a_date_and_no_error(opener: Opener) -> None:
    async def check(store: Store) -> None:
        got = await store.control.get("nothing/here")
        head = await store.control.head("nothing/here")
        assert (got.outcome, head.outcome) == (Outcome.MISSING, Outcome.MISSING)
        assert got.date_ns > 0
        assert head.date_ns > 0

    with_store(opener, check)


def test_if_absent_is_refused_where_the_key_exists_and_changes_nothing(opener: Opener) -> None:
    async def check(store: Store) -> None:
        first = await store.control.put("once", b"first", if_absent=True)
        second = await store.control.put("once", b"second", if_absent=True)
        assert (first.outcome, second.outcome) == (Outcome.OK, Outcome.REFUSED)
        assert second.date_ns > 0
        assert (await store.control.get("once")).body == b"first"

    with_store(opener, check)


def test_if_match_replaces_only_what_was_seen(opener: Opener) -> None:
    async def check(store: Store) -> None:
        first = await store.control.put("HEAD", b"1")
        second = await store.control.put("HEAD", b"2", if_match=first.etag)
        late = await store.control.put("HEAD", b"late", if_match=first.etag)
        assert (second.outcome, late.outcome) == (Outcome.OK, Outcome.REFUSED)
        got = await store.control.get("HEAD")
        assert (got.body, got.etag) == (b"2", second.etag)

    with_store(opener, check)


def test_if_match_on_a_missing_key_is_refused_and_makes_nothing(opener: Opener) -> None:
    async def check(store: Store) -> None:
        etag = (await store.control.put("a", b"1")).etag
        assert (await store.control.put("b", b"1", if_match=etag)).outcome is Outcome.REFUSED
        assert (await store.control.get("b")).outcome is Outcome.MISSING

    with_store(opener, check)


def test_delete_removes_and_is_no_error_where_nothing_is(opener: Opener) -> None:
    async def check(store: Store) -> None:
        await store.control.put("a/b", b"1")
        assert (await store.control.delete("a/b")).outcome is Outcome.OK
        assert (await store.control.get("a/b")).outcome is Outcome.MISSING
        assert (await store.control.delete("a/b")).outcome is Outcome.OK
        assert (await store.control.put("a/b", b"2", if_absent=True)).outcome is Outcome.OK

    with_store(opener, check)


def test_one_of_eight_concurrent_creations_wins(opener: Opener) -> None:
    async def check(store: Store) -> None:
        bodies = [b"%d" % n for n in range(8)]
        replies = await all_at_once([partial(store.control.put, "race", body, if_absent=True) for body in bodies])
        outcomes = [reply.outcome for reply in replies]
        assert outcomes.count(Outcome.OK) == 1
        assert set(outcomes) <= {Outcome.OK, Outcome.REFUSED, Outcome.CONFLICT}
        assert (await store.control.get("race")).body in bodies

    with_store(opener, check)


def test_one_of_eight_concurrent_replacements_wins(opener: Opener) -> None:
    async def check(store: Store) -> None:
        etag = (await store.control.put("HEAD", b"before")).etag
        bodies = [b"%d" % n for n in range(8)]
        replies = await all_at_once([partial(store.control.put, "HEAD", body, if_match=etag) for body in bodies])
        winners = [reply for reply in replies if reply.outcome is Outcome.OK]
        assert len(winners) == 1
        got = await store.control.get("HEAD")
        assert got.body in bodies
        assert got.etag == winners[0].etag

    with_store(opener, check)


LAYOUT = ["HEAD", "data/00/x", "data/00/y", "data/01/x", "data/1/x", "data/10/x", "journal/0/1", "journal/1/2", "z"]

# Names that go on after a sibling directory's name with a character below "/". No volume has such keys, because some
# servers that keep a tree inside (SeaweedFS) list them in the tree's order.
STRADDLING = ["data.txt", "data-2/q"]


def layout_for(kind: str) -> list[str]:
    return LAYOUT if kind == "seaweed" else LAYOUT + STRADDLING


async def fill(control: Control, layout: list[str]) -> None:
    for key in layout:
        await control.put(key, key.encode())


def test_listing_is_in_key_order_and_tells_sizes(opener: Opener, kind: str) -> None:
    async def check(store: Store) -> None:
        await fill(store.control, layout_for(kind))
        page = await store.control.list_page("")
        keys = [entry.key for entry in page.entries]
        assert keys == sorted(layout_for(kind))
        assert [entry.size_bytes for entry in page.entries] == [len(key) for key in keys]
        assert (page.more, list(page.prefixes)) == (False, [])

    with_store(opener, check)


def expected_listing(layout: list[str], prefix: str, delimiter: str) -> list[str]:
    expected = set()
    for key in layout:
        if key.startswith(prefix):
            cut = key.find(delimiter, len(prefix)) if delimiter else -1
            expected.add(key if cut < 0 else key[: cut + 1])
    return sorted(expected)


def test_pages_of_any_length_join_to_the_listing(opener: Opener, kind: str) -> None:
    prefixes = ["", "data", "data/", "data/0", "data/00", "data/00/", "data/00/x", "data/1", "none", "none/"]

    async def check(store: Store) -> None:
        await fill(store.control, layout_for(kind))
        for prefix, delimiter, limit in itertools.product(prefixes, ["", "/"], [1, 2, 3, 1000]):
            expected = expected_listing(layout_for(kind), prefix, delimiter)
            found, pages = await listed(store.control, prefix, delimiter=delimiter, limit=limit)
            assert found == expected, (prefix, delimiter, limit)
            assert pages <= len(expected) // limit + 1

    with_store(opener, check)


def test_start_after_names_any_place_and_is_not_listed_itself(opener: Opener) -> None:
    async def check(store: Store) -> None:
        await fill(store.control, ["data/00/x", "data/00/y", "data/01/x", "z"])

        async def after(start: str) -> list[str]:
            return [entry.key for entry in (await store.control.list_page("data/", start_after=start)).entries]

        assert await after("data/00/x") == ["data/00/y", "data/01/x"]
        assert await after("data/00/xx") == ["data/00/y", "data/01/x"]
        assert await after("data/00/") == ["data/00/x", "data/00/y", "data/01/x"]
        assert await after("data/01/x") == []
        assert await after("zz") == []

    with_store(opener, check)


def test_a_prefix_without_keys_has_no_entries(opener: Opener, kind: str) -> None:
    async def check(store: Store) -> None:
        await store.control.put("one/two/three", b"")
        await store.control.put("other/two", b"")
        await store.control.delete("one/two/three")
        prefixes = (await store.control.list_page("", delimiter="/")).prefixes
        # SeaweedFS takes a while to forget a directory.
        assert list(prefixes) in [["other/"]] + [["one/", "other/"]] * (kind == "seaweed")
        assert list((await store.control.list_page("one/")).entries) == []

    with_store(opener, check)


def test_keys_that_leave_the_volume_are_refused(opener: Opener) -> None:
    async def check(store: Store) -> None:
        for key in ("", "/a", "a/", "a//b", "../a", "a/../b", "./a", "a\0b", "x" * 1100):
            with pytest.raises(UsageError):
                await store.control.put(key, b"")
            with pytest.raises(UsageError):
                await store.control.get(key)
            with pytest.raises(UsageError):
                store.bulk.get_range(key, 0, 1)

    with_store(opener, check)


def test_prefixes_that_leave_the_volume_are_refused(opener: Opener) -> None:
    async def check(store: Store) -> None:
        for prefix in ("../", "/", "a/../../b", "/etc/"):
            with pytest.raises(UsageError):
                await store.control.list_page(prefix)

    with_store(opener, check)


def test_bulk_bytes_come_back_range_by_range(opener: Opener) -> None:
    async def check(store: Store) -> None:
        parts = [bytes([n % 251]) * (n * 37) for n in range(200)]
        whole = b"".join(parts)
        run = ThreadRunner(4)
        buffers: list[Buffer] = [bytearray(parts[0]), *parts[1:-1], memoryview(parts[-1])]
        await run(store.bulk.put_new, "data/3f/1-1-1", buffers)
        for offset, length in ((0, len(whole)), (0, 1), (len(whole) - 1, 1), (1000, 70000)):
            part = await run(store.bulk.get_range, "data/3f/1-1-1", offset, length)
            assert bytes(part) == whole[offset : offset + length]
            assert memoryview(part).nbytes == length

    with_store(opener, check)


def test_bulk_takes_a_whole_pack(opener: Opener) -> None:
    async def check(store: Store) -> None:
        run = ThreadRunner(2)
        body = [bytes([n]) * 65536 for n in range(128)]
        await run(store.bulk.put_new, "data/00/8mib", body)
        part = await run(store.bulk.get_range, "data/00/8mib", 3 * MIB, MIB)
        assert bytes(part) == b"".join(body)[3 * MIB : 4 * MIB]
        assert (await store.control.list_page("data/")).entries[0].size_bytes == 8 * MIB

    with_store(opener, check)


def test_bulk_names_what_is_missing_occupied_or_short(opener: Opener) -> None:
    async def check(store: Store) -> None:
        run = ThreadRunner(2)
        await run(store.bulk.put_new, "data/00/a", [b"0123456789"])
        with pytest.raises(ObjectExists):
            await run(store.bulk.put_new, "data/00/a", [b"other"])
        with pytest.raises(ObjectMissing):
            await run(store.bulk.get_range, "data/00/b", 0, 1)
        with pytest.raises(StoreUnreachable):
            await run(store.bulk.get_range, "data/00/a", 5, 6)
        with pytest.raises(StoreUnreachable):
            await run(store.bulk.get_range, "data/00/a", 50, 6)
        await run(store.bulk.delete, "data/00/a")
        await run(store.bulk.delete, "data/00/a")
        with pytest.raises(ObjectMissing):
            await run(store.bulk.get_range, "data/00/a", 0, 1)

    with_store(opener, check)


def test_both_sides_see_the_same_objects(opener: Opener) -> None:
    async def check(store: Store) -> None:
        run = ThreadRunner(2)
        await run(store.bulk.put_new, "checkpoint/u/segment", [b"bulk"])
        assert (await store.control.get("checkpoint/u/segment")).body == b"bulk"
        await store.control.put("HEAD", b"control")
        assert bytes(await run(store.bulk.get_range, "HEAD", 0, 7)) == b"control"

    with_store(opener, check)
