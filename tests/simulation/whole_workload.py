"""What programs on whole clients do, and what they must see.

An owner has files that nobody else changes, most in a directory of its own, and knows every state that each of them has
had; an auditor is on another client and reads them; sharers meet under a few names. Works on `Filesystem`, as the FUSE
layer does.
"""

from __future__ import annotations

import errno
import os
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field

import trio

from s3vfs.errors import PosixError, S3vfsError, SessionError, SessionFenced, StoreUnreachable
from s3vfs.filesystem import Filesystem
from s3vfs.filesystem.contracts import Caller, NewAttributes
from s3vfs.namespace.ops import Beat
from s3vfs.namespace.rows import ROOT_INO, Rows
from s3vfs.session.session import Session
from tests.simulation.client import Life
from tests.simulation.losses import Losses, Standing, explained
from tests.simulation.world import Violation, World

PAUSE_S = 0.5
MOST_BYTES = 1 << 20  # of an owner's file: two objects
MOST_FILES = 8  # of an owner
SHARED = (b"a", b"b", b"c", b"d")
LOST = (errno.ENOENT, errno.EEXIST, errno.ESTALE)  # what a call says when another client was faster
ROOT = Caller()


@dataclass
class Figures:
    """How often what happened, for statistics."""

    count: Counter[str] = field(default_factory=Counter)


@dataclass(eq=False)
class OwnFile:
    """`states`: all contents whose change was acknowledged, oldest first; `durable`: the index of the one that the last
    fsync or close has answered for, so that others see it; `fsynced`: of the one that nothing can take away, negative
    while the file itself may go. `maybe`: the outcome of a change whose answer never came. `gone`: being unlinked, or
    given up. `beginnings`: how often its owner has lost something, and has begun anew with what was left.
    """

    name: bytes
    ino: int
    owner: Standing
    states: list[bytes] = field(default_factory=lambda: [b""])
    durable: int = 0
    fsynced: int = -1
    maybe: bytes | None = None
    gone: bool = False
    beginnings: int = 0

    def possible(self, first: int) -> list[bytes]:
        """What others may see who began to look when `first` was the durable one."""
        return self.states[max(0, first) :] + ([] if self.maybe is None else [self.maybe])

    def closed(self) -> None:
        self.durable = len(self.states) - 1

    def synced(self) -> None:
        self.durable = self.fsynced = len(self.states) - 1

    def begin_anew(self, seen: bytes | None) -> None:
        """With what is in the tree."""
        self.beginnings += 1
        self.gone = seen is None
        self.states, self.durable, self.fsynced, self.maybe = [seen or b""], 0, 0, None


@dataclass(frozen=True, slots=True)
class Glance:
    """What others may rely on of a file when they begin to look, through `session`."""

    session: Session
    file: OwnFile
    durable: int
    fsynced: int
    beginnings: int
    shaken: bool

    @classmethod
    def at(cls, session: Session, file: OwnFile) -> Glance:
        return cls(session, file, file.durable, file.fsynced, file.beginnings, file.owner.shaken())

    @property
    def over(self) -> bool:
        """Its owner has removed it, or has begun anew: what is seen now says nothing."""
        return self.file.gone or self.file.beginnings > self.beginnings

    @property
    def weak(self) -> bool:
        """Something was taken from its owner; or the onlooker was ended by others, and can ask for no lease back."""
        return self.shaken or self.file.owner.shaken() or self.session.refusal() is not None

    def may_be_missing(self) -> bool:
        return self.over or (self.weak and self.fsynced < 0)

    def explains(self, seen: bytes) -> bool:
        """All that fsync or close had answered for when this began, or something later; if `weak`, fsync only."""
        first = self.fsynced if self.weak else self.durable
        return self.file.beginnings > self.beginnings or explained(seen, self.file.possible(first))


class Shaken(Exception):
    """Something is not as its owner knows it, and others had taken something from it."""


