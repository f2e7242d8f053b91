"""Sectors for readers: from the cache, else from the bucket, one fetch for all who wait for it (DESIGN 8).

Knows sectors and objects, no files. Fetches run in the data room's nursery, so that a reader who gives up does not
take them away from others; they are bounded in number, and what they bring is verified before anyone sees it.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

import trio
import xxhash

from s3vfs.data.cache import Cache
from s3vfs.data.failures import again
from s3vfs.data.layout import Unit
from s3vfs.data.protocol import DataSession, Limits, Sizes, data_key
from s3vfs.errors import Damaged, S3vfsError, StoreUnreachable

_log = logging.getLogger(__name__)

_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 5.0


class DamagedSector(Damaged):
    """A sector whose bytes are wrong in the bucket itself: fetched twice."""

    def __init__(self, unit: Unit, key: str) -> None:
        super().__init__(f"object {key}: sector {unit.sector} does not match its checksum")
        self.unit = unit
        self.key = key


@dataclass(slots=True)
class _Flight:
    """A sector on its way. Exactly one of `data` and `error` is there once `landed` is set. `queued`: it is fetched on
    a guess, and that has not begun."""

    landed: trio.Event = field(default_factory=trio.Event)
    data: bytes | memoryview = b""
    error: S3vfsError | None = None
    queued: bool = False


@dataclass(slots=True)
class FetchCounters:
    """Figures for status, since the start."""

    requests: int = 0
    bytes: int = 0
    joined: int = 0
    bad_sectors: int = 0


class Fetcher:
    """Works inside the nursery given to `start`."""

    def __init__(self, session: DataSession, cache: Cache, sizes: Sizes, limits: Limits) -> None:
        self._session = session
        self._cache = cache
        self._sizes = sizes
        self._limits = limits
        self._flights: dict[tuple[bytes, int], _Flight] = {}
        self._spare: OrderedDict[tuple[bytes, int], bytes | memoryview] = OrderedDict()
        self._spare_bytes = 0
        self._room = trio.CapacityLimiter(limits.fetches)
        self._ahead_room = trio.CapacityLimiter(limits.guessed_fetches)
        self._nursery: trio.Nursery | None = None
        self._homeless = False
        self.counters = FetchCounters()

    @property
    def room_bytes(self) -> int:
        """How much may be fetched ahead of all readers: what the cache does not take has only memory to wait in,
        beside what readers have come to."""
        return self._limits.spare_bytes // 2 if self._homeless else self._limits.ahead_bytes

    def start(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery

    @property
    def in_flight(self) -> int:
        """Sectors on their way."""
        return len(self._flights)

    def begin(self, units: Sequence[Unit], *, ahead: bool = False) -> list[_Flight]:
        """See to it that every unit is in the cache or on its way; the flights, in the order of the units. Does not
        wait. `ahead`: nobody waits for them, and whoever comes to do so does not stand behind the others."""
        assert self._nursery is not None, "the fetcher has not been started"
        flights: list[_Flight] = []
        fresh: list[tuple[Unit, _Flight]] = []
        for unit in units:
            key = (unit.object, unit.sector)
            flight = self._flights.get(key)
            if flight is None:
                flight = _Flight(queued=ahead)
                spare = self._spare.get(key)
                if spare is not None:
                    flight.data, flight.queued = spare, False
                    flight.landed.set()
                else:
                    self._flights[key] = flight
                    fresh.append((unit, flight))
            elif flight.queued and not ahead:
                flight.queued = False
                fresh.append((unit, flight))
            else:
                self.counters.joined += 1
            flights.append(flight)
        most = max(1, self._limits.fetch_bytes // self._sizes.sector_bytes)
        fly = self._fly_ahead if ahead else self._fly
        run: list[tuple[Unit, _Flight]] = []
        for unit, flight in fresh:
            if run and (not _follows(run[-1][0], unit) or len(run) == most):
                self._nursery.start_soon(fly, run)
                run = []
            run.append((unit, flight))
        if run:
            self._nursery.start_soon(fly, run)
        return flights

    async def sectors(self, units: Sequence[Unit]) -> list[bytes | memoryview]:
        """The whole, verified bytes of every unit. Raises StoreUnreachable after `io_timeout_s`, ObjectMissing,
        DamagedSector, and the store's other errors."""
        result: list[bytes | memoryview] = []
        for flight in self.begin(units):
            await flight.landed.wait()
            if flight.error is not None:
                raise again(flight.error)
            result.append(flight.data)
        return result

    async def _fly_ahead(self, run: list[tuple[Unit, _Flight]]) -> None:
        """As `_fly`, behind other guesses; without those that somebody could not wait for."""
        try:
            async with self._ahead_room:
                own = [(unit, flight) for unit, flight in run if flight.queued]
                for _, flight in own:
                    flight.queued = False
                await self._fly(own)
        finally:
            for unit, flight in run:
                if flight.queued:
                    flight.queued = False
                    flight.error = StoreUnreachable("the mount ends")
                    self._land(unit, flight, b"")

    async def _fly(self, run: list[tuple[Unit, _Flight]]) -> None:
        """Bring a run of neighbouring sectors of one object."""
        try:
            async with self._room:
                missing: list[tuple[Unit, _Flight]] = []
                found = await self._session.environment.run(self._look, [unit for unit, _ in run])
                for (unit, flight), data in zip(run, found, strict=True):
                    if data is None:
                        missing.append((unit, flight))
                    else:
                        self._land(unit, flight, data)
                for part in _runs(missing):
                    await self._fetch(part)
        except S3vfsError as error:
            for unit, flight in run:
                if not flight.landed.is_set():
                    flight.error = error
                    self._land(unit, flight, b"")
        finally:
            for unit, flight in run:
                if not flight.landed.is_set():
                    flight.error = StoreUnreachable("the mount ends")
                    self._land(unit, flight, b"")

    def _land(self, unit: Unit, flight: _Flight, data: bytes | memoryview) -> None:
        self._flights.pop((unit.object, unit.sector), None)
        flight.data = data
        flight.landed.set()

    def _look(self, units: list[Unit]) -> list[bytes | None]:
        return [self._cache.find(unit) for unit in units]

    async def _fetch(self, run: list[tuple[Unit, _Flight]]) -> None:
        units = [unit for unit, _ in run]
        give_up_s = trio.current_time() + self._limits.io_timeout_s
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                parts, kept, bad = await self._request(units)
                break
            except StoreUnreachable:
                if trio.current_time() + pause_s > give_up_s:
                    raise
                await trio.sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        self._homeless = not all(kept)
        for index, (unit, flight) in enumerate(run):
            data = parts[index]
            if index in bad:
                try:
                    data, kept[index] = await self._again(unit)
                except S3vfsError as error:
                    flight.error = error
                    self._land(unit, flight, b"")
                    continue
            if not kept[index]:
                self._spare_one(unit, data)
            self._land(unit, flight, data)

    async def _request(self, units: list[Unit]) -> tuple[list[bytes | memoryview], list[bool], set[int]]:
        self.counters.requests += 1
        self.counters.bytes += sum(unit.length for unit in units)
        return await self._session.environment.run(self._get, units)

    def _get(self, units: list[Unit]) -> tuple[list[bytes | memoryview], list[bool], set[int]]:
        """One ranged GET. The sectors, which of them the cache took, and which of them are not what they should be."""
        first, last = units[0], units[-1]
        offset = first.sector * self._sizes.sector_bytes
        length = last.sector * self._sizes.sector_bytes + last.length - offset
        body = memoryview(self._session.store.bulk.get_range(data_key(first.object), offset, length)).cast("B")
        parts: list[bytes | memoryview] = []
        kept: list[bool] = []
        bad: set[int] = set()
        for index, unit in enumerate(units):
            start = unit.sector * self._sizes.sector_bytes - offset
            data = body[start : start + unit.length]
            parts.append(data)
            if xxhash.xxh3_64_digest(data) == unit.checksum:
                kept.append(self._cache.store(unit, data))
            else:
                kept.append(False)
                bad.add(index)
        return parts, kept, bad

    async def _again(self, unit: Unit) -> tuple[bytes | memoryview, bool]:
        """A sector came wrong: once more, alone. Raises DamagedSector when it is wrong again."""
        self.counters.bad_sectors += 1
        _log.warning("object %s: sector %d came damaged; fetched again", data_key(unit.object), unit.sector)
        parts, kept, bad = await self._request([unit])
        if bad:
            self.counters.bad_sectors += 1
            raise DamagedSector(unit, data_key(unit.object))
        return parts[0], kept[0]

    def _spare_one(self, unit: Unit, data: bytes | memoryview) -> None:
        copy = bytes(data)  # not the whole answer that it is a part of
        self._spare[(unit.object, unit.sector)] = copy
        self._spare_bytes += len(copy)
        while self._spare_bytes > self._limits.spare_bytes:
            _, oldest = self._spare.popitem(last=False)
            self._spare_bytes -= len(oldest)


def _follows(unit: Unit, following: Unit) -> bool:
    return following.object == unit.object and following.sector == unit.sector + 1


def _runs(items: list[tuple[Unit, _Flight]]) -> list[list[tuple[Unit, _Flight]]]:
    runs: list[list[tuple[Unit, _Flight]]] = []
    for item in items:
        if runs and _follows(runs[-1][-1][0], item[0]):
            runs[-1].append(item)
        else:
            runs.append([item])
    return runs
