"""One run's page in the ledger, as the loop reads and writes it. Reports read through `history.py`.

Owns the tables keyed by run: the run, its data sets, steps, models, decisions. What services found about samples is
in `findings.py`. Every write belongs inside `book.transaction()`, so that a batch and the progress it made get in
together or not at all.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import astuple

from burnish._training_types import SampleWeights
from burnish._types import Message, ModelVersion, RunEvent, RunState
from burnish.coordinator import history
from burnish.coordinator.acceptance import Acceptances
from burnish.coordinator.beliefs import Beliefs
from burnish.coordinator.content import canonical_json, dataset_digest, message_list
from burnish.coordinator.curation import Curation
from burnish.coordinator.findings import Findings, RewriteKey
from burnish.coordinator.ledger import Ledger
from burnish.coordinator.policy.assembly import DataRow
from burnish.coordinator.policy.bilevel import Weight
from burnish.coordinator.policy.coverage import Held
from burnish.coordinator.policy.middo import Action, Decision
from burnish.coordinator.policy.thresholds import Threshold
from burnish.coordinator.policy.verdict import Verdict
from burnish.coordinator.records import DatasetRecord, DecisionRecord, ModelRecord, StepRecord
from burnish.coordinator.refreshes import Refreshes


class RunBook:
    """One run in a ledger open for writing."""

    def __init__(self, ledger: Ledger, run_id: str) -> None:
        self.run_id = run_id
        self.findings = Findings(ledger)
        self.beliefs = Beliefs(ledger)
        self.curation = Curation(ledger, run_id)
        self.refreshes = Refreshes(ledger, run_id)
        self.acceptance = Acceptances(ledger, run_id)
        self._ledger = ledger

    def history(self) -> history.RunHistory:
        """The run as reports and exports read it."""
        return history.RunHistory(self._ledger, self.run_id)

    def transaction(self) -> AbstractContextManager[None]:
        """See Ledger.transaction."""
        return self._ledger.transaction()

    # ---- the run

    def begin(self, recipe: str, config: Mapping[str, object], version: str) -> None:
        """Writes the run down; one that is there takes over the configuration, whose options may be new."""
        self._ledger.execute(
            "INSERT INTO run (run_id, recipe, config, burnish_version, created_at) VALUES (?, ?, ?, ?, now())"
            " ON CONFLICT DO UPDATE SET config = excluded.config",
            (self.run_id, recipe, canonical_json(config), version),
        )

    def finish(self) -> None:
        """Notes that the last step is done."""
        self._ledger.execute("UPDATE run SET finished_at = now() WHERE run_id = ?", (self.run_id,))

    def forget(self) -> None:
        """Strikes out a run that has read no data yet."""
        for table in ("source_row", "step", "run"):
            self._ledger.execute(f"DELETE FROM {table} WHERE run_id = ?", (self.run_id,))

    def began(self) -> str:
        """When this ledger's run began; another time in a ledger that was begun anew, or repaired."""
        return self.history().run.created_at.isoformat()

    # ---- data

    def set_source(self, source: Mapping[str, object]) -> None:
        """Writes down how the data came."""
        self._ledger.execute("UPDATE run SET source = ? WHERE run_id = ?", (canonical_json(source), self.run_id))

    def forget_source_rows(self) -> None:
        """Strikes out the source's rows, before they are read from the beginning."""
        self._ledger.execute("DELETE FROM source_row WHERE run_id = ?", (self.run_id,))

    def add_source_rows(self, first: int, records: Sequence[str]) -> None:
        """Writes the source's rows, as JSON text, from position `first` on."""
        rows = [(self.run_id, first + i, record) for i, record in enumerate(records)]
        self._ledger.append("source_row", ("run_id", "position", "record"), rows)

    def add_samples(self, samples: Mapping[str, Sequence[Message]]) -> None:
        """Writes conversations by hash; those that are there stay."""
        rows = [(sample_hash, canonical_json(message_list(messages))) for sample_hash, messages in samples.items()]
        self._ledger.append("sample", ("sample_hash", "messages"), rows, conflict="ON CONFLICT DO NOTHING")

    def samples(self, hashes: Iterable[str]) -> dict[str, tuple[Message, ...]]:
        """Conversations by hash."""
        return history.read_samples(self._ledger, hashes)

    def add_dataset(self, round_number: int, rows: Sequence[DataRow]) -> str:
        """Writes the data set at the start of a round; returns its digest. The samples must be there."""
        digest = dataset_digest((row.row_id, row.sample_hash) for row in rows)
        columns = ("run_id", "round", "position", "row_id", "sample_hash", "origin", "parent_row_id", "source_row_id")
        values = ((self.run_id, round_number, place, *astuple(row)) for place, row in enumerate(rows))
        self._ledger.append("dataset_row", columns, values)
        self._ledger.append(
            "dataset", ("run_id", "round", "digest", "num_rows"), [(self.run_id, round_number, digest, len(rows))]
        )
        return digest

    def dataset(self, round_number: int) -> DatasetRecord | None:
        """The data set of a round; None where it is not there yet."""
        found = [d for d in history.read_datasets(self._ledger, self.run_id) if d.round == round_number]
        return found[0] if found else None

    def rows(self, round_number: int) -> list[DataRow]:
        """The rows of a round's data set, in order."""
        return history.read_rows(self._ledger, self.run_id, round_number)

    # ---- steps

    def step(self, round_number: int, name: str) -> StepRecord | None:
        """A step as it stands; None where it was not begun."""
        found = [s for s in history.read_steps(self._ledger, self.run_id) if (s.round, s.name) == (round_number, name)]
        return found[0] if found else None

    def begin_step(self, round_number: int, position: int, name: str) -> StepRecord:
        """Notes that a step is under way, or again."""
        self._ledger.execute(
            "INSERT INTO step VALUES (?, ?, ?, ?, 'running', 0, 0, 0, 0, now(), NULL, '{}')"
            " ON CONFLICT DO UPDATE SET state = 'running'",
            (self.run_id, round_number, position, name),
        )
        record = self.step(round_number, name)
        assert record is not None
        return record

    def plan_step(
        self, round_number: int, name: str, *, total: int, done: int, reused: int, detail: Mapping[str, object]
    ) -> None:
        """Notes how many items a step has, how many are done, and how many were before it began."""
        self._ledger.execute(
            "UPDATE step SET total = ?, done = ?, reused = ?, detail = ? WHERE run_id = ? AND round = ? AND name = ?",
            (total, done, reused, canonical_json(detail), self.run_id, round_number, name),
        )

    def advance_step(self, round_number: int, name: str, *, done: int, total: int, seconds: float) -> None:
        """Notes progress: items done, and `seconds` of work since it was last noted."""
        self._ledger.execute(
            "UPDATE step SET done = ?, total = ?, seconds = seconds + ? WHERE run_id = ? AND round = ? AND name = ?",
            (done, total, seconds, self.run_id, round_number, name),
        )

    def note_step(self, round_number: int, name: str, detail: Mapping[str, object]) -> None:
        """Adds to what a step is noted with."""
        self._ledger.execute(
            "UPDATE step SET detail = json_merge_patch(detail, ?) WHERE run_id = ? AND round = ? AND name = ?",
            (canonical_json(detail), self.run_id, round_number, name),
        )

    def end_step(self, round_number: int, name: str, state: str, seconds: float) -> None:
        """Notes that a step is `done` or `failed`."""
        self._ledger.execute(
            "UPDATE step SET state = ?, seconds = seconds + ?, finished_at = now()"
            " WHERE run_id = ? AND round = ? AND name = ?",
            (state, seconds, self.run_id, round_number, name),
        )

    def said_before(self, steps: Sequence[str], digest: str) -> list[ModelVersion]:
        """The model versions that this run's steps of these names are noted with, in the order they were begun, where
        any item is done; then those of the ledger's other runs under the weights `digest`, what was found under which
        is this run's, too."""
        rows = self._ledger.select(
            "SELECT detail -> '$.model' FROM step WHERE name IN (SELECT key FROM wanted) AND done > 0"
            " AND (detail -> '$.model') IS NOT NULL AND (run_id = ? OR (detail ->> '$.model.digest') = ?)"
            " ORDER BY run_id <> ?, started_at, round, position",
            (self.run_id, digest, self.run_id),
            keys=steps,
        )
        return [ModelVersion(**json.loads(said)) for (said,) in rows]

    # ---- models and training

    def add_model(self, model: ModelRecord) -> None:
        """Writes a model down; one that is there stays."""
        self._ledger.execute(
            "INSERT INTO model VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            (
                self.run_id,
                model.round,
                model.role,
                model.uri,
                model.digest,
                model.training_run,
                model.train_loss,
                model.eval_loss,
                canonical_json(model.detail),
            ),
        )

    def set_eval_loss(self, model: ModelRecord, loss: float | None) -> None:
        """Notes a model's held-out loss, nats per response token."""
        self._ledger.execute(
            "UPDATE model SET eval_loss = ? WHERE run_id = ? AND round = ? AND role = ?",
            (loss, self.run_id, model.round, model.role),
        )

    def model(self, round_number: int, role: str) -> ModelRecord | None:
        """A model of the run; None where it is not known yet."""
        found = [m for m in history.read_models(self._ledger, self.run_id) if (m.round, m.role) == (round_number, role)]
        return found[0] if found else None

    def forget_trained(self, round_number: int) -> None:
        """Strikes out a round's model and the steps that made and measured it; the run is not finished without them."""
        self._ledger.execute("UPDATE run SET finished_at = NULL WHERE run_id = ?", (self.run_id,))
        self._ledger.execute(
            "DELETE FROM model WHERE run_id = ? AND round = ? AND role = 'trained'", (self.run_id, round_number)
        )
        self._ledger.execute(
            "DELETE FROM step WHERE run_id = ? AND round = ? AND name IN ('train', 'evaluate')",
            (self.run_id, round_number),
        )

    def trained_before(self, training_key: str) -> list[ModelRecord]:
        """The models of all runs of this ledger that were trained under this key, this run's first, each place once;
        see steps/train.py."""
        runs = self._ledger.select(
            "SELECT DISTINCT run_id FROM model WHERE detail ->> 'training_key' = ? ORDER BY run_id",
            (training_key,),
        )
        found: dict[str, ModelRecord] = {}
        for (run_id,) in sorted(runs, key=lambda one: one[0] != self.run_id):
            for model in history.read_models(self._ledger, run_id):
                if model.detail.get("training_key") == training_key:
                    found.setdefault(model.uri, model)
        return list(found.values())

    def add_training_events(self, round_number: int, events: Sequence[RunEvent]) -> None:
        """Writes what the training service reported; events that are there stay."""
        columns = (
            "run_id",
            "round",
            "training_run",
            "number",
            "reported_at",
            "state",
            "step",
            "total_steps",
            "loss",
            "learning_rate",
            "tokens_per_second",
            "eval_loss",
        )
        rows = [
            (
                self.run_id,
                round_number,
                event.run.run_id,
                event.number,
                event.time,
                event.run.state.value,
                event.run.progress.step,
                event.run.progress.total_steps,
                event.run.progress.loss,
                event.run.progress.learning_rate,
                event.run.progress.tokens_per_second,
                event.run.progress.eval_loss,
            )
            for event in events
        ]
        self._ledger.append("training_event", columns, rows, conflict="ON CONFLICT DO NOTHING")

    def forget_training_events(self, round_number: int, training_run: str) -> None:
        """Strikes out the events of a training run that the service counts anew."""
        self._ledger.execute(
            "DELETE FROM training_event WHERE run_id = ? AND round = ? AND training_run = ?",
            (self.run_id, round_number, training_run),
        )

    def last_training_event(self, round_number: int, training_run: str) -> int:
        """The number of the last event written; 0 for none."""
        return int(
            self._ledger.select(
                "SELECT coalesce(max(number), 0) FROM training_event"
                " WHERE run_id = ? AND round = ? AND training_run = ?",
                (self.run_id, round_number, training_run),
            )[0][0]
        )

    def training_ended_badly(self, round_number: int, training_run: str) -> bool:
        """True where it was written down that a training run failed or was cancelled."""
        return bool(
            self._ledger.select(
                "SELECT 1 FROM training_event WHERE run_id = ? AND round = ? AND training_run = ? AND state IN (?, ?)",
                (self.run_id, round_number, training_run, RunState.FAILED.value, RunState.CANCELLED.value),
            )
        )

    # ---- decisions

    def add_thresholds(self, round_number: int, thresholds: Sequence[Threshold]) -> None:
        """Writes the lines that were drawn in a round."""
        names = ("axis", "signal", "mean", "std", "m", "tau", "share", "num_tied", "num_values", "num_excluded")
        lines = [(self.run_id, round_number, *(getattr(line, name) for name in names)) for line in thresholds]
        self._ledger.append("threshold", ("run_id", "round", *names), lines)

    def thresholds(self, round_number: int) -> list[Threshold]:
        """The lines that were drawn in a round."""
        return history.read_thresholds(self._ledger, self.run_id, round_number)

    def add_decisions(self, round_number: int, decisions: Sequence[Verdict | Decision]) -> None:
        """Writes a round's decisions, one for each of its rows."""
        columns = ("run_id", "round", "row_id", "axes", "actions", "signals", "reasons", "hints")
        values = (
            (
                self.run_id,
                round_number,
                decision.row_id,
                [str(axis) for axis in decision.axes],
                [str(action) for action in decision.actions],
                json.dumps(dict(decision.signals)),
                json.dumps(decision.reasons, ensure_ascii=False),
                list(decision.hints),
            )
            for decision in decisions
        )
        self._ledger.append("decision", columns, values)

    def decisions(self, round_number: int) -> list[DecisionRecord]:
        """A round's decisions, in the order of its rows."""
        return history.read_decisions(self._ledger, self.run_id, round_number)

    def add_places(self, round_number: int, places: Sequence[tuple[str, float, float]]) -> None:
        """Writes where samples lie in a round's picture: (hash, x, y)."""
        columns = ("run_id", "round", "sample_hash", "x", "y")
        self._ledger.append("place", columns, ((self.run_id, round_number, *place) for place in places))

    def add_weights(self, round_number: int, snapshot: SampleWeights) -> None:
        """Writes the weights that a round's training had learnt after some steps."""
        columns = ("run_id", "round", "step", "row_id", "weight", "logit")
        learnt = zip(snapshot.ids, snapshot.weights.tolist(), snapshot.logits.tolist(), strict=True)
        values = ((self.run_id, round_number, snapshot.step, *one) for one in learnt)
        self._ledger.append("sample_weight", columns, values)

    def last_weight_step(self, round_number: int) -> int:
        """The steps after which weights were last noted; 0 for none."""
        steps = history.read_weight_steps(self._ledger, self.run_id, round_number)
        return steps[-1] if steps else 0

    def weights(self, round_number: int) -> dict[str, Weight]:
        """By row, what a round's training has learnt in the end; empty where it learnt none."""
        step = self.last_weight_step(round_number)
        return history.read_weights(self._ledger, self.run_id, round_number, step)

    def add_held(self, round_number: int, held: Sequence[Held]) -> None:
        """Writes which rows go on where the set's size is held."""
        columns = ("run_id", "round", *Held.__slots__)
        self._ledger.append("held", columns, ((self.run_id, round_number, *astuple(one)) for one in held))

    def held(self, round_number: int) -> list[Held]:
        """Which rows of the set that would have followed a round go on; empty where the size was not held."""
        return history.read_held(self._ledger, self.run_id, round_number)

    def add_refinements(self, round_number: int, asked: Sequence[tuple[str, RewriteKey]]) -> None:
        """Writes which rewrite each row's decision asks for: (row id, key). Keys are written anew where prompts or
        parameters changed before the step was done."""
        columns = ("run_id", "round", "row_id", *RewriteKey.__slots__)
        rows = [(self.run_id, round_number, row_id, *astuple(key)) for row_id, key in asked]
        changing = [name for name in RewriteKey.__slots__ if name != "strategy"]
        settings = ", ".join(f"{name} = excluded.{name}" for name in changing)
        self._ledger.append("refinement", columns, rows, conflict=f"ON CONFLICT DO UPDATE SET {settings}")

    def outcomes(self, round_number: int) -> dict[tuple[str, Action], str | None]:
        """What became of the rewrites that a round's decisions asked for: the new sample's hash, None where every
        attempt was rejected; those still to come are absent."""
        rows = self._ledger.select(
            "SELECT f.row_id, f.strategy, w.result_hash FROM refinement f JOIN rewrite w USING"
            " (sample_hash, strategy, context_digest, model_digest, prompt_version, params_digest)"
            " WHERE f.run_id = ? AND f.round = ?",
            (self.run_id, round_number),
        )
        return {(row_id, Action(strategy)): result for row_id, strategy, result in rows}
