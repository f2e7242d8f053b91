"""What the kernel must be told, and when an open is sent back to look again. No kernel here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field

import msgspec
import pytest
import trio
import trio.testing
from trio.testing import MockClock

from s3vfs.filesystem import Found
from s3vfs.fuse.kernel import IN_FLIGHT_S, LINGER_S, UNLEARN_S, KernelCache, Name
from s3vfs.fuse.marks import InodeSet, RecentInodes
from s3vfs.namespace.changes import Changes
from s3vfs.namespace.rows import Inode

LIFETIME_S = 30.0
INODE = Inode(0o100644, 0, 0, 1, 5, 5, 1, 2, 3, 4, 0, 1, 0, b"")
DIRECTORY, FILE, OTHER = 20, 30, 31


@dataclass
class World:
    """The namespace and the clock as a test wants them; what was handed to the Invalidator."""

    names: dict[Name, int] = field(default_factory=dict)
    above: dict[int, list[int]] = field(default_factory=dict)
    inodes: dict[int, Inode] = field(default_factory=dict)
    open_inos: set[int] = field(default_factory=set)
    now_s: float = 1000.0
    told: list[int | Name] = field(default_factory=list)
    dropped: list[Name] = field(default_factory=list)
    dropping: set[Name] = field(default_factory=set)
    waiting: list[Callable[[], None]] = field(default_factory=list)
    telling: set[int] = field(default_factory=set)
    repeated: list[int] = field(default_factory=list)

    def holds(self, parent: int, name: bytes, ino: int) -> bool:
        return self.names.get((parent, name)) == ino

    def lineage(self, ino: int) -> Iterable[int]:
        return [ino, *self.above.get(ino, [])]

    def peek(self, ino: int) -> Found | None:
        return Found(ino, self.inodes[ino]) if ino in self.inodes else None

    def is_open(self, ino: int) -> bool:
        return ino in self.open_inos

    def entry(self, parent: int, name: bytes) -> None:
        self.told.append((parent, name))

    def attributes(self, ino: int) -> None:
        self.told.append(ino)

    def pages(self, ino: int, dropped: Callable[[], None]) -> None:
        self.told.append(-ino)
        self.waiting.append(dropped)

    def delivered(self) -> list[Name]:
        dropped, self.dropped = self.dropped, []
        return dropped

    def name_waiting(self, parent: int, name: bytes) -> bool:
        return (parent, name) in self.dropping

    def repeat_attributes(self, ino: int) -> None:
        self.repeated.append(ino)

    def attributes_waiting(self, ino: int) -> bool:
        return ino in self.telling

    def kernel(self) -> KernelCache:
        return KernelCache(self, self, lambda: self.now_s, LIFETIME_S)

    def may_be_outdated(self, kernel: KernelCache, ino: int) -> bool:
        """For an open that arrives now."""
        return kernel.may_be_outdated(ino, self.now_s)

    def gave(self, kernel: KernelCache, ino: int, name: Name | None = None) -> None:
        self.inodes.setdefault(ino, INODE)
        if name is not None:
            self.names[name] = ino
        kernel.gave(Found(ino, self.inodes[ino]))


def replaced(ino: int, name: Name) -> Changes:
    """A record has given `name`, which was `ino`'s, to another one."""
    return Changes(dentries={name}, links={(ino, *name), (OTHER, *name)}, inodes={ino, OTHER, name[0]})


def test_only_what_was_given_is_invalidated() -> None:
    world = World()
    kernel = world.kernel()
    world.gave(kernel, FILE)
    kernel.hear(Changes(inodes={FILE, OTHER}), own=False)
    assert world.told == [FILE]
    world.now_s += 3 * LIFETIME_S
    kernel.hear(Changes(inodes={FILE, OTHER}), own=False)
    assert world.told == [FILE]


def test_acls_are_invalidated_however_long_ago_the_kernel_was_given_them() -> None:
    """They hold there for as long as the inode."""
    world = World()
    kernel = world.kernel()
    kernel.hear(Changes(inodes={FILE, OTHER}, acls={FILE}), own=False)
    assert world.told == [FILE]


