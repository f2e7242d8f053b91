"""A store whose conditional PUTs let two writers win: `format` and `mount` refuse it (DESIGN 3)."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.cli.command import Place

# The command line over a directory that ignores conditions.
UNSAFE = """
import sys
from s3vfs.objects.directory import DirectoryFiles

conditional = DirectoryFiles.put
DirectoryFiles.put = lambda self, key, body, *, if_absent, if_match="": conditional(self, key, body, if_absent=False)

from s3vfs.cli import main

sys.exit(main(sys.argv[1:]))
"""


def on_unsafe_bucket(*arguments: str) -> str:
    """What the command says on its way out with code 6."""
    ended = subprocess.run([sys.executable, "-c", UNSAFE, *arguments], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 6, ended.stderr
    lines = ended.stderr.strip().splitlines()
    assert len(lines) == 1, ended.stderr
    return lines[0]


def test_format_refuses_it_and_makes_nothing(place: Place) -> None:
    assert "If-None-Match" in on_unsafe_bucket("format", place.url)
    assert not (place.folder / "volume" / "volume.json").exists()


def test_mount_refuses_it_and_leaves_nothing_mounted(place: Place) -> None:
    place.format()
    mountpoint = place.directory()
    cache = f"--cache-dir={place.folder}/cache"
    assert "If-None-Match" in on_unsafe_bucket("mount", place.url, str(mountpoint), cache, "--foreground")
    assert not os.path.ismount(mountpoint)
