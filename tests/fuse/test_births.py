"""Files that the front makes by itself, on real mounts: nobody may see the difference, but for the speed."""

from __future__ import annotations

import errno
import fcntl
import os
import random
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fuse import sanitized
from tests.fuse.bearer import MODE, OWNER, data_of, times_of
from tests.fuse.test_front import front
from tests.mounted import Mount, Volume, eventually

NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL


@pytest.fixture
def here(volume: Volume) -> Mount:
    """Where the front makes files."""
    mount = volume.mount("--freshness", "0", "--io", "front")
    (mount.path / "d").mkdir()
    return mount


@pytest.fixture
def there(volume: Volume, here: Mount) -> Mount:
    """Another mount of the volume."""
    return volume.mount("--freshness", "0")


def made(mount: Mount, what: str = "creates") -> int:
    count: int = front(mount)[what]
    return count


def shown(path: Path) -> tuple[int, ...]:
    state = path.stat()
    times = (state.st_atime_ns, state.st_mtime_ns, state.st_ctime_ns)
    owner = (state.st_mode, state.st_uid, state.st_gid, state.st_nlink)
    return (*owner, state.st_size, state.st_blocks, state.st_blksize, state.st_ino, *times)


def _change(descriptor: int, chance: random.Random) -> None:
    match chance.randrange(6):
        case 0:
            os.fchmod(descriptor, chance.choice([0o600, 0o644, 0o755, 0]))
        case 1:
            os.fchown(descriptor, chance.choice([-1, 3, 70000]), chance.choice([4, 80000]))
        case 2:
            os.utime(descriptor, ns=(chance.randrange(-(10**18), 10**18), chance.randrange(10**18)))
        case 3:
            os.utime(descriptor)
        case 4:
            os.write(descriptor, bytes(chance.choice([1, 100, 5000])))
        case 5:
            os.fstat(descriptor)


@pytest.mark.parametrize("seed", range(3))
def test_attributes_are_the_same_for_everybody_to_the_nanosecond(here: Mount, there: Mount, seed: int) -> None:
    """The kernel here keeps those that the front has given; the other mount has them from the journal."""
    chance = random.Random(seed)
    folder = here.path / f"d{seed}"
    folder.mkdir()
    for number in range(60):
        descriptor = os.open(folder / f"{number}", NEW, chance.choice([0o666, 0o700]))
        for _ in range(chance.randrange(6)):
            _change(descriptor, chance)
        if chance.randrange(2):
            os.fstat(descriptor)
        os.close(descriptor)
    assert made(here) >= 59
    before = {name: shown(folder / name) for name in os.listdir(folder)}
    before["."] = shown(folder)
    here.sync()
    now = {name: shown(there.path / folder.name / name) for name in before}
    assert not {name: (before[name], now[name]) for name in before if before[name] != now[name]}
    assert {name: shown(folder / name) for name in before} == before


def test_empty_files_too(here: Mount, there: Mount) -> None:
    for number in range(50):
        os.close(os.open(here.path / f"d/{number}", NEW, 0o600))
    assert made(here, "closes") == made(here) == 50
    assert len(os.listdir(there.path / "d")) == 50


def test_every_request_of_an_unpacked_file_is_answered_without_python(here: Mount) -> None:
    for number in range(20):
        descriptor = os.open(here.path / f"d/{number}", NEW, 0o600)
        os.write(descriptor, b"x")
        os.utime(descriptor, ns=(1, 2))
        os.fchown(descriptor, 0, 0)
        os.fchmod(descriptor, 0o644)
        os.close(descriptor)
    counts = front(here)
    assert counts["creates"] == counts["closes"] == 20
    assert counts["setattrs"] == 60
    assert counts["lookups"] >= 20


def test_names_of_any_kind(here: Mount, there: Mount) -> None:
    names = [b"x" * 255, b"\xff\xfe", "häuser".encode(), b" ", b"...", b"a\nb", *(b"%d" % n for n in range(300))]
    folder = os.fsencode(here.path / "d")
    for name in names:
        os.close(os.open(os.path.join(folder, name), NEW, 0o600))
        with pytest.raises(FileExistsError):
            os.open(os.path.join(folder, name), NEW, 0o600)
    with pytest.raises(OSError, match=os.strerror(errno.ENAMETOOLONG)):
        os.open(os.path.join(folder, b"x" * 256), NEW, 0o600)
    assert made(here) >= 290
    assert set(os.listdir(folder)) == set(os.listdir(os.fsencode(there.path / "d"))) == set(names)


