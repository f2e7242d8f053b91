"""Asks the driver in a container what a kubelet asks it. Run inside, with the image's own Python and packages.

kubelet.py publish TARGET URL
kubelet.py unpublish TARGET
"""

import os
import sys
from typing import Any

import grpc
from google.protobuf import message_factory

from csi.proto import csi_pb2

SOCKET = "unix:///csi/csi.sock"
VOLUME_ID = "made-by-hand"
TIMEOUT_S = 100


def call(channel: grpc.Channel, service: str, method: str, **fields: Any) -> Any:
    found = csi_pb2.DESCRIPTOR.services_by_name[service].methods_by_name[method]
    request = message_factory.GetMessageClass(found.input_type)(**fields)
    invoke = channel.unary_unary(
        f"/{found.containing_service.full_name}/{method}",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=message_factory.GetMessageClass(found.output_type).FromString,
    )
    return invoke(request, timeout=TIMEOUT_S)


def publish(channel: grpc.Channel, target: str, url: str) -> None:
    os.makedirs(os.path.dirname(target))
    capability = csi_pb2.VolumeCapability(
        mount=csi_pb2.VolumeCapability.MountVolume(),
        access_mode=csi_pb2.VolumeCapability.AccessMode(mode="MULTI_NODE_MULTI_WRITER"),
    )
    call(
        channel,
        "Node",
        "NodePublishVolume",
        volume_id=VOLUME_ID,
        target_path=target,
        volume_capability=capability,
        volume_context={"type": "shared", "url": url},
    )
    assert os.path.ismount(target)


def unpublish(channel: grpc.Channel, target: str) -> None:
    call(channel, "Node", "NodeUnpublishVolume", volume_id=VOLUME_ID, target_path=target)
    assert not os.path.exists(target)


if __name__ == "__main__":
    with grpc.insecure_channel(SOCKET) as driver:
        assert call(driver, "Identity", "GetPluginInfo").name == "csi.s3vfs.io"
        assert call(driver, "Node", "NodeGetInfo").node_id
        if sys.argv[1] == "publish":
            publish(driver, *sys.argv[2:])
        else:
            unpublish(driver, *sys.argv[2:])
