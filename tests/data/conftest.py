"""Small sectors for the data room's tests: a file of a few hundred bytes then has many of them."""

from __future__ import annotations

import pytest

import s3vfs.namespace.objects
from tests.data.mount import SMALL


@pytest.fixture(autouse=True)
def small_sectors(monkeypatch: pytest.MonkeyPatch) -> None:
    """`apply` counts checksums by the format's fixed sector size; here by the tests' one."""
    monkeypatch.setattr(s3vfs.namespace.objects, "SECTOR_BYTES", SMALL.sector_bytes)
