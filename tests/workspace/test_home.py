"""`workspace init`: the home is copied once, wholly, and marked last; whatever interrupts it."""

from __future__ import annotations

import fcntl
import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from s3vfs.workspace import home as home_module
from s3vfs.workspace.home import Filled, Filling, fill_home
from s3vfs.workspace.layout import Workspace, workspace_at
from s3vfs.workspace.tree import Copied
from tests.mounted import eventually
from tests.workspace.trees import WORKSPACE, add_what_is_left_out, described, make_home, make_many, ok, workspace

MARKER = ".s3vfs-init"


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    path = tmp_path / "volume"
    path.mkdir()
    return path


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The image's home."""
    path = tmp_path / "image" / "root"
    make_home(path)
    return path


def not_marker(name: str) -> bool:
    return name == MARKER


def filled(volume: Path, home: Path, *, at_root: bool = False, leave_out: tuple[str, ...] = ()) -> Filled:
    return fill_home(
        workspace_at(volume, home_at_root=at_root),
        Filling(home, "1.2.3", leave_out=leave_out),
        now_ns=lambda: 42,
        on_wait=lambda: None,
        on_progress=lambda copied: None,
    )


def test_the_first_boot_copies_the_home_with_everything_that_belongs_to_it(volume: Path, home: Path) -> None:
    before = described(home)
    ok("init", volume, "--from", home)
    assert described(volume / "home", not_marker) == before


def test_caches_sockets_and_fifos_are_left_out(volume: Path, home: Path) -> None:
    before = {name: facts for name, facts in described(home).items() if name != "."}
    add_what_is_left_out(home)
    ok("init", volume, "--from", home)
    copy = described(volume / "home", not_marker)
    del copy["."]
    assert copy == before


def test_caches_can_be_kept_and_more_be_left_out(volume: Path, home: Path) -> None:
    add_what_is_left_out(home)
    ok("init", volume, "--from", home, "--keep-caches", "--leave-out", "code/*", "--leave-out", "lar?e")
    assert (volume / "home/.cache/pip/http").read_text() == "x"
    assert list((volume / "home/code").iterdir()) == []
    assert not (volume / "home/large").exists()


def test_the_marker_tells_version_source_time_and_counts(volume: Path, home: Path) -> None:
    done = filled(volume, home)
    marker = json.loads((volume / "home" / MARKER).read_text())
    assert marker == done.marker
    assert (marker["version"], marker["s3vfs"], marker["source"], marker["time_ns"]) == (1, "1.2.3", str(home), 42)
    assert (marker["files"], marker["symlinks"], marker["directories"]) == (8, 2, 3)


def test_the_second_boot_copies_nothing_and_overwrites_nothing(volume: Path, home: Path) -> None:
    ok("init", volume, "--from", home)
    (volume / "home/.bashrc").write_text("mine")
    (volume / "home/large").unlink()
    (home / "new-in-the-image").write_text("x")
    before = described(volume)
    assert ok("init", volume, "--from", home) == ""
    assert described(volume) == before


def test_a_foreign_marker_is_accepted_as_done(volume: Path, home: Path) -> None:
    (volume / "home").mkdir()
    (volume / "home/.packet-init").write_text("done by another tool")
    (volume / "home/file").write_text("x")
    assert json.loads(ok("init", volume, "--from", home, "--json"))["copied"] is False
    assert sorted(os.listdir(volume / "home")) == [".packet-init", "file"]


def test_a_home_without_a_marker_is_completed_and_nothing_in_it_replaced(volume: Path, home: Path) -> None:
    (volume / "home/code").mkdir(parents=True)
    (volume / "home/code/run").write_text("the user's")
    (volume / "home/empty").write_text("a file where the image has a directory")
    ok("init", volume, "--from", home)
    copy = volume / "home"
    assert (copy / "code/run").read_text() == "the user's"
    assert (copy / "empty").read_text() == "a file where the image has a directory"
    assert (copy / "third-name").read_text() == "#!/bin/sh\n"
    assert os.path.samefile(copy / "third-name", copy / "code/same")
    assert (copy / MARKER).exists()
    assert os.listdir(volume / ".s3vfs") == ["lock"]


def test_a_home_that_does_not_exist_becomes_an_empty_one(volume: Path, tmp_path: Path) -> None:
    ok("init", volume, "--from", tmp_path / "nonexistent")
    assert os.listdir(volume / "home") == [MARKER]


def test_a_workspace_inside_the_home_is_not_copied_into_itself(home: Path) -> None:
    inside = home / "workspace"
    inside.mkdir()
    (inside / "data").write_text("x")
    ok("init", inside, "--from", home)
    assert not (inside / "home/workspace").exists()
    assert (inside / "home/.bashrc").exists()


