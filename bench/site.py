"""Where one round takes place: a fresh SeaweedFS in memory, and a proxy of its own in front of each of the two mounts.

Two proxies, so that what an idle second mount asks is counted apart from what the mount at work does.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import botocore.session

from bench.cells import Counted
from tests.proxy.process import ProxyProcess
from tests.proxy.proxy import Counts
from tests.servers.place import ServerPlace
from tests.servers.seaweed import SeaweedServer

CLIENTS = ("a", "b")  # the mount at work, and the second one
CACHE_BYTES = 2 << 30  # each contestant's disk cache, each mount


def kinds(counts: Counts, before: Counts) -> Counted:
    """Requests by kind between two counts; listings apart from other GETs."""
    made = {method: counts.requests[method] - before.requests.get(method, 0) for method in counts.requests}
    if lists := counts.lists - before.lists:
        made["LIST"] = lists
        made["GET"] -= lists
    return {kind: count for kind, count in sorted(made.items()) if count}


@dataclass
class Site:
    place: ServerPlace
    filer: str
    proxies: dict[str, ProxyProcess]
    scratch: Path

    def endpoint(self, client: str) -> str:
        return self.proxies[client].url

    def environment(self, client: str) -> dict[str, str]:
        """AWS settings that lead to the server through this client's proxy."""
        return {**self.place.environment(), "AWS_ENDPOINT_URL": self.endpoint(client)}

    def set_latency(self, milliseconds: float) -> None:
        """Added to each request of either mount from now on."""
        for proxy in self.proxies.values():
            proxy.set_link(latency_s=milliseconds / 1000)

    def put(self, key: str) -> None:
        """An empty object (s3fs wants its directory to be there)."""
        session = botocore.session.Session()
        session.set_credentials(self.place.access_key, self.place.secret_key)
        client = session.create_client("s3", region_name=self.place.region, endpoint_url=self.place.endpoint_url)
        with contextlib.closing(client):
            client.put_object(Bucket=self.place.bucket, Key=key, Body=b"")


@contextlib.contextmanager
def opened_site(scratch: Path) -> Iterator[Site]:
    """A server and proxies until the end of the block."""
    folder = Path(tempfile.mkdtemp(prefix="site-", dir=scratch))
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        server = stack.enter_context(SeaweedServer())
        address = urlsplit(server.place.endpoint_url)
        assert address.hostname
        assert address.port
        upstream = (address.hostname, address.port)
        interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for us: the proxies inherit this
        try:
            proxies = {client: stack.enter_context(ProxyProcess(upstream)) for client in CLIENTS}
        finally:
            signal.signal(signal.SIGINT, interrupt)
        yield Site(server.place, server.filer, proxies, folder)
