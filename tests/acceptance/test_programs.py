"""Ordinary programs on two mounts of one volume on a real S3 server."""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.mounted import Mount, Volume, eventually

MEMORY_LIMIT_BYTES = 512 << 20


def run(*command: str | os.PathLike[str], cwd: Path | None = None) -> str:
    """The command's output. Fails with what it said."""
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}
    ended = subprocess.run(command, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    text = ended.stdout.decode(errors="replace")
    assert ended.returncode == 0, f"{command}: {text[-4000:]}"
    return text


def git(directory: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=tester", "-c", "user.email=tester@example.org", "-c", "safe.directory=*")
    return run("git", *identity, *arguments, cwd=directory)


# Left out of the short form, for its time.
_LESS_OFTEN = ("distutils", "unittest", "email", "pydoc_data", "turtledemo", "tkinter", "msilib", "wsgiref")


def copy_library(target: Path, *leave_out: str) -> None:
    source = Path(sysconfig.get_path("stdlib"))
    shutil.copytree(source, target, symlinks=True, ignore=shutil.ignore_patterns("site-packages", *leave_out))


def make_repository(directory: Path, commits: int) -> Path:
    """A local repository with some history in it."""
    directory.mkdir()
    git(directory, "init", "-q", "-b", "main")
    for number in range(commits):
        for name in range(10):
            (directory / f"file{name}.txt").write_text(f"{name} in commit {number}\n" * 50)
        git(directory, "add", ".")
        git(directory, "commit", "-q", "-m", f"commit {number}")
    return directory


def library_is_the_same_on_both_sides(pair: Sequence[Mount], leave_out: Sequence[str]) -> None:
    here, there = pair
    copy_library(here.path / "lib", *leave_out)
    excluded = [f"--exclude={name}" for name in ("site-packages", *leave_out)]
    run("diff", "-r", "--no-dereference", *excluded, sysconfig.get_path("stdlib"), str(there.path / "lib"))


def test_the_standard_library_copied_into_one_mount_is_equal_on_the_other(s3_pair: tuple[Mount, Mount]) -> None:
    not_here = ("__pycache__", "test", "tests", "idlelib", "lib2to3", "ensurepip", "encodings", "config-*")
    library_is_the_same_on_both_sides(s3_pair, (*not_here, *_LESS_OFTEN))


@pytest.mark.long
@pytest.mark.timeout(3600)  # some 8,000 files, each with five commits while there are no leases
def test_the_whole_standard_library_copied_into_one_mount_is_equal_on_the_other(s3_pair: tuple[Mount, Mount]) -> None:
    library_is_the_same_on_both_sides(s3_pair, ())


def test_git_clones_checks_commits_and_pulls(s3_pair: tuple[Mount, Mount], tmp_path: Path) -> None:
    here, there = s3_pair
    origin = make_repository(tmp_path / "origin", 5)
    run("git", "clone", "-q", "--no-hardlinks", str(origin), str(here.path / "work"))
    git(here.path / "work", "fsck", "--full", "--strict")
    run("git", "clone", "-q", "--no-hardlinks", str(here.path / "work"), str(there.path / "other"))
    (here.path / "work" / "new.txt").write_text("made on A\n")
    git(here.path / "work", "add", "new.txt")
    git(here.path / "work", "commit", "-q", "-m", "from A")
    eventually(lambda: "from A" in git(there.path / "work", "log", "-1"), within_s=2)
    git(there.path / "other", "pull", "-q")
    assert (there.path / "other" / "new.txt").read_text() == "made on A\n"
    git(there.path / "other", "fsck", "--full", "--strict")


def test_sqlite_keeps_a_database_that_the_other_mount_reads(s3_pair: tuple[Mount, Mount]) -> None:
    here, there = s3_pair
    rows = [(number, hashlib.sha256(str(number).encode()).hexdigest()) for number in range(2000)]
    with sqlite3.connect(here.path / "data.db") as database:
        database.execute("create table numbers (number integer primary key, digest text)")
        database.executemany("insert into numbers values (?, ?)", rows)
    database.close()
    other = sqlite3.connect(f"file:{there.path}/data.db?mode=ro", uri=True)
    try:
        assert other.execute("pragma integrity_check").fetchone() == ("ok",)
        assert other.execute("select * from numbers order by number").fetchall() == rows
    finally:
        other.close()


def test_a_virtual_environment_works_on_the_mount(s3_pair: tuple[Mount, Mount]) -> None:
    here, there = s3_pair
    run(sys.executable, "-m", "venv", "--without-pip", str(here.path / "venv"))
    for mount in (here, there):
        prefix = run(mount.path / "venv" / "bin" / "python", "-c", "import sys; print(sys.prefix)").strip()
        assert prefix == str(mount.path / "venv")


def large_file_survives(volume: Volume, size_bytes: int) -> None:
    here, there = volume.mount("--freshness", "0"), volume.mount("--freshness", "0")
    block_bytes = 4 << 20
    written = hashlib.sha256()
    peak = 0
    with open(here.path / "large", "wb", buffering=0) as file:
        for _ in range(size_bytes // block_bytes):
            block = os.urandom(block_bytes)
            written.update(block)
            file.write(block)
            peak = max(peak, here.anonymous_bytes())
        os.fsync(file.fileno())
    read = hashlib.sha256()
    with open(there.path / "large", "rb", buffering=0) as file:
        while block := file.read(block_bytes):
            read.update(block)
            peak = max(peak, there.anonymous_bytes())
    assert read.digest() == written.digest()
    assert peak < MEMORY_LIMIT_BYTES


def test_a_large_file_has_the_same_bytes_on_the_other_mount(s3_volume: Volume) -> None:
    large_file_survives(s3_volume, 256 << 20)


@pytest.mark.long
def test_a_file_of_one_gibibyte_has_the_same_bytes_on_the_other_mount(s3_volume: Volume) -> None:
    large_file_survives(s3_volume, 1 << 30)
