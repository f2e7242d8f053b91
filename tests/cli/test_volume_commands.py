"""format, config, ls, status URL, destroy, evict: what needs no mount."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from s3vfs.cli.destroy import MARK_KEY, confirm
from s3vfs.cli.evict import parse_sid
from s3vfs.errors import UsageError
from tests.cli.command import Place, daemon_of, end, s3vfs


def files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_format_makes_a_volume_once(place: Place) -> None:
    made = s3vfs("format", place.url, "--name=first", "--quota=10TiB", "--quota-inodes=1000", "--json").json()
    assert made["name"] == "first"
    figures = s3vfs("status", place.url, "--json").json()
    assert figures["volume"]["uuid"] == made["uuid"]
    assert figures["volume"]["quota_bytes"] == 10 << 40
    assert figures["volume"]["quota_inodes"] == 1000
    assert figures["sessions"] == []
    s3vfs("format", place.url).fails(8, "'first'", "already")


def test_a_volume_is_named_after_its_place_unless_told_otherwise(place: Place) -> None:
    assert s3vfs("format", place.url, "--json").json()["name"] == "volume"


def test_format_makes_no_parents(place: Place) -> None:
    s3vfs("format", f"file://{place.folder}/a/b/c").fails(3)
    assert files_in(place.folder) == []


def test_config_changes_what_it_is_told_and_nothing_else(place: Place) -> None:
    place.format("--quota=1GiB")
    assert "1.0 GiB" in s3vfs("config", place.url).ok().out
    volume = s3vfs("config", place.url, "--quota-inodes=7", "--name=other", "--json").json()["volume"]
    assert (volume["name"], volume["quota_bytes"], volume["quota_inodes"]) == ("other", 1 << 30, 7)
    volume = s3vfs("config", place.url, "--quota=none", "--json").json()["volume"]
    assert (volume["name"], volume["quota_bytes"], volume["quota_inodes"]) == ("other", 0, 7)
    s3vfs("config", place.url, "--name", "x" * 300).fails(2, "name")


def test_ls_finds_volumes_below_and_not_inside_volumes(place: Place) -> None:
    for name in ("one", "deep/two"):
        (place.folder / name).parent.mkdir(exist_ok=True)
        s3vfs("format", f"file://{place.folder}/{name}").ok()
    (place.folder / "one" / "nested").mkdir()
    (place.folder / "broken").mkdir()
    (place.folder / "broken" / "volume.json").write_text("{}")
    found = s3vfs("ls", f"file://{place.folder}", "--json").json()["volumes"]
    assert {volume["url"].rpartition("/")[2]: bool(volume["problem"]) for volume in found} == {
        "one": False,
        "two": False,
        "broken": True,
    }
    shallow = s3vfs("ls", f"file://{place.folder}", "--depth=1").ok().out
    assert "one" in shallow
    assert "two" not in shallow
    (place.folder / "nothing").mkdir()
    s3vfs("ls", f"file://{place.folder}/nothing").fails(3, "no volume")


@pytest.mark.parametrize("command", [["status"], ["config"], ["destroy", "--yes-destroy=x"], ["evict", "--wait=0"]])
def test_what_is_no_volume_is_said_to_be_none(place: Place, command: list[str]) -> None:
    more = ["1"] if command[0] == "evict" else []
    s3vfs(*command, f"file://{place.folder}", *more).fails(3, "is not a volume")
    s3vfs(*command, f"file://{place.folder}/missing", *more).fails(3, "/missing")


def test_destroy_deletes_the_volume_and_nothing_else(place: Place) -> None:
    place.format()
    folder = place.folder / "volume"
    (folder / "not-ours").write_text("keep")
    mountpoint = place.mount()
    (mountpoint / "file").write_text("x" * 100)
    s3vfs("umount", mountpoint).ok()
    s3vfs("destroy", place.url).fails(2, "--yes-destroy")
    s3vfs("destroy", place.url, "--yes-destroy=wrong").fails(2, "nothing is deleted")
    assert s3vfs("destroy", place.url, "--yes-destroy=work", "--json").json()["deleted_objects"] > 5
    assert files_in(folder) == ["not-ours"]
    s3vfs("destroy", place.url, "--yes-destroy=work").fails(3, "is not a volume")


def test_destroy_asks_for_the_present_name(place: Place) -> None:
    place.format()
    s3vfs("config", place.url, "--name=renamed").ok()
    s3vfs("destroy", place.url, "--yes-destroy=work").fails(2)
    s3vfs("destroy", place.url, "--yes-destroy=renamed").ok()


def test_confirm_compares_what_was_given() -> None:
    confirm("name", "name")
    with pytest.raises(UsageError, match="not the volume's name"):
        confirm("name", "")


def test_destroy_refuses_while_a_session_lives(place: Place) -> None:
    mountpoint = place.format().mount()
    s3vfs("destroy", place.url, "--yes-destroy=work").fails(8, "sessions are alive", "evict")
    (mountpoint / "still").write_text("here")
    s3vfs("umount", mountpoint).ok()
    s3vfs("destroy", place.url, "--yes-destroy=work").ok()


def test_an_interrupted_destroy_is_finished_by_the_next(place: Place) -> None:
    place.format()
    folder = place.folder / "volume"
    os.rename(folder / "volume.json", folder / MARK_KEY)
    place.try_mount().fails(3, "volume")
    s3vfs("format", place.url).fails(8, "destroy again")
    s3vfs("destroy", place.url, "--yes-destroy=work").ok()
    assert files_in(folder) == []
    place.format()


def test_evict_ends_a_dead_session_and_no_living_one(place: Place) -> None:
    mountpoint = place.format().mount()
    (mountpoint / "file").write_text("kept")
    sid = s3vfs("status", place.url, "--json").json()["sessions"][0]["sid"]
    alive = s3vfs("evict", place.url, sid, "--wait=3")
    assert alive.code == 8
    assert f"s3vfs: session {sid}" in alive.err
    assert "is alive" in alive.err
    (mountpoint / "more").write_text("works")
    end(daemon_of(mountpoint))
    evicted = s3vfs("evict", place.url, sid, "--wait=0.2").ok()
    assert sid in evicted.out
    assert "holds leases: it has 10 s to answer" in evicted.err
    assert s3vfs("status", place.url, "--json").json()["sessions"] == []
    s3vfs("evict", place.url, sid, "--wait=0.2").fails(3, "no session")
    place.clear()
    assert (place.mount() / "file").read_text() == "kept"


def test_a_session_id_is_hexadecimal() -> None:
    assert parse_sid("00000000000000ff") == 255
    for text in ("", "0", "-1", "xyz", "8000000000000000"):
        with pytest.raises(ValueError, match="session id"):
            parse_sid(text)


def test_a_broken_volume_json_is_damage(place: Place) -> None:
    place.format()
    (place.folder / "volume" / "volume.json").write_text('{"format": 1')
    s3vfs("status", place.url).fails(7, "volume.json")
    place.try_mount().fails(7, "volume.json")


def test_a_newer_format_is_refused(place: Place) -> None:
    place.format()
    path = place.folder / "volume" / "volume.json"
    path.write_text(path.read_text().replace('"format": 1', '"format": 99').replace('"format":1', '"format":99'))
    place.try_mount().fails(9)
