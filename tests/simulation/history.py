"""One seed, one history: three clients, an unkind bucket, and a fate that kills, freezes, clones and rolls back."""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import trio
from trio.testing import MockClock

from s3vfs.errors import SessionError, StoreError, Trimmed, VolumeError
from s3vfs.journal.volume import VolumeInfo
from s3vfs.maintenance.checkpoint import publish_checkpoint
from tests.session.volume import EPOCH_NS, make_volume
from tests.simulation.client import Client, Disk, Life
from tests.simulation.oracle import check_history
from tests.simulation.weather import CALM, OUTAGE, ROUGH
from tests.simulation.workload import Diary, Workload
from tests.simulation.world import PREFIX, VOLUME, Violation, World

CLIENTS = 3
STEPS = 12  # of each task of a first life
PAUSE_S = 0.8
LONGEST_S = 3600.0  # a history that is not over by then is stuck
HOUR_NS = 3600 * 10**9
INFO = VolumeInfo(VOLUME, "test", 8 << 20, EPOCH_NS)


@dataclass
class Report:
    """What a history was like, for statistics and for the trace."""

    seed: int
    records: int = 0
    steps: int = 0
    lives: int = 0
    requests: int = 0
    ghosts: int = 0
    reloads: int = 0
    stopped: int = 0
    resumed: int = 0
    evicted: int = 0
    lost_races: int = 0
    fenced: int = 0
    unreachable: int = 0
    trace: list[str] = field(default_factory=list)


