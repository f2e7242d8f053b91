"""`workspace archive` and `restore`: from node A to node B, exactly as it was; whatever interrupts either."""

from __future__ import annotations

import errno
import gzip
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from s3vfs.errors import ArchiveDamaged, ArchiveMissing, WorkspaceBusy, WorkspaceError
from s3vfs.workspace import archive as archive_module
from s3vfs.workspace import packs as packs_module
from s3vfs.workspace import restore as restore_module
from s3vfs.workspace.archive import Archived, ArchiveOptions, Progress, Surroundings, archive
from s3vfs.workspace.layout import Workspace
from s3vfs.workspace.restore import Restored, check_archive, restore
from tests.cli.command import daemon_of, end
from tests.mounted import Volume, eventually
from tests.mounted import volume as volume
from tests.workspace.trees import WORKSPACE, add_what_is_left_out, described, make_home, make_many, ok, workspace

# What is this node's own, and in no archive.
OWN = frozenset(f".s3vfs/{name}" for name in ("lock", "transfer.lock", "transfer.mount.lock", "archive.json"))
OWN_AND_STATE = OWN | {".s3vfs"}


def is_own(name: str) -> bool:
    return name in OWN


class Node:
    """A machine with a workspace volume, and its own clock and random numbers."""

    def __init__(self, folder: Path, place: Path) -> None:
        folder.mkdir()
        self.volume = folder / "workspace"
        self.volume.mkdir()
        self.place = place
        self._ids = 0
        self._now_ns = 2 * 10**18  # later than any file of the tests: all that is unchanged is known to be

    def fill(self) -> Node:
        make_home(self.volume / "home")
        (self.volume / ".s3vfs").mkdir()
        (self.volume / ".s3vfs/env.sh").write_text("export X=1\n")
        return self

    def archive(self, **options: Any) -> Archived:
        def new_id() -> str:
            self._ids += 1
            return f"{os.fsencode(self.volume.parent.name).hex()}{self._ids:08x}"

        self._now_ns += 10**12
        surroundings = Surroundings(lambda: self._now_ns, new_id, self.volume.parent.name, "1.2.3")
        return archive(Workspace(self.volume), self.place, ArchiveOptions(**options), surroundings, nothing)

    def restore(self, **options: Any) -> Restored:
        return restore(Workspace(self.volume), self.place, nothing, **options)

    def tree(self) -> dict[str, Any]:
        return described(self.volume, is_own)


def nothing(progress: Progress) -> None:
    pass


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "shared" / "archive"


@pytest.fixture
def a(tmp_path: Path, place: Path) -> Node:
    return Node(tmp_path / "node-a", place).fill()


@pytest.fixture
def b(tmp_path: Path, place: Path) -> Node:
    return Node(tmp_path / "node-b", place)


def pack_names(place: Path) -> set[str]:
    return set(os.listdir(place / "packs"))


def generations(place: Path) -> list[str]:
    return sorted(os.listdir(place / "generations"))


# -- there and back ---------------------------------------------------------------------------------------------------


def test_a_workspace_of_node_a_is_on_node_b_what_it_was(a: Node, b: Node) -> None:
    os.mkfifo(a.volume / "home/fifo")
    os.mknod(a.volume / "home/null", 0o020666, os.makedev(1, 3))
    os.symlink("code", a.volume / "home/to-directory")
    os.link(a.volume / "home/fifo", a.volume / "home/code/fifo-too")
    (a.volume / "lost+found").mkdir()
    before = a.tree()
    assert a.archive().generation == 1
    after = a.tree()
    assert [name for name in after if after[name] != before[name]] == [".s3vfs"]  # the first time: its lock is new
    assert a.archive().generation == 2
    assert a.tree() == after
    del after["lost+found"]
    assert b.restore().losses == ""
    assert b.tree() == after


def test_the_time_of_access_is_kept_too(a: Node, b: Node) -> None:
    times = {name: (a.volume / "home" / name).stat().st_atime_ns for name in ("large", ".bashrc", "third-name")}
    a.archive()
    b.restore()
    assert {name: (b.volume / "home" / name).stat().st_atime_ns for name in times} == times


