"""Four times as much as a server can take: what it still answers, how much memory that costs, and who gets nothing.

Twice: with an engine that takes a fixed time for a call, as a device does, so that the places are what there is too
little of; and with one that takes none, so that it is the server's own core.
"""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

from bench.load.requests import BATCH, samples
from bench.load.servers import replica
from bench.load.traffic import Measured, closed_loop, open_loop
from bench.peers import peak_mib
from bench.results import Ratio, Result, ratio, result
from burnish.api.scoring.v1 import scoring_pb2
from burnish_services.engine.fake import write_fake_model

METHOD = "/burnish.api.scoring.v1.ScoringService/ScoreSamples"
PLACES = 16  # BURNISH_SCORING_MAX_CONCURRENT_REQUESTS
CLIENTS = 4 * PLACES
DEADLINE = 2.0  # seconds; the server is told to drop what has waited for one
FACTOR = 4
ENGINES = {"device-bound": 0.1, "core-bound": 0.0}  # seconds of an engine call


class HowMuch(Protocol):
    """See `__main__.Size`."""

    turns: int
    seconds: float


def overload(folder: Path, size: HowMuch) -> tuple[list[Result], dict[str, Ratio]]:
    """The peak by closed loops that fill the places once and twice, then four times its rate by an open one, and four
    clients for each place by a closed one, turn by turn."""
    results: list[Result] = []
    ratios: dict[str, Ratio] = {}
    request = scoring_pb2.ScoreSamplesRequest(samples=samples()).SerializeToString()
    for case, latency in ENGINES.items():
        model = write_fake_model(folder / f"{case}-model", latency_seconds=latency)
        peak, opened, closed = [], [], []
        with ExitStack() as stack:
            server = replica(folder, case, model, "127.0.0.1", 0, limits={"BURNISH_SERVER_MAX_PENDING": 1})
            stack.callback(server.stop)
            address = server.wait_ready().address
            peak_mib(server.pid)
            at_rest = 0.0
            for turn in range(-1, size.turns):
                tried = [asyncio.run(closed_loop(address, METHOD, request, n * PLACES, size.seconds)) for n in (1, 2)]
                found = max(tried, key=lambda one: one.rate)
                at_rest = at_rest or peak_mib(server.pid)
                flood = asyncio.run(
                    open_loop(address, METHOD, request, CLIENTS, FACTOR * found.rate, 2 * size.seconds, DEADLINE)
                )
                crowd = asyncio.run(closed_loop(address, METHOD, request, CLIENTS, 2 * size.seconds))
                if turn >= 0:
                    for kept, one in ((peak, found), (opened, flood), (closed, crowd)):
                        kept.append(one)
            grown = peak_mib(server.pid) - at_rest
        for name, turns in (("peak", peak), (f"open x{FACTOR}", opened), (f"closed x{FACTOR}", closed)):
            results += _told(f"{case} {name}", turns)
        results.append(result(case, "burnish", "memory above", "MiB", [grown]))
        best = [one.rate for one in peak]
        ratios[f"{case}: open, of the peak"] = ratio([one.rate for one in opened], best)
        ratios[f"{case}: closed, of the peak"] = ratio([one.rate for one in closed], best)
    return results, ratios


def _told(case: str, turns: list[Measured]) -> list[Result]:
    fair = [min(one.by_client) / max(1, max(one.by_client)) for one in turns]
    return [
        result(case, "burnish", "goodput", "calls per second", [one.rate for one in turns]),
        result(case, "burnish", "samples", "per second", [one.rate * BATCH for one in turns]),
        result(case, "burnish", "p50", "ms", [one.quantile(0.5) * 1e3 for one in turns]),
        result(case, "burnish", "p99", "ms", [one.quantile(0.99) * 1e3 for one in turns]),
        result(case, "burnish", "refused", "calls per second", [one.refused / one.seconds for one in turns]),
        result(case, "burnish", "late", "calls per second", [one.late / one.seconds for one in turns]),
        result(case, "burnish", "least to most served client", "", fair),
    ]
