"""Run histories of sessions from the command line:

python -m tests.simulation.run --seeds 0-199 [--corrupt] [--mutant NAME] [--trace]
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict

from tests.simulation.command import run_command
from tests.simulation.history import run_history
from tests.simulation.mutants import MUTANTS


def _history(seed: int, arguments: argparse.Namespace) -> tuple[dict[str, int], list[str]]:
    mutant = MUTANTS.get(arguments.mutant)
    corrupting = arguments.corrupt or (mutant is not None and mutant.corrupting)
    figures = asdict(run_history(seed, keep_trace=arguments.trace, corrupting=corrupting))
    del figures["seed"]
    return figures, figures.pop("trace")


if __name__ == "__main__":
    flags = {"--corrupt": "give clients wrong records now and then (R4)"}
    sys.exit(run_command("tests.simulation.run", __doc__, MUTANTS, _history, flags))