class Program:
    def __init__(
        self, world: World, life: Life, filesystem: Filesystem, generator: random.Random, figures: Figures
    ) -> None:
        self._world = world
        self._life = life
        self._fs = filesystem
        self._generator = generator
        self._count = figures.count

    def _now_s(self) -> float:
        return trio.current_time()

    def _may_have_lost(self) -> bool:
        """Others have taken something from this session, or have ended the one before it."""
        return bool(self._world.taken[self._life.session.sid]) or not self._life.session.resumed

    def _say(self, what: str) -> None:
        self._world.say(self._life.name, what)

    async def _pause(self, times: int = 1) -> None:
        await trio.sleep(self._generator.uniform(0, 2 * PAUSE_S * times))
        self._life.session.touch()

    async def _patiently(self, call: Callable[[], Awaitable[object]]) -> None:
        """Until the bucket answers."""
        while True:
            try:
                await call()
                return
            except StoreUnreachable:
                self._count["unreachable"] += 1
                await trio.sleep(1)

    async def _whole(self, ino: int) -> bytes:
        handle = await self._fs.open(ino, os.O_RDONLY, ROOT)
        try:
            return bytes(await self._fs.read(handle, 0, 2 * MOST_BYTES))
        finally:
            await self._fs.release(handle)


class Owner(Program):
    def __init__(
        self,
        world: World,
        life: Life,
        filesystem: Filesystem,
        generator: random.Random,
        figures: Figures,
        files: list[OwnFile],
        name: str,
        standing: Standing,
        losses: Losses,
    ) -> None:
        super().__init__(world, life, filesystem, generator, figures)
        self._files = files
        self._name = name
        self._handles: dict[OwnFile, int] = {}
        self._standing = standing
        self._losses = losses
        self._given_up: set[OwnFile] = set()  # fsync goes on reporting what they have lost (R10)

    async def take_up(self) -> None:
        """What was acknowledged is here, whatever happened to the process that had acknowledged it."""
        try:
            await self._steadily(self._settle_all)
        except PosixError as error:
            raise Violation(f"{self._life.name}, taken up: {error!r}") from error

    async def _settle_all(self) -> None:
        for file in self._files:
            if not file.gone:
                await self._patiently(lambda file=file: self._settle(file))

    async def _steadily(self, call: Callable[[], Awaitable[None]]) -> None:
        """Again, once it has been accounted for, where others have taken something meanwhile."""
        while True:
            try:
                if self._standing.shaken():
                    await self.account()
                return await call()
            except (SessionFenced, StoreUnreachable):
                raise
            except (S3vfsError, Shaken) as error:
                self._require_shaken(error)

    def _require_shaken(self, error: Exception) -> None:
        if not self._standing.shaken():
            raise error
        self._say(f"others have taken something: {error!r}")

    def _wrong(self, what: str) -> Exception:
        what = f"{self._life.name}: {what}"
        return Shaken(what) if self._standing.shaken() else Violation(what)

    async def account(self) -> None:
        """Others have taken leases or the office, or the machine was restarted: see what is left (`Losses`)."""
        taken = self._standing.taken()
        session = self._life.session
        await self._patiently(lambda: session.fresh(0))
        await self._patiently(lambda: session.commit([Beat()]))  # the fate of everything before it is known
        unreported: set[int] = set()
        for file in self._files:
            if not file.gone:
                await self._patiently(lambda file=file: self._ask(file, unreported))
        trees = {file.ino: tree for file in self._files if (tree := self._tree(file)) is not None}
        self._count["accounts"] += 1
        spilled = self._losses.account(self._life.name, self._files, trees, unreported)
        for file in self._given_up:
            file.gone = True
        self._count["files spilled"] += spilled
        self._standing.accounted(taken)

    def _tree(self, file: OwnFile) -> bytes | None:
        """None where it is gone; its number may be another's then, who has got a copy of the disk."""
        names = [name for _, name in Rows(self._world.state).links(file.ino)]
        ours = any(name.startswith(f"{self._name}-own-".encode()) for name in names)
        return self._world.contents(file.ino) if ours else None

    async def _ask(self, file: OwnFile, unreported: set[int]) -> None:
        """fsync it; one that has lost something is left alone from then on."""
        handle = self._handles.get(file)
        opened = handle is not None
        try:
            if handle is None:
                handle = await self._fs.open(file.ino, os.O_RDONLY, ROOT)
            await self._fs.fsync(handle)
            if opened:
                unreported.add(file.ino)
        except (SessionFenced, StoreUnreachable):
            opened = True  # it is asked again
            raise
        except S3vfsError as error:
            self._say(f"fsync {file.ino}: {error!r}")
            self._count["losses reported"] += 1
            self._handles.pop(file, None)
            self._given_up.add(file)
            opened = False
        finally:
            if handle is not None and not opened:
                with suppress(S3vfsError):
                    await self._fs.release(handle)

    async def run(self, steps: int) -> None:
        try:
            await self._run(steps)
        except SessionFenced:
            for file, handle in self._handles.items():
                await self._try_refused(file, handle)
            raise

    async def _try_refused(self, file: OwnFile, handle: int) -> None:
        """Handles of a session that was ended give EIO: to what is written, and to fsync unless all of it had been
        published before."""
        try:
            await self._fs.write(handle, 0, b"x")
        except SessionFenced as error:
            self._count["handles refused"] += error.errno == errno.EIO
        else:
            raise Violation(f"{self._life.name}: a handle of file {file.ino} works although the session was ended")
        try:
            await self._fs.fsync(handle)
        except S3vfsError as error:
            if error.errno != errno.EIO:
                raise
            return
        file.synced()

    async def _run(self, steps: int) -> None:
        doubt = False
        for _ in range(steps):
            await self._pause()
            try:
                await self._steadily(self._step)
            except StoreUnreachable as error:
                self._count["unreachable"] += 1
                self._say(f"unreachable: {error}")
                doubt = True
            except PosixError as error:
                if not (doubt and error.errno in LOST):
                    raise Violation(f"{self._life.name}: {error!r}") from error
                self._say(f"a change of name that was not answered came first: {error!r}")
        await self._steadily(self._settle_open)

    async def _settle_open(self) -> None:
        for file in list(self._handles):
            await self._patiently(lambda file=file: self._settle(file))
            await self._patiently(lambda file=file: self._fsync(file))

    async def _go_home(self) -> int:
        """The own directory; another one where it was lost."""
        name = f"{self._name}-home".encode()
        try:
            found = await self._fs.lookup(ROOT_INO, name)
        except PosixError as error:
            if error.errno != errno.ENOENT:
                raise
            found = await self._fs.mkdir(ROOT_INO, name, 0o755, ROOT)
        self._standing.home = found.ino
        return found.ino

    def _new_name(self) -> bytes:
        return f"{self._name}-own-{self._generator.randbytes(4).hex()}".encode()

    async def _some_directory(self) -> int:
        return ROOT_INO if self._generator.random() < 0.2 else await self._go_home()

    def _present(self) -> list[OwnFile]:
        return [file for file in self._files if not file.gone]

    async def _step(self) -> None:
        present = self._present()
        if len(present) < 2 or (len(present) < 4 and self._generator.random() < 0.15):
            await self._create()
            return
        file = self._generator.choice(present)
        if file.maybe is not None:
            await self._settle(file)
        step = self._generator.choice(
            (self._write,) * 5
            + (self._truncate, self._fsync, self._fsync, self._close, self._close, self._settle, self._rename)
            + (self._unlink, self._burst)
        )
        await step(file)
        self._count[step.__name__.strip("_")] += 1

    async def _create(self) -> OwnFile:
        parent, name = await self._some_directory(), self._new_name()
        handle, found = await self._fs.create(parent, name, 0o644, os.O_RDWR, ROOT)
        file = OwnFile(name, found.ino, self._standing)
        self._files.append(file)
        self._handles[file] = handle
        self._say(f"create {name!r} in {parent} = {found.ino}")
        return file

    async def _burst(self, _: OwnFile) -> None:
        """Several small files at once, as an archive is unpacked."""
        for _ in range(self._generator.randrange(2, 6)):
            file = await self._create()
            data = self._generator.randbytes(self._generator.choice((0, 10, 3000)))
            await self._change(file, data, lambda file=file, data=data: self._fs.write(self._handles[file], 0, data))
            await self._close(file)
        while len(present := self._present()) > MOST_FILES:
            await self._unlink(self._generator.choice(present))

    async def _handle(self, file: OwnFile) -> int:
        if file not in self._handles:
            self._handles[file] = await self._fs.open(file.ino, os.O_RDWR, ROOT)
        return self._handles[file]

    async def _settle(self, file: OwnFile) -> None:
        """Read it, and know what it is."""
        seen = await self._whole(file.ino)
        if seen != file.states[-1] and seen != file.maybe:
            raise self._wrong(f"file {file.ino} is not what was last written: {_compare(seen, file)}")
        if file.maybe is not None and seen == file.maybe:
            file.states.append(seen)
        file.maybe = None
        self._count["settled"] += 1

    async def _change(self, file: OwnFile, new: bytes, call: Callable[[], Awaitable[object]]) -> None:
        file.maybe = new
        await call()  # if there is no answer, both is possible until the file is read
        file.states.append(new)
        file.maybe = None

    async def _write(self, file: OwnFile) -> None:
        handle, old = await self._handle(file), file.states[-1]
        length = self._generator.choice((1, 300, 5000, 20_000, 300_000, 600_000))
        limit = min(MOST_BYTES - length, len(old) + 5000)
        offset = self._generator.choice((len(old) if len(old) <= limit else 0, self._generator.randrange(limit + 1)))
        data = self._generator.randbytes(length)
        self._say(f"write {file.ino} at {offset} + {length}")
        new = old[:offset].ljust(offset, b"\0") + data + old[offset + length :]
        await self._change(file, new, lambda: self._fs.write(handle, offset, data))

    async def _truncate(self, file: OwnFile) -> None:
        size = self._generator.randrange(len(file.states[-1]) + 5000)
        by_handle = self._generator.random() < 0.5
        if by_handle:
            await self._handle(file)
        self._say(f"truncate {file.ino} to {size}")
        new = file.states[-1][:size].ljust(size, b"\0")
        await self._change(
            file, new, lambda: self._fs.setattr(file.ino, NewAttributes(size=size), ROOT, by_handle=by_handle)
        )

    async def _fsync(self, file: OwnFile) -> None:
        await self._fs.fsync(await self._handle(file))
        file.synced()
        self._say(f"fsync {file.ino}: {len(file.states[-1])} bytes")

    async def _close(self, file: OwnFile) -> None:
        handle = await self._handle(file)
        await self._fs.flush(handle)
        file.closed()
        del self._handles[file]
        await self._fs.release(handle)

    async def _rename(self, file: OwnFile) -> None:
        parent, new = await self._some_directory(), self._new_name()
        found = self._fs.entry_of(file.ino)
        if found is None:
            raise self._wrong(f"file {file.ino} has lost its name")
        await self._fs.rename(*found, parent, new, 0, ROOT)
        file.name = new

    async def _unlink(self, file: OwnFile) -> None:
        found = self._fs.entry_of(file.ino)
        if found is None:
            raise self._wrong(f"file {file.ino} has lost its name")
        file.gone = True
        handle = self._handles.pop(file, None)
        await self._fs.unlink(*found, ROOT)
        if handle is not None:
            seen = bytes(await self._fs.read(handle, 0, 2 * MOST_BYTES))
            if seen != file.states[-1]:
                raise self._wrong(f"unlinked file {file.ino} is not what it was")
            await self._fs.release(handle)


