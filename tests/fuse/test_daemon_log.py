"""What the daemon's log says, line by line."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from s3vfs.fuse.daemon_log import start_logging


@pytest.fixture
def quiet_root() -> Iterator[None]:
    """The logging of these tests is as before afterwards."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    for handler in set(root.handlers) - set(handlers):
        root.removeHandler(handler)
        handler.close()
    root.setLevel(level)
    logging.getLogger("pyfuse3").filters.clear()


@pytest.mark.usefixtures("quiet_root")
def test_a_reply_that_came_too_late_is_no_error_and_others_are(tmp_path: Path) -> None:
    start_logging(tmp_path / "log", chosen=True, verbose=False, console=False)
    log = logging.getLogger("pyfuse3")
    log.error("fuse_release(): fuse_reply_* failed with %s", "No such file or directory")
    log.error("fuse_release(): fuse_reply_* failed with %s", "Input/output error")
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [line["level"] for line in lines] == ["info", "error"]
