"""Small files: what is likely to be read next, fetched before it is asked for (DESIGN 8, readahead by directory).

The readahead of a handle ends with its file. Who reads many small files, one after another, would wait for the bucket
once for each sector of each pack. So whenever a reader comes to a sector that nobody has come to before:

*Along*: where it has to be fetched, what stands beside it in the pack comes in the same request. For readers of files
from all over a tree, which will come back to most packs.
*Onward*: where the reader has come from close by, what follows is fetched as well: the rest of the pack, the files that
follow in the directory, the objects that the same session uploaded next (packs are filled in directory order, so the
stream goes on there). A little at first, twice as much with each step, and less with each jump.

How much of both is a matter of trust, counted in bytes. A mount begins with some, a guess costs what it fetches, a
sector that turns out to be wanted earns three times as much, and reading without a right guess a quarter. So readers of
a file here and there in a large volume cause at most a quarter more traffic than they need, besides the first trust.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import NamedTuple

from s3vfs.data.cache import Cache
from s3vfs.data.fetch import Fetcher
from s3vfs.data.layout import Unit, is_shared, object_entry
from s3vfs.data.protocol import DataSession, Limits, Sizes
from s3vfs.namespace.rows import ObjectRow, Rows

# A right guess pays for itself and two wrong ones.
_EARNED = 3
# One part in so many of what readers fetch without a guess is theirs to guess with.
_DEMANDED_PART = 4
# Looked at for one guess: some 20 us each, on the trio thread.
_FILES = 32
_OBJECTS = 16
# A reader who comes to one of the next objects has come from close by.
_CLOSE_OBJECTS = 2
# Sectors remembered, as places that readers have come to, or as guesses: 10,000 are 2.5 GB of packs.
_REMEMBERED = 10_000
# A guess that is older is wrong: it no longer stands in the way of others.
_GUESS_S = 30.0

_Place = tuple[bytes, int]


class _Guess(NamedTuple):
    cost: int
    guessed_s: float
    onward: bool


class Neighbours:
    """Of one mount. Methods are for the trio thread and no checkpoints."""

    def __init__(
        self,
        session: DataSession,
        fetcher: Fetcher,
        cache: Cache,
        sizes: Sizes,
        limits: Limits,
        now_s: Callable[[], float],
    ) -> None:
        self._session = session
        self._fetcher = fetcher
        self._cache = cache
        self._sizes = sizes
        self._limits = limits
        self._now_s = now_s
        self._trust_bytes = limits.guess_first_bytes
        self._come_to: OrderedDict[_Place, None] = OrderedDict()
        self._guesses: OrderedDict[_Place, _Guess] = OrderedDict()
        self._guessed_bytes = 0
        self._onward_bytes = 0
        self._width_bytes = 0
        self._last_object = bytes(16)
        self._last_directory = 0
        self.right = 0
        self.guessed = 0

    def come_to(self, ino: int, units: Iterable[Unit]) -> None:
        """The beginning of a file is read, and lies there. What a file has for itself has no neighbours."""
        if not self._limits.guess_most_bytes:
            return
        new = [unit for unit in units if is_shared(unit) and (unit.object, unit.sector) not in self._come_to]
        if not new:
            return
        expected = False
        for unit in new:
            place = (unit.object, unit.sector)
            self._come_to[place] = None
            if len(self._come_to) > _REMEMBERED:
                self._come_to.popitem(last=False)
            guess = self._guesses.get(place)
            if guess is not None:
                self._drop(place)
                self.right += 1
                expected |= guess.onward
                earned = _EARNED * guess.cost
            else:
                earned = unit.length // _DEMANDED_PART
            self._trust_bytes = min(self._trust_bytes + earned, self._limits.guess_most_bytes)
        self._forget()
        with self._session.view() as txn:
            rows = Rows(txn)
            self._step(rows, ino, new[-1], expected)
            waited = [unit for unit in new if not self._cache.knows(unit)]
            along = self._choose(self._beside(rows, waited), onward=False)
            onward: list[Unit] = []
            if self._onward_bytes <= self._width_bytes // 2:  # else the reader has still far to go
                onward = self._choose(self._following(rows, ino, new[-1]), onward=True)
        if along:
            self._fetcher.begin(sorted(waited + along, key=_order(waited)))
        if onward:
            self._fetcher.begin(sorted(onward, key=_order(onward)), ahead=True)

    def _drop(self, place: _Place) -> None:
        guess = self._guesses.pop(place)
        self._guessed_bytes -= guess.cost
        if guess.onward:
            self._onward_bytes -= guess.cost

    def _forget(self) -> None:
        oldest_s = self._now_s() - _GUESS_S
        while self._guesses:
            place, guess = next(iter(self._guesses.items()))
            if guess.guessed_s > oldest_s and len(self._guesses) < _REMEMBERED:
                break
            self._drop(place)

    def _step(self, rows: Rows, ino: int, unit: Unit, expected: bool) -> None:
        """Has the reader come from close by? It decides how far it is fetched onward."""
        link = next(rows.links(ino), None)
        directory = 0 if link is None else link[0]
        distance = int.from_bytes(unit.object, "big") - int.from_bytes(self._last_object, "big")
        close = expected or 0 <= distance <= _CLOSE_OBJECTS or directory == self._last_directory
        self._last_object, self._last_directory = unit.object, directory
        if not close:
            self._width_bytes //= 2
        else:
            grown = max(self._limits.guess_along_bytes, 2 * self._width_bytes)
            self._width_bytes = min(grown, self._limits.guess_most_bytes, self._fetcher.room_bytes)

    def _choose(self, candidates: Iterable[Unit], *, onward: bool) -> list[Unit]:
        """Those that are not here, nor guessed already, as far as trust and room go."""
        now_s = self._now_s()
        chosen: list[Unit] = []
        objects: set[bytes] = set()
        for unit in candidates:
            place = (unit.object, unit.sector)
            if place in self._come_to or place in self._guesses or self._cache.knows(unit):
                continue
            cost = unit.length
            if onward and unit.object not in objects:
                cost = max(cost, self._limits.guess_request_bytes)
            room_bytes = self._limits.guess_most_bytes - self._guessed_bytes
            if onward:
                room_bytes = min(room_bytes, self._width_bytes - self._onward_bytes)
            if cost > min(self._trust_bytes, room_bytes):
                break
            objects.add(unit.object)
            self._trust_bytes -= cost
            self._guessed_bytes += cost
            if onward:
                self._onward_bytes += cost
            self._guesses[place] = _Guess(cost, now_s, onward)
            chosen.append(unit)
        self.guessed += len(chosen)
        return chosen

    def _beside(self, rows: Rows, waited: list[Unit]) -> Iterator[Unit]:
        """What comes in one request with what somebody waits for: it takes hardly longer, and saves others."""
        row = rows.object(waited[-1].object) if waited else None
        if row is not None:
            at, most = waited[-1].sector, self._limits.guess_along_bytes // self._sizes.sector_bytes
            count = len(row.checksums) // 8
            first = max(0, min(at, count - most))
            yield from islice(self._sectors(waited[-1].object, row, first), most)

    def _following(self, rows: Rows, ino: int, unit: Unit) -> Iterator[Unit]:
        """What a reader who goes on comes to: the likely ones first, some twice."""
        own = rows.object(unit.object)
        if own is not None:
            yield from self._sectors(unit.object, own, unit.sector + 1)
        yield from self._following_files(rows, ino)
        if own is not None:  # not everybody goes by name, and closes of one moment may be packed in any order
            yield from reversed(list(islice(self._sectors(unit.object, own, 0), unit.sector)))
        session, number = unit.object[:-4], int.from_bytes(unit.object[-4:], "big")
        for later in range(number + 1, min(number + 1 + _OBJECTS, 2**32)):
            object_id = session + later.to_bytes(4, "big")
            row = rows.object(object_id)
            if row is not None and row.size < self._sizes.object_bytes:  # a full one is a piece of a large file
                yield from self._sectors(object_id, row, 0)

    def _sectors(self, object_id: bytes, row: ObjectRow, first: int) -> Iterator[Unit]:
        if row.codec or row.condemned or not row.references:
            return
        entry = object_entry(object_id)
        for sector in range(first, len(row.checksums) // 8):
            length = min(self._sizes.sector_bytes, row.size - sector * self._sizes.sector_bytes)
            yield Unit(entry, sector, object_id, sector, length, row.checksums[8 * sector : 8 * sector + 8])

    def _following_files(self, rows: Rows, ino: int) -> Iterator[Unit]:
        """Where the small files lie that follow in the directory, by name."""
        link = next(rows.links(ino), None)
        if link is None:
            return
        for _, dentry in islice(rows.entries(*link), _FILES):
            inode = rows.inode(dentry.ino)
            if inode is None or not 0 < inode.size <= self._sizes.sector_bytes:
                continue
            for _, extent in rows.extents(dentry.ino):
                row = rows.object(extent.object)
                if row is not None:
                    first, last = extent.object_offset, extent.object_offset + extent.length - 1
                    low, high = first // self._sizes.sector_bytes, last // self._sizes.sector_bytes
                    yield from islice(self._sectors(extent.object, row, low), high + 1 - low)


def _order(units: list[Unit]) -> Callable[[Unit], tuple[int, int]]:
    """Objects in the order in which they were chosen, each from its beginning: neighbours share a request."""
    rank: dict[bytes, int] = {}
    for unit in units:
        rank.setdefault(unit.object, len(rank))
    return lambda unit: (rank[unit.object], unit.sector)
