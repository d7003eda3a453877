"""The command as a process of its own, as a user runs it."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.e2e.support import alpaca, write_jsonl
from tests.waiting import until

_numbers = itertools.count()
# CLEAR's filter alone, in large batches: which samples share one changes nothing but how long it takes.
WHOLE = ("--filter-only", "--items-per-batch", "16")


class Command:
    """`burnish run RECIPE`, at work in `out`; what it says is in `errors`."""

    def __init__(
        self,
        recipe: str,
        address: str,
        model: Path,
        data: Path,
        out: Path,
        *more: str,
        within: str = "",
        code: str = "",
    ) -> None:
        """`within`: the network namespace that it runs in. `code`: what runs the command, instead of the package."""
        words = ["run", recipe, "--data", str(data), "--model", str(model), "--out", str(out), "--endpoint", address]
        words += ["--items-per-batch", "1", "--batches-in-flight", "2", "--seed", "7", *more]
        inside = ["ip", "netns", "exec", within] if within else []
        entry = ["-c", code] if code else ["-m", "burnish"]
        self.out = out
        out.parent.mkdir(parents=True, exist_ok=True)
        self._log = out.with_name(f"{out.name}.{next(_numbers)}.stderr")
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                [*inside, sys.executable, *entry, *words], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    @property
    def errors(self) -> str:
        """All that it has said so far, its lines joined as they are broken for the screen."""
        return " ".join(self._log.read_text().split())

    async def says(self, words: str, seconds: float = 60.0) -> bool:
        """Waits until it has said something; False where it has ended without."""
        await until(lambda: words in self.errors or self.process.poll() is not None, seconds)
        return words in self.errors

    def ended(self, seconds: float = 120.0) -> int:
        """Waits for its end; the exit code."""
        return self.process.wait(timeout=seconds)

    def step(self) -> str:
        """The step that it is in, or empty, as `burnish status` sees it."""
        return str(self._status().get("name", ""))

    def done_in(self, step: str) -> int:
        """How many items of a step are done; 0 while it is in another."""
        status = self._status()
        return int(status["done"]) if status.get("name") == step else 0

    def _status(self) -> dict[str, Any]:
        try:
            return json.loads((self.out / "status.json").read_text()).get("step") or {}
        except (OSError, ValueError):
            return {}

    def kill(self) -> None:
        """Ends it at once, if it has not ended."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def some_data(folder: Path) -> Path:
    """A small data set."""
    return write_jsonl(folder / "data.jsonl", alpaca(10))
