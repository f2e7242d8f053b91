"""A store that counts: requests, refusals, errors and bytes for each operation. Every store the daemon opens is one.

What is counted is what a bill shows: requests as our side asked for them. Repeated reads inside a store count once.
"""

from __future__ import annotations

import enum
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from s3vfs.errors import ObjectExists, ObjectMissing
from s3vfs.objects.protocol import Bulk, Control, Outcome, Page, Reply, Store
from s3vfs.objects.store import OpenedStore

if TYPE_CHECKING:
    from typing_extensions import Buffer


class Operation(enum.Enum):
    """The requests of both protocols."""

    GET = "get"
    HEAD = "head"
    PUT = "put"
    DELETE = "delete"
    LIST = "list"
    BULK_GET = "bulk_get"
    BULK_PUT = "bulk_put"
    BULK_DELETE = "bulk_delete"


@dataclass(frozen=True, slots=True)
class Tally:
    """One operation's figures. `errors` raised StoreError (or were cancelled); `refused` were clear answers: a
    condition that did not hold, or a key that was missing or occupied."""

    requests: int = 0
    refused: int = 0
    errors: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.requests + other.requests,
            self.refused + other.refused,
            self.errors + other.errors,
            self.bytes_sent + other.bytes_sent,
            self.bytes_received + other.bytes_received,
        )


class Counters:
    """Figures of one or more stores, from the start on. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tallies: dict[Operation, Tally] = {}

    def add(self, operation: Operation, tally: Tally) -> None:
        with self._lock:
            self._tallies[operation] = self._tallies.get(operation, Tally()) + tally

    def __getitem__(self, operation: Operation) -> Tally:
        with self._lock:
            return self._tallies.get(operation, Tally())

    def snapshot(self) -> dict[str, Tally]:
        """Every operation seen so far, by name: for status and metrics."""
        with self._lock:
            return {operation.value: tally for operation, tally in self._tallies.items()}

    def total(self) -> Tally:
        with self._lock:
            return sum(self._tallies.values(), Tally())


def counted(store: Store, counters: Counters) -> OpenedStore:
    """`store`, with its requests counted. Closing it closes `store`."""
    return OpenedStore(store.url, CountedControl(store.control, counters), CountedBulk(store.bulk, counters))


class CountedControl:
    """`Control` that counts what passes."""

    def __init__(self, inner: Control, counters: Counters) -> None:
        self._inner = inner
        self._counters = counters

    async def get(self, key: str) -> Reply:
        with _Counting(self._counters, Operation.GET) as counting:
            return counting.answered(await self._inner.get(key))

    async def head(self, key: str) -> Reply:
        with _Counting(self._counters, Operation.HEAD) as counting:
            return counting.answered(await self._inner.head(key))

    async def put(self, key: str, body: bytes, *, if_absent: bool = False, if_match: str = "") -> Reply:
        with _Counting(self._counters, Operation.PUT, sent=len(body)) as counting:
            return counting.answered(await self._inner.put(key, body, if_absent=if_absent, if_match=if_match))

    async def delete(self, key: str, *, if_match: str = "") -> Reply:
        with _Counting(self._counters, Operation.DELETE) as counting:
            return counting.answered(await self._inner.delete(key, if_match=if_match))

    async def list_page(self, prefix: str, *, start_after: str = "", delimiter: str = "", limit: int = 1000) -> Page:
        with _Counting(self._counters, Operation.LIST):
            return await self._inner.list_page(prefix, start_after=start_after, delimiter=delimiter, limit=limit)

    async def aclose(self) -> None:
        await self._inner.aclose()


class CountedBulk:
    """`Bulk` that counts what passes."""

    def __init__(self, inner: Bulk, counters: Counters) -> None:
        self._inner = inner
        self._counters = counters

    def get_range(self, key: str, offset: int, length: int) -> Buffer:
        with _Counting(self._counters, Operation.BULK_GET) as counting:
            part = self._inner.get_range(key, offset, length)
            counting.received(length)
            return part

    def put_new(self, key: str, body: Sequence[Buffer]) -> None:
        size_bytes = sum(memoryview(part).nbytes for part in body)
        with _Counting(self._counters, Operation.BULK_PUT, sent=size_bytes):
            self._inner.put_new(key, body)

    def delete(self, key: str) -> None:
        with _Counting(self._counters, Operation.BULK_DELETE):
            self._inner.delete(key)

    def close(self) -> None:
        self._inner.close()


class _Counting:
    """One request under way; counts it, however it ends."""

    def __init__(self, counters: Counters, operation: Operation, *, sent: int = 0) -> None:
        self._counters = counters
        self._operation = operation
        self._tally = Tally(requests=1, bytes_sent=sent)

    def __enter__(self) -> _Counting:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, ObjectMissing | ObjectExists):
            self._tally = replace(self._tally, refused=1)
        elif error is not None:
            self._tally = replace(self._tally, errors=1)
        self._counters.add(self._operation, self._tally)

    def answered(self, reply: Reply) -> Reply:
        self._tally = replace(self._tally, refused=int(reply.outcome is not Outcome.OK), bytes_received=len(reply.body))
        return reply

    def received(self, size_bytes: int) -> None:
        self._tally = replace(self._tally, bytes_received=size_bytes)
