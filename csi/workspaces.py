"""Workspace volumes: directories on this node's disk.

    <root>/<leaf>                   the directory, made for the volume
    <root>/.csi/<leaf>              its marker (csi/marker.py), where the volume was made by this node's own controller
    <root>/.csi-deleted/<leaf>-*    deleted, being removed

They are made and deleted on their node only, by a provisioner that runs there. A controller elsewhere may make volumes
that are retained; their directory comes into being when it is first published (docs/csi.md has both ways).
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from csi.marker import FOLDER, Capacity, Marker, key_of, parse_marker
from csi.mounting import place_of
from csi.refusals import Code, Refusal
from csi.volume_id import WorkspaceId
from s3vfs.fuse.mountinfo import read_mounts

_log = logging.getLogger(__name__)

_DELETED = ".csi-deleted"
_MODE = 0o755


class Workspaces:
    """This node's; `node` is its topology value. `root` None: workspace volumes are not offered here."""

    def __init__(self, root: Path | None, node: str) -> None:
        self._root = root
        self.node = node

    @property
    def offered(self) -> bool:
        return self._root is not None

    def here(self, volume: WorkspaceId) -> bool:
        return self.offered and volume.node == self.node

    def _present(self) -> Path:
        if self._root is None:
            raise Refusal(
                Code.FAILED_PRECONDITION, "workspace volumes are not offered here: --workspace-root is not set"
            )
        if not self._root.is_dir():
            raise Refusal(Code.FAILED_PRECONDITION, f"the workspace root {self._root} is not there")
        return self._root.resolve()

    # -- the controller's part ----------------------------------------------------------------------------------------

    def create(self, leaf: str, name: str, parameters: Mapping[str, str], capacity: Capacity) -> Marker:
        """The directory and its marker are there. The capacity is noted, not enforced. Raises Refusal."""
        root = self._present()
        file = root / key_of(leaf)
        file.parent.mkdir(mode=0o700, exist_ok=True)
        if not file.exists():
            if (root / leaf).exists():
                raise Refusal(Code.ALREADY_EXISTS, f"{root / leaf} is there, and this driver did not make it")
            self._write(file, Marker(name, capacity.chosen_bytes, parameters), exclusive=True)
        marker = self.look(leaf)
        marker.require_same(name, parameters, capacity)
        (root / leaf).mkdir(mode=_MODE, exist_ok=True)
        return marker

    def look(self, leaf: str) -> Marker:
        """Raises Refusal with NOT_FOUND."""
        key = key_of(leaf)
        try:
            return parse_marker((self._present() / key).read_bytes(), key)
        except FileNotFoundError:
            raise Refusal(Code.NOT_FOUND, f"this node has no workspace volume {leaf}") from None

    def expand(self, leaf: str, capacity: Capacity) -> Marker:
        """The noted capacity is at least as asked for. Raises Refusal."""
        marker = self.look(leaf)
        if capacity.allows(marker.capacity_bytes):
            return marker
        if capacity.limit_bytes and not 0 < marker.capacity_bytes <= capacity.limit_bytes:
            raise Refusal(Code.OUT_OF_RANGE, f"{leaf} is larger already: a volume does not shrink")
        grown = replace(marker, capacity_bytes=capacity.chosen_bytes)
        self._write(self._present() / key_of(leaf), grown, exclusive=False)
        return grown

    def list_all(self, start_after: str, limit: int) -> tuple[list[tuple[str, Marker]], str]:
        """As provision.list_folder; nothing where workspaces are not offered."""
        if not self.offered:
            return [], ""
        with contextlib.suppress(FileNotFoundError):
            leaves = [
                leaf for leaf in sorted(os.listdir(self._present() / FOLDER)) if leaf > start_after and "~" not in leaf
            ]
            chosen = leaves[:limit] if limit else leaves
            more = chosen[-1] if chosen and len(chosen) < len(leaves) else ""
            return [(leaf, self.look(leaf)) for leaf in chosen], more
        return [], ""

    def delete(self, volume: WorkspaceId) -> None:
        """The volume is gone for the orchestrator; with its directory, unless it is retained. Raises Refusal."""
        if volume.on_delete == "retain":
            return  # wherever it is: nothing is touched
        if not self.here(volume):
            raise Refusal(
                Code.FAILED_PRECONDITION,
                f"the workspace is on node {volume.node}: its own provisioner deletes it there",
            )
        root = self._present()
        directory = root / volume.leaf
        if directory.exists():
            self._refuse_used(directory)
            trash = root / _DELETED
            trash.mkdir(mode=0o700, exist_ok=True)
            os.rename(directory, trash / f"{volume.leaf}-{uuid.uuid4().hex}")
        (root / key_of(volume.leaf)).unlink(missing_ok=True)
        self.remove_deleted()

    def remove_deleted(self) -> None:
        """Remove what deleted volumes held; goes on where an earlier run was ended."""
        if self._root is None or not (self._root / _DELETED).is_dir():
            return
        for directory in (self._root / _DELETED).iterdir():
            self._refuse_used(directory)
            shutil.rmtree(directory)

    def _refuse_used(self, directory: Path) -> None:
        """Raises Refusal where the directory, or something in it, is mounted somewhere or mounted upon."""
        mounts = read_mounts()
        device, inside = place_of(directory, mounts)
        path = str(directory)
        for mount in mounts:
            bound = mount.device == device and (mount.root == inside or mount.root.startswith(inside + "/"))
            if bound or mount.mountpoint == path or mount.mountpoint.startswith(path + "/"):
                raise Refusal(Code.FAILED_PRECONDITION, f"the workspace is in use: {mount.mountpoint}")

    def _write(self, file: Path, marker: Marker, *, exclusive: bool) -> None:
        fresh = file.with_name(f"{file.name}~{uuid.uuid4().hex}")  # no leaf has a ~
        with open(fresh, "xb") as stream:
            stream.write(marker.encoded())
            stream.flush()
            os.fsync(stream.fileno())
        if exclusive:
            with contextlib.suppress(FileExistsError):  # another creator was faster: its marker counts
                os.link(fresh, file)
            os.unlink(fresh)
        else:
            os.replace(fresh, file)

    # -- the node's part ----------------------------------------------------------------------------------------------

    def directory_of(self, volume: WorkspaceId) -> Path:
        """The directory to publish. Raises Refusal with NOT_FOUND where it should be there and is not: an empty one in
        its place would look like lost work."""
        root = self._present()
        if not self.here(volume):
            raise Refusal(Code.FAILED_PRECONDITION, f"the workspace is on node {volume.node}, this is {self.node}")
        directory = root / volume.leaf
        if directory.is_dir() and not directory.is_symlink():
            return directory
        if volume.on_delete == "delete" or (root / key_of(volume.leaf)).exists():
            raise Refusal(Code.NOT_FOUND, f"{directory} is not there: is the node's disk mounted on {root}?")
        directory.mkdir(mode=_MODE)
        return directory

    def holds(self, device: str, inside: str) -> bool:
        """Whether a bind mount of (device, path inside the file system) is of one of these directories."""
        if self._root is None or not self._root.is_dir():
            return False
        root_device, root_inside = place_of(self._root, read_mounts())
        return device == root_device and inside.startswith(root_inside.rstrip("/") + "/")
