"""The fixtures of `tests.mounted`, for the tests of this folder."""

from pathlib import Path

import pytest

from tests.fuse import sanitized
from tests.mounted import pair, root, shared_mount, shared_pair, two_mounts, volume

__all__ = ["built", "pair", "root", "shared_mount", "shared_pair", "two_mounts", "volume"]


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The extension with sanitizers, compiled once."""
    return sanitized.build(tmp_path_factory.mktemp("built"))
