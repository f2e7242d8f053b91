"""`workspace boot`: requirements.txt is installed when it has changed, and never keeps a pod from its start."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from s3vfs.workspace.boot import Ending, Installer, boot
from s3vfs.workspace.layout import Workspace
from tests.mounted import eventually
from tests.workspace.test_environment import VERSION, make_wheel
from tests.workspace.trees import WORKSPACE, ok, workspace


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    path = tmp_path / "volume"
    path.mkdir()
    return path


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    folder = tmp_path / "wheels"
    make_wheel(folder, "s3vfs_first", "1.0", "v = 1\n")
    make_wheel(folder, "s3vfs_first", "2.0", "v = 2\n")
    make_wheel(folder, "s3vfs_second", "1.0", "v = 1\n")
    return folder


def installer(wheels: Path, limit_s: float = 120, python: str = sys.executable) -> Installer:
    return Installer(python, VERSION, limit_s, ("--no-index", f"--find-links={wheels}"))


def fake_python(folder: Path, script: str) -> str:
    path = folder / "fake-python"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def start(volume: Path, with_: Installer) -> Ending:
    return boot(Workspace(volume), with_, now_ns=lambda: 1)


def state(volume: Path) -> dict[str, object]:
    value = json.loads((volume / ".s3vfs/boot.json").read_text())
    assert isinstance(value, dict)
    return value


def test_requirements_are_installed_once_and_again_when_they_change(volume: Path, wheels: Path) -> None:
    packages = volume / f"pip-packages-{VERSION}"
    assert start(volume, installer(wheels)) is Ending.NOTHING
    (volume / "requirements.txt").write_text("s3vfs_first==1.0\n")
    assert start(volume, installer(wheels)) is Ending.INSTALLED
    assert (packages / "s3vfs_first.py").read_text() == "v = 1\n"
    log = (volume / ".s3vfs/boot.log").read_text()
    assert "Successfully installed" in log
    assert start(volume, installer(wheels)) is Ending.UNCHANGED
    assert (volume / ".s3vfs/boot.log").read_text() == log
    (volume / "requirements.txt").write_text("s3vfs_first==2.0\ns3vfs_second\n")
    assert start(volume, installer(wheels)) is Ending.INSTALLED
    assert (packages / "s3vfs_first.py").read_text() == "v = 2\n"
    assert (packages / "s3vfs_second.py").exists()


def test_another_python_installs_again_for_itself(volume: Path, tmp_path: Path) -> None:
    (volume / "requirements.txt").write_text("anything\n")
    python = fake_python(tmp_path, "exit 0")
    assert start(volume, Installer(python, "3.11", 60)) is Ending.INSTALLED
    assert start(volume, Installer(python, "3.12", 60)) is Ending.INSTALLED
    assert start(volume, Installer(python, "3.12", 60)) is Ending.UNCHANGED


def test_what_failed_is_recorded_and_tried_again_at_the_next_boot(volume: Path, wheels: Path) -> None:
    (volume / "requirements.txt").write_text("s3vfs_third\n")
    assert start(volume, installer(wheels)) is Ending.FAILED
    assert state(volume)["status"] == "failed"
    assert "s3vfs_third" in (volume / ".s3vfs/boot.log").read_text()
    make_wheel(wheels, "s3vfs_third", "1.0", "v = 1\n")
    assert start(volume, installer(wheels)) is Ending.INSTALLED


def test_a_pip_that_hangs_is_ended_with_all_that_it_started(volume: Path, tmp_path: Path) -> None:
    (volume / "requirements.txt").write_text("anything\n")
    python = fake_python(tmp_path, f"trap '' TERM; sleep 1000 & echo $! >{tmp_path}/child; while :; do wait; done")
    assert start(volume, Installer(python, VERSION, 1)) is Ending.TIMED_OUT
    assert state(volume)["status"] == "timed out"
    child = int((tmp_path / "child").read_text())
    eventually(lambda: not Path(f"/proc/{child}").exists() or " Z " in Path(f"/proc/{child}/stat").read_text())
    assert "time limit" in (volume / ".s3vfs/boot.log").read_text()


def test_a_python_that_is_missing_is_a_failure_as_any_other(volume: Path) -> None:
    (volume / "requirements.txt").write_text("anything\n")
    assert start(volume, Installer("/nonexistent/python", VERSION, 60)) is Ending.FAILED


def test_two_pods_do_not_install_at_once_and_none_waits(volume: Path, wheels: Path) -> None:
    (volume / "requirements.txt").write_text("s3vfs_first\n")
    (volume / ".s3vfs").mkdir()
    with open(volume / ".s3vfs/boot.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert start(volume, installer(wheels)) is Ending.BUSY
    assert start(volume, installer(wheels)) is Ending.INSTALLED


def test_the_lock_lasts_as_long_as_pip_does(volume: Path, tmp_path: Path) -> None:
    """Also when the command that started pip has been killed."""
    (volume / "requirements.txt").write_text("anything\n")
    python = fake_python(
        tmp_path, f'[ "$1" = -I ] && echo 3.9 && exit; echo $$ >{tmp_path}/pip; read x <{tmp_path}/gate'
    )
    os.mkfifo(tmp_path / "gate")
    command = subprocess.Popen([*WORKSPACE, "boot", str(volume), "--python", python])
    eventually(lambda: (tmp_path / "pip").read_text(), within_s=60)
    command.kill()
    command.wait()
    assert start(volume, Installer(sys.executable, VERSION, 60)) is Ending.BUSY
    (tmp_path / "gate").write_text("go\n")
    eventually(lambda: start(volume, Installer(fake_python(tmp_path, "exit 0"), "3.9", 60)) is not Ending.BUSY)


def test_the_command_lets_the_pod_start_whatever_happens(volume: Path, wheels: Path) -> None:
    (volume / "requirements.txt").write_text("s3vfs_missing\n")
    offline = ("--python", sys.executable, "--pip-option=--no-index", f"--pip-option=--find-links={wheels}")
    done = workspace("boot", volume, *offline)
    assert done.returncode == 0
    assert "requirements.txt is not installed: failed" in done.stderr
    assert workspace("boot", volume, *offline, "--strict").returncode == 1
    (volume / ".s3vfs/boot.lock").unlink()
    (volume / ".s3vfs/boot.lock").mkdir()  # a volume that cannot be worked with
    assert workspace("boot", volume, *offline).returncode == 0


def test_the_log_does_not_grow_for_ever(volume: Path, tmp_path: Path) -> None:
    (volume / "requirements.txt").write_text("anything\n")
    python = fake_python(tmp_path, "head -c 1100000 /dev/zero; exit 1")
    for _ in range(4):
        start(volume, Installer(python, VERSION, 60))
    logs = sorted(path.name for path in (volume / ".s3vfs").glob("boot.log*"))
    assert logs == ["boot.log", "boot.log.1"]
    assert (volume / ".s3vfs/boot.log").stat().st_size < 1_200_000


def test_an_installed_package_is_found_by_programs(volume: Path, wheels: Path, tmp_path: Path) -> None:
    (volume / "requirements.txt").write_text("s3vfs_second\n")
    offline = ("--pip-option=--no-index", f"--pip-option=--find-links={wheels}", "--python", sys.executable)
    ok("boot", volume, *offline)
    program = (sys.executable, "-c", "import s3vfs_second; print(s3vfs_second.v)")
    assert ok("run", "--dir", volume, "--profile-d", tmp_path / "none", "--", *program) == "1\n"
