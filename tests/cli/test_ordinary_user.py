"""Mounts of a user who is not root: through fusermount3, without allow_other, with a cache in the user's home."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mounted import eventually

REPOSITORY = Path(__file__).parents[2]

# Nobody's on any machine.
UID, OTHER = 54321, 54322

# /dev/fuse with the mode that udev gives it on every distribution, and this machine perhaps does not; a name for the
# user, without which fusermount3 does nothing; and a way for everybody to Python and the checkout, where those are in
# somebody's closed home ("directory child" on stdin).
_ENTER = """
set -e
mount -t tmpfs tmpfs "$1"
mknod -m 666 "$1/fuse" c 10 229
mount --bind "$1/fuse" /dev/fuse
{ cat /etc/passwd; echo "anna:x:$2:$2::/:/bin/sh"; } >"$1/passwd"
mount --bind "$1/passwd" /etc/passwd
number=0
while read -r closed child && [ -n "$closed" ]; do
    number=$((number + 1))
    mkdir "$1/$number"
    mount --bind "$closed/$child" "$1/$number"
    [ -e "$closed/.opened" ] || mount -t tmpfs -o mode=755 tmpfs "$closed"
    touch "$closed/.opened"
    mkdir "$closed/$child"
    mount --bind "$1/$number" "$closed/$child"
done
echo ready
exec cat
"""


def closed_on_the_way_to(*places: Path) -> list[tuple[Path, str]]:
    """(directory that others may not enter, the name in it that is needed), the outermost first."""
    found = []
    for place in places:
        for parent in reversed(place.parents):
            if not parent.stat().st_mode & 0o001:
                found.append((parent, place.relative_to(parent).parts[0]))
    return list(dict.fromkeys(found))


class Users:
    """Two ordinary users and root, in one mount namespace."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.home.mkdir()
        os.chown(self.home, UID, UID)
        (folder / "dev").mkdir()
        command = ["unshare", "--mount", "--propagation=private", "sh", "-c", _ENTER, "users"]
        self._namespace = subprocess.Popen(
            [*command, str(folder / "dev"), str(UID)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._namespace.stdin is not None
        assert self._namespace.stdout is not None
        for closed, child in closed_on_the_way_to(Path(sys.base_prefix), REPOSITORY, Path(sys.prefix)):
            self._namespace.stdin.write(f"{closed} {child}\n".encode())
        self._namespace.stdin.write(b"\n")
        self._namespace.stdin.flush()
        assert self._namespace.stdout.readline() == b"ready\n"

    def run(self, *words: str | Path, uid: int = UID) -> subprocess.CompletedProcess[str]:
        setpriv = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--"]
        return subprocess.run(
            ["nsenter", f"--target={self._namespace.pid}", "--mount", *setpriv, *map(str, words)],
            cwd="/",
            env={"PATH": os.environ["PATH"], "HOME": str(self.home), "XDG_RUNTIME_DIR": str(self.home)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )

    def s3vfs(self, *words: str | Path, uid: int = UID) -> subprocess.CompletedProcess[str]:
        return self.run(sys.executable, "-m", "s3vfs", *words, uid=uid)

    def ok(self, *words: str | Path) -> str:
        done = self.s3vfs(*words)
        assert done.returncode == 0, done
        return done.stdout

    def end(self) -> None:
        """The namespace goes with its mounts, which ends their daemons."""
        self._namespace.communicate()


@pytest.fixture
def users() -> Iterator[Users]:
    # Not in pytest's own directory, which is closed to others.
    folder = Path(tempfile.mkdtemp(prefix="s3vfs-users-"))
    folder.chmod(0o755)
    made = Users(folder)
    yield made
    made.end()
    eventually(lambda: subprocess.run(["pgrep", "-u", str(UID)], capture_output=True).returncode == 1, within_s=60)
    shutil.rmtree(folder)


def test_a_user_mounts_works_and_unmounts_without_root(users: Users) -> None:
    url, mountpoint = f"file://{users.home}/bucket", users.home / "mnt"
    assert users.run("mkdir", users.home / "bucket", mountpoint).returncode == 0
    users.ok("format", url)
    users.ok("mount", url, mountpoint)
    script = f"cd {mountpoint} && echo kept >file && ln -s file link && mkdir d && mv file d/ && ! cat link; cat d/file"
    assert users.run("sh", "-c", script).stdout == "kept\n"
    assert users.run("stat", "-c", "%u %g", mountpoint / "d").stdout == f"{UID} {UID}\n"
    assert users.run("chown", "0", mountpoint / "d").returncode != 0

    for uid in (OTHER, 0):
        refused = users.run("ls", mountpoint, uid=uid)
        assert "Permission denied" in refused.stderr, "without --allow-other it is this user's alone, not even root's"
    assert '"pending"' in users.ok("status", "--json", mountpoint)
    refused = users.s3vfs("umount", mountpoint, uid=OTHER)
    assert refused.returncode != 0
    assert refused.stderr.count("\n") == 1, refused.stderr
    assert users.run("cat", mountpoint / "d/file").stdout == "kept\n"
    assert (users.home / ".cache/s3vfs").is_dir(), "the cache is the user's"

    users.ok("umount", mountpoint)
    assert users.run("ls", mountpoint).stdout == ""
    assert '"sessions": []' in users.ok("status", "--json", url)
    users.ok("mount", url, mountpoint, "--read-only")
    assert users.run("cat", mountpoint / "d/file").stdout == "kept\n"
    users.ok("umount", mountpoint)


def test_a_user_unmounts_with_fusermount_too_and_clears_what_has_died(users: Users) -> None:
    url, mountpoint = f"file://{users.home}/bucket", users.home / "mnt"
    users.run("mkdir", users.home / "bucket", mountpoint)
    users.ok("format", url)
    users.ok("mount", url, mountpoint)
    users.run("sh", "-c", f"echo kept >{mountpoint}/file")
    assert users.run("fusermount3", "-u", mountpoint).returncode == 0
    eventually(lambda: users.s3vfs("mount", url, mountpoint).returncode == 0, within_s=60)
    assert users.run("pkill", "-KILL", "-u", str(UID), "-f", str(mountpoint)).returncode == 0
    eventually(lambda: "not connected" in users.run("ls", mountpoint).stderr)
    users.ok("mount", url, mountpoint)
    assert users.run("cat", mountpoint / "file").stdout == "kept\n"
    users.ok("umount", mountpoint)


def test_what_a_user_may_not_do_is_said_in_one_line(users: Users) -> None:
    url, mountpoint = f"file://{users.home}/bucket", users.home / "mnt"
    users.run("mkdir", users.home / "bucket", mountpoint)
    users.ok("format", url)
    refused = users.s3vfs("mount", url, mountpoint, "--allow-other")
    assert refused.returncode == 8
    assert "user_allow_other" in refused.stderr
    refused = users.s3vfs("mount", url, "/mnt")
    assert refused.returncode != 0
    assert refused.stderr.count("\n") == 1, refused.stderr
    refused = users.s3vfs("mount", url, mountpoint, uid=OTHER)
    assert refused.returncode == 4
    assert refused.stderr.count("\n") == 1, refused.stderr
    users.ok("mount", url, mountpoint)
    busy = users.run("sh", "-c", f"cd {mountpoint} && {sys.executable} -m s3vfs umount {mountpoint}")
    assert busy.returncode == 8
    assert "is in use" in busy.stderr
    users.ok("umount", mountpoint)
