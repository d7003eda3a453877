"""What a run has done, for reports, status and export: typed reading of the ledger. Writes nothing.

`RunHistory.open(out_dir)` opens the run in a run directory; it raises LedgerBusy while the run goes on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from burnish._types import Attempt, Message, Role
from burnish.coordinator.acceptance import Acceptances
from burnish.coordinator.beliefs import Beliefs, ConfidenceKey, PreferenceKey, preference_of
from burnish.coordinator.errors import LedgerError, NoRun
from burnish.coordinator.ledger import Ledger
from burnish.coordinator.paths import RunPaths
from burnish.coordinator.policy.acceptance import Acceptance, why
from burnish.coordinator.policy.assembly import DataRow
from burnish.coordinator.policy.bilevel import Weight
from burnish.coordinator.policy.confidence import Evidence
from burnish.coordinator.policy.coverage import Held
from burnish.coordinator.policy.thresholds import Threshold
from burnish.coordinator.records import (
    CandidateStory,
    DatasetRecord,
    DecisionRecord,
    FailureRecord,
    ModelRecord,
    RewriteRecord,
    RunRecord,
    StepRecord,
)
from burnish.coordinator.refreshes import Refreshes


@dataclass(frozen=True, slots=True)
class FinalRow:
    """A row to be written: its conversation, and the source row that it goes back to, all columns as they came."""

    row: DataRow
    messages: tuple[Message, ...]
    record: dict[str, Any]


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class RunHistory:
    """One run of a ledger, to read. Rounds count from 1; round `rounds + 1` is the data after the last refinement."""

    def __init__(self, ledger: Ledger, run_id: str, paths: RunPaths | None = None) -> None:
        self.run_id = run_id
        self.paths = paths
        self.refreshes = Refreshes(ledger, run_id)
        self.acceptance = Acceptances(ledger, run_id)
        self._ledger = ledger

    @classmethod
    def open(cls, out_dir: Path) -> RunHistory:
        """The run in a run directory. Raises NoRun where there is none, LedgerBusy while it goes on, LedgerError."""
        paths = RunPaths.find(out_dir)
        if not paths.ledger.exists():
            raise NoRun(out_dir)
        ledger = Ledger.open(paths.ledger, read_only=True)
        try:
            found = runs_in(ledger, paths)
            if not found:
                raise NoRun(out_dir)
        except BaseException:
            ledger.close()
            raise
        return cls(ledger, found[0], paths)

    def close(self) -> None:
        """Closes the ledger."""
        self._ledger.close()

    def __enter__(self) -> RunHistory:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def run(self) -> RunRecord:
        """The run: recipe, configuration, times."""
        record = read_run(self._ledger, self.run_id)
        assert record is not None
        return record

    def datasets(self) -> list[DatasetRecord]:
        """The data set of each round so far, by round."""
        return read_datasets(self._ledger, self.run_id)

    def rows(self, round_number: int) -> list[DataRow]:
        """The rows of a round's data set, in order."""
        return read_rows(self._ledger, self.run_id, round_number)

    def row(self, round_number: int, row_id: str) -> tuple[DataRow, tuple[Message, ...]] | None:
        """One row of a round's data set with its conversation; None where it is not there."""
        found = self._ledger.select(
            "SELECT r.row_id, r.sample_hash, r.origin, r.parent_row_id, r.source_row_id, s.messages FROM dataset_row r"
            " JOIN sample s USING (sample_hash) WHERE r.run_id = ? AND r.round = ? AND r.row_id = ?",
            (self.run_id, round_number, row_id),
        )
        return (DataRow(*found[0][:5]), read_messages(found[0][5])) if found else None

    def conversations(self, round_number: int) -> Iterator[tuple[DataRow, tuple[Message, ...]]]:
        """The rows of a round's data set with their conversations, in order, streamed."""
        query = (
            "SELECT r.row_id, r.sample_hash, r.origin, r.parent_row_id, r.source_row_id, s.messages FROM dataset_row r"
            " JOIN sample s USING (sample_hash) WHERE r.run_id = ? AND r.round = ? ORDER BY r.position"
        )
        for row in self._ledger.stream(query, (self.run_id, round_number)):
            yield DataRow(*row[:5]), read_messages(row[5])

    def samples(self, hashes: Iterable[str]) -> dict[str, tuple[Message, ...]]:
        """Conversations by hash."""
        return read_samples(self._ledger, hashes)

    def final_rows(self, round_number: int) -> Iterator[FinalRow]:
        """The rows of a round's data set with all that writing them takes, in order, streamed."""
        query = (
            "SELECT r.row_id, r.sample_hash, r.origin, r.parent_row_id, r.source_row_id, s.messages, o.record"
            " FROM dataset_row r JOIN sample s USING (sample_hash)"
            " JOIN dataset_row d ON d.run_id = r.run_id AND d.round = 1 AND d.row_id = r.source_row_id"
            " JOIN source_row o ON o.run_id = r.run_id AND o.position = d.position"
            " WHERE r.run_id = ? AND r.round = ? ORDER BY r.position"
        )
        for row in self._ledger.stream(query, (self.run_id, round_number)):
            yield FinalRow(DataRow(*row[:5]), read_messages(row[5]), json.loads(row[6]))

    def source_records(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """The source's rows as they came: (row id, all columns), in order, streamed."""
        query = (
            "SELECT d.row_id, s.record FROM source_row s JOIN dataset_row d ON d.run_id = s.run_id AND d.round = 1"
            " AND d.position = s.position WHERE s.run_id = ? ORDER BY s.position"
        )
        for row_id, record in self._ledger.stream(query, (self.run_id,)):
            yield row_id, json.loads(record)

    def steps(self) -> list[StepRecord]:
        """All steps begun, in order."""
        return read_steps(self._ledger, self.run_id)

    def models(self) -> list[ModelRecord]:
        """All models, by round."""
        return read_models(self._ledger, self.run_id)

    def held_out_scores(self, round_number: int, hashes: Sequence[str]) -> dict[str, tuple[float, int]]:
        """By held-out sample of these, the loss that a round's model has on it, in nats summed over its response
        tokens, and their number; round 0 is the base model. Empty where that was not measured."""
        found = (s for s in self.steps() if (s.round, s.name, s.state) == (round_number, "evaluate", "done"))
        detail: Any = next((step.detail.get("model") for step in found), None)
        if detail is None:
            return {}
        return self.response_losses(hashes, detail["digest"], detail["chat_template_digest"])

    def thresholds(self, round_number: int) -> list[Threshold]:
        """The lines drawn in a round."""
        return read_thresholds(self._ledger, self.run_id, round_number)

    def decisions(self, round_number: int) -> list[DecisionRecord]:
        """What was decided for each row of a round, in order; empty before that step."""
        return read_decisions(self._ledger, self.run_id, round_number)

    def places(self, round_number: int) -> dict[str, tuple[float, float]]:
        """Where samples lie in a round's picture, (x, y) by hash; empty where there is none."""
        query = "SELECT sample_hash, x, y FROM place WHERE run_id = ? AND round = ?"
        return {name: (x, y) for name, x, y in self._ledger.select(query, (self.run_id, round_number))}

    def held(self, round_number: int) -> list[Held]:
        """Which rows went on after a round where the set's size was held; empty where it was not."""
        return read_held(self._ledger, self.run_id, round_number)

    def weight_steps(self, round_number: int) -> list[int]:
        """The optimiser steps after which a round's learnt weights were noted, in order; empty where none were."""
        return read_weight_steps(self._ledger, self.run_id, round_number)

    def weights(self, round_number: int, step: int) -> dict[str, Weight]:
        """By row, the weights noted after so many steps."""
        return read_weights(self._ledger, self.run_id, round_number, step)

    def rewrites(self, round_number: int) -> list[RewriteRecord]:
        """The rewrites that a round's decisions asked for, in the order of its rows; those still to come are absent."""
        rows = self._ledger.select(
            "SELECT f.row_id, f.strategy, b.messages, a.messages, w.code, w.reason, w.message, w.attempts"
            " FROM refinement f JOIN rewrite w USING"
            " (sample_hash, strategy, context_digest, model_digest, prompt_version, params_digest)"
            " JOIN sample b ON b.sample_hash = f.sample_hash LEFT JOIN sample a ON a.sample_hash = w.result_hash"
            " JOIN dataset_row d ON d.run_id = f.run_id AND d.round = f.round AND d.row_id = f.row_id"
            " WHERE f.run_id = ? AND f.round = ? ORDER BY d.position, f.strategy",
            (self.run_id, round_number),
        )
        tried = {(one.row_id, one.strategy): one for one in self.acceptance.of_round(round_number)}
        made = [
            RewriteRecord(
                row_id=row[0],
                strategy=row[1],
                before=read_messages(row[2]),
                after=None if row[3] is None else read_messages(row[3]),
                code=row[4],
                reason=row[5],
                message=row[6],
                attempts=tuple(Attempt(**attempt) for attempt in json.loads(row[7])),
                acceptance=tried.get((row[0], row[1])),
            )
            for row in rows
        ]
        for one in made:
            tried.pop((one.row_id, one.strategy), None)
        return made + self._declined(round_number, list(tried.values()))

    def _declined(self, round_number: int, tried: Sequence[Acceptance]) -> list[RewriteRecord]:
        """Those of a run that has none made, since it accepts none."""
        before = {row.row_id: messages for row, messages in self.conversations(round_number)} if tried else {}
        return [
            RewriteRecord(one.row_id, one.strategy, before[one.row_id], None, 0, "", why(one), (), one) for one in tried
        ]

    def evidence(self, round_number: int, hashes: Sequence[str]) -> dict[str, Evidence]:
        """What a round of CLEAR measured of these samples' confidence; absent where it failed or was not asked for."""
        key = self._key(round_number, "confidence")
        return Beliefs(self._ledger).evidence(hashes, ConfidenceKey(**key)) if key else {}

    def candidates(self, round_number: int) -> list[CandidateStory]:
        """The candidates of a round of CLEAR, by row and number, with how they were judged."""
        key = self._key(round_number, "compare") or dict.fromkeys(PreferenceKey.__slots__, "")
        rows = self._ledger.select(
            "SELECT c.row_id, c.number, s.messages, c.rejection, p.orders, p.log_length_ratio, p.reason"
            " FROM candidate c JOIN dataset_row d USING (run_id, round, row_id)"
            " LEFT JOIN sample s ON s.sample_hash = c.candidate_hash"
            " LEFT JOIN preference p ON p.sample_hash = d.sample_hash AND p.candidate_hash = c.candidate_hash"
            " AND c.rejection = '' AND p.model_digest = ? AND p.template_digest = ? AND p.prompt_digest = ?"
            " WHERE c.run_id = ? AND c.round = ? ORDER BY d.position, c.number",
            (*(key[name] for name in PreferenceKey.__slots__), self.run_id, round_number),
        )
        return [
            CandidateStory(
                row_id=row_id,
                number=number,
                text="" if messages is None else read_messages(messages)[-1].content,
                rejection=rejection or ("" if reason is None else reason),
                preference=None if orders is None else preference_of(orders, ratio),
            )
            for row_id, number, messages, rejection, orders, ratio, reason in rows
        ]

    def _key(self, round_number: int, step: str) -> dict[str, str]:
        """What the findings of a step are keyed by; empty where it was not taken."""
        found = [s.detail.get("key") for s in self.steps() if (s.round, s.name) == (round_number, step)]
        key = found[0] if found else None
        return dict(key) if isinstance(key, dict) else {}

    def response_losses(
        self, hashes: Sequence[str], model_digest: str, template_digest: str
    ) -> dict[str, tuple[float, int]]:
        """By sample, in the order of `hashes`, the loss of all response tokens together under a model (nats), and how
        many tokens these are; absent where it was not scored."""
        rows = self._ledger.select(
            "SELECT s.sample_hash, s.sum_nll, s.num_tokens FROM wanted w JOIN score s ON s.sample_hash = w.key"
            " WHERE s.model_digest = ? AND s.template_digest = ? AND s.code = 0 ORDER BY w.position",
            (model_digest, template_digest),
            keys=hashes,
        )
        return {name: (loss, count) for name, loss, count in rows}

    def failures(self, round_number: int) -> list[FailureRecord]:
        """What went wrong in a round, by step and reason, over distinct samples (of each of these the ratings that are
        missing); most frequent first."""
        rows = self._ledger.select(_FAILURES, {"run": self.run_id, "round": round_number})
        return [FailureRecord(round_number, *row) for row in rows]

    def training_losses(self, round_number: int, training_run: str) -> list[tuple[int, float]]:
        """(optimiser step, loss of the step in nats per response token) as the training service reported them, in
        order; of a step that was taken again after a kill, what was reported last. Empty for a model of another run."""
        rows = self._ledger.select(
            "SELECT step, arg_max(loss, number) FROM training_event WHERE run_id = ? AND round = ? AND training_run = ?"
            " AND loss IS NOT NULL AND step > 0 GROUP BY step ORDER BY step",
            (self.run_id, round_number, training_run),
        )
        return [(int(step), float(loss)) for step, loss in rows]


_HASHES = "SELECT DISTINCT sample_hash FROM dataset_row WHERE run_id = $run AND round = $round"
_TRAINED = "SELECT digest FROM model WHERE run_id = $run AND round = $round AND role = 'trained'"
_BASE = "SELECT digest FROM model WHERE run_id = $run AND round = 0 AND role = 'base'"
_FAILURES = f"""
    WITH h AS ({_HASHES}), asked AS (
        SELECT name, detail ->> '$.model.digest' AS model, detail ->> '$.collection' AS collection,
            detail ->> '$.key.template_digest' AS template, detail ->> '$.key.prompt_digest' AS prompts,
            detail ->> '$.key.params_digest' AS params
            FROM step WHERE run_id = $run AND round = $round
    ), failed AS (
        SELECT 'score_pre' AS step, reason, message FROM score JOIN h USING (sample_hash)
            WHERE code <> 0 AND model_digest = ({_BASE})
        UNION ALL
        SELECT 'score_post', reason, message FROM score JOIN h USING (sample_hash)
            WHERE code <> 0 AND model_digest = ({_TRAINED})
        UNION ALL
        SELECT 'score_cross', reason, message FROM score JOIN h USING (sample_hash)
            WHERE code <> 0 AND $round = 1 AND model_digest IN (
                SELECT m.digest FROM model m JOIN step s USING (run_id, round)
                WHERE run_id = $run AND m.role = 'trained' AND s.name = 'score_cross')
        UNION ALL
        SELECT 'embed', reason, message FROM embedding JOIN h USING (sample_hash) JOIN asked USING (collection)
            WHERE code <> 0 AND name = 'embed'
        UNION ALL
        SELECT 'judge', reason, CASE WHEN reply <> '' THEN reply ELSE message END FROM rating JOIN h USING (sample_hash)
            JOIN asked ON (model_digest, template_digest) = (model, template)
                AND (prompt_digest, params_digest) = (prompts, params)
            WHERE code <> 0 AND name = 'judge'
        UNION ALL
        SELECT 'refine', w.reason, w.message FROM rewrite w JOIN refinement f USING
            (sample_hash, strategy, context_digest, model_digest, prompt_version, params_digest)
            WHERE w.code <> 0 AND f.run_id = $run AND f.round = $round
        UNION ALL
        SELECT 'accept', refusal, '' FROM acceptance
            WHERE refusal IN ('unscored', 'unrated') AND run_id = $run AND round = $round
        UNION ALL
        SELECT 'confidence', reason, message FROM confidence JOIN h USING (sample_hash)
            JOIN asked ON (model_digest, template_digest) = (model, template)
                AND (prompt_digest, params_digest) = (prompts, params)
            WHERE code <> 0 AND name = 'confidence'
        UNION ALL
        SELECT 'propose', rejection, '' FROM candidate
            WHERE rejection <> '' AND rejection <> 'same' AND run_id = $run AND round = $round
        UNION ALL
        SELECT 'compare', p.reason, min(p.message) FROM preference p JOIN candidate c USING (candidate_hash)
            JOIN dataset_row d USING (run_id, round, row_id)
            JOIN asked ON (p.model_digest, p.template_digest, p.prompt_digest) = (model, template, prompts)
                AND name = 'compare'
            WHERE p.code <> 0 AND d.sample_hash = p.sample_hash AND c.run_id = $run AND c.round = $round
            GROUP BY p.sample_hash, p.candidate_hash, p.reason
        UNION ALL
        SELECT 'respond', rejection, '' FROM online_response
            WHERE rejection <> '' AND run_id = $run AND round = $round
    )
    SELECT step, reason, count(*) AS n, min(message) FROM failed GROUP BY step, reason ORDER BY n DESC, step, reason
"""


def run_ids(ledger: Ledger) -> list[str]:
    """The runs of a ledger, newest first."""
    return [row[0] for row in ledger.select("SELECT run_id FROM run ORDER BY created_at DESC, run_id")]


def runs_in(ledger: Ledger, paths: RunPaths) -> list[str]:
    """The run of a run directory, if any: that of its own ledger, or the one that is its own of a ledger that runs
    share. Raises LedgerError where a ledger is of runs in other folders, or has several, and the directory does not say
    which is its own."""
    found = run_ids(ledger)
    own = [name for name in found if name == paths.written.get("run_id")]
    if own or paths.shared_ledger is not None:
        return own
    folders = points_of(paths.ledger)
    if folders or len(found) > 1:
        raise LedgerError(
            f"{paths.out} is the folder of a sweep, with {len(found)} runs so far; expected the folder of one of them:"
            f" {', '.join(map(str, folders or found))}."
        )
    return found


def points_of(ledger: Path) -> list[Path]:
    """The folders of the runs that share a ledger, as those of a sweep do, by name; none where it is one run's own."""
    folders = sorted(config.parent for config in ledger.parent.rglob("config.json") if config.parent != ledger.parent)
    return [folder for folder in folders if RunPaths.find(folder).shared_ledger == ledger.resolve()]


def read_run(ledger: Ledger, run_id: str) -> RunRecord | None:
    """The run as written down; None where it is not."""
    rows = ledger.select(
        "SELECT run_id, recipe, config, burnish_version, source, epoch_us(created_at), epoch_us(finished_at) FROM run"
        " WHERE run_id = ?",
        (run_id,),
    )
    if not rows:
        return None
    _, recipe, config, version, source, created, finished = rows[0]
    return RunRecord(
        run_id,
        recipe,
        json.loads(config),
        version,
        None if source is None else json.loads(source),
        _time(created),
        None if finished is None else _time(finished),
    )


def read_datasets(ledger: Ledger, run_id: str) -> list[DatasetRecord]:
    """The data sets of a run, by round."""
    query = "SELECT round, digest, num_rows FROM dataset WHERE run_id = ? ORDER BY round"
    return [DatasetRecord(*row) for row in ledger.select(query, (run_id,))]


def read_rows(ledger: Ledger, run_id: str, round_number: int) -> list[DataRow]:
    """The rows of a data set, in order."""
    rows = ledger.select(
        "SELECT row_id, sample_hash, origin, parent_row_id, source_row_id FROM dataset_row"
        " WHERE run_id = ? AND round = ? ORDER BY position",
        (run_id, round_number),
    )
    return [DataRow(*row) for row in rows]


def read_steps(ledger: Ledger, run_id: str) -> list[StepRecord]:
    """The steps of a run, in order."""
    rows = ledger.select(
        "SELECT round, position, name, state, done, total, reused, seconds, epoch_us(started_at),"
        " epoch_us(finished_at), detail FROM step WHERE run_id = ? ORDER BY round, position",
        (run_id,),
    )
    return [StepRecord(*_converted(row, {8: _time, 9: _time, 10: json.loads})) for row in rows]


def read_models(ledger: Ledger, run_id: str) -> list[ModelRecord]:
    """The models of a run, by round and role."""
    rows = ledger.select(
        "SELECT round, role, uri, digest, training_run, train_loss, eval_loss, detail FROM model WHERE run_id = ?"
        " ORDER BY round, role",
        (run_id,),
    )
    return [ModelRecord(*_converted(row, {7: json.loads})) for row in rows]


def read_thresholds(ledger: Ledger, run_id: str, round_number: int) -> list[Threshold]:
    """The lines drawn in a round, in the order that a recipe's signals are measured in."""
    rows = ledger.select(
        "SELECT axis, signal, mean, std, m, tau, share, num_tied, num_values, num_excluded FROM threshold"
        " WHERE run_id = ? AND round = ? ORDER BY list_position(['loss_pre', 'loss_post', 'mean_cosine'], signal)"
        " NULLS LAST",
        (run_id, round_number),
    )
    return [Threshold(*row) for row in rows]


def read_samples(ledger: Ledger, hashes: Iterable[str]) -> dict[str, tuple[Message, ...]]:
    """Conversations by hash."""
    rows = ledger.select(
        "SELECT s.sample_hash, s.messages FROM sample s WHERE s.sample_hash IN (SELECT key FROM wanted)",
        keys=sorted(set(hashes)),
    )
    return {sample_hash: read_messages(text) for sample_hash, text in rows}


def read_decisions(ledger: Ledger, run_id: str, round_number: int) -> list[DecisionRecord]:
    """The decisions of a round, in the order of its rows."""
    rows = ledger.select(
        "SELECT r.position, r.row_id, r.sample_hash, r.origin, d.axes, d.actions, d.signals, d.reasons, d.hints"
        " FROM decision d JOIN dataset_row r USING (run_id, round, row_id)"
        " WHERE run_id = ? AND round = ? ORDER BY r.position",
        (run_id, round_number),
    )
    cells: dict[int, Callable[[Any], Any]] = {
        4: tuple,
        5: tuple,
        6: json.loads,
        7: lambda text: tuple(json.loads(text)),
        8: tuple,
    }
    return [DecisionRecord(*_converted(row, cells)) for row in rows]


def read_held(ledger: Ledger, run_id: str, round_number: int) -> list[Held]:
    """Which rows went on after a round where the set's size was held."""
    query = "SELECT row_id, kept, reason FROM held WHERE run_id = ? AND round = ? ORDER BY rowid"
    return [Held(*row) for row in ledger.select(query, (run_id, round_number))]


def read_weight_steps(ledger: Ledger, run_id: str, round_number: int) -> list[int]:
    """The optimiser steps after which a round's weights were noted, in order."""
    query = "SELECT DISTINCT step FROM sample_weight WHERE run_id = ? AND round = ? ORDER BY step"
    return [step for (step,) in ledger.select(query, (run_id, round_number))]


def read_weights(ledger: Ledger, run_id: str, round_number: int, step: int) -> dict[str, Weight]:
    """By row, the weights noted after so many steps."""
    query = "SELECT row_id, weight, logit FROM sample_weight WHERE run_id = ? AND round = ? AND step = ?"
    return {name: Weight(weight, logit) for name, weight, logit in ledger.select(query, (run_id, round_number, step))}


def read_messages(text: str) -> tuple[Message, ...]:
    """A conversation from its JSON."""
    return tuple(Message(Role(turn["role"]), turn["content"]) for turn in json.loads(text))


def _converted(row: Sequence[Any], by_cell: Mapping[int, Callable[[Any], Any]]) -> list[Any]:
    """A row with some cells turned into what they mean; NULL stays None."""
    return [cell if cell is None or i not in by_cell else by_cell[i](cell) for i, cell in enumerate(row)]


def _time(microseconds: int) -> datetime:
    # fetching TIMESTAMPTZ itself would need pytz
    return _EPOCH + timedelta(microseconds=microseconds)
