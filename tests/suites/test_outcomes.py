"""What counts as a difference: the judgement that all suites here rest on."""

from __future__ import annotations

from pathlib import Path

from tests.suites.outcomes import Known, Result, Verdict, counts, differences, outdated, read_junit

PASSED, FAILED, SKIPPED = (Result(verdict) for verdict in Verdict)


def test_what_passes_locally_must_pass_on_the_mount() -> None:
    local = dict.fromkeys(("fine", "broken", "unsupported", "missing"), PASSED) | {
        "elsewhere": FAILED,
        "never": SKIPPED,
    }
    mounted = {"fine": PASSED, "broken": FAILED, "unsupported": SKIPPED, "elsewhere": FAILED, "never": SKIPPED}
    found = differences(local, mounted)
    assert [each.test for each in found] == ["broken", "unsupported", "missing"]
    assert all(each.known is None for each in found)


def test_a_known_difference_names_whole_tests_and_has_to_go_once_it_passes() -> None:
    known = (Known("broken", "a reason"), Known("slow.*", "a race", exact=False))
    mounted = {"broken": FAILED, "broken too": FAILED, "slow one": PASSED}
    found = differences(dict.fromkeys(mounted, PASSED), mounted, known)
    assert [(each.test, each.known and each.known.reason) for each in found] == [
        ("broken", "a reason"),
        ("broken too", None),
    ]
    assert outdated(mounted, known) == []
    assert outdated({"broken": PASSED}, known) == ["broken"]


def test_a_report_that_names_a_test_twice_gives_its_worst_verdict(tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    report.write_text(
        '<testsuites><testsuite><testcase name="a" classname="C"/><testcase name="a" classname="C">'
        '<failure message="no"/></testcase><testcase name="a" classname="C"/>'
        '<testcase name="b"><error>trace</error></testcase><testcase name="c"><skipped message="why"/></testcase>'
        "</testsuite></testsuites>"
    )
    outcomes = read_junit(report)
    assert {name: (each.verdict.value, each.detail) for name, each in outcomes.items()} == {
        "C.a": ("failed", "no"),
        "b": ("failed", "trace"),
        "c": ("skipped", "why"),
    }
    assert counts(outcomes) == {"passed": 0, "failed": 2, "skipped": 1}
