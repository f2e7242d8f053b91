"""What may leave the tree when a client loses its office or its disk, and where it must be then (R13, DESIGN 7).

A client whose session was ended by others, taken over or refused, or whose machine was restarted, finds its
unpublished bytes in its spill directory; one whose disk was replaced has lost them. What fsync had answered for is in
the tree in any case.
"""

from __future__ import annotations

from pathlib import Path

from s3vfs.session.spill import Spill
from tests.simulation.whole_workload import OwnFile, explained
from tests.simulation.world import Violation


class Losses:
    """The spill directory of one client, as its user reads it. `disk_replaced`: since the last look."""

    def __init__(self) -> None:
        self._seen: set[str] = set()
        self.disk_replaced = False

    def account(self, name: str, spill: Path, files: list[OwnFile], trees: dict[int, bytes]) -> int:
        """`trees`: what the owner's files are now, by inode. Each must be what was durable or later, and, unless the
        disk was replaced, together with the spilled bytes what was last acknowledged. The files are then what they
        are; the number of spilled files that were needed."""
        spilled: dict[int, dict[int, bytes]] = {}
        for kept in Spill(spill).list():
            if kept.folder.name in self._seen:
                continue
            self._seen.add(kept.folder.name)
            if kept.changes:
                continue  # of names and attributes
            data = (kept.folder / "bytes").read_bytes()
            ranges = spilled.setdefault(kept.ino, {})
            for offset, length in kept.ranges:
                ranges[offset] = data[offset : offset + length]
        used = 0
        for file in files:
            seen = trees.get(file.ino)
            if seen is None:
                continue
            if not explained(seen, file.possible(file.durable)):
                raise Violation(f"{name}: file {file.ino} has lost bytes that fsync had answered for")
            ranges = spilled.get(file.ino, {})
            wanted = [file.states[-1]] + ([] if file.maybe is None else [file.maybe])
            if not self.disk_replaced and not any(_complete(seen, ranges, state) for state in wanted):
                raise Violation(f"{name}: unpublished bytes of file {file.ino} are neither in the tree nor spilled")
            used += bool(ranges) and seen != file.states[-1]
            file.states, file.durable, file.maybe = [seen], 0, None
            file.beginnings += 1
        self.disk_replaced = False
        return used


def _complete(seen: bytes, ranges: dict[int, bytes], state: bytes) -> bool:
    """Whether tree and spill have every byte of the state. An unpublished truncate is not kept: zeros that it has made
    may be missing."""
    whole = bytearray(seen[: len(state)].ljust(len(state), b"\0"))
    for offset, data in ranges.items():
        end = min(offset + len(data), len(state))
        if offset < end:
            whole[offset:end] = data[: end - offset]
    return whole == state or all(byte in (0, there) for byte, there in zip(state, whole, strict=True))
