"""What a run of a ledger cost, and would have cost alone: what it took over from other runs counts as well, so that the
order in which arms are taken makes none of them cheap. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from burnish.coordinator.records import ModelRecord, StepRecord

# What an arm needs no more than the others: held-out losses, and pictures for the report.
_NOT_COUNTED = ("evaluate", "project")


def seconds_of(model: ModelRecord) -> float:
    """What training a model took, by whichever run of the ledger; 0 where the training service did not say."""
    return float(str(model.detail.get("seconds") or 0.0))


def rates(steps: Iterable[StepRecord]) -> dict[str, float]:
    """By name of a step, the seconds that an item took where it was not taken over, over all runs of a ledger."""
    seconds: dict[str, float] = {}
    items: dict[str, int] = {}
    for step in steps:
        new = step.done - step.reused
        if new > 0:
            seconds[step.name] = seconds.get(step.name, 0.0) + step.seconds
            items[step.name] = items.get(step.name, 0) + new
    return {name: seconds[name] / items[name] for name in items}


def cost(steps: Sequence[StepRecord], models: Sequence[ModelRecord], per_item: Mapping[str, float]) -> float:
    """Seconds of a run's steps, with those of models and of findings that other runs paid for. `per_item`: as `rates`
    has it; what took another step's name in the run that paid for it cannot be told."""
    own = sum(step.seconds for step in steps if step.name not in _NOT_COUNTED)
    reused = sum(step.reused * per_item.get(step.name, 0.0) for step in steps if step.name not in _NOT_COUNTED)
    return own + reused + _unpaid(steps, models)


def _unpaid(steps: Iterable[StepRecord], models: Iterable[ModelRecord]) -> float:
    """Of what trainings took, what the run's own steps did not: all of it where another run's model was taken over,
    and some where a kill came between. Rounds of one model share its training."""
    waited = {step.round: step.seconds for step in steps if step.name == "train"}
    unpaid: dict[str, float] = {}
    for one in models:
        if one.training_run is not None:
            left = unpaid.setdefault(one.training_run, seconds_of(one))
            unpaid[one.training_run] = left - waited.get(one.round, 0.0)
    return sum(max(0.0, left) for left in unpaid.values())
