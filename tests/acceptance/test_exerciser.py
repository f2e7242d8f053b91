"""Random work on real mounts equals a model, byte by byte; the bucket is sound afterwards, and an empty cache shows the
same. A failure names its seed and the last steps; `python -m tests.acceptance.exerciser` repeats it on any mount."""

from __future__ import annotations

import pytest

from tests.acceptance import fsck
from tests.acceptance.exerciser import Exerciser
from tests.mounted import Volume


def exercise(volume: Volume, mounts: int, seed: int, *, steps: int = 0, seconds: float = 0, sizes: int) -> None:
    made = [volume.mount("--freshness", "0") for _ in range(mounts)]
    exerciser = Exerciser([mount.path for mount in made], seed, sizes_bytes=sizes)
    exerciser.run(steps=steps, seconds=seconds)
    for mount in made:
        assert mount.umount() == 0
    exerciser.check_all([volume.mount("--freshness", "0").path])
    assert fsck.check(volume.url).problems == []


def test_random_work_on_one_mount(volume: Volume) -> None:
    exercise(volume, 1, seed=1, steps=700, sizes=300_000)


def test_random_work_on_two_mounts(volume: Volume) -> None:
    exercise(volume, 2, seed=2, steps=350, sizes=100_000)


@pytest.mark.long
@pytest.mark.parametrize(("mounts", "sizes"), [(1, 1 << 20), (2, 1 << 20), (1, 20 << 20), (2, 20 << 20)])
@pytest.mark.parametrize("seed", range(10, 13))
def test_much_random_work(volume: Volume, mounts: int, sizes: int, seed: int) -> None:
    exercise(volume, mounts, seed, seconds=40, sizes=sizes)
