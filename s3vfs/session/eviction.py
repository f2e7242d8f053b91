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


@dataclass(frozen=True, slots=True)
class Committed:
    """A commit that was applied: the seq of its (last) record, and one verdict for each op."""

    seq: int
    verdicts: Sequence[Verdict]


async def evict(
    sid: int, *, wait_s: float, base: Base, tail: Tail, commit: Callable[[Sequence[AnyOp]], Awaitable[Committed]]
) -> bool:
    """True: the session was ended. False: it is alive, or there is no such session. A session that holds a lease has at
    least as long to answer as for a RECALL. Raises what `commit` raises, and StoreUnreachable when the tail cannot be
    read after the wait."""
    challenge = await commit([Challenge(sid)])
    if challenge.verdicts[0].errno:
        return False
    with base.read() as txn:
        holds = next(Rows(txn).leases(sid), None) is not None
    await trio.sleep(max(wait_s, RECALL_PATIENCE_S) if holds else wait_s)
    await tail.look()
    row = base.session_row(sid)
    if row is None or row.last_seq > challenge.seq:
        return False
    eviction = await commit([Evict(sid, challenge.seq)])
    return eviction.verdicts[0].errno == 0
