"""Whether a rewrite takes its place in the next data set. Pure; can be replayed from the ledger's table `acceptance`.

As published, whatever passed the rewriting service's rules does. With `agree`, our departure from the paper, two that
have no share in each other must both have nothing against it:

    loss      L(rewrite; M_t) <= L(original; M_t). A new row of diversify replaces none, and is new to M_t, which was
              trained on its source row: it must not lie above the line on L_post that makes a row too hard, or where
              no such line was drawn, not above its source row.
    ratings   q(rewrite) >= q(original), the quality of policy.middo, rated by the base model

A rewrite prompt cannot be had with its old answer, nor the other way round, so that no two answers to one prompt could
be compared: each pair is rated as a whole. What is not known speaks neither for a rewrite nor against its row: the
rewrite is not accepted, and with `rejected=drop` the row stays.

With `none` no rewrite is accepted, and with `rejected=drop` all rows that were to be replaced leave. Whether the
rewritten set trains a better model than this one says whether rewriting was of use, and not leaving out alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from burnish.coordinator.policy.middo import Action


class Accept(StrEnum):
    """Which rewrites are accepted."""

    VALID = "valid"  # all that passed the rewriting service's rules, as published
    AGREE = "agree"  # of them, those that loss and ratings have nothing against
    NONE = "none"  # none, so that none is made: what rewriting is held against, with the same rows dropped


class Rejected(StrEnum):
    """What happens to a row that was to be replaced and has no accepted rewrite."""

    KEEP = "keep"  # it stays as it is, as published
    DROP = "drop"  # it leaves the set, where what is known speaks against every rewrite


class Refusal(StrEnum):
    """Why a rewrite is not accepted."""

    NONE = ""
    INVALID = "invalid"  # every attempt broke a rule of the rewriting service
    LOSS = "loss"  # the round's model finds it less likely than it may
    RATING = "rating"  # the base model rates the original higher
    DECLINED = "declined"  # none is accepted
    FAILED = "failed"  # the service could not rewrite the row
    UNSCORED = "unscored"  # a loss is not known
    UNRATED = "unrated"  # a quality is not known


# For these a row may leave; all others say something of a service, and nothing of the row.
_KNOWN = {Refusal.INVALID, Refusal.LOSS, Refusal.RATING, Refusal.DECLINED}


@dataclass(frozen=True, slots=True)
class Trial:
    """One rewrite that was asked for, and what is known of it and of its original. `refusal`: why there is no rewrite,
    where there is none; losses under M_t in nats per response token; qualities by the base model in [0, 10]."""

    row_id: str
    action: Action
    refusal: Refusal = Refusal.NONE
    loss_before: float | None = None
    loss_after: float | None = None
    quality_before: float | None = None
    quality_after: float | None = None


@dataclass(frozen=True, slots=True)
class Acceptance:
    """What became of one rewrite. `loss_limit`: what its loss may be at most. `dropped`: its row leaves the set."""

    row_id: str
    strategy: str
    accepted: bool
    refusal: str
    loss_before: float | None
    loss_limit: float | None
    loss_after: float | None
    quality_before: float | None
    quality_after: float | None
    dropped: bool

    @property
    def loss_against(self) -> bool:
        """Whether the round's model is known to find it less likely than it may."""
        known = _known(self.loss_limit, self.loss_after)
        return known is not None and known[1] > known[0]

    @property
    def rating_against(self) -> bool:
        """Whether the base model is known to rate the original higher."""
        known = _known(self.quality_before, self.quality_after)
        return known is not None and known[1] < known[0]


def decide(trials: Sequence[Trial], accept: Accept, rejected: Rejected, hard_line: float | None) -> list[Acceptance]:
    """One verdict per rewrite that was asked for, in order. `hard_line`: where the round drew it on the loss after
    training; None where it drew none."""
    limits = [_limit(trial, hard_line) for trial in trials]
    refusals = [_refusal(trial, limit, accept) for trial, limit in zip(trials, limits, strict=True)]
    gone = _leaving(trials, refusals) if rejected is Rejected.DROP else set()
    return [
        Acceptance(
            row_id=trial.row_id,
            strategy=trial.action.value,
            accepted=refusal is Refusal.NONE,
            refusal=refusal.value,
            loss_before=trial.loss_before,
            loss_limit=limit,
            loss_after=trial.loss_after,
            quality_before=trial.quality_before,
            quality_after=trial.quality_after,
            dropped=trial.row_id in gone and trial.action is not Action.DIVERSIFY,
        )
        for trial, limit, refusal in zip(trials, limits, refusals, strict=True)
    ]


def _limit(trial: Trial, hard_line: float | None) -> float | None:
    return hard_line if trial.action is Action.DIVERSIFY and hard_line is not None else trial.loss_before


def _refusal(trial: Trial, limit: float | None, accept: Accept) -> Refusal:
    """What is known to be against a rewrite goes before what is not known."""
    if accept is Accept.NONE:
        return Refusal.DECLINED
    if trial.refusal is not Refusal.NONE or accept is Accept.VALID:
        return trial.refusal
    scored, rated = _known(limit, trial.loss_after), _known(trial.quality_before, trial.quality_after)
    if scored and scored[1] > scored[0]:
        return Refusal.LOSS
    if rated and rated[1] < rated[0]:
        return Refusal.RATING
    if not scored:
        return Refusal.UNSCORED
    return Refusal.NONE if rated else Refusal.UNRATED


def _known(before: float | None, after: float | None) -> tuple[float, float] | None:
    if before is None or after is None or not (math.isfinite(before) and math.isfinite(after)):
        return None
    return before, after


def _leaving(trials: Sequence[Trial], refusals: Sequence[Refusal]) -> set[str]:
    """The rows all of whose replacements are refused by what is known of them."""
    replacing = [
        (trial.row_id, refusal in _KNOWN)
        for trial, refusal in zip(trials, refusals, strict=True)
        if trial.action is not Action.DIVERSIFY
    ]
    staying = {row_id for row_id, refused in replacing if not refused}
    return {row_id for row_id, _ in replacing} - staying


def why(one: Acceptance) -> str:
    """Why a rewrite is not accepted, in words, with its numbers; empty where it is."""
    against = []
    if one.loss_against and not one.accepted:
        limit = "its original's" if one.loss_limit == one.loss_before else "the line that makes a row too hard,"
        against.append(f"its loss under the round's model, {one.loss_after:.3f}, is above {limit} {one.loss_limit:.3f}")
    if one.rating_against and not one.accepted:
        against.append(f"the base model rates it {one.quality_after:.2f}, its original {one.quality_before:.2f}")
    return "; ".join(against) or _WORDS.get(one.refusal, "")


_WORDS = {
    Refusal.INVALID.value: "every attempt broke a rule of the rewriting service",
    Refusal.DECLINED.value: "none is accepted in this run",
    Refusal.FAILED.value: "the service could not rewrite the row",
    Refusal.UNSCORED.value: "its loss or its original's could not be had",
    Refusal.UNRATED.value: "not all ratings of it and its original could be had",
}


def told(one: Acceptance) -> str:
    """A refusal as a sentence, with what it meant for the row."""
    outcome = ", and the row dropped" if one.dropped else ""
    return f"Rewrite to {one.strategy} not accepted{outcome}: {why(one)}."
