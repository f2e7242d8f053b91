"""Run histories from the command line:

    python -m tests.simulation.run --seeds 0-199 [--mutant NAME] [--trace]
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
import traceback

from tests.simulation.history import run_history


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", required=True, help="one seed, or FIRST-LAST")
    parser.add_argument("--trace", action="store_true", help="print what happened, in the order of mock time")
    arguments = parser.parse_args()
    first, _, last = arguments.seeds.partition("-")
    logging.disable(logging.CRITICAL)
    failed = []
    began = time.perf_counter()
    seeds = range(int(first), int(last or first) + 1)
    for seed in seeds:
        try:
            report = run_history(seed, keep_trace=arguments.trace)
            trace = report.trace
            report.trace = []
            print(report)
        except Exception as error:
            trace = getattr(error, "trace", [])
            failed.append(seed)
            traceback.print_exc()
            print(f"seed {seed} failed; again: python -m tests.simulation.run --seeds {seed} --trace")
        if arguments.trace:
            print("\n".join(trace))
    print(f"{len(seeds)} histories in {time.perf_counter() - began:.1f} s, {len(failed)} failed: {failed}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
