"""The Identity service: what this driver is and can do."""

from __future__ import annotations

from google.protobuf.wrappers_pb2 import BoolValue

import s3vfs
from csi.proto.csi_pb2 import (
    GetPluginCapabilitiesRequest,
    GetPluginCapabilitiesResponse,
    GetPluginInfoRequest,
    GetPluginInfoResponse,
    PluginCapability,
    ProbeRequest,
    ProbeResponse,
)

DRIVER_NAME = "csi.s3vfs.io"


class Identity:
    """Servicer of csi.v1.Identity."""

    def GetPluginInfo(self, request: GetPluginInfoRequest) -> GetPluginInfoResponse:
        return GetPluginInfoResponse(name=DRIVER_NAME, vendor_version=s3vfs.__version__)

    def GetPluginCapabilities(self, request: GetPluginCapabilitiesRequest) -> GetPluginCapabilitiesResponse:
        """A controller; volumes that are on one node only; quotas that grow under running pods."""
        service = PluginCapability.Service
        return GetPluginCapabilitiesResponse(
            capabilities=[
                PluginCapability(service=service(type=service.CONTROLLER_SERVICE)),
                PluginCapability(service=service(type=service.VOLUME_ACCESSIBILITY_CONSTRAINTS)),
                PluginCapability(
                    volume_expansion=PluginCapability.VolumeExpansion(type=PluginCapability.VolumeExpansion.ONLINE)
                ),
            ]
        )

    def Probe(self, request: ProbeRequest) -> ProbeResponse:
        """Ready as soon as it answers: whether a bucket can be reached is each volume's own matter."""
        return ProbeResponse(ready=BoolValue(value=True))