def test_a_volume_that_is_not_there_is_told(tmp_path: Path, home: Path) -> None:
    done = workspace("init", tmp_path / "missing", "--from", home)
    assert (done.returncode, done.stdout) == (1, "")
    assert "mount the workspace volume there first" in done.stderr


# -- interruptions ----------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """The process ends here."""


STEPS = ("remove", "copy_tree", "write_durably", "sync_filesystem", "rename", "add_missing", "sync_directory", "utime")


@pytest.mark.parametrize("at_root", [False, True])
@pytest.mark.parametrize("user_files", [False, True])
def test_killed_before_any_step_it_is_done_at_the_next_start(
    tmp_path: Path, home: Path, at_root: bool, user_files: bool
) -> None:
    """Killed before its n-th step, for each n; then started again."""
    (home / "large").unlink()
    for n in range(1, 40):
        volume = tmp_path / f"volume{n}"
        target = volume if at_root else volume / "home"
        volume.mkdir()
        if user_files:
            target.mkdir(exist_ok=True)
            (target / ".bashrc").write_text("the user's")
        with pytest.MonkeyPatch.context() as patch:
            survived = not _killed_at(patch, n, volume, home, at_root)
        if not survived:
            assert not (target / MARKER).exists() or n > 5
        filled(volume, home, at_root=at_root)
        _check_complete(volume, target, home, user_files)
        if survived:
            assert n > 8
            return
    raise AssertionError("it never came to its end")


def _killed_at(patch: pytest.MonkeyPatch, n: int, volume: Path, home: Path, at_root: bool) -> bool:
    left = [n]

    def dying(function):  # type: ignore[no-untyped-def]
        def call(*arguments, **options):  # type: ignore[no-untyped-def]
            left[0] -= 1
            if left[0] == 0:
                raise Killed
            return function(*arguments, **options)

        return call

    for name in STEPS:
        where = os if name in ("rename", "utime") else home_module
        function = getattr(where, name)
        if name.startswith("sync"):  # a killed process loses nothing of what was written: no need to wait for disks
            function = _nothing
        patch.setattr(where, name, dying(function))
    try:
        filled(volume, home, at_root=at_root)
    except Killed:
        return True
    return False


