"""Whole clients under the simulator: Filesystem and Contents on a session, with working files and caches on disk.

python -m tests.simulation.whole --seeds 0-29 [--mutant r9-commit-before-put] [--trace]

Weather, kills, freezes, reboots, checkpoints and trims are those of `history`, and so are disks that are rolled back or
cloned and clients that are evicted while they are frozen; on top of them, PUTs of data may arrive long after their
sender has given up. `losses` says what may then leave the tree.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio
from trio.testing import MockClock

from s3vfs.data.cache import Cache
from s3vfs.data.contents import Contents
from s3vfs.data.protocol import Limits, Sizes, data_key
from s3vfs.data.upload import sector_checksums
from s3vfs.errors import ReadOnly, S3vfsError, SessionError, SessionFenced, StoreUnreachable
from s3vfs.filesystem import Filesystem
from s3vfs.journal.record import Record
from s3vfs.namespace.ops import AnyOp, DeclareObject, Write, decode_op
from s3vfs.namespace.rows import SECTOR_BYTES, Rows
from s3vfs.namespace.verdict import Verdict
from s3vfs.session.spill import Spill
from s3vfs.session.unwrapping import single_error
from tests.acceptance.fsck import check_object, check_rows
from tests.simulation.client import Client, Life
from tests.simulation.command import run_command
from tests.simulation.history import History, _first_violation, make_deterministic
from tests.simulation.logs import LineLedger, Logger
from tests.simulation.losses import Losses, Promise, Standing, check_promises
from tests.simulation.oracle import Witness, replay
from tests.simulation.weather import CALM, OUTAGE
from tests.simulation.whole_mutants import WHOLE_MUTANTS
from tests.simulation.whole_workload import Auditor, Figures, Holder, Owner, OwnFile, Sharer
from tests.simulation.world import PREFIX, Violation, World

if TYPE_CHECKING:
    from typing_extensions import Buffer

STEPS = 14  # of each task of a first life
# The namespace counts in sectors of 256 KiB, so an object has two: small enough to write several, and parts of one.
SIZES = Sizes(object_bytes=2 * SECTOR_BYTES, sector_bytes=SECTOR_BYTES)
LIMITS = Limits(
    uploads=3,
    unpublished_bytes=2 << 20,
    reserve_bytes=0,
    kept_bytes=1 << 20,
    dirty_age_s=3,
    io_timeout_s=3,  # shorter than an outage: fsync fails now and then (R10)
    fetch_bytes=SECTOR_BYTES,
    inline_bytes=16 << 10,
)
CACHE_BYTES = 4 << 20


class WholeWorld(World):
    """Looks into the objects, too."""

    def _check_objects_are_there(self, record: Record) -> None:
        """R9: when a record begins to refer to an object, the bucket has it, with the bytes that it declares."""
        super()._check_objects_are_there(record)
        for raw in record.ops:
            numbered = decode_op(raw)
            if numbered is not None and isinstance(numbered.op, DeclareObject):
                self.check_object(numbered.op.object, numbered.op.size, numbered.op.checksums)

    def check_object(self, object_id: bytes, size_bytes: int, checksums: bytes) -> None:
        body = self.bucket.peek(f"{PREFIX}/{data_key(object_id)}")
        if body is None:
            raise Violation(f"R9: object {object_id.hex()} is not in the bucket")
        if len(body) != size_bytes or sector_checksums(memoryview(body), SECTOR_BYTES) != checksums:
            raise Violation(f"R9: object {object_id.hex()} has other bytes than were declared")


class _LateBulk:
    """A client's bulk side on which a PUT without an answer may still arrive, up to a minute later."""

    def __init__(self, client: Client, inner: Any) -> None:
        self._way = client.way
        self._inner = inner

    def put_new(self, key: str, body: Sequence[Buffer]) -> None:
        if self._way.generator.random() < self._way.climate.late:
            self._way.world.nursery.start_soon(self._arrive, key, b"".join(body))
            raise StoreUnreachable(f"PUT {key}: no answer")
        self._inner.put_new(key, body)

    async def _arrive(self, key: str, body: bytes) -> None:
        await trio.sleep(self._way.generator.uniform(0, 60))
        self._way.world.bucket.put(f"{PREFIX}/{key}", body, if_absent=True, if_match="")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class WholeHistory(History):
    """As `History`, with calls of a file system for ops, and no disk but each client's own."""

    def __init__(self, world: World, root: Path, *, leases: bool) -> None:
        super().__init__(world, root, corrupting=False)
        self.figures = Figures()
        self._root = root
        self._files: dict[str, list[OwnFile]] = {client.name: [] for client in self._clients}
        self._losses = {client.name: Losses(client.folder / "spill") for client in self._clients}
        self._standing = {client.name: Standing(world, client) for client in self._clients}
        self._promises: list[Promise] = []
        self._lines = LineLedger()
        for client in self._clients:
            self._with_late_puts(client)
            # Commits are in doubt now and then.
            client.options = replace(client.options, io_timeout_s=8, leases=leases)

    @staticmethod
    def _with_late_puts(client: Client) -> None:
        plain = client.way.store

        def store(life: str) -> Any:
            opened = plain(life)
            return type(opened)(opened.url, opened.control, _LateBulk(client, opened.bulk))

        client.way.store = store

    async def _work(self, client: Client, steps: int, life: Life) -> None:
        """Assembled as fuse.service does it."""
        session = life.session
        self._note_promises(client, life)
        folder = client.folder
        cache = Cache(
            self._root / client.name / "blocks", SECTOR_BYTES, CACHE_BYTES, 0, session.environment.boottime_ns
        )
        contents = Contents(
            session, folder / "working", cache, sizes=SIZES, limits=LIMITS, spill=Spill(folder / "spill")
        )
        filesystem = Filesystem(session, contents)
        with single_error():
            async with trio.open_nursery() as nursery:
                await nursery.start(contents.run)
                nursery.start_soon(filesystem.keep_orphans)
                life.nursery = nursery
                await self._day(client, steps, life, filesystem)
                filesystem.forget_handles()
                await self._publish_rest(life, contents)
                life.nursery = None
                nursery.cancel_scope.cancel()

    def _note_promises(self, client: Client, life: Life) -> None:
        """What is acknowledged ahead of its record from now on; only under leases that are live (R7, R8)."""
        session = life.session
        genuine = session.acknowledge

        def acknowledge(op: AnyOp, *, ctime_follows: bool = False) -> Verdict | None:
            verdict = genuine(op, ctime_follows=ctime_follows)
            if verdict is not None and not verdict.errno:
                lease = session._acknowledged._overlay.pending[-1].numbered.lease
                if Rows(self._world.state).grant(lease) is None:
                    raise Violation(f"R8: {life.name} acknowledges {op} under lease {lease}, which is gone")
                self._promises.append(Promise(client.name, session.sid, trio.current_time(), op))
                self.figures.count["acknowledged"] += 1
            return verdict

        session.acknowledge = acknowledge

    def check_promises(self) -> None:
        check_promises(self._world, replay(self._world), self._clients, self._promises, self._losses)
        self._lines.check(self._world, self._clients, self._losses)

    async def _day(self, client: Client, steps: int, life: Life, filesystem: Filesystem) -> None:
        def part(name: str) -> tuple[World, Life, Filesystem, random.Random, Figures]:
            return self._world, life, filesystem, random.Random(f"{self._world.seed}/{life.name}/{name}"), self.figures

        losses = self._losses[client.name]
        owner = Owner(*part("owner"), self._files[client.name], client.name, self._standing[client.name], losses)
        client.lost |= not life.session.resumed  # until it has been accounted for, by a later life if need be
        if client.lost:
            losses.disk_replaced |= client.disk_replaced
            await owner.account()
            client.lost = client.disk_replaced = False
        else:
            await owner.take_up()
        others = [file for name, files in self._files.items() if name != client.name for file in files]
        auditor = Auditor(*part("auditor"))
        if client.way.climate is CALM and not self._running:  # the last meeting
            for file in others:
                await auditor.audit(file)
            return
        names = [other.name for other in self._clients]
        logger = Logger(*part("logger"), ledger=self._lines, name=client.name, names=names)
        programs = (
            partial(owner.run, steps * STEPS // 12),
            partial(Sharer(*part("sharer"), client.name).run, steps),
            partial(logger.run, steps),
            partial(auditor.run, steps, self._files, client.name),
            partial(Holder(*part("holder")).run, steps, self._files, client.name),
        )
        async with trio.open_nursery() as workers:
            for program in programs:
                workers.start_soon(self._until_refused, life, program)

    async def _until_refused(self, life: Life, program: Callable[[], Awaitable[None]]) -> None:
        """A program that can change nothing any more ends; reading goes on."""
        try:
            await program()
        except SessionFenced as error:
            self._world.say(life.name, f"a program ends: {error}")
        except ReadOnly as error:
            raise Violation(f"{life.name} has stopped itself: {error}") from error

    async def _publish_rest(self, life: Life, contents: Contents) -> None:
        while True:
            try:
                return await contents.publish_all()
            except StoreUnreachable:
                await trio.sleep(1)
            except SessionError:
                raise
            except S3vfsError:  # once more (R10)
                if life.session.resumed and not self._world.taken[life.session.sid]:
                    raise
                return

    async def _meet(self) -> None:
        await super()._meet()
        for client in self._clients:  # everything is in the bucket: again, with nothing left to publish
            while not await client.live(lambda life, client=client: self._work(client, 0, life)):
                pass

    async def _fate(self) -> None:
        generator = self._world.generator
        events = (
            self._change_weather,
            self._kill,
            self._freeze,
            self._maintain,
            self._evict_frozen,
            self._lose,
        )
        while self._running:
            await trio.sleep(generator.uniform(0.1, 2.0))
            (event,) = generator.choices(events, (6, 4, 2, 2, 2, 2))
            await event(generator.choice(self._clients))
        for client in self._clients:
            client.way.freezer.thaw()

    async def _change_weather(self, client: Client) -> None:
        """Outages are frequent, and some outlast the patience of fsync."""
        if self._world.generator.random() < 0.2:
            client.way.climate = OUTAGE
            self._world.nursery.start_soon(self._later, self._world.generator.uniform(2, 20), self._clear, client)
        else:
            await super()._change_weather(client)

    async def _kill(self, client: Client) -> None:
        if self._world.generator.random() < 0.5:
            await self._record_in_flight(client)
        if client.life is not None:
            self.figures.count["kills"] += 1
            client.kill()

    async def _record_in_flight(self, client: Client) -> None:
        """Wait for a record of which nobody will hear what became of it, if the client dies now."""
        for _ in range(40):
            if client.life is None or client.life.session.base.expected is not None:
                return
            await trio.sleep(0.05)

    async def _lose(self, client: Client) -> None:
        """A kill after which the machine is restarted, or has an older disk, or a copy of another's."""
        if client.life is None:
            return
        generator = self._world.generator
        kind = generator.choice(("reboot", "roll back", "roll back", "clone"))
        if kind == "reboot":
            self._after_death[client.name] = Client.reboot
        elif kind == "roll back":
            copy, life = client.look_at_disk(), client.life
            await trio.sleep(generator.uniform(0.5, 6))
            if client.life is not life:
                return
            self._after_death[client.name] = lambda dead: dead.put_disk(copy)
        elif kind == "clone":
            copy = generator.choice(self._clients).look_at_disk()
            self._after_death[client.name] = lambda dead: dead.put_disk(copy)
        self.figures.count[kind] += 1
        self._world.say("fate", f"kills {client.name}, then: {kind}")
        client.kill()

    async def _evict_frozen(self, client: Client) -> None:
        """Frozen for longer than most challenges are given, evicted meanwhile, thawed."""
        others = [other for other in self._clients if other is not client]
        judge = self._world.generator.choice(others)
        if client.life is None or judge.life is None or judge.life.nursery is None:
            return
        self._world.say("fate", f"freezes {client.name}, for {judge.name} to evict it")
        client.way.freezer.freeze()
        judge.life.nursery.start_soon(self._evict_from, judge.life, client.life.session.sid)
        # A holder of leases is given ten seconds.
        await trio.sleep(self._world.generator.uniform(*self._world.generator.choice(((3, 8), (12, 17)))))
        self._thaw(client)


def check_bucket(world: WholeWorld) -> None:
    """What fsck would say of the end."""
    witness = replay(world)
    with witness.replica.read() as txn:
        found, referred = check_rows(txn, witness.replica.position.digest)
    store = world.bucket.open(PREFIX)
    for object_id, row in referred.items():
        found += check_object(store, object_id, row.size, row.checksums)
    for problem in found:
        raise Violation(f"fsck: {problem}")
    check_nothing_published_twice(witness)


def check_nothing_published_twice(witness: Witness) -> None:
    """A change is in the journal once, whatever was killed and whichever answer was lost: what others write in between
    is never overwritten by it. The author's times tell one change from another."""
    seen: dict[tuple[int, int, int, int], int] = {}
    for done in witness.done():
        if isinstance(done.op, Write) and not done.verdict.errno:
            for extent in done.op.extents:
                change = (done.op.ino, extent.offset, extent.length, done.op.time_ns)
                first = seen.setdefault(change, done.seq)
                if first != done.seq:
                    raise Violation(f"records {first} and {done.seq} publish the same bytes of file {done.op.ino}")


def run_whole(
    seed: int, *, leases: bool = True, keep_trace: bool = False, kind: type[WholeHistory] = WholeHistory
) -> tuple[Figures, list[str]]:
    """One history: its figures and its trace. Raises Violation, with the trace as `error.trace`."""
    shared_memory = Path("/dev/shm")
    root = Path(tempfile.mkdtemp(prefix="s3vfs-whole-", dir=shared_memory if shared_memory.is_dir() else None))
    world = WholeWorld(seed, keep_trace)
    make_deterministic(seed)
    try:
        history: list[WholeHistory] = []

        async def main() -> None:
            history.append(kind(world, root, leases=leases))
            report = await history[0].run()
            history[0].figures.count.update(lives=report.lives, resumed=report.resumed, records=report.records)
            history[0].figures.count.update(reloads=report.reloads, fenced=report.evicted)
            check_bucket(world)
            history[0].check_promises()

        trio.run(main, clock=MockClock(autojump_threshold=0))
        return history[0].figures, world.trace
    except Exception as error:
        first = _first_violation(error)
        first.trace = world.trace  # type: ignore[attr-defined]
        raise first from None if first is not error else first.__cause__
    finally:
        shutil.rmtree(root)


def _history(seed: int, arguments: argparse.Namespace) -> tuple[Counter[str], list[str]]:
    figures, trace = run_whole(seed, leases=not arguments.no_leases, keep_trace=arguments.trace)
    return figures.count, trace


if __name__ == "__main__":
    flags = {"--no-leases": "clients that ask for no lease"}
    sys.exit(run_command("tests.simulation.whole", __doc__, WHOLE_MUTANTS, _history, flags))
