"""What a recipe decides for a row: one action, and why. Pure. Middo, which may do several things about a row, has
decisions of its own (`policy/middo.py`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Action(StrEnum):
    """What becomes of a row."""

    KEEP = "keep"  # it goes on as it is
    CORRECT = "correct"  # a candidate that was preferred takes the place of its response
    REFINE = "refine"  # others rank above it, and the model's own answer takes the place of its response
    DROP = "drop"  # it failed the filter, others rank above it, or another stands for it
    UNSCORED = "unscored"  # it has no value; kept unless the settings say otherwise
    UNREAD = "unread"  # no model could read it, so that it could not be selected, or has no weight
    VALIDATE = "validate"  # it is in the validation set, or asks the same as one that is
    TRUSTED = "trusted"  # a trusted row asks the same; it is not trained on


STAYS = frozenset({Action.KEEP, Action.UNSCORED})  # as they are
ANSWERED = frozenset({Action.CORRECT, Action.REFINE})  # with another response, which `hints` names
SET_ASIDE = frozenset({Action.VALIDATE, Action.TRUSTED})  # to judge by, or asking the same: what is made is not
GONE = SET_ASIDE | {Action.DROP, Action.UNREAD}


class Unscored(StrEnum):
    """What happens to rows without a value to go by."""

    KEEP = "keep"
    DROP = "drop"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of one row, and why. `hints`: the row that stands for it, or the sample that takes its place, where
    there is one."""

    row_id: str
    actions: tuple[Action, ...]
    signals: Mapping[str, float]
    reasons: tuple[str, ...]
    hints: tuple[str, ...] = ()
    axes: tuple[str, ...] = ()
