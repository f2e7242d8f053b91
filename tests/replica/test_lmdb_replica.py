"""What only the replica on disk promises: what it survives, what it distrusts, how it fails."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import lmdb
import pytest

from s3vfs.errors import Damaged, S3vfsError
from s3vfs.namespace.digest import digest_of, digest_to_bytes
from s3vfs.replica import lmdb_environment
from s3vfs.replica.lmdb_replica import LmdbReplica
from s3vfs.replica.protocol import EMPTY, Position, Row
from tests.replica.histories import VOLUME, Author, all_rows, begin, create, make_record


def opened(path: Path, *, volume: bytes = VOLUME, boot_id: str = "boot") -> LmdbReplica:
    return LmdbReplica.open(path, volume=volume, boot_id=boot_id)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "session" / "replica"


@pytest.fixture
def filled(path: Path) -> tuple[Position, list[Row]]:
    """A replica at `path`, closed again, and what is in it."""
    replica = opened(path)
    author = Author(1)
    begin(replica, author)
    author.commit(replica, [create(author, b"file %d" % number) for number in range(200)])
    position, rows = replica.position, all_rows(replica)
    replica.close()
    return position, rows


def check_kept(replica: LmdbReplica, filled: tuple[Position, list[Row]]) -> None:
    assert not replica.rebuilt
    assert (replica.position, all_rows(replica)) == filled
    replica.close()


def check_rebuilt(replica: LmdbReplica, why: str) -> None:
    assert replica.rebuilt
    assert why in replica.rebuilt_why
    assert replica.position == EMPTY
    assert all_rows(replica) == []
    replica.apply(make_record(EMPTY, [], volume=replica.volume))
    replica.close()


def test_a_new_replica_is_not_called_rebuilt(path: Path) -> None:
    replica = opened(path)
    assert not replica.rebuilt
    replica.close()


def test_a_replica_is_found_again(path: Path, filled: tuple[Position, list[Row]]) -> None:
    for _ in range(3):
        check_kept(opened(path), filled)


@pytest.mark.usefixtures("filled")
def test_another_boot_id_makes_it_empty(path: Path) -> None:
    check_rebuilt(opened(path, boot_id="next boot"), "before this boot")
    assert not opened(path, boot_id="next boot").rebuilt


@pytest.mark.usefixtures("filled")
def test_another_volume_makes_it_empty(path: Path) -> None:
    check_rebuilt(opened(path, volume=b"another-volume-1"), "another volume")


@pytest.mark.usefixtures("filled")
@pytest.mark.parametrize("stamp", [b"", b"\0" * 60, b"7\n", b"1", None])
def test_an_unreadable_stamp_makes_it_empty(path: Path, stamp: bytes | None) -> None:
    if stamp is None:
        (path / "stamp").unlink()
    else:
        (path / "stamp").write_bytes(stamp)
    check_rebuilt(opened(path), "")


@pytest.mark.usefixtures("filled")
@pytest.mark.parametrize("keep_bytes", [0, 100, 4096, 8192, 20_000])
def test_truncated_files_make_it_empty(path: Path, keep_bytes: int) -> None:
    os.truncate(path / "data.mdb", keep_bytes)
    replica = opened(path)
    assert replica.position == EMPTY
    assert all_rows(replica) == []
    replica.close()


@pytest.mark.usefixtures("filled")
def test_overwritten_files_make_it_empty(path: Path) -> None:
    (path / "data.mdb").write_bytes(b"not LMDB " * 10_000)
    check_rebuilt(opened(path), "unreadable")


def test_an_unreadable_position_makes_it_empty(path: Path, filled: tuple[Position, list[Row]]) -> None:
    with lmdb.open(str(path), map_size=1 << 30, sync=False) as environment, environment.begin(write=True) as txn:
        txn.put(b"\0", b"junk")
    check_rebuilt(opened(path), "position")


CHILD = """
import os, sys
from pathlib import Path
from s3vfs.namespace import ops as o
from s3vfs.replica.lmdb_replica import LmdbReplica
from tests.replica.histories import VOLUME, Author, begin, create

