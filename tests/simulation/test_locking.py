"""Simulated programs that count under locks: exact between clients, whatever befalls them.

A failure prints its seed; `python -m tests.simulation.locking --seeds SEED --trace` shows what happened.
"""

from __future__ import annotations

import pytest

from tests.simulation.locking import LOCK_MUTANTS, run_locking
from tests.simulation.world import Violation

CHUNK = 10


def run_chunk(first: int) -> None:
    for seed in range(first, first + CHUNK):
        try:
            run_locking(seed)
        except Exception as error:
            error.add_note(f"seed {seed}; again: python -m tests.simulation.locking --seeds {seed} --trace")
            raise


@pytest.mark.parametrize("first", range(0, 20, CHUNK))
def test_no_history_breaks_a_lock(first: int) -> None:
    run_chunk(first)


@pytest.mark.long
@pytest.mark.parametrize("first", range(1000, 1400, CHUNK))
def test_four_hundred_more_histories_of_locks(first: int) -> None:
    run_chunk(first)


@pytest.mark.parametrize("name", LOCK_MUTANTS)
def test_a_broken_lock_is_noticed(name: str) -> None:
    mutant = LOCK_MUTANTS[name]
    for seed in range(30):
        try:
            with mutant.active():
                run_locking(seed)
        except Violation:
            return
    pytest.fail(f"30 histories did not notice that {mutant.what}")
