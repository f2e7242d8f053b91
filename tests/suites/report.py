"""The counts of each suite, local and mounted: a JSON file for each run under build/suites, and one table of them.

A test's report carries its row to where the run's closing lines are written, which may be another process.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pytest

from tests.suites.outcomes import Difference, Outcomes, counts

FOLDER = Path(__file__).parents[2] / "build" / "suites"
# What a report calls its row.
PROPERTY = "suite"

_rows: list[Row] = []


@dataclass(frozen=True)
class Row:
    """One suite on one kind of store."""

    suite: str
    store: str
    full: bool
    local: dict[str, int]
    mounted: dict[str, int]
    local_s: float
    mounted_s: float
    differences: list[dict[str, str]] = field(default_factory=list)

    @property
    def name(self) -> str:
        return f"{self.suite}-{self.store}-{'full' if self.full else 'short'}"


def row(
    suite: str, store: str, full: bool, local: tuple[Outcomes, float], mounted: tuple[Outcomes, float],
    found: list[Difference],
) -> Row:  # fmt: skip
    differing = [
        {"test": each.test, "said": str(each), "reason": "" if each.known is None else each.known.reason}
        for each in found
    ]
    return Row(
        suite, store, full, counts(local[0]), counts(mounted[0]), round(local[1], 1), round(mounted[1], 1), differing
    )


def keep(made: Row) -> None:
    """Write the row."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / f"{made.name}.json").write_text(json.dumps(asdict(made), indent=1) + "\n")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call":
        _rows.extend(Row(**value) for name, value in report.user_properties if name == PROPERTY)  # type: ignore[arg-type]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The rows of this run; and, in a file, of all runs."""
    if not _rows:
        return
    kept = [Row(**json.loads(path.read_text())) for path in sorted(FOLDER.glob("*.json"))]
    (FOLDER / "table.md").write_text("\n".join(table(kept)) + "\n")
    _rows.sort(key=lambda row: row.name)
    terminalreporter.section("suites: local and mounted")
    for line in table(_rows):
        terminalreporter.write_line(line)
    for row in _rows:
        for each in row.differences:
            terminalreporter.write_line(f"{row.name}: {each['test']}: {each['reason'] or 'NOT KNOWN'}")
    terminalreporter.write_line(f"kept in {FOLDER}")


def table(rows: list[Row]) -> list[str]:
    """Lines of a Markdown table: passed/failed/skipped for both."""
    lines = [
        "| suite | form | store | local: passed/failed/skipped | mount: passed/failed/skipped | local s | mount s |",
        "|---|---|---|---|---|---|---|",
    ]
    for each in rows:
        both = ["/".join(str(figures[key]) for key in ("passed", "failed", "skipped")) for figures in
                (each.local, each.mounted)]  # fmt: skip
        form = "full" if each.full else "short"
        lines.append(
            f"| {each.suite} | {form} | {each.store} | {both[0]} | {both[1]} | {each.local_s} | {each.mounted_s} |"
        )
    return lines
