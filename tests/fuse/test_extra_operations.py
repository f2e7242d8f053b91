"""What the native extension adds, on a real mount: each system call arrives with the right owner, kind and range, and
each answer at the one who asked. The file system below is a double (double.py)."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fuse import sanitized
from tests.mounted import eventually

_FALLOCATE = ctypes.CDLL(None, use_errno=True).fallocate
_FALLOCATE.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
_UMOUNT2 = ctypes.CDLL(None, use_errno=True).umount2
_MNT_FORCE = 1
KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 1, 2, 16
TO_THE_END = 2**63 - 1

Note = dict[str, Any]


class Served:
    """A mounted double: `path` is its root, `notes` what it was asked since the last `forget`."""

    def __init__(self, folder: Path, built: Path, module: str = "tests.fuse.double") -> None:
        self.path = folder / "mnt"
        self.path.mkdir()
        self._notes = folder / "notes"
        self._errors = folder / "stderr"
        self._from = 0
        with self._errors.open("wb") as errors:
            self.process = subprocess.Popen(
                sanitized.command(built, module, str(self.path), str(self._notes)),
                stdin=subprocess.DEVNULL,
                stderr=errors,
                env=sanitized.environment(),
            )

    def _written(self) -> str:
        """Whole lines: the last one may be on its way."""
        text = self._notes.read_text() if self._notes.exists() else ""
        return text[: text.rfind("\n") + 1]

    def notes(self, call: str = "") -> list[Note]:
        text = self._written()
        lines = [json.loads(line) for line in text[self._from :].splitlines()]
        return [line for line in lines if call in ("", line["call"])]

    def note(self, call: str) -> Note:
        """The first one of such a call, once there is one."""
        return eventually(lambda: self.notes(call))[0]

    def forget(self) -> None:
        self._from = len(self._written())

    def errors(self) -> str:
        return self._errors.read_text()

    def start(self) -> Served:
        eventually(lambda: self.notes("ready") or self.process.poll() is not None, within_s=60)
        assert self.process.poll() is None, self.errors()
        return self

    def umount(self) -> None:
        subprocess.run(["umount", str(self.path)], check=True)
        self.ended()

    def ended(self) -> None:
        """The process has ended well, and the sanitizers have found nothing."""
        code = self.process.wait(60)
        assert not sanitized.findings(self.errors()), self.errors()
        assert code == 0, self.errors()

    def clear(self) -> None:
        """Whatever has happened: no mount and no process is left."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        subprocess.run(["umount", "-l", str(self.path)], capture_output=True, check=False)


@pytest.fixture(scope="module")
def shared(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    served = Served(tmp_path_factory.mktemp("double"), built)
    try:
        yield served.start()
        served.umount()
    finally:
        served.clear()


@pytest.fixture
def served(shared: Served) -> Served:
    shared.forget()
    return shared


@pytest.fixture
def own(built: Path, tmp_path: Path) -> Iterator[Served]:
    """For tests that end it."""
    served = Served(tmp_path, built)
    try:
        yield served.start()
    finally:
        served.clear()


@pytest.fixture
def careless(built: Path, tmp_path: Path) -> Iterator[Served]:
    """With an adapter that breaks the rules (careless.py)."""
    served = Served(tmp_path, built, "tests.fuse.careless")
    try:
        yield served.start()
    finally:
        served.clear()


@contextlib.contextmanager
def opened(path: Path, flags: int = os.O_RDWR) -> Iterator[int]:
    descriptor = os.open(path, flags)
    try:
        yield descriptor
    finally:
        with contextlib.suppress(OSError):  # the mount may have ended
            os.close(descriptor)


def answer(call: Callable[..., Any], *arguments: Any) -> int:
    try:
        call(*arguments)
    except OSError as error:
        return error.errno or 0
    raise AssertionError(f"{call} was to fail")


def fallocate(descriptor: int, mode: int, offset: int, length: int) -> None:
    if _FALLOCATE(descriptor, mode, offset, length):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


# -- fcntl locks ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("operation", "kind", "wait"),
    [
        (fcntl.LOCK_SH, "SHARED", True),
        (fcntl.LOCK_EX, "EXCLUSIVE", True),
        (fcntl.LOCK_SH | fcntl.LOCK_NB, "SHARED", False),
        (fcntl.LOCK_EX | fcntl.LOCK_NB, "EXCLUSIVE", False),
        (fcntl.LOCK_UN, "UNLOCK", False),
    ],
)
def test_an_fcntl_lock_arrives_with_kind_range_and_pid(served: Served, operation: int, kind: str, wait: bool) -> None:
    with opened(served.path / "a") as descriptor:
        fcntl.lockf(descriptor, operation, 20, 30)
    note = served.note("lock")
    assert (note["kind"], note["start"], note["end"], note["flock"], note["wait"]) == (kind, 30, 49, False, wait)
    if kind != "UNLOCK":
        assert note["pid"] == os.getpid()


