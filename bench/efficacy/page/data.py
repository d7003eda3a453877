"""The results of the bench as the page tells them: seeds taken together, arms beside what they are compared with. Pure.

A results file has cells, one for each task, share of noise and seed, and the gaps of all seeds. What is not in it is
left out here: an arm that no cell has, a score that was not measured.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import methodcaller
from typing import Any

from bench.efficacy.arms import ARMS, NOISY, ORACLE, control_of
from bench.efficacy.gap import Interval
from bench.efficacy.measures import Spread, spread
from bench.efficacy.tasks import TASKS

RECIPES = ("recipe", "combination")  # kinds of arms that this project is judged by
ORDER = ("nothing", "oracle", "baseline", "recipe", "combination", "control")
Record = Mapping[str, Any]
BySeed = Mapping[str, Mapping[int, float]]  # a figure, by arm and seed


@dataclass(frozen=True)
class Signal:
    """How well an arm's value tells right rows from wrong ones, and what it dropped, means over seeds. `auroc` and
    `by_kind` (of each kind of flaw alone): 0.5 is chance."""

    auroc: float | None
    precision: float | None
    recall: float | None
    by_kind: Mapping[str, float]
    seeds: int = 1


@dataclass(frozen=True)
class Arm:
    """One arm on one task at one share of noise. `told_share`: whether it is told what share of the rows to keep.
    Losses are nats per response token. `above`: its loss less that of all rows, seed by seed, and `score_above` the
    same of scores; `over_chance`: less that of its random control; `chance`: the control's loss less that of all rows,
    by seed, and `gaps_of_chance` as shares of what noise costs in these seeds. `gap` is of losses;
    `seconds_per_point`: for each hundredth of it won back."""

    name: str
    kind: str
    told_share: bool
    rows: float
    loss: Spread
    score: Spread | None
    seconds: float
    above: Spread | None
    score_above: Spread | None
    over_chance: Spread | None
    chance: tuple[float, ...]
    gap: Interval | None
    gaps_of_chance: tuple[float, ...]
    seconds_per_point: float | None
    signal: Signal | None


@dataclass(frozen=True)
class Panel:
    """One task at one share of noise. `base`: the loss of the base model, before any training, as `base_score` is its
    score. `lost`: the loss of all rows less that of the right rows only. `tokens`: of a held-out response, the mean.
    `measures`: signals by themselves, whether an arm went by them or not; as many rows are taken for wrong as are."""

    task: str
    title: str
    noise: float
    rows: int
    wrong: float
    seeds: tuple[int, ...]
    score_name: str
    arms: Mapping[str, Arm]
    base: Spread | None
    base_score: Spread | None
    lost: Spread | None
    tokens: float | None
    measures: Mapping[str, Signal] = field(default_factory=dict)
    losses: BySeed = field(default_factory=dict)
    scores: BySeed = field(default_factory=dict)

    @property
    def bound(self) -> float | None:
        """What wrong rows cost at most, in nats per response token, where a model learns the rows as they are and
        none by heart: of n, w of them wrong, it gives a right response at least (n - w) / n of the probability that the
        right ones alone would teach, and loses at most -ln of that, over the tokens of a response."""
        right = 1 - self.wrong / self.rows
        return None if self.tokens is None or right <= 0 else -math.log(right) / self.tokens

    @property
    def shown(self) -> list[Arm]:
        """The arms that are compared with nothing, oracle and chance."""
        return [arm for arm in self.arms.values() if arm.kind not in ("nothing", "oracle", "control")]

    @property
    def has_gaps(self) -> bool:
        """Whether noise cost enough for shares of it to be told."""
        return ORACLE in self.arms and self.arms[ORACLE].gap is not None

    @property
    def leading(self) -> Arm | None:
        """The best recipe of those that can be run without knowing how many rows are wrong; where none of these was
        measured, of all."""
        return self.best(told_share=False) or self.best()

    def apart(self, arm: str, peer: str) -> Spread | None:
        """One arm's loss less another's, of the seeds that have both."""
        return _apart(self.losses, arm, peer)

    def score_beside(self, peer: str, arm: str) -> float | None:
        """The mean score of `peer` on the seeds that `arm` has too; None where there is none."""
        told = [score for seed, score in self.scores.get(peer, {}).items() if seed in self.scores.get(arm, {})]
        return statistics.fmean(told) if told else None

    def best(self, kinds: Sequence[str] = RECIPES, *, told_share: bool | None = None) -> Arm | None:
        """The arm of these kinds that is most below all rows, seed by seed; of those that most seeds have, since means
        over other seeds cannot be compared. `told_share`: only of those that are told a share, or are not."""
        there = [arm for arm in self.shown if arm.kind in kinds and arm.above is not None]
        there = [arm for arm in there if told_share in (None, arm.told_share)]
        most = max((len(arm.loss.values) for arm in there), default=0)
        told = [(arm.above.mean, arm) for arm in there if arm.above is not None and len(arm.loss.values) == most]
        return min(told, key=lambda one: one[0], default=(0.0, None))[1]


@dataclass(frozen=True)
class Efficacy:
    """All of a results file. `noise`: what the first screen is about."""

    panels: Sequence[Panel]
    noise: float
    machine: Record
    options: Record
    commands: Sequence[str]
    problems: Sequence[str] = field(default_factory=tuple)

    @property
    def main(self) -> list[Panel]:
        """Each task at that noise, where it was measured."""
        return [panel for panel in self.panels if panel.noise == self.noise]

    def has(self, arm: str) -> bool:
        """Whether it was measured anywhere."""
        return any(arm in panel.arms for panel in self.panels)

    def of_task(self, task: str) -> list[Panel]:
        """By rising noise."""
        return sorted((panel for panel in self.panels if panel.task == task), key=lambda panel: panel.noise)


def read(document: Record) -> Efficacy:
    """A results file's content. Raises ValueError where it has no cell."""
    cells: dict[tuple[str, float], list[Record]] = {}
    for cell in document.get("cells", ()):
        cells.setdefault((cell["task"], float(cell["noise"])), []).append(cell)
    if not cells:
        raise ValueError("the results have no cells; expected a file that `python -m bench.efficacy` wrote")
    order = list(dict.fromkeys([*TASKS, *(task for task, _ in cells)]))
    gaps = document.get("gap") or {}
    panels = [
        _panel(task, noise, found, (gaps.get(task) or {}).get(f"{noise:g}") or {})
        for (task, noise), found in sorted(cells.items(), key=lambda item: (order.index(item[0][0]), item[0][1]))
    ]
    return Efficacy(
        panels,
        _told_first([panel.noise for panel in panels]),
        document.get("machine") or {},
        document.get("options") or {},
        _commands(document),
        (
            *(document.get("problems") or ()),
            *(f"{arm}, which this build cannot do" for arm in document.get("left_out") or ()),
        ),
    )


