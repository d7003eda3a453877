"""What all seeds together say, for people and as results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bench.efficacy.measures import Spread, differences, spread
from bench.efficacy.order import Outcome
from bench.efficacy.reading import chance, learning
from bench.results import Result, result

LOSS, ABOVE, TRAINING = "held-out loss", "above random rows", "training"


@dataclass(frozen=True)
class Report:
    """Results as all benches have them (median and range), and `summary`, by quantity and contender: mean, standard
    deviation and the value of each seed."""

    results: list[Result]
    summary: Mapping[str, Mapping[str, Any]]


def tell(seeds: Sequence[Sequence[Outcome]], recipes: Sequence[str], task: str) -> Report:
    """Of the outcomes of each seed's parts, on a task by its title. Arms come in the order in which they are first
    found."""
    peers = {chance(recipe) for recipe in recipes}
    losses = [{arm: loss for part in parts for arm, loss in part.losses.items()} for parts in seeds]
    took = [{arm: value for part in parts for arm, value in part.seconds.items()} for parts in seeds]
    found: dict[str, dict[str, tuple[str, list[float]]]] = {name: {} for name in (LOSS, ABOVE, TRAINING)}
    for arm in dict.fromkeys(arm for one in losses for arm in one):
        found[LOSS][arm] = ("nats", [one[arm] for one in losses if arm in one])
        found[ABOVE][arm] = ("nats", [] if arm in peers else differences(losses, arm, peer_of(arm, recipes)))
        found[TRAINING][arm] = ("s", [one[arm] for one in took if arm in one])
    for recipe in recipes:
        judged = [part.weights[recipe] for parts in seeds for part in parts if recipe in part.weights]
        for quantity in dict.fromkeys(name for one in judged for name in one):
            unit = "" if quantity.startswith("AUROC") else "share"
            found.setdefault(quantity, {})[recipe] = (unit, [one[quantity] for one in judged if quantity in one])
    results, summary = [], {}
    for quantity, arms in found.items():
        for arm, (unit, values) in arms.items():
            if values:
                results.append(result(task, arm, quantity, unit, values))
                summary.setdefault(quantity, {})[arm] = asdict(spread(values))
    return Report(results, summary)


def peer_of(arm: str, recipes: Sequence[str]) -> str:
    """The random rows that an arm is compared with: as many as its recipe has, or else as the first."""
    return chance(next((recipe for recipe in recipes if arm in (recipe, learning(recipe))), recipes[0]))


def table(report: Report) -> str:
    """For people: mean ± standard deviation over seeds, and how many seeds there are."""
    lines = []
    for quantity, arms in report.summary.items():
        lines.append(quantity)
        for arm, told in arms.items():
            one = Spread(**told)
            lines.append(f"  {arm:<24} {one.mean:>9.4f} ± {one.deviation:.4f}  ({len(one.values)})")
    return "\n".join(lines)
