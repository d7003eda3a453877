"""What a score costs besides the model: gRPC, the coordinator and the ledger, with the fake engine behind them.

`sdk`: samples through the client and the service and back. `recorded`: the step of a real run, which also reads every
sample from the ledger and commits every score to it. Both in this process and one server process, on this machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bench.results import result, table, write
from burnish import AsyncClient, Sample
from burnish._endpoints import Endpoints
from burnish.coordinator.formats import load
from burnish.coordinator.recipes.base import RunOptions
from burnish.coordinator.recipes.middo.settings import MiddoSettings
from burnish.coordinator.session import opened
from burnish.coordinator.steps.measure import base_model, score
from burnish.coordinator.steps.read import read
from burnish.local import LocalServices
from burnish_services.engine.fake import write_fake_model

SIZES = {"small": (5_000, 3), "full": (50_000, 5)}  # samples, turns
BATCH = 256


def write_data(path: Path, count: int) -> list[Sample]:
    """Instructions of a sentence with answers of two, all different."""
    with path.open("w", encoding="utf-8") as file:
        for index in range(count):
            row = {
                "id": f"s{index}",
                "instruction": f"Explain in a few words why item {index} of the list is in its place there.",
                "output": f"Item {index} comes after item {index - 1}, which is smaller. The list is sorted.",
            }
            file.write(json.dumps(row) + "\n")
    return list(load([path]).samples)


async def by_sdk(client: AsyncClient, samples: Sequence[Sample], model: Path) -> float:
    """Samples per second through the client, in requests of BATCH."""
    begin = time.perf_counter()
    for start in range(0, len(samples), BATCH * 16):
        batch = await client.scoring.score(samples[start : start + BATCH * 16], model=str(model))
        assert all(one.status.ok for one in batch.scores)
    return len(samples) / (time.perf_counter() - begin)


async def recorded(client: AsyncClient, data: Path, model: Path, out: Path) -> float:
    """Samples per second through a run's scoring step, with what it leaves in the ledger."""
    settings = MiddoSettings(data=str(data), model=str(model))
    async with opened(settings, client, out, RunOptions(batch_size=BATCH, max_in_flight=4), None, None) as run:
        await read(run)
        hashes = list(dict.fromkeys(row.sample_hash for row in run.book.rows(1)))
        base = await base_model(run)
        begin = time.perf_counter()
        losses = await score(run, 1, "score_pre", base, hashes)
        seconds = time.perf_counter() - begin
        assert len(losses) == len(hashes)
        assert all(loss is not None for loss in losses.values())
        return len(hashes) / seconds


async def turns(endpoints: Endpoints, folder: Path, model: Path, count: int, number: int) -> dict[str, list[float]]:
    """Both ways in turn, after one turn that warms up."""
    data = folder / "data.jsonl"
    samples = write_data(data, count)
    rates: dict[str, list[float]] = {"sdk": [], "recorded": []}
    async with AsyncClient(endpoints) as client:
        for turn in range(-1, number):
            sdk = await by_sdk(client, samples, model)
            run = await recorded(client, data, model, folder / f"run{turn}")
            print(f"sdk {sdk:,.0f}, recorded {run:,.0f} samples per second", file=sys.stderr, flush=True)
            if turn >= 0:
                rates["sdk"].append(sdk)
                rates["recorded"].append(run)
    return rates


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=sorted(SIZES), default="small")
    count, number = SIZES[parser.parse_args().size]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        model = write_fake_model(folder / "model")
        with LocalServices(["scoring"], state_dir=folder / "state", model=model, engine="fake") as services:
            rates = asyncio.run(turns(services.endpoints, folder, model, count, number))
    results = [result("made up", name, "samples", "per second", values) for name, values in rates.items()]
    print(table(results, {}), file=sys.stderr)
    write("overhead", results, {}, {"samples": count})


if __name__ == "__main__":
    main()
