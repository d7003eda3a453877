"""What the parts of a seed have found so far: from the ledger of the recipes, and from what the plain part wrote."""

from __future__ import annotations

from dataclasses import dataclass, field

from bench.efficacy.measures import judge_weights
from bench.efficacy.order import PLAIN, Order, Outcome
from burnish.coordinator.errors import LedgerError
from burnish.coordinator.history import RunHistory
from burnish.coordinator.recipes.bds import loop as rounds


def learning(recipe: str) -> str:
    """The arm that is the model which the weights were learnt with."""
    return f"{recipe}, while learning"


def chance(recipe: str) -> str:
    """The arm of random rows, as many as a recipe has in the end."""
    return f"random, as {recipe}"


def found_by(order: Order) -> Outcome:
    """By one part. Arms that recipes share have the same name, and the first recipe tells."""
    if order.part == PLAIN:
        return Outcome.read(order.outcome)
    found = _Found()
    for recipe in order.recipes:
        try:
            with RunHistory.open(order.recipe_dir(recipe)) as history:
                _read(history, recipe, order.files.flaws(), found)
        except LedgerError:  # not begun
            continue
    return Outcome(found.losses, found.weights, found.seconds)


@dataclass
class _Found:
    losses: dict[str, float] = field(default_factory=dict)
    weights: dict[str, dict[str, float]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


def _read(history: RunHistory, recipe: str, flaws: dict[str, str], found: _Found) -> None:
    """Adds what a recipe that learns weights has measured; all that do have the same rounds."""
    names = {
        0: "base",
        rounds.D: learning(recipe),
        rounds.S: recipe,
        rounds.DIRECT: "direct mix",
        rounds.VALIDATION_ONLY: "validation alone",
    }
    drawn = []
    for model in history.models():
        if model.eval_loss is None:
            continue
        if model.round >= rounds.RANDOM:
            drawn.append(model.eval_loss)
            continue
        found.losses.setdefault(names[model.round], model.eval_loss)
        if (took := model.detail.get("seconds")) is not None:
            found.seconds.setdefault(names[model.round], float(str(took)))
    if drawn:
        found.losses[chance(recipe)] = sum(drawn) / len(drawn)
    steps = history.weight_steps(rounds.D)
    if steps:
        logits = {name: one.logit for name, one in history.weights(rounds.D, steps[-1]).items()}
        kept = {row.source_row_id for row in history.rows(rounds.S) if row.origin == "source"}
        found.weights[recipe] = judge_weights(logits, kept, flaws, sorted(set(flaws.values())))
