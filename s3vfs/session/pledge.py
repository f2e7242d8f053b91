"""Ops that were queued, for a caller who has to learn their fate even when its patience ended before it was known."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from s3vfs.namespace.verdict import Verdict
from s3vfs.session.batches import Group
from s3vfs.session.eviction import Committed


@dataclass(frozen=True, slots=True)
class Pledge:
    """One group on its way into the journal. Made by `Session.send`."""

    group: Group
    _wait: Callable[[Group], Awaitable[Committed]]

    @property
    def number(self) -> int:
        """The number of its last op: once that is in the journal, all are."""
        return self.group.first_number + self.group.size - 1

    @property
    def settled(self) -> bool:
        """Whether asking again can tell no more."""
        return self.group.done.is_set()

    async def verdicts(self) -> list[Verdict]:
        """As `Session.commit`: may be asked again after StoreUnreachable or a cancellation."""
        return list((await self._wait(self.group)).verdicts)