class History:
    def __init__(self, world: World, root: Path, corrupting: bool) -> None:
        self._world = world
        self._corrupting = corrupting
        self._diary = Diary()
        self._clients = [Client(world, number, root) for number in range(CLIENTS)]
        self._running = CLIENTS
        self._copies: list[Disk] = []
        self._after_death: dict[str, Callable[[Client], None]] = {}

    async def run(self) -> Report:
        world = self._world
        await make_volume(world.bucket.open(PREFIX))
        for seq in (1,):
            world.put_took_effect(f"journal/{seq % 16:x}/{seq:016x}", self._peek(seq), "")
        with trio.move_on_after(LONGEST_S) as limit:
            async with trio.open_nursery() as world.nursery:
                async with trio.open_nursery() as nursery:
                    for client in self._clients:
                        nursery.start_soon(self._lead, client)
                    nursery.start_soon(self._fate)
                await self._meet()
                world.nursery.cancel_scope.cancel()
        if limit.cancelled_caught:
            raise Violation("stuck: the history is not over after an hour")
        check_history(world, self._clients, self._diary, corrupting=self._corrupting)
        return self._report()

    def _peek(self, seq: int) -> bytes:
        data = self._world.bucket.peek(f"{PREFIX}/journal/{seq % 16:x}/{seq:016x}")
        assert data is not None
        return data

    def _report(self) -> Report:
        sessions = [life.session for client in self._clients for life in client.lives]
        return Report(
            seed=self._world.seed,
            records=self._world.tail,
            steps=len(self._diary.steps),
            lives=len(sessions),
            requests=self._world.requests,
            ghosts=self._world.ghosts,
            reloads=sum(session.counters.reloads for session in sessions),
            stopped=sum(session.fatal is not None for session in sessions),
            resumed=sum(session.resumed for session in sessions),
            evicted=sum(session.fenced for session in sessions),
            lost_races=sum(session.counters.records_lost for session in sessions),
            fenced=sum(step.error == "SessionFenced" for step in self._diary.steps),
            unreachable=sum(step.error == "StoreUnreachable" for step in self._diary.steps),
            trace=self._world.trace,
        )

    # -- clients ------------------------------------------------------------------------------------------------

    async def _lead(self, client: Client) -> None:
        """Lives, until one ends in order."""
        generator = client.generator
        steps = STEPS
        while not await client.live(partial(self._work, client, steps)):
            steps = max(2, steps // 2)
            change = self._after_death.pop(client.name, None)
            if change is not None:
                change(client)
            await trio.sleep(generator.uniform(0, 3))
        self._running -= 1

    async def _work(self, client: Client, steps: int, life: Life) -> None:
        async with trio.open_nursery() as nursery:
            life.nursery = nursery
            async with trio.open_nursery() as workers:
                for number in range(2):
                    generator = random.Random(f"{self._world.seed}/{life.name}/{number}")
                    workload = Workload(self._world, life, generator, self._diary)
                    workers.start_soon(self._task, workload, steps)
            life.nursery = None
            nursery.cancel_scope.cancel()

    async def _task(self, workload: Workload, steps: int) -> None:
        try:
            await workload.run(steps, PAUSE_S)
        except SessionError as error:
            self._world.say("task", f"over: {error}")

    async def _meet(self) -> None:
        """The weather clears: everyone mounts once more, commits, and sees the same."""
        for client in self._clients:
            client.way.climate = CALM
            client.way.freezer.thaw()
            client.way.corrupt_next_record = False
        for client in self._clients:
            while not await client.live(partial(self._work, client, 1)):
                pass

    # -- fate ---------------------------------------------------------------------------------------------------

    async def _fate(self) -> None:
        generator = self._world.generator
        events = (
            (self._change_weather, 6),
            (self._kill, 4),
            (self._copy_disk, 2),
            (self._freeze, 2),
            (self._short_absence, 2),
            (self._long_absence, 2),
            (self._evict, 2),
            (self._maintain, 4),
            (self._corrupt, 5 if self._corrupting else 0),
        )
        while self._running:
            await trio.sleep(generator.uniform(0.05, 1.5))
            (event,) = generator.choices([event for event, _ in events], [weight for _, weight in events])
            await event(generator.choice(self._clients))
        for client in self._clients:
            client.way.freezer.thaw()

    async def _change_weather(self, client: Client) -> None:
        client.way.climate = self._world.generator.choices((CALM, ROUGH, OUTAGE), (4, 5, 1))[0]
        if client.way.climate is OUTAGE:
            # Longer ones only take time.
            self._world.nursery.start_soon(self._later, self._world.generator.uniform(2, 20), self._clear, client)

    async def _later(self, delay_s: float, call: Callable[[Client], None], client: Client) -> None:
        await trio.sleep(delay_s)
        call(client)

    def _clear(self, client: Client) -> None:
        if self._running:  # else the weather has cleared for good
            client.way.climate = ROUGH

    async def _kill(self, client: Client) -> None:
        if client.life is None:
            return
        generator = self._world.generator
        change = generator.choice(("none", "reboot", "roll back", "clone"))
        if change == "reboot":
            self._after_death[client.name] = Client.reboot
        elif change == "roll back" and self._copies:
            copy = generator.choice(self._copies)
            self._after_death[client.name] = lambda dead: dead.put_disk(copy)
        elif change == "clone":
            original = generator.choice(self._clients)
            copy = original.look_at_disk()
            self._after_death[client.name] = lambda dead: dead.put_disk(copy)
        self._world.say("fate", f"kills {client.name}, then: {change}")
        client.kill()

    async def _corrupt(self, client: Client) -> None:
        client.way.corrupt_next_record = True

    async def _copy_disk(self, client: Client) -> None:
        self._copies.append(client.look_at_disk())

    async def _freeze(self, client: Client) -> None:
        self._world.say("fate", f"freezes {client.name}")
        client.way.freezer.freeze()
        self._world.nursery.start_soon(self._later, self._world.generator.uniform(1, 30), self._thaw, client)

    def _thaw(self, client: Client) -> None:
        client.way.freezer.thaw()

    async def _short_absence(self, client: Client) -> None:
        """Frozen with a record on its way, while another client checkpoints and trims."""
        await self._catch_in_flight(client)
        await self._others_trim(client)
        await trio.sleep(self._world.generator.uniform(0, 3))
        self._thaw(client)

    async def _long_absence(self, client: Client) -> None:
        """The same for hours, in which the others delete what was trimmed."""
        await self._catch_in_flight(client)
        other = await self._others_trim(client)
        self._world.clock_jump_ns += int(self._world.generator.uniform(1.01, 1.5) * HOUR_NS)
        if other is not None and other.life is not None and other.life.nursery is not None:
            other.life.nursery.start_soon(self._trim, other.life)
            await trio.sleep(2)
        self._world.say("fate", f"thaws {client.name} after hours")
        self._thaw(client)

    async def _catch_in_flight(self, client: Client) -> None:
        for _ in range(20):
            if client.life is not None and client.life.session.base.expected is not None:
                break
            await trio.sleep(0.05)
        self._world.say("fate", f"freezes {client.name}")
        client.way.freezer.freeze()
        await trio.sleep(self._world.generator.uniform(1, 4))

    async def _others_trim(self, client: Client) -> Client | None:
        for other in self._clients:
            if other is not client and other.life is not None and other.life.nursery is not None:
                if client.life is not None and self._world.generator.random() < 0.5:
                    other.life.nursery.start_soon(self._evict_from, other.life, client.life.session.sid)
                other.life.nursery.start_soon(self._checkpoint_and_trim, other.life)
                await trio.sleep(3)
                return other
        return None

    async def _evict(self, client: Client) -> None:
        victim = self._world.generator.choice(self._clients)
        if client is victim or client.life is None or client.life.nursery is None or victim.life is None:
            return
        client.life.nursery.start_soon(self._evict_from, client.life, victim.life.session.sid)

    async def _evict_from(self, life: Life, sid: int) -> None:
        with self._quietly(life):
            evicted = await life.session.evict(sid, wait_s=2)
            self._world.say(life.name, f"evicts {sid:x}: {evicted}")

    async def _maintain(self, client: Client) -> None:
        if client.life is not None and client.life.nursery is not None:
            client.life.nursery.start_soon(self._checkpoint_and_trim, client.life)
        if self._world.generator.random() < 0.3:
            self._world.clock_jump_ns += int(self._world.generator.uniform(0.1, 1.2) * HOUR_NS)

    async def _checkpoint_and_trim(self, life: Life) -> None:
        session = life.session
        with self._quietly(life):
            checkpoint = await publish_checkpoint(
                session.base.replica, session.journal, session.store, session.environment, INFO
            )
            self._world.say(life.name, f"checkpoint at {checkpoint.seq}")
        for _ in range(3):  # make a step, date it, and delete if an hour has passed
            await self._trim(life)

    async def _trim(self, life: Life) -> None:
        with self._quietly(life):
            report = await life.session.journal.trim(life.session.applied_seq)
            self._world.say(life.name, f"trim: {report}")

    @contextmanager
    def _quietly(self, life: Life) -> Iterator[None]:
        """Maintenance is allowed to fail; it is tried again."""
        try:
            yield
        except (StoreError, SessionError, Trimmed) as error:
            self._world.say(life.name, f"maintenance: {error}")
        except VolumeError as error:
            raise Violation(f"{life.name}, maintenance: {error}") from error


def _first_violation(error: Exception) -> Exception:
    """What happened first in a nursery is what matters; all else followed from it, or from its cancellation."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


def make_deterministic(seed: int) -> None:
    """trio shuffles runnable tasks on purpose; a history needs one order."""
    from trio._core import _run

    _run._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[attr-defined]
    _run._r = random.Random(seed)  # type: ignore[attr-defined]


def run_history(seed: int, *, keep_trace: bool = False, corrupting: bool = False) -> Report:
    """Raises Violation, or whatever escaped from a client, with the trace as `error.trace`.

    `corrupting`: now and then a client is given a record that does not belong where it stands (R4).
    """
    shared_memory = Path("/dev/shm")
    root = Path(tempfile.mkdtemp(prefix="s3vfs-sim-", dir=shared_memory if shared_memory.is_dir() else None))
    world = World(seed, keep_trace)
    make_deterministic(seed)
    try:
        return trio.run(History(world, root, corrupting).run, clock=MockClock(autojump_threshold=0))
    except Exception as error:
        first = _first_violation(error)
        first.trace = world.trace  # type: ignore[attr-defined]
        raise first from None if first is not error else first.__cause__
    finally:
        shutil.rmtree(root)
