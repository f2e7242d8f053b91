"""A node as Kubernetes has it: the host, the driver in a container, and pods, each a mount namespace of its own.

The kubelet's directory and the driver's state are shared mounts of the host. The driver's container has both with
`mountPropagation: Bidirectional`; a pod's container has its volume with `HostToContainer`, or without propagation.
"""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

from s3vfs.fuse.mountinfo import Mount, parse_mounts
from tests.csi.client import Driver
from tests.mounted import eventually

_HOST = """
set -eu
for directory; do
    mount --bind "$directory" "$directory"
    mount --make-shared "$directory"
done
echo ready
exec cat
"""

# As runc does it: nothing of the container reaches the host; then the volume, a copy or a slave of the host's mount.
_POD = """
set -eu
mount --make-rslave /
mount -t tmpfs tmpfs "$3"
mkdir "$3/shared"
mount --rbind "$2" "$3/shared"
mount "--make-r$1" "$3/shared"
echo ready
exec cat
"""


class _Namespace:
    """A process that holds a mount namespace. Its commands begin with `enter`."""

    def __init__(self, command: list[str]) -> None:
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n"
        self.enter = ["nsenter", f"--target={self._process.pid}", "--mount"]

    def sh(self, script: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*self.enter, "sh", "-c", script], capture_output=True, text=True)

    def mount_at(self, path: Path) -> Mount | None:
        """The topmost mount there, as this namespace sees it."""
        lines = Path(f"/proc/{self._process.pid}/mountinfo").read_bytes()
        found = [mount for mount in parse_mounts(lines) if mount.mountpoint == str(path)]
        return found[-1] if found else None

    def end(self) -> None:
        self._process.communicate()


class ClusterPod(_Namespace):
    """A running pod; its volume is at `directory`. `propagation`: slave (HostToContainer) or private (None)."""

    def __init__(self, host: _Namespace, target: Path, root: Path, propagation: str) -> None:
        root.mkdir()
        self.directory = root / "shared"
        unshare = ["unshare", "--mount", "--propagation=unchanged"]
        super().__init__([*host.enter, *unshare, "sh", "-c", _POD, "pod", propagation, str(target), str(root)])


class ClusterNode:
    """The host and its driver. `restart_container` is what an update or a crash of the plugin's container does."""

    def __init__(self, folder: Path) -> None:
        self._within: list[str] = []
        self.driver = Driver(folder, "node-1", within=self._within)
        self.driver.state.mkdir()
        shared = [str(self.driver.state), str(self.driver.pods)]
        self.host = _Namespace(["unshare", "--mount", "--propagation=private", "sh", "-c", _HOST, "host", *shared])
        self._within += [*self.host.enter, "unshare", "--mount", "--propagation=unchanged"]
        self.driver.start()
        self._pods: list[ClusterPod] = []

    def pod(self, target: Path, propagation: str) -> ClusterPod:
        pod = ClusterPod(self.host, target, self.driver.folder / f"root-{len(self._pods)}", propagation)
        self._pods.append(pod)
        return pod

    def restart_container(self) -> None:
        """Everything in the container is killed, mount daemons too. A new one starts, which finds the old mounts."""
        self._kill_container()
        self.driver.forget_client()
        self.driver.start()

    def _kill_container(self) -> None:
        namespace = os.readlink(f"/proc/{self.driver.pid}/ns/mnt")

        def inside() -> list[int]:
            return [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if _namespace(pid) == namespace]

        def gone() -> bool:
            for pid in inside():
                os.kill(pid, signal.SIGKILL)
            return self.driver.ended() and not inside()

        eventually(gone, within_s=30)

    def end(self) -> None:
        for pod in self._pods:
            pod.end()
        self._kill_container()
        self.driver.stop()
        self.host.end()


def _namespace(pid: int) -> str:
    """The mount namespace of a process that has not ended, "" otherwise."""
    try:
        return os.readlink(f"/proc/{pid}/ns/mnt")
    except OSError:
        return ""
