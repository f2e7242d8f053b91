"""Volumes in pods' directories: on real mounts, from a volume on file://."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest

from csi.proto.csi_pb2 import Volume
from tests.cli.command import end
from tests.csi.client import GIB, Driver, Mode, capability, mounted
from tests.csi.conftest import StartDriver
from tests.mounted import eventually


def make(driver: Driver, folder: str, name: str = "pvc-1", **parameters: str) -> Volume:
    return driver.call.CreateVolume(
        name=name,
        parameters={"url": folder, **parameters},
        volume_capabilities=[capability()],
        capacity_range={"required_bytes": GIB},
    ).volume


def publish(driver: Driver, volume: Volume, pod: str, **fields: Any) -> Path:
    target = driver.target(pod)
    driver.call.NodePublishVolume(
        **{
            "volume_id": volume.volume_id,
            "target_path": str(target),
            "volume_capability": capability(),
            "volume_context": volume.volume_context,
            **fields,
        }
    )
    return target


def unpublish(driver: Driver, volume: Volume, pod: str) -> None:
    driver.call.NodeUnpublishVolume(volume_id=volume.volume_id, target_path=str(driver.target(pod)))


def test_one_source_serves_all_pods_of_a_node_until_the_last_has_gone(driver: Driver, folder: str) -> None:
    volume = make(driver, folder)
    targets = [publish(driver, volume, pod) for pod in ("a", "b", "c") for _ in range(10)]
    assert len(driver.sources()) == 1
    (targets[0] / "file").write_text("from a")
    assert (targets[-1] / "file").read_text() == "from a"
    for _ in range(10):
        unpublish(driver, volume, "a")
    assert not driver.target("a").exists()
    assert (driver.target("b") / "file").read_text() == "from a"
    for pod in ("b", "c", "c"):
        unpublish(driver, volume, pod)
    assert driver.sources() == []
    assert list(driver.pods.iterdir()) == []
    assert (publish(driver, volume, "a") / "file").read_text() == "from a", "nothing that was written has gone"
    unpublish(driver, volume, "a")


def test_a_pod_may_read_only_or_the_whole_volume_may(driver: Driver, folder: str) -> None:
    volume = make(driver, folder)
    (publish(driver, volume, "writer") / "file").write_text("x")
    reader = publish(driver, volume, "reader", readonly=True)
    assert (reader / "file").read_text() == "x"
    with pytest.raises(OSError, match="Read-only") as refused:
        (reader / "file").write_text("y")
    assert refused.value.errno == errno.EROFS
    assert len(driver.sources()) == 1

    only = publish(driver, volume, "only", volume_capability=capability(Mode.MULTI_NODE_READER_ONLY))
    assert (only / "file").read_text() == "x"
    sources = driver.sources()
    assert len(sources) == 2, "a reader-only volume is a mount without a session"
    for fields in ({"readonly": True}, {"volume_capability": capability(Mode.MULTI_NODE_READER_ONLY)}):
        request = {"volume_id": volume.volume_id, "target_path": str(driver.target("writer"))}
        request |= {"volume_capability": capability(), "volume_context": volume.volume_context, **fields}
        assert driver.call.refused("NodePublishVolume", **request)[0] == "ALREADY_EXISTS"
    for pod in ("writer", "reader", "only"):
        unpublish(driver, volume, pod)
    assert driver.sources() == []


def test_the_group_of_the_pod_can_write(driver: Driver, folder: str) -> None:
    volume = make(driver, folder)
    target = publish(driver, volume, "a", volume_capability=capability(group="4321"))
    status = target.stat()
    assert (status.st_gid, status.st_mode & 0o7777) == (4321, 0o2775)
    (target / "file").touch()
    (target / "folder").mkdir()
    assert (target / "file").stat().st_gid == (target / "folder").stat().st_gid == 4321
    unpublish(driver, volume, "a")


def test_mount_options_reach_the_mount_and_others_are_refused_while_it_lives(driver: Driver, folder: str) -> None:
    volume = make(driver, folder)
    target = publish(driver, volume, "a", volume_capability=capability(flags=("noexec", "freshness=0")))
    mount = mounted(target)
    assert mount is not None
    assert "noexec" in mount.options.split(",")
    code, message = driver.call.refused(
        "NodePublishVolume",
        volume_id=volume.volume_id,
        target_path=str(driver.target("b")),
        volume_capability=capability(),
        volume_context=volume.volume_context,
    )
    assert (code, "other options" in message) == ("FAILED_PRECONDITION", True)
    assert not driver.target("b").exists()
    unpublish(driver, volume, "a")


def test_a_volume_for_one_pod_is_given_to_one(driver: Driver, folder: str) -> None:
    volume = make(driver, folder)
    single = capability(Mode.SINGLE_NODE_SINGLE_WRITER)
    for _ in range(2):
        publish(driver, volume, "a", volume_capability=single)
    request = {"volume_id": volume.volume_id, "target_path": str(driver.target("b")), "volume_capability": single}
    request["volume_context"] = volume.volume_context
    assert driver.call.refused("NodePublishVolume", **request)[0] == "FAILED_PRECONDITION"
    unpublish(driver, volume, "a")


def test_nothing_can_be_written_where_a_mount_is_missing(driver: Driver, folder: str) -> None:
    volume = make(driver, folder)
    target = publish(driver, volume, "a")
    source = Path(driver.sources()[0].mountpoint)
    os.kill(driver.daemon_of(driver.sources()[0]), signal.SIGKILL)
    eventually(lambda: _errno(target) == errno.ENOTCONN)
    with pytest.raises(OSError, match="not connected"):
        (target / "file").write_text("x")
    for bare in (target, source):
        os.system(f"umount -l {bare}")
        assert mounted(bare) is None
        with pytest.raises(PermissionError):  # as root
            (bare / "file").write_text("x")
        with pytest.raises(PermissionError):
            (bare / "folder").mkdir()
    unpublish(driver, volume, "a")
    assert not target.exists()
    assert not source.exists()


def _errno(path: Path) -> int:
    try:
        os.listdir(path)
    except OSError as error:
        return error.errno or 0
    return 0


def test_a_dead_mount_is_mended_by_publishing_again(driver: Driver, folder: str) -> None:
    volume = make(driver, folder)
    first, second = publish(driver, volume, "a"), publish(driver, volume, "b")
    (first / "file").write_text("kept")
    end(driver.daemon_of(driver.sources()[0]))
    eventually(lambda: _errno(first) == errno.ENOTCONN)
    stats = driver.call.NodeGetVolumeStats(volume_id=volume.volume_id, volume_path=str(first))
    assert stats.volume_condition.abnormal
    for _ in range(3):
        assert (publish(driver, volume, "a") / "file").read_text() == "kept"
    assert len(driver.sources()) == 1
    assert (publish(driver, volume, "b") / "file").read_text() == "kept"
    (second / "file").write_text("goes on")
    assert (first / "file").read_text() == "goes on"
    for pod in ("a", "b"):
        unpublish(driver, volume, pod)
    assert driver.sources() == []


def test_a_mount_that_was_evicted_is_mended_and_keeps_no_pod(driver: Driver, folder: str) -> None:
    """Others have ended its session while it was away: it answers, and refuses every change for good."""
    volume = make(driver, folder)
    for pod in ("a", "b"):
        target = publish(driver, volume, pod)
        with open(target / pod, "w") as file:
            file.write("kept")
            file.flush()
            os.fsync(file.fileno())  # what was only answered would be spilled
        evict(driver, f"{folder}/pvc-1")
        eventually(lambda target=target: _refuses_changes(target))  # type: ignore[misc]
        stats = driver.call.NodeGetVolumeStats(volume_id=volume.volume_id, volume_path=str(target))
        assert stats.volume_condition.abnormal
        assert "ended by others" in stats.volume_condition.message
        if pod == "a":
            assert (publish(driver, volume, pod) / pod).read_text() == "kept"
            (target / "more").write_text("goes on")
            assert len(driver.sources()) == 1
        unpublish(driver, volume, pod)
        assert driver.sources() == []


def evict(driver: Driver, url: str) -> None:
    """As an administrator who takes the node for dead, while it is frozen."""
    (source,) = driver.sources()
    status = [sys.executable, "-m", "s3vfs", "status", "--json", source.mountpoint]
    sid = json.loads(subprocess.run(status, check=True, capture_output=True).stdout)["session"]["sid"]
    daemon = driver.daemon_of(source)
    os.kill(daemon, signal.SIGSTOP)
    try:
        subprocess.run([sys.executable, "-m", "s3vfs", "evict", url, sid, "--wait", "1"], check=True)
    finally:
        os.kill(daemon, signal.SIGCONT)


def _refuses_changes(target: Path) -> bool:
    try:
        (target / "probe").mkdir()
        (target / "probe").rmdir()
    except OSError as error:
        return error.errno == errno.EIO
    return False


def test_files_in_the_way_are_neither_covered_nor_removed(driver: Driver, folder: str) -> None:
    volume = make(driver, folder)
    target = driver.target("a")
    target.mkdir()
    (target / "precious").write_text("x")
    request = {"volume_id": volume.volume_id, "target_path": str(target), "volume_capability": capability()}
    request["volume_context"] = volume.volume_context
    assert driver.call.refused("NodePublishVolume", **request)[0] == "FAILED_PRECONDITION"
    assert driver.sources() == [], "a source without a target does not stay"
    unpublishing = {"volume_id": volume.volume_id, "target_path": str(target)}
    assert driver.call.refused("NodeUnpublishVolume", **unpublishing)[0] == "INTERNAL"
    assert (target / "precious").read_text() == "x"
    (target / "precious").unlink()
    target.rmdir()
    assert driver.call.refused("NodePublishVolume", **request | {"target_path": f"{target}/x"})[0] == "INTERNAL"


def unpublished(driver: Driver, request: dict[str, str]) -> bool:
    """Whether the call succeeded now; UNAVAILABLE asks for it again, anything else fails."""
    try:
        driver.call.NodeUnpublishVolume(**request)
    except grpc.RpcError as error:
        if error.code().name != "UNAVAILABLE":
            raise
        return False
    return True


def test_unpublish_waits_until_everything_is_in_the_bucket(start_driver: StartDriver, tmp_path: Path) -> None:
    driver = start_driver("node-1", "--flush-timeout", "3")
    bucket = tmp_path / "bucket"
    volume = make(driver, f"file://{bucket}")
    target = publish(driver, volume, "a")
    with open(target / "file", "wb") as stream:
        stream.write(b"x" * 100_000)
        stream.flush()  # in the mount, not in the bucket: no close, no fsync
        bucket.rename(tmp_path / "away")
        request = {"volume_id": volume.volume_id, "target_path": str(target)}
        for _ in range(2):
            assert driver.call.refused("NodeUnpublishVolume", **request)[0] == "UNAVAILABLE"
        assert not target.exists(), "the pod has lost it at once"
        assert len(driver.sources()) == 1, "its mount goes on publishing"
        (tmp_path / "away").rename(bucket)
    # As kubelet does, again and again: the mount may go on waiting for the bucket for some seconds.
    eventually(lambda: unpublished(driver, request), within_s=60)
    assert driver.sources() == []
    assert (publish(driver, volume, "b") / "file").read_bytes() == b"x" * 100_000
    unpublish(driver, volume, "b")


def test_a_forgotten_copy_of_the_mount_does_not_keep_it_alive(start_driver: StartDriver, tmp_path: Path) -> None:
    """As container runtimes leave them: a mount namespace that was made while the volume was mounted."""
    driver = start_driver("node-1", "--flush-timeout", "3")
    volume = make(driver, f"file://{tmp_path}/bucket")
    (publish(driver, volume, "a") / "file").write_text("x")
    command = ["unshare", "-m", "--propagation", "private", "sh", "-c", "echo ready; exec cat"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as forgotten:
        assert forgotten.stdout is not None
        forgotten.stdout.readline()
        unpublish(driver, volume, "a")
        assert driver.sources() == []
        assert (publish(driver, volume, "b") / "file").read_text() == "x", "its session is free again"
        forgotten.communicate()
    unpublish(driver, volume, "b")


def test_mounts_outlive_the_driver_and_its_successor_counts_them(start_driver: StartDriver, tmp_path: Path) -> None:
    driver = start_driver("node-1")
    volume = make(driver, f"file://{tmp_path}/bucket")
    target = publish(driver, volume, "a")
    assert driver.end(signal.SIGKILL) == -signal.SIGKILL
    (target / "file").write_text("without a driver")
    driver.start()
    assert (publish(driver, volume, "b") / "file").read_text() == "without a driver"
    assert len(driver.sources()) == 1
    assert [entry.volume.volume_id for entry in driver.call.ListVolumes().entries] == [volume.volume_id]
    unpublish(driver, volume, "a")
    # Killed between mounting and binding: here as if, by taking the last target away behind its back.
    os.system(f"umount {driver.target('b')}")
    assert driver.end() == 0
    driver.start()
    eventually(lambda: driver.sources() == [], within_s=30)


def test_a_static_volume_is_published_by_its_context_alone(driver: Driver, folder: str) -> None:
    made = make(driver, folder)
    volume = Volume(volume_id="team-data", volume_context=made.volume_context)
    target = publish(driver, volume, "a")
    stats = driver.call.NodeGetVolumeStats(volume_id="team-data", volume_path=str(target))
    assert stats.usage[0].total == GIB
    request = {"volume_id": "team-data", "volume_capabilities": [capability()]}
    confirmed = driver.call.ValidateVolumeCapabilities(**request, volume_context=made.volume_context)
    assert confirmed.HasField("confirmed")
    request["volume_capabilities"] = [capability(fs_type="ext4")]
    refused = driver.call.ValidateVolumeCapabilities(**request, volume_context=made.volume_context)
    assert not refused.HasField("confirmed")
    assert "ext4" in refused.message
    driver.call.DeleteVolume(volume_id="team-data")
    assert target.is_dir()
    code, message = driver.call.refused("DeleteVolume", volume_id=made.volume_id)
    assert (code, "is mounted" in message) == ("FAILED_PRECONDITION", True)
    unpublish(driver, volume, "a")
    driver.call.DeleteVolume(volume_id=made.volume_id)
    code, _ = driver.call.refused(
        "NodePublishVolume",
        volume_id=made.volume_id,
        target_path=str(driver.target("a")),
        volume_capability=capability(),
        volume_context=made.volume_context,
    )
    assert code == "NOT_FOUND"
    assert not driver.target("a").exists()


def test_volumes_are_listed_page_by_page(driver: Driver, folder: str) -> None:
    before = {entry.volume.volume_id for entry in driver.call.ListVolumes().entries}
    names = ["pvc-1", "ein Name mit Leerzeichen / und Ä" * 4]
    made = {
        name: driver.call.CreateVolume(
            name=name,
            parameters={"url": f"{folder}/{number}"},
            volume_capabilities=[capability()],
        ).volume
        for number, name in enumerate(names)
    }
    found, token, pages = [], "", 0
    while True:
        page = driver.call.ListVolumes(max_entries=1, starting_token=token)
        assert len(page.entries) <= 1
        found += [entry.volume for entry in page.entries]
        token, pages = page.next_token, pages + 1
        if not token:
            break
    assert {volume.volume_id for volume in found} - before == {volume.volume_id for volume in made.values()}
    assert [volume for volume in found if volume.volume_id == made["pvc-1"].volume_id] == [made["pvc-1"]]
