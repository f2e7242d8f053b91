"""Blocking calls run beside trio, bounded, and to their end."""

from __future__ import annotations

import threading

import pytest
import trio

from s3vfs.objects.runner import InlineRunner, Runner, ThreadRunner


def test_calls_run_in_other_threads_and_their_errors_come_back() -> None:
    async def main() -> None:
        run: Runner = ThreadRunner(2)
        assert await run(threading.get_ident) != threading.get_ident()
        with pytest.raises(ZeroDivisionError):
            await run(divmod, 1, 0)

    trio.run(main)


def test_no_more_than_the_limit_run_at_once() -> None:
    lock = threading.Lock()
    running = most = 0
    together = threading.Barrier(3, timeout=20)

    def work() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        together.wait()
        with lock:
            running -= 1

    async def main() -> None:
        run = ThreadRunner(3)
        async with trio.open_nursery() as nursery:
            for _ in range(9):
                nursery.start_soon(run, work)
        assert run.busy == 0

    trio.run(main)
    assert most == 3


def test_a_cancelled_call_runs_to_its_end() -> None:
    started, go_on = threading.Event(), threading.Event()
    done: list[bool] = []

    def work() -> None:
        started.set()
        go_on.wait(20)
        done.append(True)

    async def main() -> None:
        run = ThreadRunner(1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run, work)
            await trio.to_thread.run_sync(started.wait, 20)
            nursery.cancel_scope.cancel()
            go_on.set()
        assert done == [True]

    trio.run(main)


def test_the_inline_runner_stays_in_its_thread_and_is_a_checkpoint() -> None:
    async def main() -> None:
        run: Runner = InlineRunner()
        assert await run(threading.get_ident) == threading.get_ident()
        with trio.CancelScope() as scope:
            scope.cancel()
            await run(pytest.fail, "a cancelled caller starts nothing")
        assert scope.cancelled_caught

    trio.run(main)