def test_an_unlock_never_waits(served: Served) -> None:
    with opened(served.path / "a") as descriptor:
        fcntl.fcntl(descriptor, fcntl.F_SETLKW, struct.pack("hhqqi4x", fcntl.F_UNLCK, os.SEEK_SET, 100, 1, 0))
    assert (served.note("lock")["kind"], served.note("lock")["wait"]) == ("UNLOCK", False)


def test_a_lock_to_the_end_has_no_end(served: Served) -> None:
    with opened(served.path / "a") as descriptor:
        fcntl.lockf(descriptor, fcntl.LOCK_EX, 0, 7)
    assert (served.note("lock")["start"], served.note("lock")["end"]) == (7, TO_THE_END)


def test_a_process_owns_its_locks_whatever_handle_it_uses_and_gives_them_up_with_any_close(served: Served) -> None:
    with opened(served.path / "a") as first, opened(served.path / "a") as second:
        fcntl.lockf(first, fcntl.LOCK_SH, 1, 1)
        fcntl.lockf(second, fcntl.LOCK_SH, 1, 2)
        child = os.fork()
        if not child:
            with contextlib.suppress(OSError):
                fcntl.lockf(first, fcntl.LOCK_SH, 1, 3)
            os._exit(0)
        os.waitpid(child, 0)
    mine, again, childs = served.notes("lock")
    assert mine["owner"] == again["owner"] != childs["owner"]
    assert mine["handle"] == childs["handle"] != again["handle"]
    flushes = served.notes("flush")
    assert [note["owner"] for note in flushes][-2:] == [mine["owner"]] * 2
    assert childs["owner"] in {note["owner"] for note in flushes[:-2]}  # the child's exit


def test_a_tested_lock_answers_who_is_in_the_way(served: Served) -> None:
    def tested(start: int) -> tuple[int, int, int, int]:
        request = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, start, 20, 0)
        kind, _, begin, length, pid = struct.unpack("hhqqi4x", fcntl.fcntl(descriptor, fcntl.F_GETLK, request))
        return kind, begin, length, pid

    with opened(served.path / "a") as descriptor:
        kind, begin, length, _ = tested(0)
        assert (kind, begin, length) == (fcntl.F_WRLCK, 5, 5)
        assert tested(10)[0] == fcntl.F_UNLCK
    assert served.notes("test_lock")[0]["kind"] == "EXCLUSIVE"
    assert (served.notes("test_lock")[0]["start"], served.notes("test_lock")[0]["end"]) == (0, 19)


@pytest.mark.parametrize(("start", "code"), [(13, errno.EDEADLK), (14, errno.EIO), (15, errno.EIO)])
def test_errors_of_a_lock_become_errnos(served: Served, start: int, code: int) -> None:
    with opened(served.path / "a") as descriptor:
        assert answer(fcntl.lockf, descriptor, fcntl.LOCK_EX, 1, start) == code
        fcntl.lockf(descriptor, fcntl.LOCK_EX, 1, 1)  # and the mount goes on


