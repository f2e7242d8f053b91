"""A CSI client, and the driver as a process: what an orchestrator does, one call at a time."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import message_factory

from csi.proto import csi_pb2
from csi.proto.csi_pb2 import VolumeCapability
from s3vfs.fuse.mountinfo import Mount, mount_at, read_mounts
from s3vfs.fuse.registry import find
from tests.cli.command import end
from tests.mounted import eventually

Mode = VolumeCapability.AccessMode
GIB = 1 << 30


def capability(
    mode: Any = Mode.MULTI_NODE_MULTI_WRITER, *, flags: tuple[str, ...] = (), group: str = "", fs_type: str = ""
) -> VolumeCapability:
    """A mount capability."""
    mount = VolumeCapability.MountVolume(mount_flags=flags, volume_mount_group=group, fs_type=fs_type)
    return VolumeCapability(mount=mount, access_mode=VolumeCapability.AccessMode(mode=mode))


class Client:
    """Every RPC of the three services as a method: keyword arguments are the request's fields."""

    def __init__(self, socket: Path) -> None:
        self._channel = grpc.insecure_channel(f"unix://{socket}")
        self._methods = {}
        for service in csi_pb2.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                self._methods[method.name] = self._method(service.full_name, method)

    def _method(self, service: str, method: Any) -> Any:
        request = message_factory.GetMessageClass(method.input_type)
        call = self._channel.unary_unary(
            f"/{service}/{method.name}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=message_factory.GetMessageClass(method.output_type).FromString,
        )
        return lambda **fields: call(request(**fields), timeout=120, wait_for_ready=True)

    def __getattr__(self, name: str) -> Any:
        return self._methods[name]

    def unknown(self, service: str, method: str) -> grpc.StatusCode:
        """The code of a call that the proto subset does not have."""
        call = self._channel.unary_unary(f"/csi.v1.{service}/{method}")
        try:
            call(b"", timeout=60)
        except grpc.RpcError as error:
            return error.code()
        return grpc.StatusCode.OK

    def refused(self, rpc: str, /, **fields: Any) -> tuple[str, str]:
        """(code, message) of a call that must fail."""
        try:
            answer = self._methods[rpc](**fields)
        except grpc.RpcError as error:
            return error.code().name, error.details()
        raise AssertionError(f"{rpc} was answered: {answer}")

    def close(self) -> None:
        self._channel.close()


class Driver:
    """`python -m csi` as a node of its own. `stop` leaves nothing mounted and no daemon behind."""

    def __init__(
        self,
        folder: Path,
        node: str,
        *options: str,
        environment: Mapping[str, str] | None = None,
        within: Sequence[str] = (),
    ) -> None:
        self.folder = folder / node
        self.folder.mkdir(parents=True)
        self.node = node
        self.state = self.folder / "state"
        self.pods = self.folder / "pods"
        self.workspaces = self.folder / "disk"
        self.log = self.folder / "log"
        for directory in (self.pods, self.workspaces):
            directory.mkdir()
        self._socket = self.folder / "csi.sock"
        self._options = options
        self._within = within  # words before the command: programs that become it
        self._environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        self._environment |= dict(environment or {})
        self._process: subprocess.Popen[bytes] | None = None
        self._starts = 0
        self._client: Client | None = None

    @property
    def endpoint(self) -> str:
        return f"unix://{self._socket}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> Driver:
        with open(self.log, "ab") as log:
            self._process = subprocess.Popen(
                [
                    *(*self._within, sys.executable, "-m", "csi", "--verbose"),
                    *("--state-dir", str(self.state), "--workspace-root", str(self.workspaces), *self._options),
                ],
                env=self._environment | {"CSI_ENDPOINT": self.endpoint, "NODE_ID": self.node},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        started = self._starts
        self._starts += 1
        eventually(lambda: self._serves(started), within_s=60)
        return self

    def _serves(self, before: int) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log.read_text()
        return self._socket.exists() and self.log.read_text().count('"serving"') > before

    def ended(self) -> bool:
        return self._process is None or self._process.poll() is not None

    @property
    def call(self) -> Client:
        if self._client is None:
            self._client = Client(self._socket)
        return self._client

    def end(self, number: int = signal.SIGTERM) -> int:
        """End the driver's process; mounts stay. Its exit code."""
        self.forget_client()
        assert self._process is not None
        self._process.send_signal(number)
        return self._process.wait(60)

    def forget_client(self) -> None:
        """The driver has ended: the next call connects anew."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def target(self, pod: str) -> Path:
        """Where an orchestrator asks for a pod's volume: the parent is there, the directory is not."""
        return self.pods / pod

    def sources(self) -> list[Mount]:
        """Source mounts of this node, from mountinfo."""
        return [mount for mount in read_mounts() if mount.mountpoint.startswith(f"{self.state}/mounts/")]

    def daemon_of(self, mount: Mount) -> int:
        record = find(mount.device, os.geteuid())
        assert record is not None
        return record.pid

    def stop(self) -> None:
        """Whatever a test has left: processes, mounts, sealed directories."""
        if self._process is not None and self._process.poll() is None:
            self.end()
        pids = set()
        mounts = [mount for mount in read_mounts() if mount.mountpoint.startswith(f"{self.folder}/")]
        for mount in reversed(mounts):
            record = find(mount.device, os.geteuid()) if mount.ours else None
            if record is not None:
                pids.add(record.pid)
            subprocess.run(["umount", "-l", mount.mountpoint], check=False, capture_output=True)
        for pid in pids:
            end(pid)
        for path in [*self.pods.glob("*"), *self.state.glob("mounts/*")]:
            with contextlib.suppress(OSError):
                subprocess.run(["chattr", "-i", str(path)], check=False, capture_output=True)


def mounted(path: Path) -> Mount | None:
    return mount_at(str(path), read_mounts())