def test_sockets_are_left_out_and_counted(a: Node, b: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(a.volume / "home")  # an address has room for 107 bytes, wherever the test runs
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
    assert a.archive().sockets == 1
    b.restore()
    assert not (b.volume / "home/socket").exists()


def test_there_and_back_again_with_changes_on_both_nodes(a: Node, b: Node) -> None:
    a.archive()
    b.restore()
    home = b.volume / "home"
    (home / "large").write_bytes(b"small now")
    (home / "code/same").unlink()
    os.rename(home / "empty", home / "moved")
    os.setxattr(home / "link", "trusted.x", b"1", follow_symlinks=False)
    os.removexattr(home / ".bashrc", "user.colour")
    (home / "sparse").unlink()
    (home / "sparse").mkdir()
    (home / "code/run").chmod(0o600)
    changed = b.tree()
    assert b.archive().generation == 2
    assert a.restore(replace=True).generation == 2
    assert a.tree() == changed


def test_files_that_are_equal_but_no_longer_linked_come_apart_again(a: Node, b: Node) -> None:
    a.archive()
    b.restore()
    home = b.volume / "home"
    subprocess.run(["cp", "-a", home / "third-name", home / "apart"], check=True)
    os.rename(home / "apart", home / "third-name")
    b.archive()
    a.restore(replace=True)
    assert not os.path.samefile(a.volume / "home/third-name", a.volume / "home/code/run")
    assert os.path.samefile(a.volume / "home/code/same", a.volume / "home/code/run")
    assert a.tree() == b.tree()


def test_what_is_unchanged_is_neither_read_nor_stored_again(a: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    a.archive()
    packs = pack_names(a.place)
    read: list[bytes] = []
    real = archive_module.open_for_reading

    def noting(path: bytes) -> int:
        read.append(os.path.basename(path))
        return real(path)

    monkeypatch.setattr(archive_module, "open_for_reading", noting)
    done = a.archive()
    assert (read, done.stored_bytes, pack_names(a.place)) == ([], 0, packs)
    status = (a.volume / "home/.bashrc").stat()
    (a.volume / "home/.bashrc").write_text("alias ll='ls -a'\n")  # the same size, and the same mtime
    os.utime(a.volume / "home/.bashrc", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert a.archive().stored_bytes == 17
    assert read == [b".bashrc"]


def test_what_changed_about_when_it_was_looked_at_is_read_again(a: Node, b: Node) -> None:
    """In one tick of the clock a file can change after it was read, and keep its ctime."""
    a._now_ns = (a.volume / "home/.bashrc").stat().st_ctime_ns - 10**12  # the last look was at that very time
    a.archive()
    manifest = a.place / "generations/00000001.manifest"
    lines = [json.loads(line) for line in gzip.decompress(manifest.read_bytes()).splitlines()]
    (entry,) = (line for line in lines if line.get("path") == "home/.bashrc")
    wrong = next(line for line in lines if line.get("path") == "home/code/run")["pieces"]
    forge(
        a.place,
        lambda lines: [line | ({"pieces": wrong} if line.get("path") == entry["path"] else {}) for line in lines],
    )
    a.archive()
    b.restore()
    assert b.tree() == a.tree()


def test_of_a_large_file_only_the_changed_piece_is_stored_and_a_moved_one_not_at_all(a: Node, b: Node) -> None:
    large = a.volume / "home/large"
    with open(large, "r+b") as file:
        file.truncate(20 << 20)
        file.write(os.urandom(20 << 20))
    a.archive()
    with open(large, "r+b") as file:
        file.seek(9 << 20)
        file.write(b"changed")
    assert a.archive().stored_bytes == 8 << 20
    os.rename(large, a.volume / "home/renamed")
    assert a.archive().stored_bytes == 0
    b.restore()
    assert b.tree() == a.tree()


def test_older_generations_can_be_restored_and_go_when_there_are_enough(a: Node, b: Node) -> None:
    (a.volume / "one").write_bytes(b"1" * 100)
    a.archive()
    first = a.tree()
    (a.volume / "one").unlink()
    (a.volume / "home/large").unlink()
    a.archive()
    assert b.restore(generation=1).generation == 1
    assert b.tree() == first
    (a.volume / "two").write_bytes(b"2")
    a.archive()
    assert generations(a.place) == ["00000002.manifest", "00000003.manifest"]
    a.archive(keep=1)
    assert generations(a.place) == ["00000004.manifest"]
    with pytest.raises(ArchiveMissing):
        b.restore(generation=1, replace=True)
    b.restore(replace=True)
    assert b.tree() == a.tree()


def test_packs_that_nobody_needs_go_and_those_of_little_use_are_emptied(
    a: Node, b: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packs_module, "PACK_BYTES", 100_000)
    for name in "abcdefghij":
        (a.volume / name).write_bytes(os.urandom(30_000))
    a.archive(keep=1)
    before = sum((a.place / "packs" / name).stat().st_size for name in pack_names(a.place))
    for name in "abcefgij":  # one file of each pack stays
        (a.volume / name).unlink()
    (a.volume / "home/large").unlink()
    for _ in range(3):
        a.archive(keep=1)
    after = sum((a.place / "packs" / name).stat().st_size for name in pack_names(a.place))
    assert before > 9_700_000
    assert after < 2.5 * 60_000 + 20_000
    b.restore()
    assert b.tree() == a.tree()


# -- interruptions ----------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """The process ends here."""


def dying(patch: pytest.MonkeyPatch, places: list[tuple[object, str]], n: int) -> None:
    """Die before the n-th call of any of these functions."""
    left = [n]

    def wrapped(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            left[0] -= 1
            if left[0] <= 0:  # and every later one: other threads die too
                raise Killed
            return function(*arguments, **options)

        return call

    for module, name in places:
        patch.setattr(module, name, wrapped(getattr(module, name)))


def files_of(node: Node) -> dict[str, Any]:
    """Without the directory that our own state is in, whose times tell of the interruptions."""
    return described(node.volume, lambda name: name in OWN_AND_STATE or name.endswith(".tmp"))


ARCHIVE_STEPS: list[tuple[object, str]] = [
    *((archive_module, name) for name in ("write_json", "sync_directory", "open_for_reading", "write_manifest")),
    *((os, name) for name in ("link", "fsync", "replace", "unlink", "write")),
]


def test_an_archive_killed_before_any_step_leaves_the_generation_before_and_can_be_repeated(
    a: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packs_module, "PACK_BYTES", 1000)
    monkeypatch.setattr(archive_module, "sync_filesystem", lambda path: None)
    os.truncate(a.volume / "home/large", 10_000)
    a.archive()
    known = files_of(a)
    for n in range(1, 300):
        for number in range(3):
            (a.volume / f"new{number}").write_bytes(os.urandom(700))
        with pytest.MonkeyPatch.context() as patch:
            dying(patch, ARCHIVE_STEPS, n)
            try:
                a.archive()
                break
            except Killed:
                pass
        if n % 4 == 0:  # what anybody finds there now is whole, and is what it was or what it was to be
            node = Node(tmp_path / f"node{n}", a.place)
            node.restore()
            assert files_of(node) in (known, files_of(a))
        a.archive()
        known = files_of(a)
    assert n > 20
    assert not [name for name in pack_names(a.place) if name.startswith("tmp")]
    last = Node(tmp_path / "last", a.place)
    last.restore()
    assert files_of(last) == files_of(a)
    assert not [name for name in os.listdir(last.volume / ".s3vfs") if name.endswith(".tmp")]


def test_packs_are_on_disk_before_the_manifest_that_names_them_and_it_before_its_name(
    a: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    def noting(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(what: Any, *rest: Any) -> Any:
            path = os.readlink(f"/proc/self/fd/{what}") if isinstance(what, int) else os.fspath(what)
            if path.startswith(str(a.place)):
                done.append(f"{name} {os.path.relpath(path, a.place).split('-')[0]}")
            return function(what, *rest)

        return call

    for name in ("fsync", "replace", "link"):
        monkeypatch.setattr(os, name, noting(name, getattr(os, name)))
    a.archive()
    assert done[-7:] == [
        *("fsync packs/tmp", "replace packs/tmp", "fsync packs"),
        *("fsync generations/tmp", "link generations/tmp", "fsync generations", "fsync generations"),
    ]


def test_packs_of_an_interrupted_archive_are_used_by_the_next(a: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packs_module, "PACK_BYTES", 1 << 20)
    for number in range(6):
        (a.volume / f"{number}").write_bytes(os.urandom(1 << 20))
    with pytest.MonkeyPatch.context() as patch:
        dying(patch, [(archive_module, "write_manifest")], 1)
        with pytest.raises(Killed):
            a.archive()
    assert a.archive().stored_bytes == 0


RESTORE_STEPS: list[tuple[object, str]] = [
    *((restore_module, name) for name in ("write_json", "give_attributes", "sync_directory", "remember", "write_at")),
    *((os, name) for name in ("link", "rename", "mkdir", "unlink", "ftruncate")),
]


def test_a_restore_killed_before_any_step_is_finished_by_the_next(
    a: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restore_module, "sync_filesystem", lambda path: None)
    os.truncate(a.volume / "home/large", 10_000)
    a.archive()
    wanted = a.tree()
    for n in range(1, 300, 3):
        node = Node(tmp_path / f"node{n}", a.place)
        with pytest.MonkeyPatch.context() as patch:
            dying(patch, RESTORE_STEPS, n)
            try:
                node.restore()
                assert node.tree() == wanted
                break
            except Killed:
                pass
        assert not node.restore().already
        assert node.tree() == wanted
        assert node.restore().already
    assert n > 30


def test_a_resumed_restore_trusts_no_file_by_its_looks(a: Node, b: Node) -> None:
    a.archive()
    b.restore()
    large = b.volume / "home/large"
    status = large.stat()
    with open(large, "r+b") as file:  # as a power cut leaves a file whose name was on disk before its bytes
        file.write(bytes(5000))
    os.utime(large, ns=(status.st_atime_ns, status.st_mtime_ns))
    (b.volume / "home/.s3vfs-restore-half").write_text("x")
    (b.volume / ".s3vfs/restoring.json").write_text("{}")
    done = b.restore()
    assert b.tree() == a.tree()
    assert done.kept_files >= 7


def test_kill_9_of_real_runs_in_the_middle(a: Node, b: Node) -> None:
    make_many(a.volume / "many", 4000)
    packs = a.place / "packs"
    process = subprocess.Popen([*WORKSPACE, "archive", str(a.place), str(a.volume)], stdout=subprocess.DEVNULL)
    eventually(lambda: any((packs / name).stat().st_size > 5_000_000 for name in os.listdir(packs)), within_s=60)
    process.kill()
    process.wait()
    ok("archive", a.place, a.volume)
    for goal in (3, 12):
        process = subprocess.Popen([*WORKSPACE, "restore", str(a.place), str(b.volume)], stdout=subprocess.DEVNULL)
        eventually(lambda goal=goal: len(os.listdir(b.volume / "many")) >= goal, within_s=60)
        process.kill()
        process.wait()
        assert (b.volume / ".s3vfs/restoring.json").exists()
        done = workspace("archive", a.place, b.volume)
        assert (done.returncode, "restored in part" in done.stderr) == (8, True)
    ok("restore", a.place, b.volume)
    assert b.tree() == a.tree()


# -- damage -----------------------------------------------------------------------------------------------------------


def damage(path: Path, offset: int) -> None:
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 1]))


def test_a_damaged_pack_is_found_by_check_and_by_restore(a: Node, b: Node) -> None:
    a.archive()
    (name,) = pack_names(a.place)
    assert check_archive(a.place, None, nothing).header.generation == 1
    damage(a.place / "packs" / name, 3_000_000)
    with pytest.raises(ArchiveDamaged, match=name):
        check_archive(a.place, None, nothing)
    with pytest.raises(ArchiveDamaged, match=name):
        b.restore()
    a.archive(full=True)  # stores it all anew
    b.restore()
    assert b.tree() == a.tree()


def test_a_missing_pack_is_told(a: Node, b: Node) -> None:
    a.archive()
    (name,) = pack_names(a.place)
    (a.place / "packs" / name).unlink()
    with pytest.raises(ArchiveDamaged, match="missing"):
        b.restore()


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.99])
def test_a_damaged_or_shortened_manifest_is_told_before_anything_is_written(a: Node, b: Node, share: float) -> None:
    a.archive()
    path = a.place / "generations/00000001.manifest"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ArchiveDamaged):
        b.restore()
    text = gzip.decompress(whole).replace(b'"mode":420', b'"mode":511')
    path.write_bytes(gzip.compress(text))
    with pytest.raises(ArchiveDamaged, match="checksum"):
        b.restore()
    assert os.listdir(b.volume) == []


