"""Is this bucket safe? Tries whether two conditional PUTs can win, before a volume is made or mounted in it (DESIGN 3).

Knows `Control` only. Everything it writes is under `probe/`, at keys that nobody else uses, and is removed again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from uuid import UUID

import trio

from s3vfs.errors import StoreError, StoreUnreachable, UnsafeBucket
from s3vfs.objects.protocol import Control, Outcome, Store

# How many write at once, wave by wave; in each wave a creation and a replacement are raced at the same time. The first
# waves open the connections that make the wide ones sharp.
WIDTHS = (2, 2, 8, 8)

# A second winner answers together with the first. Some servers let losers wait for seconds (FACTS.md): they are left
# behind, undecided.
PATIENCE_S = 0.25

# Sequential questions and whole waves that got no clear answer are asked again, this often, at other keys.
ATTEMPTS = 3

# What stays behind when the store stops answering is small and harmless; nobody waits longer for it.
CLEAN_UP_TIMEOUT_S = 10.0

_HINT = "no volume may live there, two clients could overwrite each other's work"


async def probe_conditional_writes(store: Store, *, new_uuid: Callable[[], UUID]) -> None:
    """Race conditional PUTs on throw-away keys. Raises UnsafeBucket when a condition is ignored or two writers win.

    A lost answer proves nothing against the store: only plain successes and what can be read afterwards count. Raises
    StoreUnreachable when nothing could be decided, and what else the store raises (StoreDenied, BucketMissing).
    """
    probe = _Probe(store.control, store.url, f"probe/{new_uuid().hex}")
    try:
        await probe.conditions_hold()
        for width in WIDTHS:
            await probe.wave(width)
    finally:
        await probe.clean_up()


@dataclass(slots=True)
class _Race:
    """What the writers of one round heard, by their bodies."""

    won: list[bytes] = field(default_factory=list)
    refused: list[bytes] = field(default_factory=list)
    errors: list[StoreError] = field(default_factory=list)


class _Probe:
    def __init__(self, control: Control, url: str, place: str) -> None:
        self._control = control
        self._url = url
        self._place = place
        self._keys: list[str] = []

    async def conditions_hold(self) -> None:
        """One writer alone, one request after the other."""
        for attempt in range(1, ATTEMPTS + 1):
            key = self._new_key()
            try:
                first = await self._control.put(key, b"first", if_absent=True)
                again = await self._control.put(key, b"again", if_absent=True)
                if first.outcome is again.outcome is Outcome.OK:
                    raise self._unsafe("ignores If-None-Match: two creations of one key succeeded")
                second = await self._control.put(key, b"second", if_match=first.etag)
                late = await self._control.put(key, b"late", if_match=first.etag)
                if second.outcome is late.outcome is Outcome.OK:
                    raise self._unsafe("ignores If-Match: a replacement by an outdated ETag succeeded")
                body = (await self._control.get(key)).body
            except StoreUnreachable:
                if attempt == ATTEMPTS:
                    raise
                continue
            outcomes = [first.outcome, again.outcome, second.outcome, late.outcome]
            if outcomes == [Outcome.OK, Outcome.REFUSED] * 2:
                if body != b"second":
                    raise self._unsafe("does not keep what a conditional PUT wrote")
                return
        raise StoreUnreachable(f"{self._url}: conditional PUTs were never clearly answered ({_names(outcomes)})")

    async def wave(self, width: int) -> None:
        """One creation and one replacement, each by `width` writers at once."""
        for _ in range(ATTEMPTS):
            decided: list[bool] = []
            errors: list[StoreError] = []
            async with trio.open_nursery() as nursery:
                for replaces in (False, True):
                    nursery.start_soon(self._round, width, replaces, decided, errors)
            for error in errors:
                raise error
            if all(decided):
                return
        raise StoreUnreachable(f"{self._url}: concurrent conditional PUTs were never clearly answered")

    async def _round(self, width: int, replaces: bool, decided: list[bool], errors: list[StoreError]) -> None:
        """Race at one key; append what came out to one of the lists (errors are raised outside the nursery)."""
        try:
            decided.append(await self._raced_cleanly(width, replaces))
        except StoreUnreachable:
            decided.append(False)
        except StoreError as error:
            errors.append(error)

    async def _raced_cleanly(self, width: int, replaces: bool) -> bool:
        """True when one writer won and its bytes are there, False when nothing is proven. Raises UnsafeBucket."""
        key = self._new_key()
        # Unlike every writer's bytes: equal bytes have equal ETags, and If-Match would rightly hold twice.
        etag = (await self._control.put(key, b"before")).etag if replaces else ""
        race = _Race()
        await self._race(key, width, etag, race)
        for error in race.errors:
            raise error
        if len(race.won) > 1:
            raise self._unsafe(f"lets {len(race.won)} of {width} concurrent conditional PUTs win")
        found = (await self._control.get(key)).body
        if found in race.refused or (race.won and [found] != race.won):
            raise self._unsafe("lets a refused or unanswered conditional PUT overwrite the winner's")
        return bool(race.won)

    async def _race(self, key: str, width: int, etag: str, race: _Race) -> None:
        answered = trio.Event()

        async def write(body: bytes) -> None:
            try:
                if etag:
                    reply = await self._control.put(key, body, if_match=etag)
                else:
                    reply = await self._control.put(key, body, if_absent=True)
            except StoreUnreachable:
                return  # unknown: what is read afterwards decides
            except StoreError as error:
                race.errors.append(error)
                return
            if reply.outcome is Outcome.OK:
                race.won.append(body)
                answered.set()
            elif reply.outcome is Outcome.REFUSED:
                race.refused.append(body)

        async def give_up_on_losers(scope: trio.CancelScope) -> None:
            await answered.wait()
            scope.deadline = trio.current_time() + PATIENCE_S

        async with trio.open_nursery() as watch:
            with trio.CancelScope() as scope:
                watch.start_soon(give_up_on_losers, scope)
                async with trio.open_nursery() as writers:
                    for number in range(width):
                        writers.start_soon(write, b"writer %d" % number)
            watch.cancel_scope.cancel()

    async def clean_up(self) -> None:
        with trio.move_on_after(CLEAN_UP_TIMEOUT_S, shield=True):
            async with trio.open_nursery() as nursery:
                for key in self._keys:
                    nursery.start_soon(self._remove, key)

    async def _remove(self, key: str) -> None:
        try:
            await self._control.delete(key)
        except StoreError:
            # The verdict matters more than a few bytes that nobody reads.
            return

    def _new_key(self) -> str:
        key = f"{self._place}/{len(self._keys)}"
        self._keys.append(key)
        return key

    def _unsafe(self, what: str) -> UnsafeBucket:
        return UnsafeBucket(f"{self._url}: this store {what}", hint=_HINT)


def _names(outcomes: list[Outcome]) -> str:
    return ", ".join(outcome.value for outcome in outcomes)
