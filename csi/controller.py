"""The Controller service: volumes are made, deleted, grown and listed. On a node it only makes
workspaces, on its own."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import asdict

from csi import errand
from csi.capabilities import require, require_complete, unsupported
from csi.marker import Capacity, Marker
from csi.parameters import Parameters, environment_of, of_class, of_context
from csi.places import Places
from csi.proto.csi_pb2 import (
    CapacityRange,
    ControllerExpandVolumeRequest,
    ControllerExpandVolumeResponse,
    ControllerGetCapabilitiesRequest,
    ControllerGetCapabilitiesResponse,
    ControllerGetVolumeRequest,
    ControllerGetVolumeResponse,
    ControllerServiceCapability,
    CreateVolumeRequest,
    CreateVolumeResponse,
    DeleteVolumeRequest,
    DeleteVolumeResponse,
    ListVolumesRequest,
    ListVolumesResponse,
    Topology,
    TopologyRequirement,
    ValidateVolumeCapabilitiesRequest,
    ValidateVolumeCapabilitiesResponse,
    Volume,
)
from csi.refusals import Code, Refusal, invalid
from csi.server import InFlight, required
from csi.topology import TOPOLOGY_KEY
from csi.volume_id import Location, SharedId, WorkspaceId, checked, leaf_of, parse
from csi.workspaces import Workspaces

_RPC = ControllerServiceCapability.RPC
_CAPABILITIES = (_RPC.CREATE_DELETE_VOLUME, _RPC.LIST_VOLUMES, _RPC.EXPAND_VOLUME, _RPC.GET_VOLUME)
_MORE_CAPABILITIES = (_RPC.SINGLE_NODE_MULTI_WRITER,)


class Controller:
    """Servicer of csi.v1.Controller."""

    def __init__(self, places: Places, workspaces: Workspaces, in_flight: InFlight) -> None:
        self._places = places
        self._workspaces = workspaces
        self._in_flight = in_flight

    def ControllerGetCapabilities(self, request: ControllerGetCapabilitiesRequest) -> ControllerGetCapabilitiesResponse:
        return ControllerGetCapabilitiesResponse(
            capabilities=[
                ControllerServiceCapability(rpc=_RPC(type=kind)) for kind in (*_CAPABILITIES, *_MORE_CAPABILITIES)
            ]
        )

    # -- create -------------------------------------------------------------------------------------------------------

    def CreateVolume(self, request: CreateVolumeRequest) -> CreateVolumeResponse:
        """The volume of this name is there. The same name, parameters and capacity give the same volume each time."""
        leaf = leaf_of(request.name)
        if not request.volume_capabilities:
            raise invalid("the volume capabilities are missing")
        if request.HasField("volume_content_source"):
            raise invalid("volumes are not made from snapshots or other volumes")
        if request.mutable_parameters:
            raise invalid("there are no mutable parameters")
        parameters = of_class(request.parameters)
        require(request.volume_capabilities, shared=parameters.shared)
        capacity = _capacity(request.capacity_range)
        if parameters.shared:
            return CreateVolumeResponse(volume=self._create_shared(request, leaf, parameters, capacity))
        return CreateVolumeResponse(volume=self._create_workspace(request, leaf, parameters, capacity))

    def _create_shared(
        self, request: CreateVolumeRequest, leaf: str, parameters: Parameters, capacity: Capacity
    ) -> Volume:
        volume = SharedId(leaf, parameters.location)
        credentials = environment_of(request.secrets)
        with self._in_flight.only(checked(volume)):
            wanted = Marker(request.name, capacity.chosen_bytes, parameters.recorded())
            marker = errand.create(
                self._places.credentials(volume.folder, credentials), volume.folder, leaf, wanted, capacity
            )
            self._places.remember(volume.folder, credentials)
        return _shared(volume, marker)

    def _create_workspace(
        self, request: CreateVolumeRequest, leaf: str, parameters: Parameters, capacity: Capacity
    ) -> Volume:
        node = _node_of(request.accessibility_requirements) or self._own_node()
        volume = WorkspaceId(leaf, parameters.on_delete, node)
        with self._in_flight.only(checked(volume)):
            if self._workspaces.here(volume):
                marker = self._workspaces.create(leaf, request.name, parameters.recorded(), capacity)
            elif parameters.on_delete == "retain":
                marker = Marker(request.name, capacity.chosen_bytes, parameters.recorded())
            else:
                raise invalid(
                    f"this controller cannot delete workspaces on node {node}: run the provisioner on each node, or "
                    "set the parameter onDelete to retain"
                )
        return _workspace(volume, marker)

    def _own_node(self) -> str:
        if not self._workspaces.offered:
            raise Refusal(
                Code.RESOURCE_EXHAUSTED, f"a workspace volume needs a node: {TOPOLOGY_KEY} is not in the request"
            )
        return self._workspaces.node

    # -- delete -------------------------------------------------------------------------------------------------------

    def DeleteVolume(self, request: DeleteVolumeRequest) -> DeleteVolumeResponse:
        """The volume is gone, or kept as its class says. One that is not there, or not ours, is no error."""
        volume = parse(required(request.volume_id, "the volume id"))
        if volume is None:
            return DeleteVolumeResponse()
        with self._in_flight.only(request.volume_id):
            if isinstance(volume, WorkspaceId):
                self._workspaces.delete(volume)
            else:
                credentials = environment_of(request.secrets)
                errand.delete(self._places.credentials(volume.folder, credentials), volume.folder, volume.leaf)
        return DeleteVolumeResponse()

    # -- look ---------------------------------------------------------------------------------------------------------

    def ValidateVolumeCapabilities(
        self, request: ValidateVolumeCapabilitiesRequest
    ) -> ValidateVolumeCapabilitiesResponse:
        """Confirmed where all capabilities can be given; else why not."""
        required(request.volume_id, "the volume id")
        if not request.volume_capabilities:
            raise invalid("the volume capabilities are missing")
        for capability in request.volume_capabilities:
            require_complete(capability)
        volume = parse(request.volume_id)
        shared = not isinstance(volume, WorkspaceId)
        if volume is None:
            self._look_at_foreign(request)
        else:
            found = self._look(volume, environment_of(request.secrets))
            if request.volume_context and not found.volume_context.items() <= dict(request.volume_context).items():
                return ValidateVolumeCapabilitiesResponse(message="the volume context is not the volume's")
        for capability in request.volume_capabilities:
            reason = unsupported(capability, shared=shared)
            if reason:
                return ValidateVolumeCapabilitiesResponse(message=reason)
        return ValidateVolumeCapabilitiesResponse(
            confirmed=ValidateVolumeCapabilitiesResponse.Confirmed(
                volume_context=request.volume_context,
                volume_capabilities=request.volume_capabilities,
                parameters=request.parameters,
            )
        )

    def _look_at_foreign(self, request: ValidateVolumeCapabilitiesRequest) -> None:
        """A volume that was not made here: its context says where it is."""
        place = of_context(request.volume_context).location
        if not place.url:
            raise Refusal(Code.NOT_FOUND, f"there is no volume {request.volume_id!r}")
        errand.look_at_volume(environment_of(request.secrets), place)

    def _look(self, volume: SharedId | WorkspaceId, credentials: dict[str, str]) -> Volume:
        if isinstance(volume, SharedId):
            found = errand.look(self._places.credentials(volume.folder, credentials), volume.folder, volume.leaf)
            return _shared(volume, found)
        if self._workspaces.here(volume):
            return _workspace(volume, self._workspaces.look(volume.leaf))
        if volume.on_delete == "retain":
            return _workspace(volume, Marker(volume.leaf, 0))
        raise Refusal(Code.NOT_FOUND, f"the workspace is on node {volume.node}, which has a controller of its own")

    def ControllerGetVolume(self, request: ControllerGetVolumeRequest) -> ControllerGetVolumeResponse:
        volume = parse(required(request.volume_id, "the volume id"))
        if volume is None:
            raise Refusal(Code.NOT_FOUND, f"there is no volume {request.volume_id!r}")
        return ControllerGetVolumeResponse(
            volume=self._look(volume, {}), status=ControllerGetVolumeResponse.VolumeStatus()
        )

    # -- list ---------------------------------------------------------------------------------------------------------

    def ListVolumes(self, request: ListVolumesRequest) -> ListVolumesResponse:
        """Volumes made by this driver: workspaces of this node, then those in the places it was asked about."""
        if request.max_entries < 0:
            raise invalid("max_entries is negative")
        places: list[Location | None] = [None, *self._places.all()]
        index, after = _position(request.starting_token, places)
        # One more than asked for: a token means that something follows.
        wanted = request.max_entries + 1 if request.max_entries else 0
        found: list[tuple[Location | None, str, Volume]] = []
        while index < len(places) and not (wanted and len(found) == wanted):
            listed, after = self._list(places[index], after, wanted - len(found) if wanted else 0)
            found += [(places[index], leaf, volume) for leaf, volume in listed]
            if not after:
                index += 1
        token = ""
        if wanted and len(found) == wanted:
            found.pop()
            place, leaf, _ = found[-1]
            token = _token(place, leaf)
        entries = [ListVolumesResponse.Entry(volume=volume) for _, _, volume in found]
        return ListVolumesResponse(entries=entries, next_token=token)

    def _list(self, place: Location | None, after: str, limit: int) -> tuple[list[tuple[str, Volume]], str]:
        """Volumes of a place after the leaf `after`, each with its leaf; and the leaf to go on after, "" at the end."""
        if place is None:
            found, after = self._workspaces.list_all(after, limit)
            node = self._workspaces.node
            return [(leaf, _workspace(WorkspaceId(leaf, mark.on_delete, node), mark)) for leaf, mark in found], after
        found, after = errand.list_folder(self._places.credentials(place, {}), place, after, limit)
        return [(leaf, _shared(SharedId(leaf, place), marker)) for leaf, marker in found], after

    # -- expand -------------------------------------------------------------------------------------------------------

    def ControllerExpandVolume(self, request: ControllerExpandVolumeRequest) -> ControllerExpandVolumeResponse:
        """The quota is raised, under running pods too; nothing is left to do on a node."""
        volume = parse(required(request.volume_id, "the volume id"))
        if not request.HasField("capacity_range"):
            raise invalid("the capacity range is missing")
        capacity = _capacity(request.capacity_range)
        if not capacity.chosen_bytes:
            raise invalid("the capacity range is empty")
        if request.HasField("volume_capability"):
            require([request.volume_capability], shared=not isinstance(volume, WorkspaceId))
        if volume is None:
            raise Refusal(Code.NOT_FOUND, f"there is no volume {request.volume_id!r} that this driver made")
        with self._in_flight.only(request.volume_id):
            marker = self._expand(volume, capacity, environment_of(request.secrets))
        return ControllerExpandVolumeResponse(capacity_bytes=marker.capacity_bytes or capacity.chosen_bytes)

    def _expand(self, volume: SharedId | WorkspaceId, capacity: Capacity, credentials: dict[str, str]) -> Marker:
        if isinstance(volume, SharedId):
            credentials = self._places.credentials(volume.folder, credentials)
            return errand.expand(credentials, volume.folder, volume.leaf, capacity)
        if self._workspaces.here(volume):
            return self._workspaces.expand(volume.leaf, capacity)
        # Nothing enforces a workspace's capacity, so nothing has to be told on its node.
        return Marker(volume.leaf, capacity.chosen_bytes)


def _capacity(given: CapacityRange) -> Capacity:
    capacity = Capacity(given.required_bytes, given.limit_bytes)
    capacity.check()
    return capacity


def _node_of(requirement: TopologyRequirement) -> str:
    """The node to make a workspace on, "" where the orchestrator leaves it open. Raises Refusal where it asks for
    places that are not nodes."""
    asked: Sequence[Topology] = [*requirement.preferred, *requirement.requisite]
    for topology in asked:
        node = str(topology.segments.get(TOPOLOGY_KEY, ""))
        if node:
            return node
    if asked:
        raise Refusal(Code.RESOURCE_EXHAUSTED, f"no topology of the request has {TOPOLOGY_KEY}")
    return ""


def _shared(volume: SharedId, marker: Marker) -> Volume:
    parameters = Parameters("shared", volume.folder, marker.parameters.get("cacheSize", ""))
    return Volume(
        volume_id=str(volume),
        capacity_bytes=marker.capacity_bytes,
        volume_context=parameters.context(volume.location),
    )


def _workspace(volume: WorkspaceId, marker: Marker) -> Volume:
    return Volume(
        volume_id=str(volume),
        capacity_bytes=marker.capacity_bytes,
        volume_context={"type": "workspace"},
        accessible_topology=[Topology(segments={TOPOLOGY_KEY: volume.node})],
    )


def _token(place: Location | None, after: str) -> str:
    text = json.dumps([asdict(place) if place else None, after])
    return base64.urlsafe_b64encode(text.encode()).decode()


def _position(token: str, places: Sequence[Location | None]) -> tuple[int, str]:
    """(index of the place to go on in, leaf to go on after). Raises Refusal with ABORTED: begin anew."""
    if not token:
        return 0, ""
    try:
        place, after = json.loads(base64.urlsafe_b64decode(token.encode()))
        return places.index(Location(**place) if place else None), str(after)
    except (ValueError, TypeError):
        raise Refusal(Code.ABORTED, "the starting token is not valid: begin without one") from None
