"""Volumes in a bucket, and what is there after a crash at any moment. In this process, on file://."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from csi import provision
from csi.marker import DELETING, RETAINED, Capacity, Marker
from csi.refusals import Code, Refusal
from csi.volume_id import Location
from tests.cli.command import s3vfs

GIB = 1 << 30
WANTED = Marker("pvc-1", GIB, {"type": "shared", "cacheSize": "", "onDelete": "delete"})


def create(folder: Location, wanted: Marker = WANTED, capacity: Capacity | None = None) -> Marker:
    range_ = capacity or Capacity(wanted.capacity_bytes)
    return trio.run(provision.create, folder, "pvc-1", wanted, range_)


def look(folder: Location) -> Marker:
    return trio.run(provision.look, folder, "pvc-1")


@pytest.fixture
def folder(tmp_path: Path) -> Location:
    return Location(f"file://{tmp_path}/bucket")


def quota(folder: Location) -> int:
    return int(s3vfs("status", folder.url + "/pvc-1", "--json").json()["volume"]["quota_bytes"])


def write_marker(folder: Location, marker: Marker) -> None:
    file = Path(folder.url.removeprefix("file://"), ".csi", "pvc-1")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(marker.encoded())


def test_a_volume_has_its_capacity_as_quota_and_its_name(folder: Location) -> None:
    assert create(folder) == WANTED == look(folder)
    volume = s3vfs("status", folder.url + "/pvc-1", "--json").json()["volume"]
    assert (volume["quota_bytes"], volume["name"]) == (GIB, "pvc-1")


def test_creating_again_changes_nothing(folder: Location) -> None:
    create(folder)
    assert create(folder) == WANTED
    assert create(folder, replace(WANTED, capacity_bytes=GIB // 2)) == WANTED, "a larger one satisfies the request"


@pytest.mark.parametrize(
    ("wanted", "capacity"),
    [
        (replace(WANTED, capacity_bytes=2 * GIB), Capacity(2 * GIB)),
        (replace(WANTED, capacity_bytes=GIB // 2), Capacity(GIB // 2, GIB // 2)),
        (replace(WANTED, parameters={**WANTED.parameters, "onDelete": "retain"}), Capacity(GIB)),
        (replace(WANTED, name="another name with the same leaf"), Capacity(GIB)),
    ],
)
def test_the_same_name_with_other_wishes_is_refused(folder: Location, wanted: Marker, capacity: Capacity) -> None:
    create(folder)
    with pytest.raises(Refusal) as refused:
        create(folder, wanted, capacity)
    assert refused.value.code is Code.ALREADY_EXISTS


def test_a_volume_that_somebody_else_made_is_never_taken_over(folder: Location, tmp_path: Path) -> None:
    (tmp_path / "bucket").mkdir()
    s3vfs("format", folder.url + "/pvc-1").ok()
    with pytest.raises(Refusal) as refused:
        create(folder)
    assert refused.value.code is Code.ALREADY_EXISTS
    provision.delete(folder, "pvc-1")
    assert s3vfs("status", folder.url + "/pvc-1").code == 0, "and deleting it does nothing"


def test_creators_at_the_same_time_make_one_volume(folder: Location) -> None:
    made: list[Marker] = []

    async def one() -> None:
        made.append(await provision.create(folder, "pvc-1", WANTED, Capacity(GIB)))

    async def all_at_once() -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(one)

    trio.run(all_at_once)
    assert made == [WANTED] * 4
    assert s3vfs("status", folder.url + "/pvc-1").code == 0


def test_a_create_that_ended_after_its_marker_is_finished_by_the_next(folder: Location) -> None:
    write_marker(folder, WANTED)
    assert create(folder) == WANTED
    assert quota(folder) == GIB


def test_growing_raises_the_quota_and_never_lowers_it(folder: Location) -> None:
    create(folder)
    grown = trio.run(provision.expand, folder, "pvc-1", Capacity(3 * GIB))
    assert grown.capacity_bytes == quota(folder) == 3 * GIB
    assert trio.run(provision.expand, folder, "pvc-1", Capacity(2 * GIB)).capacity_bytes == 3 * GIB
    with pytest.raises(Refusal) as refused:
        trio.run(provision.expand, folder, "pvc-1", Capacity(GIB, 2 * GIB))
    assert refused.value.code is Code.OUT_OF_RANGE
    assert create(folder).capacity_bytes == 3 * GIB, "the first request still finds its volume"


def test_deleting_leaves_nothing_and_can_be_repeated(folder: Location, tmp_path: Path) -> None:
    create(folder)
    provision.delete(folder, "pvc-1")
    provision.delete(folder, "pvc-1")
    left = [path for path in (tmp_path / "bucket").rglob("*") if path.is_file()]
    assert left == []
    create(folder)
    assert quota(folder) == GIB, "the name is free again"


def test_deleting_what_was_never_made_is_no_error(folder: Location, tmp_path: Path) -> None:
    provision.delete(folder, "pvc-1")
    (tmp_path / "bucket").mkdir()
    provision.delete(folder, "pvc-1")


def test_a_retained_volume_is_gone_for_the_orchestrator_only(folder: Location) -> None:
    wanted = replace(WANTED, parameters={**WANTED.parameters, "onDelete": "retain"})
    create(folder, wanted)
    provision.delete(folder, "pvc-1")
    provision.delete(folder, "pvc-1")
    with pytest.raises(Refusal) as refused:
        look(folder)
    assert refused.value.code is Code.NOT_FOUND
    assert s3vfs("status", folder.url + "/pvc-1").code == 0
    with pytest.raises(Refusal, match="retained") as refused:
        create(folder, wanted)
    assert refused.value.code is Code.ALREADY_EXISTS
    assert trio.run(provision.list_folder, folder, "", 0) == ([], "")


def test_a_deletion_that_was_interrupted_is_finished_by_the_next(folder: Location) -> None:
    create(folder)
    write_marker(folder, replace(WANTED, state=DELETING))
    with pytest.raises(Refusal) as refused:
        create(folder)
    assert refused.value.code is Code.ABORTED
    provision.delete(folder, "pvc-1")
    assert s3vfs("status", folder.url + "/pvc-1").code == 3
    write_marker(folder, replace(WANTED, state=DELETING))  # it had ended just before the marker
    provision.delete(folder, "pvc-1")
    assert not os.path.exists(folder.url.removeprefix("file://") + "/.csi/pvc-1")


def test_a_marker_of_a_newer_driver_is_left_alone(folder: Location) -> None:
    create(folder)
    write_marker(folder, replace(WANTED, version=2))
    with pytest.raises(Refusal) as refused:
        provision.delete(folder, "pvc-1")
    assert refused.value.code is Code.FAILED_PRECONDITION


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", json.dumps({"version": 1, "name": "x"}).encode()])
def test_a_damaged_marker_deletes_nothing(folder: Location, body: bytes) -> None:
    create(folder)
    Path(folder.url.removeprefix("file://"), ".csi", "pvc-1").write_bytes(body)
    with pytest.raises(Refusal) as refused:
        provision.delete(folder, "pvc-1")
    assert refused.value.code is Code.DATA_LOSS
    assert s3vfs("status", folder.url + "/pvc-1").code == 0


def test_a_listing_goes_on_where_it_stopped(folder: Location, tmp_path: Path) -> None:
    markers = tmp_path / "bucket" / ".csi"
    markers.mkdir(parents=True)
    names = [f"pvc-{number:02}" for number in range(7)]
    for name in names:
        (markers / name).write_bytes(replace(WANTED, name=name).encoded())
    (markers / "pvc-03").write_bytes(replace(WANTED, name="pvc-03", state=RETAINED).encoded())
    found: list[str] = []
    after = ""
    while True:
        page, after = trio.run(provision.list_folder, folder, after, 2)
        assert len(page) <= 2
        found += [leaf for leaf, _ in page]
        if not after:
            break
    assert found == [name for name in names if name != "pvc-03"]
