"""The cell file: what was measured stays, and is not measured again."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.cells import Cell, CellStore, Key
from bench.plan import Wish, chosen, tasks


def cell(contestant: str = "s3vfs", workload: str = "untar", number: int = 1, **more: object) -> Cell:
    key = Key(contestant, workload, 0.0, number, 1.0)
    return Cell(key, units=10, unit="files", **more)  # type: ignore[arg-type]


def wish(*contestants: str, workloads: list[str], rounds: int = 2) -> Wish:
    return Wish(contestants, workloads, [0.0], rounds, 1, 1.0, 0.2)


def test_a_cell_comes_back_as_it_was(tmp_path: Path) -> None:
    measured = cell(app_s=1.5, durable_s=2.0, requests={"PUT": 3}, polls={"GET": 1}, more={"MB/s": 4.0}, at="now")
    CellStore(tmp_path / "cells").add(measured)
    assert CellStore(tmp_path / "cells").cells == {measured.key: measured}


def test_a_line_that_was_cut_is_forgotten_and_the_next_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "cells"
    store = CellStore(path)
    store.add(cell(number=1, app_s=1.0))
    store.add(cell(number=2, app_s=2.0))
    path.write_bytes(path.read_bytes()[:-20])
    again = CellStore(path)
    assert [each.key.round for each in again.cells.values()] == [1]
    again.add(cell(number=3, app_s=3.0))
    assert [each.key.round for each in CellStore(path).cells.values()] == [1, 3]


def test_what_is_there_is_not_planned_again_and_a_failure_only_on_request(tmp_path: Path) -> None:
    store = CellStore(tmp_path / "cells")
    store.add(cell(number=1, app_s=1.0))
    store.add(cell(number=2, error="failed"))
    asked = wish("s3vfs", workloads=["untar", "rm"])
    assert [(task.round, task.workloads) for task in tasks(asked, store)] == [(1, ("rm",)), (2, ("rm",))]
    assert [task.workloads for task in tasks(asked, store, retry_failed=True)] == [("rm",), ("untar", "rm")]


def test_contestants_take_turns_and_the_others_run_fewer_and_smaller_rounds(tmp_path: Path) -> None:
    planned = list(tasks(wish("s3vfs", "juicefs", "rclone", workloads=["find", "dd"]), CellStore(tmp_path / "cells")))
    assert [(task.round, task.scenario.name, task.contestant, task.scale) for task in planned] == [
        *((1, "find", "s3vfs", 1.0), (1, "find", "juicefs", 1.0), (1, "find", "rclone", 0.2)),
        *((1, "dd", "s3vfs", 1.0), (1, "dd", "juicefs", 1.0), (1, "dd", "rclone", 0.2)),
        *((2, "find", "juicefs", 1.0), (2, "find", "s3vfs", 1.0)),
        *((2, "dd", "juicefs", 1.0), (2, "dd", "s3vfs", 1.0)),
    ]


def test_a_scenario_stands_for_its_workloads_and_an_unknown_name_is_refused() -> None:
    assert chosen(["tree"]) == ["untar", "cat", "cat-scattered", "rm"]
    with pytest.raises(ValueError, match="no workload 'untra'"):
        chosen(["untra"])


def test_who_could_not_take_part_is_told_until_a_run_has_it(tmp_path: Path) -> None:
    store = CellStore(tmp_path / "cells")
    store.add_run({"contestants": ["juicefs"], "unavailable": {"juicefs": "no redis-server"}})
    assert CellStore(tmp_path / "cells").unavailable() == {"juicefs": "no redis-server"}
    store.add_run({"contestants": ["s3vfs"], "unavailable": {}})
    assert "juicefs" in store.unavailable()
    store.add_run({"contestants": ["juicefs"], "unavailable": {}})
    assert store.unavailable() == {}
