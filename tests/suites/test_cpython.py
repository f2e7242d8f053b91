"""CPython's own tests of files, with their temporary directory on the mount.

As root and as an ordinary user: each skips what only the other can see.
"""

from __future__ import annotations

import functools
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.suites.conftest import Judge
from tests.suites.outcomes import Known, Outcomes, read_junit
from tests.suites.places import LIMIT_S, LONG_LIMIT_S, Place, run

TESTS = (
    *("test_os", "test_posix", "test_fcntl", "test_shutil", "test_tempfile", "test_mailbox", "test_mmap"),
    *("test_fileio", "test_largefile", "test_pathlib", "test_glob", "test_dbm", "test_sqlite3"),
)  # fmt: skip

# Differences that stay.
KNOWN = (
    Known(
        r"test\.test_os\.UtimeTests\.test_utime_current(_old)?",
        "it wants its call to be over within 50 ms, which a request on a busy machine is not always",
        exact=False,
    ),
)


@functools.cache
def interpreter() -> str:
    """An interpreter that has its own tests: this one, or Debian's (libpython3.11-testsuite)."""
    question = "import importlib.util, sys; sys.exit(importlib.util.find_spec('test.test_os') is None)"
    for candidate in (sys.executable, "/usr/bin/python3"):
        if (
            Path(candidate).exists()
            and subprocess.run([candidate, "-c", question], capture_output=True).returncode == 0
        ):
            return candidate
    raise AssertionError(
        "no interpreter here has the package `test`: install libpython3.11-testsuite, or what Debian's python3 is"
    )


def cpython(
    place: Place, tests: Sequence[str], *, only: Sequence[str] = (), nobody: bool = False, full: bool = False
) -> Outcomes:
    """The results of these tests; `only`: patterns of test names."""
    directory = place.fresh("cpython", nobody=nobody)
    with tempfile.TemporaryDirectory(dir=place.path.parent if place.mount is None else place.mount.path.parent) as told:
        Path(told).chmod(0o777)
        report = Path(told) / "report.xml"
        patterns = [word for pattern in only for word in ("--match", pattern)]
        command = [interpreter(), "-m", "test", "-j3", "--tempdir", str(directory), "--junit-xml", str(report)]
        command += ["-u", "largefile"] if full else []
        code, said = run(
            [*command, *patterns, *tests], directory, nobody=nobody, limit_s=LONG_LIMIT_S if full else LIMIT_S
        )
        assert report.exists(), f"CPython's tests ended with {code}: {said[-3000:]}"
        return read_junit(report)


# The parts that say most for their time; walking, archives and mail folders make thousands of names.
SHORT_AS_ROOT = (
    *("test.test_fcntl.*", "test.test_fileio.*", "test.test_mmap.*", "test.test_largefile.*"),
    *("test.test_posix.PosixTester.*", "test.test_posix.TestPosixDirFd.*", "test.test_posix.PosixGroupsTester.*"),
    *("test.test_os.FileTests.*", "test.test_os.UtimeTests.*", "test.test_os.StatAttributeTests.*"),
    *("test.test_os.LinkTests.*", "test.test_os.TestScandir.*", "test.test_os.ChownFileTests.*"),
    *("test.test_os.MakedirTests.*", "test.test_os.RemoveDirsTests.*", "test.test_os.TestSendfile.*"),
    *("test.test_os.Pep383Tests.*", "test.test_os.NonLocalSymlinkTests.*", "test.test_mailbox.TestProxyFile.*"),
    *("test.test_sqlite3.test_transactions.*IsolationLevel*", "test.test_dbm.WhichDBTestCase.*"),
)  # fmt: skip
SHORT_AS_NOBODY = (
    *("test.test_shutil.TestRmTree.*", "test.test_shutil.TestMove.*", "test.test_shutil.TestCopyFileObj.*"),
    *("test.test_shutil.TestCopy.*", "test.test_tempfile.TestNamedTemporaryFile.*"),
    *("test.test_tempfile.TestTemporaryFile.*", "test.test_pathlib.PosixPathTest.test_[t-z]*"),
)  # fmt: skip


def modules(patterns: Sequence[str]) -> list[str]:
    """The test files that such patterns are about: each that runs costs a process."""
    return list(dict.fromkeys(pattern.split(".")[1] for pattern in patterns))


FILE_OFTEN = pytest.mark.parametrize(
    "mounted_place", ["file", pytest.param("seaweed", marks=pytest.mark.long)], indirect=True
)


def test_short_as_root(judge: Judge) -> None:
    judge("cpython", lambda place: cpython(place, modules(SHORT_AS_ROOT), only=SHORT_AS_ROOT), known=KNOWN)


@FILE_OFTEN
def test_short_as_an_ordinary_user(judge: Judge) -> None:
    judge(
        "cpython-nobody",
        lambda place: cpython(place, modules(SHORT_AS_NOBODY), only=SHORT_AS_NOBODY, nobody=True),
        known=KNOWN,
    )


@pytest.mark.long
@pytest.mark.timeout(2 * LONG_LIMIT_S)
def test_full_as_root(judge: Judge) -> None:
    judge("cpython", lambda place: cpython(place, TESTS, full=True), full=True, known=KNOWN)


@pytest.mark.long
@pytest.mark.timeout(2 * LONG_LIMIT_S)
def test_full_as_an_ordinary_user(judge: Judge) -> None:
    judge("cpython-nobody", lambda place: cpython(place, TESTS, nobody=True, full=True), full=True, known=KNOWN)