replica = LmdbReplica.open(sys.argv[1], volume=VOLUME, boot_id="boot")
author = Author(1)
if sys.argv[2] == "apply":
    begin(replica, author)
    while True:
        name = b"%d" % author.number
        author.commit(replica, [create(author, name + b"-%d" % index) for index in range(20)])
        os.write(1, b"%d\\n" % replica.position.seq)
else:
    def rows():
        for number in range(10**9):
            if number == 30_000:
                os.write(1, b"loading\\n")
            yield b"I" + number.to_bytes(8), b"x" * 100
    replica.load(rows(), replica.position)
"""


def run_and_kill(path: Path, what: str, after_lines: int) -> bytes:
    """Start the child, kill it (SIGKILL) once it has said so many lines; its last line."""
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(path), what], stdout=subprocess.PIPE)
    assert child.stdout is not None
    with child.stdout:
        line = b""
        for _ in range(after_lines):
            line = child.stdout.readline()
            assert line, "the child ended by itself"
        child.kill()
        rest = child.stdout.read().splitlines()
    assert child.wait() == -signal.SIGKILL
    return rest[-1] if rest else line


@pytest.mark.parametrize("after_lines", [1, 40, 163])
def test_killed_between_or_within_applies_it_stands_at_one_record(path: Path, after_lines: int) -> None:
    seen = int(run_and_kill(path, "apply", after_lines))
    replica = opened(path)
    assert not replica.rebuilt
    # The record being applied when the signal came may have been finished before it was spoken of.
    assert replica.position.seq in (seen, seen + 1)
    assert replica.position.digest == digest_to_bytes(digest_of(all_rows(replica)))
    Author(2).announce(replica)
    replica.close()


def test_killed_while_loading_it_is_as_it_was(path: Path, filled: tuple[Position, list[Row]]) -> None:
    position, rows = filled
    run_and_kill(path, "load", 1)
    replica = opened(path)
    assert not replica.rebuilt
    assert (replica.position, all_rows(replica)) == (position, rows)
    assert not (path / "next").exists()
    replica.close()


def test_a_state_that_was_installed_is_found_again(path: Path, filled: tuple[Position, list[Row]]) -> None:
    position, rows = filled
    replica = opened(path)
    replica.load(rows[:1], Position(77, bytes(16), digest_to_bytes(digest_of(rows[:1]))))
    replica.load(rows, position)
    Author(2).announce(replica)
    after = replica.position, all_rows(replica)
    replica.close()
    replica = opened(path)
    assert not replica.rebuilt
    assert (replica.position, all_rows(replica)) == after
    replica.close()


def test_it_is_not_used_after_fork(path: Path) -> None:
    replica = opened(path)
    pid = os.fork()
    if pid == 0:
        try:
            with replica.read():
                os._exit(1)
        except RuntimeError:
            os._exit(0)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    replica.close()


def test_small_address_spaces_get_a_smaller_map(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, asked = lmdb.open, []

    def limited(name: str, *, map_size: int, **others: object) -> lmdb.Environment:
        asked.append(map_size)
        if map_size > 1 << 32:
            raise lmdb.MemoryError("mmap: Cannot allocate memory")
        return real(name, map_size=map_size, **others)  # type: ignore[arg-type]

    monkeypatch.setattr(lmdb, "open", limited)
    replica = opened(path)
    assert asked == [1 << 40, 1 << 36, 1 << 32]
    replica.close()
    monkeypatch.setattr(lmdb_environment, "MAP_BYTES", (1 << 40,))
    with pytest.raises(S3vfsError, match="no address space"):
        opened(path)


@pytest.fixture
def tiny(path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LmdbReplica]:
    monkeypatch.setattr(lmdb_environment, "MAP_BYTES", (256 << 10,))
    replica = opened(path)
    yield replica
    replica.close()


def test_a_full_map_is_a_clear_error_and_changes_nothing(tiny: LmdbReplica) -> None:
    author = Author(1)
    begin(tiny, author)
    before = tiny.position
    with pytest.raises(S3vfsError, match="no room") as caught:
        author.commit(tiny, [create(author, b"%0200d" % number) for number in range(2_000)])
    assert caught.value.errno == errno.ENOSPC
    assert tiny.position == before
    assert tiny.position.digest == digest_to_bytes(digest_of(all_rows(tiny)))
    author.commit(tiny, [create(author, b"small")])


def test_a_load_that_does_not_fit_changes_nothing(tiny: LmdbReplica) -> None:
    begin(tiny, Author(1))
    before = tiny.position, all_rows(tiny)
    rows = [(b"I" + number.to_bytes(8), b"x" * 100) for number in range(10_000)]
    with pytest.raises(S3vfsError, match="no room"):
        tiny.load(rows, Position(5, bytes(16), digest_to_bytes(digest_of(rows))))
    assert (tiny.position, all_rows(tiny)) == before


def test_a_corrupt_page_is_reported_as_damage(path: Path, filled: tuple[Position, list[Row]]) -> None:
    replica = opened(path)
    with pytest.raises(Damaged, match="corrupt"), replica.read():
        raise lmdb.CorruptedError("mdb_get", -30796)
    check_kept(replica, filled)


def test_disk_space_is_kept_in_hand(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replica = opened(path)
    author = Author(1)
    begin(replica, author)
    ahead = os.stat(path / "data.mdb").st_blocks * 512 - lmdb_environment.used_bytes(replica._environment)
    assert ahead >= lmdb_environment.RESERVE_BYTES // 2

    def full(descriptor: int, offset: int, length: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    replica._reserve._allocated = 0
    author.commit(replica, [create(author, b"x")])  # lives on the reserve
    assert replica.low_on_disk
    monkeypatch.undo()
    author.commit(replica, [create(author, b"y")])
    assert not replica.low_on_disk
    replica.close()


@pytest.mark.parametrize(
    ("code", "free_bytes", "expected"),
    [
        (errno.ENOSPC, 1 << 40, errno.ENOSPC),
        (errno.EDQUOT, 1 << 40, errno.ENOSPC),
        (errno.EIO, 4096, errno.ENOSPC),  # LMDB calls a short write so
        (errno.EIO, 1 << 40, errno.EIO),
    ],
)
def test_a_full_disk_is_told_from_a_broken_one(
    path: Path, monkeypatch: pytest.MonkeyPatch, code: int, free_bytes: int, expected: int
) -> None:
    usage = SimpleNamespace(f_bavail=free_bytes // 4096, f_frsize=4096)
    monkeypatch.setattr(os, "statvfs", lambda _: usage)
    error = lmdb.Error("mdb_txn_commit")
    vars(error)["code"] = code
    assert lmdb_environment.translated(error, path).errno == expected


def test_a_transaction_that_outlives_its_replica_fails_cleanly(path: Path) -> None:
    replica = opened(path)

    def closed_while_reading() -> None:
        with replica.read() as txn:
            replica.close()
            txn.get(b"V")

    with pytest.raises(S3vfsError, match="failed"):
        closed_while_reading()


def test_a_full_disk_does_not_keep_a_replica_from_opening(
    path: Path, filled: tuple[Position, list[Row]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int, offset: int, length: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    replica = opened(path)
    assert replica.low_on_disk
    check_kept(replica, filled)


def test_other_threads_read_one_state_while_records_are_applied(path: Path) -> None:
    replica = opened(path)
    author = Author(1)
    begin(replica, author)
    wrong: list[str] = []
    applied = threading.Event()

    def reading() -> None:
        last = 0
        while not (applied.is_set() and last == replica.position.seq):
            with replica.snapshot() as (position, rows):
                if position.seq < last or digest_to_bytes(digest_of(rows)) != position.digest:
                    wrong.append(f"at {position.seq}")
                last = position.seq

    reader = threading.Thread(target=reading)
    reader.start()
    for number in range(300):
        author.commit(replica, [create(author, b"%d" % number)])
    applied.set()
    reader.join()
    assert wrong == []
    replica.close()
