"""The story of one row: what was measured of it in every round, what was proposed and by whom, what became of it and
why.

`story_of` works on any recipe's run; what a recipe did not do is empty.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from burnish._types import Message
from burnish.coordinator.errors import InputError
from burnish.coordinator.history import RunHistory
from burnish.coordinator.policy.acceptance import told
from burnish.coordinator.policy.assembly import DataRow
from burnish.coordinator.policy.confidence import Evidence
from burnish.coordinator.policy.thresholds import Threshold
from burnish.coordinator.provenance import left_out_at_once
from burnish.coordinator.records import CandidateStory, DecisionRecord, RewriteRecord
from burnish.coordinator.refreshes import AnswerStory

# Steps whose weights are told, and what they do there.
_WORKERS = {
    "score_pre": "scored before training",
    "score_post": "scored after training",
    "embed": "found its neighbours",
    "features": "said which of its neurons it excites",
    "judge": "rated it",
    "refine": "rewrote it",
    "score_rewrites": "scored it and what was made of it",
    "judge_rewrites": "rated it and what was made of it",
    "confidence": "was asked for its confidence",
    "propose": "proposed candidates",
    "compare": "compared responses",
    "probe": "said how far answers are from its own",
}


@dataclass(frozen=True, slots=True)
class Worker:
    """Which weights did what; `digest` in full."""

    did: str
    uri: str
    digest: str


@dataclass(frozen=True, slots=True)
class RoundStory:
    """One round of a row: the conversation that it began with, and all that happened. `decision` is None where the
    round has not decided yet."""

    round: int
    row: DataRow
    messages: tuple[Message, ...]
    workers: tuple[Worker, ...]
    lines: tuple[Threshold, ...]
    evidence: Evidence | None
    candidates: tuple[CandidateStory, ...]
    rewrites: tuple[RewriteRecord, ...]
    answers: tuple[AnswerStory, ...]
    decision: DecisionRecord | None


@dataclass(frozen=True, slots=True)
class RowStory:
    """A row through all rounds. `final` is how it stands in the newest data set, None where it is gone."""

    run_id: str
    row_id: str
    rounds: tuple[RoundStory, ...]
    final: tuple[Message, ...] | None
    left_out: str = ""  # why it was left out to hold the set's size, or for want of a rewrite, where it was


def story_of(history: RunHistory, row_id: str) -> RowStory:
    """Tells the story of a row, named by its id; of one that was left out in the round that wrote it, no more than
    that. Raises InputError where no round has such a row."""
    rounds: list[RoundStory] = []
    final: tuple[Message, ...] | None = None
    datasets = history.datasets()
    for dataset in datasets:
        found = history.row(dataset.round, row_id)
        final = None
        if found is None:
            continue
        row, final = found
        candidates = tuple(c for c in history.candidates(dataset.round) if c.row_id == row_id)
        rewrites = tuple(r for r in history.rewrites(dataset.round) if r.row_id == row_id)
        answers = tuple(history.refreshes.story(dataset.round, row_id))
        took_part = {
            "propose": bool(candidates),
            "compare": any(c.preference is not None for c in candidates),
            "refine": bool(rewrites),
            "score_rewrites": any(r.after is not None for r in rewrites),
            "judge_rewrites": any(r.after is not None for r in rewrites),
            "probe": bool(answers),
        }
        workers = _workers(history, dataset.round, took_part)
        decisions = [d for d in history.decisions(dataset.round) if d.row_id == row_id]
        if dataset.round > 1 and dataset is datasets[-1] and not decisions and not workers:
            break  # what the last round made; no round works on it
        rounds.append(
            RoundStory(
                round=dataset.round,
                row=row,
                messages=final,
                workers=workers,
                lines=tuple(history.thresholds(dataset.round)),
                evidence=history.evidence(dataset.round, [row.sample_hash]).get(row.sample_hash),
                candidates=candidates,
                rewrites=rewrites,
                answers=answers,
                decision=decisions[0] if decisions else None,
            )
        )
    if not rounds and final is None:
        for dataset in datasets:
            for one in left_out_at_once(history, dataset.round):
                if one.row.row_id == row_id:
                    written = f"It was written in round {dataset.round}, from row {one.row.parent_row_id}."
                    return RowStory(history.run_id, row_id, (), None, f"{written} {one.reason}")
        examples = ", ".join(row.row_id for row in history.rows(1)[:3])
        raise InputError(f"Run {history.run_id} has no row {row_id!r}; ids are like {examples}.")
    held = [one.reason for d in datasets for one in history.held(d.round) if one.row_id == row_id and not one.kept]
    held += [told(r.acceptance) for one in rounds for r in one.rewrites if r.acceptance and r.acceptance.dropped]
    return RowStory(history.run_id, row_id, tuple(rounds), final, held[-1] if held else "")


def _workers(history: RunHistory, round_number: int, took_part: Mapping[str, bool]) -> tuple[Worker, ...]:
    found = []
    for step in history.steps():
        model: Any = step.detail.get("model")
        if step.round != round_number or not took_part.get(step.name, step.name in _WORKERS):
            continue
        if isinstance(model, Mapping):
            found.append(Worker(_WORKERS[step.name], str(model["uri"]), str(model["digest"])))
    return tuple(found)
