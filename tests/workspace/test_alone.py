"""Workspaces work in an image that has Python and nothing else of ours: the standard library, of 3.8 or newer."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import s3vfs
from s3vfs import workspace

ROOT = Path(s3vfs.__file__).parents[1]

PROGRAM = """
import sys
sys.path.insert(0, sys.argv.pop(1))
from s3vfs.cli import main
code = main(sys.argv[1:])
if sys.version_info >= (3, 10):
    foreign = sorted({n.split(".")[0] for n in sys.modules} - sys.stdlib_module_names - {"s3vfs", "__main__"})
    assert not foreign, foreign
assert not [n for n in sys.modules if n.startswith(("s3vfs.fuse", "s3vfs.session", "s3vfs.objects"))]
sys.exit(code)
"""


_WHICH = "import sys; print('%d.%d' % sys.version_info[:2])"


def interpreters() -> list[str]:
    """This one, and older ones where the machine has some (in `python3.8` and so on, or pyenv's)."""
    found = {"current": sys.executable}
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for minor in ("3.8", "3.9", "3.10"):
        named = [shutil.which(f"python{minor}"), *sorted(map(str, versions.glob(f"{minor}.*/bin/python3")))]
        for path in filter(None, named):
            # A shim without a Python behind it is none.
            asked = subprocess.run([path, "-c", _WHICH], capture_output=True)
            if asked.stdout.decode().strip() == minor:
                found[minor] = path
    return list(found.values())


def alone(python: str, *words: str | Path) -> str:
    """Isolated, without site-packages: an import of anything but the standard library fails."""
    command = [python, "-I", "-S", "-B", "-c", PROGRAM, ROOT, "workspace", *words]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True)
    assert done.returncode == 0, done
    return done.stdout


@pytest.mark.parametrize("python", interpreters())
def test_every_action_needs_the_standard_library_only(tmp_path: Path, python: str) -> None:
    home, volume, other = tmp_path / "home", tmp_path / "volume", tmp_path / "other"
    for path in (home, volume, other):
        path.mkdir()
    (home / "file").write_text("x")
    os.link(home / "file", home / "same")
    alone(python, "init", volume, "--from", home)
    alone(python, "env", volume, "--profile-d", tmp_path / "none", "--python", python)
    alone(python, "boot", volume, "--python", python)
    assert '"generation": 1' in alone(python, "archive", tmp_path / "archive", volume, "--json")
    alone(python, "archive", tmp_path / "archive", volume)
    alone(python, "restore", tmp_path / "archive", other)
    assert (other / "home/file").read_text() == "x"
    assert (other / "home/file").stat().st_nlink == 2
    assert os.path.exists(other / ".s3vfs/env.sh")


def test_a_failure_is_one_line_under_any_python(tmp_path: Path) -> None:
    for python in interpreters():
        command = [python, "-I", "-S", "-B", "-c", PROGRAM, ROOT, "workspace", "restore", tmp_path / "none", tmp_path]
        done = subprocess.run([*map(str, command)], capture_output=True, text=True)
        assert done.returncode == 3
        assert done.stderr == f"s3vfs: {tmp_path}/none has no archive of a workspace\n"


def test_the_syntax_is_that_of_python_3_8() -> None:
    """On machines without an old Python too."""
    folder = Path(workspace.__file__).parent
    files = [*folder.glob("*.py"), *(ROOT / "s3vfs").glob("*.py")]
    files += [ROOT / "s3vfs/cli" / f"{name}.py" for name in ("__init__", "workspace", "arguments", "sizes")]
    assert len(files) > 15
    for file in files:
        ast.parse(file.read_text(), str(file), feature_version=(3, 8))
