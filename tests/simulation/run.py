"""Run histories from the command line:

python -m tests.simulation.run --seeds 0-199 [--corrupt] [--mutant NAME] [--trace]
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
import traceback
from collections import Counter
from contextlib import nullcontext
from dataclasses import asdict

from tests.simulation.history import run_history
from tests.simulation.mutants import MUTANTS


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", required=True, help="one seed, or FIRST-LAST")
    parser.add_argument("--trace", action="store_true", help="print what happened, in the order of mock time")
    parser.add_argument("--mutant", choices=MUTANTS, help="break a rule on purpose: histories should fail")
    parser.add_argument("--corrupt", action="store_true", help="give clients wrong records now and then (R4)")
    parser.add_argument("--verbose", action="store_true", help="one line of figures for each history")
    arguments = parser.parse_args()
    mutant = MUTANTS.get(arguments.mutant)
    corrupting = arguments.corrupt or (mutant is not None and mutant.corrupting)
    first, _, last = arguments.seeds.partition("-")
    logging.disable(logging.CRITICAL)
    failed = []
    totals: Counter[str] = Counter()
    began = time.process_time()
    seeds = range(int(first), int(last or first) + 1)
    for seed in seeds:
        try:
            with mutant.active() if mutant else nullcontext():
                report = run_history(seed, keep_trace=arguments.trace, corrupting=corrupting)
            trace = report.trace
            figures = {name: value for name, value in asdict(report).items() if name != "trace"}
            totals.update(figures)
            if arguments.verbose:
                print(figures)
        except Exception as error:
            trace = getattr(error, "trace", [])
            failed.append(seed)
            traceback.print_exc()
            print(f"seed {seed} failed; again: python -m tests.simulation.run --seeds {seed} --trace")
        if arguments.trace:
            print("\n".join(trace))
    del totals["seed"]
    print("in all:", dict(totals))
    print(f"{len(seeds)} histories in {time.process_time() - began:.1f} s of CPU, {len(failed)} failed: {failed}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
