"""Step `accept`: which rewrites go on, and which rows leave for want of one, from what two models say of them."""

from __future__ import annotations

from collections.abc import Sequence

from burnish._types import ModelRef
from burnish.coordinator.acceptance import Asked
from burnish.coordinator.policy.acceptance import Accept, Refusal, Rejected, Trial, decide
from burnish.coordinator.policy.middo import Action, Decision, Unparseable, quality
from burnish.coordinator.steps.measure import judge, score
from burnish.coordinator.steps.runs import MiddoRun

_INVALID = "REJECTED"  # the rewriting service's reason where every attempt broke a rule
_HARD_BY = "loss_post"


async def accept(run: MiddoRun, t: int, base: ModelRef, trained: ModelRef, decisions: Sequence[Decision]) -> None:
    """Has every rewrite that a round's `decisions` ask for tried as the settings say; what became of each is in the
    ledger. Nothing where rules alone decide, as published."""
    settings, book, stage = run.settings, run.book, run.stage(t, "accept")
    if not settings.tries_rewrites or stage.done:
        return
    asked = book.acceptance.asked(t)
    losses: dict[str, float | None] = {}
    qualities: dict[str, float | None] = {}
    if settings.accept is Accept.AGREE:
        made = [one for one in asked if one.result_hash is not None]
        hashes = list(dict.fromkeys(name for one in made for name in (one.sample_hash, one.result_hash) if name))
        losses = dict(await score(run, t, "score_rewrites", trained, hashes))
        # Read from probabilities: a rating of each, without chance, and finer than whole numbers.
        ratings = await judge(run, t, base, hashes, None, name="judge_rewrites")
        qualities = {name: quality(ratings.get(name, {}), Unparseable.EXCLUDE) for name in hashes}

    def trial(one: Asked) -> Trial:
        action = Action(one.strategy)
        if one.result_hash is None:
            return Trial(one.row_id, action, Refusal.INVALID if one.reason == _INVALID else Refusal.FAILED)
        before, after = one.sample_hash, one.result_hash
        values = (losses.get(before), losses.get(after), qualities.get(before), qualities.get(after))
        return Trial(one.row_id, action, Refusal.NONE, *values)

    if settings.rewrites:
        trials = [trial(one) for one in asked]
    else:  # none was made, since none is accepted
        wanted = ((one.row_id, action) for one in decisions for action in one.actions if action is not Action.KEEP)
        trials = [Trial(*one) for one in wanted]
    with stage.working():
        verdicts = book.acceptance.of_round(t)
        stage.expect(len(trials), known=len(verdicts))
        if trials and not verdicts:
            line = next((line.tau for line in book.thresholds(t) if line.signal == _HARD_BY), None)
            verdicts = decide(trials, settings.accept, settings.rejected, line)
            with book.transaction():
                book.acceptance.add(t, verdicts)
                stage.advance(len(trials))
        refused = sum(not one.accepted for one in verdicts)
        gone = len({one.row_id for one in verdicts if one.dropped})
        left = f"; {gone} rows leave the set" if settings.rejected is Rejected.DROP else ""
        run.observer.noted(f"Round {t}: of {len(verdicts)} rewrites {refused} are not accepted{left}.")
