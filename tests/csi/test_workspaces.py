"""Workspace volumes: directories on the node's disk."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from csi.marker import Capacity
from csi.proto.csi_pb2 import Volume
from csi.refusals import Code, Refusal
from csi.topology import TOPOLOGY_KEY
from csi.volume_id import WorkspaceId
from csi.workspaces import Workspaces
from tests.csi.client import GIB, Driver, Mode, capability, mounted

WRITER = capability(Mode.SINGLE_NODE_WRITER)


def make(driver: Driver, name: str, node: str = "node-1", **parameters: str) -> Volume:
    return driver.call.CreateVolume(
        name=name,
        parameters={"type": "workspace", **parameters},
        volume_capabilities=[WRITER],
        capacity_range={"required_bytes": GIB},
        accessibility_requirements={"preferred": [{"segments": {TOPOLOGY_KEY: node}}]},
    ).volume


def publication(driver: Driver, volume: Volume, pod: str, **fields: Any) -> dict[str, Any]:
    return {
        "volume_id": volume.volume_id,
        "target_path": str(driver.target(pod)),
        "volume_capability": WRITER,
        "volume_context": volume.volume_context,
        **fields,
    }


def test_a_workspace_lives_on_its_node(driver: Driver) -> None:
    call = driver.call
    volume = make(driver, "pvc-1")
    assert make(driver, "pvc-1") == volume
    assert [dict(one.segments) for one in volume.accessible_topology] == [{TOPOLOGY_KEY: "node-1"}]
    for _ in range(10):
        call.NodePublishVolume(**publication(driver, volume, "a"))
    target = driver.target("a")
    (target / "code.py").write_text("print()")
    assert (driver.workspaces / "pvc-1" / "code.py").read_text() == "print()"
    assert driver.sources() == []
    assert call.NodeGetVolumeStats(volume_id=volume.volume_id, volume_path=str(target)).usage[0].total > 0
    assert call.refused("DeleteVolume", volume_id=volume.volume_id)[0] == "FAILED_PRECONDITION"
    for _ in range(2):
        call.NodeUnpublishVolume(volume_id=volume.volume_id, target_path=str(target))
    assert not target.exists()
    assert (driver.workspaces / "pvc-1" / "code.py").exists(), "unpublishing removes no file"
    expanded = call.ControllerExpandVolume(volume_id=volume.volume_id, capacity_range={"required_bytes": 2 * GIB})
    assert (expanded.capacity_bytes, expanded.node_expansion_required) == (2 * GIB, False)
    assert [entry.volume.capacity_bytes for entry in call.ListVolumes().entries] == [2 * GIB]
    for _ in range(2):
        call.DeleteVolume(volume_id=volume.volume_id)
    assert not (driver.workspaces / "pvc-1").exists()
    assert call.refused("NodePublishVolume", **publication(driver, volume, "a"))[0] == "NOT_FOUND"


def test_a_workspace_takes_read_only_group_and_options(driver: Driver) -> None:
    volume = make(driver, "pvc-2", onDelete="retain")
    grouped = capability(Mode.SINGLE_NODE_WRITER, flags=("noexec",), group="4321")
    driver.call.NodePublishVolume(**publication(driver, volume, "a", volume_capability=grouped))
    driver.call.NodePublishVolume(**publication(driver, volume, "b", readonly=True))
    mount = mounted(driver.target("a"))
    assert mount is not None
    assert "noexec" in mount.options.split(",")
    assert (driver.target("a").stat().st_gid, driver.target("a").stat().st_mode & 0o7777) == (4321, 0o2775)
    with pytest.raises(OSError, match="Read-only") as refused:
        (driver.target("b") / "x").touch()
    assert refused.value.errno == errno.EROFS
    for pod in ("a", "b"):
        driver.call.NodeUnpublishVolume(volume_id=volume.volume_id, target_path=str(driver.target(pod)))
    driver.call.DeleteVolume(volume_id=volume.volume_id)
    assert (driver.workspaces / "pvc-2").is_dir(), "retained"


def test_a_pod_can_go_when_the_disk_has_gone(driver: Driver) -> None:
    volumes = [
        driver.call.CreateVolume(
            name=f"gone-{number}", parameters={"type": "workspace"}, volume_capabilities=[WRITER]
        ).volume
        for number in range(2)
    ]
    target = driver.target("gone")
    driver.call.NodePublishVolume(volume_id=volumes[0].volume_id, target_path=str(target), volume_capability=WRITER)
    request = {"volume_id": volumes[1].volume_id, "target_path": str(target)}
    assert driver.call.refused("NodeUnpublishVolume", **request)[0] == "NOT_FOUND", "it is another volume's"
    away = driver.workspaces.rename(driver.folder / "away")
    driver.call.NodeUnpublishVolume(volume_id=volumes[0].volume_id, target_path=str(target))
    assert not target.exists()
    away.rename(driver.workspaces)
    for volume in volumes:
        driver.call.DeleteVolume(volume_id=volume.volume_id)


def test_a_controller_elsewhere_makes_workspaces_that_are_retained(driver: Driver) -> None:
    """Its node makes the directory when it is first published."""
    volume = make(driver, "pvc-3", node="node-2", onDelete="retain")
    assert volume.volume_id == "workspace#pvc-3#retain#node-2"
    here = Volume(volume_id="workspace#pvc-3#retain#node-1", volume_context=volume.volume_context)
    driver.call.NodePublishVolume(**publication(driver, here, "a"))
    assert (driver.workspaces / "pvc-3").is_dir()
    driver.call.NodeUnpublishVolume(volume_id=here.volume_id, target_path=str(driver.target("a")))
    driver.call.DeleteVolume(volume_id=volume.volume_id)


@pytest.fixture
def workspaces(tmp_path: Path) -> Workspaces:
    return Workspaces(tmp_path, "n")


def test_a_foreign_directory_is_never_taken_over(workspaces: Workspaces, tmp_path: Path) -> None:
    (tmp_path / "pvc-1").mkdir()
    with pytest.raises(Refusal) as refused:
        workspaces.create("pvc-1", "pvc-1", {}, Capacity(GIB))
    assert refused.value.code is Code.ALREADY_EXISTS


def test_the_same_name_with_another_capacity_is_refused(workspaces: Workspaces) -> None:
    workspaces.create("pvc-1", "pvc-1", {}, Capacity(GIB))
    workspaces.create("pvc-1", "pvc-1", {}, Capacity(GIB))
    with pytest.raises(Refusal) as refused:
        workspaces.create("pvc-1", "pvc-1", {}, Capacity(2 * GIB))
    assert refused.value.code is Code.ALREADY_EXISTS


def test_an_interrupted_deletion_is_finished_and_follows_no_link(workspaces: Workspaces, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").touch()
    deleted = tmp_path / ".csi-deleted" / "pvc-1-x"
    deleted.mkdir(parents=True)
    (deleted / "link").symlink_to(outside)
    workspaces.remove_deleted()
    assert not deleted.exists()
    assert (outside / "precious").exists()


def test_a_missing_disk_is_told_and_not_replaced(tmp_path: Path) -> None:
    workspaces = Workspaces(tmp_path / "not-mounted", "n")
    for call in (
        lambda: workspaces.create("pvc-1", "pvc-1", {}, Capacity()),
        lambda: workspaces.directory_of(WorkspaceId("pvc-1", "retain", "n")),
    ):
        with pytest.raises(Refusal, match="not there"):
            call()
    assert list(tmp_path.iterdir()) == []