def test_new_names_need_no_invalidation() -> None:
    world = World()
    kernel = world.kernel()
    world.gave(kernel, FILE)
    world.names[DIRECTORY, b"link"] = FILE
    kernel.hear(Changes(links={(FILE, DIRECTORY, b"link")}), own=False)
    assert world.told == []


def test_a_name_is_outdated_until_the_kernel_has_dropped_it() -> None:
    world = World()
    kernel = world.kernel()
    name = (DIRECTORY, b"f")
    world.gave(kernel, FILE, name)
    assert not world.may_be_outdated(kernel, FILE)
    world.names[name] = OTHER
    kernel.hear(replaced(FILE, name), own=False)
    assert set(world.told) == {FILE, name}
    assert world.may_be_outdated(kernel, FILE)
    assert not world.may_be_outdated(kernel, OTHER)
    world.now_s += 1
    assert world.may_be_outdated(kernel, FILE)
    world.dropped = [name, (DIRECTORY, b"never withdrawn")]
    assert world.may_be_outdated(kernel, FILE)  # an open may be on its way from before
    world.now_s += LINGER_S
    assert not world.may_be_outdated(kernel, FILE)


def test_an_open_that_came_in_time_is_sent_back_however_long_it_waits_for_its_look() -> None:
    """It has passed the name before the kernel dropped it; the record may arrive with the very look that it waits
    for."""
    world = World()
    kernel = world.kernel()
    name = (DIRECTORY, b"f")
    world.gave(kernel, FILE, name)
    with kernel.arriving() as arrived_s:
        del world.names[name]
        kernel.hear(replaced(FILE, name), own=False)
        world.dropped = [name]
        assert kernel.may_be_outdated(FILE, arrived_s)
        for _ in range(3):
            world.now_s += LINGER_S
            with kernel.arriving() as later_s:
                assert kernel.may_be_outdated(FILE, arrived_s)
                assert not kernel.may_be_outdated(FILE, later_s)
    assert not world.may_be_outdated(kernel, FILE)


def test_a_name_that_is_taken_away_again_is_outdated_until_it_is_dropped_again() -> None:
    """The drop that has just been delivered was of what the kernel had before it was given the name anew."""
    world = World()
    kernel = world.kernel()
    name = (DIRECTORY, b"f")
    world.gave(kernel, FILE, name)
    del world.names[name]
    kernel.hear(replaced(FILE, name), own=False)
    world.gave(kernel, FILE, name)
    del world.names[name]
    kernel.hear(replaced(FILE, name), own=False)
    world.dropped, world.dropping = [name], {name}
    assert world.may_be_outdated(kernel, FILE)
    world.now_s += LINGER_S
    assert world.may_be_outdated(kernel, FILE)
    world.dropped, world.dropping = [name], set()
    assert world.may_be_outdated(kernel, FILE)
    world.now_s += LINGER_S
    assert not world.may_be_outdated(kernel, FILE)


def test_the_kernel_forgets_by_itself() -> None:
    world = World()
    kernel = world.kernel()
    name = (DIRECTORY, b"f")
    world.gave(kernel, FILE, name)
    del world.names[name]
    kernel.hear(replaced(FILE, name), own=False)
    world.now_s += LIFETIME_S
    assert not world.may_be_outdated(kernel, FILE)


def test_an_open_waits_until_the_name_is_unlearned_but_not_for_ever() -> None:
    async def main() -> None:
        world = World()
        kernel = KernelCache(world, world, trio.current_time, LIFETIME_S)
        name = (DIRECTORY, b"f")
        world.gave(kernel, FILE, name)
        del world.names[name]
        kernel.hear(replaced(FILE, name), own=False)
        before_s = trio.current_time()
        await kernel.unlearned(FILE)
        assert trio.current_time() - before_s == pytest.approx(UNLEARN_S)
        assert kernel.may_be_outdated(FILE, trio.current_time())
        world.dropped = [name]
        await kernel.unlearned(FILE)
        assert trio.current_time() - before_s == pytest.approx(UNLEARN_S + IN_FLIGHT_S, abs=0.01)
        assert not kernel.may_be_outdated(FILE, trio.current_time(), linger_s=IN_FLIGHT_S)

    trio.run(main, clock=MockClock(autojump_threshold=0))


