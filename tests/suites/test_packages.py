"""The tests of Python packages that work on real files: pyfakefs against the real file system, pyxattr, pylibacl."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.suites import many_operations
from tests.suites.conftest import Judge
from tests.suites.outcomes import Known, Outcomes, Verdict, read_junit
from tests.suites.places import LIMIT_S, LONG_LIMIT_S, Place, run
from tests.suites.tools import Tools

# Both suites repeat each test for names as text, bytes and paths, which is nothing to a file system.
ONE_NAME_EACH = ("-k", "not bytes and not path and not deprecated")
KNOWN_ACL: tuple[Known, ...] = ()
KNOWN_FAKE: tuple[Known, ...] = ()


def pytest_of(
    tools: Tools, place: Place, name: str, arguments: Sequence[str], *, nobody: bool = False, full: bool = False
) -> Outcomes:
    """The results of a suite that pytest runs, in a fresh directory."""
    directory = place.fresh(name, nobody=nobody)
    with tempfile.TemporaryDirectory(dir=place.path.parent if place.mount is None else place.mount.path.parent) as told:
        Path(told).chmod(0o777)
        report = Path(told) / "report.xml"
        # Not this project's settings, which pytest would find above the sources.
        command = [
            str(tools.python),
            "-m",
            "pytest",
            "-q",
            "-c",
            "/dev/null",
            "-p",
            "no:cacheprovider",
            "-p",
            "no:randomly",
        ]
        environment = {"TEST_REAL_FS": "1", "TEST_DIR": str(directory), "PYTHONPATH": str(Path(__file__).parent)}
        code, said = run(
            [*command, "--basetemp", str(directory / "pytest"), "--junitxml", str(report), *arguments],
            directory, nobody=nobody, limit_s=LONG_LIMIT_S if full else LIMIT_S, environment=environment,
        )  # fmt: skip
        assert code in (0, 1), f"pytest ended with {code}: {said[-3000:]}"
        return read_junit(report)


def fakefs(tools: Tools, place: Place, chosen: str, *modules: str, full: bool = False) -> Outcomes:
    """As an ordinary user: some tests take root for one. Classes for the real file system are called Real…"""
    outcomes = pytest_of(tools, place, "pyfakefs", ["-k", chosen, "--pyargs", *modules], nobody=True, full=full)
    real = [result for result in outcomes.values() if result.verdict is not Verdict.SKIPPED]
    assert len(real) > 20, "the tests of the real file system were skipped"
    return outcomes


def xattr(tools: Tools, place: Place, *arguments: str) -> Outcomes:
    fewer = ["-p", many_operations.__name__.rpartition(".")[2]]
    return pytest_of(tools, place, "pyxattr", [*fewer, *arguments, str(tools.source("pyxattr") / "tests")])


def acl(tools: Tools, place: Place, *arguments: str) -> Outcomes:
    return pytest_of(tools, place, "pylibacl", [*arguments, str(tools.source("pylibacl") / "tests")])


def test_pyfakefs_real_short(judge: Judge, suite_tools: Tools) -> None:
    chosen = "RealOsModuleLowLevelFileOpTest or RealOsModuleDirFdTest or RealOsUnreadableDirTest or TestRealModeW"
    modules = ("pyfakefs.tests.fake_os_test", "pyfakefs.tests.fake_stat_time_test")
    judge("pyfakefs", lambda place: fakefs(suite_tools, place, chosen, *modules), known=KNOWN_FAKE)


@pytest.mark.long
@pytest.mark.timeout(2 * LONG_LIMIT_S)
def test_pyfakefs_real_full(judge: Judge, suite_tools: Tools) -> None:
    judge(
        "pyfakefs",
        lambda place: fakefs(suite_tools, place, "Real", "pyfakefs.tests", full=True),
        full=True,
        known=KNOWN_FAKE,
    )


def test_pyxattr_short(judge: Judge, suite_tools: Tools) -> None:
    judge("pyxattr", lambda place: xattr(suite_tools, place, *ONE_NAME_EACH))


@pytest.mark.long
def test_pyxattr_full(judge: Judge, suite_tools: Tools) -> None:
    judge("pyxattr", lambda place: xattr(suite_tools, place), full=True)


def test_pylibacl_short(judge: Judge, suite_tools: Tools) -> None:
    judge("pylibacl", lambda place: acl(suite_tools, place, *ONE_NAME_EACH), known=KNOWN_ACL)


@pytest.mark.long
def test_pylibacl_full(judge: Judge, suite_tools: Tools) -> None:
    judge("pylibacl", lambda place: acl(suite_tools, place), full=True, known=KNOWN_ACL)
