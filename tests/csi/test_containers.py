"""The driver in a container, and pods in theirs: what reaches a pod through mount propagation, and what heals it."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from csi.proto.csi_pb2 import Volume
from tests.csi.client import Mode, capability
from tests.csi.cluster_node import ClusterNode
from tests.csi.test_publishing import make, publish, unpublish


@pytest.fixture
def node(tmp_path: Path) -> Iterator[ClusterNode]:
    made = ClusterNode(tmp_path)
    yield made
    made.end()


@pytest.fixture
def volume(node: ClusterNode, tmp_path: Path) -> Volume:
    return make(node.driver, f"file://{tmp_path}/bucket")


def test_running_pods_are_healed_when_the_plugins_container_has_ended(node: ClusterNode, volume: Volume) -> None:
    """`requiresRepublish` in the CSIDriver, `mountPropagation: HostToContainer` in the pod."""
    driver = node.driver
    writer = node.pod(publish(driver, volume, "writer"), "slave")
    reader = node.pod(publish(driver, volume, "reader", readonly=True), "slave")
    alone = node.pod(publish(driver, volume, "alone"), "private")
    assert writer.sh(f"echo first >{writer.directory}/file").returncode == 0
    for again in range(2):
        node.restart_container()
        for pod in (writer, reader, alone):
            assert "not connected" in pod.sh(f"cat {pod.directory}/file").stderr
        publish(driver, volume, "writer")
        assert writer.sh(f"cat {writer.directory}/file").stdout == "first\n"
        assert "not connected" in reader.sh(f"cat {reader.directory}/file").stderr, "each pod has its own mount"
        publish(driver, volume, "reader", readonly=True)
        publish(driver, volume, "alone")
        assert reader.sh(f"cat {reader.directory}/file").stdout == "first\n"
        assert "Read-only" in reader.sh(f"touch {reader.directory}/file").stderr, "a healed reader is still a reader"
        assert writer.sh(f"echo {again} >{writer.directory}/{again}").returncode == 0
        assert reader.sh(f"cat {reader.directory}/{again}").stdout == f"{again}\n"
    assert "not connected" in alone.sh(f"cat {alone.directory}/file").stderr, "nothing reaches a private copy"

    for name in ("writer", "alone"):
        unpublish(driver, volume, name)
        assert node.host.mount_at(driver.target(name)) is None
    assert reader.sh(f"cat {reader.directory}/file").stdout == "first\n", "the end of one is not that of another"
    unpublish(driver, volume, "reader")
    assert list(driver.pods.iterdir()) == []
    assert list(driver.state.glob("mounts/*")) == []


def test_what_a_pod_may_not_do_holds_outside_the_drivers_container(node: ClusterNode, volume: Volume) -> None:
    driver = node.driver
    target = publish(driver, volume, "reader", readonly=True, volume_capability=capability(flags=("noexec",)))
    pod = node.pod(target, "slave")
    assert "Read-only" in pod.sh(f"touch {pod.directory}/file").stderr
    unpublish(driver, volume, "reader")

    workspace = driver.call.CreateVolume(
        name="w", parameters={"type": "workspace"}, volume_capabilities=[capability(Mode.SINGLE_NODE_WRITER)]
    ).volume
    flags = ("nosuid", "nodev", "noexec", "noatime", "nodiratime")
    fields = {"volume_capability": capability(Mode.SINGLE_NODE_WRITER, flags=flags), "readonly": True}
    target = publish(driver, workspace, "w", **fields)
    seen = node.host.mount_at(target)
    assert seen is not None
    assert {"ro", *flags} <= set(seen.options.split(","))
    unpublish(driver, workspace, "w")


@pytest.mark.long
def test_republishing_leaves_alone_what_the_user_has_done_since(node: ClusterNode, volume: Volume) -> None:
    driver = node.driver
    grouped = {"volume_capability": capability(group="4321")}
    pod = node.pod(publish(driver, volume, "a", **grouped), "slave")
    assert pod.sh(f"stat -c %g:%a {pod.directory}").stdout == "4321:2775\n"
    assert pod.sh(f"chmod 750 {pod.directory}").returncode == 0
    publish(driver, volume, "a", **grouped)
    assert pod.sh(f"stat -c %g:%a {pod.directory}").stdout == "4321:2750\n"
    unpublish(driver, volume, "a")


def test_nothing_is_written_under_a_dead_mount_that_waits_to_be_healed(node: ClusterNode, volume: Volume) -> None:
    target = publish(node.driver, volume, "a")
    node.restart_container()
    assert node.host.sh(f"touch {target}/file").stderr.rstrip().endswith("not connected")
    assert node.host.sh(f"umount {target}; touch {target}/file").stderr.rstrip().endswith("not permitted")
    unpublish(node.driver, volume, "a")
    with pytest.raises(OSError) as missing:  # noqa: PT011
        target.stat()
    assert missing.value.errno == errno.ENOENT