def test_an_open_waits_until_changed_attributes_are_withdrawn_but_not_for_ever() -> None:
    async def main() -> None:
        world = World(telling={FILE})
        kernel = world.kernel()
        with trio.fail_after(0):
            await kernel.attributes_withdrawn(OTHER)
        began_s = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(kernel.attributes_withdrawn, FILE)
            await trio.sleep(0.5)
            world.telling.clear()
        assert 0.5 <= trio.current_time() - began_s < UNLEARN_S
        world.telling.add(FILE)
        await kernel.attributes_withdrawn(FILE)
        assert trio.current_time() - began_s >= UNLEARN_S
        assert world.repeated == [OTHER, FILE, FILE]

    trio.run(main, clock=MockClock(autojump_threshold=0))


def in_no_time(kernel: KernelCache, ino: int) -> bool:
    async def ask() -> bool:
        with trio.fail_after(0):
            return await kernel.size_outdated(ino)

    return trio.run(ask)


def test_a_size_is_outdated_from_a_foreign_change_until_the_kernel_has_asked_again() -> None:
    world = World()
    kernel = world.kernel()
    world.gave(kernel, FILE)
    kernel.hear(Changes(inodes={FILE, OTHER}, contents={FILE, OTHER}), own=True)
    assert not in_no_time(kernel, FILE)
    kernel.hear(Changes(inodes={FILE, OTHER}, contents={FILE, OTHER}), own=False)
    assert not in_no_time(kernel, OTHER)  # the kernel has never heard of it
    assert in_no_time(kernel, FILE)
    told_s = world.now_s
    world.now_s += 1
    kernel.gave(Found(FILE, INODE))  # in a reply that the kernel need not take
    kernel.gave(Found(FILE, INODE), told_s)
    assert in_no_time(kernel, FILE)
    kernel.gave(Found(FILE, INODE), world.now_s)
    assert not in_no_time(kernel, FILE)
    kernel.hear(Changes(inodes={FILE}, contents={FILE}), own=False)
    kernel.gave(Found(FILE, INODE), world.now_s)  # asked before it was told, perhaps
    assert in_no_time(kernel, FILE)
    world.now_s += 1
    kernel.gave(Found(FILE, INODE), world.now_s)
    assert not in_no_time(kernel, FILE)
    kernel.hear_reload()
    assert in_no_time(kernel, FILE)


def test_attributes_given_while_the_kernel_is_still_to_drop_them_make_no_size_current() -> None:
    world = World(telling={FILE})
    kernel = world.kernel()
    world.gave(kernel, FILE)
    kernel.hear(Changes(inodes={FILE}, contents={FILE}), own=False)
    world.now_s += 1
    kernel.gave(Found(FILE, INODE), world.now_s)
    world.telling.clear()
    assert in_no_time(kernel, FILE)


def test_an_open_for_a_size_waits_until_the_old_one_is_withdrawn() -> None:
    async def main() -> None:
        world = World(telling={FILE})
        kernel = world.kernel()
        world.gave(kernel, FILE)
        kernel.hear(Changes(inodes={FILE}, contents={FILE}), own=False)
        began_s = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(kernel.size_outdated, FILE)
            await trio.sleep(0.5)
            world.telling.clear()
        assert 0.5 <= trio.current_time() - began_s < UNLEARN_S

    trio.run(main, clock=MockClock(autojump_threshold=0))


def test_an_outdated_name_that_holds_again_sends_nobody_back() -> None:
    world = World()
    kernel = world.kernel()
    name = (DIRECTORY, b"f")
    world.gave(kernel, FILE, name)
    del world.names[name]
    kernel.hear(replaced(FILE, name), own=False)
    world.names[name] = FILE
    assert not world.may_be_outdated(kernel, FILE)


