"""Names become leaves, ids say where a volume is."""

from __future__ import annotations

import pytest

from csi.refusals import Code, Refusal
from csi.volume_id import LIMIT_BYTES, Location, SharedId, WorkspaceId, checked, leaf_of, parse


def test_the_name_of_a_claim_is_its_leaf() -> None:
    assert leaf_of("pvc-0fa7a2e0-9f2c-4b1e-8d3a-2b1c0e9d8f7a") == "pvc-0fa7a2e0-9f2c-4b1e-8d3a-2b1c0e9d8f7a"


@pytest.mark.parametrize("name", ["x" * 128, "Ä" * 128, "A b/c\n#~%", "..", ".csi", "n-abc", "a/../b", "-a", "UPPER"])
def test_other_names_are_hashed_into_safe_leaves_that_differ(name: str) -> None:
    leaf = leaf_of(name)
    assert leaf == leaf_of(name)
    assert leaf != leaf_of(name + "2" if len(name) < 128 else name[:-1])
    assert leaf.startswith("n-")
    assert set(leaf) <= set("abcdefghijklmnopqrstuvwxyz234567-")


@pytest.mark.parametrize("name", ["", "x" * 129, "a\x00b", "a\x1bb", "a\x85b"])
def test_names_that_csi_bans_are_refused(name: str) -> None:
    with pytest.raises(Refusal) as refused:
        leaf_of(name)
    assert refused.value.code is Code.INVALID_ARGUMENT


@pytest.mark.parametrize(
    "volume",
    [
        SharedId("pvc-1", Location("s3://bucket/volumes")),
        SharedId("pvc-1", Location("s3://bucket")),
        SharedId("pvc-1", Location("s3://bucket/volumes", "http://10.0.0.1:8333")),
        SharedId("pvc-1", Location("s3://bucket/volumes", "", "eu-central-1")),
        SharedId("pvc-1", Location("file:///a%20b")),
        WorkspaceId("pvc-1", "retain", "gpu-node-7.example.com"),
    ],
)
def test_an_id_says_all_that_is_needed_to_delete(volume: SharedId | WorkspaceId) -> None:
    assert parse(checked(volume)) == volume


def test_a_volume_lies_in_its_folder() -> None:
    assert SharedId("pvc-1", Location("s3://bucket/v", "http://h", "r")).location == Location(
        "s3://bucket/v/pvc-1", "http://h", "r"
    )


@pytest.mark.parametrize(
    "text",
    ["", "x", "team-data", "shared#", "shared#pvc-1", "shared#../etc#s3://b", "shared#a#b", "shared#a#s3://b/#c#d#e"]
    + [
        "workspace#a",
        "workspace#a#maybe#n",
        "workspace#a/../b#delete#n",
        "workspace#a#delete#",
        "shared#a#file:///x/../y",
    ],
)
def test_ids_of_others_are_known_as_such(text: str) -> None:
    assert parse(text) is None


def test_an_id_never_exceeds_what_csi_allows() -> None:
    volume = SharedId("pvc-" + "1" * 30, Location("s3://bucket/" + "p" * 80))
    assert len(str(volume)) > LIMIT_BYTES
    with pytest.raises(Refusal, match="shorter url"):
        checked(volume)
