"""Collects the models of a run by what they were trained on, whichever recipe trained them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from burnish.coordinator.arms import ALL_ROWS, ArmKind, ArmPlace, arm_of
from burnish.coordinator.heldout import hashes_in
from burnish.coordinator.history import RunHistory
from burnish.coordinator.records import ModelRecord, RunRecord
from burnish.report.data import Model
from burnish.report.short_data import Arm

_ORDER = (
    *(ArmKind.BASE, ArmKind.RUN, ArmKind.ALL, ArmKind.OTHER, ArmKind.MIXED, ArmKind.TRUSTED, ArmKind.RANDOM),
    ArmKind.ORACLE,
)


def arms_of(history: RunHistory) -> list[Arm]:
    """The arms whose held-out loss was measured: the base model, what the run made, and what it is compared with."""
    run = history.run
    models = [m for m in history.models() if m.eval_loss is not None and m.role in ("base", "trained")]
    hashes = _held_out(history) if models else []
    rounds = {m.round for m in models}
    members: dict[tuple[ArmKind, str], list[ModelRecord]] = {}
    for model in models:
        place = _place(run, rounds, model.round)
        members.setdefault((place.kind, place.name), []).append(model)
    arms = [
        Arm(
            name,
            int(str(found[0].detail.get("num_samples", 0))) if kind is not ArmKind.BASE else 0,
            [m.eval_loss for m in found if m.eval_loss is not None],
            kind,
            _scores(history, found, hashes),
        )
        for (kind, name), found in members.items()
    ]
    return in_common(sorted(arms, key=lambda arm: _ORDER.index(arm.kind)))


def not_compared(history: RunHistory, arms: Sequence[Arm]) -> int:
    """How many held-out samples are left out of `arms`, since not every model that is compared has a loss on them."""
    found = [frozenset(scores) for arm in _compared(arms) for scores in arm.scores]
    common = found[0].intersection(*found) if found else frozenset()
    # Where there are none, nothing is compared by single samples.
    return len(set(_held_out(history)) - common) if common else 0


def in_common(arms: list[Arm]) -> list[Arm]:
    """The arms, judged by the held-out samples that all of their models have a loss on: where one could not be scored
    under one of them, means over other samples could not be compared."""
    all_scores = [scores for arm in _compared(arms) for scores in arm.scores]
    if not all_scores:
        return arms
    names = set.intersection(*map(set, all_scores))
    if not names or all(len(scores) == len(names) for scores in all_scores):
        return arms
    return [arm if arm.kind is ArmKind.OTHER else _by(arm, names) for arm in arms]


def _compared(arms: Sequence[Arm]) -> list[Arm]:
    """Those that the first page compares; none where the losses of single samples are not known of all."""
    found = [arm for arm in arms if arm.kind is not ArmKind.OTHER]
    return found if all(arm.scores for arm in found) else []


def _by(arm: Arm, names: Collection[str]) -> Arm:
    scores = [{name: one for name, one in scores.items() if name in names} for scores in arm.scores]
    losses = [sum(nats for nats, _ in one.values()) / sum(tokens for _, tokens in one.values()) for one in scores]
    return replace(arm, scores=scores, losses=losses)


def _place(run: RunRecord, rounds: Collection[int], number: int) -> ArmPlace:
    """The arm of a round's model. What a recipe trained on all rows by itself, with another seed than the run's, gives
    way to what was trained like the run's."""
    place = arm_of(run.recipe, run.config, number)
    if place.kind is ArmKind.ALL and ALL_ROWS in rounds and number != ALL_ROWS:
        return ArmPlace(ArmKind.OTHER, "all rows, by the recipe itself")
    return place


def _held_out(history: RunHistory) -> list[str]:
    """The hashes of the held-out samples; none where they, or the run's directory, are not known."""
    if history.paths is None or not history.paths.holdout.exists():
        return []
    return hashes_in(history.paths.holdout)


def _scores(
    history: RunHistory, models: list[ModelRecord], hashes: Sequence[str]
) -> list[dict[str, tuple[float, int]]]:
    """By model; none at all where one is missing."""
    found = [history.held_out_scores(m.round, hashes) for m in models]
    return found if all(found) else []


def models_of(history: RunHistory, *, shuffled: bool = False) -> list[Model]:
    """All models by what they were trained on, the one on what the run made last. `shuffled`: random draws were all
    rows, in other orders."""
    run = history.run
    found: list[Model] = []
    last: list[Model] = []
    models = history.models()
    rounds = {m.round for m in models}
    for m in models:
        place = _place(run, rounds, m.round)
        label = m.role if m.role != "trained" else f"trained on {place.name}"
        if m.role == "trained" and place.kind is ArmKind.RANDOM:
            label = f"trained on {'all rows, order' if shuffled else 'random subset'} {place.number}"
        made = m.role == "trained" and place.kind is ArmKind.RUN
        losses = history.training_losses(m.round, m.training_run) if m.training_run else []
        (last if made else found).append(Model(label, m.uri, m.digest, m.train_loss, m.eval_loss, losses))
    return found + last
