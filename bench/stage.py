"""One contestant on one fresh volume: runs steps on it and makes a cell of each that is wanted.

Knows nothing of what the steps are (bench/scenarios.py) and of who the contestant is (bench/contestants).
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from bench.cells import NOT_REACHED, Cell, Counted, Key
from bench.contestants.base import Contestant, Volume
from bench.inputs import Inputs
from bench.site import Site, kinds
from bench.step import Result, Waiting, perform
from bench.workloads import drop_page_cache, forget_pages
from tests.proxy.proxy import Counts


class Broken(Exception):
    """A step failed: what is on the volume is not what the next steps need."""


class Finished(Exception):
    """Everything that was wanted has been measured."""


@dataclass
class Measured:
    """What one step used, per client: requests, bytes, CPU seconds. A difference of two looks."""

    counts: dict[str, Counts] = field(default_factory=dict)
    cpu_s: dict[str, float] = field(default_factory=dict)


@dataclass
class Stage:
    contestant: Contestant
    volume: Volume
    site: Site
    inputs: Inputs
    scale: float
    latency_ms: float
    round: int
    limit_s: float  # for one action
    wanted: Collection[str]  # workloads
    keep: Callable[[Cell], None]
    commit: str = ""

    def __post_init__(self) -> None:
        self._left = set(self.wanted)
        self._failed = False

    # -- places ---------------------------------------------------------------------------------------------------

    def a(self, name: str) -> str:
        """A path on the mount at work."""
        return str(self.volume.path("a") / name)

    def b(self, name: str) -> str:
        """The same path on the second mount."""
        return str(self.volume.path("b") / name)

    def sized(self, count: int, *, least: int = 1) -> int:
        return max(least, round(count * self.scale))

    # -- steps ----------------------------------------------------------------------------------------------------

    def prepare(self, action: str, parity: tuple[str, dict[str, Any]] | None = None, **arguments: Any) -> None:
        """Do something that is not measured, without added latency, and wait until the second mount sees it: some
        upload later, and a cache that is wiped before has lost it. Raises Broken."""
        self.site.set_latency(0)
        result = perform(action, arguments, self.limit_s)
        if parity is not None and not result.error:
            result = perform(parity[0], {**parity[1], "limit_s": self.limit_s}, 1.5 * self.limit_s)
        if result.error:
            raise Broken(f"preparing by {action}: {result.error}")

    def cold(self) -> None:
        """The mount at work is unmounted, its cache is wiped, the page cache is dropped, and it is mounted again."""
        self.site.set_latency(0)
        self.volume.umount("a")
        self.volume.wipe("a")
        drop_page_cache()
        self.volume.mount("a")

    def needs(self, *workloads: str) -> bool:
        """Whether any of these is still to be measured."""
        return bool(self._left.intersection(workloads))

    def step(
        self,
        workload: str,
        units: float,
        unit: str,
        action: str,
        arguments: dict[str, Any],
        *,
        parity: tuple[str, dict[str, Any]] | None = None,
        both: bool = False,
    ) -> None:
        """Run `action`, measured when `workload` is wanted. `parity`: the action by which the second mount looks.
        `both`: the action uses both mounts, so that their requests are one sum, and nothing is a poll.

        Raises Broken when it failed (a cell says so), Finished after the last one that was wanted."""
        if workload not in self._left:
            self.prepare(action, parity, **arguments)
            return
        second = Waiting(parity[0], {**parity[1], "limit_s": self.limit_s}) if parity is not None else None
        try:
            work = Waiting(action, arguments)
            drop_page_cache()
            self.site.set_latency(self.latency_ms)
            before = self._look()
            done = work.go(self.limit_s)
            between = self._look()
            seen: Result | None = None
            if second is not None and not done.error:
                self.volume.publish()
                if not self.contestant.behind_proxy:
                    forget_pages()  # where both mounts are one, this is what makes the second one cold
                seen = second.go(1.5 * self.limit_s)
        finally:
            if second is not None:
                second.end()
        after = self._look()
        self.site.set_latency(0)
        cell = self._cell(workload, units, unit, done, seen, both, before, between, after)
        self.keep(cell)
        self._left.discard(workload)
        if cell.error:
            self._failed = True
            raise Broken(cell.error)
        if not self._left:
            raise Finished

    def fail_rest(self, reason: str) -> None:
        """What could not be measured for this reason; one cell tells it as its own."""
        for workload in sorted(self._left):
            if self._failed:
                reason = NOT_REACHED + reason.removeprefix(NOT_REACHED)
            self._failed = True
            self.keep(Cell(self._key(workload), 0, "", error=reason, at=_now(), commit=self.commit))

    # -- what it used ---------------------------------------------------------------------------------------------

    def _look(self) -> Measured:
        clients = tuple(self.site.proxies)
        return Measured(
            {client: self.site.proxies[client].counts() for client in clients},
            {client: self.volume.cpu_s(client) for client in clients},
        )

    def _key(self, workload: str) -> Key:
        return Key(self.contestant.name, workload, self.latency_ms, self.round, self.scale)

    def _cell(
        self,
        workload: str,
        units: float,
        unit: str,
        done: Result,
        seen: Result | None,
        both: bool,
        before: Measured,
        between: Measured,
        after: Measured,
    ) -> Cell:
        requests = kinds(after.counts["a"], before.counts["a"])
        polls = kinds(between.counts["b"], before.counts["b"])
        second = kinds(after.counts["b"], between.counts["b"])
        used = ["a", "b"] if both else ["a"]
        if both:
            requests, polls, second = _sum(requests, polls), {}, {}
        more = dict(done.figures)
        if seen is not None and not seen.error:
            more |= {f"second: {name}": value for name, value in seen.figures.items()}
            more["second: s"] = seen.took_s
        return Cell(
            self._key(workload),
            units,
            unit,
            app_s=None if done.error else done.took_s,
            durable_s=None if seen is None or seen.error else seen.ended_s - done.began_s,
            requests=requests,
            bytes_up=sum(after.counts[each].bytes_up - before.counts[each].bytes_up for each in used),
            bytes_down=sum(after.counts[each].bytes_down - before.counts[each].bytes_down for each in used),
            polls=polls,
            second=second,
            cpu_s=sum(after.cpu_s[each] - before.cpu_s[each] for each in used),
            second_cpu_s=0.0 if both else after.cpu_s["b"] - before.cpu_s["b"],
            more=more,
            error=done.error or (f"second mount: {seen.error}" if seen is not None and seen.error else ""),
            at=_now(),
            commit=self.commit,
        )


def _sum(one: Counted, other: Counted) -> Counted:
    return {kind: one.get(kind, 0) + other.get(kind, 0) for kind in sorted({*one, *other})}


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")


def scratch_folder(parent: Path, name: str) -> Path:
    """An empty folder for one volume, with a name that every server accepts."""
    folder = parent / "".join(letter if letter.isalnum() else "-" for letter in name.lower())[:40].strip("-")
    folder.mkdir()
    return folder