def test_an_occupied_range_is_refused_to_those_who_do_not_wait(served: Served) -> None:
    with opened(served.path / "a") as descriptor:
        assert answer(fcntl.lockf, descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 100) == errno.EAGAIN
    assert not served.notes("withdrawn")


# -- flock ------------------------------------------------------------------------------------------------------------


def test_a_flock_belongs_to_the_open_file_and_goes_with_its_last_close(served: Served) -> None:
    first = os.open(served.path / "a", os.O_RDONLY)
    copy = os.dup(first)
    fcntl.flock(first, fcntl.LOCK_EX)
    fcntl.flock(copy, fcntl.LOCK_SH | fcntl.LOCK_NB)
    with opened(served.path / "a") as other:
        fcntl.flock(other, fcntl.LOCK_SH)
        fcntl.flock(other, fcntl.LOCK_UN)
    notes = served.notes("lock")
    assert [(note["kind"], note["wait"]) for note in notes] == [
        *(("EXCLUSIVE", True), ("SHARED", False)),
        *(("SHARED", True), ("UNLOCK", False)),
    ]
    assert all((note["flock"], note["start"], note["end"]) == (True, 0, TO_THE_END) for note in notes)
    assert notes[0]["owner"] == notes[1]["owner"] != notes[2]["owner"] == notes[3]["owner"]
    # Owner 0: a handle without locks, which an earlier test has closed.
    released = [note["owner"] for note in served.notes("release") if note["owner"]]
    assert released in ([], [notes[2]["owner"]])
    os.close(first)
    assert notes[0]["owner"] not in [note["owner"] for note in served.notes("release")]
    os.close(copy)
    released = eventually(lambda: [note for note in served.notes("release") if note["owner"] == notes[0]["owner"]])
    assert [note["flock"] for note in released] == [True]


def test_a_handle_without_flock_releases_none(served: Served) -> None:
    with opened(served.path / "a") as descriptor:
        fcntl.lockf(descriptor, fcntl.LOCK_EX, 1, 1)
    assert served.note("release")["flock"] is False


# -- waiting ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call",
    [lambda fd: fcntl.lockf(fd, fcntl.LOCK_EX, 10, 100), lambda fd: fcntl.flock(fd, fcntl.LOCK_EX)],
    ids=["lockf", "flock"],
)
def test_a_signal_ends_a_wait_with_eintr_and_withdraws_it(served: Served, call: Callable[[int], None]) -> None:
    class Woken(Exception): ...

    def wake(number: int, frame: object) -> None:
        raise Woken

    before = signal.signal(signal.SIGUSR1, wake)
    helper = threading.Thread(
        target=lambda: served.note("lock") and signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
    )
    try:
        with opened(served.path / "b") as descriptor:
            helper.start()
            with pytest.raises(Woken):
                call(descriptor)
            assert len(served.notes("withdrawn")) == 1
    finally:
        helper.join()
        signal.signal(signal.SIGUSR1, before)


_WAITERS = """
import fcntl, os, sys, threading
descriptor = os.open(sys.argv[1], os.O_RDWR)
threading.stack_size(64 * 1024)
for number in range(int(sys.argv[2])):
    threading.Thread(target=fcntl.lockf, args=(descriptor, fcntl.LOCK_EX, 1, 100 + number)).start()
"""


def test_more_waiters_than_pyfuse3_has_tasks_hold_up_nobody_and_die_with_their_process(served: Served) -> None:
    count = 600
    waiters = subprocess.Popen([sys.executable, "-c", _WAITERS, str(served.path / "b"), str(count)])
    try:
        eventually(lambda: len(served.notes("lock")) == count, within_s=60)
        with opened(served.path / "a") as descriptor:
            assert len(os.pread(descriptor, 16384, 0)) == 16384
            fcntl.lockf(descriptor, fcntl.LOCK_EX, 1, 1)
    finally:
        waiters.kill()
        waiters.wait()
    eventually(lambda: len(served.notes("withdrawn")) == count, within_s=60)
    eventually(lambda: served.notes("release"))


