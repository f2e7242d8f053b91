"""The life of volumes on a real S3 server, with credentials that come with the requests; and what never shows them."""

from __future__ import annotations

import os
import subprocess
from typing import Any

from csi.volume_id import LIMIT_BYTES
from tests.csi.client import GIB, Driver, Mode, capability
from tests.mounted import eventually
from tests.servers.place import ServerPlace


def command_lines() -> str:
    """Of all processes, with their arguments."""
    return subprocess.run(["ps", "-eo", "args", "ww"], capture_output=True, text=True, check=True).stdout


def test_a_volume_lives_from_create_to_delete(driver: Driver, seaweed: ServerPlace, secrets: dict[str, str]) -> None:
    call, url = driver.call, seaweed.fresh_url()
    parameters = {"type": "shared", "url": url, "endpointUrl": seaweed.endpoint_url, "cacheSize": "1GiB"}
    wanted: dict[str, Any] = {
        "parameters": parameters,
        "secrets": secrets,
        "volume_capabilities": [capability(), capability(Mode.SINGLE_NODE_WRITER)],
    }
    name = "pvc-1"
    volumes = [
        call.CreateVolume(name=name, capacity_range={"required_bytes": GIB, "limit_bytes": 2 * GIB}, **wanted).volume
        for _ in range(2)
    ]
    volume = volumes[0]
    assert volumes[1] == volume
    assert volume.capacity_bytes == GIB
    assert len(volume.volume_id) <= LIMIT_BYTES
    assert not volume.accessible_topology, "reachable from everywhere"
    assert volume.volume_context["url"] == f"{url}/pvc-1"
    for changed in (
        {"capacity_range": {"required_bytes": 5 * GIB}},
        {"parameters": {**parameters, "onDelete": "retain"}},
    ):
        assert call.refused("CreateVolume", **{"name": name, **wanted, **changed})[0] == "ALREADY_EXISTS"

    confirmed = call.ValidateVolumeCapabilities(
        volume_id=volume.volume_id,
        volume_context=volume.volume_context,
        volume_capabilities=[capability()],
        secrets=secrets,
    )
    assert list(confirmed.confirmed.volume_capabilities) == [capability()]
    target = driver.target("a")
    publication = {
        "volume_id": volume.volume_id,
        "target_path": str(target),
        "volume_capability": capability(),
        "volume_context": volume.volume_context,
        "secrets": secrets,
    }
    for _ in range(10):
        call.NodePublishVolume(**publication)
    with open(target / "file", "wb") as file:
        file.write(b"x" * 1_000_000)
        os.fsync(file.fileno())  # what was only answered is counted within a second
    said = command_lines()
    usage = call.NodeGetVolumeStats(volume_id=volume.volume_id, volume_path=str(target)).usage[0]
    assert (usage.total, usage.used >= 1_000_000) == (GIB, True)

    assert (
        call.ControllerExpandVolume(
            volume_id=volume.volume_id, capacity_range={"required_bytes": 3 * GIB}, secrets=secrets
        ).capacity_bytes
        == 3 * GIB
    )

    def shown_bytes() -> int:
        statistics = os.statvfs(target)
        return statistics.f_blocks * statistics.f_frsize

    # Under the running pod, which follows the journal like any other mount.
    eventually(lambda: shown_bytes() == 3 * GIB)
    assert call.ControllerGetVolume(volume_id=volume.volume_id).volume.capacity_bytes == 3 * GIB

    deletion = {"volume_id": volume.volume_id, "secrets": secrets}
    assert call.refused("DeleteVolume", **deletion)[0] == "FAILED_PRECONDITION"
    for _ in range(2):
        call.NodeUnpublishVolume(volume_id=volume.volume_id, target_path=str(target))
    assert not target.exists()
    for _ in range(2):
        call.DeleteVolume(**deletion)
    assert call.refused("ControllerGetVolume", volume_id=volume.volume_id)[0] == "NOT_FOUND"
    assert call.refused("NodePublishVolume", **publication)[0] == "NOT_FOUND"
    assert driver.sources() == []

    kept = [path.read_text(errors="replace") for path in driver.state.rglob("*.json")] + [driver.log.read_text(), said]
    for secret in secrets.values():
        assert not any(secret in text for text in kept), "credentials are in no argument, log or file of the driver"


def test_wrong_credentials_are_told_as_such(driver: Driver, seaweed: ServerPlace, secrets: dict[str, str]) -> None:
    wrong = {**secrets, "AWS_SECRET_ACCESS_KEY": "not-the-secret"}
    code, message = driver.call.refused(
        "CreateVolume",
        name="pvc-1",
        parameters={"url": seaweed.fresh_url(), "endpointUrl": seaweed.endpoint_url},
        secrets=wrong,
        volume_capabilities=[capability()],
    )
    assert code == "PERMISSION_DENIED"
    assert "not-the-secret" not in message


def test_an_inline_volume_brings_its_place_and_its_keys(
    driver: Driver, seaweed: ServerPlace, secrets: dict[str, str]
) -> None:
    call = driver.call
    volume = call.CreateVolume(
        name="datasets",
        parameters={"url": seaweed.fresh_url(), "endpointUrl": seaweed.endpoint_url},
        secrets=secrets,
        volume_capabilities=[capability()],
    ).volume
    target = driver.target("inline")
    context = {
        "csi.storage.k8s.io/ephemeral": "true",
        "csi.storage.k8s.io/pod.name": "p",
        "url": volume.volume_context["url"],
        "endpointUrl": seaweed.endpoint_url,
        "mountOptions": "noexec,freshness=0",
        "cacheSize": "1GiB",
    }
    publication = {
        "volume_id": "csi-0a1b2c",
        "target_path": str(target),
        "volume_capability": capability(Mode.SINGLE_NODE_WRITER),
        "volume_context": context,
    }
    assert call.refused("NodePublishVolume", **publication)[0] == "INVALID_ARGUMENT", "never with the node's own keys"
    bad = {**context, "url": "file:///etc"}
    assert call.refused("NodePublishVolume", **publication | {"volume_context": bad, "secrets": secrets})[0] == (
        "INVALID_ARGUMENT"
    )
    for _ in range(10):
        call.NodePublishVolume(**publication, secrets=secrets)
    (target / "file").write_text("x")
    (cache,) = (driver.state / "inline").iterdir()
    assert any(cache.rglob("*"))
    for _ in range(2):
        call.NodeUnpublishVolume(volume_id="csi-0a1b2c", target_path=str(target))
    assert not target.exists()
    assert driver.sources() == []
    assert list((driver.state / "inline").iterdir()) == [], "nobody will ask for this cache again"
    call.NodePublishVolume(**publication | {"volume_id": "csi-2"}, secrets=secrets)
    assert (target / "file").read_text() == "x", "the volume itself stays"
    call.NodeUnpublishVolume(volume_id="csi-2", target_path=str(target))
