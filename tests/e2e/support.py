"""What tests of whole runs share: data to run on, settings for it, and what a run left."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from burnish import Client
from burnish.coordinator.history import RunHistory
from burnish.coordinator.loop import RunSummary, run_recipe
from burnish.coordinator.progress import Observer, StepProgress
from burnish.coordinator.recipes.middo.settings import MiddoSettings

TOPICS = ("tea", "rivers", "chess", "bread", "stars", "maps", "clocks", "frogs")


def alpaca(count: int, *, duplicates: int = 0) -> list[dict[str, Any]]:
    """Rows with an id, an input in every third, and a column that Burnish does not know; then copies of the first."""
    rows: list[dict[str, Any]] = [
        {
            "id": f"s{i}",
            "instruction": f"Tell me about {TOPICS[i % 8]} number {i}.",
            "input": f"Use {i % 5 + 1} sentences." if i % 3 == 0 else "",
            "output": " ".join(f"{TOPICS[(i * j) % 8]}{j}" for j in range(1, i % 13 + 4)),
            "task": f"t{i % 4}",
        }
        for i in range(count)
    ]
    return rows + [{**rows[i], "id": f"copy{i}"} for i in range(duplicates)]


ROWS = alpaca(40, duplicates=3)  # what most runs here are of


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def settings(data: Path, **more: Any) -> MiddoSettings:
    return MiddoSettings(**({"data": str(data), "model": "base", "rounds": 1, "seed": 7} | more))


def digest_of_final(out: Path) -> str:
    """One digest over the names and bytes of the final data set's files."""
    files = sorted((out / "final").iterdir())
    return hashlib.sha256(b"".join(f.name.encode() + b"\0" + f.read_bytes() for f in files)).hexdigest()


class Watcher(Observer):
    """Remembers what a run told, and may act on it."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.steps: list[StepProgress] = []
        self.advanced: list[StepProgress] = []
        self.resumed: bool | None = None

    def run_started(self, run_id: str, out_dir: Path, resumed: bool) -> None:
        self.resumed = resumed

    def step_advanced(self, step: StepProgress) -> None:
        self.advanced.append(step)

    def step_finished(self, step: StepProgress) -> None:
        self.steps.append(step)

    def noted(self, text: str) -> None:
        self.notes.append(text)

    def step(self, round_number: int, name: str) -> StepProgress:
        (found,) = [s for s in self.steps if (s.round, s.name) == (round_number, name)]
        return found


def run(client: Client, out: Path, data: Path, **more: Any) -> RunSummary:
    return run_recipe(settings(data, **more), client, out)


@contextmanager
def history(out: Path) -> Iterator[RunHistory]:
    with RunHistory.open(out) as opened:
        yield opened
