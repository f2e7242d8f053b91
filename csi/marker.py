"""Markers: what the driver knows about a volume that it made. Pure.

    <folder>/.csi/<leaf>        a JSON document beside the volumes of a folder; for workspaces in a file of that name

A marker is created before its volume and deleted after it. `state` is live, deleting (the volume may be gone partly),
or retained (deleted for the orchestrator, all data kept).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from csi.refusals import Code, Refusal, invalid

FOLDER = ".csi/"
VERSION = 1

LIVE, DELETING, RETAINED = "live", "deleting", "retained"


@dataclass(frozen=True, slots=True)
class Capacity:
    """A capacity range, in bytes; 0 where a bound is not given."""

    required_bytes: int = 0
    limit_bytes: int = 0

    def check(self) -> None:
        """Raises Refusal for a range that no volume can have."""
        if self.required_bytes < 0 or self.limit_bytes < 0:
            raise invalid("a capacity is negative")
        if self.limit_bytes and self.required_bytes > self.limit_bytes:
            raise Refusal(Code.OUT_OF_RANGE, "the required capacity is above the limit")

    @property
    def chosen_bytes(self) -> int:
        """The quota of a new volume; 0 is none."""
        return self.required_bytes or self.limit_bytes

    def allows(self, capacity_bytes: int) -> bool:
        """Whether a volume with this quota (0: none) is as asked for."""
        if self.limit_bytes and (capacity_bytes == 0 or capacity_bytes > self.limit_bytes):
            return False
        return capacity_bytes == 0 or capacity_bytes >= self.required_bytes


@dataclass(frozen=True, slots=True)
class Marker:
    """`name` is the orchestrator's; `capacity_bytes` 0 is without quota; `parameters` as Parameters.recorded."""

    name: str
    capacity_bytes: int
    parameters: Mapping[str, str] = field(default_factory=dict)
    state: str = LIVE
    version: int = VERSION

    def encoded(self) -> bytes:
        return json.dumps(asdict(self), sort_keys=True).encode() + b"\n"

    @property
    def on_delete(self) -> str:
        return self.parameters.get("onDelete", "retain")

    def require_same(self, name: str, parameters: Mapping[str, str], capacity: Capacity) -> None:
        """Raises Refusal where this is not the volume that is asked for again."""
        if self.state == DELETING:
            raise Refusal(Code.ABORTED, f"the volume {name!r} is being deleted")
        if self.state == RETAINED:
            raise Refusal(Code.ALREADY_EXISTS, f"a volume {name!r} was deleted, and retained: its data is there still")
        if self.name != name:
            raise Refusal(Code.ALREADY_EXISTS, f"the place of {name!r} is taken by {self.name!r}")
        if dict(self.parameters) != dict(parameters):
            raise Refusal(Code.ALREADY_EXISTS, f"the volume {name!r} exists with other parameters")
        if not capacity.allows(self.capacity_bytes):
            raise Refusal(
                Code.ALREADY_EXISTS, f"the volume {name!r} exists with a capacity of {self.capacity_bytes} bytes"
            )


def key_of(leaf: str) -> str:
    return FOLDER + leaf


def parse_marker(body: bytes, key: str) -> Marker:
    """Raises Refusal for what is not a marker, or one of a newer version."""
    try:
        value = json.loads(body)
        if value["version"] > VERSION:
            raise Refusal(Code.FAILED_PRECONDITION, f"the marker {key} needs a newer driver")
        return Marker(
            str(value["name"]), int(value["capacity_bytes"]), dict(value["parameters"]), str(value["state"]), VERSION
        )
    except (ValueError, KeyError, TypeError) as error:
        raise Refusal(Code.DATA_LOSS, f"the marker {key} is unreadable: {error!r}") from None
