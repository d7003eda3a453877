"""explain: the story of one row of a run, whatever the recipe."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Annotated

import typer

from burnish._types import Message
from burnish.cli.inspect_run import RunDir
from burnish.cli.output import command, say, say_json
from burnish.coordinator.history import RunHistory
from burnish.coordinator.policy.acceptance import Acceptance, why
from burnish.coordinator.policy.clear import Preference, probability_of_candidate
from burnish.coordinator.policy.confidence import VERDICTS, Evidence
from burnish.coordinator.records import CandidateStory, RewriteRecord
from burnish.coordinator.story import RoundStory, RowStory, story_of

_LONGEST = 1000  # characters of a text; --json has all of it
Sample = Annotated[
    str,
    typer.Argument(help="Id of the row: the data's own, else row-000001 and on; final/ tells it.", metavar="SAMPLE"),
]


@command
def explain(
    directory: RunDir,
    sample: Sample,
    json_output: Annotated[bool, typer.Option("--json", help="As JSON, with all texts in full.")] = False,
) -> None:
    """What was measured of one row, what was proposed and by whom, what became of it, and why."""
    with RunHistory.open(directory) as history:
        story = story_of(history, sample)
    if json_output:
        say_json(asdict(story))
        return
    for line in told(story):
        say(line)


def told(story: RowStory) -> Iterator[str]:
    """The story as lines of text."""
    yield f"Row {story.row_id} of run {story.run_id}"
    for one in story.rounds:
        yield from _round(one)
    yield ""
    if story.final is None:
        yield " ".join(["It is not in the newest data set.", *filter(None, [story.left_out])])
    elif not story.rounds or story.final != story.rounds[-1].messages or _added(story):
        yield "In the newest data set:"
        yield from _conversation(story.final)
    else:
        yield "It is in the newest data set as it was."


def _added(story: RowStory) -> bool:
    return not story.rounds or story.rounds[0].round > 1


def _round(one: RoundStory) -> Iterator[str]:
    yield ""
    made = "" if one.row.origin == "source" else f", text made by {one.row.origin}"
    parent = "" if one.row.parent_row_id is None else f", from row {one.row.parent_row_id}"
    yield f"Round {one.round}{made}{parent}"
    yield from _conversation(one.messages)
    for worker in one.workers:
        yield f"  {worker.uri} ({worker.digest[:19]}) {worker.did}."
    signals = one.decision.signals if one.decision is not None else {}
    for name, value in signals.items():
        line = next((line for line in one.lines if line.signal == name and line.tau is not None), None)
        shown = "unknown" if value is None else f"{value:.4f}"
        yield f"  {name.replace('_', ' ')} {shown}" + (f", line at {line.tau:.4f}" if line else "")
    if one.evidence is not None:
        yield from _evidence(one.evidence)
    for candidate in one.candidates:
        yield from _candidate(candidate)
    for rewrite in one.rewrites:
        yield from _rewrite(rewrite)
    for answer in one.answers:
        refused = f", not learnt from: {answer.rejection.replace('_', ' ')}" if answer.rejection else ""
        yield f"  The model's answer {answer.number} after step {answer.step}{refused}: {_short(answer.text)}"
    if one.decision is None:
        yield "  Nothing is decided yet."
        return
    yield f"  Decision: {', '.join(one.decision.actions)}."
    for reason in one.decision.reasons:
        yield f"    {reason}"


def _conversation(messages: Sequence[Message]) -> Iterator[str]:
    for message in messages:
        yield f"  {message.role.value}: {_short(message.content)}"


def _evidence(evidence: Evidence) -> Iterator[str]:
    for start in range(0, len(evidence.verdicts), len(VERDICTS)):
        orders = evidence.verdicts[start : start + len(VERDICTS)]
        masses = evidence.masses[start : start + len(VERDICTS)]
        yield f"  Question {start // len(VERDICTS) + 1}, in each order of its answers:"
        for verdict, mass in zip(orders, masses, strict=True):
            said = ", ".join(f"{word} {p:.3f}" for word, p in zip(VERDICTS, verdict, strict=True))
            yield f"    {said}; the letters had {mass:.3f} of the probability"
    for number, answer in enumerate(evidence.answers, start=1):
        if answer.similarity is None:
            yield f"  Sampled answer {number} could not be read ({answer.reason}): {_short(answer.reply)}"
        else:
            same = ", the same" if answer.exact_match else ""
            yield f"  Sampled answer {number}, similarity {answer.similarity:.3f}{same}: {_short(answer.text)}"


def _candidate(candidate: CandidateStory) -> Iterator[str]:
    yield f"  Candidate {candidate.number}: {_short(candidate.text) or '(nothing)'}"
    if candidate.preference is None:
        yield f"    Not compared: {candidate.rejection}."
    else:
        yield from _preference(candidate.preference)


def _preference(preference: Preference) -> Iterator[str]:
    for where, (response, candidate, tie) in zip(("response", "candidate"), preference.orders, strict=True):
        yield f"    With the {where} in front: response {response:.3f}, candidate {candidate:.3f}, tie {tie:.3f}"
    flipped = "; the orders disagree" if preference.flipped else ""
    yield f"    P(candidate better) {probability_of_candidate(preference, swap=True):.3f} over both orders{flipped}"


def _rewrite(rewrite: RewriteRecord) -> Iterator[str]:
    if rewrite.after is None:
        tries = "; ".join(f"{a.rejection.replace('_', ' ')} ({a.detail})" for a in rewrite.attempts if a.rejection)
        outcome = "rejected" if rewrite.attempts or rewrite.acceptance is None else "not accepted"
        yield f"  Rewrite to {rewrite.strategy}: {outcome}. {tries or rewrite.message}"
        return
    yield f"  Rewrite to {rewrite.strategy}, attempt {len(rewrite.attempts)}:"
    for line in _conversation(rewrite.after):
        yield f"  {line}"
    if rewrite.acceptance is not None:
        yield from _acceptance(rewrite.acceptance)


def _acceptance(one: Acceptance) -> Iterator[str]:
    measured = (one.loss_before, one.loss_limit, one.loss_after, one.quality_before, one.quality_after)
    if any(value is not None for value in measured):
        before, limit, after, worse, better = ("unknown" if value is None else f"{value:.3f}" for value in measured)
        yield f"    Loss under the round's model: {before} before, {after} after, at most {limit} accepted"
        yield f"    Quality by the base model: {worse} before, {better} after, no less accepted"
    yield "    Accepted." if one.accepted else f"    Not accepted: {why(one)}."


def _short(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= _LONGEST else flat[: _LONGEST - 1] + "…"
