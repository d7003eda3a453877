"""Collects what a report says from a run's ledger. Reads only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from burnish.coordinator.arms import run_round
from burnish.coordinator.history import RunHistory
from burnish.coordinator.records import DecisionRecord
from burnish.coordinator.truth import Known, read_truth
from burnish.report.against_truth import hold_against
from burnish.report.arms import models_of, not_compared
from burnish.report.bds import bds_notes, bds_round
from burnish.report.bmo import bmo_notes, bmo_round
from burnish.report.clear import clear_notes, clear_round
from burnish.report.common import timings_of
from burnish.report.data import BdsRound, ClearRound, FilterRound, FlawTable, MadsRound, MiddoRound, ReportData
from burnish.report.filter import filter_notes, filter_round
from burnish.report.mads import mads_notes, mads_round
from burnish.report.middo import flaw_table, middo_notes, middo_round
from burnish.report.short import in_short
from burnish.report.truth_data import TruthRound


def collect(history: RunHistory, *, truth: str = "") -> ReportData:
    """Everything that the report of a run says, finished or not.

    `truth`: what is known to be wrong with its data, as `truth.read_truth` takes it. Raises DataError where it cannot
    be read.
    """
    run = history.run
    datasets = history.datasets()
    steps = history.steps()
    decided = [(d.round, d.num_rows, history.decisions(d.round)) for d in datasets]
    decided = [(number, rows, decisions) for number, rows, decisions in decided if decisions]
    known: dict[str, Known] = read_truth(history, truth) if truth and datasets else {}
    rounds: list[MiddoRound] | list[ClearRound] | list[MadsRound] | list[BdsRound] | list[FilterRound]
    flaws: list[FlawTable] = []
    if run.recipe == "clear":
        rounds = [clear_round(history, *one, steps, known) for one in decided]
        notes = clear_notes(history, rounds)
    elif run.recipe == "mads":
        rounds = [mads_round(history, *one, steps) for one in decided]
        notes = mads_notes(history)
    elif run.recipe in ("bds", "bmo"):
        make = bds_round if run.recipe == "bds" else bmo_round
        rounds = [make(history, *one, steps, known) for one in decided]
        notes = bds_notes(history) if run.recipe == "bds" else bmo_notes(history)
    elif run.recipe in ("filter", "auto"):
        rounds = [filter_round(history, *one, steps) for one in decided]
        notes = filter_notes(history, rounds)
    else:
        rounds = [middo_round(history, *one, steps) for one in decided]
        flaws = [flaw_table(number, decisions, known) for number, _, decisions in decided if known]
        notes = middo_notes(rounds, steps)
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
        models=models_of(history),
        config=run.config,
        flaws=flaws,
        notes=notes,
        short=short,
        truth=[one for one in (_against(history, number, made, known) for number, _, made in decided) if one],
    )


def _against(
    history: RunHistory, number: int, decisions: Sequence[DecisionRecord], known: Mapping[str, Known]
) -> TruthRound | None:
    following = {row.row_id: row.sample_hash for row in history.rows(number + 1)} if known else {}
    return hold_against(number, decisions, following or None, known)


def _hold_notes(history: RunHistory, numbers: Iterable[int]) -> list[str]:
    notes = []
    for number in numbers:
        held = history.held(number)
        if held:
            kept = sum(one.kept for one in held)
            notes.append(f"Round {number}: the set's size was held; of {len(held)} rows {kept} went on, by coverage.")
    return notes
