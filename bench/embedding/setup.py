"""What the parts of the embedding bench have in common: what was asked for, and what was found."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.results import Ratio, Result, result

OURS = "burnish"
MODULE = "bench.embedding.contenders"
CONTEXT = 2048


@dataclass(frozen=True)
class Size:
    """How much of everything."""

    samples: int  # of each data set in a turn
    turns: int
    exact_rows: int
    approximate_rows: int
    selection_rows: tuple[int, ...]
    patience: float  # seconds for a selection
    index_patience: float  # seconds for LanceDB's index


@dataclass(frozen=True)
class Setup:
    """What was asked for."""

    size: Size
    model: Path
    compiled: bool
    data: Sequence[str]
    peers_dir: Path
    indexes: Sequence[str]
    folder: Path  # for the data, removed in the end


@dataclass
class Report:
    """What was found so far."""

    results: list[Result] = field(default_factory=list)
    ratios: dict[str, Ratio] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)  # for which the bench fails in the end

    def add(self, dataset: str, contender: str, quantity: str, unit: str, values: Sequence[float]) -> None:
        """One measured quantity, over the turns."""
        self.results.append(result(dataset, contender, quantity, unit, values))

    def note(self, part: str, dataset: str, **what: object) -> None:
        """Whatever else is to be known of a data set."""
        self.notes.setdefault(part, {}).setdefault(dataset, {}).update(what)


def say(*words: object) -> None:
    """Progress."""
    print(*words, file=sys.stderr, flush=True)
