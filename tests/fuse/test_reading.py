"""How pyfuse3's tasks take turns at reading: one at a time, the one that comes back first goes first, and nobody is
forgotten while a request is waited for."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from s3vfs.fuse.front import ReadLock


def test_who_comes_back_goes_on_without_a_turn_of_the_loop() -> None:
    async def main() -> None:
        lock = ReadLock()
        others = 0

        async def other() -> None:
            nonlocal others
            async with lock:
                others += 1

        async with trio.open_nursery() as nursery:
            async with lock:
                nursery.start_soon(other)
                await trio.testing.wait_all_tasks_blocked()
            for _ in range(100):
                async with lock:
                    assert others == 0
        assert others == 1

    trio.run(main)


def test_who_comes_back_after_waiting_for_a_request_wakes_nobody() -> None:
    """Unlike one who is held up by its request: the others would only wait again."""

    class Steps(trio.abc.Instrument):
        def __init__(self) -> None:
            self.of: list[str] = []

        def before_task_step(self, task: trio.lowlevel.Task) -> None:
            self.of.append(task.name)

    async def main() -> None:
        lock, steps = ReadLock(), Steps()

        async def other() -> None:
            async with lock:
                pass

        async with trio.open_nursery() as nursery:
            async with lock:
                nursery.start_soon(other, name="other")
                await trio.testing.wait_all_tasks_blocked()
            trio.lowlevel.add_instrument(steps)
            for _ in range(10):
                async with lock:
                    await trio.lowlevel.checkpoint()
            assert "other" not in steps.of
            await trio.lowlevel.checkpoint()
            await trio.lowlevel.checkpoint()
            assert "other" in steps.of

    trio.run(main)


def test_who_waits_reads_when_the_reader_has_ended() -> None:
    async def main() -> None:
        lock = ReadLock()
        read: list[int] = []

        async def reader(number: int) -> None:
            async with lock:
                await trio.lowlevel.checkpoint()
                read.append(number)

        async with trio.open_nursery() as nursery:
            for number in range(5):
                nursery.start_soon(reader, number)
        assert sorted(read) == list(range(5))

    trio.run(main)


def test_who_waits_reads_while_the_reader_is_held_up() -> None:
    async def main() -> None:
        lock = ReadLock()
        requests = 0
        held_up = trio.Event()

        async def reader(patience: trio.Event) -> None:
            nonlocal requests
            async with lock:
                requests += 1
            await patience.wait()

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(reader, held_up)
            await trio.testing.wait_all_tasks_blocked()
            assert requests == 5
            held_up.set()

    trio.run(main)


def test_one_at_a_time() -> None:
    async def main() -> None:
        lock = ReadLock()
        inside = 0

        async def reader() -> None:
            nonlocal inside
            for _ in range(20):
                async with lock:
                    inside += 1
                    assert inside == 1
                    await trio.lowlevel.checkpoint()
                    inside -= 1
                await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(reader)

    trio.run(main)


@pytest.mark.parametrize("woken", [False, True])
def test_a_waiter_that_is_cancelled_takes_nobody_along(woken: bool) -> None:
    """Also when it has been woken already: whoever reads next wakes another one."""

    class Cancelling(trio.abc.Instrument):
        """Right after the lock has woken somebody: its instrument is older."""

        def __init__(self, scope: trio.CancelScope) -> None:
            self.scope = scope

        def after_task_step(self, task: trio.lowlevel.Task) -> None:
            self.scope.cancel()

    async def main() -> None:
        lock = ReadLock()
        done: list[str] = []

        async def waiter(name: str, scope: trio.CancelScope) -> None:
            with scope:
                async with lock:
                    done.append(name)

        first, second = trio.CancelScope(), trio.CancelScope()
        async with trio.open_nursery() as nursery:
            async with lock:
                nursery.start_soon(waiter, "first", first)
                await trio.testing.wait_all_tasks_blocked()
                nursery.start_soon(waiter, "second", second)
                await trio.testing.wait_all_tasks_blocked()
                if not woken:
                    first.cancel()
            if woken:
                trio.lowlevel.add_instrument(Cancelling(first))
            await trio.testing.wait_all_tasks_blocked()
            async with lock:
                pass
        assert done[-1:] == ["second"]

    trio.run(main)
