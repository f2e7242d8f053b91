"""The script `dev`: a checkout's entry point, on the shells and machines that it promises."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.command import Place, mounted_on

REPOSITORY = Path(__file__).parents[2]
DEV = REPOSITORY / "dev"


def sh(*words: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    shell = shutil.which("dash") or "sh"
    return subprocess.run(
        [shell, *map(str, words)],
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )


@pytest.fixture
def checkout(tmp_path: Path) -> Iterator[Path]:
    """A directory that looks set up: its .venv calls the interpreter that runs these tests."""
    folder = tmp_path / "checkout"
    binaries = folder / ".venv" / "bin"
    binaries.mkdir(parents=True)
    shutil.copy(DEV, folder)
    extension = Path("s3vfs", "fuse", "native", "interpose.c")
    (folder / extension).parent.mkdir(parents=True)
    for path in (Path("pyproject.toml"), Path("setup.py"), extension):
        shutil.copy(REPOSITORY / path, folder / path)
    for name, words in (("python", ""), ("s3vfs", "-P -m s3vfs ")):
        script = binaries / name
        # It never installs anything: it would be into the environment of these tests.
        script.write_text(
            f'#!/bin/sh\ncase "$*" in *pip\\ install*) exit 1 ;; esac\nexec {sys.executable} {words}"$@"\n'
        )
        script.chmod(0o755)
    sources = f"pyproject.toml setup.py {extension} dev"
    stamp = f'{{ cat {sources}; echo "{folder}"; {sys.executable} -c "import sys; print(sys.version)"; }} | cksum'
    set_up = subprocess.run(["sh", "-c", stamp], cwd=folder, check=True, capture_output=True, text=True).stdout
    (folder / ".venv" / ".s3vfs-plain").write_text(set_up)
    yield folder
    Place(folder, made=[folder / "demo" / "a", folder / "demo" / "b"]).clear()


def test_every_command_is_in_the_help_and_an_unknown_one_fails() -> None:
    shown = sh(DEV, "help").stdout
    for command in ("setup", "demo", "demo-stop", "test", "test-long", "bench"):
        assert f"\n  {command} " in shown
    wrong = sh(DEV, "tset")
    assert wrong.returncode == 1
    assert "unknown command: tset" in wrong.stderr


def test_the_demo_shares_a_volume_between_two_mounts_and_can_be_repeated(checkout: Path) -> None:
    demo = checkout / "demo"
    first = sh(checkout / "dev", "demo")
    assert first.returncode == 0, first
    assert first.stdout.count("$ s3vfs mount") == 2
    assert mounted_on(demo / "a") is not None
    assert mounted_on(demo / "b") is not None
    (written,) = (demo / "b").iterdir()
    assert written.read_text() in first.stdout
    second = sh(checkout / "dev", "demo")
    assert second.returncode == 0, second
    assert "already" in second.stdout
    assert "$ s3vfs" not in second.stdout
    assert len(list((demo / "a").iterdir())) == 2
    stopped = sh(checkout / "dev", "demo-stop")
    assert stopped.returncode == 0, stopped
    assert mounted_on(demo / "a") is None
    assert mounted_on(demo / "b") is None
    assert "not mounted" in sh(checkout / "dev", "demo-stop").stdout
    assert sh(checkout / "dev", "demo").returncode == 0
    assert len(list((demo / "b").iterdir())) == 3


def bare_machine(checkout: Path, tmp_path: Path, uid: int) -> str:
    """A PATH on which there is Python and next to nothing else, for this user; the checkout counts as never set up."""
    (checkout / ".venv" / ".s3vfs-plain").unlink()
    bare = tmp_path / "bin"
    bare.mkdir()
    for name in ("sh", "cat", "dirname", "cksum"):
        (bare / name).symlink_to(str(shutil.which(name)))
    scripts = {
        "python3": f'exec {sys.executable} "$@"',
        "id": f"echo {uid}",
        "apt-get": f'echo "$DEBIAN_FRONTEND $*" >> {tmp_path}/apt; [ "$1" = update ]',  # installing fails
    }
    for name, words in scripts.items():
        (bare / name).write_text(f"#!/bin/sh\n{words}\n")
        (bare / name).chmod(0o755)
    return str(bare)


def test_without_root_the_missing_packages_are_named_in_one_line(checkout: Path, tmp_path: Path) -> None:
    done = sh(checkout / "dev", "setup", "plain", PATH=bare_machine(checkout, tmp_path, 1000))
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if "apt-get install" in line]
    for package in ("fuse3", "libfuse3-dev", "pkg-config", "gcc"):
        assert f" {package}" in line
    assert "python3-venv" not in line
    assert not (tmp_path / "apt").exists()


def test_as_root_the_missing_packages_are_installed_without_a_question(checkout: Path, tmp_path: Path) -> None:
    done = sh(checkout / "dev", "setup", "test", PATH=bare_machine(checkout, tmp_path, 0))
    assert done.returncode == 1
    assert "apt-get could not install: fuse3" in done.stderr
    update, install = (tmp_path / "apt").read_text().splitlines()
    assert update.startswith("noninteractive update")
    assert install.startswith("noninteractive install -y")
    assert " git acl buildah debootstrap nodejs npm" in install