# -- the end of the mount ---------------------------------------------------------------------------------------------


def test_a_wait_ends_when_the_mount_is_aborted(own: Served) -> None:
    codes: list[int] = []
    with opened(own.path / "b") as descriptor:
        waiter = threading.Thread(target=lambda: codes.append(answer(fcntl.flock, descriptor, fcntl.LOCK_EX)))
        waiter.start()
        own.note("lock")
        assert _UMOUNT2(os.fsencode(own.path), _MNT_FORCE) == -1  # in use: it stays, but its connection is aborted
        waiter.join(60)
        assert codes == [errno.ECONNABORTED]
        own.ended()
    assert len(own.notes("withdrawn")) == 1
    assert own.notes()[-1]["call"] == "ended"


def test_a_wait_ends_when_the_daemon_is_told_to_stop(own: Served) -> None:
    codes: list[int] = []
    with opened(own.path / "b") as descriptor:
        waiter = threading.Thread(target=lambda: codes.append(answer(fcntl.flock, descriptor, fcntl.LOCK_EX)))
        waiter.start()
        own.note("lock")
        own.process.send_signal(signal.SIGTERM)
        waiter.join(60)
        assert codes == [errno.ENOTCONN]
        own.ended()
    assert len(own.notes("withdrawn")) == 1
    assert own.notes()[-1]["call"] == "ended"


def test_the_end_comes_although_a_notification_waits_for_a_request_that_nobody_answers(
    built: Path, tmp_path: Path
) -> None:
    """The connection is aborted then, and nothing stays mounted, also where something is in use."""
    stuck = Served(tmp_path, built, "tests.fuse.stuck")
    codes: list[int] = []
    try:
        stuck.start()
        with opened(stuck.path / "a"):
            caller = threading.Thread(target=lambda: codes.append(answer(os.mkdir, stuck.path / "new")))
            caller.start()
            stuck.note("mkdir")
            stuck.process.send_signal(signal.SIGTERM)
            stuck.ended()
            assert not os.path.ismount(stuck.path)
            caller.join(60)
            assert codes == [errno.ECONNABORTED]
        assert stuck.notes()[-1]["call"] == "ended"
        assert "aborting the kernel's connection" in stuck.errors()
    finally:
        stuck.clear()


# -- ranges of files --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0, KEEP_SIZE, KEEP_SIZE | PUNCH_HOLE])
def test_fallocate_arrives_with_its_mode(served: Served, mode: int) -> None:
    with opened(served.path / "a") as descriptor:
        fallocate(descriptor, mode, 4096, 123)
    assert served.note("fallocate") == {"call": "fallocate", "ino": 2, "mode": mode, "offset": 4096, "length": 123}


def test_a_refused_mode_of_fallocate_refuses_no_other(served: Served) -> None:
    with opened(served.path / "a") as descriptor:
        assert answer(fallocate, descriptor, ZERO_RANGE, 0, 10) == errno.EOPNOTSUPP
        fallocate(descriptor, 0, 0, 10)
    assert len(served.notes("fallocate")) == 2


def test_seek_finds_data_and_holes(served: Served) -> None:
    with opened(served.path / "b") as descriptor:
        assert os.lseek(descriptor, 5, os.SEEK_DATA) == 4096
        assert os.lseek(descriptor, 5, os.SEEK_HOLE) == 8192
        assert answer(os.lseek, descriptor, 16384, os.SEEK_DATA) == errno.ENXIO
    assert [(note["ino"], note["offset"], note["whence"]) for note in served.notes("seek")][:2] == [
        (3, 5, os.SEEK_DATA),
        (3, 5, os.SEEK_HOLE),
    ]


def test_copy_file_range_arrives_whole_and_answers_how_much(served: Served) -> None:
    with opened(served.path / "a") as source, opened(served.path / "b") as target:
        assert os.copy_file_range(source, target, 5000, 10, 20) == 4999
    assert served.note("copy_range") == {"call": "copy_range", "source": [2, 10], "target": [3, 20], "length": 5000}


