"""Directories that do not fit into one reply, nor into anybody's memory."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.fuse.populate import create_files
from tests.mounted import Volume


def names_in(path: Path) -> int:
    """How many names a listing has; fails where one comes twice or out of the volume's order."""
    count = 0
    last = ""
    with os.scandir(path) as entries:
        for entry in entries:
            assert entry.name > last
            last = entry.name
            count += 1
    return count


@pytest.mark.parametrize("count", [20_000, pytest.param(200_000, marks=pytest.mark.long)])
def test_a_listing_takes_constant_memory(volume: Volume, tmp_path: Path, count: int) -> None:
    create_files(volume.url, tmp_path / "author", b"large", count)
    mount = volume.mount()
    assert len(os.listdir(mount.path)) == 1
    before = mount.anonymous_bytes()
    assert names_in(mount.path / "large") == count
    assert names_in(mount.path / "large") == count
    assert mount.anonymous_bytes() - before < 8 << 20
