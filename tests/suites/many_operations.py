"""A pytest plugin for pyxattr's tests: its `many_ops` tests look for leaks in pyxattr by doing everything 16,384
times, 27 times over. On a file system where each of those waits for a bucket that takes hours and shows nothing new.
"""

from __future__ import annotations

import pytest

TIMES = 64


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        module = item.getparent(pytest.Module)
        if module is not None and hasattr(module.obj, "MANYOPS_COUNT"):
            module.obj.MANYOPS_COUNT = TIMES
