"""A small grid of runs of one recipe on one ledger: what several of them need is measured, and trained, once.

    out/ledger.duckdb        of all runs
    out/<point>/             one run: config, models, final data, report
    out/sweep-plan.json      the points in order, their folders, and which of them could not be done

A point is named by what it varies, `eta=0.5,tier=fast`. Runs are taken one after the other, so that each finds what
those before it paid for. One that cannot be done holds up no other.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path

from burnish._client import Client
from burnish.coordinator.atomic import write_json
from burnish.coordinator.errors import DataAway, InputError, LedgerBusy, StepFailed
from burnish.coordinator.history import RunHistory, points_of
from burnish.coordinator.ledger import locked
from burnish.coordinator.loop import RunOptions, finished, run_recipe
from burnish.coordinator.paths import LEDGER, RunPaths
from burnish.coordinator.progress import Observer
from burnish.coordinator.recipes.base import RecipeSettings
from burnish.coordinator.session import holds, may_hold

MOST_POINTS = 64
PLAN = "sweep-plan.json"


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
        identity = point.settings.absolute().identity({})
        first = names.setdefault(json.dumps(identity, sort_keys=True), point.name)
        if first != point.name:
            raise InputError(f"The points {first} and {point.name} have the same settings; give each value once.")


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a point could not be done, and when that was found: a Unix time."""

    message: str
    at: float


class PointsFailed(StepFailed):
    """Some points of a sweep could not be done, and all others were. Running again tries these once more."""

    def __init__(self, failures: Mapping[str, Failure], count: int) -> None:
        named: dict[str, list[str]] = {}
        for name, failure in failures.items():
            named.setdefault(failure.message, []).append(name)
        told = "\n".join(f"{', '.join(names)}: {message}" for message, names in named.items())
        super().__init__(
            f"{len(failures)} of {count} points could not be done; the others are, and the same command tries these"
            f" again.\n{told}"
        )


@dataclass(slots=True)
class Sweep:
    """A sweep that this process works on. `folders` are by point, in order; `failures` are by the points' names."""

    out: Path
    points: Sequence[Point]
    folders: Sequence[Path]
    failures: dict[str, Failure] = field(default_factory=dict)

    def is_done(self, options: RunOptions | None) -> bool:
        """Whether no point is left to be done. Raises what `finished` does but for InputError: of a point that cannot
        be looked at it is told when its turn comes."""
        return all(self._is_done(point, folder, options) for point, folder in self._placed())

    def run(self, client: Client, options: RunOptions | None, observer: Observer | None) -> None:
        """Runs all points that are not done yet, and notes those that cannot be. Raises what is not one point's own:
        Interrupted, LedgerError, what a service says, or the object storage that has the data."""
        for point, folder in self._placed():
            try:
                if finished(point.settings, folder, options) is None:
                    ledger = self.out / LEDGER
                    run_recipe(point.settings, client, folder, options=options, observer=observer, ledger=ledger)
            except DataAway:
                raise
            except (InputError, StepFailed) as error:
                self.failures[point.name] = Failure(str(error), time.time())
                self.write()
                if observer is not None:
                    observer.noted(f"{point.name} could not be done, the others go on: {error}")

    def results(self) -> list[PointResult]:
        """What the points made, but for those that could not be done."""
        return [result_of(point, folder) for point, folder in self._placed() if point.name not in self.failures]

    def check(self) -> None:
        """Raises PointsFailed where some could not be done."""
        if self.failures:
            raise PointsFailed(self.failures, len(self.points))

    def write(self) -> None:
        """Writes the plan down, for `sweep_status.py`."""
        points = [
            {
                "point": point.name,
                "folder": str(folder.relative_to(self.out)),
                "failure": None if (failure := self.failures.get(point.name)) is None else asdict(failure),
            }
            for point, folder in self._placed()
        ]
        write_json(self.out / PLAN, {"points": points})

    def _placed(self) -> Iterator[tuple[Point, Path]]:
        return zip(self.points, self.folders, strict=True)

    @staticmethod
    def _is_done(point: Point, folder: Path, options: RunOptions | None) -> bool:
        try:
            return finished(point.settings, folder, options) is not None
        except InputError:
            return False


@contextmanager
def begun(points: Sequence[Point], out: Path) -> Iterator[Sweep]:
    """The sweep of `points` in `out`, which nobody else works on for as long as the block takes, and whose plan is
    there for `sweep_status.py`. Raises LedgerBusy, and what `check_different` does."""
    check_different(points)
    out.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(out / PLAN))
        except LedgerBusy as error:
            who = f"process {error.pid}" if error.pid else "another process"
            raise LedgerBusy(
                f"{out} is being swept by {who}. `burnish status {out}` shows how far it is; wait for it, or stop it"
                f"{f' (kill -INT {error.pid})' if error.pid else ''} and run this again.",
                error.pid,
            ) from error
        there = [folder for folder in points_of(out / LEDGER) if folder.is_relative_to(out)]
        one = Sweep(out, points, [_folder_of(point, out, there) for point in points])
        one.write()
        yield one


def _folder_of(point: Point, out: Path, there: Sequence[Path]) -> Path:
    """Where the run of a point is, of the folders that are `there`, since an earlier sweep may have spelt it otherwise
    (varied less, or in another order); else the folder of its name."""
    own = out / point.name
    like = [folder for folder in there if folder != own and may_hold(point.settings, RunPaths(folder))]
    if not like:
        return own
    try:
        same = [folder for folder in (own, *like) if holds(point.settings, RunPaths(folder))]
    except InputError:  # its turn will tell
        return own
    return max(same, key=_how_much_is_in, default=own)


def _how_much_is_in(folder: Path) -> tuple[bool, bool]:
    """Of two folders that say that they are of one run, only one has its files."""
    paths = RunPaths(folder)
    return paths.final.is_dir(), paths.holdout.parent.is_dir()


def sweep(
    points: Sequence[Point],
    client: Client,
    out: Path,
    *,
    options: RunOptions | None = None,
    observer: Observer | None = None,
) -> list[PointResult]:
    """Runs all points that are not done yet; interrupted, the same call goes on. Raises what `begun` and `Sweep.run`
    do, and PointsFailed once all others are done."""
    with begun(points, out) as one:
        one.run(client, options, observer)
        one.check()
        return one.results()


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
