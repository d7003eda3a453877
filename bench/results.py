"""What a bench found, how it is told, and where it is written.

Contenders take turns, so that a machine that slows down slows all of them; a ratio is taken within each turn, and its
median and range over the turns are reported, never two numbers of different runs.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from burnish.coordinator.atomic import writing_whole

RESULTS = Path("bench/results")


@dataclass(frozen=True)
class Result:
    """One measured quantity of one contender on one data set: median and range over the turns."""

    dataset: str
    contender: str
    quantity: str
    unit: str
    value: float
    min: float
    max: float


@dataclass(frozen=True)
class Ratio:
    """How many times as fast `ours` is as `peer`, turn by turn."""

    median: float
    min: float
    max: float


def result(dataset: str, contender: str, quantity: str, unit: str, values: Sequence[float]) -> Result:
    """Over the turns' values, at least one."""
    return Result(dataset, contender, quantity, unit, statistics.median(values), min(values), max(values))


def ratio(ours: Sequence[float], peer: Sequence[float]) -> Ratio:
    """Of rates, in the order of the turns."""
    ratios = [a / b for a, b in zip(ours, peer, strict=True)]
    return Ratio(statistics.median(ratios), min(ratios), max(ratios))


def machine() -> dict[str, object]:
    """What the numbers were measured on, and of which commit, "+" for one with changes; without one where this is no
    checkout."""
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.exists() else []
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    flags = next((line for line in lines if line.startswith("flags")), "")
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "amx": "amx_bf16" in flags,
        "commit": _commit(),
        "python": platform.python_version(),
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _commit() -> str | None:
    git = ["git", "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty=+"]
    try:
        said = subprocess.run(git, capture_output=True, text=True, check=False, cwd=Path(__file__).parent)
    except OSError:
        return None
    return said.stdout.strip() or None


def write(
    bench: str, results: Sequence[Result], ratios: Mapping[str, Ratio], notes: Mapping[str, object] | None = None
) -> None:
    """Prints one line of JSON and writes it to `bench/results/<bench>.json`."""
    document = {
        "bench": bench,
        "machine": machine(),
        "results": [asdict(one) for one in results],
        "ratios": {name: asdict(one) for name, one in ratios.items()},
        **(notes or {}),
    }
    line = json.dumps(document)
    with writing_whole(RESULTS / f"{bench}.json") as stream:
        stream.write(f"{line}\n".encode())
    print(line)


def table(results: Sequence[Result], ratios: Mapping[str, Ratio]) -> str:
    """The same for people."""
    lines = [
        f"{r.dataset:<14} {r.contender:<18} {r.quantity:<20} {r.value:>10,.1f} {r.unit}  ({r.min:,.1f} to {r.max:,.1f})"
        for r in results
    ]
    lines += [f"{name}: {r.median:.2f} ({r.min:.2f} to {r.max:.2f})" for name, r in ratios.items()]
    return "\n".join(lines)
