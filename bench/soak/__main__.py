"""One server with all services under mixed traffic for hours. Exit code 1 where memory, handles or threads grow, a call
ends in a way that nobody expects, or the server does not stop when it is asked to.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from pathlib import Path

from bench.load.servers import Serving
from bench.soak.traffic import VISITS, Site, Traffic
from bench.soak.watch import Sample, held, told, trends, watch
from burnish_services.engine.fake import write_fake_model

WARM_SHARE = 0.3  # of the time, in which caches fill and allocators find their size


def say(text: str) -> None:
    """For people, on standard output."""
    print(text, flush=True)


def _models(folder: Path, given: list[str]) -> list[str]:
    return given or [str(write_fake_model(folder / f"model{n}", seed=n)) for n in range(3)]


def _data(folder: Path) -> Path:
    path = folder / "data.jsonl"
    row = '{"messages": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]}\n'
    path.write_text(row * 64)
    return path


async def soak(folder: Path, engine: str, models: list[str], seconds: float, interval: float, kinds: list[str]) -> int:
    """The exit code, after telling what was seen."""
    state = folder / "state"
    server = Serving(
        folder, "server", "burnish_services", "--roles", "all", "--engine", engine, "--model", models[0],
        "--state-dir", str(state), "--log-level", "error", "--grace", "10", "--metrics-port", "0",
        # So small that it is full before the looks that count.
        environment={"BURNISH_EMBEDDING_CACHE_MIB": "8"},
    )  # fmt: skip
    try:
        await asyncio.to_thread(server.wait_ready)
        traffic = Traffic(Site(server.address, models, _data(folder), random.Random(7)), kinds)
        ended = asyncio.Event()
        asyncio.get_running_loop().call_later(seconds, ended.set)
        watching = watch(server.pid, state, server.metrics, interval, ended)
        _, seen = await asyncio.gather(traffic.go_on_until(ended), watching)
        await asyncio.sleep(1)
        left = {name: value for name, value in (await asyncio.to_thread(held, server.metrics)).items() if value}
    finally:
        begin = time.monotonic()
        await asyncio.to_thread(server.stop)
    return _verdict(traffic, seen, left, seconds, server.process.returncode, time.monotonic() - begin, server.log)


def _verdict(
    traffic: Traffic,
    seen: list[Sample],
    left: dict[str, float],
    seconds: float,
    exit_code: int,
    stopping: float,
    log: Path,
) -> int:
    found = trends(seen, WARM_SHARE * seconds)
    say(f"{len(seen)} looks in {seen[-1].seconds:,.0f} s; what follows is of those after the first {WARM_SHARE:.0%}\n")
    say(told(found))
    say("\n" + "\n".join(f"{count:8,} {outcome}" for outcome, count in sorted(traffic.outcomes.items())))
    for name, value in left.items():
        say(f"\n{name} is {value:g} after everybody has gone")
    say(f"\nthe server stopped within {stopping:.1f} s, with exit code {exit_code}")
    for surprise in traffic.surprises[:20]:
        say(f"unexpected: {surprise}")
    complaints = [line for line in log.read_text().splitlines() if " ERROR " in line]
    for complaint in complaints[:20]:
        say(f"the server's log: {complaint}")
    good = all(one.flat for one in found) and not left and not traffic.surprises and not complaints and exit_code == 0
    say("flat" if good else "NOT FLAT, or not well")
    return 0 if good else 1


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--interval", type=float, default=5.0, help="seconds between looks")
    parser.add_argument("--engine", choices=["fake", "transformers", "vllm"], default="fake")
    parser.add_argument("--model", action="append", default=[], help="of that engine; several take turns")
    parser.add_argument(
        "--only",
        action="append",
        choices=list(VISITS),
        help="these kinds of visit, to find the one that leaves something",
    )
    chosen = parser.parse_args()
    if chosen.engine != "fake" and not chosen.model:
        parser.error("an engine other than the fake one needs --model DIR")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        models = _models(folder, chosen.model)
        kinds = chosen.only or list(VISITS)
        sys.exit(asyncio.run(soak(folder, chosen.engine, models, chosen.hours * 3600, chosen.interval, kinds)))


if __name__ == "__main__":
    main()
