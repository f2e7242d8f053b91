"""Killed daemons and absent servers: what was acknowledged is there afterwards, and everything goes on by itself."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mounted import Volume, eventually
from tests.proxy.process import ProxyProcess


def write_synced(path: Path, data: bytes) -> None:
    fd = os.open(path, os.O_CREAT | os.O_WRONLY, 0o644)
    try:
        os.write(fd, data)
        os.fsync(fd)
    finally:
        os.close(fd)


class Copy:
    """Writes and fsyncs files one after another, in a thread, until it fails or has made them all. `done`: the names
    that were acknowledged."""

    def __init__(self, target: Path, count: int) -> None:
        self.target = target
        self.count = count
        self.done: list[str] = []
        self.failure: OSError | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    @staticmethod
    def content(name: str) -> bytes:
        return (name.encode() * 4000)[:20_000]

    def _run(self) -> None:
        try:
            for number in range(self.count):
                name = f"file{number:05d}"
                write_synced(self.target / name, self.content(name))
                self.done.append(name)
        except OSError as error:
            self.failure = error

    def wait(self) -> None:
        self._thread.join(300)
        assert not self._thread.is_alive()

    def check(self, directory: Path) -> None:
        for name in self.done:
            assert (directory / name).read_bytes() == self.content(name), name


def test_files_fsynced_before_kill_9_are_there_after_the_next_mount(s3_volume: Volume) -> None:
    here = s3_volume.mount("--freshness", "0", quiet=False)  # the last name was not fsynced: it may go with the lease
    there = s3_volume.mount("--freshness", "0")
    copy = Copy(here.path, 100_000)
    eventually(lambda: len(copy.done) >= 30, within_s=60)
    here.kill()
    copy.wait()
    assert copy.failure is not None
    assert copy.failure.errno in (errno.ENOTCONN, errno.ECONNABORTED, errno.EIO)
    copy.check(there.path)
    here.start()
    copy.check(here.path)


def test_bytes_written_but_not_synced_before_kill_9_come_back_with_the_next_mount(s3_volume: Volume) -> None:
    """DESIGN 6: a killed daemon loses nothing."""
    here, there = s3_volume.mount("--freshness", "0"), s3_volume.mount("--freshness", "0")
    fd = os.open(here.path / "open", os.O_CREAT | os.O_WRONLY, 0o644)
    os.write(fd, b"a" * 300_000)
    os.write(fd, b"b" * 300_000)
    here.kill()
    with pytest.raises(OSError, match=r"not connected|abort"):
        os.close(fd)
    here.start()
    assert (here.path / "open").read_bytes() == b"a" * 300_000 + b"b" * 300_000
    eventually(lambda: (there.path / "open").stat().st_size == 600_000, within_s=15)


def goes_on_after(volume: Volume, away: Callable[[], None], back: Callable[[], None], seconds: float) -> None:
    here, there = (volume.mount("--freshness", "0", quiet=False) for _ in range(2))
    copy = Copy(here.path, 60)
    eventually(lambda: len(copy.done) >= 10, within_s=60)
    away()
    threading.Timer(seconds, back).start()
    copy.wait()
    assert copy.failure is None
    assert len(copy.done) == 60
    copy.check(here.path)
    copy.check(there.path)


def test_a_copy_goes_on_when_the_server_was_away(wired_volume: Volume, wire: ProxyProcess) -> None:
    goes_on_after(wired_volume, wire.refuse, wire.resume, 8)


def test_a_copy_goes_on_when_the_network_was_silent(wired_volume: Volume, wire: ProxyProcess) -> None:
    goes_on_after(wired_volume, wire.block, wire.resume, 8)


@pytest.mark.long
def test_a_copy_goes_on_when_the_server_was_away_for_a_minute(wired_volume: Volume, wire: ProxyProcess) -> None:
    goes_on_after(wired_volume, wire.refuse, wire.resume, 60)


def test_uncached_work_fails_with_eio_after_io_timeout_and_cached_work_goes_on(
    wired_volume: Volume, wire: ProxyProcess
) -> None:
    """DESIGN 7, "when the bucket does not answer", with `--offline stale`."""
    here = wired_volume.mount("--io-timeout", "4", "--no-leases", quiet=False)
    (here.path / "known").write_bytes(b"cached")
    assert (here.path / "known").read_bytes() == b"cached"
    wire.refuse()
    assert (here.path / "known").read_bytes() == b"cached"
    assert os.listdir(here.path) == ["known"]
    with pytest.raises(OSError, match="Input/output error") as caught:
        (here.path / "new").mkdir()
    assert caught.value.errno == errno.EIO
    wire.resume()
    eventually(lambda: (here.path / "after").mkdir() or True, within_s=30)
    assert (here.path / "after").is_dir()


def test_offline_error_refuses_what_it_cannot_check(wired_volume: Volume, wire: ProxyProcess) -> None:
    here = wired_volume.mount("--io-timeout", "3", "--offline", "error", "--freshness", "0", "--no-leases", quiet=False)
    (here.path / "known").write_bytes(b"cached")
    wire.refuse()
    with pytest.raises(OSError, match="Input/output error"):
        (here.path / "other").stat()
    wire.resume()
    eventually(lambda: (here.path / "known").read_bytes() == b"cached", within_s=30)
