"""Two mounts of a volume, and a directory on tmpfs, both within the reach of other users."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from tests.model.world import World
from tests.mounted import Mount, volume_in

WorldMaker = Callable[[], World]


@pytest.fixture(scope="module")
def model_mounts() -> Iterator[tuple[Mount, Mount]]:
    """Freshness 0: what one closed, the other sees. Not below pytest's own folders, which only root may enter."""
    folder = Path(tempfile.mkdtemp(prefix="s3vfs-model-"))
    folder.chmod(0o711)
    try:
        with volume_in(folder) as made:
            mounts = made.mount("--freshness", "0"), made.mount("--freshness", "0")
            assert os.access(mounts[0].path, os.X_OK)
            yield mounts
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def new_world(model_mounts: tuple[Mount, Mount]) -> Iterator[WorldMaker]:
    """Makes a world each time, with an empty directory on either side."""
    local = Path(tempfile.mkdtemp(prefix="s3vfs-model-", dir="/dev/shm"))
    local.chmod(0o711)
    numbers = count()
    umask = os.umask(0o022)

    def make() -> World:
        # The world's top has a parent of its own, for calls that go there by "..".
        name = f"{local.name}-{next(numbers)}"
        tops = [*(str(mount.path / name / "top") for mount in model_mounts), str(local / name / "top")]
        for top in (tops[0], tops[-1]):
            os.makedirs(top)
            os.chmod(top, 0o777)
        os.stat(tops[1])
        return World(tops[:-1], tops[-1])

    try:
        yield make
    finally:
        os.umask(umask)
        shutil.rmtree(local)
