"""What the users of one mount see of what those of another do (DESIGN 7). Both mounts have freshness 0."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.mounted import Mount, eventually

Pair = tuple[Path, Path]


def read(path: Path) -> bytes:
    return path.read_bytes()


def test_close_to_open(pair: Pair) -> None:
    here, there = pair
    for round_number in range(20):
        data = b"%d " % round_number * (round_number * 97 % 4000 + 1)
        (here / "file").write_bytes(data)
        assert read(there / "file") == data
        (there / "file").write_bytes(data[::-1])
        assert read(here / "file") == data[::-1]


def test_fsync_to_open(pair: Pair) -> None:
    here, there = pair
    with open(here / "file", "wb") as out:
        out.write(b"synced")
        out.flush()
        os.fsync(out.fileno())
        assert read(there / "file") == b"synced"


def test_equal_size_and_mtime_hide_nothing_from_an_open(pair: Pair) -> None:
    """The kernel's own check compares only these two."""
    here, there = pair
    (here / "file").write_bytes(b"aaaa")
    os.utime(here / "file", ns=(1, 1))
    assert read(there / "file") == b"aaaa"
    (here / "file").write_bytes(b"bbbb")
    os.utime(here / "file", ns=(1, 1))
    assert read(there / "file") == b"bbbb"


