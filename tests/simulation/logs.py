"""Programs that append lines to common logs: each line is there once and whole, whoever else appends.

What was acknowledged under a lease may go to the spill directory, as all such work, until fsync has answered.
"""

from __future__ import annotations

import errno
import os
from collections import Counter
from dataclasses import dataclass, field

from s3vfs.errors import PosixError, S3vfsError, SessionError, StoreUnreachable
from s3vfs.namespace.rows import ROOT_INO, Rows
from tests.simulation.client import Client
from tests.simulation.losses import Losses
from tests.simulation.whole_workload import LOST, ROOT, Program
from tests.simulation.world import Violation, World

LINE_BYTES = 24
NAME = b"log"


@dataclass(eq=False, slots=True)
class Line:
    """`answered`: the append has returned; `synced`: so has an fsync since."""

    text: bytes
    client: str
    sid: int
    log: bytes
    at_s: float
    answered: bool = False
    synced: bool = False


@dataclass
class LineLedger:
    lines: list[Line] = field(default_factory=list)

    def check(self, world: World, clients: list[Client], losses: dict[str, Losses]) -> None:
        """At the end."""
        logs = {log: _lines(world, log) for log in {line.log for line in self.lines}}
        lost_until_s = {client.name: client.replaced_at_s for client in clients}
        known = Counter(line.text for line in self.lines)
        for log, texts in logs.items():
            for text, count in Counter(texts).items():
                if count > 1 or not known[text]:
                    raise Violation(f"{log!r} has {text!r} {count} times")
            places = {text: place for place, text in enumerate(texts)}
            for client in clients:
                own = [places[line.text] for line in self._of(client, log) if line.text in places and line.answered]
                if own != sorted(own):
                    raise Violation(f"the lines of {client.name} in {log!r} are out of order")
        for line in self.lines:
            if not line.answered or line.text in logs[line.log]:
                continue
            if line.synced:
                raise Violation(f"{line.text!r} is not in {line.log!r}, although fsync had answered for it")
            if line.at_s < lost_until_s[line.client]:
                continue
            if not losses[line.client].has(line.text):
                raise Violation(f"{line.text!r} is neither in {line.log!r} nor spilled")

    def _of(self, client: Client, log: bytes) -> list[Line]:
        return [line for line in self.lines if line.client == client.name and line.log == log]


def _lines(world: World, log: bytes) -> list[bytes]:
    rows = Rows(world.state)
    directory = rows.dentry(ROOT_INO, log)
    file = None if directory is None else rows.dentry(directory.ino, NAME)
    data = (None if file is None else world.contents(file.ino)) or b""
    return [data[at : at + LINE_BYTES] for at in range(0, len(data), LINE_BYTES)]


class Logger(Program):
    """Mostly in a log of its own, now and then in another client's."""

    def __init__(self, *common: object, ledger: LineLedger, name: str, names: list[str]) -> None:
        super().__init__(*common)  # type: ignore[arg-type]
        self._ledger = ledger
        self._name = name
        self._names = names

    async def run(self, steps: int) -> None:
        for _ in range(steps // 3):
            await self._pause(2)
            try:
                await self._some_lines()
            except StoreUnreachable:
                self._count["unreachable"] += 1
            except PosixError as error:
                if error.errno not in LOST:
                    raise Violation(f"{self._life.name}: logging: {error!r}") from error
            except SessionError:
                raise
            except S3vfsError as error:
                if not self._may_have_lost():
                    raise Violation(f"{self._life.name}: logging: {error!r}") from error
                self._count["losses reported"] += 1

    async def _some_lines(self) -> None:
        owner = self._name if self._generator.random() < 0.75 else self._generator.choice(self._names)
        log = f"logs-{owner}".encode()
        handle = await self._open(log)
        written: list[Line] = []
        try:
            for _ in range(self._generator.randrange(1, 6)):
                written.append(await self._append(handle, log))
                if self._generator.random() < 0.4:
                    await self._pause()
            if self._generator.random() < 0.3:
                await self._fs.fsync(handle)
                for line in written:
                    line.synced = True
            await self._fs.flush(handle)
        finally:
            await self._fs.release(handle)

    async def _append(self, handle: int, log: bytes) -> Line:
        number = len(self._ledger.lines)
        text = f"{self._life.name} {number}".encode().ljust(LINE_BYTES - 1) + b"\n"
        line = Line(text, self._name, self._life.session.sid, log, self._now_s())
        self._ledger.lines.append(line)
        before = self._life.session.applied_seq
        await self._fs.write(handle, 0, text)
        line.answered = True
        self._count["lines"] += 1
        self._count["lines ahead"] += self._life.session.applied_seq == before
        return line

    async def _open(self, log: bytes) -> int:
        directory = await self._found_or_made(ROOT_INO, log)
        try:
            found = await self._fs.lookup(directory, NAME)
            return await self._fs.open(found.ino, os.O_RDWR | os.O_APPEND, ROOT)
        except PosixError as error:
            if error.errno != errno.ENOENT:
                raise
        handle, _ = await self._fs.create(directory, NAME, 0o644, os.O_RDWR | os.O_APPEND, ROOT)
        return handle

    async def _found_or_made(self, parent: int, name: bytes) -> int:
        try:
            return (await self._fs.lookup(parent, name)).ino
        except PosixError as error:
            if error.errno != errno.ENOENT:
                raise
        return (await self._fs.mkdir(parent, name, 0o755, ROOT)).ino