def _commands(document: Record) -> list[str]:
    """As they are told, one a line; else as far as the size tells it."""
    size = (document.get("options") or {}).get("size")
    told = str(document.get("command") or f"make bench-efficacy{f' SIZE={size}' if size else ''}")
    return told.splitlines()


def _told_first(noises: Sequence[float]) -> float:
    """The share of noise that most tasks have, of those above 0; of several the one nearest to 0.3."""
    return max(noises, key=lambda noise: (noise > 0, noises.count(noise), -abs(noise - 0.3)))


def _panel(task: str, noise: float, cells: Sequence[Record], gaps: Record) -> Panel:
    ordered = sorted(cells, key=lambda cell: int(cell["seed"]))
    names = dict.fromkeys(name for cell in ordered for name in cell["arms"])
    losses, scores = (_by_seed(ordered, names, what) for what in ("loss", "score"))
    kinds = {name: next(cell["arms"][name]["kind"] for cell in ordered if name in cell["arms"]) for name in names}
    arms = {
        name: _arm(name, ordered, gaps, losses, scores)
        for name in sorted(names, key=lambda name: ORDER.index(kinds[name]))
    }
    return Panel(
        task=task,
        title=TASKS[task].title if task in TASKS else task,
        noise=noise,
        rows=int(ordered[0]["rows"]),
        wrong=statistics.fmean(cell["wrong"] for cell in ordered),
        seeds=tuple(int(cell["seed"]) for cell in ordered),
        score_name=str(ordered[0].get("score_name") or "score"),
        arms=arms,
        base=spread(float(cell["base_loss"]) for cell in ordered if cell.get("base_loss") is not None),
        base_score=spread(float(cell["base_score"]) for cell in ordered if cell.get("base_score") is not None),
        lost=_apart(losses, NOISY, ORACLE),
        tokens=_mean(
            ordered, lambda cell: statistics.fmean(cell["held_out_tokens"]) if cell.get("held_out_tokens") else None
        ),
        measures=_measures(ordered),
        losses=losses,
        scores=scores,
    )


