"""What all cells together say: as results like those of all benches, and as a table. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from bench.efficacy.measures import spread
from bench.efficacy.page.verdicts import mean
from bench.efficacy.record import LOSS, SCORE, Record
from bench.efficacy.tasks import TASKS
from bench.efficacy.won import arms_of, grid_of
from bench.results import Result, result


def results_of(cells: Sequence[Record]) -> list[Result]:
    """Of each arm, over seeds."""
    found = []
    for (task, noise), seeds in grid_of(cells).items():
        for name in arms_of(seeds):
            found += _results(f"{TASKS[task].title}, {noise:.0%} wrong", name, seeds)
    return found


def _results(dataset: str, name: str, seeds: Sequence[Record]) -> list[Result]:
    arms = [cell["arms"][name] for cell in seeds if name in cell["arms"]]
    judged = [cell["signals"][name] for cell in seeds if name in cell["signals"]]
    quantities = (
        ("held-out loss", "nats", arms, "loss"),
        ("score", "share", arms, "score"),
        ("trained on", "rows", arms, "rows"),
        ("cost", "s", arms, "seconds"),
        ("training", "s", arms, "trained_seconds"),
        ("auroc", "", judged, "auroc"),
        ("precision", "share", judged, "precision"),
        ("recall", "share", judged, "recall"),
    )
    known = [
        (quantity, unit, [float(one[key]) for one in records if one[key] is not None])
        for quantity, unit, records, key in quantities
    ]
    return [result(dataset, name, quantity, unit, values) for quantity, unit, values in known if values]


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


def table(cells: Sequence[Record], gap: Mapping[str, Any]) -> str:
    """For people: means over seeds, with the standard error of the loss, and the 95% intervals of gaps."""
    lines = []
    for (task, noise), seeds in grid_of(cells).items():
        arms, score = gap[task][f"{noise:g}"], seeds[0]["score_name"] or "none"
        lines += [f"{TASKS[task].title}, noise {noise:g}, {len(seeds)} seeds; score: {score}", _line("", _HEAD)]
        lines += [_line(name, _columns(name, seeds, arms[name])) for name in arms]
    return "\n".join(lines)


def _line(name: str, columns: Sequence[str]) -> str:
    found = (f"{text:>{width}}" for text, width in zip(columns, _WIDTHS, strict=True))
    return "  ".join([f"  {name:<42}", *found]).rstrip()


def _columns(name: str, cells: Sequence[Mapping[str, Any]], gap: Mapping[str, Any]) -> list[str]:
    arms = [one["arms"][name] for one in cells if name in one["arms"]]
    signals = [one["signals"][name] for one in cells if name in one["signals"]]
    loss = spread(one["loss"] for one in arms)
    return [
        mean(loss, 4),
        _share(gap[LOSS]),
        _mean(arms, "score", ".3f"),
        _share(gap[SCORE]),
        _mean(arms, "rows", ".0f"),
        _mean(arms, "seconds", ".1f"),
        _mean([gap], "seconds_per_point", ".2f"),
        *(_mean(signals, key, ".3f") for key in ("auroc", "precision", "recall")),
    ]


def _share(interval: Mapping[str, Any] | None) -> str:
    if not interval:
        return ""
    low, high = interval["low"], interval["high"]
    return f"{interval['mean']:.0%}" + ("" if low is None or high is None else f" ({low:.0%} to {high:.0%})")


def _mean(many: Sequence[Mapping[str, Any]], key: str, form: str) -> str:
    """Of what is known; empty for nothing."""
    known = [one[key] for one in many if one[key] is not None]
    return format(fmean(known), form) if known else ""
