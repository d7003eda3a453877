"""Arms of a comparison: the models of a run by what they were trained on, whichever recipe trained them.

A recipe's own models are at rounds of the recipe's own; the table below says which. What is trained only to compare
with, after the recipe has ended (`afterwards.py`), is at rounds that no recipe reaches.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from burnish.coordinator.recipes.base import MOST_ROUNDS
from burnish.coordinator.recipes.bds.loop import DIRECT, VALIDATION_ONLY
from burnish.coordinator.recipes.bds.loop import RANDOM as BDS_RANDOM
from burnish.coordinator.recipes.bds.loop import D as BDS_D
from burnish.coordinator.recipes.filter.loop import ALONE, COVERING, FOLD, MIXED, RIVAL, TRIED, TRUSTED
from burnish.coordinator.recipes.filter.loop import RANDOM as FILTER_RANDOM
from burnish.coordinator.recipes.filter.loop import D as FILTER_D
from burnish.coordinator.recipes.filter.settings import MOST_FOLDS, MOST_PASSES, MOST_SHARES
from burnish.coordinator.recipes.mads.loop import RANDOM as MADS_RANDOM
from burnish.coordinator.recipes.mads.loop import D as MADS_D

ALL_ROWS, RIGHT_ROWS, RANDOM = 1001, 1002, 1011  # the last: of the first random subset


class ArmKind(StrEnum):
    """What a model was trained on."""

    BASE = "base"  # nothing: the base model
    RUN = "run"  # what the run made
    ALL = "all"  # all rows of the source, as they came
    RANDOM = "random"  # random rows of the source, as many as the run's model was trained on
    MIXED = "mixed"  # all rows of the source and the trusted ones
    TRUSTED = "trusted"  # the trusted rows alone
    ORACLE = "oracle"  # the rows of the source that are known to be right
    OTHER = "other"  # something else that the recipe compares with, or needs on its way


@dataclass(frozen=True, slots=True)
class ArmRounds:
    """Where a recipe's own models are: `all_rows` is the round of the one trained on the source as it came, `mixed` of
    that on it and the trusted rows, `trusted` of that on these alone, `random` the first of those trained on random
    subsets; `others` names the rest, of which the recipe needs those at `needed` on its way. `run` names what the run
    made, `trusted_name` what it calls the trusted rows."""

    run: str = "what this run made"
    all_rows: int | None = None
    random: int | None = None
    mixed: int | None = None
    trusted: int | None = None
    trusted_name: str = "the trusted rows"
    others: Mapping[int, str] = field(default_factory=dict)
    needed: Collection[int] = ()


_LEARNING = "all rows, weights being learnt"
_BDS: dict[str, Any] = {
    "random": BDS_RANDOM,
    "mixed": DIRECT,
    "trusted": VALIDATION_ONLY,
    "trusted_name": "the validation set",
}
_FOLDS = {
    FOLD + number * MOST_FOLDS + fold: f"all folds but {fold + 1}" + (f", pass {number + 1}" if number else "")
    for number in range(MOST_PASSES)
    for fold in range(MOST_FOLDS)
}
_TRIED = {TRIED + place: "the best {share:.0%}, to try it" for place in range(1, 1 + MOST_SHARES)}
_BY_RIVAL = {RIVAL + place: "the best {share:.0%} by {rival}, to try it" for place in range(1, 1 + MOST_SHARES)}
_FILTER = ArmRounds(
    "what was kept",
    all_rows=FILTER_D,
    random=FILTER_RANDOM,
    mixed=MIXED,
    trusted=ALONE,
    others={
        **_FOLDS,
        TRIED: "all rows, to try them",
        **_TRIED,
        TRUSTED: "the trusted rows alone, to measure by",
        **_BY_RIVAL,
        COVERING: "what covers the best {largest:.0%}, to try it",
    },
    needed=[*range(FOLD, FILTER_RANDOM), *_BY_RIVAL, COVERING],
)
_PASSED = {
    number: "the rows that passed the filter" + (f" in round {number}" if number > 1 else "")
    for number in range(1, MOST_ROUNDS + 1)
}
ARM_ROUNDS: Mapping[str, ArmRounds] = {
    "middo": ArmRounds(all_rows=1),
    "clear": ArmRounds(others=_PASSED),
    "filter": _FILTER,
    "auto": _FILTER,
    "mads": ArmRounds("the core set", all_rows=MADS_D, random=MADS_RANDOM),
    "bds": ArmRounds("what was kept", **_BDS, others={BDS_D: _LEARNING}),
    "bmo": ArmRounds(
        "what was kept, and what was answered anew",
        **_BDS,
        others={BDS_D: f"{_LEARNING} and questions answered anew"},
    ),
}


@dataclass(frozen=True, slots=True)
class ArmPlace:
    """Which arm the model of a round belongs to, and its name, as what follows "trained on". `number`: which of several
    random subsets, from 1."""

    kind: ArmKind
    name: str
    number: int = 1


def run_round(config: Mapping[str, object]) -> int:
    """The round whose model is trained on what the run made. `config`: the run's."""
    settings = config.get("settings")
    rounds = settings.get("rounds", 1) if isinstance(settings, Mapping) else 1
    return int(str(rounds)) + 1


def _tried(config: Mapping[str, object], round_number: int) -> dict[str, object]:
    """What the model of a round tried, where it is one of filtering's that try shares."""
    found = config.get("settings")
    settings = found if isinstance(found, Mapping) else {}
    shares = settings.get("shares", ())
    place = round_number - (RIVAL if round_number > RIVAL else TRIED) - 1
    share = float(shares[place]) if 0 <= place < len(shares) else 1.0
    return {"share": share, "largest": max(map(float, shares), default=1.0), "rival": settings.get("rival")}


def arm_of(recipe: str, config: Mapping[str, object], round_number: int) -> ArmPlace:
    """The arm of the model that was trained in a round; that of the base model for round 0."""
    where = ARM_ROUNDS.get(recipe, ArmRounds())
    if not round_number:
        return ArmPlace(ArmKind.BASE, "nothing (the base model)")
    if round_number == run_round(config):
        return ArmPlace(ArmKind.RUN, where.run)
    if round_number == RIGHT_ROWS:
        return ArmPlace(ArmKind.ORACLE, "the right rows only")
    if round_number in (ALL_ROWS, where.all_rows):
        return ArmPlace(ArmKind.ALL, "all rows")
    if round_number == where.mixed:
        return ArmPlace(ArmKind.MIXED, f"all rows and {where.trusted_name}")
    if round_number == where.trusted:
        return ArmPlace(ArmKind.TRUSTED, f"{where.trusted_name} alone")
    if round_number in where.others:
        return ArmPlace(ArmKind.OTHER, where.others[round_number].format(**_tried(config, round_number)))
    first = RANDOM if round_number >= RANDOM else where.random
    if first is not None and round_number >= first:
        return ArmPlace(ArmKind.RANDOM, "random subsets of the same size", round_number - first + 1)
    return ArmPlace(ArmKind.OTHER, f"the data of round {round_number}")


def only_compared(recipe: str, config: Mapping[str, object], round_number: int) -> bool:
    """Whether the model of a round is there to compare with and for nothing else."""
    where = ARM_ROUNDS.get(recipe, ArmRounds())
    if round_number in where.needed:
        return False
    return round_number > run_round(config) or (where.random is not None and round_number == where.all_rows)
