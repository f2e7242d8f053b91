"""What cannot go on is kept where its user finds it."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from s3vfs.session.spill import Spill

NOON_NS = 1_700_000_000 * 10**9


def test_unpublished_ranges_are_kept_at_their_offsets_and_listed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = tmp_path / "working"
    source.write_bytes(b"0123456789" * 1000)
    spill = Spill(tmp_path / "spill")
    with caplog.at_level(logging.ERROR):
        kept = spill.keep(
            path=b"dir/\xff name",
            ino=17,
            reason="the session was evicted",
            ranges=[(5, 3), (9000, 10)],
            source=source,
            wall_ns=NOON_NS,
        )
    assert kept.folder.name == "20231114T221320Z-0"
    data = (kept.folder / "bytes").read_bytes()
    assert (data[5:8], data[9000:9010], data[:5]) == (b"567", b"0123456789", bytes(5))
    assert spill.list() == [kept]
    assert os.fsdecode(b"dir/\xff name") in caplog.text
    assert "evicted" in caplog.text
    assert source.exists()


def test_a_whole_file_is_kept_when_nobody_knows_what_was_published(tmp_path: Path) -> None:
    source = tmp_path / "working"
    source.write_bytes(b"all of it")
    kept = Spill(tmp_path / "spill").keep(path=b"f", ino=1, reason="r", ranges=[], source=source, wall_ns=NOON_NS)
    assert (kept.folder / "bytes").read_bytes() == b"all of it"
    assert kept.ranges == ((0, 9),)


def test_files_spilled_in_one_second_do_not_meet(tmp_path: Path) -> None:
    source = tmp_path / "working"
    source.write_bytes(b"x")
    spill = Spill(tmp_path / "spill")
    for ino in range(3):
        spill.keep(path=b"f", ino=ino, reason="r", ranges=[], source=source, wall_ns=NOON_NS)
    assert [spilled.ino for spilled in spill.list()] == [0, 1, 2]


def test_a_half_written_folder_is_listed_with_what_is_wrong(tmp_path: Path) -> None:
    folder = tmp_path / "spill" / "20231114T221320Z-0"
    folder.mkdir(parents=True)
    (listed,) = Spill(tmp_path / "spill").list()
    assert listed.folder == folder
    assert "no description" in listed.reason


def test_nothing_spilled_is_an_empty_list(tmp_path: Path) -> None:
    assert Spill(tmp_path / "spill").list() == []
