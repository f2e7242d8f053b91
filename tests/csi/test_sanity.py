"""What the CSI project's sanity suite asks of any driver, beyond refusals (test_refusals.py) and the life cycle.

The suite itself is a Go program, which none of the registries that this project uses carries. These are its questions
in our words: names, limits, listings that change between pages, answers without optional fields.
"""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import pytest

from csi.proto.csi_pb2 import Volume
from csi.topology import NODE_ID_LIMIT_BYTES, TOPOLOGY_KEY, topology_value
from csi.volume_id import LIMIT_BYTES
from tests.csi.client import GIB, Driver, Mode, capability

# A label of Kubernetes: what the kubelet makes of a topology segment.
LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")


def create(driver: Driver, folder: str, name: str, **fields: Any) -> Volume:
    """As the suite does: one capability, of a single node, and nothing optional."""
    wanted = {"parameters": {"url": folder}, "volume_capabilities": [capability(Mode.SINGLE_NODE_WRITER)]}
    return driver.call.CreateVolume(name=name, **(wanted | fields)).volume


def listed(driver: Driver, **fields: Any) -> list[str]:
    return [entry.volume.volume_id for entry in driver.call.ListVolumes(**fields).entries]


def test_the_name_of_the_driver_is_a_domain_name(driver: Driver) -> None:
    info = driver.call.GetPluginInfo()
    assert re.fullmatch(r"[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?", info.name)
    assert re.fullmatch(r"[0-9]+\.[0-9]+\.[0-9]+.*", info.vendor_version)


def test_a_node_says_no_more_than_it_may(driver: Driver) -> None:
    info = driver.call.NodeGetInfo()
    assert 0 < len(info.node_id.encode()) <= NODE_ID_LIMIT_BYTES
    assert info.max_volumes_per_node >= 0
    (value,) = info.accessible_topology.segments.values()
    assert LABEL.fullmatch(value)


@pytest.mark.parametrize("node", ["n", "node-1", "ip-10-0-0-1.eu-central-1.compute.internal", "a" * 63])
def test_the_topology_of_a_node_is_its_name(node: str) -> None:
    assert topology_value(node) == node


@pytest.mark.parametrize("node", ["a" * 64, "node." * 50 + "x", "Knoten 1", "-a", "a-", "n-ambiguous", "k\u00f6ln"])
def test_where_a_name_cannot_be_a_label_a_hash_is(node: str) -> None:
    value = topology_value(node)
    assert LABEL.fullmatch(value)
    assert value != topology_value(node + "x")
    assert len(f"workspace#{'l' * 40}#retain#{value}") <= LIMIT_BYTES


def test_a_node_with_a_long_name_has_workspaces(tmp_path_factory: pytest.TempPathFactory) -> None:
    name = "worker." * 20 + "example"
    driver = Driver(tmp_path_factory.mktemp("d"), "node-1", "--node-id", name)
    try:
        call = driver.start().call
        info = call.NodeGetInfo()
        assert info.node_id == name
        volume = call.CreateVolume(
            name="pvc-1",
            parameters={"type": "workspace"},
            volume_capabilities=[capability(Mode.SINGLE_NODE_WRITER)],
            accessibility_requirements={"preferred": [{"segments": dict(info.accessible_topology.segments)}]},
        ).volume
        assert dict(volume.accessible_topology[0].segments) == {TOPOLOGY_KEY: topology_value(name)}
        call.NodePublishVolume(
            volume_id=volume.volume_id,
            target_path=str(driver.target("a")),
            volume_capability=capability(Mode.SINGLE_NODE_WRITER),
        )
        call.NodeUnpublishVolume(volume_id=volume.volume_id, target_path=str(driver.target("a")))
        call.DeleteVolume(volume_id=volume.volume_id)
    finally:
        driver.stop()


def test_a_node_id_that_is_too_long_is_refused_at_the_start() -> None:
    command = [sys.executable, "-m", "csi", "--endpoint", "/nonexistent/csi.sock", "--node-id", "x" * 257]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, "256 bytes" in done.stderr) == (2, True)


