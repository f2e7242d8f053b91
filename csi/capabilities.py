"""Volume capabilities: whether a volume of a type can be used as asked. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from csi.proto.csi_pb2 import VolumeCapability
from csi.refusals import invalid

Mode = VolumeCapability.AccessMode

READER_MODES = frozenset([Mode.SINGLE_NODE_READER_ONLY, Mode.MULTI_NODE_READER_ONLY])
_MULTI_NODE = frozenset([Mode.MULTI_NODE_READER_ONLY, Mode.MULTI_NODE_SINGLE_WRITER, Mode.MULTI_NODE_MULTI_WRITER])
_SINGLE_NODE = frozenset(
    [Mode.SINGLE_NODE_WRITER, Mode.SINGLE_NODE_READER_ONLY]
    + [Mode.SINGLE_NODE_SINGLE_WRITER, Mode.SINGLE_NODE_MULTI_WRITER]
)
_FILE_SYSTEM_TYPES = ("", "s3vfs", "fuse.s3vfs")


def require_complete(capability: VolumeCapability) -> None:
    """Raises Refusal where a field that CSI requires is not set (HasField: an empty message is set)."""
    if not capability.HasField("access_mode") or capability.access_mode.mode == Mode.UNKNOWN:
        raise invalid("a volume capability has no access mode")
    if capability.WhichOneof("access_type") is None:
        raise invalid("a volume capability has no access type")


def unsupported(capability: VolumeCapability, *, shared: bool) -> str:
    """Why a volume of this type cannot be used so; "" where it can. The capability is complete."""
    if capability.HasField("block"):
        return "a volume is a file system, not a block device"
    mode = capability.access_mode.mode
    if mode not in _MULTI_NODE and mode not in _SINGLE_NODE:
        return f"access mode {mode} is not known"
    if mode in _MULTI_NODE and not shared:
        return "a workspace volume is on one node: use ReadWriteOnce"
    if capability.mount.fs_type not in _FILE_SYSTEM_TYPES:
        return f"file system type {capability.mount.fs_type!r} is not s3vfs: leave it out"
    return ""


def require(capabilities: Sequence[VolumeCapability], *, shared: bool) -> None:
    """Raises Refusal unless there are capabilities, complete, and all of them can be given."""
    if not capabilities:
        raise invalid("the volume capabilities are missing")
    for capability in capabilities:
        require_complete(capability)
        reason = unsupported(capability, shared=shared)
        if reason:
            raise invalid(reason)


def mount_group(capability: VolumeCapability) -> int | None:
    """The group that must be able to write (fsGroup); None where none is given. Raises Refusal."""
    text = capability.mount.volume_mount_group
    if not text:
        return None
    if not text.isdecimal() or int(text) >= 2**32 - 1:
        raise invalid("volume_mount_group is the number of a group")
    return int(text)