@pytest.mark.parametrize("path", ["/etc/x", "../x", "a/../x", "a//x"])
def test_an_archive_cannot_lead_out_of_the_directory(a: Node, b: Node, path: str) -> None:
    a.archive()
    forge(a.place, lambda lines: [*lines, {"path": path, "kind": "fifo", "mode": 0, **TIMES}])
    with pytest.raises(ArchiveDamaged, match="unreadable"):
        b.restore()


def test_an_archive_cannot_lead_through_a_symlink(a: Node, b: Node, tmp_path: Path) -> None:
    a.archive()
    link = {"path": "z", "kind": "symlink", "target": str(tmp_path), "mode": 0o777, **TIMES}
    forge(a.place, lambda lines: [*lines, link, {"path": "z/planted", "kind": "fifo", "mode": 0, **TIMES}])
    with pytest.raises(ArchiveDamaged, match="directory it is in"):
        b.restore()
    assert not (tmp_path / "planted").exists()


TIMES = {"uid": 0, "gid": 0, "atime_ns": 0, "mtime_ns": 0}


def forge(place: Path, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> None:
    """Write the manifest again, with a checksum that is right."""
    import hashlib

    path = place / "generations/00000001.manifest"
    *lines, end = (json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines())
    text = b"".join(json.dumps(line).encode() + b"\n" for line in change(lines))
    end["sha256"] = hashlib.sha256(text).hexdigest()
    path.write_bytes(gzip.compress(text + json.dumps(end).encode() + b"\n"))


# -- who may ----------------------------------------------------------------------------------------------------------


def test_a_directory_with_other_content_is_not_touched(a: Node, b: Node) -> None:
    a.archive()
    (b.volume / "mine").write_text("x")
    with pytest.raises(WorkspaceBusy, match="mine"):
        b.restore()
    assert sorted(os.listdir(b.volume)) == [".s3vfs", "mine"]
    b.restore(replace=True)
    assert b.tree() == a.tree()


def test_a_restore_at_every_start_of_a_pod_changes_nothing_the_second_time(a: Node, b: Node) -> None:
    a.archive()
    b.restore()
    (b.volume / "home/.bashrc").write_text("mine")
    before = b.tree()
    assert b.restore().already
    assert b.tree() == before


def test_a_generation_whose_archiver_was_killed_just_after_it_is_known_as_its_own(
    a: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    a.archive()
    with monkeypatch.context() as patch:
        dying(patch, [(archive_module, "remember")], 1)
        with pytest.raises(Killed):
            a.archive()
    assert a.restore().already
    assert a.archive().generation == 3


def test_work_of_another_node_is_not_overwritten_unless_asked_for(a: Node, b: Node) -> None:
    a.archive()
    b.restore()
    (b.volume / "work-on-b").write_text("x")
    b.archive()
    with pytest.raises(WorkspaceBusy, match="node-b"):
        a.archive()
    with pytest.raises(WorkspaceBusy, match="not empty"):
        a.restore()
    assert a.archive(overwrite=True).generation == 3


def test_an_archive_of_another_workspace_is_refused(a: Node, b: Node) -> None:
    a.archive()
    b.fill()
    with pytest.raises(WorkspaceBusy, match="generation 1"):
        b.archive()


def test_of_two_archivers_at_once_one_is_told_to_run_again(a: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    a.archive()
    real = archive_module.write_manifest

    def late(directory: Path, *rest: Any) -> None:
        (directory / "00000002.manifest").write_text("of somebody else")
        real(directory, *rest)

    monkeypatch.setattr(archive_module, "write_manifest", late)
    with pytest.raises(WorkspaceBusy, match="somebody else"):
        a.archive()
    assert generations(a.place) == ["00000001.manifest", "00000002.manifest"]


def test_an_archive_inside_the_workspace_is_refused(a: Node) -> None:
    a.place = a.volume / "archive"
    with pytest.raises(WorkspaceError, match="in the workspace itself"):
        a.archive()


def test_no_archive_is_told_with_exit_code_3(tmp_path: Path, b: Node) -> None:
    done = workspace("restore", tmp_path / "nothing", b.volume)
    assert (done.returncode, done.stdout) == (3, "")
    assert "has no archive" in done.stderr


def test_what_the_file_system_refuses_is_told_at_the_end(a: Node, b: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    a.archive()

    def refuse(*arguments: Any, **options: Any) -> None:
        raise OSError(errno.EOPNOTSUPP, "not here")

    monkeypatch.setattr(os, "setxattr", refuse)
    done = b.restore()
    assert "user.colour" in done.losses
    assert (b.volume / "home/code/run").read_text() == "#!/bin/sh\n"


def test_a_file_that_is_written_all_the_time_is_counted_and_looked_at_again(
    a: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = archive_module.pieces_of
    busy = a.volume / "busy"
    busy.write_text("0")

    def writing(descriptor: int, status: os.stat_result, on_data: Any) -> Any:
        if status.st_ino == busy.stat().st_ino:
            with open(busy, "a") as file:
                file.write("more")
        return real(descriptor, status, on_data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(archive_module, "pieces_of", writing)
        assert a.archive().unsettled == 1
    assert a.archive().unsettled == 0


# -- by the command, on a volume --------------------------------------------------------------------------------------


def test_from_node_to_node_by_way_of_a_mounted_volume(a: Node, b: Node, volume: Volume) -> None:
    """The shared volume is ours, mounted on both nodes; the first restore is killed."""
    make_many(a.volume / "many", 1000)
    add_what_is_left_out(a.volume / "home")
    here, there = volume.mount("--freshness", "0"), volume.mount("--freshness", "0")
    figures = json.loads(ok("archive", here.path / "anna", a.volume, "--json"))
    assert (figures["generation"], figures["files"]) == (1, 1008)
    process = subprocess.Popen([*WORKSPACE, "restore", there.path / "anna", b.volume], stdout=subprocess.DEVNULL)
    eventually(lambda: (b.volume / "many/d002").exists(), within_s=60)
    process.kill()
    process.wait()
    assert "generation 1 is restored" in ok("restore", there.path / "anna", b.volume)
    (a.volume / "home/socket").unlink()
    found = b.tree()
    wanted = a.tree()
    del found["home"]["mtime_ns"], wanted["home"]["mtime_ns"]  # of the directory that the socket has left
    assert found == wanted
    (b.volume / "home/.bashrc").write_text("on b")
    ok("archive", there.path / "anna", b.volume)
    assert "generation 2 is whole" in ok("restore", here.path / "anna", a.volume, "--check")
    ok("restore", here.path / "anna", a.volume, "--replace")
    assert a.tree() == b.tree()


def test_from_node_to_node_by_the_url_of_a_volume(a: Node, b: Node, volume: Volume) -> None:
    ok("archive", volume.url, a.volume, "--path", "workspaces/anna")
    ok("restore", volume.url, b.volume, "--path", "workspaces/anna")
    own = {*OWN_AND_STATE, "."}
    assert described(b.volume, own.__contains__) == described(a.volume, own.__contains__)
    assert sorted(os.listdir(a.volume / ".s3vfs")) == ["archive.json", "env.sh", "transfer.lock", "transfer.mount.lock"]
    done = workspace("archive", f"{volume.url}-missing", a.volume)
    assert done.returncode == 1
    assert "s3vfs mount failed" in done.stderr
    assert "not a volume" in done.stderr or "no directory" in done.stderr


@pytest.mark.parametrize("dead", [False, True])
def test_the_mount_of_a_killed_command_is_not_in_the_way(a: Node, b: Node, volume: Volume, dead: bool) -> None:
    transfer = a.volume / ".s3vfs/transfer"
    mountpoint = transfer / "mnt"
    mountpoint.mkdir(parents=True)
    command = [sys.executable, "-m", "s3vfs", "mount", volume.url, mountpoint, f"--cache-dir={transfer}/cache"]
    subprocess.run(command, check=True)
    try:
        if dead:
            end(daemon_of(mountpoint))
        ok("archive", volume.url, a.volume)
        assert not transfer.exists()
    finally:
        subprocess.run(["umount", "-l", mountpoint], capture_output=True)
    ok("restore", volume.url, b.volume)
    assert (b.volume / "home/.bashrc").exists()