def test_a_volume_without_anything_optional(driver: Driver, folder: str) -> None:
    volume = create(driver, folder, "x" * 128)
    assert volume.volume_id
    assert len(volume.volume_id.encode()) <= LIMIT_BYTES
    assert volume.capacity_bytes == 0, "no quota"
    assert create(driver, folder, "x" * 128) == volume
    wanted = [capability(Mode.SINGLE_NODE_WRITER), capability(Mode.MULTI_NODE_MULTI_WRITER)]
    confirmed = driver.call.ValidateVolumeCapabilities(volume_id=volume.volume_id, volume_capabilities=wanted).confirmed
    assert list(confirmed.volume_capabilities) == wanted
    assert driver.call.ControllerGetVolume(volume_id=volume.volume_id).volume == volume
    for _ in range(2):
        driver.call.DeleteVolume(volume_id=volume.volume_id)
    assert driver.call.refused("ControllerGetVolume", volume_id=volume.volume_id)[0] == "NOT_FOUND"
    request = {"volume_id": volume.volume_id, "volume_capabilities": wanted}
    assert driver.call.refused("ValidateVolumeCapabilities", **request)[0] == "NOT_FOUND"


def test_a_capacity_is_at_least_what_was_required_and_grows(driver: Driver, folder: str) -> None:
    exact = {"required_bytes": GIB, "limit_bytes": GIB}
    volume = create(driver, folder, "pvc-1", capacity_range=exact)
    assert volume.capacity_bytes == GIB
    assert create(driver, folder, "pvc-1", capacity_range=exact) == volume
    request: dict[str, Any] = {"name": "pvc-1", "parameters": {"url": folder}}
    request["volume_capabilities"] = [capability(Mode.SINGLE_NODE_WRITER)]
    request["capacity_range"] = {"required_bytes": 2 * GIB, "limit_bytes": 2 * GIB}
    assert driver.call.refused("CreateVolume", **request)[0] == "ALREADY_EXISTS"
    for _ in range(2):
        grown = driver.call.ControllerExpandVolume(
            volume_id=volume.volume_id,
            capacity_range={"required_bytes": 2 * GIB},
            volume_capability=capability(Mode.SINGLE_NODE_WRITER),
        )
        assert (grown.capacity_bytes, grown.node_expansion_required) == (2 * GIB, False)
    driver.call.DeleteVolume(volume_id=volume.volume_id)


@pytest.mark.long
def test_a_listing_has_what_is_there_also_when_it_changes_between_pages(driver: Driver, folder: str) -> None:
    assert listed(driver) == []
    assert driver.call.ListVolumes(max_entries=1).next_token == ""
    names = [f"pvc-{number}" for number in range(5)]
    made = [create(driver, folder, name).volume_id for name in names]
    assert sorted(listed(driver)) == sorted(made)

    page = driver.call.ListVolumes(max_entries=3)
    first = [entry.volume.volume_id for entry in page.entries]
    assert len(first) == 3
    assert page.next_token
    driver.call.DeleteVolume(volume_id=first[-1])  # what the token was made from
    added = create(driver, folder, "pvc-9").volume_id
    rest = driver.call.ListVolumes(max_entries=3, starting_token=page.next_token)
    second = [entry.volume.volume_id for entry in rest.entries]
    assert sorted(first + second) == sorted([*made, added])
    assert rest.next_token == ""
    assert not set(first) & set(second)

    assert sorted(listed(driver, max_entries=100)) == sorted({*made, added} - {first[-1]})
    assert driver.call.refused("ListVolumes", starting_token="invalid-token")[0] == "ABORTED"
    for volume_id in {*made, added}:
        driver.call.DeleteVolume(volume_id=volume_id)
    assert listed(driver) == []


def test_unpublishing_removes_the_target_and_can_be_repeated(driver: Driver, folder: str) -> None:
    volume = create(driver, folder, "pvc-1")
    target = driver.target("a")
    fields: dict[str, Any] = {"volume_id": volume.volume_id, "target_path": str(target)}
    for _ in range(2):
        driver.call.NodePublishVolume(
            **fields,
            volume_capability=capability(Mode.SINGLE_NODE_WRITER),
            volume_context=volume.volume_context,
            staging_target_path="/nonexistent/staging",
        )
    stats = driver.call.NodeGetVolumeStats(volume_id=volume.volume_id, volume_path=str(target))
    for usage in stats.usage:
        assert usage.total >= usage.used >= 0
        assert usage.available > 0
    assert not stats.volume_condition.abnormal
    assert stats.volume_condition.message
    for path in (target / "below", target.parent):
        request = {"volume_id": volume.volume_id, "volume_path": str(path)}
        assert driver.call.refused("NodeGetVolumeStats", **request)[0] == "NOT_FOUND"
    for _ in range(2):
        driver.call.NodeUnpublishVolume(**fields)
        assert not target.exists()
    driver.call.DeleteVolume(volume_id=volume.volume_id)
