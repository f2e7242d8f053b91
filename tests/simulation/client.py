"""One simulated client: a disk that outlives its processes, and the lives that it leads on it.

A life is one mount, from session directory to END, kill or fence. Its process is killed by cancelling it; what it had
sent goes on without it. The disk can be copied, rolled back, or lose what was not synced (a reboot).
"""

from __future__ import annotations

import random
import shutil
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar, TypeVarTuple

import trio

from s3vfs.environment import Environment
from s3vfs.errors import ReadOnly, SessionFenced, StoreUnreachable, Unpublished, VolumeError
from s3vfs.journal.bucket import BucketJournal
from s3vfs.replica.memory_replica import MemoryReplica
from s3vfs.replica.protocol import Position
from s3vfs.session.directory import SessionDirectory
from s3vfs.session.options import Offline, SessionOptions
from s3vfs.session.session import Session, open_session
from s3vfs.session.unwrapping import single_error
from tests.session.volume import EPOCH_NS
from tests.simulation.weather import Way
from tests.simulation.world import VOLUME, World

_Args = TypeVarTuple("_Args")
_Result = TypeVar("_Result")

OPTIONS = SessionOptions(
    label="simulated", offline=Offline.ERROR, io_timeout_s=40, busy_poll_s=0.5, idle_poll_s=10, low_interval_s=20
)


@dataclass(frozen=True, slots=True)
class Disk:
    """What is on a client's disk: the replica, and the other files of its session directory by their paths in it.
    What was spilled is not rolled back: its user has it."""

    replica: MemoryReplica
    files: dict[str, bytes]
    boot: int


@dataclass(eq=False)
class Life:
    """One process: its session, and every position that its base has had."""

    name: str
    session: Session
    positions: list[Position] = field(default_factory=list)
    nursery: trio.Nursery | None = None  # whatever else this process does, while its work goes on


class _SlowRunner:
    """Calls in place, after a moment: no threads, one history per seed."""

    def __init__(self, way: Way) -> None:
        self._way = way

    async def __call__(self, fn: Callable[[*_Args], _Result], *args: *_Args) -> _Result:
        await trio.sleep(self._way.generator.random() * self._way.climate.one_way_s)
        await self._way.freezer.gate()
        return fn(*args)


class Client:
    """`work(life)` is what each life does; it ends when the life's work is done."""

    def __init__(self, world: World, number: int, root: Path) -> None:
        self.world = world
        self.name = f"c{number}"
        self.generator = random.Random(f"{world.seed}/{number}")
        self._tries: Counter[str] = Counter()
        self.way = Way(world, random.Random(f"{world.seed}/{number}/way"))
        self.replica = MemoryReplica(VOLUME)
        self.boot = 0
        self.lost = self.disk_replaced = False  # since it last served
        self.options = OPTIONS
        self.lives: list[Life] = []
        self.life: Life | None = None
        self.refusals: list[VolumeError] = []
        self.replaced_at_s = -1.0  # when its disk was last changed for another
        self._cache = root / self.name
        self._scope = trio.CancelScope()
        self._skew_ns = self.generator.randrange(-300, 300) * 10**9

    # -- the disk -----------------------------------------------------------------------------------------------

    @property
    def folder(self) -> Path:
        """The session directory."""
        return self._cache / VOLUME.hex() / "sessions" / "mnt"

    def look_at_disk(self) -> Disk:
        """A copy of what is on the disk now, also while a process runs on it."""
        files = {}
        for path in self.folder.rglob("*"):
            name = str(path.relative_to(self.folder))
            if path.is_file() and name != "lock" and not name.startswith("spill/"):
                files[name] = path.read_bytes()
        return Disk(self.replica.copy(), files, self.boot)

    def put_disk(self, disk: Disk) -> None:
        """Roll back, or clone another client's. Only between lives."""
        self.replica, self.boot = disk.replica.copy(), disk.boot
        self.lost = self.disk_replaced = True
        self.replaced_at_s = trio.current_time()
        for path in self.folder.iterdir():
            if path.name in ("working", "queue"):
                shutil.rmtree(path)
            elif path.name not in ("lock", "spill", "index"):
                path.unlink()
        for name, data in disk.files.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)

    def reboot(self) -> None:
        """The replica was not synced, and is not trusted after another boot (R13). Only between lives."""
        self.replica = MemoryReplica(VOLUME)
        self.boot += 1
        self.lost = True

    # -- lives --------------------------------------------------------------------------------------------------

    def kill(self) -> None:
        self.world.say(self.name, "killed")
        self._scope.cancel()

    async def live(self, work: Callable[[Life], Awaitable[None]]) -> bool:
        """One life. True: its work is done and it ended in order; False: it was killed, fenced, or never got going."""
        name = f"{self.name}.{len(self.lives)}"
        environment = self._environment(name)
        store = self.way.store(name)
        journal = BucketJournal(store.control, VOLUME, environment)
        self._scope = trio.CancelScope()
        done = False
        try:
            # What ends it of itself in the moment of the kill comes in groups.
            with single_error(), self._scope, SessionDirectory(self._cache, VOLUME, "mnt") as directory:
                async with open_session(environment, store, journal, self.replica, directory, self.options) as session:
                    life = Life(name, session)
                    self._observe(life)
                    self.world.say(name, f"serves as {session.sid:x}.{session.incarnation}, resumed={session.resumed}")
                    await work(life)
                done = session.base.refusal() is None
        except (SessionFenced, ReadOnly, StoreUnreachable, Unpublished) as error:
            self.world.say(name, f"ends: {error}")
        except VolumeError as error:
            self.world.say(name, f"does not start: {error}")
            self.refusals.append(error)
        finally:
            self.life = None
            # The process is gone, and with it whatever still held the replica.
            self.replica = self.replica.copy()
        self.world.say(name, "ended" if done else "gone")
        return done

    def _observe(self, life: Life) -> None:
        replica = life.session.base.replica
        life.positions.append(replica.position)
        life.session.listen(
            lambda changes, own: life.positions.append(replica.position),
            reloaded=lambda: life.positions.append(replica.position),
        )
        self.lives.append(life)
        self.life = life

    def _environment(self, name: str) -> Environment:
        # A try that was never served has the name of the next one, which must not draw the same session.
        again = f"/{self._tries[name]}" if self._tries[name] else ""
        self._tries[name] += 1
        generator = random.Random(f"{self.world.seed}/{name}{again}")
        return Environment(
            run=_SlowRunner(self.way),
            boot_id=f"{self.name}-boot-{self.boot}",
            wall_ns=lambda: EPOCH_NS + int(trio.current_time() * 1e9) + self._skew_ns,
            boottime_ns=lambda: int(trio.current_time() * 1e9),
            random=generator,
            new_uuid=lambda: generator.randbytes(16),
        )
