"""A volume on file://, cleaned up whatever a test did to it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.command import Place


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """Not formatted yet."""
    made = Place(tmp_path)
    yield made
    made.clear()
