"""Commits of one file whose fate is not known yet.

A commit that was sent may take effect long after its sender's patience has ended, or after its process. Publishing the
same changes again would then put them over whatever another client has written since. So a change that was sent is
not pending: it is in doubt, until the journal says which. Pure but for asking.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from s3vfs.data.packer import Parcel
from s3vfs.data.pending import Share
from s3vfs.data.protocol import Pledge
from s3vfs.namespace.ops import ExtentWrite
from s3vfs.namespace.rows import Inode
from s3vfs.namespace.verdict import Verdict


@dataclass(slots=True)
class Delivery:
    """A commit on its way, alone (`pledge`) or as a parcel. `foreign`: the working file's count when it was sent.
    `extents`: what it writes."""

    share: Share
    foreign: int
    extents: Sequence[ExtentWrite] = ()
    parcel: Parcel | None = None
    pledge: Pledge | None = None

    def _pledge(self) -> Pledge | None:
        return self.pledge if self.parcel is None else self.parcel.pledge

    @property
    def number(self) -> int:
        """The op number that decides, 0 where nothing was sent."""
        pledge = self._pledge()
        return 0 if pledge is None else pledge.number

    @property
    def on_its_way(self) -> bool:
        """Whether it may still take effect, or have done so unheard."""
        if self.parcel is not None and not self.parcel.done.is_set():
            return True
        pledge = self._pledge()
        return pledge is not None and not pledge.settled

    def shown_by(self, inode: Inode) -> bool:
        """Whether base has it already, in this row of it: the task that sent it learns that a moment later."""
        pledge = self._pledge()
        landed = pledge is not None and pledge.settled
        return landed and (not self.share.contents or inode.version > self.share.version)

    async def ask_again(self) -> Sequence[Verdict]:
        """The verdicts of its ops. Raises what the commit raised; StoreUnreachable when it still cannot be known."""
        if self.parcel is None:
            assert self.pledge is not None
            return await self.pledge.verdicts()
        await self.parcel.done.wait()
        if self.parcel.pledge is None:
            assert self.parcel.error is not None
            raise self.parcel.error
        return self.parcel.own(await self.parcel.pledge.verdicts())
