"""Creating a key that exactly one writer may create, with R1 and R2 kept in one place. Knows no record and no HEAD."""

from __future__ import annotations

import random
from dataclasses import dataclass

import trio

from s3vfs.environment import Environment
from s3vfs.errors import StoreThrottled, StoreUnreachable
from s3vfs.objects.protocol import Control, Outcome, Reply

FIRST_DELAY_S = 0.05
LAST_DELAY_S = 5.0  # a store that comes back is noticed within this
THROTTLED_DELAY_S = 1.0


class Backoff:
    """Growing pauses with full jitter, so that many clients that failed together do not come back together."""

    def __init__(self, randomness: random.Random) -> None:
        self._random = randomness
        self._bound_s = FIRST_DELAY_S
        self.pauses = 0

    async def pause(self, error: StoreUnreachable | None = None) -> None:
        """Sleep; `error` is what made it necessary, if anything: a store that throttles is given more room."""
        if isinstance(error, StoreThrottled):
            self._bound_s = max(self._bound_s, THROTTLED_DELAY_S)
        delay_s = self._random.uniform(self._bound_s / 2, self._bound_s)
        self._bound_s = min(2 * self._bound_s, LAST_DELAY_S)
        self.pauses += 1
        await trio.sleep(delay_s)


@dataclass(frozen=True, slots=True)
class Occupied:
    """What is at the key now. `created`: a PUT of this call was answered with success. `own`: the bytes there are the
    caller's (created, or found equal). `date_ns` and `round_trip_ns` are of the answer that settled it."""

    body: bytes
    created: bool
    own: bool
    date_ns: int
    round_trip_ns: int


async def occupy(control: Control, key: str, body: bytes, environment: Environment) -> Occupied:
    """PUT `body` with If-None-Match until the key is occupied, by whoever it be (R2).

    Every answer but a plain success is resolved by reading the key; where nothing is there the outcome is still
    unknown, and the same bytes are PUT again. Never gives up by itself on a store that does not answer.

    Raises StoreDenied and BucketMissing. After an exception, cancellation included, the outcome of PUTs already sent
    is unknown: one may take effect at any later time, so only the same bytes may be tried again at this key.
    """
    backoff = Backoff(environment.random)
    while True:
        pauses = backoff.pauses
        started_ns = environment.boottime_ns()
        try:
            reply = await control.put(key, body, if_absent=True)
        except StoreUnreachable as error:
            if isinstance(error, StoreThrottled):
                await backoff.pause(error)
        else:
            if reply.outcome is Outcome.OK:
                return Occupied(body, True, True, reply.date_ns, environment.boottime_ns() - started_ns)
        found, round_trip_ns = await _read(control, key, environment, backoff)
        if found.outcome is Outcome.OK:
            return Occupied(found.body, False, found.body == body, found.date_ns, round_trip_ns)
        if backoff.pauses == pauses:  # else this round has waited already, and the store has just answered
            await backoff.pause()


async def _read(control: Control, key: str, environment: Environment, backoff: Backoff) -> tuple[Reply, int]:
    """Read the key until there is an answer; with its round trip in ns."""
    while True:
        started_ns = environment.boottime_ns()
        try:
            reply = await control.get(key)
        except StoreUnreachable as error:
            await backoff.pause(error)
        else:
            return reply, environment.boottime_ns() - started_ns
