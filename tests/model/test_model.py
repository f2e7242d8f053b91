"""Random calls by turns from two mounts of a volume, and on tmpfs: the same results, errnos, attributes and trees.

A failure prints the shrunk calls; they belong into test_regressions.py, by a name that says what was wrong.
"""

from __future__ import annotations

import os
from random import Random, SystemRandom

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.model.chooser import Chooser
from tests.model.conftest import WorldMaker
from tests.model.shrink import shrunk
from tests.model.world import Differs, World

CALLS = 100


def run(world: World, number: int) -> None:
    chooser = Chooser(world, Random(number))
    try:
        for _ in range(CALLS):
            (name, *arguments), user = chooser.choose()
            world.step(str(name), *arguments, user=user)
        world.finish()
    finally:
        world.end()


def compare(new_world: WorldMaker, number: int, runs: int) -> None:
    """Hypothesis draws the runs; a failed one is made smaller call by call (shrink.py)."""

    @seed(number)
    @settings(
        max_examples=runs,
        deadline=None,
        database=None,
        print_blob=False,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    @given(st.integers(0, (1 << 64) - 1))
    def each(choices: int) -> None:
        world = new_world()
        failure: Differs | None = None
        try:
            run(world, choices)
        except Differs as error:
            failure = error
        if failure is not None:
            pytest.fail(shrunk(world.history, failure, new_world), pytrace=False)

    each()


def test_calls_have_the_same_results_as_on_tmpfs(new_world: WorldMaker) -> None:
    compare(new_world, 4, 20)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("number", range(100, 106))
def test_many_calls_have_the_same_results_as_on_tmpfs(new_world: WorldMaker, number: int) -> None:
    compare(new_world, number, 400)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_calls_that_nobody_has_tried_before_have_the_same_results_as_on_tmpfs(new_world: WorldMaker) -> None:
    """S3VFS_MODEL_SEED repeats them."""
    number = int(os.environ.get("S3VFS_MODEL_SEED") or SystemRandom().randrange(1 << 32))
    print(f"S3VFS_MODEL_SEED={number}")
    compare(new_world, number, 1_000)
