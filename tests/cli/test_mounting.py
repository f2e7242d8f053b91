"""mount, umount, status, sync, the helper: on real mounts, through processes as a user starts them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from s3vfs.cli.install_helper import helper_script
from s3vfs.fuse.mountpoint import Health, health
from tests.cli.command import Place, command_line, daemon_of, end, mounted_on, s3vfs, wait_for_end
from tests.mounted import eventually


def test_what_is_written_is_there_after_the_next_mount(place: Place) -> None:
    mountpoint = place.format().mount()
    (mountpoint / "file").write_text("content")
    daemon = os.pidfd_open(daemon_of(mountpoint))
    s3vfs("umount", mountpoint).ok()
    wait_for_end(daemon)
    assert list(mountpoint.iterdir()) == []
    assert (place.mount() / "file").read_text() == "content"


def test_mount_returns_only_when_the_mount_answers_and_lets_go_of_the_terminal(place: Place) -> None:
    done = place.format().try_mount()  # would wait for ever if the daemon kept stdout or stderr
    assert (done.code, done.out, done.err) == (0, "", "")
    assert os.statvfs(place.directory()).f_namemax == 255


def test_umount_ends_the_session(place: Place) -> None:
    mountpoint = place.format().mount()
    (session,) = s3vfs("status", place.url, "--json").json()["sessions"]
    assert session["label"].endswith(str(mountpoint))
    s3vfs("umount", mountpoint).ok()
    assert s3vfs("status", place.url, "--json").json()["sessions"] == []
    s3vfs("umount", mountpoint).fails(3, "no volume is mounted")


def test_two_mounts_of_a_volume_see_each_other(place: Place) -> None:
    place.format()
    here, there = place.mount("a", "--freshness=0"), place.mount("b", "--freshness=0")
    (here / "file").write_text("from a")
    assert (there / "file").read_text() == "from a"
    assert len(s3vfs("status", here, "--json").json()["sessions"]) == 2


def test_umount_of_a_mount_in_use_says_so_and_leaves_it(place: Place) -> None:
    mountpoint = place.format().mount()
    with open(mountpoint / "open", "w") as held:
        s3vfs("umount", mountpoint).fails(8, "in use")
        held.write("still works")
    assert (mountpoint / "open").read_text() == "still works"
    s3vfs("umount", mountpoint).ok()


def test_a_relative_mountpoint_and_one_through_a_link(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.format()
    monkeypatch.chdir(place.folder)
    place.directory("real")
    (place.folder / "link").symlink_to("real")
    s3vfs("mount", place.url, "link", "--cache-dir=c").ok()
    assert mounted_on(place.folder / "real") is not None
    s3vfs("status", "link").ok()
    s3vfs("umount", "link").ok()
    assert mounted_on(place.folder / "real") is None


def test_status_of_any_path_inside_shows_the_documented_fields(place: Place) -> None:
    mountpoint = place.format("--quota=1GiB").mount()
    (mountpoint / "dir").mkdir()
    (mountpoint / "dir" / "file").write_bytes(b"x" * 5000)
    s3vfs("sync", mountpoint / "dir").ok()
    figures = s3vfs("status", mountpoint / "dir" / "file", "--json").json()
    documented = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
    for name in figures:
        assert f"`{name}`" in documented, name
    assert figures["state"] == "ok"
    assert figures["usage"] == {"bytes": 5000, "inodes": 3}
    assert figures["pending"] == {"pending_bytes": 0, "pending_files": 0, "pending_ops": 0}
    assert figures["requests"]["put"]["requests"] > 0
    assert [session["own"] for session in figures["sessions"]] == [True]
    shown = s3vfs("status", mountpoint).ok().out
    for words in ("5000 B of 1.0 GiB", "3 inodes", "this mount", place.url):
        assert words.replace("5000 B", "4.9 KiB") in shown


def test_sync_publishes_files_that_are_still_open(place: Place) -> None:
    mountpoint = place.format().mount()
    with open(mountpoint / "open", "wb") as held:
        held.write(b"y" * 4096)
        held.flush()
        result = s3vfs("sync", mountpoint, "--json").json()
        assert result["synced"]
        assert result["pending_bytes"] == 0
        assert s3vfs("status", place.url, "--json").json()["usage"]["bytes"] == 4096
    s3vfs("sync", place.folder).fails(3, "no volume is mounted")


def test_read_only_leaves_no_trace_and_refuses_writes(place: Place) -> None:
    mountpoint = place.format().mount("rw")
    (mountpoint / "file").write_text("content")
    s3vfs("umount", mountpoint).ok()
    before = sorted(path for path in (place.folder / "volume").rglob("*"))
    mountpoint = place.mount("ro", "--read-only")
    assert (mountpoint / "file").read_text() == "content"
    with pytest.raises(OSError, match="Read-only"):
        (mountpoint / "new").touch()
    assert s3vfs("status", mountpoint, "--json").json()["sessions"] == []
    s3vfs("umount", mountpoint).ok()
    assert sorted(path for path in (place.folder / "volume").rglob("*")) == before


# -- failures leave nothing mounted -----------------------------------------------------------------------------------


def test_failures_say_what_to_do_and_leave_nothing_mounted(place: Place) -> None:
    place.format()
    (place.folder / "plain").mkdir()
    place.try_mount(url=f"file://{place.folder}/missing").fails(3, "missing")
    place.try_mount(url=f"file://{place.folder}/plain").fails(3, "is not a volume", "s3vfs format", "copied in")
    place.try_mount(url="http://x").fails(2, "s3://bucket/prefix")
    place.try_mount("mnt", "-o", "nonsense").fails(2, "nonsense")
    place.try_mount("mnt", f"--log-file={place.folder}/volume").fails(8, "log")
    place.try_mount("mnt", f"--cache-dir={place.folder}/volume/volume.json").fails(8, "--cache-dir")
    (place.directory("full") / "file").touch()
    place.try_mount("full").fails(8, "not empty", "--nonempty")
    s3vfs("mount", place.url, place.folder / "nowhere").fails(8, "does not exist", "mkdir -p")
    s3vfs("mount", place.url, place.folder / "no" / "where").fails(8, "mkdir -p")
    s3vfs("mount", place.url, place.folder / "volume" / "HEAD").fails(8, "not a directory")
    assert [mounted_on(path) for path in place.made] == [None, None]
    assert s3vfs("status", place.url, "--json").json()["sessions"] == []


def test_a_mountpoint_is_mounted_once(place: Place) -> None:
    mountpoint = place.format().mount()
    place.try_mount().fails(8, "mounted already", "umount")
    (mountpoint / "file").write_text("not disturbed")


def test_nonempty_covers_files_and_uncovers_them(place: Place) -> None:
    place.format()
    (place.directory() / "below").touch()
    mountpoint = place.mount("mnt", "--nonempty")
    assert list(mountpoint.iterdir()) == []
    s3vfs("umount", mountpoint).ok()
    assert [path.name for path in mountpoint.iterdir()] == ["below"]


def test_a_session_directory_serves_one_daemon(place: Place) -> None:
    mountpoint = place.format().mount()
    with open(mountpoint / "held", "w"):
        subprocess.run(["umount", "-l", str(mountpoint)], check=True)
        # Detached but in use: its daemon lives on, and so does its session.
        place.try_mount().fails(8, "in use by process")
    eventually(lambda: place.try_mount().code == 0, within_s=30)
    assert (mountpoint / "held").exists()


def test_ctrl_c_while_mounting_leaves_nothing(place: Place) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # an S3 server that accepts and never answers
        environment = {
            **os.environ,
            **{"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_EC2_METADATA_DISABLED": "true"},
        }
        endpoint = f"--endpoint-url=http://127.0.0.1:{silent.getsockname()[1]}"
        process = subprocess.Popen(
            command_line(["mount", "s3://bucket/v", place.directory(), endpoint, f"--cache-dir={place.cache()}"]),
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        silent.settimeout(60)
        connection, _ = silent.accept()  # its daemon has come so far
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        connection.close()
    assert process.returncode == 130
    assert err == "s3vfs: interrupted\n"
    assert mounted_on(place.directory()) is None


# -- how a mount ends -------------------------------------------------------------------------------------------------


def test_a_dead_daemons_mountpoint_is_cleaned_up_and_its_work_goes_on(place: Place) -> None:
    mountpoint = place.format().mount()
    (mountpoint / "closed").write_text("closed before the kill")
    sid = s3vfs("status", mountpoint, "--json").json()["session"]["sid"]
    end(daemon_of(mountpoint))
    assert eventually(lambda: health(str(mountpoint)) is Health.DEAD)
    s3vfs("status", mountpoint).fails(8, "dead", "mount it again", str(place.cache()))
    s3vfs("sync", mountpoint).fails(8, "dead")
    place.mount()
    assert (mountpoint / "closed").read_text() == "closed before the kill"
    session = s3vfs("status", mountpoint, "--json").json()["session"]
    assert (session["sid"], session["incarnation"], session["resumed"]) == (sid, 2, True)


def test_umount_of_a_dead_mount_removes_it_and_tells_the_truth(place: Place) -> None:
    mountpoint = place.format().mount()
    end(daemon_of(mountpoint))
    assert eventually(lambda: health(str(mountpoint)) is Health.DEAD)
    s3vfs("umount", mountpoint).fails(10, "daemon had died", str(place.cache()))
    assert mounted_on(mountpoint) is None


def test_after_a_plain_umount_the_daemon_publishes_and_ends(place: Place) -> None:
    mountpoint = place.format().mount()
    daemon = os.pidfd_open(daemon_of(mountpoint))
    (mountpoint / "file").write_text("content")
    subprocess.run(["umount", str(mountpoint)], check=True)
    wait_for_end(daemon)
    figures = s3vfs("status", place.url, "--json").json()
    assert (figures["sessions"], figures["usage"]["bytes"]) == ([], 7)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_a_mount_in_the_foreground_unmounts_publishes_and_ends(
    place: Place, number: signal.Signals
) -> None:
    place.format()
    process = subprocess.Popen(
        command_line(["mount", place.url, place.directory(), "--foreground", f"--cache-dir={place.cache()}"])
    )
    try:
        eventually(lambda: s3vfs("status", place.directory()).code == 0, within_s=30)
        (place.directory() / "file").write_text("content")
        held = os.open(place.directory() / "open", os.O_CREAT | os.O_WRONLY)
        os.write(held, b"written, not closed")
        process.send_signal(number)
        assert process.wait(60) == 0
        with pytest.raises(OSError, match="not connected"):
            os.fsync(held)
        with pytest.raises(OSError, match="not connected"):
            os.close(held)
    finally:
        process.kill()
        process.wait()
    assert mounted_on(place.directory()) is None
    figures = s3vfs("status", place.url, "--json").json()
    assert (figures["sessions"], figures["usage"]["bytes"]) == ([], 7 + len("written, not closed"))


def test_work_that_cannot_be_published_is_told_with_10_and_kept(place: Place) -> None:
    mountpoint = place.format().mount("mnt", "--io-timeout=1")
    (mountpoint / "before").write_text("published")
    s3vfs("sync", mountpoint).ok()
    bucket, away = place.folder / "volume", place.folder / "volume-away"
    descriptor = os.open(mountpoint / "file", os.O_CREAT | os.O_WRONLY)
    os.write(descriptor, b"acknowledged by write")
    bucket.rename(away)
    with pytest.raises(OSError, match=r"\[Errno"):
        os.fsync(descriptor)
    with pytest.raises(OSError, match=r"\[Errno"):
        os.close(descriptor)
    s3vfs("sync", mountpoint).fails(10, "not in the bucket", str(place.cache()))
    assert s3vfs("status", mountpoint, "--json").json()["errors"]
    s3vfs("umount", mountpoint).fails(10, "21 bytes", "mount again", str(place.cache()))
    assert mounted_on(mountpoint) is None
    away.rename(bucket)
    place.mount()
    assert eventually(lambda: (mountpoint / "file").read_bytes() == b"acknowledged by write")
    s3vfs("umount", mountpoint).ok()
    assert s3vfs("status", place.url, "--json").json()["usage"]["bytes"] == 30


# -- mount(8) ---------------------------------------------------------------------------------------------------------


def test_the_helper_mounts_as_mount_8_calls_it(place: Place) -> None:
    place.format()
    script = place.folder / "mount.fuse.s3vfs"
    assert "installed" in s3vfs("install-helper", "--path", script).ok().out
    assert script.read_text() == helper_script(sys.executable)
    options = f"rw,_netdev,nofail,noauto,user,x-systemd.automount,cache_dir={place.cache()},freshness=0,noexec"
    call = [str(script), place.url, str(place.directory()), "-n", "-v", "-s", "-o", options, "-t", "fuse.s3vfs"]
    subprocess.run([*call, "-f"], check=True, env={})
    assert mounted_on(place.directory()) is None
    subprocess.run(call, check=True, env={})
    mount = mounted_on(place.directory())
    assert mount is not None
    assert mount.source == place.url
    assert "noexec" in mount.options.split(",")
    assert {"allow_other", "default_permissions"} <= set(mount.super_options.split(","))
    s3vfs("umount", place.directory()).ok()
    wrong = subprocess.run([*call[:3], "-o", "cash=1"], env={}, capture_output=True, text=True)
    assert wrong.returncode == 2
    assert "cash=1" in wrong.stderr
    s3vfs("install-helper", "--path", script, "--remove").ok()
    assert not script.exists()
    script.write_text("somebody else's")
    s3vfs("install-helper", "--path", script).fails(2, "not ours")


# -- the log ----------------------------------------------------------------------------------------------------------


def test_the_log_is_one_json_object_a_line(place: Place) -> None:
    log = place.folder / "log"
    mountpoint = place.format().mount("mnt", f"--log-file={log}", "--verbose")
    s3vfs("umount", mountpoint).ok()
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["message"] for line in lines if line["logger"] == "s3vfs.fuse.daemon"] == [
        "starting",
        "mounted",
        "ended",
    ]
    assert all({"time", "level", "logger", "message", "pid"} <= set(line) for line in lines)
