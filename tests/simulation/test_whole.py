"""Simulated histories of whole clients: what POSIX calls have answered holds for everyone, whatever dies in between.

A failure prints its seed; `python -m tests.simulation.whole --seeds SEED --trace` shows what happened.
"""

from __future__ import annotations

from collections import Counter

import pytest

from tests.simulation.whole import run_whole
from tests.simulation.whole_mutants import WHOLE_MUTANTS
from tests.simulation.world import Violation

CHUNK = 10


def run_chunk(first: int, *, leases: bool = True) -> Counter[str]:
    count: Counter[str] = Counter()
    for seed in range(first, first + CHUNK):
        try:
            count.update(run_whole(seed, leases=leases)[0].count)
        except Exception as error:
            option = "" if leases else " --no-leases"
            error.add_note(f"seed {seed}; again: python -m tests.simulation.whole --seeds {seed}{option} --trace")
            raise
    return count


def test_no_history_of_whole_clients_breaks_a_promise() -> None:
    count: Counter[str] = Counter()
    for first in range(0, 30, CHUNK):
        count += run_chunk(first)
    for what in ("acknowledged", "lines ahead", "accounts", "files spilled", "kills", "held", "resumed", "fenced"):
        assert count[what], f"nothing was {what}: these histories show little"


def test_no_history_without_leases_breaks_a_promise() -> None:
    assert not run_chunk(30, leases=False)["acknowledged"]


@pytest.mark.long
@pytest.mark.parametrize("first", range(1000, 1500, CHUNK))
def test_five_hundred_more_histories_of_whole_clients(first: int) -> None:
    run_chunk(first)


@pytest.mark.long
@pytest.mark.parametrize("first", range(2000, 2100, CHUNK))
def test_a_hundred_more_histories_without_leases(first: int) -> None:
    run_chunk(first, leases=False)


def test_one_seed_is_one_history_of_whole_clients() -> None:
    assert run_whole(7, keep_trace=True) == run_whole(7, keep_trace=True)


# Where to begin: earlier histories do not notice, and take their time.
_FIRST = {"doubt-is-failure": 4, "fenced-goes-on": 2, "r10-losses-unsaid": 16}


@pytest.mark.parametrize("name", WHOLE_MUTANTS)
def test_whole_clients_notice_a_broken_rule(name: str) -> None:
    mutant = WHOLE_MUTANTS[name]
    first = _FIRST.get(name, 0)
    for seed in range(first, first + 30):
        try:
            with mutant.active():
                run_whole(seed)
        except Violation:
            return
    pytest.fail(f"30 histories did not notice that {mutant.what}")
