"""Simulated histories: every promise of DESIGN 4, 6 and 7 that a session makes, under weather, kills and clones.

A failure prints its seed; `python -m tests.simulation.run --seeds SEED --trace` shows what happened.
"""

from __future__ import annotations

import pytest

from tests.simulation.history import run_history
from tests.simulation.mutants import MUTANTS
from tests.simulation.world import Violation

CHUNK = 20


def run_chunk(first: int, *, corrupting: bool = False) -> None:
    for seed in range(first, first + CHUNK):
        try:
            run_history(seed, corrupting=corrupting)
        except Exception as error:
            option = " --corrupt" if corrupting else ""
            error.add_note(f"seed {seed}; again: python -m tests.simulation.run --seeds {seed}{option} --trace")
            raise


@pytest.mark.parametrize("first", range(0, 200, CHUNK))
def test_no_history_breaks_a_promise(first: int) -> None:
    run_chunk(first)


@pytest.mark.parametrize("first", range(0, 40, CHUNK))
def test_a_client_that_is_given_wrong_records_stops_and_spreads_nothing(first: int) -> None:
    run_chunk(first, corrupting=True)


@pytest.mark.long
@pytest.mark.parametrize("first", range(1000, 3000, CHUNK))
def test_two_thousand_more_histories(first: int) -> None:
    run_chunk(first)


@pytest.mark.long
@pytest.mark.parametrize("first", range(1000, 1400, CHUNK))
def test_four_hundred_more_histories_with_wrong_records(first: int) -> None:
    run_chunk(first, corrupting=True)


def test_one_seed_is_one_history() -> None:
    assert run_history(11, keep_trace=True) == run_history(11, keep_trace=True)


@pytest.mark.parametrize("name", MUTANTS)
def test_a_broken_rule_is_noticed(name: str) -> None:
    mutant = MUTANTS[name]
    for seed in range(60):
        try:
            with mutant.active():
                run_history(seed, corrupting=mutant.corrupting)
        except Violation:
            return
    pytest.fail(f"60 histories did not notice that {mutant.what}")
