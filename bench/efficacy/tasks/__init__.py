"""The tasks of this bench: where their rows come from, and what can be wrong with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.efficacy.tasks import extractive_qa, instructions, maths, procedural

_SHARED = Path("../shared/data")


@dataclass(frozen=True)
class Task:
    """`data`: the file that rows are read from; None where they are made here. `kinds`: of all rows, what makes wrong
    answers."""

    title: str
    data: Path | None
    read: Callable[[Path], Sequence[Any]]
    kinds: Callable[[Sequence[Any]], Mapping[str, Any]]


TASKS: Mapping[str, Task] = {
    "extractive_qa": Task("extractive QA", _SHARED / "t0_50k.parquet", extractive_qa.read, extractive_qa.kinds),
    "maths": Task("grade-school maths", _SHARED / "gsm8k_train.jsonl", maths.read, maths.kinds),
    "instructions": Task("open instructions", _SHARED / "alpaca_5pct.json", instructions.read, instructions.kinds),
    "procedural": Task("procedures", None, procedural.read, procedural.kinds),
}
