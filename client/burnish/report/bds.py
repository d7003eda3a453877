"""Collects what a report says of bilevel data selection."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from burnish._types import Role
from burnish.coordinator.history import RunHistory
from burnish.coordinator.policy.bilevel import Action
from burnish.coordinator.recipes.bds.loop import DIRECT, RANDOM, VALIDATION_ONLY, D, S
from burnish.coordinator.records import DecisionRecord, ModelRecord, StepRecord
from burnish.coordinator.truth import Known
from burnish.report.calibration import auroc
from burnish.report.common import measured, said_by
from burnish.report.data import Arm, BdsRound, Model, WeighedRow, WeightsAt

_SHOWN = 12  # rows at either end of the ranking
_NAMES = {
    D: "while weights were learnt",
    S: "trained on what it left",
    DIRECT: "trained on data and validation set",
    VALIDATION_ONLY: "trained on the validation set alone",
}


def bds_round(
    history: RunHistory,
    number: int,
    num_rows: int,
    decisions: Sequence[DecisionRecord],
    steps: Sequence[StepRecord],
    known: Mapping[str, Known],
) -> BdsRound:
    """The one round from the ledger."""
    ranked = sorted((d for d in decisions if "rank" in d.signals), key=lambda d: d.signals["rank"] or 0.0)
    shown = [*ranked[:_SHOWN], *ranked[-_SHOWN:]] if len(ranked) > 2 * _SHOWN else ranked
    samples = history.samples(d.sample_hash for d in shown)
    actions = Counter(d.actions[0] for d in decisions)
    snapshots = [_weights_at(history, number, step, known) for step in history.weight_steps(number)]
    return BdsRound(
        **measured(history, number, num_rows, decisions, steps),
        actions=actions,
        snapshots=snapshots,
        arms=_arms(history, actions),
        flaws=_flaws(decisions, known),
        weighed=[
            WeighedRow(
                d.row_id,
                d.actions[0],
                d.signals["weight"] or 0.0,
                d.reasons,
                said_by(samples[d.sample_hash][:-1], Role.USER),
                samples[d.sample_hash][-1].content,
            )
            for d in shown
        ],
    )


def bds_notes(history: RunHistory) -> list[str]:
    """What a reader should know before believing the numbers."""
    settings = history.run.config["settings"]
    assert isinstance(settings, dict)
    notes = []
    if settings["weighting"] == "sigmoid" and not settings["auxiliary"]:
        notes.append(
            "Weights are learnt from losses against their running mean, by sparse gradient descent: our derivation, no"
            " part of the published method. SEAL's is the setting weighting = softmax."
        )
    if not settings["holdout"]:
        notes.append("No held-out data were given, so what was selected is compared with nothing.")
    return notes


def bds_models(history: RunHistory) -> list[Model]:
    """The models by what they were trained on, the one on what was kept last."""
    refined = bool(history.refinement.refreshes(D))
    found = [Model(_name(m, refined), m.uri, m.digest, m.train_loss, m.eval_loss) for m in history.models()]
    return sorted(found, key=lambda model: model.label == _NAMES[S])


def _name(model: ModelRecord, refined: bool) -> str:
    if model.role == "base":
        return model.role
    if model.round == D and refined:
        return "while weights were learnt and questions answered anew"
    return _NAMES.get(model.round, f"trained on random subset {model.round - RANDOM + 1}")


def _weights_at(history: RunHistory, number: int, step: int, known: Mapping[str, Known]) -> WeightsAt:
    weights = history.weights(number, step)
    told = [(learnt.logit, bool(known[row_id].flaw)) for row_id, learnt in weights.items() if row_id in known]
    return WeightsAt(
        step,
        [learnt.weight for learnt in weights.values()],
        auroc([value for value, _ in told], [wrong for _, wrong in told]),
    )


def _flaws(decisions: Sequence[DecisionRecord], known: Mapping[str, Known]) -> dict[str, Counter[str]]:
    """By kind of flaw, what became of the rows that have it."""
    found: dict[str, Counter[str]] = {}
    for decision in decisions:
        if decision.row_id in known:
            found.setdefault(known[decision.row_id].flaw or "none", Counter())[decision.actions[0]] += 1
    return dict(sorted(found.items()))


def _arms(history: RunHistory, actions: Counter[str]) -> list[Arm]:
    models = [m for m in history.models() if m.eval_loss is not None]
    losses = {m.round: m.eval_loss for m in models if m.role == "trained" and m.eval_loss is not None}
    rows = {m.round: int(str(m.detail.get("num_samples", 0))) for m in models if m.role == "trained"}
    base = [m.eval_loss for m in models if m.role == "base" and m.eval_loss is not None]
    refined = bool(history.refinement.refreshes(D))
    chance = [loss for number, loss in sorted(losses.items()) if number >= RANDOM]

    def arm(name: str, number: int) -> Arm:
        return Arm(name, rows.get(number, 0), [losses[number]] if number in losses else [])

    arms = [
        Arm("nothing (the base model)", 0, base),
        arm("what was kept" + (", and what was answered anew" if actions[Action.REFINE] else ""), S),
        arm(f"all rows, weights being learnt{' and questions answered anew' if refined else ''}", D),
        arm("all rows and the validation set (direct mixing)", DIRECT),
        arm("the validation set alone", VALIDATION_ONLY),
        Arm("random subsets of the same size", actions[Action.KEEP] + actions[Action.REFINE], chance),
    ]
    return [one for one in arms if one.losses]
