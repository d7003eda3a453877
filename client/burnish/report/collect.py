"""Collects what a report says from a run's ledger. Reads only."""

from __future__ import annotations

from collections.abc import Iterable

from burnish.coordinator.arms import run_round
from burnish.coordinator.history import RunHistory
from burnish.coordinator.truth import Known, read_truth
from burnish.report.against_truth import hold_against
from burnish.report.arms import models_of, not_compared
from burnish.report.common import Decided, timings_of
from burnish.report.data import ReportData
from burnish.report.recipes import PAGES
from burnish.report.short import in_short
from burnish.report.truth_data import TruthRound
from burnish.report.verdict import draws_are_all_rows


def collect(history: RunHistory, *, truth: str = "") -> ReportData:
    """Everything that the report of a run says, finished or not.

    `truth`: what is known to be wrong with its data, as `truth.read_truth` takes it. Raises DataError where it cannot
    be read.
    """
    run = history.run
    datasets = history.datasets()
    steps = history.steps()
    known: dict[str, Known] = read_truth(history, truth) if truth and datasets else {}
    made = ((d, history.decisions(d.round)) for d in datasets)
    decided = [Decided(history, d.round, d.num_rows, decisions, steps, known) for d, decisions in made if decisions]
    page = PAGES[run.recipe]
    rounds = [page.round(one) for one in decided]
    notes = page.notes(history, rounds)
    notes += _hold_notes(history, [one.number for one in rounds])
    short = in_short(history, truth_is_known=bool(known))
    if unscored := not_compared(history, short.arms):
        notes.append(
            f"{unscored} held-out samples could not be scored under every model; models are compared by the others."
        )
    numbers = {one.number for one in rounds}
    finished = run.finished_at is not None
    return ReportData(
        run_id=run.run_id,
        recipe=run.recipe,
        version=run.burnish_version,
        created_at=run.created_at.strftime("%Y-%m-%d %H:%M UTC"),
        finished=finished,
        rows_in=datasets[0].num_rows if datasets else 0,
        rows_out=datasets[-1].num_rows if finished else None,
        rounds=rounds,
        last_timings=timings_of((step for step in steps if step.round not in numbers), run_round(run.config)),
        models=models_of(history, shuffled=draws_are_all_rows(short.arms)),
        config=run.config,
        notes=notes,
        short=short,
        truth=[against for against in map(_against, decided) if against],
    )


def _against(one: Decided) -> TruthRound | None:
    following = {row.row_id: row.sample_hash for row in one.history.rows(one.number + 1)} if one.known else {}
    return hold_against(one.number, one.decisions, following or None, one.known)


def _hold_notes(history: RunHistory, numbers: Iterable[int]) -> list[str]:
    notes = []
    for number in numbers:
        held = history.held(number)
        if held:
            kept = sum(one.kept for one in held)
            notes.append(f"Round {number}: the set's size was held; of {len(held)} rows {kept} went on, by coverage.")
    return notes
