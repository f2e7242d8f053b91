"""Plays the tasks of a plan: a fresh server each round and latency, a fresh volume each task, one cell each step."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Mapping
from itertools import groupby
from pathlib import Path

from bench.cells import Cell
from bench.contestants.base import Contestant
from bench.daemons import StartFailed
from bench.inputs import Inputs
from bench.plan import Task
from bench.site import Site, opened_site
from bench.stage import Broken, Finished, Stage, scratch_folder

Say = Callable[[str], None]


def play(task: Task, contestant: Contestant, site: Site, inputs: Inputs, stage_of: Callable[..., Stage]) -> None:
    """One task, whatever befalls it: each wanted workload gets a cell, with figures or with what went wrong."""
    folder = scratch_folder(site.scratch, f"{contestant.name}-{task.scenario.name}-{task.round}")
    volume = contestant.volume(site, folder)
    stage = stage_of(
        contestant=contestant,
        volume=volume,
        site=site,
        inputs=inputs,
        scale=task.scale,
        latency_ms=task.latency_ms,
        round=task.round,
        wanted=task.workloads,
    )
    try:
        site.set_latency(0)
        with volume.opened():
            task.scenario.play(stage)
    except Finished:
        pass
    except (Broken, StartFailed, OSError) as error:
        stage.fail_rest(str(error))


def run(
    todo: Iterable[Task],
    contestants: Mapping[str, Contestant],
    *,
    scratch: Path,
    inputs: Inputs,
    keep: Callable[[Cell], None],
    limit_s: float,
    minutes: float | None,
    commit: str,
    say: Say,
) -> bool:
    """Play them all, or as many as begin within `minutes`. Whether nothing is left."""
    deadline_s = time.monotonic() + 60 * minutes if minutes is not None else float("inf")

    def stage_of(**known: object) -> Stage:
        return Stage(**known, limit_s=limit_s, keep=lambda cell: _kept(cell, keep, say), commit=commit)  # type: ignore[arg-type]

    for (number, latency_ms), group in groupby(todo, key=lambda task: (task.round, task.latency_ms)):
        with contextlib.ExitStack() as stack:
            site: Site | None = None
            for task in group:
                contestant = contestants[task.contestant]
                if latency_ms and not contestant.behind_proxy and contestant.name != "local":
                    continue  # no proxy between it and its server: the table says so
                if time.monotonic() > deadline_s:
                    return False
                if site is None:
                    say(f"round {number}, {latency_ms:g} ms added: starting the server")
                    site = stack.enter_context(opened_site(scratch))
                play(task, contestant, site, inputs, stage_of)
    return True


def _kept(cell: Cell, keep: Callable[[Cell], None], say: Say) -> None:
    keep(cell)
    key = cell.key
    if cell.error:
        told = f"FAILED: {cell.error}"
    else:
        app = f"{cell.app_s:8.2f} s" if cell.app_s is not None else ""
        durable = f", durable {cell.durable_s:8.2f} s" if cell.durable_s is not None else ""
        requests = ", " + " ".join(f"{kind} {count}" for kind, count in cell.requests.items()) if cell.requests else ""
        told = f"{app}{durable}, CPU {cell.cpu_s:.1f} s{requests}"
    say(f"  {key.round} {key.latency_ms:g} ms  {key.workload:14} {key.contestant:10} {told}")
