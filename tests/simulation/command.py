"""The command line that all simulations share: seeds, mutants, a trace, and what the histories were like."""

from __future__ import annotations

import argparse
import logging
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import nullcontext

from tests.simulation.mutants import Mutant

History = Callable[[int, argparse.Namespace], tuple[Mapping[str, int], list[str]]]


def run_command(
    module: str,
    doc: str | None,
    mutants: Mapping[str, Mutant],
    history: History,
    flags: Mapping[str, str] | None = None,
) -> int:
    """`history(seed, arguments)` gives figures and trace, or raises, with the trace as `error.trace`. `flags`: more
    options, with their help. The exit code."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", required=True, help="one seed, or FIRST-LAST")
    parser.add_argument("--trace", action="store_true", help="print what happened, in the order of mock time")
    parser.add_argument("--mutant", choices=mutants, help="break a rule on purpose: histories should fail")
    parser.add_argument("--verbose", action="store_true", help="log, and the figures of each history")
    for flag, text in (flags or {}).items():
        parser.add_argument(flag, action="store_true", help=text)
    arguments = parser.parse_args()
    mutant = mutants.get(arguments.mutant)
    if not arguments.verbose:
        logging.disable(logging.CRITICAL)
    first, _, last = arguments.seeds.partition("-")
    seeds = range(int(first), int(last or first) + 1)
    failed: list[int] = []
    totals: Counter[str] = Counter()
    began = time.process_time()
    for seed in seeds:
        trace: list[str] = []
        try:
            with mutant.active() if mutant else nullcontext():
                figures, trace = history(seed, arguments)
            totals.update(figures)
            if arguments.verbose:
                print(seed, dict(figures))
        except Exception as error:
            trace = getattr(error, "trace", [])
            failed.append(seed)
            traceback.print_exc(limit=None if mutant is None else 0)
            print(f"seed {seed} failed; again: python -m {module} --seeds {seed} --trace")
        if arguments.trace:
            print("\n".join(trace))
    print("in all:", dict(totals))
    print(f"{len(seeds)} histories in {time.process_time() - began:.1f} s of CPU, {len(failed)} failed: {failed}")
    return 1 if failed else 0
