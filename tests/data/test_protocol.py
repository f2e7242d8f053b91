"""The real session, spill directory and filesystem fit the data room's contracts: checked by mypy, called here."""

from __future__ import annotations

from s3vfs.data.contents import Contents
from s3vfs.data.protocol import DataSession, Sizes, Spilling, data_key
from s3vfs.filesystem.contracts import FileContents
from s3vfs.journal.volume import SECTOR_BYTES
from s3vfs.session.session import Session
from s3vfs.session.spill import Spill


def session_fits(session: Session) -> DataSession:
    return session


def spill_fits(spill: Spill) -> Spilling:
    return spill


def contents_fit(contents: Contents) -> FileContents:
    return contents


def test_sizes_are_the_formats() -> None:
    assert Sizes().sector_bytes == SECTOR_BYTES


def test_a_data_key_is_what_the_format_says() -> None:
    object_id = bytes.fromhex("0123456789abcdef000000010000002a")
    key = data_key(object_id)
    assert key.startswith("data/")
    assert len(key.split("/")[1]) == 2
    assert key.endswith("/0123456789abcdef-00000001-0000002a")
