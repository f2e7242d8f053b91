"""The life cycle from a client on another gRPC stack: Node's grpc-js, with the same proto file."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from csi.proto.generate import PROTO
from tests.csi.client import GIB, Driver
from tests.servers.place import ServerPlace

CLIENT = Path(__file__).with_name("node_client")


@pytest.fixture(scope="module")
def node_client() -> Path:
    """The script in a directory with its packages; they are installed once a machine. Fails where they cannot be."""
    for program in ("node", "npm"):
        assert shutil.which(program), f"{program} is missing: install nodejs and npm (./dev setup does)"
    package = (CLIENT / "package.json").read_bytes()
    place = Path(tempfile.gettempdir()) / f"s3vfs-node-client-{hashlib.sha256(package).hexdigest()[:12]}"
    if not (place / "complete").exists():
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        (place / "package.json").write_bytes(package)
        command = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts"]
        done = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, f"npm install failed:\n{done.stdout}{done.stderr}"
        (place / "complete").touch()
    shutil.copy(CLIENT / "life_cycle.js", place)
    return place / "life_cycle.js"


def test_grpc_js_runs_the_life_cycle(
    driver: Driver, seaweed: ServerPlace, secrets: dict[str, str], node_client: Path
) -> None:
    target = driver.target("a")
    asked = {
        "url": seaweed.fresh_url(),
        "endpointUrl": seaweed.endpoint_url,
        "secrets": secrets,
        "target": str(target),
    }
    done = subprocess.run(
        ["node", str(node_client), driver.endpoint, str(PROTO), json.dumps(asked)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found == {
        "driver": "csi.s3vfs.io",
        "ready": True,
        "node": "node-1",
        "volume_id": f"shared#from-node#{asked['url']}#{asked['endpointUrl']}",
        "capacity_bytes": GIB,
        "read": "written by node",
        "total": GIB,
        "listed": True,
        "target_exists": False,
        "without_capability": "INVALID_ARGUMENT",
        "of_the_deleted": "NOT_FOUND",
    }
    assert driver.sources() == []
