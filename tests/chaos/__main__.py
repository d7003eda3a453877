"""`make chaos`: as many fault schedules as are asked for, over the fake engine; or one, by its seed.

Prints each schedule that breaks a run, and ends with 1 where there is any.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.chaos import real
from tests.chaos.lane import RECIPES, Outcome
from tests.chaos.runner import ready
from tests.chaos.schedule import Schedule


def main() -> int:
    """Runs the schedules; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--schedules", type=int, default=300, help="how many, from --seed on (default: %(default)s)")
    parser.add_argument("--seed", type=int, help="this one alone; with --schedules as many from it on")
    parser.add_argument("--engine", default="fake", choices=["fake", "transformers", "vllm"], help="see real.py")
    parser.add_argument("--verbose", action="store_true", help="print every schedule")
    options = parser.parse_args()
    if options.engine != "fake":
        with tempfile.TemporaryDirectory(prefix="burnish-chaos-") as folder:
            return 1 if real.work(options.engine, Path(folder)) else 0
    first = options.seed or 0
    number = options.schedules if options.seed is None or "--schedules" in " ".join(sys.argv) else 1
    failed, struck, done, began = 0, 0, 0, time.monotonic()
    with ready() as runner:

        def tell(schedule: Schedule, outcome: Outcome) -> None:
            nonlocal failed, struck, done
            failed, struck, done = failed + bool(outcome.problems), struck + outcome.struck, done + 1
            if outcome.problems or options.verbose or number == 1:
                words = f"{outcome.struck} struck, the command ran {outcome.runs} times, {outcome.seconds:.1f} s"
                print("\n".join([f"{runner.told(schedule)}: {words}", *outcome.problems]), flush=True)
            elif done % 100 == 0:
                print(f"{done} of {number}", flush=True)

        runner.run(range(first, first + number), tell)
    seconds = time.monotonic() - began
    print(f"{done} schedules over {', '.join(RECIPES)}: {struck} faults struck, {failed} runs broke, {seconds:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
