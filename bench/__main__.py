"""s3vfs beside its peers on one S3 server, behind a proxy that delays and counts. See docs/bench.md.

Cells that are in OUT/cells.jsonl already are not measured again: run the same line to go on after a cut. Needs root
(it mounts, and drops the page cache). The first Ctrl-C ends the run, unmounts, and writes the table of what there is.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bench import machine
from bench.cells import CellStore
from bench.contestants import NAMES, contestant
from bench.contestants.base import Contestant
from bench.inputs import Inputs
from bench.picture import draw
from bench.plan import Wish, chosen, tasks
from bench.report import Report
from bench.run import run
from bench.scenarios import SCENARIOS


def _words(text: str) -> list[str]:
    return [word for word in text.split(",") if word]


def _numbers(text: str) -> list[float]:
    return [float(word) for word in _words(text)]


def parser() -> argparse.ArgumentParser:
    listed = "\n".join(
        f"  {scenario.name}\n" + "\n".join(f"    {name:16} {what}" for name, what in scenario.steps.items())
        for scenario in SCENARIOS
    )
    made = argparse.ArgumentParser(
        prog="./dev bench",
        description=__doc__,
        epilog=f"workloads, by the scenario whose volume they share (either name will do for --only):\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = made.add_argument
    add("--contestants", type=_words, default=list(NAMES), metavar="A,B", help=f"[{','.join(NAMES)}]")
    add("--only", type=_words, default=[], metavar="A,B", help="workloads or scenarios [all]")
    add("--skip", type=_words, default=[], metavar="A,B", help="workloads or scenarios to leave out")
    add("--latency", type=_numbers, default=[0.0, 5.0, 20.0], metavar="MS,MS", help="added to each request [0,5,20]")
    add("--rounds", type=int, default=5, help="of s3vfs, juicefs and local [5]")
    add("--other-rounds", type=int, default=2, help="of the others, at most [2]")
    add("--scale", type=float, default=1.0, help="size of all workloads; other sizes are other cells [1.0]")
    add("--other-scale", type=float, default=0.2, help="size of the others' workloads, as a part of --scale [0.2]")
    add(
        "--mount-option", action="append", default=[], metavar="OPTION", help="--mount-option=--io=python: to any s3vfs"
    )
    add("--out", type=Path, default=Path("build/bench"), help="cells, table and pictures [build/bench]")
    add("--limit", type=float, default=600.0, metavar="S", help="an action that takes longer has failed [600]")
    add("--minutes", type=float, help="begin nothing after so many minutes")
    add("--retry-failed", action="store_true", help="measure again what has failed")
    add("--report", action="store_true", help="write table and pictures from the cells that there are; run nothing")
    add("--reference", metavar="NAME", help="the contestant that ratios are taken to [the first s3vfs]")
    return made


def write_report(store: CellStore, out: Path, reference: str | None) -> str:
    """OUT/bench.md and OUT/bench-<ms>.svg; returns the Markdown."""
    report = Report(store, reference)
    out.mkdir(parents=True, exist_ok=True)
    pictures = []
    for latency_ms in report.latencies():
        if drawn := draw(report, latency_ms):
            pictures.append(f"bench-{latency_ms:g}ms.svg")
            (out / pictures[-1]).write_text(drawn)
    markdown = report.markdown(pictures[0] if pictures else "")
    (out / "bench.md").write_text(markdown)
    return markdown


def _available(specs: Sequence[str], mount_options: Sequence[str]) -> tuple[dict[str, Contestant], dict[str, str]]:
    """Those that can take part, and the others with the reason."""
    made = [contestant(spec, mount_options) for spec in specs]
    missing = {each.name: reason for each in made if (reason := each.missing())}
    return {each.name: each for each in made if each.name not in missing}, missing


def _interrupt(number: int, frame: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough: what follows is clearing up
    raise KeyboardInterrupt


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    store = CellStore(options.out / "cells.jsonl")
    if options.report:
        print(write_report(store, options.out, options.reference))
        return 0
    if os.geteuid() != 0:
        print("bench: needs root: it mounts, and drops the page cache", file=sys.stderr)
        return 1
    try:
        skipped = chosen(options.skip) if options.skip else []
        workloads = [name for name in chosen(options.only) if name not in skipped]
        able, missing = _available(options.contestants, options.mount_option)
    except ValueError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    for name, reason in missing.items():
        print(f"{name} does not take part: {reason}")
    facts = machine.facts()
    versions = {name: each.version() for name, each in able.items()}
    store.add_run({**facts, "contestants": [*able, *missing], "unavailable": missing, "versions": versions})
    latencies = options.latency
    wish = Wish(
        list(able), workloads, latencies, options.rounds, options.other_rounds, options.scale, options.other_scale
    )
    signal.signal(signal.SIGTERM, _interrupt)
    began_s = time.monotonic()
    scratch = Path(tempfile.mkdtemp(prefix="bench-", dir="/tmp"))
    memory = Path(tempfile.mkdtemp(prefix="bench-", dir="/dev/shm" if os.path.isdir("/dev/shm") else "/tmp"))
    result = 0
    try:
        done = run(
            list(tasks(wish, store, retry_failed=options.retry_failed)),
            able,
            scratch=scratch,
            inputs=Inputs(memory),
            keep=store.add,
            limit_s=options.limit,
            minutes=options.minutes,
            commit=facts["commit"],
            say=lambda line: print(line, flush=True),
        )
        if not done:
            print("The time is over; the same line goes on from here.")
    except KeyboardInterrupt:
        print("Interrupted; the same line goes on from here.")
        result = 130
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        shutil.rmtree(memory, ignore_errors=True)
    print(write_report(store, options.out, options.reference))
    print(f"{(time.monotonic() - began_s) / 60:.1f} minutes. {options.out}/bench.md and its pictures are written.")
    return result


if __name__ == "__main__":
    sys.exit(main())
