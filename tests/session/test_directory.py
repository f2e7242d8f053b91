"""The session directory: one process at a time, and an identity that is on disk before it is used."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from s3vfs.errors import SessionBusy, SessionError
from s3vfs.session.directory import Identity, SessionDirectory

VOLUME = bytes(range(16))
IDENTITY = Identity(2**63 - 1, 7, "boot", 42, settled=True, former=((5, 3), (6, 2**40)))


def test_the_place_is_named_after_volume_and_session(tmp_path: Path) -> None:
    with SessionDirectory(tmp_path, VOLUME, "home-data") as directory:
        assert directory.path == tmp_path / VOLUME.hex() / "sessions" / "home-data"
        for folder in (directory.index, directory.working, directory.spill):
            assert folder.is_dir()


def test_a_second_process_is_told_who_has_it_until_the_first_closes(tmp_path: Path) -> None:
    with SessionDirectory(tmp_path, VOLUME, "a"):
        with pytest.raises(SessionBusy, match=r"'a' is in use by process \d+"):
            SessionDirectory(tmp_path, VOLUME, "a")
        with SessionDirectory(tmp_path, VOLUME, "b"):
            pass
    with SessionDirectory(tmp_path, VOLUME, "a"):
        pass


def test_an_identity_is_read_as_it_was_written_and_is_gone_when_removed(tmp_path: Path) -> None:
    with SessionDirectory(tmp_path, VOLUME, "a") as directory:
        assert directory.read_identity() is None
        directory.write_identity(IDENTITY)
        assert directory.read_identity() == IDENTITY
        directory.remove_identity()
        assert directory.read_identity() is None


def test_a_crash_while_the_identity_is_written_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with SessionDirectory(tmp_path, VOLUME, "a") as directory:
        directory.write_identity(IDENTITY)

        def crash(descriptor: int) -> None:
            raise OSError("the machine went down")

        monkeypatch.setattr("os.fsync", crash)
        with pytest.raises(OSError, match="went down"):
            directory.write_identity(Identity(1, 1, "boot", 1, settled=False))
        assert directory.read_identity() == IDENTITY


@pytest.mark.parametrize("text", ["", "{", "[]", json.dumps({"format": 1}), json.dumps({"format": 1, "sid": 5})])
def test_an_unreadable_identity_is_an_error_and_never_a_new_session(tmp_path: Path, text: str) -> None:
    with SessionDirectory(tmp_path, VOLUME, "a") as directory:
        (directory.path / "session.json").write_text(text)
        with pytest.raises(SessionError, match="unreadable"):
            directory.read_identity()


def test_an_identity_of_a_newer_program_is_refused(tmp_path: Path) -> None:
    with SessionDirectory(tmp_path, VOLUME, "a") as directory:
        (directory.path / "session.json").write_text(json.dumps({"format": 2}))
        with pytest.raises(SessionError, match="format 2"):
            directory.read_identity()


def test_what_lies_in_session_directories_is_spread_over_the_disk(tmp_path: Path) -> None:
    with SessionDirectory(tmp_path, VOLUME, "one") as directory:
        listed = subprocess.run(["lsattr", "-d", str(directory.path.parent)], capture_output=True, text=True)
    if listed.returncode == 0 and "e" in listed.stdout.split()[0]:  # extents: ext4, or something like it
        assert "T" in listed.stdout.split()[0]
    with SessionDirectory(tmp_path, VOLUME, "one"):
        pass  # once more, where it has been told already
