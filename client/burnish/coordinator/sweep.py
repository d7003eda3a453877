"""A small grid of runs of one recipe on one ledger: what several of them need is measured, and trained, once.

    out/ledger.duckdb        of all runs
    out/<point>/             one run: config, models, final data, report

A point is named by what it varies, `eta=0.5,tier=fast`. Runs are taken one after the other, so that each finds what
those before it paid for.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from burnish._client import Client
from burnish.coordinator.errors import InputError
from burnish.coordinator.history import RunHistory
from burnish.coordinator.loop import RunOptions, finished, run_recipe
from burnish.coordinator.paths import LEDGER
from burnish.coordinator.progress import Observer
from burnish.coordinator.recipes.base import RecipeSettings

MOST_POINTS = 64


@dataclass(frozen=True, slots=True)
class Point:
    """One run of a sweep: what it varies, in words, and its settings."""

    varied: Mapping[str, str]
    settings: RecipeSettings

    @property
    def name(self) -> str:
        """Also its folder's name."""
        return ",".join(f"{name}={value}" for name, value in self.varied.items())


@dataclass(frozen=True, slots=True)
class PointResult:
    """What one run of a sweep made. `seconds` is its work time, what it took over from others not counted; `losses` are
    held-out ones, nats per response token: with the base model and with the last one."""

    point: Point
    out: Path
    rows_in: int
    rows_out: int
    actions: Mapping[str, int]
    losses: tuple[float | None, float | None]
    items: int
    reused: int
    seconds: float


def grid(varied: Mapping[str, Sequence[str]]) -> Iterator[dict[str, str]]:
    """All combinations, the last name varying fastest. Raises InputError for more than MOST_POINTS, or none."""
    count = math.prod(len(values) for values in varied.values())
    if not varied or not count:
        raise InputError("A sweep needs something to vary, with a value at least: --vary eta=0.5,0.8.")
    if count > MOST_POINTS:
        raise InputError(f"The grid has {count} points; at most {MOST_POINTS} are run. Vary less at a time.")
    for values in product(*varied.values()):
        yield dict(zip(varied, values, strict=True))


def check_different(points: Sequence[Point]) -> None:
    """Raises InputError where two points have the same settings, written in two ways: they would be one run in two
    folders."""
    names: dict[str, str] = {}
    for point in points:
        first = names.setdefault(json.dumps(point.settings.identity({}), sort_keys=True), point.name)
        if first != point.name:
            raise InputError(f"The points {first} and {point.name} have the same settings; give each value once.")


def sweep(
    points: Sequence[Point],
    client: Client,
    out: Path,
    *,
    options: RunOptions | None = None,
    observer: Observer | None = None,
) -> list[PointResult]:
    """Runs all points that are not done yet; interrupted, the same call goes on. Raises what `run_recipe` and
    `check_different` do."""
    check_different(points)
    results = []
    for point in points:
        folder = out / point.name
        if finished(point.settings, folder, options) is None:
            run_recipe(point.settings, client, folder, options=options, observer=observer, ledger=out / LEDGER)
        results.append(result_of(point, folder))
    return results


def result_of(point: Point, folder: Path) -> PointResult:
    """What the finished run of a point made."""
    with RunHistory.open(folder) as history:
        datasets, steps = history.datasets(), history.steps()
        models = {(m.role, m.round): m.eval_loss for m in history.models()}
        counts: dict[str, int] = {}
        for dataset in datasets:
            for decision in history.decisions(dataset.round):
                for action in decision.actions:
                    counts[action] = counts.get(action, 0) + 1
        return PointResult(
            point=point,
            out=folder,
            rows_in=datasets[0].num_rows,
            rows_out=datasets[-1].num_rows,
            actions=counts,
            losses=(models.get(("base", 0)), models.get(("trained", datasets[-1].round))),
            items=sum(step.total for step in steps),
            reused=sum(step.reused for step in steps),
            seconds=sum(step.seconds for step in steps),
        )