def test_an_outdated_directory_sends_opens_below_it_back() -> None:
    world = World()
    kernel = world.kernel()
    name = (1, b"directory")
    world.gave(kernel, DIRECTORY, name)
    world.gave(kernel, FILE, (DIRECTORY, b"f"))
    world.above[FILE] = [DIRECTORY, 1]
    world.names[name] = OTHER
    kernel.hear(replaced(DIRECTORY, name), own=False)
    assert world.may_be_outdated(kernel, FILE)


@pytest.mark.parametrize("exchanged", [False, True])
def test_a_local_rename_takes_outdated_entries_along(exchanged: bool) -> None:
    world = World()
    kernel = world.kernel()
    old, new = (DIRECTORY, b"old"), (DIRECTORY, b"new")
    world.gave(kernel, FILE, old)
    world.gave(kernel, OTHER, new)
    world.names = {}
    kernel.hear(Changes(links={(FILE, *old), (OTHER, *new)}), own=False)
    world.told.clear()
    kernel.renamed(old, new, exchanged=exchanged)
    assert set(world.told) == ({old, new} if exchanged else {new})
    assert world.may_be_outdated(kernel, FILE)
    world.told.clear()
    kernel.renamed((1, b"x"), (1, b"y"), exchanged=True)
    assert world.told == []


def test_own_changes_invalidate_only_attributes_that_were_given_and_differ() -> None:
    world = World(open_inos={FILE})
    kernel = world.kernel()
    world.gave(kernel, FILE)
    kernel.hear(Changes(inodes={FILE, OTHER, DIRECTORY}, contents={FILE}), own=True)
    assert world.told == []
    world.inodes[FILE] = msgspec.structs.replace(INODE, version=2)  # not shown to anybody
    kernel.hear(Changes(inodes={FILE}), own=True)
    assert world.told == []
    world.inodes[FILE] = msgspec.structs.replace(INODE, allocated=4096)
    kernel.wrote(FILE)
    kernel.hear(Changes(inodes={FILE}), own=True)
    assert world.told == []
    kernel.gave(Found(FILE, INODE))
    kernel.hear(Changes(inodes={FILE}), own=True)
    assert world.told == [FILE]


def test_a_close_returns_when_the_kernel_has_dropped_what_publishing_has_settled_otherwise() -> None:
    async def main() -> None:
        world = World(open_inos={FILE, OTHER})
        kernel = world.kernel()
        for ino in (FILE, OTHER):
            world.gave(kernel, ino)
        with trio.fail_after(0):
            await kernel.published(FILE)
        assert world.told == []
        # Blocks, say, which are final only once the working file has let go of what was published.
        world.inodes[FILE] = msgspec.structs.replace(INODE, allocated=4096)
        world.telling.add(FILE)
        began_s = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(kernel.published, FILE)
            await trio.testing.wait_all_tasks_blocked()
            assert world.told == [FILE]
            with trio.fail_after(0):
                await kernel.published(OTHER)
            await trio.sleep(0.5)
            world.telling.clear()
        assert 0.5 <= trio.current_time() - began_s < UNLEARN_S
        await kernel.published(FILE)
        assert world.told == [FILE]

    trio.run(main, clock=MockClock(autojump_threshold=0))


def test_what_is_published_after_the_last_close_is_told_with_the_release() -> None:
    world = World(open_inos={FILE, OTHER})
    kernel = world.kernel()
    for ino in (FILE, OTHER):
        world.gave(kernel, ino)
    world.inodes[FILE] = msgspec.structs.replace(INODE, ctime_ns=5)
    kernel.released(FILE)
    assert world.told == []  # another handle is open: its close comes yet
    world.open_inos.clear()
    del world.inodes[OTHER]
    kernel.released(FILE)
    kernel.released(OTHER)
    assert world.told == [FILE]


def test_who_has_changed_the_size_has_told_the_kernel() -> None:
    """A file that was written without the daemon, and one with stores to a mapping, which tell nobody."""
    world = World(open_inos={FILE, OTHER})
    kernel = world.kernel()
    for ino in (FILE, OTHER):
        world.gave(kernel, ino)
    world.inodes[FILE] = msgspec.structs.replace(INODE, size=4096, mtime_ns=5, ctime_ns=5)
    world.inodes[OTHER] = msgspec.structs.replace(INODE, mtime_ns=5, ctime_ns=5)
    assert kernel.published_at_once(FILE)
    kernel.published_at_once(OTHER)
    assert world.told == [OTHER]


