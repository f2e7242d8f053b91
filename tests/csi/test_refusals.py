"""Every error of the specification that a call can meet, with its code; and what is offered at all."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from csi.proto.csi_pb2 import (
    ControllerServiceCapability,
    NodeServiceCapability,
    PluginCapability,
    VolumeCapability,
)
from csi.refusals import Code, Refusal
from csi.server import InFlight, socket_of
from csi.topology import TOPOLOGY_KEY
from csi.volume_id import Location, SharedId
from tests.csi.client import GIB, Driver, Mode, capability

NO_MODE = VolumeCapability(mount=VolumeCapability.MountVolume())
NO_TYPE = VolumeCapability(access_mode=VolumeCapability.AccessMode(mode=Mode.SINGLE_NODE_WRITER))
BLOCK = VolumeCapability(
    block=VolumeCapability.BlockVolume(), access_mode=VolumeCapability.AccessMode(mode=Mode.SINGLE_NODE_WRITER)
)
NO_FOLDER = str(SharedId("pvc-1", Location("file:///nonexistent/folder")))


def test_the_driver_says_who_it_is(driver: Driver) -> None:
    assert driver.call.GetPluginInfo().name == "csi.s3vfs.io"
    assert driver.call.GetPluginInfo().vendor_version
    assert driver.call.Probe().ready.value is True
    info = driver.call.NodeGetInfo()
    assert info.node_id == "node-1"
    assert dict(info.accessible_topology.segments) == {TOPOLOGY_KEY: "node-1"}


def test_it_offers_what_it_has(driver: Driver) -> None:
    services = [one.service.type for one in driver.call.GetPluginCapabilities().capabilities if one.HasField("service")]
    assert services == [
        PluginCapability.Service.CONTROLLER_SERVICE,
        PluginCapability.Service.VOLUME_ACCESSIBILITY_CONSTRAINTS,
    ]
    rpc = ControllerServiceCapability.RPC
    assert {one.rpc.type for one in driver.call.ControllerGetCapabilities().capabilities} == {
        rpc.CREATE_DELETE_VOLUME,
        rpc.LIST_VOLUMES,
        rpc.EXPAND_VOLUME,
        rpc.GET_VOLUME,
        rpc.SINGLE_NODE_MULTI_WRITER,
    }
    node = NodeServiceCapability.RPC
    assert {one.rpc.type for one in driver.call.NodeGetCapabilities().capabilities} == {
        node.GET_VOLUME_STATS,
        node.VOLUME_CONDITION,
        node.SINGLE_NODE_MULTI_WRITER,
        node.VOLUME_MOUNT_GROUP,
    }


@pytest.mark.parametrize(
    ("service", "method"),
    [
        ("Controller", "ControllerPublishVolume"),
        ("Controller", "ControllerUnpublishVolume"),
        ("Controller", "GetCapacity"),
        ("Controller", "CreateSnapshot"),
        ("Controller", "ListSnapshots"),
        ("Controller", "ControllerModifyVolume"),
        ("Node", "NodeStageVolume"),
        ("Node", "NodeUnstageVolume"),
        ("Node", "NodeExpandVolume"),
        ("GroupController", "CreateVolumeGroupSnapshot"),
    ],
)
def test_what_is_not_offered_is_unimplemented(driver: Driver, service: str, method: str) -> None:
    assert driver.call.unknown(service, method).name == "UNIMPLEMENTED"


CREATE = {
    "no name": ({"name": ""}, "INVALID_ARGUMENT"),
    "a name of 129 characters": ({"name": "x" * 129}, "INVALID_ARGUMENT"),
    "a control character": ({"name": "a\x07"}, "INVALID_ARGUMENT"),
    "no capabilities": ({"volume_capabilities": []}, "INVALID_ARGUMENT"),
    "no access mode": ({"volume_capabilities": [NO_MODE]}, "INVALID_ARGUMENT"),
    "no access type": ({"volume_capabilities": [NO_TYPE]}, "INVALID_ARGUMENT"),
    "one of two without access mode": ({"volume_capabilities": [capability(), NO_MODE]}, "INVALID_ARGUMENT"),
    "a block device": ({"volume_capabilities": [BLOCK]}, "INVALID_ARGUMENT"),
    "another file system": ({"volume_capabilities": [capability(fs_type="ext4")]}, "INVALID_ARGUMENT"),
    "an access mode of the future": ({"volume_capabilities": [capability(42)]}, "INVALID_ARGUMENT"),
    "no url": ({"parameters": {}}, "INVALID_ARGUMENT"),
    "an unknown type": ({"parameters": {"type": "tape"}}, "INVALID_ARGUMENT"),
    "an unknown parameter": ({"parameters": {"url": "file:///x", "size": "1"}}, "INVALID_ARGUMENT"),
    "a snapshot": ({"volume_content_source": {"snapshot": {"snapshot_id": "s"}}}, "INVALID_ARGUMENT"),
    "a clone": ({"volume_content_source": {"volume": {"volume_id": "v"}}}, "INVALID_ARGUMENT"),
    "an empty source": ({"volume_content_source": {}}, "INVALID_ARGUMENT"),
    "a mutable parameter": ({"mutable_parameters": {"a": "b"}}, "INVALID_ARGUMENT"),
    "a negative capacity": ({"capacity_range": {"required_bytes": -1}}, "INVALID_ARGUMENT"),
    "required above the limit": ({"capacity_range": {"required_bytes": 2, "limit_bytes": 1}}, "OUT_OF_RANGE"),
    "a secret that reads files": ({"secrets": {"AWS_CONFIG_FILE": "/etc/x"}}, "INVALID_ARGUMENT"),
    "an id too long": ({"parameters": {"url": "s3://b/" + "p" * 120}}, "INVALID_ARGUMENT"),
    "a parent that is missing": ({"parameters": {"url": "file:///nonexistent/folder"}}, "NOT_FOUND"),
    "a workspace for many nodes": ({"parameters": {"type": "workspace"}}, "INVALID_ARGUMENT"),
    "a workspace in no node": (
        {
            "parameters": {"type": "workspace"},
            "volume_capabilities": [capability(Mode.SINGLE_NODE_WRITER)],
            "accessibility_requirements": {"requisite": [{"segments": {"zone": "a"}}]},
        },
        "RESOURCE_EXHAUSTED",
    ),
    "a workspace on a node that nobody could delete": (
        {
            "parameters": {"type": "workspace"},
            "volume_capabilities": [capability(Mode.SINGLE_NODE_WRITER)],
            "accessibility_requirements": {"preferred": [{"segments": {TOPOLOGY_KEY: "node-2"}}]},
        },
        "INVALID_ARGUMENT",
    ),
}


@pytest.mark.parametrize("case", CREATE)
def test_create_refuses(driver: Driver, case: str) -> None:
    changed, code = CREATE[case]
    fields: dict[str, Any] = {
        "name": "pvc-1",
        "parameters": {"url": "file:///nonexistent"},
        "volume_capabilities": [capability()],
    }
    assert driver.call.refused("CreateVolume", **(fields | changed))[0] == code


OTHERS = {
    "delete without id": ("DeleteVolume", {}, "INVALID_ARGUMENT"),
    "delete of a workspace elsewhere": (
        "DeleteVolume",
        {"volume_id": "workspace#a#delete#node-2"},
        "FAILED_PRECONDITION",
    ),
    "validate without id": ("ValidateVolumeCapabilities", {"volume_capabilities": [capability()]}, "INVALID_ARGUMENT"),
    "validate without capabilities": ("ValidateVolumeCapabilities", {"volume_id": NO_FOLDER}, "INVALID_ARGUMENT"),
    "validate an incomplete one": (
        "ValidateVolumeCapabilities",
        {"volume_id": NO_FOLDER, "volume_capabilities": [NO_MODE]},
        "INVALID_ARGUMENT",
    ),
    "validate what is not there": (
        "ValidateVolumeCapabilities",
        {"volume_id": NO_FOLDER, "volume_capabilities": [capability()]},
        "NOT_FOUND",
    ),
    "validate what nobody knows": (
        "ValidateVolumeCapabilities",
        {"volume_id": "some-id", "volume_capabilities": [capability()]},
        "NOT_FOUND",
    ),
    "validate a workspace that is not there": (
        "ValidateVolumeCapabilities",
        {"volume_id": "workspace#a#delete#node-1", "volume_capabilities": [capability()]},
        "NOT_FOUND",
    ),
    "list fewer than none": ("ListVolumes", {"max_entries": -1}, "INVALID_ARGUMENT"),
    "list from an invented token": ("ListVolumes", {"starting_token": "invalid-token"}, "ABORTED"),
    "list from a token of another time": ("ListVolumes", {"starting_token": "W3sidXJsIjoieCJ9LCJhIl0="}, "ABORTED"),
    "get without id": ("ControllerGetVolume", {}, "INVALID_ARGUMENT"),
    "get what is not there": ("ControllerGetVolume", {"volume_id": NO_FOLDER}, "NOT_FOUND"),
    "get what nobody knows": ("ControllerGetVolume", {"volume_id": "some-id"}, "NOT_FOUND"),
    "expand without id": ("ControllerExpandVolume", {"capacity_range": {"required_bytes": 1}}, "INVALID_ARGUMENT"),
    "expand without range": ("ControllerExpandVolume", {"volume_id": NO_FOLDER}, "INVALID_ARGUMENT"),
    "expand to nothing": ("ControllerExpandVolume", {"volume_id": NO_FOLDER, "capacity_range": {}}, "INVALID_ARGUMENT"),
    "expand what is not there": (
        "ControllerExpandVolume",
        {"volume_id": NO_FOLDER, "capacity_range": {"required_bytes": GIB}},
        "NOT_FOUND",
    ),
    "expand what nobody knows": (
        "ControllerExpandVolume",
        {"volume_id": "some-id", "capacity_range": {"required_bytes": GIB}},
        "NOT_FOUND",
    ),
    "publish without id": ("NodePublishVolume", {}, "INVALID_ARGUMENT"),
    "publish without target": ("NodePublishVolume", {"volume_id": "v"}, "INVALID_ARGUMENT"),
    "publish to a relative target": (
        "NodePublishVolume",
        {"volume_id": "v", "target_path": "a/b", "volume_capability": capability()},
        "INVALID_ARGUMENT",
    ),
    "publish without capability": ("NodePublishVolume", {"volume_id": "v", "target_path": "/x"}, "INVALID_ARGUMENT"),
    "publish without access mode": (
        "NodePublishVolume",
        {"volume_id": "v", "target_path": "/x", "volume_capability": NO_MODE},
        "INVALID_ARGUMENT",
    ),
    "publish what nobody knows": (
        "NodePublishVolume",
        {"volume_id": "v", "target_path": "/x", "volume_capability": capability()},
        "NOT_FOUND",
    ),
    "publish a workspace of another node": (
        "NodePublishVolume",
        {
            "volume_id": "workspace#a#delete#node-2",
            "target_path": "/x",
            "volume_capability": capability(Mode.SINGLE_NODE_WRITER),
        },
        "FAILED_PRECONDITION",
    ),
    "publish a workspace whose disk is missing": (
        "NodePublishVolume",
        {
            "volume_id": "workspace#a#delete#node-1",
            "target_path": "/x",
            "volume_capability": capability(Mode.SINGLE_NODE_WRITER),
        },
        "NOT_FOUND",
    ),
    "publish with a forbidden option": (
        "NodePublishVolume",
        {
            "volume_id": NO_FOLDER,
            "target_path": "/x",
            "volume_capability": capability(flags=("cache_dir=/etc",)),
        },
        "INVALID_ARGUMENT",
    ),
    "publish with a group that is no number": (
        "NodePublishVolume",
        {"volume_id": NO_FOLDER, "target_path": "/x", "volume_capability": capability(group="staff")},
        "INVALID_ARGUMENT",
    ),
    "unpublish without id": ("NodeUnpublishVolume", {"target_path": "/x"}, "INVALID_ARGUMENT"),
    "unpublish without target": ("NodeUnpublishVolume", {"volume_id": "v"}, "INVALID_ARGUMENT"),
    "unpublish what is somebody else's mount": (
        "NodeUnpublishVolume",
        {"volume_id": "v", "target_path": "/proc"},
        "NOT_FOUND",
    ),
    "stats without id": ("NodeGetVolumeStats", {"volume_path": "some/path"}, "INVALID_ARGUMENT"),
    "stats without path": ("NodeGetVolumeStats", {"volume_id": "v"}, "INVALID_ARGUMENT"),
    "stats of a relative path": ("NodeGetVolumeStats", {"volume_id": "v", "volume_path": "some/path"}, "NOT_FOUND"),
    "stats of somebody else's mount": ("NodeGetVolumeStats", {"volume_id": "v", "volume_path": "/proc"}, "NOT_FOUND"),
    "stats of what is not there": (
        "NodeGetVolumeStats",
        {"volume_id": "v", "volume_path": "/nonexistent/x"},
        "NOT_FOUND",
    ),
}


@pytest.mark.parametrize("case", OTHERS)
def test_a_call_is_refused(driver: Driver, case: str) -> None:
    name, fields, code = OTHERS[case]
    assert driver.call.refused(name, **fields)[0] == code


@pytest.mark.parametrize(
    "volume_id", ["reallyfakevolumeid", NO_FOLDER, "workspace#a#retain#node-2", "workspace#a#delete#node-1"]
)
def test_deleting_what_is_not_there_is_done(driver: Driver, volume_id: str) -> None:
    driver.call.DeleteVolume(volume_id=volume_id)


def test_unpublishing_what_is_not_published_is_done(driver: Driver) -> None:
    driver.call.NodeUnpublishVolume(volume_id="v", target_path=str(driver.target("nothing")))
    driver.call.NodeUnpublishVolume(volume_id="v", target_path="/nonexistent/a/b")


def test_nothing_was_left_by_any_of_these(driver: Driver) -> None:
    assert driver.sources() == []
    assert list(driver.pods.iterdir()) == []


def test_one_operation_a_volume_at_a_time() -> None:
    in_flight = InFlight()
    inside, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with in_flight.only("v"):
            inside.set()
            leave.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    inside.wait(30)
    with pytest.raises(Refusal) as refused, in_flight.only("v"):
        pass
    assert refused.value.code is Code.ABORTED
    with in_flight.only("another"):
        pass
    leave.set()
    thread.join()
    with in_flight.only("v"):
        pass


def test_an_endpoint_is_a_socket_in_the_file_system() -> None:
    assert socket_of("unix:///csi/csi.sock") == socket_of("/csi/csi.sock") == Path("/csi/csi.sock")
    for text in ("", "csi.sock", "tcp://0.0.0.0:1", "unix:csi.sock"):
        with pytest.raises(ValueError, match="no endpoint"):
            socket_of(text)
