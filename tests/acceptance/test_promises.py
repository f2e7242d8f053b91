"""The promises of docs/semantics.md that need the default settings, a lost machine, or a look at the wire. The others
are in tests/fuse/test_two_mounts.py, test_faults.py and test_bad_input.py."""

from __future__ import annotations

import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.mounted import Mount, Volume
from tests.proxy.process import ProxyProcess

FRESHNESS_S = 0.1
ROUNDS = 20


def test_with_the_default_freshness_an_open_that_late_after_close_sees_it(default_pair: tuple[Mount, Mount]) -> None:
    here, there = default_pair
    for number in range(ROUNDS):
        text = f"round {number}"
        (here.path / "file").write_text(text)
        time.sleep(FRESHNESS_S)  # the promise begins this long after close
        assert (there.path / "file").read_text() == text


def test_with_the_default_freshness_a_name_is_found_and_missed_that_late(default_pair: tuple[Mount, Mount]) -> None:
    here, there = default_pair
    for number in range(ROUNDS):
        (here.path / f"d{number}").mkdir()
        time.sleep(FRESHNESS_S)
        assert (there.path / f"d{number}").is_dir()


def test_creation_is_exact_at_any_freshness(volume: Volume) -> None:
    mounts = [volume.mount("--freshness", "30"), volume.mount("--freshness", "30")]

    def create(path: Path) -> bool:
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except FileExistsError:
            return False
        return True

    def make(path: Path) -> bool:
        try:
            path.mkdir()
        except FileExistsError:
            return False
        return True

    with ThreadPoolExecutor(2) as threads:
        for number in range(ROUNDS):
            for call, name in ((create, f"file{number}"), (make, f"dir{number}")):
                assert sum(threads.map(call, [mount.path / name for mount in mounts])) == 1


def test_what_was_fsynced_survives_the_loss_of_its_machine(s3_volume: Volume) -> None:
    here = s3_volume.mount()
    fd = os.open(here.path / "file", os.O_CREAT | os.O_WRONLY, 0o644)
    data = os.urandom(3 << 20)
    os.write(fd, data)
    os.fsync(fd)
    here.kill()
    shutil.rmtree(here.cache)
    there = s3_volume.mount()
    assert (there.path / "file").read_bytes() == data


def test_a_read_only_mount_only_gets(wired_volume: Volume, wire: ProxyProcess) -> None:
    here = wired_volume.mount()
    (here.path / "file").write_bytes(b"x" * 100_000)
    assert here.umount() == 0
    before = wire.counts().requests
    there = wired_volume.mount("--read-only")
    assert (there.path / "file").read_bytes() == b"x" * 100_000
    assert os.listdir(there.path) == ["file"]
    assert there.umount() == 0
    after = wire.counts().requests
    used = {method for method in after if after[method] != before.get(method, 0)}
    assert used
    assert used <= {"GET", "HEAD"}
