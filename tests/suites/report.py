"""The counts of each suite, local and mounted: a JSON file for each run under build/suites, and one table of them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.suites.outcomes import Difference, Outcomes, counts

FOLDER = Path(__file__).parents[2] / "build" / "suites"


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
    """Write the row, and the table of all rows there."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / f"{made.name}.json").write_text(json.dumps(asdict(made), indent=1) + "\n")
    rows = [Row(**json.loads(path.read_text())) for path in sorted(FOLDER.glob("*.json"))]
    (FOLDER / "table.md").write_text("\n".join(table(rows)) + "\n")


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