def test_pages_are_kept_until_somebody_else_changes_the_contents() -> None:
    world = World()
    kernel = world.kernel()
    assert not kernel.keep_pages(FILE)
    assert kernel.keep_pages(FILE)
    kernel.hear(Changes(inodes={FILE}, contents={FILE}), own=True)
    assert kernel.keep_pages(FILE)
    kernel.hear(Changes(inodes={FILE}), own=False)
    assert kernel.keep_pages(FILE)
    kernel.hear(Changes(inodes={FILE}, contents={FILE}), own=False)
    assert not kernel.keep_pages(FILE)
    assert kernel.keep_pages(FILE)
    kernel.hear_reload()
    assert not kernel.keep_pages(FILE)


def settling(test: Callable[[World, KernelCache], Awaitable[None]]) -> None:
    """Run a test of `settle`; what is in `world.waiting` the notifying thread would call."""
    world = World()
    trio.run(test, world, world.kernel(), clock=MockClock(autojump_threshold=0.2))


def test_a_foreign_change_is_settled_by_a_drop_that_all_wait_for() -> None:
    async def test(world: World, kernel: KernelCache) -> None:
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(kernel.settle, FILE)
                await trio.testing.wait_all_tasks_blocked()
                assert world.told == [-FILE]
                assert len(nursery.child_tasks) == 3
                world.waiting.pop()()
            await kernel.settle(FILE)  # at once, with nobody to drop anything
            kernel.hear(Changes(inodes={FILE}), own=True)
            await kernel.settle(FILE)
            assert world.told == [-FILE]

    settling(test)


@pytest.mark.parametrize(
    "outdate", [lambda kernel: kernel.hear(Changes(inodes={FILE}), own=False), KernelCache.hear_reload]
)
def test_a_change_during_the_drop_needs_another_one(outdate: Callable[[KernelCache], None]) -> None:
    async def test(world: World, kernel: KernelCache) -> None:
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(kernel.settle, FILE)
                await trio.testing.wait_all_tasks_blocked()
                outdate(kernel)
                world.waiting.pop()()
                await trio.testing.wait_all_tasks_blocked()
                assert world.told.count(-FILE) == 2
                world.waiting.pop()()

    settling(test)


def test_a_settling_that_is_given_up_has_settled_nothing() -> None:
    async def test(world: World, kernel: KernelCache) -> None:
        with trio.move_on_after(1):
            await kernel.settle(FILE)
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(kernel.settle, FILE)
                await trio.testing.wait_all_tasks_blocked()
                world.waiting.pop()()
        assert world.told == [-FILE, -FILE]

    settling(test)


def test_after_a_reload_all_attributes_are_asked_for_again() -> None:
    world = World()
    kernel = world.kernel()
    world.gave(kernel, FILE)
    world.gave(kernel, OTHER)
    kernel.hear_reload()
    assert set(world.told) == {FILE, OTHER}


def test_inode_sets() -> None:
    marks = InodeSet()
    numbers = [1, 2, 7, 8, 4095, 4096, 4097, 10**12]
    for number in numbers:
        marks.add(number)
    assert sorted(marks) == numbers
    assert all(number in marks for number in numbers)
    assert 3 not in marks
    assert 10**13 not in marks
    marks.discard(7)
    marks.discard(10**13)
    assert 7 not in marks
    marks.clear()
    assert list(marks) == []


def test_recent_inodes_last_for_a_lifetime_at_least_and_two_at_most() -> None:
    now_s = [0.0]
    recent = RecentInodes(10, lambda: now_s[0])
    recent.add(1)
    for now_s[0] in (9, 11, 12):
        recent.add(2)
        assert 1 in recent
        assert sorted(recent) == [1, 2]
    now_s[0] = 22
    recent.add(3)
    assert 1 not in recent
    assert 2 in recent
    now_s[0] = 100
    recent.add(4)
    assert sorted(recent) == [4]