def test_a_write_appends_while_its_handle_has_o_append(served: Served) -> None:
    with opened(served.path / "a", os.O_WRONLY) as descriptor:
        os.pwrite(descriptor, b"one", 7)
        fcntl.fcntl(descriptor, fcntl.F_SETFL, os.O_APPEND)
        os.write(descriptor, b"t\0o")
        assert served.note("append") == {"call": "append", "ino": 2, "data": b"t\0o".hex()}
        fcntl.fcntl(descriptor, fcntl.F_SETFL, 0)
        os.pwrite(descriptor, b"three", 9)
    assert [(note["offset"], bytes.fromhex(note["data"])) for note in served.notes("write")] == [
        (7, b"one"),
        (9, b"three"),
    ]
    with opened(served.path / "b", os.O_WRONLY | os.O_APPEND) as descriptor:
        os.write(descriptor, b"x" * 300_000)
    assert sum(len(note["data"]) // 2 for note in served.notes("append")[1:]) == 300_000


# -- extended attributes ----------------------------------------------------------------------------------------------


def test_setxattr_arrives_with_its_flags(served: Served) -> None:
    path = served.path / "a"
    os.setxattr(path, "user.new", b"\0value", os.XATTR_CREATE)
    assert answer(os.setxattr, path, "user.there", b"", os.XATTR_CREATE) == errno.EEXIST
    assert answer(os.setxattr, path, "user.new", b"x", os.XATTR_REPLACE) == errno.ENODATA
    os.setxattr(path, "user.there", b"", os.XATTR_REPLACE)
    notes = served.notes("setxattr")
    assert [note["flags"] for note in notes] == [1, 1, 2, 2]
    assert (notes[0]["ino"], notes[0]["name"], bytes.fromhex(notes[0]["value"])) == (2, "user.new", b"\0value")
    assert notes[0]["uid"] == os.getuid()


def test_the_kernel_does_not_ask_for_capabilities_before_every_write(served: Served) -> None:
    with opened(served.path / "a") as descriptor:
        for offset in range(20):
            os.pwrite(descriptor, b"x", offset)
    assert len(served.notes("write")) == 20
    assert len(served.notes("getxattr")) <= 1


# -- whatever the adapter does ----------------------------------------------------------------------------------------


def test_every_request_is_answered_once(careless: Served) -> None:
    path = careless.path / "a"
    assert answer(os.setxattr, path, "user.drop", b"") == errno.EIO
    assert answer(os.setxattr, path, "user.cycle", b"") == errno.EIO
    assert "careless" not in careless.errors()
    assert answer(os.setxattr, path, "user.raise", b"") == errno.EIO
    assert "ValueError: careless" in careless.errors()
    assert not careless.notes("user.twice")
    assert answer(os.setxattr, path, "user.twice", b"") == errno.ENOTUNIQ
    assert careless.note("user.twice")["error"] == "the request has been answered before"
    careless.umount()


def test_a_request_that_outlives_the_mount_can_do_nothing(careless: Served) -> None:
    codes: list[int] = []
    caller = threading.Thread(target=lambda: codes.append(answer(os.setxattr, careless.path / "a", "user.keep", b"")))
    caller.start()
    careless.note("waiting")
    careless.process.send_signal(signal.SIGTERM)
    caller.join(60)
    careless.ended()
    assert codes == [errno.ECONNABORTED]
    assert careless.note("afterwards")["error"] == "the request has been answered before"


def test_a_request_is_not_answered_while_it_is_told_of_its_interruption(careless: Served) -> None:
    caller = subprocess.Popen(
        [sys.executable, "-c", f"import os; os.setxattr({str(careless.path / 'a')!r}, 'user.interrupt', b'')"]
    )
    careless.note("waiting")
    caller.kill()
    assert "told of its interruption" in careless.note("user.interrupt")["error"]
    careless.process.send_signal(signal.SIGTERM)
    careless.ended()
    caller.wait(60)
