"""Ratios and spread, the table, the picture."""

from __future__ import annotations

import xml.etree.ElementTree
from pathlib import Path

import pytest

from bench.cells import Cell, CellStore, Key
from bench.figures import Spread, app_time, percentile, ratios
from bench.picture import draw
from bench.report import Report


def cells(contestant: str, times: list[float | None], units: float = 8, scale: float = 1.0) -> list[Cell]:
    return [
        Cell(Key(contestant, "untar", 0.0, number, scale), units, "files", app_s=time, error="" if time else "broke")
        for number, time in enumerate(times, 1)
    ]


def test_a_ratio_is_of_one_round_and_the_median_of_ratios_is_told() -> None:
    # The machine was five times slower in the second round: ratios do not notice.
    spread = ratios(cells("juicefs", [10.0, 60.0, 14.0]), cells("s3vfs", [1.0, 5.0, 1.0]), app_time)
    assert spread == Spread(median=12.0, low=10.0, high=14.0, count=3)


def test_rounds_that_failed_on_either_side_do_not_count() -> None:
    spread = ratios(cells("juicefs", [10.0, None, 14.0]), cells("s3vfs", [None, 5.0, 2.0]), app_time)
    assert spread == Spread(7.0, 7.0, 7.0, 1)
    assert ratios(cells("juicefs", [None]), cells("s3vfs", [1.0]), app_time) is None


def test_a_smaller_workload_is_compared_unit_for_unit() -> None:
    spread = ratios(cells("rclone", [1.0], units=2), cells("s3vfs", [1.0], units=8), app_time)
    assert spread is not None
    assert spread.median == pytest.approx(4)


def test_the_median_of_an_even_number_lies_between_the_middle_two() -> None:
    assert Spread.of([4.0, 1.0, 2.0, 3.0]) == Spread(2.5, 1.0, 4.0, 4)
    assert Spread.of([]) is None
    assert percentile([5.0, 1.0, 3.0], 0.5) == 3.0


@pytest.fixture
def report(tmp_path: Path) -> Report:
    store = CellStore(tmp_path / "cells")
    store.add_run(
        {
            **{"date": "2026-11-26", "machine": "2 cores", "kernel": "6.18", "commit": "abc"},
            **{"contestants": ["s3vfs", "juicefs", "s3fs", "rclone"], "versions": {"juicefs": "1.4.2"}},
            "unavailable": {"s3fs": "no s3fs (Debian: s3fs)"},
        }
    )
    for cell in [
        *(*cells("s3vfs", [1.0, 2.0, 3.0]), *cells("juicefs", [10.0, 24.0, 33.0])),
        *cells("rclone", [None], units=2, scale=0.2),
    ]:
        store.add(cell)
    return Report(store)


def test_the_table_has_medians_ratios_and_spread(report: Report) -> None:
    lines = report.times(0.0).splitlines()
    assert lines[0] == "| seconds, and times s3vfs | s3vfs | juicefs | rclone | s3fs |"
    assert lines[2] == "| untar: answered | 2.00 (1.00-3.00) | 24.0 11.0x (10.0-12.0) | failed |  |"


def test_who_is_missing_and_what_failed_is_named_with_the_reason(report: Report) -> None:
    text = report.markdown()
    assert "- s3fs did not take part: no s3fs (Debian: s3fs)." in text
    assert "- untar, rclone, 0 ms: broke" in text
    assert "2026-11-26: 2 cores, Linux 6.18" in text
    assert "juicefs 1.4.2" in text


def test_the_picture_is_svg_with_a_bar_for_each_time(report: Report) -> None:
    root = xml.etree.ElementTree.fromstring(draw(report, 0.0))
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"untar", "2.00 s", "24.0 s", "juicefs"} <= set(texts)
    assert draw(report, 20.0) == ""
