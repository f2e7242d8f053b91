"""What was measured, one cell at a time, in a file of JSON lines: a run can be cut anywhere and goes on where it was.

A cell is contestant x workload x latency x round x scale. Its line is written, and is in the file, before the next
cell begins; a last line that was cut is ignored. Runs write a line of their own: the machine, the versions, the date,
and which contestants cannot be had and why.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

Counted = dict[str, int]
# How the error of a cell begins that had no chance because an earlier step on the same volume failed.
NOT_REACHED = "not reached: "


@dataclass(frozen=True, slots=True)
class Key:
    """What a cell is a measurement of. `scale` 1.0 is the full size of the workload."""

    contestant: str
    workload: str
    latency_ms: float
    round: int
    scale: float


@dataclass(frozen=True, slots=True)
class Cell:
    """One measurement. Times in seconds from the start of the workload; None where there is none."""

    key: Key
    units: float  # how many of `unit` were handled: times are compared for each
    unit: str
    app_s: float | None = None  # the application had its answer
    durable_s: float | None = None  # a second, cold mount had read the right bytes
    requests: Counted = field(default_factory=dict)  # of the mount at work, by kind, until durable
    bytes_up: int = 0
    bytes_down: int = 0
    polls: Counted = field(default_factory=dict)  # of the second mount while it was idle
    second: Counted = field(default_factory=dict)  # of the second mount while it read everything back
    cpu_s: float = 0.0  # of the daemon at work and what belongs to it, until durable
    second_cpu_s: float = 0.0
    more: dict[str, float] = field(default_factory=dict)
    error: str = ""
    at: str = ""  # local date and time of its end
    commit: str = ""

    def to_line(self) -> dict[str, Any]:
        line = asdict(self)
        return {"kind": "cell", **line.pop("key"), **line}

    @classmethod
    def from_line(cls, line: dict[str, Any]) -> Cell:
        key = Key(**{each.name: line[each.name] for each in fields(Key)})
        own = {each.name: line[each.name] for each in fields(cls) if each.name in line and each.name != "key"}
        return cls(key=key, **own)


class CellStore:
    """The file. A later cell with the same key replaces an earlier one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.cells: dict[Key, Cell] = {}
        self.runs: list[dict[str, Any]] = []
        if path.exists():
            self._load()

    def _load(self) -> None:
        whole = self.path.read_bytes()
        end = whole.rfind(b"\n") + 1
        if end < len(whole):  # the run was cut while it wrote; what comes next begins a line of its own
            os.truncate(self.path, end)
        for text in whole[:end].splitlines():
            line = json.loads(text)
            if line["kind"] == "cell":
                cell = Cell.from_line(line)
                self.cells[cell.key] = cell
            else:
                self.runs.append(line)

    def done(self, key: Key, *, failed_too: bool = True) -> bool:
        """Whether this cell need not be measured again. `failed_too`: a recorded failure counts as done."""
        cell = self.cells.get(key)
        return cell is not None and (failed_too or not cell.error)

    def add(self, cell: Cell) -> None:
        self.cells[cell.key] = cell
        self._append(cell.to_line())

    def add_run(self, facts: dict[str, Any]) -> None:
        line = {"kind": "run", **facts}
        self.runs.append(line)
        self._append(line)

    def _append(self, line: dict[str, Any]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a") as file:
            file.write(json.dumps(line, sort_keys=True) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def unavailable(self) -> dict[str, str]:
        """Contestants that the newest run that asked for them could not have, with the reason."""
        reasons: dict[str, str] = {}
        for run in self.runs:
            for name in run.get("contestants", ()):
                reasons.pop(name, None)
            reasons.update(run.get("unavailable", {}))
        return reasons


def select(cells: Iterable[Cell], *, latency_ms: float) -> list[Cell]:
    return [cell for cell in cells if cell.key.latency_ms == latency_ms]
