"""What the arms of a cell have found so far, read from the cell's ledger and its models' answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from bench.efficacy.answers import asked, samples, scored
from bench.efficacy.arms import ARMS, Arm, Kind, control_of
from bench.efficacy.cell import Cell
from bench.efficacy.costs import cost, rates, seconds_of
from bench.efficacy.measures import Detection, HeldOut, detection
from bench.efficacy.runs import Planned, arm_runs, control_runs, last_model, made
from bench.efficacy.signals import measures
from bench.efficacy.trust import Signals, Trust
from burnish import Sample
from burnish.coordinator.content import sample_hash
from burnish.coordinator.history import RunHistory
from burnish.coordinator.records import ModelRecord


@dataclass(frozen=True)
class Measured:
    """One arm. `losses`: nats and tokens of held-out rows; `scores`: of those that were answered, None where they were
    not. `rows`: trained on. `trained_seconds`: its last training; `seconds`: all from the data to its model."""

    kind: Kind
    losses: HeldOut
    scores: HeldOut | None
    rows: int
    trained_seconds: float
    seconds: float
    detection: Detection | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Found:
    """A cell. `rows`: to train on, `wrong` of them with a flaw; `base_loss` and `base_score`: held out, of the base
    model. `measures`: by signal, whether an arm went by it or not. `problems`: why arms that have ended are not
    there."""

    cell: Cell
    rows: int
    wrong: int
    base_loss: float | None = None
    arms: dict[str, Measured] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    base_score: float | None = None
    measures: Mapping[str, Detection] = field(default_factory=dict)


class Unscored(Exception):
    """Held-out rows have no loss, so that a model cannot be compared; the message is for people."""


def read_cell(cell: Cell) -> Found:
    """What there is of it. Arms that have not ended are absent, and so are controls not all of whose draws have."""
    flaws = cell.files.flaws()
    names = [row.id for row in samples(cell.files.training)]
    reader = _Reader.of(cell, flaws)
    found = Found(cell, len(names), len(flaws))
    for run in arm_runs(cell):
        if made(run.folder) is not None:
            try:
                found.arms[run.name] = reader.read(run, ARMS[run.name])
            except Unscored as error:
                found.problems.append(f"{cell}: {error}")
    _add_controls(found, reader)
    return replace(
        found,
        base_loss=reader.base_loss,
        base_score=reader.base_score,
        measures=measures(reader.signals, flaws),
    )


def _add_controls(found: Found, reader: _Reader) -> None:
    """Arms of as many rows share theirs."""
    cell, controls = found.cell, dict[int, Measured | None]()
    for name, one in list(found.arms.items()):
        if not ARMS[name].chooses or not cell.random_subsets or one.rows in cell.known_rows:
            continue
        if one.rows not in controls:
            try:
                controls[one.rows] = _control(cell, reader, one.rows)
            except Unscored as error:
                controls[one.rows] = None
                found.problems.append(f"{cell}: {error}")
        control = controls[one.rows]
        if control is not None:
            found.arms[control_of(name)] = control


def _control(cell: Cell, reader: _Reader, rows: int) -> Measured | None:
    """The mean over the draws; None where one has not ended, or there is none."""
    runs = list(control_runs(cell, rows))
    if not runs or any(made(run.folder) is None for run in runs):
        return None
    drawn = [reader.read(run, None) for run in runs]
    scores = [one.scores for one in drawn if one.scores is not None]
    return Measured(
        kind=Kind.CONTROL,
        losses=_mean([one.losses for one in drawn]),
        scores=_mean(scores) if len(scores) == len(drawn) else None,
        rows=rows,
        trained_seconds=sum(one.trained_seconds for one in drawn) / len(drawn),
        seconds=sum(one.seconds for one in drawn) / len(drawn),
    )


def _mean(draws: Sequence[HeldOut]) -> HeldOut:
    """Row by row; of a mean over tokens this is exact, for all have the same rows."""
    return HeldOut(np.mean([one.values for one in draws], axis=0), draws[0].sizes)


@dataclass
class _Reader:
    """What reading one run of a cell takes from the others."""

    cell: Cell
    flaws: Mapping[str, str]
    per_item: Mapping[str, float]
    base_loss: float | None = None
    base_score: float | None = None
    signals: list[dict[str, Signals]] = field(default_factory=list)  # of each arm's decisions, by row

    @classmethod
    def of(cls, cell: Cell, flaws: Mapping[str, str]) -> _Reader:
        """Of a cell. What an arm took over may have been paid for by any run of its ledger, as by one of other settings
        that is no arm any more."""
        steps = []
        for folder in sorted(path.parent for path in cell.runs.glob("*/config.json")):
            if made(folder) is None:
                continue
            with RunHistory.open(folder) as history:
                steps += history.steps()
        return cls(cell, flaws, rates(steps))

    def read(self, run: Planned, arm: Arm | None) -> Measured:
        """One run that has ended, of an arm or, for None, of random rows. Raises Unscored."""
        with RunHistory.open(run.folder) as history:
            models = history.models()
            model = last_model(history)
            answered = asked(self.cell)
            scores = scored(self.cell, model.digest, answered)
            self._note_base(next((one for one in models if one.role == "base"), None), answered)
            if arm and arm.chooses:
                self.signals.append({one.row_id: one.signals for one in history.decisions(1)})
            return Measured(
                kind=arm.kind if arm else Kind.CONTROL,
                losses=self._losses(history, run.name),
                scores=None if scores is None else HeldOut(np.array(scores), np.ones(len(scores))),
                rows=history.datasets()[-1].num_rows,
                trained_seconds=seconds_of(model),
                seconds=cost(history.steps(), models, self.per_item),
                detection=self._detection(history, arm.trust) if arm and arm.chooses else None,
                settings=run.told if arm and arm.chooses else {},
            )

    def _note_base(self, base: ModelRecord | None, answered: Sequence[Sample]) -> None:
        if base is not None:
            self.base_loss = self.base_loss if base.eval_loss is None else base.eval_loss
            scores = scored(self.cell, base.digest, answered)
            self.base_score = float(np.mean(scores)) if scores else self.base_score

    def _losses(self, history: RunHistory, name: str) -> HeldOut:
        hashes = list(dict.fromkeys(sample_hash(row.messages) for row in samples(self.cell.files.held_out)))
        last = history.datasets()[-1].round
        step = next(one for one in history.steps() if (one.round, one.name) == (last, "evaluate"))
        version = step.detail["model"]
        assert isinstance(version, dict)
        found = history.response_losses(hashes, version["digest"], version["chat_template_digest"])
        failed = [one for one in hashes if one not in found]
        if failed:
            raise Unscored(f"{name}: {len(failed)} held-out rows were not scored, the first: {failed[0]}")
        values, sizes = zip(*(found[one] for one in hashes), strict=True)
        return HeldOut(np.array(values, dtype=float), np.array(sizes, dtype=float))

    def _detection(self, history: RunHistory, trust: Trust | None) -> Detection:
        """Rows that are in the last data set as they came are kept; all others were dropped, or given another text."""
        given, last = history.rows(1), history.rows(history.datasets()[-1].round)
        there = {(row.source_row_id, row.sample_hash) for row in last}
        dropped = {row.row_id for row in given if (row.row_id, row.sample_hash) not in there}
        values = {}
        for one in history.decisions(1) if trust else ():
            value = trust(one.signals) if trust else None
            if value is not None:
                values[one.row_id] = value
        return detection(values, dropped, self.flaws)