@pytest.mark.parametrize("at_root", [False, True])
def test_the_copy_is_on_disk_before_it_gets_its_name_and_the_marker_is_last(
    volume: Path, home: Path, at_root: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    real = os.rename

    def rename(old: bytes | Path, new: bytes | Path) -> None:
        done.append(os.path.basename(os.fsdecode(new)))
        real(old, new)

    monkeypatch.setattr(os, "rename", rename)
    monkeypatch.setattr(home_module, "sync_filesystem", lambda path: done.append("SYNC"))
    filled(volume, home, at_root=at_root)
    assert done[:2] == ["SYNC", "home.copied"]
    if at_root:
        assert done[-3:] == ["SYNC", f"{MARKER}.new", MARKER]
    else:
        assert done[2:] == ["home", MARKER]


def _nothing(path: Path) -> None:
    pass


def _check_complete(volume: Path, target: Path, home: Path, user_files: bool) -> None:
    ours = (MARKER, ".s3vfs", ".s3vfs/lock", ".", *([".bashrc"] if user_files else []))
    assert described(target, lambda name: name in ours) == described(home, lambda name: name in ours)
    if user_files:
        assert (target / ".bashrc").read_text() == "the user's"
    assert os.listdir(volume / ".s3vfs") == ["lock"]
    assert json.loads((target / MARKER).read_text())["version"] == 1
    assert not (target / f"{MARKER}.new").exists()


def test_twenty_thousand_files_interrupted_ten_times_end_complete_and_marked_once(tmp_path: Path) -> None:
    home, volume = tmp_path / "image", tmp_path / "volume"
    make_many(home, 20_000)
    volume.mkdir()
    marker = volume / "home" / MARKER
    copying = volume / ".s3vfs" / "home.copying"
    goals = [0, 1, 3, 6, 10, 15, 25, 40, 70, 99]  # how far it gets, told by its directories, not by a clock
    random.Random(7).shuffle(goals)
    for kill, goal in enumerate(goals):
        former = os.open(copying, os.O_RDONLY) if kill else -1  # held, so that its inode number is not used again
        process = subprocess.Popen([*WORKSPACE, "init", str(volume), "--from", str(home)], stdout=subprocess.DEVNULL)
        eventually(lambda former=former, goal=goal: _has_copied(copying, former, goal), within_s=120)
        process.kill()
        process.wait()
        if kill:
            os.close(former)
        assert not marker.exists()
        assert not (volume / "home").exists()
    ok("init", volume, "--from", home)
    assert described(volume / "home", not_marker) == described(home)
    first = marker.stat()
    ok("init", volume, "--from", home)
    assert (marker.stat().st_ino, marker.stat().st_mtime_ns) == (first.st_ino, first.st_mtime_ns)
    assert os.listdir(volume / ".s3vfs") == ["lock"]


def _has_copied(copying: Path, former: int, directories: int) -> bool:
    """The former copy is gone, and the new one has this many directories."""
    return (former < 0 or os.fstat(former).st_nlink == 0) and len(os.listdir(copying)) >= directories


def test_of_two_pods_at_once_one_copies_and_the_other_waits(tmp_path: Path) -> None:
    home, volume = tmp_path / "image", tmp_path / "volume"
    make_many(home, 3_000)
    volume.mkdir()
    pods = [
        subprocess.Popen(
            [*WORKSPACE, "init", str(volume), "--from", str(home), "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    said = [pod.communicate(timeout=120) for pod in pods]
    assert [pod.returncode for pod in pods] == [0, 0]
    answers = [json.loads(out) for out, _ in said]
    assert sorted(answer["copied"] for answer in answers) == [False, True]
    assert answers[0]["marker"] == answers[1]["marker"]
    assert described(volume / "home", not_marker) == described(home)


def test_the_one_that_waits_says_so_and_ends_when_the_other_has_done_it(volume: Path, home: Path) -> None:
    (volume / ".s3vfs").mkdir()
    with open(volume / ".s3vfs/lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with subprocess.Popen(
            [*WORKSPACE, "init", str(volume), "--from", str(home)], stderr=subprocess.PIPE, text=True
        ) as pod:
            assert pod.stderr is not None
            assert "waiting" in pod.stderr.readline()
            assert pod.poll() is None
            (volume / "home").mkdir()
            (volume / "home" / MARKER).write_text("{}")
            fcntl.flock(lock, fcntl.LOCK_UN)
            assert pod.wait(60) == 0
    assert os.listdir(volume / "home") == [MARKER]


# -- the volume is the home -------------------------------------------------------------------------------------------


def test_a_volume_to_be_mounted_over_the_home_is_filled_from_elsewhere(volume: Path, home: Path) -> None:
    (volume / "lost+found").mkdir(mode=0o700)
    ok("init", volume, "--from", home, "--home-at-root")
    ours = (MARKER, ".s3vfs", ".s3vfs/lock", "lost+found")
    assert described(volume, lambda name: name in ours) == described(home, lambda name: name in ours)
    before = described(volume)
    ok("init", volume, "--from", home)  # its marker tells the layout
    assert described(volume) == before


def test_in_the_pod_the_volume_over_the_home_is_complete_and_stays(tmp_path: Path, home: Path, volume: Path) -> None:
    """The init container has the volume elsewhere, the pod over the home; each in a mount namespace of its own."""
    pod = f"""
        mount --bind {volume} {home}
        {" ".join(WORKSPACE)} init {home} --home-at-root --from {home} || exit 9
        cat {home}/.bashrc; echo more >> {home}/.bashrc
    """
    ok("init", volume, "--from", home, "--home-at-root")
    for expected in ("alias ll='ls -l'\n", "alias ll='ls -l'\nmore\n"):
        done = subprocess.run(["unshare", "-m", "sh", "-c", pod], capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (9, ""), done  # naming the volume as its own source is refused ...
        quiet = pod.replace(f"--from {home} ", f"--from {tmp_path}/other ")
        done = subprocess.run(["unshare", "-m", "sh", "-c", quiet], capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (0, expected), done
    assert (home / ".bashrc").read_text() == "alias ll='ls -l'\n"


def test_what_is_mounted_inside_the_home_is_not_copied(home: Path, volume: Path) -> None:
    (home / ".ssh").mkdir()
    init = f"{' '.join(WORKSPACE)} init {volume} --from {home}"
    pod = f"mount -t tmpfs none {home}/.ssh && echo x >{home}/.ssh/key && {init}"
    subprocess.run(["unshare", "-m", "sh", "-c", pod], check=True, capture_output=True)
    assert list((volume / "home/.ssh").iterdir()) == []


def test_a_term_signal_leaves_no_marker(tmp_path: Path) -> None:
    home, volume = tmp_path / "image", tmp_path / "volume"
    make_many(home, 2_000)
    volume.mkdir()
    process = subprocess.Popen([*WORKSPACE, "init", str(volume), "--from", str(home)], stdout=subprocess.DEVNULL)
    eventually(lambda: (volume / ".s3vfs/home.copying").exists(), within_s=60)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == -signal.SIGTERM
    assert not (volume / "home").exists()


def test_progress_counts_up(volume: Path, home: Path) -> None:
    seen: list[int] = []

    def look(copied: Copied) -> None:
        seen.append(copied.files)

    fill_home(Workspace(volume), Filling(home, "1"), now_ns=time.time_ns, on_wait=lambda: None, on_progress=look)
    assert seen == sorted(seen)
    assert seen[-1] == 8
