"""The kernel reads and writes a local file by itself, where the extension has told it so. The file system is a double
(double.py), the extension compiled with sanitizers; root and Linux 6.9 are needed, as for passthrough itself."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuse.test_extra_operations import Served, opened


@pytest.fixture
def served(built: Path, tmp_path: Path) -> Iterator[Served]:
    served = Served(tmp_path, built)
    try:
        yield served.start()
    finally:
        served.clear()


@pytest.fixture
def backing(served: Served, tmp_path: Path) -> Path:
    path = tmp_path / "notes.backing"
    path.write_bytes(b"local " * 10_000)
    return path


def test_reads_and_writes_of_a_lent_file_never_arrive(served: Served, backing: Path) -> None:
    with opened(served.path / "a") as first, opened(served.path / "a") as second:
        assert os.pread(first, 100_000, 0) == b"local " * 10_000
        assert os.pwrite(second, b"there", 3) == 5
        assert os.pread(first, 8, 0) == b"locthere"
        with mmap.mmap(second, 4096) as mapping:
            mapping[:3] = b"map"
            assert os.pread(first, 8, 0) == b"mapthere"
    assert backing.read_bytes()[:8] == b"mapthere"
    assert not served.notes("read")
    assert not served.notes("write")
    assert served.note("registered")["refused"] == ""
    served.umount()


def test_direct_handles_of_a_lent_file_map_it_and_ask_for_the_rest(served: Served, backing: Path) -> None:
    with opened(served.path / "a") as lent:
        backing.with_suffix(".direct").touch()
        with opened(served.path / "a") as direct:
            assert os.pread(direct, 5, 0) == bytes(5)
            with mmap.mmap(direct, 4096) as mapping:
                assert mapping[:5] == b"local"
        assert os.pread(lent, 5, 0) == b"local"
    assert len(served.notes("read")) == 1
    served.umount()


def test_other_files_are_served_as_ever(served: Served, backing: Path) -> None:
    with opened(served.path / "a") as lent, opened(served.path / "b") as other:
        assert os.pread(other, 5, 0) == bytes(5)
        assert os.pread(lent, 5, 0) == b"local"
    assert served.notes("read")
    served.umount()
