"""Workspaces work in an image that has Python and nothing else of ours."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import s3vfs

PROGRAM = """
import sys
sys.path.insert(0, sys.argv.pop(1))
from s3vfs.cli import main
code = main(sys.argv[1:])
foreign = sorted({n.split(".")[0] for n in sys.modules} - sys.stdlib_module_names - {"s3vfs", "__main__"})
assert not foreign, foreign
assert not [n for n in sys.modules if n.startswith(("s3vfs.fuse", "s3vfs.session", "s3vfs.objects"))]
sys.exit(code)
"""


def alone(*words: str | Path) -> None:
    """Isolated, without site-packages: an import of anything but the standard library fails."""
    command = [sys.executable, "-I", "-S", "-c", PROGRAM, Path(s3vfs.__file__).parents[1], "workspace", *words]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True)
    assert done.returncode == 0, done


def test_every_action_needs_the_standard_library_only(tmp_path: Path) -> None:
    home, volume, other = tmp_path / "home", tmp_path / "volume", tmp_path / "other"
    for path in (home, volume, other):
        path.mkdir()
    (home / "file").write_text("x")
    alone("init", volume, "--from", home)
    alone("env", volume, "--profile-d", tmp_path / "none")
    alone("boot", volume)
    alone("archive", tmp_path / "archive", volume)
    alone("restore", tmp_path / "archive", other)
    assert (other / "home/file").read_text() == "x"
    assert os.path.exists(other / ".s3vfs/env.sh")
