"""env.sh, the ways that lead to it, and `workspace run`: in dash and in bash."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.workspace.trees import WORKSPACE, ok, workspace

VERSION = "{}.{}".format(*sys.version_info[:2])
SHELLS = ("dash", "bash")


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """With a home, as init leaves it; a name that needs quoting."""
    path = tmp_path / "it's a volume"
    (path / "home").mkdir(parents=True)
    (path / "home/.s3vfs-init").write_text("{}")
    return path


@pytest.fixture
def profile_d(tmp_path: Path) -> Path:
    path = tmp_path / "profile.d"
    path.mkdir()
    return path


def env(volume: Path, profile_d: Path, *options: str) -> Path:
    ok("env", volume, "--profile-d", profile_d, "--python", sys.executable, *options)
    return volume / ".s3vfs/env.sh"


def variables(*command: str | Path, **environment: str) -> dict[str, str]:
    """What a program started by `command` has in its environment. It gets the test's own, without Python's."""
    start = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", **environment}
    done = subprocess.run([*map(str, command)], env=start, capture_output=True, check=True)
    assert done.stderr == b"", done
    pairs = (item.split("=", 1) for item in done.stdout.decode().split("\0") if item)
    return {pair[0]: pair[1] for pair in pairs}


@pytest.mark.parametrize("shell", SHELLS)
def test_the_settings_lead_into_the_workspace(volume: Path, profile_d: Path, shell: str) -> None:
    file = env(volume, profile_d)
    found = variables(shell, "-euc", '. "$0"; exec env -0', file, PYTHONPATH="/before")
    assert found["HOME"] == f"{volume}/home"
    assert found["PATH"].split(":")[0] == f"{volume}/bin"
    assert found["PATH"].endswith(os.environ["PATH"])
    assert found["PYTHONPATH"] == f"{volume}/pip-packages-{VERSION}:{volume}/pip-packages:/before"
    assert found["PIP_CACHE_DIR"] == f"{volume}/pip-cache"
    assert found["CONDA_ENVS_PATH"] == f"{volume}/envs"
    assert found["CONDA_PKGS_DIRS"] == f"{volume}/envs/.pkgs"
    assert found["HF_HOME"] == f"{volume}/huggingface"
    assert found["BASH_ENV"] == str(file)
    assert found["S3VFS_WORKSPACE"] == str(volume)
    assert not [name for name in found if name.startswith("_s3vfs")]


@pytest.mark.parametrize("shell", SHELLS)
def test_twenty_boots_and_readings_leave_nothing_on_a_path_twice(volume: Path, profile_d: Path, shell: str) -> None:
    found = {"PATH": os.environ["PATH"]}
    first: dict[str, str] = {}
    for _ in range(20):
        file = env(volume, profile_d)
        found = variables(shell, "-euc", '. "$0"; . "$0"; exec env -0', file, **found)
        first = first or found
    for name in ("PATH", "PYTHONPATH"):
        parts = [part for part in found[name].split(":") if str(volume) in part]
        assert len(parts) == len(set(parts)) == (3 if name == "PATH" else 2)
        assert found[name] == first[name]


def test_the_file_is_written_once(volume: Path, profile_d: Path) -> None:
    file = env(volume, profile_d)
    before = (file.stat().st_ino, file.stat().st_mtime_ns, file.read_bytes())
    for _ in range(3):
        env(volume, profile_d)
    assert (file.stat().st_ino, file.stat().st_mtime_ns, file.read_bytes()) == before
    assert sorted(os.listdir(file.parent)) == ["env.sh"]


def test_another_python_in_the_image_gets_another_directory(volume: Path, profile_d: Path, tmp_path: Path) -> None:
    env(volume, profile_d)
    other = tmp_path / "python3"
    other.write_text("#!/bin/sh\necho 3.99\n")
    other.chmod(0o755)
    ok("env", volume, "--profile-d", profile_d, "--python", other)
    found = variables("sh", "-c", '. "$0"; exec env -0', volume / ".s3vfs/env.sh")
    assert found["PYTHONPATH"] == f"{volume}/pip-packages-3.99:{volume}/pip-packages"


def test_the_users_own_settings_are_read_last_and_stay(volume: Path, profile_d: Path) -> None:
    (volume / ".s3vfs").mkdir()
    (volume / ".s3vfs/env.user.sh").write_text("export HF_HOME=/shared/models\n")
    found = variables("sh", "-c", '. "$0"; exec env -0', env(volume, profile_d))
    assert found["HF_HOME"] == "/shared/models"


def test_without_a_home_HOME_stays(tmp_path: Path, profile_d: Path) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    found = variables("sh", "-c", '. "$0"; exec env -0', env(volume, profile_d), HOME="/before")
    assert found["HOME"] == "/before"


def test_a_volume_that_is_the_home_is_HOME_where_it_will_be_mounted(tmp_path: Path, profile_d: Path) -> None:
    volume, pod = tmp_path / "elsewhere", tmp_path / "root"
    volume.mkdir()
    ok("init", volume, "--from", tmp_path / "none", "--home-at-root")
    env(volume, profile_d, "--mounted-at", str(pod))
    volume.rename(pod)
    found = variables("sh", "-c", '. "$0"; exec env -0', pod / ".s3vfs/env.sh")
    assert (found["HOME"], found["PIP_CACHE_DIR"]) == (str(pod), f"{pod}/pip-cache")


# -- who reads it -----------------------------------------------------------------------------------------------------


def test_login_shells_read_it_by_way_of_profile_d(volume: Path, profile_d: Path) -> None:
    env(volume, profile_d)
    (hook,) = profile_d.iterdir()
    # /etc/profile reads every file there; a machine's own must stay as it is.
    for shell in SHELLS:
        found = variables(shell, "-euc", '. "$0"; exec env -0', hook)
        assert found["HOME"] == f"{volume}/home"
    shutil.rmtree(volume)
    assert variables("dash", "-euc", '. "$0"; exec env -0', hook, HOME="/before")["HOME"] == "/before"


def test_a_profile_d_that_cannot_be_written_to_is_left_alone(volume: Path, tmp_path: Path) -> None:
    env(volume, tmp_path / "missing")
    assert not (tmp_path / "missing").exists()


@pytest.mark.parametrize("name", [".profile", ".bash_profile"])
def test_login_shells_of_the_home_read_it_where_that_is_asked_for(volume: Path, profile_d: Path, name: str) -> None:
    profile = volume / "home" / name
    profile.write_text("export MINE=1")
    profile.chmod(0o600)
    for _ in range(3):
        env(volume, profile_d, "--home-profile")
    assert profile.read_text().count("\n") == 2
    assert profile.stat().st_mode & 0o777 == 0o600
    found = variables("bash", "-lc", "exec env -0", HOME=f"{volume}/home")
    assert (found["MINE"], found["S3VFS_WORKSPACE"]) == ("1", str(volume))


def test_scripts_read_it_by_way_of_BASH_ENV(volume: Path, profile_d: Path) -> None:
    found = variables("bash", "-c", "exec env -0", BASH_ENV=str(env(volume, profile_d)))
    assert found["HOME"] == f"{volume}/home"


def test_run_becomes_the_program_with_the_settings(volume: Path, tmp_path: Path) -> None:
    script = 'echo "$HOME|$1|$2|$$"; exit 7'
    with subprocess.Popen(
        [
            *WORKSPACE,
            "run",
            "--dir",
            volume,
            "--profile-d",
            tmp_path / "none",
            "--",
            "sh",
            "-c",
            script,
            "x",
            "--",
            "a b",
        ],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        out, _ = process.communicate()
        assert out == f"{volume}/home|--|a b|{process.pid}\n"
        assert process.returncode == 7


def test_run_start_does_everything_that_a_pod_needs(tmp_path: Path) -> None:
    home, volume = tmp_path / "image", tmp_path / "volume"
    home.mkdir()
    volume.mkdir()
    (home / "file").write_text("x")
    options = ("--dir", volume, "--start", "--from", home, "--profile-d", tmp_path / "none")
    assert "x\n" in ok("run", *options, "--", "sh", "-c", 'cat "$HOME/file"; echo')
    (volume / "home/file").write_text("mine")
    assert ok("run", *options, "--", "sh", "-c", 'cat "$HOME/file"') == "mine"


def test_run_without_a_program_is_wrong_usage(volume: Path) -> None:
    done = workspace("run", "--dir", volume)
    assert done.returncode == 2
    assert "no program to run" in done.stderr


# -- packages ---------------------------------------------------------------------------------------------------------


def make_wheel(folder: Path, name: str, version: str, text: str) -> Path:
    """The smallest package that pip installs."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}-{version}-py3-none-any.whl"
    about = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(f"{name}.py", text)
        wheel.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        wheel.writestr(
            f"{about}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{about}/RECORD", f"{name}.py,,\n{about}/METADATA,,\n{about}/WHEEL,,\n{about}/RECORD,,\n")
    return path


@pytest.mark.parametrize("directory", ["pip-packages", f"pip-packages-{VERSION}"])
def test_a_package_installed_with_target_imports_after_a_restart(
    volume: Path, profile_d: Path, tmp_path: Path, directory: str
) -> None:
    wheel = make_wheel(tmp_path / "wheels", "s3vfs_probe_package", "1.0", "answer = 42\n")
    env(volume, profile_d)
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--disable-pip-version-check", "--target"]
    subprocess.run([*pip, volume / directory, wheel], check=True)
    for _ in range(2):  # each time a new pod: nothing of the former one's processes, /etc, or environment
        program = (sys.executable, "-c", "import s3vfs_probe_package as p; print(p.answer, p.__file__)")
        clean = {"PATH": os.environ["PATH"]}
        out = ok("run", "--dir", volume, "--profile-d", tmp_path / "none", "--", *program, env=clean)
        assert out == f"42 {volume}/{directory}/s3vfs_probe_package.py\n"
