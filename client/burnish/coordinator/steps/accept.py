"""Step `accept`: which rewrites go on, and which rows leave for want of one, from what two models say of them."""

from __future__ import annotations

from burnish._types import ModelRef
from burnish.coordinator.acceptance import Asked
from burnish.coordinator.policy.acceptance import Accept, Refusal, Rejected, Trial, decide
from burnish.coordinator.policy.middo import Action, Unparseable, quality
from burnish.coordinator.recipes.middo.settings import MiddoSettings
from burnish.coordinator.steps.measure import judge, score
from burnish.coordinator.steps.stage import RunContext

_INVALID = "REJECTED"  # the rewriting service's reason where every attempt broke a rule
_HARD_BY = "loss_post"


async def accept(run: RunContext[MiddoSettings], t: int, base: ModelRef, trained: ModelRef) -> None:
    """Has every rewrite of a round tried as the settings ask; what became of each is in the ledger. Nothing where rules
    alone decide, as published."""
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

    with stage.working():
        verdicts = book.acceptance.of_round(t)
        stage.expect(len(asked), known=len(verdicts))
        if asked and not verdicts:
            line = next((line.tau for line in book.thresholds(t) if line.signal == _HARD_BY), None)
            verdicts = decide([trial(one) for one in asked], settings.accept, settings.rejected, line)
            with book.transaction():
                book.acceptance.add(t, verdicts)
                stage.advance(len(asked))
        refused = sum(not one.accepted for one in verdicts)
        gone = len({one.row_id for one in verdicts if one.dropped})
        left = f"; {gone} rows leave the set" if settings.rejected is Rejected.DROP else ""
        run.observer.noted(f"Round {t}: of {len(verdicts)} rewrites {refused} are not accepted{left}.")
