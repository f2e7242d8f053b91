"""A machine without the native extension: it mounts, and nobody gets a lock there that others do not know of."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from s3vfs.fuse.libfuse import pyfuse3, unfit
from s3vfs.fuse.refusal import Unsupported, _reference
from tests.mounted import Volume

_WITHOUT = """
import sys
sys.modules["s3vfs.fuse.native._interpose"] = None
{more}
from s3vfs.cli import main
sys.exit(main(sys.argv[1:]))
"""
_NOR_REFUSED = """
import s3vfs.fuse.refusal
s3vfs.fuse.refusal._SESSION_NEW.clear()
"""


def code_of(call: Callable[..., object], *arguments: object) -> int:
    try:
        call(*arguments)
    except OSError as error:
        return error.errno or -1
    return 0


def test_every_lock_is_refused_and_all_else_works(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.mounted._COMMAND", (sys.executable, "-c", _WITHOUT.format(more="")))
    mount = volume.mount(quiet=False)
    path = mount.path / "file"
    path.write_bytes(b"kept")
    descriptor = os.open(path, os.O_RDWR)
    try:
        for operation in (fcntl.LOCK_SH, fcntl.LOCK_EX, fcntl.LOCK_EX | fcntl.LOCK_NB):
            assert code_of(fcntl.flock, descriptor, operation) == errno.ENOLCK
            assert code_of(fcntl.lockf, descriptor, operation) == errno.ENOLCK
        assert code_of(fcntl.fcntl, descriptor, fcntl.F_GETLK, bytes(32)) == errno.ENOLCK
        os.setxattr(descriptor, "user.x", b"1")
    finally:
        os.close(descriptor)
    assert path.read_bytes() == b"kept"
    assert "the native extension is missing" in mount.log_text()
    shown = subprocess.run(
        [sys.executable, "-m", "s3vfs", "status", str(mount.path)], check=True, capture_output=True, text=True
    )
    assert "locks       refused (ENOLCK)" in shown.stdout
    assert mount.umount() == 0


def test_where_locks_cannot_even_be_refused_nothing_is_mounted(volume: Volume, tmp_path: Path) -> None:
    mountpoint = tmp_path / "mountpoint"
    mountpoint.mkdir()
    result = subprocess.run(
        [
            *(sys.executable, "-c", _WITHOUT.format(more=_NOR_REFUSED), "mount", volume.url, str(mountpoint)),
            *("--foreground", "--cache-dir", str(tmp_path / "cache")),
        ],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 8
    assert "locks would be the kernel's own" in result.stderr
    assert "install gcc and libfuse3-dev" in result.stderr
    assert not mountpoint.is_mount()


def test_only_files_that_are_understood_are_touched(tmp_path: Path) -> None:
    module = Path(pyfuse3.__file__)
    assert _reference(module)[0].startswith(b"fuse_session_new")
    stranger = tmp_path / "stranger.so"
    for image in (b"", b"\x7fELF\x01\x01" + bytes(100), module.read_bytes()[:1000], Path(sys.executable).read_bytes()):
        stranger.write_bytes(image)
        with pytest.raises(Unsupported):
            _reference(stranger)


def test_an_extension_serves_the_libfuse_that_it_was_compiled_for() -> None:
    assert not unfit(314, 314)
    assert not unfit(314, 316)
    assert not unfit(317, 318)
    assert unfit(314, 317) == "it was compiled for libfuse 3.14, but 3.17 is loaded"
    assert unfit(317, 314)
    assert unfit(317, 400)
