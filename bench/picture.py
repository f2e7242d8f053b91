"""The times as an SVG: for each workload one bar for each contestant, on a logarithmic scale. Pure.

The full bar is the time until the application had its answer; the pale one behind it, until durable.
"""

from __future__ import annotations

import math
from html import escape

from bench.figures import app_time, durable_time, times
from bench.report import Report, seconds, title

_WIDTH, _LABEL, _VALUE = 900, 150, 90
_BAR, _GAP, _TOP = 11, 10, 50
_COLOURS = ("#1b6ca8", "#d1495b", "#7a7a7a", "#edae49", "#66a182", "#8d6a9f", "#2e4057", "#a05a2c")


def _per_unit(report: Report, latency_ms: float, workload: str, name: str) -> tuple[float | None, float | None]:
    """Median seconds until answered and until durable, each brought to the size that the largest cell has."""
    cells = report.group(latency_ms, workload, name)
    sizes = [cell.units for other in report.names for cell in report.group(latency_ms, workload, other)]
    own = max((cell.units for cell in cells), default=0.0)
    factor = max(sizes, default=0.0) / own if own else 1.0
    app, durable = times(cells, app_time), times(cells, durable_time)
    return (app.median * factor if app else None), (durable.median * factor if durable else None)


class _Scale:
    """Seconds to pixels, between two powers of ten."""

    def __init__(self, values: list[float]) -> None:
        self.low = math.floor(math.log10(min(values)))
        self.high = max(self.low + 1, math.ceil(math.log10(max(values))))

    def x(self, value: float) -> float:
        share = (math.log10(value) - self.low) / (self.high - self.low)
        return _LABEL + max(0.0, share) * (_WIDTH - _LABEL - _VALUE)


def _text(x: float, y: float, words: str, *, anchor: str = "start", size: int = 11, colour: str = "#222") -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text {place} font-size="{size}" fill="{colour}">{escape(words)}</text>'


def _bar(x: float, y: float, width: float, colour: str, opacity: float) -> str:
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(1.0, width):.1f}" height="{_BAR - 2}" fill="{colour}" '
        f'fill-opacity="{opacity}"/>'
    )


def draw(report: Report, latency_ms: float) -> str:
    """One SVG document; empty when there is nothing to show."""
    groups = []
    for workload in report.workloads(latency_ms):
        bars = [(name, *_per_unit(report, latency_ms, workload, name)) for name in report.names]
        bars = [(name, app, durable) for name, app, durable in bars if app]
        if bars and workload != "idle":
            groups.append((workload, bars))
    values = [value for _, bars in groups for _, *pair in bars for value in pair if value]
    if not values:
        return ""
    scale = _Scale(values)
    shown: list[str] = []
    y = float(_TOP)
    for workload, bars in groups:
        shown.append(_text(_LABEL - 8, y + _BAR * len(bars) / 2 + 3, workload, anchor="end", size=12))
        for name, app, durable in bars:
            colour = _COLOURS[report.names.index(name) % len(_COLOURS)]
            if durable:
                shown.append(_bar(_LABEL, y, scale.x(durable) - _LABEL, colour, 0.3))
            if app:
                shown.append(_bar(_LABEL, y, scale.x(app) - _LABEL, colour, 1))
                end = scale.x(max(app, durable or 0.0))
                words = f"{seconds(app)} s" + (f" / {seconds(durable)}" if durable else "")
                shown.append(_text(end + 4, y + _BAR - 3, words, size=9))
            y += _BAR
        y += _GAP
    grid = []
    for power in range(scale.low, scale.high + 1):
        x = scale.x(10.0**power)
        grid.append(f'<line x1="{x:.1f}" y1="{_TOP - 6}" x2="{x:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
        grid.append(_text(x, _TOP - 10, f"{10.0**power:g} s", anchor="middle", size=9, colour="#777"))
    legend = []
    x = float(_LABEL)
    for index, name in enumerate(report.names):
        legend.append(_bar(x, 12, 10, _COLOURS[index % len(_COLOURS)], 1))
        legend.append(_text(x + 14, 20, title(name)))
        x += 30 + 6.5 * len(title(name))
    legend.append(_text(_WIDTH - 8, 20, f"{latency_ms:g} ms added; pale: until durable", anchor="end", colour="#777"))
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{y:.0f}" '
        f'viewBox="0 0 {_WIDTH} {y:.0f}" font-family="sans-serif">'
    )
    return "\n".join([head, '<rect width="100%" height="100%" fill="white"/>', *grid, *legend, *shown, "</svg>", ""])
