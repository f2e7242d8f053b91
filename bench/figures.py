"""Medians, spread and ratios of cells. Pure.

Absolute times of one machine mean little: a ratio is taken within one round, where the contestants ran side by side,
and the median of the rounds' ratios is what is told, with the smallest and the largest.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from bench.cells import Cell

Time = Callable[[Cell], float | None]


def app_time(cell: Cell) -> float | None:
    return cell.app_s


def durable_time(cell: Cell) -> float | None:
    return cell.durable_s


@dataclass(frozen=True, slots=True)
class Spread:
    """The middle of some values, and how far they lie apart."""

    median: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread | None:
        """None for no values."""
        if not values:
            return None
        return cls(statistics.median(values), min(values), max(values), len(values))


def times(cells: Iterable[Cell], time: Time) -> Spread | None:
    return Spread.of([taken for cell in cells if not cell.error and (taken := time(cell)) is not None])


def ratios(cells: Iterable[Cell], reference: Iterable[Cell], time: Time) -> Spread | None:
    """How many times as long as the reference of the same round each cell took, unit for unit (so that a smaller
    workload can be compared with the full one). Rounds that lack one of the two, or where one failed, do not count."""
    by_round: dict[int, float] = {}
    for cell in reference:
        taken = time(cell)
        if not cell.error and taken and cell.units:
            by_round[cell.key.round] = taken / cell.units
    values = []
    for cell in cells:
        taken = time(cell)
        if not cell.error and taken is not None and cell.units and cell.key.round in by_round:
            values.append(taken / cell.units / by_round[cell.key.round])
    return Spread.of(values)


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` (0 to 1) of the values lie. Raises for no values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]
