"""What a server process holds, sampled while it works, and whether that grows."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import psutil
from prometheus_client.parser import text_string_to_metric_families
from scipy.stats import theilslopes


@dataclass(frozen=True)
class Sample:
    """One look. `seconds` since the first; memory and disk in MiB; requests in progress, as the server's metrics have
    them."""

    seconds: float
    memory: float
    handles: int
    threads: int
    connections: int
    children: int
    disk: float
    requests: float


@dataclass(frozen=True)
class Trend:
    """A quantity after the warm-up: its least, median and most, what it grows by from begin to end by a robust line,
    and the most that may be."""

    quantity: str
    least: float
    median: float
    most: float
    growth: float
    allowed: float | None

    @property
    def flat(self) -> bool:
        """True where it grows by no more than it may."""
        return self.allowed is None or self.growth <= self.allowed


# What each may grow by, as a share of its median and as a number, whichever is more; None: told, not judged. Memory has
# room for what libraries keep (docs/performance.md): gRPC of clients that leave, LanceDB of tables. Every collection
# and run that is there is on disk, and runs stay; connections and children are who is there at that moment.
ALLOWED: dict[str, tuple[float, float] | None] = {
    "memory": (0.05, 16.0),
    "handles": (0.05, 6.0),
    "threads": (0.0, 4.0),
    "connections": None,
    "children": None,
    "disk": None,
    "requests": None,
}


def look(process: psutil.Process, state: Path, metrics: str, begin: float) -> Sample:
    """The process as it is now."""
    requests = held(metrics)["burnish_concurrent_requests"]
    with process.oneshot():
        return Sample(
            seconds=time.monotonic() - begin,
            memory=process.memory_info().rss / 2**20,
            handles=process.num_fds(),
            threads=process.num_threads(),
            connections=len(process.net_connections("tcp")),
            children=len(process.children(recursive=True)),
            disk=_size(state) / 2**20,
            requests=requests,
        )


def held(metrics: str) -> dict[str, float]:
    """What calls hold of the limits of all services together, by the names of the metrics; all 0 where there are none.
    Blocking."""
    with urllib.request.urlopen(f"http://{metrics}/metrics", timeout=10) as reply:
        families = {one.name: one for one in text_string_to_metric_families(reply.read().decode())}
    return {name: sum(sample.value for sample in families[name].samples) for name in HELD}


HELD = ("burnish_concurrent_requests", "burnish_tokens_in_flight", "burnish_model_waiting_requests")


async def watch(pid: int, state: Path, metrics: str, interval: float, ended: asyncio.Event) -> list[Sample]:
    """Samples every `interval` seconds until `ended`."""
    process, begin = psutil.Process(pid), time.monotonic()
    seen = []
    while not ended.is_set():
        seen.append(await asyncio.to_thread(look, process, state, metrics, begin))
        try:
            await asyncio.wait_for(ended.wait(), interval)
        except TimeoutError:
            continue
    return seen


def trends(samples: Sequence[Sample], warm: float) -> list[Trend]:
    """What became of each quantity after the first `warm` seconds. Needs two samples after them."""
    kept = [one for one in samples if one.seconds >= warm]
    return [_trend(one.name, kept) for one in fields(Sample) if one.name != "seconds"]


def _trend(quantity: str, kept: Sequence[Sample]) -> Trend:
    values = [float(getattr(one, quantity)) for one in kept]
    times = [one.seconds for one in kept]
    median = sorted(values)[len(values) // 2]
    slope = float(theilslopes(values, times).slope)
    allowed = ALLOWED[quantity]
    most = None if allowed is None else max(allowed[0] * median, allowed[1])
    return Trend(quantity, min(values), median, max(values), slope * (times[-1] - times[0]), most)


def told(found: Sequence[Trend]) -> str:
    """A table for people."""
    lines = [f"{'':<12} {'least':>9} {'median':>9} {'most':>9} {'grew by':>9} {'allowed':>9}"]
    for one in found:
        allowed = "" if one.allowed is None else f"{one.allowed:9.1f}"
        verdict = "" if one.flat else "  GROWS"
        numbers = f"{one.least:9.1f} {one.median:9.1f} {one.most:9.1f} {one.growth:9.1f}"
        lines.append(f"{one.quantity:<12} {numbers} {allowed}{verdict}")
    return "\n".join(lines)


def _size(folder: Path) -> int:
    total = 0
    for inside, _, names in os.walk(folder):  # which, unlike rglob, passes over folders that are gone meanwhile
        for name in names:
            with contextlib.suppress(OSError):
                total += Path(inside, name).stat().st_size
    return total
