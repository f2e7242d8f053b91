"""flock and fcntl locks between processes on one and on two mounts of a volume, through real kernels.

Processes are children of their own (tests.fuse.locker): locks belong to processes, and those of this one would go with
whatever it closes.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import mmap
import os
import select
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.mounted import Mount, Volume, differs_with_passthrough

Pair = tuple[Path, Path]
KINDS = ["flock", "fcntl"]
# How long an answer may take that waits for nobody, on a busy machine.
PATIENCE_S = 30.0


class Talker:
    """A process that does what it is told."""

    def __init__(self, path: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.fuse.locker", "talk", str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self.answer() == "ready"

    def begin(self, command: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(command.encode() + b"\n")
        self.process.stdin.flush()

    def answered(self, within_s: float = 0.0) -> bool:
        return bool(select.select([self.process.stdout], [], [], within_s)[0])

    def answer(self, within_s: float = PATIENCE_S) -> str:
        assert self.answered(within_s), "no answer"
        assert self.process.stdout is not None
        return self.process.stdout.readline().decode().strip()

    def __call__(self, command: str) -> str:
        self.begin(command)
        return self.answer()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def end(self) -> None:
        with contextlib.suppress(OSError):
            self.process.kill()
        self.process.wait()
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        self.process.stdout.close()


@pytest.fixture
def talker() -> Iterator[Callable[[Path], Talker]]:
    """Makes processes; none is left at the end."""
    made: list[Talker] = []

    def make(path: Path) -> Talker:
        made.append(Talker(path))
        return made[-1]

    yield make
    for one in made:
        one.end()


def status(mount: Mount) -> dict[str, Any]:
    output = subprocess.run(
        [sys.executable, "-m", "s3vfs", "status", "--json", str(mount.path)], check=True, capture_output=True
    )
    found: dict[str, Any] = json.loads(output.stdout)
    return found


def waiting(mount: Mount, count: int = 1) -> None:
    """Return when so many wait on that mount."""
    deadline_s = time.monotonic() + PATIENCE_S
    while status(mount)["locks"]["waiting"] != count:
        assert time.monotonic() < deadline_s, status(mount)["locks"]


@pytest.mark.parametrize("kind", KINDS)
def test_counters_under_locks_end_exact(pair: Pair, kind: str) -> None:
    """Four processes on two mounts; each reads and writes through one descriptor that it opened before."""
    here, there = pair
    (here / "counter").write_bytes(b"0")
    rounds = 15
    processes = [
        subprocess.Popen([sys.executable, "-m", "tests.fuse.locker", "count", str(path / "counter"), kind, str(rounds)])
        for path in (here, there, here, there)
    ]
    assert [process.wait(120) for process in processes] == [0] * 4
    assert (here / "counter").read_bytes() == b"%d" % (4 * rounds)
    assert (there / "counter").read_bytes() == b"%d" % (4 * rounds)


@pytest.mark.parametrize("kind", KINDS)
def test_a_lock_is_seen_on_the_other_mount_and_on_its_own(
    pair: Pair, talker: Callable[[Path], Talker], kind: str
) -> None:
    here, there = pair
    (here / "file").write_bytes(b"0")
    a, b, c = talker(here / "file"), talker(there / "file"), talker(here / "file")
    assert a(f"{kind} ex") == "ok"
    assert b(f"{kind} try-sh") == c(f"{kind} try-ex") == "EAGAIN"
    assert a(f"{kind} sh") == "ok"
    assert b(f"{kind} sh") == c(f"{kind} try-sh") == "ok"
    assert b(f"{kind} try-ex") == "EAGAIN"
    assert a("close") == "ok"
    assert c(f"{kind} un") == "ok"
    assert b(f"{kind} ex") == "ok"


@pytest.mark.parametrize("kind", KINDS)
def test_under_a_lock_an_old_descriptor_reads_what_the_last_holder_wrote(
    pair: Pair, talker: Callable[[Path], Talker], kind: str
) -> None:
    """Same size, same mtime: nothing but the lock tells the kernel that its pages are old."""
    here, there = pair
    (here / "file").write_bytes(b"aaaa")
    a, b = talker(here / "file"), talker(there / "file")
    assert a("stamp") == "ok"
    assert a("read") == b("read") == "aaaa"
    for text in ("bbbb", "cccc", "dddd"):
        assert a(f"{kind} ex") == a(f"write {text}") == a("stamp") == a(f"{kind} un") == "ok"
        assert b(f"{kind} sh") == "ok"
        assert b("read") == text
        assert b(f"{kind} un") == "ok"
        assert b(f"{kind} ex") == b(f"write {text.upper()}") == b("stamp") == b(f"{kind} un") == "ok"
        assert a(f"{kind} sh") == "ok"
        assert a("read") == text.upper()
        assert a(f"{kind} un") == "ok"


def test_record_locks_of_two_mounts_go_by_ranges(pair: Pair, talker: Callable[[Path], Talker]) -> None:
    here, there = pair
    (here / "file").write_bytes(b"0")
    a, b = talker(here / "file"), talker(there / "file")
    assert a("fcntl ex 0 10") == b("fcntl ex 10 10") == "ok"
    assert b("fcntl try-sh 9 1") == a("fcntl try-sh 19 1") == "EAGAIN"
    assert a("fcntl un 5 5") == "ok"
    assert b("fcntl try-sh 5 5") == "ok"
    assert b("fcntl try-sh 4 1") == "EAGAIN"
    assert b("fcntl ex 100") == "ok"
    assert a("fcntl try-sh 1000000000000 1") == "EAGAIN"


def test_flock_and_fcntl_locks_do_not_meet(pair: Pair, talker: Callable[[Path], Talker]) -> None:
    here, there = pair
    (here / "file").write_bytes(b"0")
    a, b = talker(here / "file"), talker(there / "file")
    assert a("flock ex") == b("fcntl ex") == "ok"
    assert b("flock try-sh") == a("fcntl try-sh") == "EAGAIN"


def test_closing_any_descriptor_releases_record_locks_and_only_the_last_a_flock(
    pair: Pair, talker: Callable[[Path], Talker]
) -> None:
    here, there = pair
    (here / "file").write_bytes(b"0")
    a, b = talker(here / "file"), talker(there / "file")
    assert a("flock ex") == a("fcntl ex") == a("open") == a("close") == "ok"
    assert b("fcntl try-ex") == "ok"
    assert b("flock try-ex") == "EAGAIN"


@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_holder_lets_go(
    pair: Pair, shared_pair: tuple[Mount, Mount], talker: Callable[[Path], Talker], kind: str
) -> None:
    here, there = pair
    (here / "file").write_bytes(b"old")
    a, b = talker(here / "file"), talker(there / "file")
    assert a(f"{kind} ex") == a("write new") == "ok"
    b.begin(f"{kind} ex")
    waiting(shared_pair[1])
    assert not b.answered()
    a.kill()
    assert b.answer() == "ok"
    assert b("read") == "new"


def test_two_mounts_in_a_circle_get_edeadlk(
    pair: Pair, shared_pair: tuple[Mount, Mount], talker: Callable[[Path], Talker]
) -> None:
    here, there = pair
    (here / "file").write_bytes(b"0")
    a, b = talker(here / "file"), talker(there / "file")
    assert a("fcntl ex 0 1") == b("fcntl ex 1 1") == "ok"
    a.begin("fcntl ex 1 1")
    waiting(shared_pair[0])
    assert b("fcntl ex 0 1") == "EDEADLK"
    assert b("fcntl un") == "ok"
    assert a.answer() == "ok"


@pytest.mark.parametrize("kind", KINDS)
def test_a_signal_ends_a_wait(
    pair: Pair, shared_pair: tuple[Mount, Mount], talker: Callable[[Path], Talker], kind: str
) -> None:
    here, there = pair
    (here / "file").write_bytes(b"0")
    a, b = talker(here / "file"), talker(there / "file")
    assert a(f"{kind} ex") == "ok"
    b.begin(f"{kind} ex")
    waiting(shared_pair[1])
    b.process.send_signal(signal.SIGUSR1)
    assert b.answer() == "EINTR"
    assert a(f"{kind} un") == "ok"
    assert a(f"{kind} try-ex") == "ok"
    assert a(f"{kind} un") == "ok"
    assert b(f"{kind} ex") == "ok"


def test_a_waiter_that_is_killed_is_not_waited_for(
    pair: Pair, shared_pair: tuple[Mount, Mount], talker: Callable[[Path], Talker]
) -> None:
    here, there = pair
    (here / "file").write_bytes(b"0")
    a, b, c = talker(here / "file"), talker(there / "file"), talker(there / "file")
    assert a("flock sh") == "ok"
    b.begin("flock ex")
    waiting(shared_pair[1])
    c.begin("flock sh")
    waiting(shared_pair[1], 2)
    b.kill()
    assert c.answer() == "ok"


@pytest.mark.parametrize("kind", ["flock", pytest.param("fcntl", marks=pytest.mark.long)])
def test_the_lock_of_a_killed_daemon_goes_to_the_waiter(
    volume: Volume, talker: Callable[[Path], Talker], kind: str
) -> None:
    """It is challenged, does not answer for 10 s, and is evicted."""
    here, there = volume.mount("--freshness", "0", quiet=False), volume.mount("--freshness", "0")
    (here.path / "file").write_bytes(b"0")
    a, b = talker(here.path / "file"), talker(there.path / "file")
    assert a(f"{kind} ex") == "ok"
    b.begin(f"{kind} ex")
    waiting(there)
    here.kill()
    assert b.answer(60) == "ok"
    assert status(there)["locks"]["evictions"] == 1


def test_a_daemon_that_comes_back_publishes_before_it_lets_go(volume: Volume, talker: Callable[[Path], Talker]) -> None:
    here, there = volume.mount("--freshness", "0", quiet=False), volume.mount("--freshness", "0")
    (here.path / "file").write_bytes(b"old")
    a, b = talker(here.path / "file"), talker(there.path / "file")
    assert a("flock ex") == a("write new") == "ok"
    here.kill()
    a.kill()
    b.begin("flock ex")
    here.start()
    assert b.answer() == "ok"
    assert b("read") == "new"
    assert status(there)["locks"]["evictions"] == 0


@differs_with_passthrough("writes go on after an eviction, until fsync or close")
def test_a_holder_that_was_away_too_long_writes_nothing_any_more(
    volume: Volume, talker: Callable[[Path], Talker]
) -> None:
    """Frozen under a lock, evicted, and back: what it writes then is kept aside and reaches nobody."""
    here, there = volume.mount("--freshness", "0", quiet=False), volume.mount("--freshness", "0")
    (here.path / "file").write_bytes(b"old")
    a, b = talker(here.path / "file"), talker(there.path / "file")
    assert a("flock ex") == a("write late") == "ok"
    with here.frozen():
        assert b("flock ex") == "ok"
        assert b("read") == "old"
        assert b("write new") == "ok"
    a.begin("write later")
    assert a.answer() in ("ok", "EIO")
    assert a("flock un") == "EIO"
    assert a("write more") == "EIO"
    assert a("flock ex") == "EIO"
    assert b("read") == "new"
    assert b("flock un") == "ok"
    assert (there.path / "file").read_bytes() == b"new"
    (folder,) = status(here)["spill"]
    assert b"late" in Path(folder, "bytes").read_bytes()
    with contextlib.suppress(OSError):
        os.stat(here.path)


def test_getlk_tells_the_range_and_no_pid_of_another_machine(pair: Pair, talker: Callable[[Path], Talker]) -> None:
    here, there = pair
    (here / "file").write_bytes(b"0")
    holder = talker(here / "file")
    assert holder("fcntl ex 10 10") == "ok"
    with open(there / "file", "r+b") as second:
        request = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        kind, _, start, length, pid = struct.unpack("hhqqi4x", fcntl.fcntl(second, fcntl.F_GETLK, request))
    assert (kind, start, length, pid) == (fcntl.F_WRLCK, 10, 10, 0)


def test_an_old_mapping_and_an_old_size_are_renewed_by_a_lock(pair: Pair, talker: Callable[[Path], Talker]) -> None:
    here, there = pair
    (here / "file").write_bytes(b"old!")
    other = talker(here / "file")
    with open(there / "file", "r+b") as second, mmap.mmap(second.fileno(), 4) as mapped:
        assert mapped[:] == b"old!"
        assert other("flock ex") == other("write new!new!") == other("flock un") == "ok"
        fcntl.flock(second, fcntl.LOCK_SH)
        assert mapped[:] == b"new!"
        assert os.fstat(second.fileno()).st_size == 8
