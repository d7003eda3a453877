"""Steps `filter` and `decide` of CLEAR: from what was measured to what becomes of each row. All of it in the ledger,
none of it needs a service."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from burnish.coordinator.errors import StepFailed
from burnish.coordinator.policy.assembly import DataRow
from burnish.coordinator.policy.clear import Candidate, Preference, RowEvidence, Scope, decide, place_notes
from burnish.coordinator.policy.confidence import (
    Evidence,
    mixture_notes,
    reflection_health,
    reflection_notes,
    signals_of,
)
from burnish.coordinator.policy.filtering import filter_rows
from burnish.coordinator.policy.thresholds import Threshold
from burnish.coordinator.policy.verdict import Unscored
from burnish.coordinator.recipes.clear.settings import ClearSettings, Proposer
from burnish.coordinator.steps.compare import Pair
from burnish.coordinator.steps.runs import ClearRun

Signals = Mapping[str, float]


def filter_round(
    run: ClearRun, round_number: int, rows: Sequence[DataRow], evidence: Mapping[str, Evidence]
) -> tuple[dict[str, bool | None], dict[str, Signals]]:
    """Who passed, by row, None for rows without a value; and every row's signals. Written down once: what is trained on
    the rows that passed must never be trained on others. Raises StepFailed where nothing passed."""
    weights, name = run.settings.weights(), run.settings.signal.value
    signals = {row.row_id: signals_of(evidence.get(row.sample_hash, Evidence()), weights) for row in rows}
    stage = run.stage(round_number, "filter")
    passed = run.book.curation.filtered(round_number)
    if stage.done:
        return passed, signals
    with stage.working():
        stage.expect(len(rows), known=len(passed))
        if not passed:
            ids = [row.row_id for row in rows]
            rule = run.settings.filter_rule()
            standing: Mapping[str, bool | None] = {}
            if round_number > 1:  # the first round's line stands: the model that is asked is the same
                (line,) = run.book.thresholds(1)
                rule = replace(rule, threshold=line.tau, drop_fraction=None, round_number=round_number)
                standing = _unchanged(run, round_number, rows)
            values = [signals[row_id].get(name) for row_id in ids]
            line, results = filter_rows(name, ids, values, rule, standing=standing)
            with run.book.transaction():
                run.book.add_thresholds(round_number, [line])
                run.book.curation.add_filtered(round_number, ids, results)
                stage.advance(len(rows))
            passed = dict(zip(ids, results, strict=True))
            for note in _notes(line, results, list(evidence.values()), run.settings):
                run.observer.noted(f"Round {round_number}: {note}")
        if rows and _leaves_nothing(passed, run.settings):
            (line,) = run.book.thresholds(round_number)
            raise StepFailed(_nothing_stays(line, run.settings))
    return passed, signals


def _unchanged(run: ClearRun, round_number: int, rows: Sequence[DataRow]) -> dict[str, bool | None]:
    """What the round before found of the rows that have the same response still."""
    before = {row.row_id: row.sample_hash for row in run.book.rows(round_number - 1)}
    passed = run.book.curation.filtered(round_number - 1)
    return {row.row_id: passed[row.row_id] for row in rows if before.get(row.row_id) == row.sample_hash}


def passing(rows: Sequence[DataRow], passed: Mapping[str, bool | None]) -> list[DataRow]:
    """F: the rows that M_F is trained on. A row without a value may stay in the data set (`unscored`), but nobody knows
    whether it is right, and M_F is to learn from those that are."""
    return [row for row in rows if passed[row.row_id]]


def _leaves_nothing(passed: Mapping[str, bool | None], settings: ClearSettings) -> bool:
    """Whether no row stays, or none passed that M_F could learn from where it is needed."""
    found = set(passed.values())
    if True in found:
        return False
    stays = None in found and settings.unscored is Unscored.KEEP
    is_needed = False in found and not settings.filter_only and settings.proposer is Proposer.TUNED
    return not stays or is_needed


def to_be_corrected(
    rows: Sequence[DataRow], passed: Mapping[str, bool | None], settings: ClearSettings
) -> list[DataRow]:
    """The rows for which candidates are made."""
    wanted = (False,) if settings.scope is Scope.FAILED else (False, True)
    return [row for row in rows if passed[row.row_id] in wanted]


def pairs_of(run: ClearRun, round_number: int, rows: Sequence[DataRow]) -> list[Pair]:
    """The distinct (response, candidate) pairs that must be compared."""
    samples = {row.row_id: row.sample_hash for row in rows}
    made = run.book.curation.candidates(round_number)
    pairs = ((samples[one.row_id], one.candidate_hash) for one in made if not one.rejection)
    return list(dict.fromkeys((sample, candidate) for sample, candidate in pairs if candidate is not None))


def decide_rows(
    run: ClearRun,
    round_number: int,
    rows: Sequence[DataRow],
    passed: Mapping[str, bool | None],
    signals: Mapping[str, Signals],
    preferences: Mapping[Pair, Preference | str],
) -> None:
    """One action for every row; written down once."""
    stage = run.stage(round_number, "decide")
    if stage.done:
        return
    candidates: dict[str, list[Candidate]] = {}
    samples = {row.row_id: row.sample_hash for row in rows}
    for one in run.book.curation.candidates(round_number):
        answer = preferences.get((samples[one.row_id], one.candidate_hash or ""))
        failure = one.rejection or (answer if isinstance(answer, str) else "")
        preference = answer if isinstance(answer, Preference) and not one.rejection else None
        candidates.setdefault(one.row_id, []).append(Candidate(one.number, one.candidate_hash, failure, preference))
    with stage.working():
        known = run.book.decisions(round_number)
        stage.expect(len(rows), known=len(known))
        if not known:
            evidence = [
                RowEvidence(row.row_id, signals[row.row_id], passed[row.row_id], tuple(candidates.get(row.row_id, ())))
                for row in rows
            ]
            (line,) = run.book.thresholds(round_number)
            settings = run.settings
            verdicts = decide(
                evidence,
                line,
                settings.correction_rules(),
                unscored=settings.unscored,
                control=settings.control,
            )
            with run.book.transaction():
                run.book.add_decisions(round_number, verdicts)
                stage.advance(len(rows))
            compared = [c.preference for found in candidates.values() for c in found if c.preference is not None]
            for note in place_notes(sum(one.flipped for one in compared), len(compared)):
                run.observer.noted(f"Round {round_number}: {note}")


def _nothing_stays(line: Threshold, settings: ClearSettings) -> str:
    """Why there is nothing to train on, and what to change."""
    if not line.num_values:
        return (
            f"Not one of {line.num_excluded} rows could be scored, and rows without a {line.signal} are dropped"
            " (--unscored drop), so that no row is left. Begin a new run with --unscored keep, or look at why"
            " (`burnish explain`)."
        )
    others, instead = "", "with a lower --threshold, or with --drop-fraction"
    if line.num_excluded and settings.unscored is Unscored.KEEP:
        others = f" {line.num_excluded} more have none, and stay, but the model that corrects is not trained on them."
        instead = "with a lower --threshold, with --drop-fraction, or with --filter-only"
    elif line.num_excluded:
        others = f" {line.num_excluded} more have none, and are dropped (--unscored drop)."
        instead = "with a lower --threshold, with --drop-fraction, or with --unscored keep"
    return (
        f"Not one of {line.num_values} rows has a {line.signal} of at least {line.tau}; their mean is {line.mean:.3f}"
        f" with a deviation of {line.std:.3f}.{others} Begin a new run {instead}."
    )


def _notes(
    line: Threshold, passed: Sequence[bool | None], evidence: Sequence[Evidence], settings: ClearSettings
) -> list[str]:
    """What a reader should know of the filter."""
    failed = sum(value is False for value in passed)
    if line.tau is None:
        return [f"no {line.signal} could be had of any of {len(passed)} rows; nothing is filtered."]
    share = failed / line.num_values
    notes = [f"{failed} of {line.num_values} rows ({share:.0%}) fail the filter on {line.signal}, {line.tau:.3f}."]
    if line.share is not None and failed < int(line.share * line.num_values):
        notes.append(f"{line.num_tied} rows tie at the line and stay; --ties rank would drop {line.share:.0%} exactly.")
    if line.num_excluded:
        notes.append(f"{line.num_excluded} rows have no {line.signal} and are not filtered by it.")
    return notes + evidence_notes(evidence, settings)


def evidence_notes(evidence: Sequence[Evidence], settings: ClearSettings) -> list[str]:
    """What a reader should know of the evidence that confidence is made of."""
    notes, weights = [], settings.weights()
    health = reflection_health(evidence, weights)
    if health is not None and settings.signal in ("confidence", "reflection"):
        notes += reflection_notes(health, tier=settings.tier.value)
    if settings.signal == "confidence":
        notes += mixture_notes(evidence, weights)
    return notes
