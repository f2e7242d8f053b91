"""Kernel caches never lie longer than promised, and nothing hangs, while both mounts change and read the same names.

Names and attributes are at most 1 s old, opens, mappings and listings exact (DESIGN 7). No call takes longer than a
stopped machine could explain, and no ESTALE or EIO reaches a program.
"""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest

from tests.fuse.cache_stress import Board, Report, work
from tests.mounted import Mount

# For what a call may take on a machine that does much else; a dead-lock takes for ever.
HANG_S = 60.0
STALE_S = 1.0


def stress(two_mounts: tuple[Mount, Mount], board: Path, seconds: float) -> list[Report]:
    board.write_bytes(bytes(Board.BYTES))
    (two_mounts[0].path / "hot").mkdir()
    context = multiprocessing.get_context("spawn")
    ready, answers = context.Barrier(2), context.Queue()
    processes = [
        context.Process(target=work, args=(mount.path / "hot", board, me, seconds, HANG_S, ready, answers), daemon=True)
        for me, mount in enumerate(two_mounts)
    ]
    for process in processes:
        process.start()
    try:
        reports = dict(answers.get(timeout=seconds + 2 * HANG_S) for _ in processes)
    finally:
        for process in processes:
            process.kill()
            process.join()
    return [reports[me] for me in range(2)]


def check(reports: list[Report]) -> None:
    for me, report in enumerate(reports):
        print(f"mount {me}: {report}")
    for report in reports:
        assert report.hanging == []
        assert report.wrong == []
        # What a reader, a writer or a daemon was kept waiting by the machine adds to what it sees.
        assert report.stale_s <= STALE_S + 4 * max(each.pause_s for each in reports)
        assert all(report.counts.values()), "a thread had no turn"


def test_caches_keep_their_promise_under_load(two_mounts: tuple[Mount, Mount], tmp_path: Path) -> None:
    check(stress(two_mounts, tmp_path / "board", 5))


@pytest.mark.long
def test_caches_keep_their_promise_under_load_for_a_minute(two_mounts: tuple[Mount, Mount], tmp_path: Path) -> None:
    check(stress(two_mounts, tmp_path / "board", 60))
