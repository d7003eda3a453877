"""What all cells together say: as JSON for the page, as results like those of all benches, and as a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from bench.efficacy.arms import NOISY, ORACLE, control_of
from bench.efficacy.gap import HeldOut, as_told, difference, recovered
from bench.efficacy.measures import spread
from bench.efficacy.reading import Found, Measured
from bench.efficacy.scores import SCORES
from bench.efficacy.tasks import TASKS
from bench.results import Result, result

LOSS, SCORE = "loss", "score"
_WHAT: Mapping[str, Callable[[Measured], HeldOut | None]] = {
    LOSS: lambda one: one.losses,
    SCORE: lambda one: one.scores,
}


@dataclass(frozen=True)
class Report:
    """`cells` and `gap` are JSON, `results` as all benches have them."""

    cells: list[dict[str, Any]]
    gap: dict[str, dict[str, dict[str, Any]]]
    results: list[Result]


def tell(found: Sequence[Found]) -> Report:
    """Of cells that have at least one arm each."""
    grid: dict[tuple[str, float], list[Found]] = {}
    for one in found:
        grid.setdefault((one.cell.task, one.cell.noise), []).append(one)
    gap: dict[str, dict[str, dict[str, Any]]] = {}
    results = []
    for (task, noise), seeds in grid.items():
        names = list(dict.fromkeys(name for one in seeds for name in one.arms))
        gap.setdefault(task, {})[f"{noise:g}"] = {name: _won_back(name, seeds) for name in names}
        for name in names:
            results += _results(f"{TASKS[task].title}, {noise:.0%} wrong", name, seeds)
    return Report([_cell(one) for one in found], gap, results)


def _cell(found: Found) -> dict[str, Any]:
    cell, score = found.cell, SCORES.get(found.cell.task)
    return {
        "task": cell.task,
        "noise": cell.noise,
        "seed": cell.seed,
        "rows": found.rows,
        "wrong": found.wrong,
        "base_loss": found.base_loss,
        "arms": {
            name: {
                "kind": one.kind.value,
                "loss": one.losses.mean,
                "score": None if one.scores is None else one.scores.mean,
                "rows": one.rows,
                "trained_seconds": one.trained_seconds,
                "seconds": one.seconds,
            }
            for name, one in found.arms.items()
        },
        "score_name": score.name if score else None,
        "signals": {name: asdict(one.detection) for name, one in found.arms.items() if one.detection},
    }


def _won_back(name: str, seeds: Sequence[Found]) -> dict[str, Any]:
    """Of one arm: the gap recovered, and its distances from doing nothing and from chance; each None where it cannot be
    told."""
    told: dict[str, Any] = {}
    for what in (LOSS, SCORE):
        held_out = _held_out([NOISY, ORACLE, name], seeds, what)
        noiseless = all(one.wrong == 0 for one in seeds)
        gap = None if held_out is None or noiseless else recovered(*held_out, higher_is_better=what == SCORE)
        told[what] = as_told(gap)
        for key, peer in (("above_nothing", NOISY), ("above_control", control_of(name))):
            pair = _held_out([name, peer], seeds, what)
            told.setdefault(key, {})[what] = as_told(difference(*pair)) if pair else None
    recovered_share = told[LOSS]["mean"] if told[LOSS] else 0.0
    seconds = [one.arms[name].seconds for one in seeds if name in one.arms]
    told["seconds_per_point"] = fmean(seconds) / (100 * recovered_share) if recovered_share > 0 else None
    return told


def _held_out(names: Sequence[str], seeds: Sequence[Found], what: str) -> list[list[HeldOut]] | None:
    """By arm and seed, of the seeds that have all of them; None where there is none."""
    rows = []
    for one in seeds:
        of_seed = [_WHAT[what](one.arms[name]) if name in one.arms else None for name in names]
        known = [arm for arm in of_seed if arm is not None]
        if len(known) == len(names):
            rows.append(known)
    return [list(arm) for arm in zip(*rows, strict=True)] if rows else None


def _results(dataset: str, name: str, seeds: Sequence[Found]) -> list[Result]:
    arms = [one.arms[name] for one in seeds if name in one.arms]
    values: dict[str, tuple[str, list[float]]] = {
        "held-out loss": ("nats", [one.losses.mean for one in arms]),
        "score": ("share", [one.scores.mean for one in arms if one.scores]),
        "trained on": ("rows", [float(one.rows) for one in arms]),
        "cost": ("s", [one.seconds for one in arms]),
        "training": ("s", [one.trained_seconds for one in arms]),
    }
    judged = [one.detection for one in arms if one.detection]
    for key in ("auroc", "precision", "recall"):
        known = [value for one in judged if (value := getattr(one, key)) is not None]
        values[key] = ("" if key == "auroc" else "share", known)
    return [result(dataset, name, quantity, unit, all_of) for quantity, (unit, all_of) in values.items() if all_of]


_HEAD = (
    "loss",
    "gap recovered",
    "score",
    "gap recovered",
    "rows",
    "cost, s",
    "s a point",
    "AUROC",
    "precision",
    "recall",
)
_WIDTHS = (16, 21, 6, 21, 6, 8, 9, 6, 9, 6)


def table(report: Report) -> str:
    """For people: means over seeds, with the standard deviation of the loss, and the 95% intervals of gaps."""
    lines = []
    for task, by_noise in report.gap.items():
        for noise, arms in by_noise.items():
            cells = [one for one in report.cells if (one["task"], f"{one['noise']:g}") == (task, noise)]
            score = cells[0]["score_name"] or "none"
            lines += [f"{TASKS[task].title}, noise {noise}, {len(cells)} seeds; score: {score}", _line("", _HEAD)]
            lines += [_line(name, _columns(name, cells, arms[name])) for name in arms]
    return "\n".join(lines)


def _line(name: str, columns: Sequence[str]) -> str:
    found = (f"{text:>{width}}" for text, width in zip(columns, _WIDTHS, strict=True))
    return "  ".join([f"  {name:<42}", *found]).rstrip()


def _columns(name: str, cells: Sequence[Mapping[str, Any]], gap: Mapping[str, Any]) -> list[str]:
    arms = [one["arms"][name] for one in cells if name in one["arms"]]
    signals = [one["signals"][name] for one in cells if name in one["signals"]]
    loss = spread([one["loss"] for one in arms])
    return [
        f"{loss.mean:.4f} ± {loss.deviation:.4f}",
        _share(gap[LOSS]),
        _mean(arms, "score", ".3f"),
        _share(gap[SCORE]),
        _mean(arms, "rows", ".0f"),
        _mean(arms, "seconds", ".1f"),
        _mean([gap], "seconds_per_point", ".2f"),
        *(_mean(signals, key, ".3f") for key in ("auroc", "precision", "recall")),
    ]


def _share(interval: Mapping[str, Any] | None) -> str:
    return f"{interval['mean']:.0%} ({interval['low']:.0%} to {interval['high']:.0%})" if interval else ""


def _mean(many: Sequence[Mapping[str, Any]], key: str, form: str) -> str:
    """Of what is known; empty for nothing."""
    known = [one[key] for one in many if one[key] is not None]
    return format(fmean(known), form) if known else ""
