"""What a suite said of each of its tests, and how two runs of it differ. Pure, but for reading report files.

The measure of a mount is a local directory of the same machine, in the same job: what passes there must pass on the
mount. A test that is skipped on the mount although it passed locally counts as a difference too: suites skip what they
find unsupported.
"""

from __future__ import annotations

import enum
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path


class Verdict(enum.Enum):
    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Result:
    """`detail`: the suite's own words on a failure or a skip."""

    verdict: Verdict
    detail: str = ""
    seconds: float = 0.0


Outcomes = Mapping[str, Result]  # by the test's name, which is the same wherever the suite runs


@dataclass(frozen=True)
class Known:
    """A difference that is understood. `test` is a regular expression that matches whole names; `reason` is for
    users. Where `exact` a matching test that passes in a full run is an error: the entry has to go."""

    test: str
    reason: str
    exact: bool = True

    def covers(self, name: str) -> bool:
        return re.fullmatch(self.test, name) is not None


@dataclass(frozen=True)
class Difference:
    test: str
    mounted: Result | None
    known: Known | None = None

    def __str__(self) -> str:
        if self.mounted is None:
            return f"{self.test}: did not run on the mount"
        return f"{self.test}: {self.mounted.verdict.value} on the mount: {self.mounted.detail}"


def differences(local: Outcomes, mounted: Outcomes, known: Iterable[Known] = ()) -> list[Difference]:
    """Every test that passed locally and did not pass on the mount."""
    known = list(known)
    found = []
    for name, result in local.items():
        there = mounted.get(name)
        if result.verdict is Verdict.PASSED and (there is None or there.verdict is not Verdict.PASSED):
            found.append(Difference(name, there, next((entry for entry in known if entry.covers(name)), None)))
    return found


def outdated(mounted: Outcomes, known: Iterable[Known]) -> list[str]:
    """Tests that pass although they are said not to."""
    return [
        name
        for name, result in mounted.items()
        for entry in known
        if entry.exact and result.verdict is Verdict.PASSED and entry.covers(name)
    ]


def counts(outcomes: Outcomes) -> dict[str, int]:
    return {verdict.value: sum(each.verdict is verdict for each in outcomes.values()) for verdict in Verdict}


def read_junit(path: Path) -> dict[str, Result]:
    """A JUnit report, as CPython's runner and pytest write it. A test that is reported twice has its worst verdict."""
    results: dict[str, Result] = {}
    worst = (Verdict.FAILED, Verdict.PASSED, Verdict.SKIPPED)  # a subtest that is skipped leaves its test as it was
    for case in ElementTree.parse(path).iter("testcase"):
        name = ".".join(part for part in (case.get("classname"), case.get("name")) if part)
        verdict, detail = Verdict.PASSED, ""
        for child in case:
            if child.tag in ("failure", "error"):
                verdict, detail = Verdict.FAILED, (child.get("message") or child.text or "").strip()[:500]
            elif child.tag == "skipped" and verdict is Verdict.PASSED:
                verdict, detail = Verdict.SKIPPED, (child.get("message") or child.text or "").strip()[:500]
        result = Result(verdict, detail, float(case.get("time") or 0))
        before = results.get(name)
        if before is None or worst.index(verdict) < worst.index(before.verdict):
            results[name] = result
    return results
