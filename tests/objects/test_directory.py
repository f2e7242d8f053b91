"""What a directory must do to be a bucket: atomic between processes, whole after a crash, durable in order."""

from __future__ import annotations

import errno
import fcntl
import multiprocessing
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio

from s3vfs.errors import BucketMissing, StoreDenied, StoreError, StoreUnreachable
from s3vfs.objects import directory as module
from s3vfs.objects.directory import DirectoryFiles, open_directory
from s3vfs.objects.keys import content_etag
from s3vfs.objects.runner import InlineRunner

if TYPE_CHECKING:
    from typing_extensions import Buffer

PROCESSES = 4
ROUNDS = 30


def keys(files: DirectoryFiles, prefix: str = "") -> list[str]:
    return [entry.key for entry in files.list_page(prefix, start_after="", delimiter="", limit=1000).entries]


def everything(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


@pytest.fixture
def files(tmp_path: Path) -> DirectoryFiles:
    return DirectoryFiles(str(tmp_path))


def increment(root: str, results: Any) -> None:
    """Count up by compare-and-swap, and race for keys that one process only may make."""
    files = DirectoryFiles(root)
    won = 0
    for number in range(ROUNDS):
        while True:
            body = files.read("HEAD")
            assert body is not None
            if files.put("HEAD", [b"%d" % (int(body) + 1)], if_absent=False, if_match=content_etag(body)):
                break
        won += files.put(f"journal/{number % 4}/{number}", [b"%d" % os.getpid()], if_absent=True)
    results.put(won)


def test_conditions_hold_between_processes(tmp_path: Path, files: DirectoryFiles) -> None:
    files.put("HEAD", [b"0"], if_absent=True)
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    processes = [context.Process(target=increment, args=(str(tmp_path), results)) for _ in range(PROCESSES)]
    for process in processes:
        process.start()
    won = sum(results.get(timeout=60) for _ in processes)
    for process in processes:
        process.join()
    results.close()
    results.join_thread()
    assert files.read("HEAD") == b"%d" % (PROCESSES * ROUNDS)
    assert won == ROUNDS


def test_a_directory_may_vanish_and_come_back_while_keys_are_put_into_it(files: DirectoryFiles) -> None:
    problems: list[BaseException] = []

    def churn(name: str) -> None:
        try:
            for number in range(60):
                key = f"checkpoint/u/{name}-{number}"
                assert files.put(key, [b"x"], if_absent=number % 2 == 0)
                assert files.read(key) == b"x"
                files.delete(key)
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=churn, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert keys(files) == []


def test_the_last_key_takes_its_directories_with_it(tmp_path: Path, files: DirectoryFiles) -> None:
    files.put("checkpoint/u/a", [b"1"], if_absent=True)
    files.delete("checkpoint/u/a")
    assert list(tmp_path.iterdir()) == []


CRASH = """
import os, sys
from s3vfs.objects.directory import DirectoryFiles
name, count = sys.argv[2], int(sys.argv[3])
real = getattr(os, name)
def crash(*args, **options):
    global count
    count -= 1
    if count < 0:
        os._exit(9)
    return real(*args, **options)
setattr(os, name, crash)
files = DirectoryFiles(sys.argv[1])
for condition in ({"if_absent": True}, {"if_absent": False}):
    files.put("data/00/new" if condition["if_absent"] else "HEAD", [b"after" * 1000], **condition)
os._exit(0)
"""


@pytest.mark.parametrize(
    ("call", "count"),
    [("writev", 0), ("writev", 1), ("link", 0), ("link", 1), ("rename", 0), *(("fsync", n) for n in range(6))],
)
def test_a_crash_shows_no_half_object_and_no_leftover_key(
    tmp_path: Path, files: DirectoryFiles, call: str, count: int
) -> None:
    files.put("HEAD", [b"before"], if_absent=True)
    ended = subprocess.run([sys.executable, "-c", CRASH, str(tmp_path), call, str(count)], check=False)
    assert ended.returncode == 9
    assert files.read("HEAD") in (b"before", b"after" * 1000)
    assert files.read("data/00/new") in (None, b"after" * 1000)
    assert set(keys(files)) <= {"HEAD", "data/00/new"}
    # What is left over is in nobody's way.
    assert files.put("HEAD", [b"again"], if_absent=False)
    assert files.read("HEAD") == b"again"
    assert set(everything(tmp_path)) <= {"HEAD", "data/00/new"}


def test_bytes_are_synced_before_they_have_a_name_and_the_name_before_the_answer(
    files: DirectoryFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def watched(name: str) -> None:
        real: Callable[..., Any] = getattr(os, name)

        def call(*args: Any, **options: Any) -> Any:
            kind = ""
            if name == "fsync":
                kind = " directory" if os.path.isdir(f"/proc/self/fd/{args[0]}") else " file"
            calls.append(name + kind)
            return real(*args, **options)

        monkeypatch.setattr(os, name, call)

    for name in ("mkdir", "writev", "fsync", "link", "rename", "unlink"):
        watched(name)
    files.put("journal/1", [b"1"], if_absent=True)
    assert calls == ["mkdir", "fsync directory", "writev", "fsync file", "link", "fsync directory"]
    calls.clear()
    files.put("journal/1", [b"2"], if_absent=False)
    assert calls == ["writev", "fsync file", "unlink", "link", "rename", "fsync directory"]
    calls.clear()
    files.delete("journal/1")
    assert calls == ["unlink", "fsync directory"]


def test_file_systems_without_unnamed_files_work_and_keep_nothing(
    tmp_path: Path, files: DirectoryFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.open

    def refusing(path: str, flags: int, *args: Any, **options: Any) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "not here")
        return real(path, flags, *args, **options)

    monkeypatch.setattr(os, "open", refusing)
    assert files.put("a/b", [b"1"], if_absent=True)
    assert not files.put("a/b", [b"2"], if_absent=True)
    assert files.put("a/b", [b"3"], if_absent=False, if_match=content_etag(b"1"))
    assert files.read("a/b") == b"3"
    assert everything(tmp_path) == ["a/b"]


def test_a_short_write_is_continued_where_it_stopped(files: DirectoryFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.writev

    def short(fd: int, buffers: Sequence[Any]) -> int:
        return real(fd, [buffers[0][:3]])

    monkeypatch.setattr(os, "writev", short)
    parts: list[Buffer] = [b"", b"0123456789", bytearray(b"abc"), memoryview(b"defg"), b"h"]
    files.put("a", parts, if_absent=True)
    assert files.read("a") == b"0123456789abcdefgh"


def test_more_buffers_than_one_call_takes(files: DirectoryFiles) -> None:
    parts = [b"%d," % number for number in range(5000)]
    files.put("a", parts, if_absent=True)
    assert files.read("a") == b"".join(parts)


@pytest.mark.parametrize(
    ("number", "expected", "hint"),
    [
        (errno.ENOSPC, StoreUnreachable, "disk is full"),
        (errno.EDQUOT, StoreUnreachable, "quota"),
        (errno.EIO, StoreUnreachable, "Input/output"),
        (errno.EACCES, StoreDenied, "Permission denied"),
        (errno.EROFS, StoreDenied, "Read-only"),
    ],
)
def test_a_failing_disk_is_reported_in_our_terms_and_leaves_nothing(
    tmp_path: Path,
    files: DirectoryFiles,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    expected: type[StoreError],
    hint: str,
) -> None:
    def failing(fd: int, buffers: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "writev", failing)
    with pytest.raises(expected, match=hint):
        files.put("a", [b"1"], if_absent=True)
    assert everything(tmp_path) == []


def test_a_key_cannot_be_a_prefix_of_another(files: DirectoryFiles) -> None:
    files.put("a/b", [b"1"], if_absent=True)
    with pytest.raises(StoreError, match="a directory cannot hold this key"):
        files.put("a/b/c", [b"1"], if_absent=True)
    assert not files.put("a", [b"1"], if_absent=True)
    assert files.read("a") is None


def test_a_stopped_lock_holder_is_an_error_in_the_end(tmp_path: Path) -> None:
    pauses: list[float] = []
    files = DirectoryFiles(str(tmp_path), pause=pauses.append)
    held = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(StoreUnreachable, match="stayed locked"):
            files.put("HEAD", [b"1"], if_absent=False)
        assert sum(pauses) == pytest.approx(module.LOCK_TIMEOUT_S)
        assert files.put("HEAD", [b"1"], if_absent=True)  # needs no lock
    finally:
        os.close(held)


def test_a_directory_that_is_gone_is_a_missing_bucket_not_a_missing_key(tmp_path: Path) -> None:
    files = DirectoryFiles(str(tmp_path / "gone"))
    for call in (
        lambda: files.read("a"),
        lambda: files.read_range("a", 0, 1),
        lambda: files.put("a/b", [b"1"], if_absent=True),
        lambda: files.delete("a/b"),
        lambda: files.list_page("", start_after="", delimiter="", limit=1),
        lambda: files.prepare(False),
    ):
        with pytest.raises(BucketMissing):
            call()


def test_a_listing_opens_only_directories_that_can_hold_an_answer(
    tmp_path: Path, files: DirectoryFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(16):
        for sequence in range(3):
            files.put(f"journal/{number:02d}/{sequence}", [b""], if_absent=True)
    files.put("data/00/x", [b""], if_absent=True)
    opened: list[str] = []
    real = os.scandir

    def watched(path: str) -> Any:
        opened.append(os.path.relpath(path, tmp_path))
        return real(path)

    monkeypatch.setattr(os, "scandir", watched)
    files.list_page("journal/07/", start_after="", delimiter="", limit=1000)
    assert opened == ["journal/07"]
    opened.clear()
    files.list_page("journal/", start_after="journal/13/2", delimiter="", limit=4)
    assert opened == ["journal", "journal/13", "journal/14", "journal/15"]
    opened.clear()
    files.list_page("", start_after="", delimiter="/", limit=1000)
    assert opened == [".", "data", "data/00", "journal", "journal/00"]


def test_answers_carry_the_clock_that_was_passed_in(tmp_path: Path) -> None:
    async def main() -> None:
        store = await open_directory(str(tmp_path), "file://here", run=InlineRunner(), date_ns=lambda: 123)
        assert (await store.control.put("a", b"1")).date_ns == 123
        assert (await store.control.get("b")).date_ns == 123

    trio.run(main)