def _copied(path: Path, length: int) -> int:
    """By copy_file_range, within the mount."""
    with opened(path) as source, opened(path.with_name("copy"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as target:
        return os.copy_file_range(source, target, length, 0, 0)


def _sent(path: Path, length: int) -> int:
    """By sendfile, which reads through the page cache as splice does."""
    with opened(path) as source, tempfile.TemporaryFile(buffering=0) as target:
        return os.sendfile(target.fileno(), source, 0, length)


@contextlib.contextmanager
def opened(path: Path, flags: int = os.O_RDONLY) -> Iterator[int]:
    """open(2) alone: Python's asks for the size."""
    descriptor = os.open(path, flags)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


_MAP = """
import ctypes, os, sys
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
length = int(sys.argv[2])
area = libc.mmap(None, length, 1, 1, os.open(sys.argv[1], os.O_RDONLY), 0)
print(len(ctypes.string_at(area, length).rstrip(bytes(1))))
"""


def _mapped(path: Path, length: int) -> int:
    """In a process of its own: behind the end of the file SIGBUS waits."""
    done = subprocess.run([sys.executable, "-c", _MAP, path, str(length)], check=True, capture_output=True)
    return int(done.stdout)


@pytest.mark.parametrize("way", [_copied, _sent, _mapped])
def test_what_asks_for_no_size_finds_all_that_was_closed_before_its_open(
    pair: Pair, way: Callable[[Path, int], int]
) -> None:
    """Only read(2) has the kernel ask for the size first."""
    here, there = pair
    for length in (100, 9_000, 50_000):
        (here / "file").write_bytes(b"x" * length)
        assert way(there / "file", length) == length


def test_pages_are_kept_while_nobody_else_writes(pair: Pair, shared_pair: tuple[Mount, Mount]) -> None:
    here, there = pair
    (here / "file").write_bytes(os.urandom(1 << 20))
    first = read(there / "file")
    descriptor = os.open(there / "file", os.O_RDONLY)
    try:
        # Pages that are in the kernel's cache are read without asking the daemon, even while it is stopped.
        with shared_pair[1].frozen():
            assert os.pread(descriptor, 1 << 20, 0) == first
    finally:
        os.close(descriptor)


def test_a_replaced_file_is_opened_anew(pair: Pair) -> None:
    """The other kernel holds the old entry: the open is answered ESTALE inside, and repeated."""
    here, there = pair
    for round_number in range(30):
        (here / "new").write_bytes(b"%d" % round_number)
        os.rename(here / "new", here / "file")
        assert read(there / "file") == b"%d" % round_number


def test_a_replaced_file_is_opened_anew_by_many_threads(pair: Pair) -> None:
    here, there = pair
    with ThreadPoolExecutor(8) as pool:
        for round_number in range(10):
            (here / "new").write_bytes(b"%d" % round_number)
            os.rename(here / "new", here / "file")
            seen = set(pool.map(lambda _: read(there / "file"), range(16)))
            assert seen == {b"%d" % round_number}


def test_a_name_that_moved_to_another_file_opens_that_one(pair: Pair) -> None:
    """The old file lives on under another name, so its inode alone tells nothing."""
    here, there = pair
    (here / "a").write_bytes(b"1")
    (here / "b").write_bytes(b"2")
    for _ in range(30):
        before = read(there / "a"), read(there / "b")
        os.rename(here / "a", here / "c")
        os.rename(here / "b", here / "a")
        os.rename(here / "c", here / "b")
        assert (read(there / "a"), read(there / "b")) == before[::-1]


def test_a_replaced_directory_is_entered_anew(pair: Pair) -> None:
    here, there = pair
    (here / "directory").mkdir()
    (here / "directory/file").write_bytes(b"old")
    assert read(there / "directory/file") == b"old"
    (here / "next").mkdir()
    (here / "next/file").write_bytes(b"new")
    os.rename(here / "directory", here / "former")
    os.rename(here / "next", here / "directory")
    assert read(there / "directory/file") == b"new"
    assert read(there / "former/file") == b"old"
    (here / "third").mkdir()
    assert os.listdir(there / "directory") == ["file"]
    os.rmdir(here / "third")
    os.rename(here / "directory", here / "gone")
    (here / "directory").mkdir()
    assert os.listdir(there / "directory") == []


def test_a_symlink_that_was_replaced_leads_to_the_new_target(pair: Pair) -> None:
    """As releases are switched: the new link is renamed over the old one."""
    here, there = pair
    for version in range(20):
        (here / f"v{version}").mkdir()
        (here / f"v{version}/file").write_bytes(b"%d" % version)
        (here / "next").symlink_to(f"v{version}")
        os.rename(here / "next", here / "current")
        assert read(there / "current/file") == b"%d" % version


def test_a_symlink_that_moved_leads_nobody_away_from_what_is_there_now(pair: Pair) -> None:
    """The link lives on under another name, so its inode alone tells nothing."""
    here, there = pair
    (here / "a").symlink_to("target")
    (here / "b").write_bytes(b"file")
    (here / "target").write_bytes(b"target")
    for _ in range(10):
        assert (read(there / "a"), read(there / "b")) == (b"target", b"file")
        for old, new in (("a", "c"), ("b", "a"), ("c", "b")):
            os.rename(here / old, here / new)
        assert (read(there / "a"), read(there / "b")) == (b"file", b"target")
        assert os.readlink(there / "b") == "target"
        for old, new in (("a", "c"), ("b", "a"), ("c", "b")):
            os.rename(here / old, here / new)


def test_a_symlink_that_is_open_is_read_whatever_its_name_is(pair: Pair) -> None:
    here, there = pair
    (here / "a").symlink_to("target")
    (there / "a").lstat()
    with opened(there / "a", os.O_PATH | os.O_NOFOLLOW) as fd:
        os.rename(here / "a", here / "b")
        read_at = [os.readlink("", dir_fd=fd) for _ in range(3)]
    assert read_at == ["target"] * 3


def test_another_link_of_a_replaced_file_still_opens(pair: Pair) -> None:
    """ESTALE is answered once to each thread: the file is still there under its other name."""
    here, there = pair
    (here / "a").write_bytes(b"linked")
    os.link(here / "a", here / "b")
    assert read(there / "a") == read(there / "b") == b"linked"
    (here / "new").write_bytes(b"new")
    os.rename(here / "new", here / "a")
    for _ in range(3):
        assert read(there / "b") == b"linked"
        assert read(there / "a") == b"new"


def test_a_local_rename_moves_no_outdated_entry(pair: Pair) -> None:
    """The kernel moves the entry that it has, not the one that the daemon has moved."""
    here, there = pair
    for round_number in range(20):
        (here / "a").write_bytes(b"old")
        assert read(there / "a") == b"old"
        (here / "new").write_bytes(b"%d" % round_number)
        os.rename(here / "a", here / f"kept{round_number}")
        os.rename(here / "new", here / "a")
        ino = (here / "a").stat().st_ino
        os.rename(there / "a", there / "b")
        eventually(lambda ino=ino: (there / "b").stat().st_ino == ino, within_s=1)
        assert read(there / "b") == b"%d" % round_number


def test_names_appear_and_vanish(pair: Pair) -> None:
    here, there = pair
    for round_number in range(20):
        name = f"file{round_number % 3}"
        assert not (there / name).exists()
        (here / name).touch()
        assert (there / name).exists()
        os.unlink(here / name)
        with pytest.raises(FileNotFoundError):
            read(there / name)
        eventually(lambda name=name: not (there / name).exists(), within_s=1)


def test_what_was_missing_is_found_as_soon_as_it_is_there(pair: Pair) -> None:
    """Negative entries are not cached."""
    here, there = pair
    for round_number in range(20):
        with pytest.raises(FileNotFoundError):
            os.stat(there / f"{round_number}")
        (here / f"{round_number}").touch()
        assert (there / f"{round_number}").stat().st_size == 0


def test_stat_follows_within_a_second(pair: Pair) -> None:
    """Without an open: the other kernel answers from its cache until it is told."""
    here, there = pair
    (here / "file").write_bytes(b"")
    assert (there / "file").stat().st_size == 0
    for size in range(1, 6):
        with open(here / "file", "ab") as out:
            out.write(b"x")
        eventually(lambda size=size: (there / "file").stat().st_size == size, within_s=1)
    os.chmod(here / "file", 0o600)
    eventually(lambda: (there / "file").stat().st_mode & 0o777 == 0o600, within_s=1)


def test_a_removed_name_vanishes_within_a_second(pair: Pair) -> None:
    here, there = pair
    (here / "file").touch()
    assert (there / "file").exists()
    os.unlink(here / "file")
    eventually(lambda: not (there / "file").exists(), within_s=1)


def test_a_replaced_name_leads_stat_to_the_new_file_within_a_second(pair: Pair) -> None:
    here, there = pair
    (here / "file").write_bytes(b"old")
    assert (there / "file").stat().st_size == 3
    (here / "new").write_bytes(b"newer")
    ino = (here / "new").stat().st_ino
    os.rename(here / "new", here / "file")
    eventually(lambda: (there / "file").stat().st_ino == ino, within_s=1)


def test_an_open_reader_sees_more_once_it_asks_again(pair: Pair) -> None:
    here, there = pair
    (here / "log").write_bytes(b"1")
    with open(there / "log", "rb", buffering=0) as reader:
        assert reader.read(10) == b"1"
        with open(here / "log", "ab") as out:
            out.write(b"2")
        eventually(lambda: os.fstat(reader.fileno()).st_size == 2, within_s=1)
        assert reader.read(10) == b"2"


def test_listings_follow(pair: Pair) -> None:
    here, there = pair
    for index in range(10):
        (here / f"{index}").touch()
        assert len(os.listdir(there)) == index + 1
    os.rename(here / "3", here / "three")
    assert "three" in os.listdir(there)


def test_exclusive_creation_has_one_winner(pair: Pair) -> None:
    def attempt(path: Path) -> int:
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return 0
        return 1

    with ThreadPoolExecutor(8) as pool:
        for round_number in range(15):
            paths = [directory / f"lock{round_number}" for directory in pair for _ in range(4)]
            assert sum(pool.map(attempt, paths)) == 1


def test_creation_without_exclusive_opens_what_another_made(pair: Pair) -> None:
    def attempt(path: Path) -> int:
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o644)
        try:
            return os.fstat(descriptor).st_ino
        finally:
            os.close(descriptor)

    with ThreadPoolExecutor(4) as pool:
        for round_number in range(15):
            paths = [directory / f"file{round_number}" for directory in pair for _ in range(2)]
            assert len(set(pool.map(attempt, paths))) == 1


def test_mkdir_link_and_rename_have_one_winner(pair: Pair) -> None:
    here, there = pair
    (here / "source").touch()

    def succeeds(call: object, *arguments: object) -> int:
        try:
            call(*arguments)  # type: ignore[operator]
        except FileExistsError:
            return 0
        return 1

    with ThreadPoolExecutor(4) as pool:
        for round_number in range(10):
            for call in (os.mkdir, lambda path: os.link(path.parent / "source", path)):
                paths = [directory / f"{round_number}-{id(call)}" for directory in (here, there, here, there)]
                assert sum(pool.map(lambda path, call=call: succeeds(call, path), paths)) == 1


def test_appends_from_two_mounts_never_overlap(pair: Pair) -> None:
    here, there = pair
    (here / "log").touch()
    lines = 40

    def append(path: Path, word: bytes) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
        for index in range(lines):
            os.write(descriptor, b"%s%03d\n" % (word, index))
        os.close(descriptor)

    threads = [
        threading.Thread(target=append, args=(directory / "log", word))
        for directory, word in ((here, b"a"), (there, b"b"), (here, b"c"), (there, b"d"))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    data = read(there / "log")
    assert data == read(here / "log")
    found = data.split(b"\n")
    assert found.pop() == b""
    assert sorted(found) == sorted(
        b"%s%03d" % (word, index) for word in (b"a", b"b", b"c", b"d") for index in range(lines)
    )
    for word in (b"a", b"b", b"c", b"d"):
        assert [line for line in found if line.startswith(word)] == [b"%s%03d" % (word, i) for i in range(lines)]


_APPEND = """
import os, sys
descriptor = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND)
for index in range(int(sys.argv[3])):
    line = b"%s %04d %s\\n" % (sys.argv[2].encode(), index, b"x" * (index * 7 % 300))
    assert os.write(descriptor, line) == len(line)
os.close(descriptor)
"""


@pytest.mark.long
def test_appends_of_1000_lines_from_4_processes_all_arrive_whole(pair: Pair) -> None:
    here, there = pair
    (here / "log").touch()
    begun_s = time.monotonic()
    processes = [
        subprocess.Popen([sys.executable, "-c", _APPEND, directory / "log", word, "1000"])
        for directory, word in ((here, "a"), (there, "b"), (here, "c"), (there, "d"))
    ]
    assert [process.wait() for process in processes] == [0, 0, 0, 0]
    print(f"4,000 appends took {time.monotonic() - begun_s:.1f} s")
    data = read(there / "log")
    assert data == read(here / "log")
    lines = data.splitlines()
    for word in (b"a", b"b", b"c", b"d"):
        wanted = [b"%s %04d %s" % (word, index, b"x" * (index * 7 % 300)) for index in range(1000)]
        assert [line for line in lines if line.startswith(word)] == wanted
    assert len(lines) == 4000


def test_a_file_unlinked_elsewhere_lives_on_while_it_is_open(pair: Pair) -> None:
    here, there = pair
    (here / "file").write_bytes(b"still here")
    with open(there / "file", "rb") as reader:
        os.unlink(here / "file")
        eventually(lambda: not (there / "file").exists(), within_s=1)
        assert reader.read() == b"still here"
        assert os.fstat(reader.fileno()).st_nlink == 0


def test_writers_of_different_parts_both_win(pair: Pair) -> None:
    here, there = pair
    (here / "file").write_bytes(b"." * 3000)
    with open(here / "file", "r+b") as one, open(there / "file", "r+b") as two:
        one.write(b"1" * 1000)
        two.seek(2000)
        two.write(b"2" * 1000)
    expected = b"1" * 1000 + b"." * 1000 + b"2" * 1000
    assert read(here / "file") == read(there / "file") == expected


def test_a_removed_working_directory_is_gone(pair: Pair) -> None:
    here, there = pair
    (here / "directory").mkdir()
    descriptor = os.open(there / "directory", os.O_RDONLY)
    try:
        os.rmdir(here / "directory")
        eventually(lambda: not (there / "directory").exists(), within_s=1)
        with pytest.raises(OSError, match=rf"\[Errno ({errno.ENOENT}|{errno.ESTALE})\]"):
            os.open("file", os.O_CREAT, dir_fd=descriptor)
    finally:
        os.close(descriptor)


def test_a_capability_set_elsewhere_ends_with_the_next_write(pair: Pair) -> None:
    """The writing kernel remembers that there was none, and does not ask again."""
    here, there = pair
    (here / "program").write_bytes(b"old")
    capability = bytes.fromhex("0100000200040000000000000000000000000000")  # cap_net_bind_service+ep
    with open(there / "program", "r+b", buffering=0) as writer:
        writer.write(b"1")
        os.setxattr(here / "program", "security.capability", capability)
        assert os.getxattr(here / "program", "security.capability") == capability
        writer.write(b"2")
    for side in (there, here):
        eventually(lambda path=side / "program": os.listxattr(path) == [])  # type: ignore[misc]
