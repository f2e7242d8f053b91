"""Broken volumes and wrong settings: a clear error on one line, nothing mounted, nothing lost."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mounted import Mount, Volume, eventually
from tests.servers.place import ServerPlace


def refused(mount: Mount, exit_code: int, *words: str) -> None:
    """Mounting ends with this code and one line that has all `words`; nothing stays mounted."""
    command = [sys.executable, "-m", "s3vfs", "mount", mount.url, str(mount.path), "--cache-dir", str(mount.cache)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == exit_code, ended.stderr
    lines = ended.stderr.strip().splitlines()
    assert len(lines) == 1, ended.stderr
    for word in words:
        assert word in lines[0]
    assert not os.path.ismount(mount.path)


def fresh(volume: Volume, name: str) -> Mount:
    return Mount(volume.url, volume.folder / name)


def bucket_of(volume: Volume) -> Path:
    return volume.folder / "bucket"


def records(volume: Volume) -> list[Path]:
    return sorted(bucket_of(volume).glob("journal/*/*"), key=lambda path: path.name)


def flip_bit(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def test_a_broken_volume_json_is_named(volume: Volume) -> None:
    (bucket_of(volume) / "volume.json").write_text('{"format": 1, ')
    refused(fresh(volume, "x"), 7, "volume.json")


def test_a_volume_of_a_newer_format_is_refused(volume: Volume) -> None:
    path = bucket_of(volume) / "volume.json"
    path.write_text(path.read_text().replace('"format": 1', '"format": 2').replace('"format":1', '"format":2'))
    refused(fresh(volume, "x"), 9, "newer")


def test_a_directory_without_a_volume_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bucket").mkdir()
    (tmp_path / "bucket" / "photo.jpg").write_bytes(b"mine")
    refused(Mount(f"file://{tmp_path}/bucket", tmp_path / "x"), 3, "volume", "cop")


def test_a_record_with_a_flipped_bit_stops_the_client_read_only(volume: Volume) -> None:
    here = volume.mount(quiet=False)
    (here.path / "kept").write_bytes(b"kept")
    here.sync()
    there = volume.mount(quiet=False)
    there.freeze()
    (here.path / "later").write_bytes(b"later")
    here.sync()
    flip_bit(records(volume)[-1], 40)
    there.thaw()
    eventually(lambda: any("read-only" in str(line.get("message")) for line in there.log_lines()), within_s=15)
    assert (there.path / "kept").read_bytes() == b"kept"
    with pytest.raises(OSError, match="Read-only"):
        (there.path / "refused").mkdir()


def test_a_flipped_bit_in_an_old_record_refuses_a_new_mount(volume: Volume) -> None:
    here = volume.mount()
    (here.path / "file").write_bytes(b"x")
    here.umount()
    flip_bit(records(volume)[1], 50)
    refused(fresh(volume, "x"), 7, "record")


def test_a_missing_data_object_gives_eio_and_names_the_file(volume: Volume) -> None:
    here = volume.mount()
    (here.path / "lost").write_bytes(b"x" * 5000)
    (here.path / "whole").mkdir()
    here.umount()
    shutil.rmtree(bucket_of(volume) / "data")
    there = volume.mount(quiet=False)
    with pytest.raises(OSError, match="Input/output error"):
        (there.path / "lost").read_bytes()
    assert any("lost" in str(line.get("message")) for line in there.log_lines() if line.get("level") == "error")
    assert (there.path / "whole").is_dir()


def test_a_damaged_data_object_gives_eio_and_never_wrong_bytes(volume: Volume) -> None:
    here = volume.mount()
    (here.path / "file").write_bytes(os.urandom(300_000))
    here.umount()
    (data,) = [path for path in bucket_of(volume).glob("data/*/*") if path.stat().st_size >= 300_000]
    flip_bit(data, 270_000)
    there = volume.mount(quiet=False)
    with pytest.raises(OSError, match="Input/output error"):
        (there.path / "file").read_bytes()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MiB."""
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(place)], check=True)
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_cache_disk_slows_reading_but_does_not_break_it(volume: Volume, small_disk: Path) -> None:
    here = volume.mount("--freshness", "0")
    data = os.urandom(48 << 20)
    (here.path / "large").write_bytes(data)
    there = Mount(volume.url, volume.folder / "there", quiet=False)
    there.cache = small_disk
    volume.mounts.append(there)
    there.start()
    assert (there.path / "large").read_bytes() == data
    (there.path / "small").write_bytes(b"written with a full disk")
    assert (here.path / "small").read_bytes() == b"written with a full disk"


def test_wrong_credentials_are_said_so_and_not_shown(tmp_path: Path, seaweed: ServerPlace) -> None:
    environment = {**os.environ, **seaweed.environment(), "AWS_SECRET_ACCESS_KEY": "not-the-secret"}
    command = [sys.executable, "-m", "s3vfs", "mount", seaweed.fresh_url(), str(tmp_path / "m")]
    (tmp_path / "m").mkdir()
    ended = subprocess.run(
        [*command, "--cache-dir", str(tmp_path / "cache")], env=environment, capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 4, ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1
    assert "not-the-secret" not in ended.stderr
    assert not os.path.ismount(tmp_path / "m")
