"""The Node service: volumes become directories of pods on this node."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from csi.capabilities import READER_MODES, Mode, mount_group, require
from csi.mounting import bind, detach, make_bare, place_of, remove_bare
from csi.parameters import asks_read_only, environment_of, is_inline, mount_flags, of_context, of_inline
from csi.proto.csi_pb2 import (
    NodeGetCapabilitiesRequest,
    NodeGetCapabilitiesResponse,
    NodeGetInfoRequest,
    NodeGetInfoResponse,
    NodeGetVolumeStatsRequest,
    NodeGetVolumeStatsResponse,
    NodePublishVolumeRequest,
    NodePublishVolumeResponse,
    NodeServiceCapability,
    NodeUnpublishVolumeRequest,
    NodeUnpublishVolumeResponse,
    Topology,
    VolumeCondition,
    VolumeUsage,
)
from csi.refusals import Code, Refusal, invalid
from csi.server import InFlight, required
from csi.sources import Source, Sources, ended_by_others
from csi.topology import TOPOLOGY_KEY, topology_value
from csi.volume_id import SharedId, WorkspaceId, parse
from csi.workspaces import Workspaces
from s3vfs.errors import MountError
from s3vfs.fuse.mountinfo import Mount, mount_at, read_mounts
from s3vfs.fuse.mountpoint import Health, health, resolve

_RPC = NodeServiceCapability.RPC
_CAPABILITIES = (_RPC.GET_VOLUME_STATS, _RPC.VOLUME_CONDITION, _RPC.SINGLE_NODE_MULTI_WRITER, _RPC.VOLUME_MOUNT_GROUP)


@dataclass(frozen=True, slots=True)
class _Publication:
    """What a pod is to get: `directory` bound to `target`; `group` shall be able to write there, if one is given."""

    target: str
    directory: Path
    read_only: bool
    flags: tuple[str, ...]
    exclusive: bool
    group: int | None


class Node:
    """Servicer of csi.v1.Node."""

    def __init__(self, node: str, sources: Sources, workspaces: Workspaces, in_flight: InFlight) -> None:
        self._node = node
        self._sources = sources
        self._workspaces = workspaces
        self._in_flight = in_flight

    def NodeGetCapabilities(self, request: NodeGetCapabilitiesRequest) -> NodeGetCapabilitiesResponse:
        return NodeGetCapabilitiesResponse(
            capabilities=[NodeServiceCapability(rpc=_RPC(type=kind)) for kind in _CAPABILITIES]
        )

    def NodeGetInfo(self, request: NodeGetInfoRequest) -> NodeGetInfoResponse:
        return NodeGetInfoResponse(
            node_id=self._node, accessible_topology=Topology(segments={TOPOLOGY_KEY: topology_value(self._node)})
        )

    # -- publish ------------------------------------------------------------------------------------------------------

    def NodePublishVolume(self, request: NodePublishVolumeRequest) -> NodePublishVolumeResponse:
        """The volume is at the target path, as asked. Repeating it changes nothing, and mends what has died."""
        required(request.volume_id, "the volume id")
        target = _target(request.target_path)
        if not request.HasField("volume_capability"):
            raise invalid("the volume capability is missing")
        with self._in_flight.only(request.volume_id):
            volume = parse(request.volume_id)
            if is_inline(request.volume_context):
                self._publish_shared(request, target, None, inline=True)
            elif isinstance(volume, WorkspaceId):
                self._publish_workspace(request, target, volume)
            else:
                self._publish_shared(request, target, volume, inline=False)
        return NodePublishVolumeResponse()

    def _publish_workspace(self, request: NodePublishVolumeRequest, target: str, volume: WorkspaceId) -> None:
        capability = request.volume_capability
        require([capability], shared=False)
        flags = mount_flags(capability.mount.mount_flags, shared=False)
        group = mount_group(capability)
        directory = self._workspaces.directory_of(volume)
        read_only = request.readonly or _reads_only(request) or asks_read_only(flags)
        kernel = tuple(flag for flag in flags if flag not in ("ro", "rw"))
        receiver = None if read_only else group
        self._bind(_Publication(target, directory, read_only, kernel, _exclusive(request), receiver))

    def _publish_shared(
        self, request: NodePublishVolumeRequest, target: str, volume: SharedId | None, *, inline: bool
    ) -> None:
        capability = request.volume_capability
        require([capability], shared=True)
        parameters = of_inline(request.volume_context) if inline else of_context(request.volume_context)
        if not parameters.shared:
            raise invalid("the volume attribute type contradicts the volume id")
        location = parameters.location
        if not location.url:
            if volume is None:
                raise Refusal(Code.NOT_FOUND, f"there is no volume {request.volume_id!r}, and its context has no url")
            location = volume.location
        flags = mount_flags((*capability.mount.mount_flags, *parameters.mount_options), shared=True)
        group = mount_group(capability)
        credentials = environment_of(request.secrets)
        if inline and "AWS_ACCESS_KEY_ID" not in credentials:
            # The node's own credentials are not for whoever may write a pod.
            raise invalid("an inline volume needs credentials of its own: nodePublishSecretRef with AWS_ACCESS_KEY_ID")
        source_read_only = _reads_only(request) or asks_read_only(flags)
        source = Source(request.volume_id, location, flags, parameters.cache_size, source_read_only, inline)
        directory = self._sources.ensure(source, credentials)
        try:
            read_only = source_read_only or request.readonly
            receiver = None if source_read_only else group
            self._bind(_Publication(target, directory, read_only, (), _exclusive(request), receiver))
        except BaseException:
            self._sources.release(request.volume_id)
            raise

    def _bind(self, wanted: _Publication) -> None:
        """The target is the directory. Nothing is touched where it is already: an orchestrator that republishes asks
        about once a minute, and what users have done to the top directory since then is theirs."""
        place = place_of(wanted.directory, read_mounts())
        while stack := [mount for mount in read_mounts() if mount.mountpoint == wanted.target]:
            present = stack[-1]
            if (present.device, present.root) == place:
                if _is_read_only(present) != wanted.read_only:
                    raise Refusal(Code.ALREADY_EXISTS, f"{wanted.target} is published with another readonly flag")
                return
            if not present.ours or health(wanted.target) is not Health.DEAD:
                raise Refusal(Code.ALREADY_EXISTS, f"something else is mounted on {wanted.target}")
            if len(stack) == 1:
                # Its daemon has died. The containers of the pod have a copy of this very mount; the only thing that
                # still reaches them (where they have mountPropagation: HostToContainer) is a mount on top of it.
                break
            detach(wanted.target)
        if wanted.exclusive and self._others(wanted, place):
            raise Refusal(Code.FAILED_PRECONDITION, "the volume is published for one pod only, and has one")
        if wanted.group is not None:
            _give_to_group(wanted.directory, wanted.group)
        made = not stack and make_bare(wanted.target)
        try:
            bind(wanted.directory, wanted.target, read_only=wanted.read_only, flags=wanted.flags)
        except BaseException:
            if made:
                remove_bare(wanted.target)
            raise

    def _others(self, wanted: _Publication, place: tuple[str, str]) -> bool:
        own = (wanted.target, str(wanted.directory))
        return any((m.device, m.root) == place and m.mountpoint not in own for m in read_mounts())

    # -- unpublish ----------------------------------------------------------------------------------------------------

    def NodeUnpublishVolume(self, request: NodeUnpublishVolumeRequest) -> NodeUnpublishVolumeResponse:
        """The target is gone; with the last one of a volume everything is in the bucket, and the volume unmounted."""
        required(request.volume_id, "the volume id")
        target = _target(request.target_path)
        with self._in_flight.only(request.volume_id):
            while (present := mount_at(target, read_mounts())) is not None:
                self._require_own(request.volume_id, target, present)
                detach(target)
            remove_bare(target)
            self._sources.release(request.volume_id)
        return NodeUnpublishVolumeResponse()

    def _require_own(self, volume_id: str, target: str, present: Mount) -> None:
        if present.ours and not self._sources.belongs_to_another(volume_id, present.device):
            return
        # Not asked whether it lies below the workspace root: the node's disk may have gone, and the pod must go too.
        volume = parse(volume_id)
        if not present.ours and isinstance(volume, WorkspaceId) and os.path.basename(present.root) == volume.leaf:
            return
        raise Refusal(Code.NOT_FOUND, f"{target} is not a mount of {volume_id}")

    def clear_abandoned(self) -> None:
        """Unmount sources that a killed driver left without a target. Raises Refusal, after all were tried."""
        last: Refusal | None = None
        for volume_id in list(self._sources.abandoned()):
            try:
                with self._in_flight.only(volume_id):
                    self._sources.release(volume_id)
            except Refusal as refusal:
                last = refusal
        if last is not None:
            raise last

    # -- figures ------------------------------------------------------------------------------------------------------

    def NodeGetVolumeStats(self, request: NodeGetVolumeStatsRequest) -> NodeGetVolumeStatsResponse:
        """Usage as statfs shows it (a quota is the total), and whether the mount is alive."""
        required(request.volume_id, "the volume id")
        path = required(request.volume_path, "the volume path")
        mount = self._mount_of(request.volume_id, path)
        if mount is None:
            raise Refusal(Code.NOT_FOUND, f"the volume is not published on {path}")
        state = health(mount.mountpoint)
        if state is not Health.ALIVE:
            message = "the mount's daemon has died" if state is Health.DEAD else "the mount does not answer"
            return NodeGetVolumeStatsResponse(volume_condition=VolumeCondition(abnormal=True, message=message))
        figures = os.statvfs(mount.mountpoint)
        block = figures.f_frsize
        return NodeGetVolumeStatsResponse(
            usage=[
                VolumeUsage(
                    unit=VolumeUsage.BYTES,
                    total=figures.f_blocks * block,
                    available=figures.f_bavail * block,
                    used=(figures.f_blocks - figures.f_bfree) * block,
                ),
                VolumeUsage(
                    unit=VolumeUsage.INODES,
                    total=figures.f_files,
                    available=figures.f_favail,
                    used=figures.f_files - figures.f_ffree,
                ),
            ],
            volume_condition=_condition(mount),
        )

    def _mount_of(self, volume_id: str, path: str) -> Mount | None:
        """The mount at `path`, where it is one of this volume."""
        if not os.path.isabs(path):
            return None
        try:
            mount = mount_at(resolve(path), read_mounts())
        except MountError:
            return None
        if mount is None:
            return None
        volume = parse(volume_id)
        if isinstance(volume, WorkspaceId):
            own = self._workspaces.here(volume) and self._workspaces.holds(mount.device, mount.root)
            return mount if own and os.path.basename(mount.root) == volume.leaf else None
        if self._sources.mount_of(volume_id, mount.device) is None:
            return None
        return mount


def _condition(mount: Mount) -> VolumeCondition:
    """Of a mount that answers."""
    if mount.ours and ended_by_others(Path(mount.mountpoint)):
        return VolumeCondition(abnormal=True, message="the session was ended by others: nothing can be changed")
    return VolumeCondition(abnormal=False, message="ok")


def _target(path: str) -> str:
    """The target without symbolic links in its parents. Raises Refusal."""
    required(path, "the target path")
    if not os.path.isabs(path) or os.path.normpath(path) == "/":
        raise invalid("the target path is not absolute")
    try:
        return resolve(path)
    except MountError:
        return os.path.abspath(path)  # nothing is there; publishing says that its parent is missing


def _reads_only(request: NodePublishVolumeRequest) -> bool:
    return request.volume_capability.access_mode.mode in READER_MODES


def _exclusive(request: NodePublishVolumeRequest) -> bool:
    return request.volume_capability.access_mode.mode == Mode.SINGLE_NODE_SINGLE_WRITER


def _is_read_only(mount: Mount) -> bool:
    return "ro" in mount.options.split(",")


def _give_to_group(directory: Path, group: int) -> None:
    """The group may write at the top, and owns what is made below (setgid). What is there already stays as it is."""
    try:
        status = os.stat(directory)
        wanted = stat.S_IMODE(status.st_mode) | stat.S_ISGID | stat.S_IRWXG
        if status.st_gid != group:
            os.chown(directory, -1, group)
        if stat.S_IMODE(os.stat(directory).st_mode) != wanted:
            os.chmod(directory, wanted)
    except OSError as error:
        raise Refusal(Code.INTERNAL, f"the volume does not take the group {group}: {error.strerror}") from None
