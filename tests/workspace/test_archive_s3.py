"""`workspace archive s3://...` and `restore s3://...`: on a real S3 server, interrupted, cut off, and damaged."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.conftest import wire as wire
from tests.acceptance.conftest import wired_volume as wired_volume
from tests.cli.command import daemon_of, end
from tests.mounted import Volume, eventually
from tests.proxy.process import ProxyProcess
from tests.servers.place import ServerPlace
from tests.workspace.test_archive import OWN_AND_STATE, Node, damage
from tests.workspace.trees import WORKSPACE, described, make_many, ok, workspace

# The large file of 9 MiB takes 3 s: time enough to be interrupted.
SLOW_BYTES_PER_S = 3 << 20


@pytest.fixture
def a(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path / "node-a", tmp_path / "unused").fill()
    make_many(node.volume / "many", 600)
    yield node
    end_transfer(node)


@pytest.fixture
def b(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path / "node-b", tmp_path / "unused")
    yield node
    end_transfer(node)


@pytest.fixture
def environment(seaweed: ServerPlace, wire: ProxyProcess) -> dict[str, str]:
    """What a pod has: credentials and the endpoint, by way of the wire."""
    return {**os.environ, **seaweed.environment(), "AWS_ENDPOINT_URL": wire.url}


def mountpoint(node: Node) -> Path:
    return node.volume / ".s3vfs/transfer/mnt"


def end_transfer(node: Node) -> None:
    """What a killed command leaves behind, and nobody has repeated."""
    if os.path.ismount(mountpoint(node)):
        with contextlib.suppress(AssertionError):
            end(daemon_of(mountpoint(node)))
        subprocess.run(["umount", "-l", mountpoint(node)], check=False, capture_output=True)


def equal(a: Node, b: Node) -> bool:
    """But for the state directory, which holds this node's own files, and the directory that it was made in."""
    own = {*OWN_AND_STATE, "."}
    return described(a.volume, own.__contains__) == described(b.volume, own.__contains__)


def begin(*words: str | Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen([*WORKSPACE, *map(str, words)], env=environment, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize("with_daemon", [False, pytest.param(True, marks=pytest.mark.long)])
def test_killed_in_the_middle_both_ways(
    a: Node, b: Node, wired_volume: Volume, wire: ProxyProcess, environment: dict[str, str], with_daemon: bool
) -> None:
    """The command alone is killed, or the whole pod with the mount that serves it."""
    url = wired_volume.url

    def kill(process: subprocess.Popen[bytes], node: Node) -> None:
        if with_daemon:
            end(daemon_of(mountpoint(node)))
        process.kill()
        process.wait()

    wire.set_link(bytes_per_s=SLOW_BYTES_PER_S)
    process = begin("archive", url, a.volume, environment=environment)
    packs = mountpoint(a) / "workspace-archive/packs"
    eventually(lambda: [name for name in os.listdir(packs) if name.startswith("tmp-")], within_s=60)
    kill(process, a)
    wire.set_link()
    assert workspace("restore", url, b.volume, env=environment).returncode == 3, "nothing is whole yet"
    assert "generation 1" in ok("archive", url, a.volume, env=environment)
    assert "generation 1 is whole" in ok("restore", url, b.volume, "--check", env=environment)

    process = begin("restore", url, b.volume, environment=environment)
    eventually(lambda: (b.volume / "many/d001").exists(), within_s=60)
    kill(process, b)
    assert workspace("archive", url, b.volume, env=environment).returncode == 8, "it is half a workspace"
    assert "generation 1 is restored" in ok("restore", url, b.volume, env=environment)
    assert equal(a, b)
    assert "is here already" in ok("restore", url, b.volume, env=environment)

    (b.volume / "home/.bashrc").write_text("on b")
    assert "generation 2" in ok("archive", url, b.volume, env=environment)
    ok("restore", url, a.volume, "--replace", env=environment)
    assert equal(a, b)
    for node in (a, b):
        assert not (node.volume / ".s3vfs/transfer").exists(), "no cache and no mount are left"


def test_a_server_that_goes_away_for_a_while_is_waited_for(
    a: Node, b: Node, wired_volume: Volume, wire: ProxyProcess, environment: dict[str, str]
) -> None:
    wire.set_link(bytes_per_s=SLOW_BYTES_PER_S)
    process = begin("archive", wired_volume.url, a.volume, environment=environment)
    eventually(lambda: wire.counts().bytes_up > 1 << 20, within_s=60)
    wire.refuse()
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(2)
    wire.resume()
    wire.set_link()
    assert process.wait(120) == 0
    ok("restore", wired_volume.url, b.volume, env=environment)
    assert equal(a, b)


@pytest.mark.long
def test_damage_is_found_and_wrong_places_are_named(
    a: Node, b: Node, wired_volume: Volume, environment: dict[str, str]
) -> None:
    url = wired_volume.url
    done = workspace("archive", f"{url}-missing", a.volume, env=environment)
    assert (done.returncode, "s3vfs mount failed" in done.stderr) == (1, True)
    ok("archive", url, a.volume, "--path", "w/anna", env=environment)
    assert workspace("restore", url, b.volume, env=environment).returncode == 3, "another path"
    mount = wired_volume.mount()
    (pack,) = (mount.path / "w/anna/packs").iterdir()
    damage(pack, 1000)
    assert mount.umount() == 0
    for words in (["--check"], []):
        done = workspace("restore", url, b.volume, "--path", "w/anna", *words, env=environment)
        assert done.returncode == 7, done
    ok("archive", url, a.volume, "--path", "w/anna", "--full", env=environment)
    ok("restore", url, b.volume, "--path", "w/anna", env=environment)
    assert equal(a, b)
