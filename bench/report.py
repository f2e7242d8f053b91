"""The cells as Markdown. Pure: cells and the lines of the runs in, text out.

One table of times and ratios for each latency, one of requests, bytes and CPU time; then everything that is not a
figure: who could not take part and why, what failed, on which machine it ran.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bench.cells import NOT_REACHED, Cell, CellStore, Counted, select
from bench.figures import Spread, Time, app_time, durable_time, ratios, times
from bench.scenarios import WORKLOADS

_OWN_PROTOCOL = {"weed": "weed (own protocol)"}
# Figures that only some workloads have, with the words that the table uses.
_MORE = ("MB/s", "p50 s", "p95 s", "looks that were too early", "looks")


def title(contestant: str) -> str:
    return _OWN_PROTOCOL.get(contestant, contestant)


def seconds(value: float) -> str:
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 0.1 else f"{value:.4f}"


def _ratio(spread: Spread) -> str:
    def short(value: float) -> str:
        return f"{value:.0f}" if value >= 20 else f"{value:.1f}" if value >= 2 else f"{value:.2g}"

    if spread.count == 1:
        return f"{short(spread.median)}x"
    return f"{short(spread.median)}x ({short(spread.low)}-{short(spread.high)})"


def counted(requests: Counted) -> str:
    return " ".join(f"{kind} {count:,}" for kind, count in sorted(requests.items())) or "0"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|---|" + "---:|" * (len(header) - 1)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)


class Report:
    """`reference`: the contestant that ratios are taken to; by default the first s3vfs there is."""

    def __init__(self, store: CellStore, reference: str | None = None) -> None:
        self._store = store
        self._cells = list(store.cells.values())
        names = dict.fromkeys(cell.key.contestant for cell in self._cells)
        absent = store.unavailable()
        self._names = [*names, *(name for name in absent if name not in names)]
        self._absent = absent
        own = next((name for name in self._names if name.startswith("s3vfs")), None)
        self.reference = reference or own or next(iter(self._names), "")

    @property
    def names(self) -> list[str]:
        return self._names

    def latencies(self) -> list[float]:
        return sorted({cell.key.latency_ms for cell in self._cells})

    def group(self, latency_ms: float, workload: str, contestant: str) -> list[Cell]:
        """The cells of one place in the table: those of the largest size that was measured."""
        found = [
            cell
            for cell in select(self._cells, latency_ms=latency_ms)
            if (cell.key.workload, cell.key.contestant) == (workload, contestant)
        ]
        largest = max((cell.key.scale for cell in found), default=0.0)
        return [cell for cell in found if cell.key.scale == largest]

    def workloads(self, latency_ms: float) -> list[str]:
        there = {cell.key.workload for cell in select(self._cells, latency_ms=latency_ms)}
        return [workload for workload in WORKLOADS if workload in there]

    # -- tables -------------------------------------------------------------------------------------------------------

    def _time(self, latency_ms: float, workload: str, contestant: str, time: Time) -> str:
        cells = self.group(latency_ms, workload, contestant)
        spread = times(cells, time)
        if spread is None:
            return "failed" if any(cell.error for cell in cells) else ""
        text = seconds(spread.median)
        if contestant != self.reference:
            ratio = ratios(cells, self.group(latency_ms, workload, self.reference), time)
            text += f" {_ratio(ratio)}" if ratio else ""
        elif spread.count > 1:
            text += f" ({seconds(spread.low)}-{seconds(spread.high)})"
        if any(cell.error for cell in cells):
            text += " (some failed)"
        full = max((cell.key.scale for cell in self._cells if cell.key.workload == workload), default=0.0)
        return text + (" †" if cells[0].key.scale < full else "")

    def times(self, latency_ms: float) -> str:
        rows = []
        for workload in self.workloads(latency_ms):
            if workload == "idle":
                continue
            for time, what in ((app_time, "answered"), (durable_time, "durable")):
                row = [self._time(latency_ms, workload, name, time) for name in self._names]
                if any(cell not in ("", "failed") for cell in row) or time is app_time:
                    rows.append([f"{workload}: {what}", *row])
        return _table(["seconds, and times " + title(self.reference), *map(title, self._names)], rows)

    def costs(self, latency_ms: float) -> str:
        """Of the middle round of each: what it asked of the bucket, and what it used."""
        rows = []
        for workload in self.workloads(latency_ms):
            for name in self._names:
                good = [cell for cell in self.group(latency_ms, workload, name) if not cell.error]
                if not good:
                    continue
                cell = sorted(good, key=lambda each: each.app_s or 0.0)[len(good) // 2]
                if name == "local":  # there is no daemon and no bucket
                    continue
                more = [f"{key} {seconds(cell.more[key])}" for key in _MORE if key in cell.more]
                rows.append(
                    [
                        f"{workload}, {title(name)}",
                        f"{cell.units:,.0f} {cell.unit}",
                        *([counted(cell.requests), counted(cell.polls), counted(cell.second)]),
                        f"{cell.bytes_up / 1e6:,.1f}",
                        f"{cell.bytes_down / 1e6:,.1f}",
                        f"{cell.cpu_s:.1f}",
                        f"{cell.second_cpu_s:.1f}",
                        ", ".join(more),
                    ]
                )
        header = ["", "size", "requests", "polls of the idle mount", "requests to read it back", "MB up", "MB down"]
        return _table([*header, "CPU s", "CPU s of the second", "more"], rows)

    def remarks(self) -> list[str]:
        """Everything that is not there, and why."""
        lines = [f"- {title(name)} did not take part: {reason}." for name, reason in self._absent.items()]
        if any(name == "weed" for name in self._names) and any(self.latencies()):
            lines.append("- weed speaks its own protocol to its own server: no latency can be added to it.")
        told: dict[str, int] = {}
        for cell in self._cells:
            if cell.error and not cell.error.startswith(NOT_REACHED):  # what kept it back is told already
                key = cell.key
                text = f"- {key.workload}, {title(key.contestant)}, {key.latency_ms:g} ms: {cell.error}"
                told[text] = told.get(text, 0) + 1
        lines += [text if count == 1 else f"{text} ({count} rounds)" for text, count in told.items()]
        return lines

    def runs(self) -> list[str]:
        lines = []
        for run in self._store.runs:
            versions = "; ".join(f"{name} {version}" for name, version in run.get("versions", {}).items() if version)
            lines.append(
                f"- {run.get('date')}: {run.get('machine')}, Linux {run.get('kernel')}, Python {run.get('python')}, "
                f"load {run.get('load')} at the start, s3vfs at {run.get('commit')}. {versions}"
            )
        return lines

    def markdown(self, picture: str = "") -> str:
        parts = ["# Bench"]
        if picture:
            parts.append(f"![times]({picture})")
        for latency_ms in self.latencies():
            rounds = len({cell.key.round for cell in select(self._cells, latency_ms=latency_ms)})
            parts.append(f"## {latency_ms:g} ms added to each request, {rounds} rounds at most")
            parts.append(
                "Medians. 2x: twice the time of the reference; the median of the rounds' ratios (smallest-largest), "
                "unit for unit. †: at a smaller size."
            )
            parts += [self.times(latency_ms), self.costs(latency_ms)]
        if remarks := self.remarks():
            parts += ["## What is not there", "\n".join(remarks)]
        parts += ["## Machine, versions, date", "\n".join(self.runs()), "What is measured, and how: docs/bench.md."]
        return "\n\n".join(parts) + "\n"