def test_a_name_that_was_made_otherwise_is_there(here: Mount) -> None:
    folder = here.path / "d"
    (folder / "first").touch()
    os.mkdir(folder / "directory")
    os.symlink("nowhere", folder / "symlink")
    os.link(folder / "first", folder / "link")
    os.rename(folder / "first", folder / "renamed")
    os.mkfifo(folder / "fifo")
    for name in ("directory", "symlink", "link", "renamed", "fifo"):
        with pytest.raises(FileExistsError):
            os.open(folder / name, NEW, 0o600)
    (folder / "first").touch()
    os.unlink(folder / "first")
    (folder / "first").write_bytes(b"again")
    assert (folder / "first").read_bytes() == b"again"
    assert sorted(os.listdir(folder)) == ["directory", "fifo", "first", "link", "renamed", "symlink"]


def test_what_is_written_after_a_close_of_another_descriptor_is_there(here: Mount, there: Mount) -> None:
    first = os.open(here.path / "d/file", NEW, 0o600)
    second = os.dup(first)
    os.write(first, b"one ")
    os.close(first)
    assert (there.path / "d/file").read_bytes() == b"one "
    os.write(second, b"two")
    os.close(second)
    assert (there.path / "d/file").read_bytes() == b"one two"
    assert made(here) == 1


def _renamed(folder: Path) -> Path:
    os.rename(folder / "file", folder / "elsewhere")
    return folder / "elsewhere"


def _linked(folder: Path) -> Path:
    os.link(folder / "file", folder.parent / "link")
    return folder.parent / "link"


def _opened(folder: Path) -> Path:
    with open(folder / "file", "ab") as again:
        again.write(b"more")
    return folder / "file"


def _truncated(folder: Path) -> Path:
    os.truncate(folder / "file", 1)
    return folder / "file"


def _changed_by_name(folder: Path) -> Path:
    os.chmod(folder / "file", 0o444)
    os.setxattr(folder / "file", "user.x", b"y")
    return folder / "file"


@pytest.mark.parametrize("interfere", [_renamed, _linked, _opened, _truncated, _changed_by_name])
def test_others_may_have_a_say_while_it_is_open(here: Mount, there: Mount, interfere: Callable[[Path], Path]) -> None:
    descriptor = os.open(here.path / "d/file", NEW, 0o640)
    os.write(descriptor, b"some")
    path = interfere(here.path / "d")
    os.fchmod(descriptor, 0o604)
    os.utime(descriptor, ns=(5, 6))
    assert os.fstat(descriptor).st_mtime_ns == 6
    os.close(descriptor)
    contents = {_opened: b"somemore", _truncated: b"s"}.get(interfere, b"some")
    other = there.path / path.relative_to(here.path)
    assert other.read_bytes() == path.read_bytes() == contents
    assert stat.S_IMODE(other.stat().st_mode) == 0o604
    assert shown(other) == shown(path)
    assert made(here) == 1


def test_an_unlinked_file_goes_on_for_its_handle(here: Mount, there: Mount) -> None:
    descriptor = os.open(here.path / "d/file", NEW, 0o600)
    os.write(descriptor, b"before")
    os.unlink(here.path / "d/file")
    os.write(descriptor, b" after")
    os.fchmod(descriptor, 0o644)
    assert os.pread(descriptor, 100, 0) == b"before after"
    assert os.fstat(descriptor).st_nlink == 0
    assert os.listdir(there.path / "d") == []
    os.close(descriptor)
    (here.path / "d/file").write_bytes(b"new")
    assert (there.path / "d/file").read_bytes() == b"new"


@pytest.mark.parametrize("lock", [fcntl.flock, fcntl.lockf])
def test_a_lock_on_it_ends_with_its_close(here: Mount, there: Mount, lock: Callable[[int, int], None]) -> None:
    descriptor = os.open(here.path / "d/file", NEW, 0o600)
    os.write(descriptor, b"locked")
    lock(descriptor, fcntl.LOCK_EX)
    other = os.open(there.path / "d/file", os.O_RDWR)
    with pytest.raises(BlockingIOError):
        lock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.write(descriptor, b" and written")
    os.close(descriptor)

    def granted() -> bool:
        lock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True

    assert eventually(granted)
    assert os.pread(other, 100, 0) == b"locked and written"
    os.close(other)


def test_what_a_directory_hands_on_is_handed_on(here: Mount) -> None:
    folder = here.path / "d"
    (folder / "before").touch()
    os.chown(folder, 0, 77)
    os.chmod(folder, 0o2775)
    (folder / "after").touch()
    assert ((folder / "before").stat().st_gid, (folder / "after").stat().st_gid) == (0, 77)
    os.chmod(folder, 0o755)
    os.chmod(folder, 0o0755)
    (folder / "later").touch()
    subprocess.run(["setfacl", "-d", "-m", "u:5:rwx", str(folder)], check=True)
    (folder / "with").touch()
    assert b"user:5:rwx" in subprocess.run(["getfacl", "-cn", str(folder / "with")], capture_output=True).stdout
    assert b"user:5" not in subprocess.run(["getfacl", "-cn", str(folder / "later")], capture_output=True).stdout


