"""Simulated histories of whole clients: what POSIX calls have answered holds for everyone, whatever dies in between.

A failure prints its seed; `python -m tests.simulation.whole --seeds SEED --trace` shows what happened.
"""

from __future__ import annotations

import pytest

from tests.simulation.whole import run_whole
from tests.simulation.whole_mutants import WHOLE_MUTANTS
from tests.simulation.world import Violation

CHUNK = 10


def run_chunk(first: int) -> None:
    for seed in range(first, first + CHUNK):
        try:
            run_whole(seed)
        except Exception as error:
            error.add_note(f"seed {seed}; again: python -m tests.simulation.whole --seeds {seed} --trace")
            raise


@pytest.mark.parametrize("first", range(0, 30, CHUNK))
def test_no_history_of_whole_clients_breaks_a_promise(first: int) -> None:
    run_chunk(first)


@pytest.mark.long
@pytest.mark.parametrize("first", range(1000, 1500, CHUNK))
def test_five_hundred_more_histories_of_whole_clients(first: int) -> None:
    run_chunk(first)


def test_one_seed_is_one_history_of_whole_clients() -> None:
    assert run_whole(7, keep_trace=True) == run_whole(7, keep_trace=True)


# Found by their thirteenth history only.
_LATE = ("doubt-is-failure", "sent-is-not-noted")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.long] if name in _LATE else []) for name in WHOLE_MUTANTS]
)
def test_whole_clients_notice_a_broken_rule(name: str) -> None:
    mutant = WHOLE_MUTANTS[name]
    for seed in range(30):
        try:
            with mutant.active():
                run_whole(seed)
        except Violation:
            return
    pytest.fail(f"30 histories did not notice that {mutant.what}")
