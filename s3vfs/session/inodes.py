"""Inode numbers for this incarnation, asked for ahead of need (BLOCK ops).

`apply` takes a block's numbers in ascending order only, and never gives one twice; so a number must be queued, in its
CREATE, in the same step in which it is taken: evaluate, `take`, enqueue, with no await between. A number that was taken
and not used is lost, which is harmless. Who takes some ahead of need gives them back, lowest first, when another is
needed meanwhile.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from s3vfs.errors import S3vfsError
from s3vfs.namespace.ops import Block
from s3vfs.namespace.rows import SessionRow
from s3vfs.session.batches import Group
from s3vfs.session.options import FIRST_BLOCK, MAX_BLOCK
from s3vfs.session.pipeline import Pipeline


class InodeNumbers:
    """`row` is the session's row when it took office: what is left of its blocks goes on being used, but for numbers up
    to `used`."""

    def __init__(self, pipeline: Pipeline, row: SessionRow, used: int) -> None:
        self._pipeline = pipeline
        ranges = [(max(first, used + 1), end) for first, end in row.blocks]
        self._ranges = deque([(first, end) for first, end in ranges if first < end])
        self._free = sum(end - first for first, end in self._ranges)
        self._asked = max(FIRST_BLOCK, self._free)
        self._waiting: Group | None = None
        self.give_back: Callable[[], int] = lambda: 0  # the lowest number that somebody has taken and not used, or 0

    def take(self) -> int | None:
        """The next number, or None: then `await reserve()`, evaluate again, and take. No checkpoint."""
        return self.give_back() or self.take_new()

    def take_new(self) -> int | None:
        """As `take`, a number above all that were taken."""
        if not self._ranges:
            return None
        first, end = self._ranges.popleft()
        if first + 1 < end:
            self._ranges.appendleft((first + 1, end))
        self._free -= 1
        if self._free < self._asked // 2 and self._pipeline.open:
            self._ask()
        return first

    async def reserve(self) -> None:
        """Return when `take` has a number to give. Raises what `enqueue` raises, and what became of the BLOCK op."""
        while not self._ranges:
            waiting = self._waiting or self._ask()
            await waiting.done.wait()
            if waiting.error is not None and not self._ranges:
                raise waiting.error

    def _ask(self) -> Group:
        if self._waiting is None:
            self._asked = min(4 * self._asked, MAX_BLOCK)
            self._waiting = self._pipeline.enqueue([Block(self._asked)], on_done=self._answered)
        return self._waiting

    def _answered(self, group: Group) -> None:
        self._waiting = None
        if group.error is not None:
            return
        verdict = group.verdicts[0]
        if verdict.errno:
            group.error = S3vfsError("the volume gives out no more inode numbers")
            return
        self._ranges.append((verdict.value, verdict.value + self._asked))
        self._free += self._asked
