"""The protocol of leases in random histories: what is acknowledged is neither overtaken nor lost, but by a REVOKE.

A failure prints its seed; `python -m tests.simulation.leasing --seeds SEED --trace` shows what happened.
"""

from __future__ import annotations

from collections import Counter

import pytest

from tests.simulation.leasing import LEASE_MUTANTS, run_leasing
from tests.simulation.world import Violation

CHUNK = 10


def run_chunk(first: int) -> Counter[str]:
    count: Counter[str] = Counter()
    for seed in range(first, first + CHUNK):
        try:
            count.update(run_leasing(seed).count)
        except Exception as error:
            error.add_note(f"seed {seed}; again: python -m tests.simulation.leasing --seeds {seed} --trace")
            raise
    return count


@pytest.mark.parametrize("first", range(0, 60, CHUNK))
def test_nothing_acknowledged_is_overtaken(first: int) -> None:
    count = run_chunk(first)
    for what in ("acknowledged", "committed", "read", "covered", "busy", "revoked", "spilled", "lost races", "unknown"):
        assert count[what], f"nothing was {what}: these histories show little"


@pytest.mark.long
@pytest.mark.parametrize("first", range(1000, 5000, CHUNK))
def test_four_thousand_more_histories_of_leases(first: int) -> None:
    run_chunk(first)


@pytest.mark.parametrize("name", LEASE_MUTANTS)
def test_a_broken_rule_of_leases_is_noticed(name: str) -> None:
    mutant = LEASE_MUTANTS[name]
    for seed in range(40):
        try:
            with mutant.active():
                run_leasing(seed)
        except Violation:
            return
    pytest.fail(f"40 histories did not notice that {mutant.what}")


def test_a_seed_is_a_history() -> None:
    assert run_leasing(3, keep_trace=True).trace == run_leasing(3, keep_trace=True).trace
