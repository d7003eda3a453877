"""Collects what a report says of bilevel selection with online self-refinement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

from burnish.coordinator.history import RunHistory
from burnish.coordinator.policy.sameness import normal
from burnish.coordinator.policy.verdict import Action
from burnish.report.bds import bds_notes, bds_round
from burnish.report.common import Decided, prompt_and_response
from burnish.report.data import BdsRound, BmoRound, Correction, Refresh


def bmo_round(one: Decided) -> BmoRound:
    """The one round from the ledger."""
    history, known = one.history, one.known
    selection = bds_round(one)
    refined = [d for d in one.decisions if d.actions[0] == Action.REFINE]
    before = history.samples(d.sample_hash for d in refined)
    after = history.samples(d.hints[0] for d in refined)
    told = {d.row_id: known[d.row_id] for d in refined if d.row_id in known and known[d.row_id].response is not None}
    return BmoRound(
        **{field.name: getattr(selection, field.name) for field in fields(selection)},
        refreshes=_refreshes(history, one.number),
        refined=[
            Correction(
                d.row_id,
                d.reasons,
                *prompt_and_response(before[d.sample_hash]),
                after[d.hints[0]][-1].content,
            )
            for d in refined
        ],
        num_told=len(told),
        num_right=sum(
            normal(after[d.hints[0]][-1].content) == normal(told[d.row_id].response or "")
            for d in refined
            if d.row_id in told
        ),
    )


def bmo_notes(history: RunHistory, rounds: Sequence[BdsRound]) -> list[str]:
    """What a reader should know before believing the numbers."""
    settings = history.run.config["settings"]
    assert isinstance(settings, dict)
    weighting = {
        "uniform": "Answers count alike.",
        "token": "Answers are weighed token by token, as the published trainer has it.",
    }.get(
        settings["response_weighting"],
        "Of the paper only the abstract could be read; what an answer weighs is our derivation from it.",
    )
    stopped = [
        f"After step {one.step} the model's answers were learnt from no more: {one.stopped}."
        for dataset in history.datasets()
        for one in history.refreshes.of_round(dataset.round)
        if one.stopped
    ]
    return [*bds_notes(history, rounds), weighting, *stopped]


def _refreshes(history: RunHistory, number: int) -> list[Refresh]:
    return [
        Refresh(
            step=one.step,
            reason=one.reason,
            effective_share=one.effective_share,
            num_questions=one.vitals.num_questions,
            num_answers=one.vitals.num_answers,
            num_accepted=one.vitals.num_accepted,
            rejected=history.refreshes.rejections(number, one.step),
            entropy=one.vitals.entropy,
            length=one.vitals.length,
            distinct=one.vitals.distinct,
            divergence=one.vitals.divergence,
            stopped=one.stopped,
        )
        for one in history.refreshes.of_round(number)
    ]
