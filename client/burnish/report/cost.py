"""What a run's steps cost, by what they do. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from burnish.coordinator.arms import only_compared
from burnish.coordinator.records import StepRecord
from burnish.report.short_data import Cost

WORK: Mapping[str, Sequence[str]] = {
    "training": ("train",),
    "scoring": ("evaluate", "judge", "judge_rewrites", "confidence", "compare", "probe"),
    "rewriting": ("refine", "propose", "respond"),
    "embedding": ("embed", "calibrate", "features", "select", "hold", "project"),
}
OTHER = "reading and deciding"
_OF_STEP = {step: work for work, steps in WORK.items() for step in steps}


def cost_of(steps: Sequence[StepRecord], recipe: str, config: Mapping[str, object]) -> Cost:
    """Of all steps so far."""
    by_work: dict[str, float] = {}
    comparing = 0.0
    for step in steps:
        work = work_of(step.name)
        by_work[work] = by_work.get(work, 0.0) + step.seconds
        if step.name in ("train", "evaluate") and only_compared(recipe, config, step.round):
            comparing += step.seconds
    return Cost(sum(by_work.values()), dict(sorted(by_work.items(), key=lambda one: -one[1])), comparing)


def work_of(step: str) -> str:
    """What a step does, in a word."""
    return "scoring" if step.startswith("score_") else _OF_STEP.get(step, OTHER)
