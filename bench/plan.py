"""What is run, in which order: contestants interleaved, so that a slow minute of the machine meets them all. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bench.cells import CellStore, Key
from bench.contestants import is_main
from bench.scenarios import SCENARIOS, WORKLOADS, Scenario


@dataclass(frozen=True, slots=True)
class Wish:
    """What the command line asks for."""

    contestants: Sequence[str]
    workloads: Sequence[str]
    latencies_ms: Sequence[float]
    rounds: int
    other_rounds: int
    scale: float
    other_scale: float

    def rounds_of(self, name: str) -> int:
        return self.rounds if is_main(name) else min(self.rounds, self.other_rounds)

    def scale_of(self, name: str) -> float:
        return self.scale if is_main(name) else self.scale * self.other_scale


@dataclass(frozen=True, slots=True)
class Task:
    """One scenario for one contestant, on a fresh volume."""

    contestant: str
    scenario: Scenario
    latency_ms: float
    round: int
    scale: float
    workloads: tuple[str, ...]  # of the scenario's, those to measure


def chosen(patterns: Sequence[str]) -> list[str]:
    """Workloads by their names or by their scenario's name; all for none. Raises ValueError."""
    if not patterns:
        return list(WORKLOADS)
    names: list[str] = []
    for pattern in patterns:
        scenario = next((each for each in SCENARIOS if each.name == pattern), None)
        if pattern in WORKLOADS:
            names.append(pattern)
        elif scenario is not None:
            names.extend(scenario.steps)
        else:
            raise ValueError(f"no workload {pattern!r}: there are {', '.join(WORKLOADS)}")
    return names


def tasks(wish: Wish, store: CellStore, *, retry_failed: bool = False) -> Iterator[Task]:
    """What is still to be done, round by round, scenario by scenario; each round begins with another contestant."""
    for number in range(1, wish.rounds + 1):
        for latency_ms in wish.latencies_ms:
            for scenario in SCENARIOS:
                # Idle is idle: once, and no latency changes it.
                if scenario.name == "idle" and (number > 1 or latency_ms != min(wish.latencies_ms)):
                    continue
                for name in _rotated(wish.contestants, number - 1):
                    if number > wish.rounds_of(name):
                        continue
                    scale = wish.scale_of(name)
                    left = tuple(
                        workload
                        for workload in scenario.steps
                        if workload in wish.workloads
                        and not store.done(Key(name, workload, latency_ms, number, scale), failed_too=not retry_failed)
                    )
                    if left:
                        yield Task(name, scenario, latency_ms, number, scale, left)


def _rotated(names: Sequence[str], by: int) -> list[str]:
    by %= max(1, len(names))
    return [*names[by:], *names[:by]]
