"""Two pods on two nodes, each with a workspace and a shared volume. A node is a driver of its own; a pod is a mount
namespace with a root of its own, into which the targets are bound as a container runtime does."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from csi.proto.csi_pb2 import Volume
from csi.topology import TOPOLOGY_KEY
from tests.csi.client import GIB, Driver, Mode, capability
from tests.csi.conftest import StartDriver
from tests.mounted import eventually
from tests.servers.place import ServerPlace

FRESHNESS_S = 0.1  # a look at the other node may be that old

_ENTER = """
set -e
mount -t tmpfs tmpfs "$1"
for directory in bin sbin lib lib64 usr etc dev proc; do
    if [ -L "/$directory" ]; then cp -P "/$directory" "$1/$directory"
    elif [ -d "/$directory" ]; then mkdir "$1/$directory"; mount --rbind "/$directory" "$1/$directory"; fi
done
mkdir "$1/tmp" "$1/workspace" "$1/shared" "$1/old"
mount --rbind "$2" "$1/workspace"
mount --rbind "$3" "$1/shared"
cd "$1"
pivot_root . old
umount -l /old
echo ready
exec cat
"""


class Pod:
    """Its commands see /workspace and /shared, and nothing else of the machine but its programs."""

    def __init__(self, root: Path, workspace: Path, shared: Path) -> None:
        root.mkdir(exist_ok=True)
        command = ["unshare", "-m", "--propagation", "private", "sh", "-c", _ENTER, "pod"]
        self._process = subprocess.Popen(
            [*command, str(root), str(workspace), str(shared)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n"

    def run(self, script: str) -> str:
        """The output of a shell script in the pod. Fails with what it says where it fails."""
        done = subprocess.run(
            ["nsenter", "-t", str(self._process.pid), "-m", "-r", "-w", "sh", "-ec", script],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def end(self) -> None:
        if not self._process.stdin or not self._process.stdin.closed:
            self._process.communicate()


class Placed:
    """A pod on its node, with both volumes published."""

    def __init__(self, driver: Driver, shared: Volume, secrets: dict[str, str]) -> None:
        self.driver, self.shared = driver, shared
        self.workspace = driver.call.CreateVolume(
            name="workspace",
            parameters={"type": "workspace"},
            volume_capabilities=[capability(Mode.SINGLE_NODE_WRITER)],
            capacity_range={"required_bytes": GIB},
            accessibility_requirements={"preferred": [{"segments": {TOPOLOGY_KEY: driver.node}}]},
        ).volume
        for volume, mode in ((self.workspace, Mode.SINGLE_NODE_WRITER), (shared, Mode.MULTI_NODE_MULTI_WRITER)):
            driver.call.NodePublishVolume(
                volume_id=volume.volume_id,
                target_path=str(self._target(volume)),
                volume_capability=capability(mode),
                volume_context=volume.volume_context,
                secrets=secrets,
            )
        self.pod = Pod(driver.folder / "root", self._target(self.workspace), self._target(shared))

    def _target(self, volume: Volume) -> Path:
        return self.driver.target(volume.volume_id.partition("#")[0])

    def end(self) -> None:
        """As an orchestrator: the containers first, then their volumes."""
        self.pod.end()
        for volume in (self.workspace, self.shared):
            self.driver.call.NodeUnpublishVolume(volume_id=volume.volume_id, target_path=str(self._target(volume)))


def test_two_pods_on_two_nodes_share_one_volume_and_keep_their_workspaces(
    start_driver: StartDriver, seaweed: ServerPlace, secrets: dict[str, str], request: pytest.FixtureRequest
) -> None:
    nodes = [start_driver("node-1"), start_driver("node-2")]
    volume = (
        nodes[0]
        .call.CreateVolume(
            name="shared",
            parameters={"url": seaweed.fresh_url(), "endpointUrl": seaweed.endpoint_url},
            secrets=secrets,
            volume_capabilities=[capability()],
        )
        .volume
    )
    first, second = (Placed(node, volume, secrets) for node in nodes)
    request.addfinalizer(first.pod.end)
    request.addfinalizer(second.pod.end)
    one, two = first.pod, second.pod

    one.run("echo from-1 > /shared/a; echo mine-1 > /workspace/w")
    time.sleep(FRESHNESS_S)
    assert two.run("cat /shared/a; ls -A /workspace") == "from-1\n"
    two.run("echo from-2 >> /shared/a; mv /shared/a /shared/b; echo mine-2 > /workspace/w")
    eventually(lambda: one.run("cat /shared/b 2>&1 || true") == "from-1\nfrom-2\n")
    eventually(lambda: one.run("ls /shared; cat /workspace/w") == "b\nmine-1\n")
    # O_EXCL is exact across nodes: the second comes too late, and both agree.
    racers = "set -C; for n in 1 2 3 4 5; do (echo {} > /shared/lock-$n) 2>/dev/null || true; done"
    one.run(racers.format("one"))
    two.run(racers.format("two"))
    assert one.run("cat /shared/lock-*") == two.run("cat /shared/lock-*") == "one\n" * 5

    second.end()
    assert nodes[1].sources() == []
    assert one.run("cat /shared/b") == "from-1\nfrom-2\n", "the other pod goes on"
    second = Placed(nodes[1], volume, secrets)
    request.addfinalizer(second.pod.end)
    assert second.pod.run("cat /shared/b; cat /workspace/w") == "from-1\nfrom-2\nmine-2\n", "and the next finds all"
    for placed in (first, second):
        placed.end()
    assert [node.sources() for node in nodes] == [[], []]