def _compare(seen: bytes, file: OwnFile) -> str:
    wanted = file.states[-1]
    first = next((at for at, (a, b) in enumerate(zip(seen, wanted, strict=False)) if a != b), None)
    return f"{len(seen)} bytes, not {len(wanted)}, first difference at {first}, maybe={file.maybe is not None}"


class Auditor(Program):
    """Reads what other clients own."""

    async def run(self, steps: int, files: dict[str, list[OwnFile]], name: str) -> None:
        for _ in range(steps // self._world.quiet):
            await self._pause(self._world.quiet)
            others = [file for owner, those in files.items() if owner != name for file in those if not file.gone]
            if others:
                try:
                    await self.audit(self._generator.choice(others))
                except StoreUnreachable:
                    self._count["unreachable"] += 1

    async def audit(self, file: OwnFile) -> None:
        glance = Glance.at(self._life.session, file)
        try:
            await self._life.session.fresh(0)
            await self._life.session.clear(ROOT_INO, file.owner.home)  # as who comes by a name does
            seen = await self._whole(file.ino)
        except PosixError as error:
            if glance.may_be_missing():
                return
            raise Violation(f"{self._life.name}: file {file.ino} of another client: {error!r}") from error
        if not glance.may_be_missing() and not glance.explains(seen):
            states = [len(state) for state in file.possible(glance.durable)]
            raise Violation(f"{self._life.name} reads {len(seen)} wrong bytes of file {file.ino}; states: {states}")
        self._count["audits"] += 1


class Holder(Program):
    """Keeps others' files open: what had been published of one stays readable, also when its owner has removed it."""

    async def run(self, steps: int, files: dict[str, list[OwnFile]], name: str) -> None:
        for _ in range(steps // 3 // self._world.quiet):
            await self._pause(self._world.quiet)
            others = [file for owner, those in files.items() if owner != name for file in those if not file.gone]
            if others:
                try:
                    await self._hold(self._generator.choice(others))
                except StoreUnreachable:
                    self._count["unreachable"] += 1

    async def _hold(self, file: OwnFile) -> None:
        glance = Glance.at(self._life.session, file)
        try:
            await self._life.session.fresh(0)
            await self._life.session.clear(ROOT_INO, file.owner.home)
            handle = await self._fs.open(file.ino, os.O_RDONLY, ROOT)
        except PosixError as error:
            # Its number may have gone to a directory of whoever has got a copy of the disk.
            if error.errno in (errno.ESTALE, errno.EISDIR) and glance.may_be_missing():
                return
            raise Violation(f"{self._life.name}: file {file.ino} of another client: {error!r}") from error
        try:
            for _ in range(self._generator.randrange(1, 6)):
                await self._pause()
                seen = bytes(await self._fs.read(handle, 0, 2 * MOST_BYTES))
                if not glance.explains(seen) and not (glance.weak and glance.fsynced < 0):
                    raise Violation(f"{self._life.name}: file {file.ino}, held open, has wrong bytes")
                self._count["held, removed" if file.gone else "held"] += 1
        finally:
            await self._fs.release(handle)


class Sharer(Program):
    """Races under shared names. Its bytes are of one value for each client, so what is read can only be of those."""

    def __init__(
        self,
        world: World,
        life: Life,
        filesystem: Filesystem,
        generator: random.Random,
        figures: Figures,
        name: str,
    ) -> None:
        super().__init__(world, life, filesystem, generator, figures)
        self._value = bytes([1 + int(name[1:])])

    async def run(self, steps: int) -> None:
        for _ in range(steps):
            await self._pause()
            step = self._generator.choice((self._create, self._write, self._write, self._unlink, self._rename))
            try:
                await step(self._generator.choice(SHARED))
                self._count["races won"] += 1
            except StoreUnreachable:
                self._count["unreachable"] += 1
            except PosixError as error:
                if error.errno not in LOST:
                    raise Violation(f"{self._life.name}: {step.__name__} of a shared name: {error!r}") from error
                self._say(f"{step.__name__}: {error!r}")
                self._count["races lost"] += 1
            except SessionError:
                raise
            except S3vfsError as error:  # what it had acknowledged was taken, and it hears of that (R10)
                if not self._may_have_lost():
                    raise Violation(f"{self._life.name}: {step.__name__} of a shared name: {error!r}") from error
                self._count["losses reported"] += 1

    async def _fill(self, ino: int, handle: int) -> None:
        try:
            offset, length = self._generator.randrange(3000), self._generator.choice((1, 4000, 40_000))
            await self._fs.write(handle, offset, self._value * length)
            if set(bytes(await self._fs.read(handle, 0, MOST_BYTES))) - {0, 1, 2, 3}:
                raise Violation(f"{self._life.name}: file {ino} has bytes that nobody wrote there")
            await self._pause()
            await self._fs.flush(handle)
        finally:
            await self._fs.release(handle)

    async def _create(self, name: bytes) -> None:
        handle, found = await self._fs.create(ROOT_INO, name, 0o644, os.O_RDWR, ROOT)
        await self._fill(found.ino, handle)

    async def _write(self, name: bytes) -> None:
        found = await self._fs.lookup(ROOT_INO, name)
        flags = os.O_RDWR | self._generator.choice((0, 0, os.O_TRUNC, os.O_APPEND))
        await self._fill(found.ino, await self._fs.open(found.ino, flags, ROOT))

    async def _unlink(self, name: bytes) -> None:
        await self._fs.unlink(ROOT_INO, name, ROOT)

    async def _rename(self, name: bytes) -> None:
        await self._fs.rename(ROOT_INO, name, ROOT_INO, self._generator.choice(SHARED), 0, ROOT)
