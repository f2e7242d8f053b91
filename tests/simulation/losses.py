"""What may leave the tree, when, and where it must be then (R10, R13, DESIGN 6 and 7).

A client whose leases were revoked, whose session was ended, taken over or refused, or whose machine was restarted,
finds what it had acknowledged and what is not in the tree in its spill directory; one whose disk was replaced has lost
it. What fsync had answered for is in the tree in any case. Nothing else takes anything away: a killed client with its
disk loses nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from s3vfs.namespace.ops import AnyOp
from s3vfs.namespace.rows import ROOT_INO
from s3vfs.session.acknowledged import described
from s3vfs.session.spill import Spill
from tests.simulation.client import Client
from tests.simulation.oracle import Witness
from tests.simulation.world import Violation, World

if TYPE_CHECKING:
    from tests.simulation.whole_workload import OwnFile


class Standing:
    """Whether work that one client has acknowledged, and that fsync has not answered for, may be gone. `home`: its own
    directory."""

    def __init__(self, world: World, client: Client) -> None:
        self._world = world
        self._client = client
        self.home = ROOT_INO
        self._accounted: Counter[int] = Counter()

    def taken(self) -> Counter[int]:
        """By each of its sessions: how often others have taken something from it."""
        sids = {life.session.sid for life in self._client.lives}
        return Counter({sid: self._world.taken[sid] for sid in sids})

    def shaken(self) -> bool:
        """Since it was last accounted for."""
        return self._client.lost or any(count > self._accounted[sid] for sid, count in self.taken().items())

    def accounted(self, taken: Counter[int]) -> None:
        """Everything has been looked at since `taken` was what `taken` gives."""
        self._accounted = taken


class Losses:
    """The spill directory of one client, as its user reads it. `disk_replaced`: since the last look."""

    def __init__(self, spill: Path) -> None:
        self._spill = Spill(spill)
        self._seen: set[str] = set()
        self.disk_replaced = False

    def account(
        self, name: str, files: list[OwnFile], trees: dict[int, bytes], unreported: Collection[int] = ()
    ) -> int:
        """`trees`: what the owner's files are now, by inode. Each must be what fsync answered for or later, and, unless
        the disk was replaced, together with the spilled bytes what was last acknowledged. `unreported`: files that
        somebody has open, and that fsync had nothing to say about; so nothing of them may be missing. The files are
        then what they are; the number of spilled files that were needed."""
        spilled = self._spilled_since()
        used = 0
        for file in files:
            if file.gone:
                continue
            seen = trees.get(file.ino)
            if not (file.fsynced < 0 if seen is None else explained(seen, file.possible(file.fsynced))):
                raise Violation(f"{name}: file {file.ino} has lost bytes that fsync had answered for")
            ranges = spilled.get(file.ino, {})
            wanted = [file.states[-1]] + ([] if file.maybe is None else [file.maybe])
            if not self.disk_replaced and not any(_complete(seen or b"", ranges, state) for state in wanted):
                raise Violation(f"{name}: unpublished bytes of file {file.ino} are neither in the tree nor spilled")
            if file.ino in unreported and seen not in wanted:
                raise Violation(f"{name}: file {file.ino} has lost bytes, and fsync said nothing (R10)")
            used += bool(ranges) and seen != file.states[-1]
            file.begin_anew(seen)
        self.disk_replaced = False
        return used

    def _spilled_since(self) -> dict[int, dict[int, bytes]]:
        """Bytes by offset, by inode."""
        spilled: dict[int, dict[int, bytes]] = {}
        for kept in self._spill.list():
            if kept.folder.name in self._seen:
                continue
            self._seen.add(kept.folder.name)
            if kept.changes:
                continue  # of names and attributes
            data = (kept.folder / "bytes").read_bytes()
            ranges = spilled.setdefault(kept.ino, {})
            for offset, length in kept.ranges:
                ranges[offset] = data[offset : offset + length]
        return spilled

    def has(self, data: bytes) -> bool:
        """Whether a spilled file has these bytes."""
        return any(data in (kept.folder / "bytes").read_bytes() for kept in self._spill.list() if not kept.changes)

    def changes(self) -> Counter[str]:
        """All changes of names and attributes that were ever kept."""
        return Counter(change for kept in self._spill.list() for change in kept.changes)


def explained(seen: bytes, states: list[bytes]) -> bool:
    """Whether every byte is that of one of the states: changes reach the journal in order, but not all at once."""
    if seen in states:
        return True
    if not min(map(len, states)) <= len(seen) <= max(map(len, states)):
        return False
    padded = [state[: len(seen)].ljust(len(seen), b"\0") for state in states]
    return all(byte in those for byte, those in zip(seen, zip(*padded, strict=True), strict=True))


def _complete(seen: bytes, ranges: dict[int, bytes], state: bytes) -> bool:
    """Whether tree and spill have every byte of the state. An unpublished truncate is not kept: zeros that it has made
    may be missing."""
    whole = bytearray(seen[: len(state)].ljust(len(state), b"\0"))
    for offset, data in ranges.items():
        end = min(offset + len(data), len(state))
        if offset < end:
            whole[offset:end] = data[: end - offset]
    return whole == state or all(byte in (0, there) for byte, there in zip(state, whole, strict=True))


@dataclass(frozen=True, slots=True)
class Promise:
    """An op that was acknowledged ahead of its record."""

    client: str
    sid: int
    at_s: float
    op: AnyOp


def check_promises(
    world: World, witness: Witness, clients: Iterable[Client], promises: Iterable[Promise], losses: dict[str, Losses]
) -> None:
    """Each is in the journal, or, where others took the lease or the office, described in the spill directory."""
    landed = Counter((done.sid, described(done.op)) for done in witness.done() if not done.verdict.errno)
    replaced_at_s = {client.name: client.replaced_at_s for client in clients}
    spilled = {name: kept.changes() for name, kept in losses.items()}
    for promise in promises:
        what = described(promise.op)
        if landed[promise.sid, what]:
            continue
        if promise.at_s < replaced_at_s[promise.client]:
            continue
        if not spilled[promise.client][what]:
            raise Violation(f"{promise.client}: acknowledged at {promise.at_s}, neither done nor spilled: {what}")
        if not world.taken[promise.sid]:
            raise Violation(f"{promise.client}: spilled, although nobody had taken anything from it: {what}")
