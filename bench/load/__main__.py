"""What the services bear, on the fake engine and this machine: calls per second against a bare gRPC server, four times
as much as they can take, and replicas that come and go.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.load import scaling
from bench.load.overload import overload
from bench.load.requests import Call, calls, reply_sizes
from bench.load.servers import Serving, replica
from bench.load.traffic import Measured, closed_loop
from bench.results import Ratio, Result, ratio, result, table, write
from burnish_services.engine.fake import write_fake_model

CLIENTS = (1, 8, 64)
REPLICAS = (1, 2, 4)
SECTIONS = ("services", "overload", "replicas", "change")


@dataclass(frozen=True)
class Size:
    """Turns, seconds of a measurement, and engine calls that each place of a replica is kept busy for."""

    turns: int
    seconds: float
    waves: int


SIZES = {"small": Size(2, 1.5, 8), "full": Size(5, 5.0, 24)}


def say(text: str) -> None:
    """Progress, on standard error."""
    print(text, file=sys.stderr, flush=True)


def services(folder: Path, size: Size) -> tuple[list[Result], dict[str, Ratio]]:
    """Every call at 1, 8 and 64 clients, and the floor right after it, turn by turn."""
    model = write_fake_model(folder / "model")
    data = folder / "data.jsonl"
    data.write_text('{"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]}\n')
    found: dict[tuple[str, str, int], list[Measured]] = {}
    with ExitStack() as stack:
        ours = replica(folder, "all", model, "127.0.0.1", 0, roles="all", limits=_ENOUGH).wait_ready()
        stack.callback(ours.stop)
        asked = calls(ours.address, str(data), str(model))
        sizes = reply_sizes(ours.address, asked)
        floor = Serving(folder, "floor", "bench.load.floor", json.dumps(sizes)).wait_ready()
        stack.callback(floor.stop)
        for turn in range(size.turns):
            for call in asked:
                for clients in CLIENTS:
                    for who, server in (("burnish", ours), ("floor", floor)):
                        one = _measure(server, call, clients, size.seconds)
                        found.setdefault((call.name, who, clients), []).append(one)
                        say(f"turn {turn}: {call.name}, {clients} clients, {who}: {one.rate:,.0f} calls per second")
    results, ratios = [], {}
    for (name, who, clients), all_turns in found.items():
        case = f"{name} x{clients}"
        results.append(result(case, who, "calls", "per second", [one.rate for one in all_turns]))
        for share in (0.5, 0.99):
            times = [one.quantile(share) * 1e3 for one in all_turns]
            results.append(result(case, who, f"p{share * 100:g}", "ms", times))
        if who == "floor":
            ours_too = [one.rate for one in found[name, "burnish", clients]]
            ratios[f"{case}: of the floor"] = ratio(ours_too, [one.rate for one in all_turns])
    return results, ratios


# So that 64 clients are served, and not refused: what refusing does is the next section's business.
_ENOUGH = {f"BURNISH_{name}_MAX_CONCURRENT_REQUESTS": 64 for name in ("SCORING", "EMBEDDING", "REWRITING", "TRAINING")}


def _measure(server: Serving, call: Call, clients: int, seconds: float) -> Measured:
    return asyncio.run(closed_loop(server.address, call.method, call.request, clients, seconds))


def replicas(folder: Path, size: Size) -> tuple[list[Result], dict[str, Ratio]]:
    """What two and four of them are to one."""
    found = asyncio.run(scaling.rates(folder, REPLICAS, size.waves, size.turns))
    results = [result(f"{n} replicas", "burnish", "samples", "per second", found[n]) for n in REPLICAS]
    for one in results:
        say(f"{one.dataset}: {one.value:,.1f} samples per second ({one.min:,.1f} to {one.max:,.1f})")
    linear = {n: [rate * n for rate in found[1]] for n in REPLICAS[1:]}
    return results, {f"{n} replicas: of linear": ratio(found[n], linear[n]) for n in REPLICAS[1:]}


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=sorted(SIZES), default="small")
    parser.add_argument("--only", choices=SECTIONS, nargs="*", default=SECTIONS)
    chosen = parser.parse_args()
    size = SIZES[chosen.size]
    results: list[Result] = []
    ratios: dict[str, Ratio] = {}
    notes: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for name, section in (("services", services), ("overload", overload), ("replicas", replicas)):
            if name in chosen.only:
                say(f"-- {name}")
                more, and_ratios = section(folder, size)
                results += more
                ratios |= and_ratios
        if "change" in chosen.only:
            say("-- change")
            notes["change"] = asdict(asyncio.run(scaling.changed(folder, size.waves)))
            say(str(notes["change"]))
    say(table(results, ratios))
    write("load", results, ratios, notes)


if __name__ == "__main__":
    main()