def test_a_directory_that_was_removed_takes_no_file(here: Mount) -> None:
    (here.path / "d/gone").mkdir()
    (here.path / "d/gone/file").touch()
    inside = os.open(here.path / "d/gone", os.O_RDONLY | os.O_DIRECTORY)
    os.unlink(here.path / "d/gone/file")
    os.rmdir(here.path / "d/gone")
    with pytest.raises(FileNotFoundError):
        os.open("file", NEW, 0o600, dir_fd=inside)
    os.close(inside)


def test_who_comes_in_between_finds_everything_and_makes_the_next(here: Mount, there: Mount) -> None:
    for number in range(40):
        mine, other = (here, there) if number % 2 else (there, here)
        for name in (f"a{number}", f"b{number}"):
            (mine.path / "d" / name).write_bytes(name.encode())
        with pytest.raises(FileExistsError):
            os.open(other.path / f"d/b{number}", NEW, 0o600)
        assert (other.path / f"d/b{number}").read_bytes() == b"b%d" % number
        assert len(os.listdir(other.path / "d")) == 2 * number + 2


def test_a_large_file_is_closed_in_the_bucket(here: Mount, there: Mount) -> None:
    data = os.urandom(9 << 20)
    with open(here.path / "d/large", "xb", buffering=1 << 16) as out:
        out.write(data)
    assert made(here) == 1
    assert made(here, "closes") == 0
    here.kill()
    assert (there.path / "d/large").read_bytes() == data


@pytest.mark.parametrize("option", ["--no-leases", "--io=python", "--io=passthrough", "--read-only"])
def test_mounts_on_which_the_front_makes_nothing(volume: Volume, option: str) -> None:
    mount = volume.mount(option)
    if option != "--read-only":
        for number in range(5):
            (mount.path / f"{number}").write_bytes(b"x")
        assert len(os.listdir(mount.path)) == 5
    assert front(mount).get("creates", 0) == 0


@pytest.mark.parametrize("told", [0, 1, 7, 30, 75])
def test_a_kill_before_the_daemon_hears_of_it_loses_nothing(volume: Volume, told: int) -> None:
    here = volume.mount("--freshness", "0", "--io", "front")
    (here.path / "d").mkdir()
    assert here.umount() == 0
    here.command = (sys.executable, "-m", "tests.fuse.killed_before_told", str(told))
    here.start()
    (here.path / "d/first").mkdir()  # the lease, from which on the front makes files
    program = subprocess.run(
        [sys.executable, "-m", "tests.fuse.bearer", str(here.path / "d/first"), "200"], capture_output=True, text=True
    )
    assert program.returncode == 3
    here.process.wait()
    here.detach()
    answers = {(int(number), what) for number, what in (line.split() for line in program.stdout.splitlines())}
    assert len({number for number, _ in answers}) >= told // 8  # several times of one file, where the daemon is slow
    here.command = (sys.executable, "-m", "s3vfs")
    here.start()
    there = volume.mount("--freshness", "0")
    for mount in (here, there):
        here.sync()  # what was written and not closed is promised to nobody before
        for number, what in sorted(answers):
            path = mount.path / f"d/first/file{number}"
            state = path.stat()
            if what in ("written", "closed"):
                assert path.read_bytes() == data_of(number), (number, what)
            if what == "owned":
                assert (stat.S_IMODE(state.st_mode), state.st_uid, state.st_gid) == (MODE, *OWNER)
            if what == "dated":
                assert (state.st_atime_ns, state.st_mtime_ns) == times_of(number)
        made_names = {f"file{number}" for number, _ in answers}
        # What was begun last may have been done without its answer having been seen.
        assert len(set(os.listdir(mount.path / "d/first")) - made_names) <= 1
    assert here.umount() == there.umount() == 0


@pytest.mark.parametrize("sanitizers", [sanitized.MEMORY, sanitized.THREADS], ids=["memory", "threads"])
def test_nothing_of_it_is_undefined(
    volume: Volume, built: Path, sanitizers: sanitized.Sanitizers, tmp_path: Path
) -> None:
    """A tree is unpacked, read, changed and removed on a mount whose extension was compiled with sanitizers."""
    folder = built if sanitizers is sanitized.MEMORY else sanitized.build(tmp_path, sanitizers)
    mount = volume.mount("--freshness", "0", "--io", "front")
    assert mount.umount() == 0
    mount.command = tuple(sanitized.command(folder, "s3vfs"))
    mount.environment = sanitized.environment(sanitizers)
    mount.start()
    tree = tmp_path / "tree"
    for number in range(300):
        folder = tree / f"{number % 7}/{number % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}").write_bytes(data_of(number))
    for _ in range(2):
        subprocess.run(["cp", "-a", str(tree), str(mount.path)], check=True)
        assert subprocess.run(["diff", "-r", str(tree), str(mount.path / "tree")]).returncode == 0
        subprocess.run(["rm", "-r", str(mount.path / "tree")], check=True)
    assert made(mount) > 400
    code = mount.umount()
    assert not sanitized.findings(mount.errors.read_text())
    assert code == 0
