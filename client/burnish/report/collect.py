"""Collects what a report says from a run's ledger. Reads only; the planted truth is read here and nowhere else."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from burnish._types import Message, Role
from burnish.coordinator.errors import DataError
from burnish.coordinator.history import RunHistory
from burnish.coordinator.records import DecisionRecord, RewriteRecord, StepRecord
from burnish.report.data import (
    AXES,
    Change,
    Failure,
    FlawRate,
    FlawTable,
    Model,
    ReportData,
    Round,
    StepTiming,
    Threshold,
)

_ADDED = "diversify"


def collect(history: RunHistory, *, truth: Path | None = None) -> ReportData:
    """Everything that the report of a run says, finished or not.

    `truth`: JSON lines with `id` and `flaw` of rows that were planted on purpose. Raises DataError where it cannot be
    read.
    """
    run = history.run
    datasets = history.datasets()
    steps = history.steps()
    decided = [(d.round, d.num_rows, history.decisions(d.round)) for d in datasets]
    decided = [(number, rows, decisions) for number, rows, decisions in decided if decisions]
    rounds = [_round(history, number, rows, decisions, steps) for number, rows, decisions in decided]
    numbers = {one.number for one in rounds}
    finished = run.finished_at is not None
    planted = read_truth(truth) if truth else {}
    return ReportData(
        run_id=run.run_id,
        recipe=run.recipe,
        version=run.burnish_version,
        created_at=run.created_at.strftime("%Y-%m-%d %H:%M UTC"),
        finished=finished,
        rows_in=datasets[0].num_rows if datasets else 0,
        rows_out=datasets[-1].num_rows if finished else None,
        rounds=rounds,
        last_timings=_timings(step for step in steps if step.round not in numbers),
        models=[
            Model(_model_label(m.role, m.round), m.uri, m.digest, m.train_loss, m.eval_loss) for m in history.models()
        ],
        flaws=[_flaw_table(number, decisions, planted) for number, _, decisions in decided if planted],
        config=run.config,
        notes=_notes(rounds),
    )


def read_truth(path: Path) -> dict[str, str]:
    """Row id to planted flaw. Raises DataError with the place."""
    planted: dict[str, str] = {}
    number = 0
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):  # noqa: B007 - named in the error
                record = json.loads(line)
                planted[str(record["id"])] = str(record["flaw"])
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror}); expected JSON lines with `id` and `flaw`."
        ) from None
    except (ValueError, KeyError, TypeError):
        raise DataError(f"{path}, line {number}: expected a JSON object with `id` and `flaw`.") from None
    return planted


def _round(
    history: RunHistory, number: int, num_rows: int, decisions: Sequence[DecisionRecord], steps: Iterable[StepRecord]
) -> Round:
    rewrites = history.rewrites(number)
    accepted = [r for r in rewrites if r.after is not None]
    by_row = {decision.row_id: decision for decision in decisions}
    thresholds = [
        Threshold(t.signal, t.axis, t.mean, t.std, t.m, t.tau, t.num_values, t.num_excluded)
        for t in history.thresholds(number)
    ]
    return Round(
        number=number,
        num_rows=num_rows,
        selected={axis: sum(axis in d.axes for d in decisions) for axis in AXES},
        rewritten=len({r.row_id for r in accepted if r.strategy != _ADDED}),
        added=sum(r.strategy == _ADDED for r in accepted),
        rejected=len(rewrites) - len(accepted),
        thresholds=thresholds,
        signals={t.signal: _values(decisions, t.signal) for t in thresholds},
        changes=[_change(rewrite, by_row[rewrite.row_id]) for rewrite in rewrites],
        failures=[Failure(f.step, f.reason, f.count, _short(f.example)) for f in history.failures(number)],
        timings=_timings(step for step in steps if step.round == number),
    )


def _values(decisions: Iterable[DecisionRecord], signal: str) -> list[float]:
    values = (d.signals.get(signal) for d in decisions)
    return [value for value in values if value is not None]


def _change(rewrite: RewriteRecord, decision: DecisionRecord) -> Change:
    before, after = rewrite.before, rewrite.after
    return Change(
        row_id=rewrite.row_id,
        axes=decision.axes,
        action=rewrite.strategy,
        reasons=decision.reasons,
        before_prompt=_said(before, Role.USER),
        before_response=_said(before, Role.ASSISTANT),
        after_prompt=None if after is None else _said(after, Role.USER),
        after_response=None if after is None else _said(after, Role.ASSISTANT),
        rejection="" if after is not None else _rejection(rewrite),
    )


def _rejection(rewrite: RewriteRecord) -> str:
    words = [a.rejection.replace("_", " ") for a in rewrite.attempts if a.rejection]
    return ", ".join(dict.fromkeys(words)) or rewrite.message


def _said(messages: Iterable[Message], role: Role) -> str:
    return "\n\n".join(m.content for m in messages if m.role is role)


def _timings(steps: Iterable[StepRecord]) -> list[StepTiming]:
    return [StepTiming(s.name, s.state, s.total, s.reused, s.seconds) for s in steps]


def _model_label(role: str, number: int) -> str:
    return role if number == 0 else f"{role} in round {number}"


def _flaw_table(number: int, decisions: Sequence[DecisionRecord], planted: Mapping[str, str]) -> FlawTable:
    """Counts over the rows that still are what the source gave: a rewritten row has lost its planted flaw."""
    rows = [d for d in decisions if d.origin == "source"]

    def rate(label: str, members: Sequence[DecisionRecord]) -> FlawRate:
        found = {axis: sum(axis in d.axes for d in members) for axis in AXES}
        return FlawRate(label, len(members), found | {"any": sum(bool(d.axes) for d in members)})

    flaws = sorted(set(planted.values()))
    rates = [rate(flaw, [d for d in rows if planted.get(d.row_id) == flaw]) for flaw in flaws]
    clean = rate("none", [d for d in rows if d.row_id not in planted])
    gone = len(decisions) - len(rows)
    expected = f"{gone} rows that earlier rounds rewrote or added are not counted here." if gone else ""
    return FlawTable(number, rates, clean, expected)


def _notes(rounds: Sequence[Round]) -> list[str]:
    """What a reader should know before believing the numbers."""
    notes = []
    for one in rounds:
        for threshold in one.thresholds:
            measured = threshold.num_values + threshold.num_excluded
            if measured and threshold.num_excluded > 0.2 * measured:
                notes.append(
                    f"Round {one.number}: {threshold.num_excluded} of {measured} rows have no value for "
                    f"{threshold.signal.replace('_', ' ')} and took no part in that axis."
                )
        asked = len(one.changes)
        if asked and one.rejected > 0.5 * asked:
            notes.append(
                f"Round {one.number}: {one.rejected} of {asked} rewrites were rejected by validation, their originals "
                "kept. A larger refiner model (--refiner) would do better."
            )
    return notes


def _short(text: str, limit: int = 160) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= limit else flat[: limit - 1] + "…"
