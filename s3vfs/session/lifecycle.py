"""Taking office and leaving it: RESUME or ANNOUNCE, rebuild of the replica, END (R13).

Every attempt is on disk before it is in the journal, so that whatever a crash leaves behind is recognised. Knows no
queue: these records are sent one by one.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

from s3vfs.environment import Environment
from s3vfs.errors import Damaged, S3vfsError
from s3vfs.journal.protocol import Journal
from s3vfs.namespace.ops import Announce, AnyOp, Beat, Block, NumberedOp, Resume, encode_op
from s3vfs.objects.protocol import Store
from s3vfs.replica.protocol import EMPTY
from s3vfs.replica.restore import restore
from s3vfs.session.appender import Appender, Author
from s3vfs.session.base import Base, Fate
from s3vfs.session.directory import Identity, SessionDirectory
from s3vfs.session.options import FIRST_BLOCK
from s3vfs.session.tail import Tail

_log = logging.getLogger(__name__)

# Op numbers begin anew with each incarnation, at a random number below this: it then tells our own attempt to take
# office from that of a copy of this session directory (a disk rolled back, a cloned machine).
_FIRST_NUMBERS = 1 << 24
# Former incarnations that are remembered: working files speak of one that has just been replaced, or of one a few
# before, where daemons were killed while they started.
_FORMER = 64


async def rebuild(environment: Environment, store: Store, journal: Journal, base: Base) -> None:
    """Replace base by HEAD's checkpoint, or by nothing where there is none yet (R5).

    Raises Damaged for a contradiction, and what `restore` raises: base is then as it was; call again.
    """
    head = (await journal.refresh_head()).head
    if head.checkpoint is None and head.boundary > 1:
        raise Damaged("HEAD has a trim boundary but names no checkpoint")
    base.begin_loading()
    try:
        if head.checkpoint is None:
            base.replica.load((), EMPTY)
        else:
            await restore(store, head.checkpoint.uuid, base.replica, environment.run)
    except BaseException:
        base.loading_failed()
        raise
    _log.warning("the replica was rebuilt from the checkpoint at record %d", base.applied_seq)
    base.reloaded()


@dataclass(frozen=True, slots=True)
class Office:
    """What the journal has granted. `resumed`: the session goes on, and so do its working files; else they are to be
    spilled. `first_number` is the first op number that is free. `former` and `copied` as in Identity."""

    sid: int
    incarnation: int
    resumed: bool
    first_number: int
    former: tuple[tuple[int, int], ...] = ()
    copied: bool = False


class Registrar:
    """Gets one client into office."""

    def __init__(
        self,
        environment: Environment,
        base: Base,
        appender: Appender,
        tail: Tail,
        directory: SessionDirectory,
        label: str,
    ) -> None:
        self._environment = environment
        self._base = base
        self._appender = appender
        self._tail = tail
        self._directory = directory
        self._label = label

    async def take_office(self, identity: Identity | None) -> Office | None:
        """Resume the session of `identity`, or announce a new one. None: the RESUME was refused; rebuild the replica,
        then call again without an identity.

        Raises Damaged or UnknownFeature where the journal stops this client, and what the disk raises.
        """
        while True:
            await self._base.ready()
            if self._base.fatal is not None:
                raise self._base.fatal  # nothing is served yet: whoever starts shall hear the reason itself
            refusal = self._base.refusal()
            if refusal is not None:
                raise refusal
            attempt = self._announcement() if identity is None else self._resumption(identity)
            if attempt is None:
                return None
            row = self._base.session_row(attempt.sid)
            await self._environment.run(self._directory.write_identity, attempt)
            if self._base.session_row(attempt.sid) != row:
                continue  # a late record of the former incarnation: what was noted of it holds no longer
            outcome = await self._try(attempt, resuming=identity is not None)
            if identity is not None:
                identity = replace(attempt, place=self._directory.place)
            if outcome is None:
                continue
            if not outcome:
                if identity is None:
                    continue
                return None
            settled = replace(attempt, settled=True)
            await self._environment.run(self._directory.write_identity, settled)
            self._base.take_office(attempt.sid, attempt.incarnation)
            resumed = identity is not None
            return Office(attempt.sid, attempt.incarnation, resumed, attempt.number + 1, attempt.former, attempt.copied)

    def _announcement(self) -> Identity:
        sid = self._environment.random.randrange(1, 2**63)
        return Identity(sid, 1, self._environment.boot_id, self._first_number(), settled=False)

    def _resumption(self, identity: Identity) -> Identity | None:
        """The next attempt to resume, or None where the journal knows the session as somebody else (R13)."""
        row = self._base.session_row(identity.sid)
        if row is None:
            return None
        ours = row.incarnation == identity.incarnation and (identity.settled or row.last_op == identity.number)
        if ours and row.last_op > identity.sent and identity.boot_id == self._environment.boot_id:
            # The journal has ops of this incarnation that were never sent from here: this directory is an older copy,
            # and what its working files hold may have been published, and replaced, long ago.
            return None
        # An attempt that never reached the journal is as if it had not been made.
        not_there = not identity.settled and row.incarnation == identity.incarnation - 1
        if not (ours or not_there):
            return None
        earlier = [pair for pair in identity.former if pair[0] != row.incarnation]
        return Identity(
            identity.sid,
            row.incarnation + 1,
            self._environment.boot_id,
            self._first_number(),
            settled=False,
            former=(*earlier, (row.incarnation, row.last_op))[-_FORMER:],
            copied=identity.copied
            or identity.place != self._directory.place
            or identity.boot_id != self._environment.boot_id,
        )

    def _first_number(self) -> int:
        return self._environment.random.randrange(2, _FIRST_NUMBERS)

    async def _try(self, attempt: Identity, *, resuming: bool) -> bool | None:
        """True: in office. False: refused. None: the race was lost, or its outcome cannot be known; look again."""
        entry: AnyOp = Resume(attempt.incarnation - 1) if resuming else Announce(self._label)
        # Inode numbers come in the same record: the first create then needs no extra one. A session that is resumed
        # often gets none that it does not need, since its row forgets old blocks when there are many.
        second: AnyOp = Beat() if self._free_numbers(attempt.sid) >= FIRST_BLOCK // 2 else Block(FIRST_BLOCK)
        wires = [
            encode_op(NumberedOp(number, None, op))
            for number, op in ((attempt.number - 1, entry), (attempt.number, second))
        ]
        outcome = await self._appender.append(Author(attempt.sid, attempt.incarnation), wires)
        if outcome.fate is not Fate.WON:
            return None
        if outcome.verdicts[0].errno:
            _log.warning("session %016x was not taken up again: errno %d", attempt.sid, outcome.verdicts[0].errno)
            return False
        if outcome.verdicts[1].errno:
            raise S3vfsError("the volume gives out no inode numbers")
        return True

    def _free_numbers(self, sid: int) -> int:
        row = self._base.session_row(sid)
        return sum(end - first for first, end in row.blocks) if row is not None else 0
