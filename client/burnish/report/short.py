"""Collects the first page of a report from a run's ledger; the same for every recipe."""

from __future__ import annotations

from burnish.coordinator.arms import ArmKind, run_round
from burnish.coordinator.history import RunHistory
from burnish.coordinator.policy.verdict import SET_ASIDE
from burnish.report.arms import arms_of
from burnish.report.cost import cost_of
from burnish.report.flow import flow_of
from burnish.report.gap import gap_recovered
from burnish.report.next_step import next_step, with_controls
from burnish.report.short_data import Arm, Flow, Gap, InShort
from burnish.report.verdict import verdict


def in_short(history: RunHistory, *, truth_is_known: bool) -> InShort:
    """Of a run, finished or not."""
    run = history.run
    finished = run.finished_at is not None
    arms = arms_of(history)
    source = run.source or {}
    about = source.get("holdout")
    held_out = int(str(about["num_rows"])) if isinstance(about, dict) else 0
    control = with_controls(run.recipe, run.config["settings"])
    said = verdict(arms, held_out=bool(held_out), finished=finished)
    return InShort(
        flow=_flow(history, finished=finished),
        arms=arms,
        held_out=held_out,
        verdict=said,
        gap=_gap(arms) if truth_is_known and held_out else None,
        cost=cost_of(history.steps(), run.recipe, run.config),
        next_step=next_step(said, arms, control=control, held_out=held_out, finished=finished),
    )


def _flow(history: RunHistory, *, finished: bool) -> Flow | None:
    """From the source to the final data set; None before that is there."""
    datasets = history.datasets()
    last = run_round(history.run.config)
    if not datasets or not (finished or datasets[-1].round == last):
        return None
    aside = {d.row_id for one in datasets for d in history.decisions(one.round) if d.actions[0] in SET_ASIDE}
    return flow_of(history.rows(1), history.rows(datasets[-1].round), aside)


def _gap(arms: list[Arm]) -> Gap:
    found = {arm.kind: arm for arm in arms}
    wanted = {
        ArmKind.RUN: "the run trained no model on what it made",
        ArmKind.ORACLE: "no model was trained on the right rows only; repeat the same command with --oracle",
        ArmKind.ALL: "no model was trained on all rows; repeat the same command with --oracle",
    }
    for kind, words in wanted.items():
        if kind not in found:
            return Gap(untold=words)
    scores = {kind: found[kind].scores for kind in wanted}
    if not all(scores.values()):
        return Gap(untold="the losses of single held-out rows are not in the ledger")
    return gap_recovered(*(scores[kind][0] for kind in (ArmKind.ALL, ArmKind.RUN, ArmKind.ORACLE)))
