"""Real cells, tiny: a local directory and s3vfs, on a real server behind the proxies."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.cells import Cell
from bench.contestants import contestant
from bench.daemons import is_mounted
from bench.inputs import Inputs
from bench.plan import Task, chosen
from bench.run import play
from bench.scenarios import SCENARIOS
from bench.site import Site, opened_site
from bench.stage import Stage
from bench.step import perform

SCALE = 0.002


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with opened_site(tmp_path_factory.mktemp("bench")) as opened:
        yield opened


def cells_of(name: str, scenario: str, site: Site, folder: Path) -> dict[str, Cell]:
    kept: list[Cell] = []

    def stage_of(**known: object) -> Stage:
        return Stage(**known, limit_s=100, keep=kept.append)  # type: ignore[arg-type]

    chosen_one = next(each for each in SCENARIOS if each.name == scenario)
    task = Task(name, chosen_one, 1.0, 1, SCALE, tuple(chosen([scenario])))
    play(task, contestant(name), site, Inputs(folder), stage_of)
    return {cell.key.workload: cell for cell in kept}


@pytest.mark.parametrize("name", ["local", "s3vfs"])
def test_a_tree_is_written_read_cold_and_removed(name: str, site: Site, tmp_path: Path) -> None:
    cells = cells_of(name, "tree", site, tmp_path)
    assert {workload: cell.error for workload, cell in cells.items()} == dict.fromkeys(chosen(["tree"]), "")
    for workload in ("untar", "rm"):
        cell = cells[workload]
        assert cell.app_s is not None
        assert cell.durable_s is not None
        assert cell.durable_s >= cell.app_s
    assert cells["cat"].durable_s is None
    if name == "s3vfs":
        assert cells["untar"].requests["PUT"] > 0
        assert cells["untar"].second["GET"] > 0
        assert cells["cat"].requests["GET"] > 0
        assert cells["untar"].cpu_s > 0
    assert list(site.scratch.iterdir()) == []
    assert not any(is_mounted(path) for path in site.scratch.rglob("mnt*"))


def test_options_of_s3vfs_are_part_of_its_name_and_an_unknown_one_is_told() -> None:
    variant = contestant("s3vfs:--freshness=0", ["--memory=300MiB"])
    assert variant.name == "s3vfs:--freshness=0:--memory=300MiB"
    assert variant.missing() == ""
    assert contestant("s3vfs:--warp=9").missing() == "this version has no --warp=9"
    with pytest.raises(ValueError, match="no contestant 'nfs'"):
        contestant("nfs")


def test_an_action_that_fails_or_hangs_is_a_result(tmp_path: Path) -> None:
    failed = perform("untar", {"archive": str(tmp_path / "none"), "target": str(tmp_path / "t")}, 100)
    assert "tar ended with 2" in failed.error
    assert perform("idle", {"seconds": 100.0}, 0.05).error == "not done after 0 s"