def _by_seed(cells: Sequence[Record], names: Iterable[str], what: str) -> dict[str, dict[int, float]]:
    """By arm and seed, a figure of those that have it."""
    found: dict[str, dict[int, float]] = {name: {} for name in names}
    for cell in cells:
        for name, arm in cell["arms"].items():
            if arm.get(what) is not None:
                found[name][int(cell["seed"])] = float(arm[what])
    return found


def _measures(cells: Sequence[Record]) -> dict[str, Signal]:
    """By signal, over the seeds that have it."""
    names = sorted({name for cell in cells for name in cell.get("measures") or {}})
    found = {name: [cell["measures"][name] for cell in cells if name in (cell.get("measures") or {})] for name in names}
    told = {name: _signal(records) for name, records in found.items()}
    return {name: signal for name, signal in told.items() if signal is not None}


def _arm(name: str, cells: Sequence[Record], gaps: Record, losses: BySeed, scores: BySeed) -> Arm:
    found = [cell["arms"][name] for cell in cells if name in cell["arms"]]
    loss = spread(losses[name].values())
    assert loss is not None
    control, told = control_of(name), gaps.get(name) or {}
    chance = _apart(losses, control, NOISY)
    lost = _apart(losses, NOISY, ORACLE, losses.get(control, {}))
    gap = _interval(told.get("loss"))
    return Arm(
        name=name,
        kind=str(found[0]["kind"]),
        told_share=name in ARMS and ARMS[name].told_share,
        rows=statistics.fmean(one["rows"] for one in found),
        loss=loss,
        score=spread(scores[name].values()),
        seconds=statistics.fmean(one["seconds"] for one in found),
        above=_apart(losses, name, NOISY),
        score_above=_apart(scores, name, NOISY),
        over_chance=_apart(losses, name, control),
        chance=chance.values if chance else (),
        gap=gap,
        gaps_of_chance=tuple(-one / lost.mean for one in chance.values)
        if gap and chance and lost and lost.mean > 0
        else (),
        seconds_per_point=told.get("seconds_per_point"),
        signal=_signal([cell["signals"][name] for cell in cells if name in (cell.get("signals") or {})]),
    )


def _apart(figures: BySeed, arm: str, peer: str, of: Mapping[int, float] | None = None) -> Spread | None:
    """One arm's figure less another's, of the seeds that both have, and that are in `of`."""
    one, other = figures.get(arm, {}), figures.get(peer, {})
    return spread(one[seed] - other[seed] for seed in one if seed in other and (of is None or seed in of))


def _interval(told: Record | None) -> Interval | None:
    return Interval(**{key: told[key] for key in ("mean", "low", "high")}) if told else None


def _signal(found: Sequence[Record]) -> Signal | None:
    if not found:
        return None
    by_kind = [one.get("auroc_by_kind") or {} for one in found]
    return Signal(
        _mean(found, lambda one: one.get("auroc")),
        _mean(found, lambda one: one.get("precision")),
        _mean(found, lambda one: one.get("recall")),
        {
            kind: value
            for kind in dict.fromkeys(kind for one in by_kind for kind in one)
            if (value := _mean(by_kind, methodcaller("get", kind))) is not None
        },
        len(found),
    )


def _mean(records: Sequence[Record], of: Callable[[Record], float | None]) -> float | None:
    values = [value for one in records if (value := of(one)) is not None]
    return statistics.fmean(values) if values else None
