"""The proto subset: checked-in code is what csi.proto says, and what it says are the specification's numbers."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto, FileDescriptorSet

from csi.proto import csi_pb2
from csi.proto.generate import compile_proto


def test_the_checked_in_module_is_made_from_the_proto_file(tmp_path: Path) -> None:
    compile_proto(f"--descriptor_set_out={tmp_path / 'set'}")
    compiled = FileDescriptorSet.FromString((tmp_path / "set").read_bytes()).file[0]
    _forget_json_names(compiled.message_type)  # added by protoc, not by its Python plugin
    checked_in = FileDescriptorProto.FromString(csi_pb2.DESCRIPTOR.serialized_pb)
    assert checked_in == compiled, "run python -m csi.proto.generate"


def _forget_json_names(messages: Iterable[DescriptorProto]) -> None:
    for message in messages:
        for field in message.field:
            field.ClearField("json_name")
        _forget_json_names(message.nested_type)


# What version 1 of the specification assigns, where a wrong number would be found by no test of ours.
NUMBERS = {
    "CreateVolumeRequest": "name=1 capacity_range=2 volume_capabilities=3 parameters=4 secrets=5 "
    "volume_content_source=6 accessibility_requirements=7 mutable_parameters=8",
    "Volume": "capacity_bytes=1 volume_id=2 volume_context=3 content_source=4 accessible_topology=5",
    "VolumeCapability": "block=1 mount=2 access_mode=3",
    "VolumeCapability.MountVolume": "fs_type=1 mount_flags=2 volume_mount_group=3",
    "NodePublishVolumeRequest": "volume_id=1 publish_context=2 staging_target_path=3 target_path=4 "
    "volume_capability=5 readonly=6 secrets=7 volume_context=8",
    "NodeGetVolumeStatsResponse": "usage=1 volume_condition=2",
    "VolumeUsage": "available=1 total=2 used=3 unit=4",
    "ControllerExpandVolumeResponse": "capacity_bytes=1 node_expansion_required=2",
    "ListVolumesResponse": "entries=1 next_token=2",
    "ValidateVolumeCapabilitiesResponse": "confirmed=1 message=2",
    "NodeGetInfoResponse": "node_id=1 max_volumes_per_node=2 accessible_topology=3",
}


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_are_those_of_the_specification(name: str) -> None:
    message = csi_pb2.DESCRIPTOR.message_types_by_name[name.partition(".")[0]]
    if "." in name:
        message = message.nested_types_by_name[name.partition(".")[2]]
    assert " ".join(f"{field.name}={field.number}" for field in message.fields) == NUMBERS[name]
