"""Ending another session that does not answer (DESIGN 6): CHALLENGE, wait, EVICT.

No clock but the waiter's own stopwatch is involved, and `apply` decides: the eviction is void if any record of that
session followed the challenge.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import trio

from s3vfs.namespace.ops import AnyOp, Challenge, Evict
from s3vfs.namespace.rows import Rows
from s3vfs.namespace.verdict import Verdict
from s3vfs.session.base import Base
from s3vfs.session.options import RECALL_PATIENCE_S
from s3vfs.session.tail import Tail

# A mount that nobody uses looks at the tail every 10 s only: it must have the time to answer.
EVICT_AFTER_S = 30.0


# How often somebody who waits for an answer looks for it.
_LOOK_S = 1.0


@dataclass(frozen=True, slots=True)
class Committed:
    """A commit that was applied: the seq of its (last) record, and one verdict for each op."""

    seq: int
    verdicts: Sequence[Verdict]


def patience_s(base: Base, sid: int, wait_s: float) -> float:
    """How long a session has to answer whom `wait_s` would do: with a lease at least as long as for a RECALL, since
    what it has acknowledged leaves the tree with it."""
    with base.read() as txn:
        holds = next(Rows(txn).leases(sid), None) is not None
    return max(wait_s, RECALL_PATIENCE_S) if holds else wait_s


async def evict(
    sid: int, *, wait_s: float, base: Base, tail: Tail, commit: Callable[[Sequence[AnyOp]], Awaitable[Committed]]
) -> bool:
    """True: the session was ended. False: it is alive, as soon as that shows, or there is no such session. It has
    `patience_s` to answer. Raises what `commit` raises, and StoreUnreachable when the tail cannot be
    read after the wait."""
    challenge = await commit([Challenge(sid)])
    if challenge.verdicts[0].errno:
        return False
    over_s = trio.current_time() + patience_s(base, sid, wait_s)
    while True:
        await trio.sleep(min(_LOOK_S, max(0.0, over_s - trio.current_time())))
        last = trio.current_time() >= over_s
        await tail.look()
        row = base.session_row(sid)
        if row is None or row.last_seq > challenge.seq:
            return False
        if last:
            break
    eviction = await commit([Evict(sid, challenge.seq)])
    return eviction.verdicts[0].errno == 0
