"""The steps of trimming (R5; docs/format.md, section 2): what HEAD should say next, and which keys may go.

Decisions are pure functions on Head; `delete_below` is the one that talks to the bucket. Nothing is deleted because of
its age or because a listing showed it: the proof is the boundary in HEAD, whose step the bucket's own clock shows
to be an hour old. The listing only finds names, among them those that a very late PUT left below the boundary.
"""

from __future__ import annotations

from dataclasses import replace

import trio

from s3vfs.journal.head import Head, HeadState, Step
from s3vfs.journal.keys import SHARDS, record_seq, shard_prefix
from s3vfs.objects.protocol import Control

DELETE_AFTER_NS = 3600 * 10**9
MAX_STEPS = 64  # bounds HEAD; a new step waits until older ones have been finished
PARALLEL_DELETES = 8


def due_step(state: HeadState) -> Step | None:
    """The newest step whose records may be deleted, by the bucket's Date in the answer that is `state`."""
    due = [s for s in state.head.steps if s.seen_ns and state.date_ns - s.seen_ns >= DELETE_AFTER_NS]
    return due[-1] if due else None


def date_steps(head: Head, shown: HeadState) -> Head:
    """`head` with the Date of `shown` in those undated steps that `shown` showed: they took effect before it."""
    visible = {(s.step, s.boundary) for s in shown.head.steps}
    steps: list[Step] = []
    for step in head.steps:
        if step.seen_ns == 0 and (step.step, step.boundary) in visible:
            step = replace(step, seen_ns=max([shown.date_ns, *(s.seen_ns for s in steps)]))
        steps.append(step)
    return replace(head, steps=tuple(steps))


def drop_finished(head: Head, finished: int) -> Head:
    """`head` without the steps up to number `finished`. The newest always stays: numbers go on from it."""
    return replace(head, steps=tuple(s for s in head.steps[:-1] if s.step > finished) + head.steps[-1:])


def raise_boundary(head: Head, below: int) -> Head:
    """`head` with a new step to boundary `below`, or as far as its checkpoint allows; unchanged if that is no raise."""
    if head.checkpoint is None or len(head.steps) >= MAX_STEPS:
        return head
    boundary = min(below, head.checkpoint.seq + 1)
    if boundary <= head.boundary:
        return head
    number = head.steps[-1].step + 1 if head.steps else 1
    return replace(head, boundary=boundary, steps=(*head.steps, Step(number, boundary, 0)))


async def delete_below(control: Control, boundary: int) -> int:
    """Delete every record key with seq < `boundary`; returns how many. Raises what the store raises, at once."""
    deleted = 0
    for shard in range(SHARDS):
        start_after, more = "", True
        while more:
            page = await control.list_page(shard_prefix(shard), start_after=start_after)
            seqs = [(record_seq(entry.key), entry.key) for entry in page.entries]
            doomed = [key for seq, key in seqs if seq is not None and seq < boundary]
            await _delete(control, doomed)
            deleted += len(doomed)
            # Within a shard keys are in the order of seq: the first one that stays ends it.
            more = page.more and not any(seq is not None and seq >= boundary for seq, _ in seqs)
            start_after = page.last
    return deleted


async def _delete(control: Control, keys: list[str]) -> None:
    """Delete `keys`, several at a time; the first error is raised after the requests in flight have ended."""
    waiting = iter(keys)
    errors: list[Exception] = []

    async def worker() -> None:
        for key in waiting:
            if errors:
                return
            try:
                await control.delete(key)
            except Exception as error:  # raised below, outside the nursery: callers expect it bare, not in a group
                errors.append(error)

    async with trio.open_nursery() as nursery:
        for _ in range(min(PARALLEL_DELETES, len(keys))):
            nursery.start_soon(worker)
    if errors:
        raise errors[0]
