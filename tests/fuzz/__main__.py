"""`make fuzz`: very many requests to every RPC and what that did to the server, then very many files to every reader.

The seed decides which. Ends with 1 where an answer is wrong, or a file is read in a wrong way, and shows the smallest
that was found.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.fuzz.fuzzing import Counts, fuzz
from tests.fuzz.readers import READERS
from tests.fuzz.rpcs import all_rpcs
from tests.fuzz.vitals import Vitals
from tests.fuzz.world import World, levels, world

_ROUND = 150  # requests to one RPC before the next has its turn
_ATHERIS = Path(__file__).parents[2] / "build" / "atheris"


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--requests", type=int, default=100_000, help="to all RPCs together")
    parser.add_argument("--files", type=int, default=20_000, help="to each reader")
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    wrong = 0
    if asked.requests:
        with tempfile.TemporaryDirectory(prefix="burnish-fuzz-") as directory, world(Path(directory)) as fuzzed:
            wrong += not _requests(fuzzed, asked.requests, asked.seed)
    if asked.files:
        wrong += not _files(asked.files, asked.seed)
    return 1 if wrong else 0


def _requests(fuzzed: World, total: int, seed: int) -> bool:
    """Whether all is well."""
    rpcs, ended, wrong, began = all_rpcs(), Counts(), 0, time.monotonic()
    print("before:", Vitals.of(fuzzed), flush=True)
    while ended.total() < total:
        seed += 1
        count = min(_ROUND, -(-(total - ended.total()) // len(rpcs)))
        for rpc in rpcs:
            fuzzed.prepare()
            counts, complaint = fuzz(rpc, fuzzed.words(), fuzzed.channel, count, seed)
            ended += counts
            if complaint:
                wrong += 1
                print(complaint, flush=True)
        seconds = time.monotonic() - began
        print(f"{ended.total():9,} requests, {seconds:6.0f} s, {Vitals.of(fuzzed)}", flush=True)
    for (name, code, reason), count in sorted(ended.items()):
        print(f"{name:34} {code:20} {reason:26} {count:8,}")
    print(
        f"{ended.total():,} requests in {seconds:.0f} s, {ended.total() / seconds:.0f} a second; {wrong} wrong answers"
    )
    complaints = fuzzed.complaints()
    print("log:", dict(levels(fuzzed.log)), *complaints[:20], sep="\n")
    after = fuzzed.settled()
    print("after:", after, "and serving" if fuzzed.is_serving() else "and NOT serving")
    return not wrong and not complaints and not after.open_calls


def _files(count: int, seed: int) -> bool:
    """Whether all is well. Each reader has a process of its own, since what goes wrong may take it along."""
    guided = _ATHERIS.is_dir()
    print(f"files changed {'by atheris, too, towards code not reached yet' if guided else 'blindly: no atheris'}")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([os.environ.get("PYTHONPATH", ""), str(_ATHERIS)])}
    well = True
    for module in ("tests.fuzz.files", *(["tests.fuzz.guided"] if guided else [])):
        for reader in READERS:
            command = [sys.executable, "-W", "ignore", "-m", module, reader.name, str(count), str(seed)]
            done = subprocess.run(command, check=False, env=environment, capture_output=True, text=True)
            told = done.stdout if done.returncode == 0 else done.stdout + done.stderr[-3000:]
            print(f"{module.rpartition('.')[2]} {reader.name}: ends with {done.returncode}. {told.strip()}", flush=True)
            well = well and done.returncode == 0
    return well


if __name__ == "__main__":
    sys.exit(main())
