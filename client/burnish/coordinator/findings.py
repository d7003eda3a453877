"""What the services found about samples, as the ledger keeps it: scores, ratings, embeddings, neighbours, rewrites.

Keyed by content, shared by all runs of a ledger, written once. Only a failure that was marked retryable may be
replaced, a score gets parts that nobody had asked for, and a set's neighbours are those of its last search. Writing
belongs inside `Ledger.transaction()`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass
from enum import IntEnum

from burnish._types import (
    ItemStatus,
    ModelVersion,
    NeighborStatistics,
    Rewrite,
    SampleEmbedding,
    SampleJudgment,
    SampleScore,
)
from burnish.coordinator.absent import Absent, Place
from burnish.coordinator.ledger import Ledger
from burnish.coordinator.policy.middo import RATINGS
from burnish.coordinator.records import ScoreRecord


class Parts(IntEnum):
    """How much of a score is asked for; each has what those before it have."""

    LOSS = 0
    PROBABILITIES = 1  # of the response tokens: the mean, and the least
    UNCONDITIONAL = 2  # the responses without their prompts


@dataclass(frozen=True, slots=True)
class JudgeKey:
    """Under what samples are judged."""

    model_digest: str
    template_digest: str
    prompt_digest: str
    params_digest: str


@dataclass(frozen=True, slots=True)
class RewriteKey:
    """Everything that determines a rewrite."""

    sample_hash: str
    strategy: str
    context_digest: str
    model_digest: str
    prompt_version: str
    params_digest: str


STATUS = ("code", "reason", "message", "retryable")


def status_values(status: ItemStatus) -> tuple[int, str, str, bool]:
    """The cells of `STATUS`."""
    return status.code, status.reason, status.message, status.retryable


def replacing(table: str, key: Sequence[str], columns: Sequence[str]) -> str:
    """An ON CONFLICT clause under which only a retryable failure gives way."""
    settings = ", ".join(f"{name} = excluded.{name}" for name in columns if name not in key)
    return f"ON CONFLICT DO UPDATE SET {settings} WHERE {table}.retryable"


class Findings:
    """The content tables of one ledger. Hashes are sample hashes; order of results is that of the hashes given."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._absent = Absent(ledger)

    # ---- scores

    def unscored(self, hashes: Sequence[str], version: ModelVersion, parts: Parts = Parts.LOSS) -> list[str]:
        """The samples without a score under these weights, with one of which less was asked for than `parts`, or with a
        failure that may be retried."""
        return self._missing(
            ("score", version.digest, version.chat_template_digest),
            "s.model_digest = ? AND s.template_digest = ?",
            hashes,
            or_else=f"s.code = 0 AND s.parts < {parts.value}",
        )

    def add_scores(
        self, version: ModelVersion, scores: Sequence[SampleScore], parts: Parts = Parts.PROBABILITIES
    ) -> None:
        """Writes scores of which `parts` was asked for; `sample_id` is the sample's hash. Of a score that is there only
        what it lacks is added: what was measured once stands."""
        key = ("sample_hash", "model_digest", "template_digest")
        measured = ("mean_nll", "sum_nll", "num_tokens", "turns", *STATUS, "engine")
        more = ("mean_probability", "min_probability", "unconditional_nll", "ifd", "pmi")
        rows = [
            (
                score.sample_id,
                version.digest,
                version.chat_template_digest,
                score.mean_nll,
                score.sum_nll,
                score.num_tokens if score.status.ok else None,
                json.dumps([_turn(turn) for turn in score.turns]) if score.status.ok else None,
                *status_values(score.status),
                version.engine,
                *_more(score),
                parts.value,
            )
            for score in scores
        ]
        settings = [f"{name} = CASE WHEN code = 0 THEN {name} ELSE excluded.{name} END" for name in measured]
        settings += [f"{name} = coalesce({name}, excluded.{name})" for name in more]
        conflict = (
            f"ON CONFLICT DO UPDATE SET {', '.join(settings)}, parts = excluded.parts WHERE score.retryable"
            " OR (score.code = 0 AND score.parts < excluded.parts AND NOT excluded.retryable)"
        )
        place = ("score", version.digest, version.chat_template_digest)
        names = [score.sample_id for score in scores]
        self._absent.append(place, names, (*key, *measured, *more, "parts"), rows, conflict=conflict)

    def scores(self, hashes: Sequence[str], version: ModelVersion) -> dict[str, ScoreRecord]:
        """All that is kept of the samples' scores, by hash; absent where scoring failed."""
        rows = self._ledger.select(
            f"SELECT s.sample_hash, {', '.join(f's.{name}' for name in ScoreRecord.__slots__)}"
            " FROM wanted w JOIN score s ON s.sample_hash = w.key"
            " WHERE s.model_digest = ? AND s.template_digest = ? AND s.code = 0 ORDER BY w.position",
            (version.digest, version.chat_template_digest),
            keys=hashes,
        )
        return {name: ScoreRecord(*values) for name, *values in rows}

    def score_failures(self, hashes: Sequence[str], version: ModelVersion) -> dict[str, str]:
        """Why samples have no score, of those that could not be scored under these weights."""
        rows = self._ledger.select(
            "SELECT w.key, s.reason FROM wanted w JOIN score s ON s.sample_hash = w.key"
            " WHERE s.model_digest = ? AND s.template_digest = ? AND s.code <> 0 ORDER BY w.position",
            (version.digest, version.chat_template_digest),
            keys=hashes,
        )
        return dict(rows)

    def losses(self, hashes: Sequence[str], version: ModelVersion) -> dict[str, float | None]:
        """Mean loss (nats per response token) by hash; None where scoring failed."""
        rows = self._ledger.select(
            "SELECT s.sample_hash, s.mean_nll FROM wanted w JOIN score s ON s.sample_hash = w.key"
            " WHERE s.model_digest = ? AND s.template_digest = ? ORDER BY w.position",
            (version.digest, version.chat_template_digest),
            keys=hashes,
        )
        return dict(rows)

    def mean_loss(self, hashes: Sequence[str], version: ModelVersion) -> float | None:
        """Loss over all response tokens of all these samples together, nats per token; None where none was scored."""
        rows = self._ledger.select(
            "SELECT s.sum_nll, s.num_tokens FROM wanted w JOIN score s ON s.sample_hash = w.key"
            " WHERE s.model_digest = ? AND s.template_digest = ? AND s.code = 0 ORDER BY w.position",
            (version.digest, version.chat_template_digest),
            keys=hashes,
        )
        tokens = sum(count for _, count in rows)
        return sum(nll for nll, _ in rows) / tokens if tokens else None

    # ---- ratings

    def unjudged(self, hashes: Sequence[str], key: JudgeKey) -> list[str]:
        """The samples that lack one of the six ratings, or failed in a way that may be retried."""
        rows = self._ledger.select(
            "SELECT w.key, count(r.sample_hash) FROM wanted w"
            " LEFT JOIN rating r ON r.sample_hash = w.key AND r.model_digest = ?"
            " AND r.template_digest = ? AND r.prompt_digest = ? AND r.params_digest = ?"
            " GROUP BY w.key, w.position"
            " HAVING count(r.sample_hash) < ? OR coalesce(bool_or(r.retryable), false) ORDER BY w.position",
            (*astuple(key), len(RATINGS)),
            keys=hashes,
        )
        self._absent.note(("rating", key), (name for name, there in rows if not there))
        return [name for name, _ in rows]

    def add_ratings(self, key: JudgeKey, judgments: Sequence[SampleJudgment]) -> None:
        """Writes six ratings a sample; a sample that could not be judged at all gets its failure six times."""
        unique = ("sample_hash", "model_digest", "template_digest", "prompt_digest", "params_digest")
        columns = (*unique, "dimension", "target", "value", *STATUS, "reply")
        rows: list[tuple[object, ...]] = []
        for judgment in judgments:
            place = (judgment.sample_id, *astuple(key))
            if not judgment.status.ok:
                rows += [(*place, *rating, None, *status_values(judgment.status), "") for rating in RATINGS]
            for rating in judgment.ratings:
                rows.append(
                    (
                        *place,
                        rating.dimension.value,
                        rating.target.value,
                        rating.value if rating.status.ok else None,
                        *status_values(rating.status),
                        rating.reply,
                    )
                )
        conflict = replacing("rating", (*unique, "dimension", "target"), columns)
        names = [str(row[0]) for row in rows]
        self._absent.append(("rating", key), names, columns, rows, conflict=conflict)

    def ratings(self, hashes: Sequence[str], key: JudgeKey) -> dict[str, dict[tuple[str, str], float | None]]:
        """By hash, the value of each (dimension, target); None where there is none."""
        rows = self._ledger.select(
            "SELECT r.sample_hash, r.dimension, r.target, r.value FROM wanted w JOIN rating r ON r.sample_hash = w.key"
            " WHERE r.model_digest = ? AND r.template_digest = ? AND r.prompt_digest = ? AND r.params_digest = ?"
            " ORDER BY w.position, r.dimension, r.target",
            astuple(key),
            keys=hashes,
        )
        found: dict[str, dict[tuple[str, str], float | None]] = {}
        for sample_hash, dimension, target, value in rows:
            found.setdefault(sample_hash, {})[dimension, target] = value
        return found

    # ---- embeddings and neighbours

    def unembedded(self, hashes: Sequence[str], collection: str) -> list[str]:
        """The samples that the collection has not been asked to hold, or that failed and may be retried."""
        return self._missing(("embedding", collection), "s.collection = ?", hashes)

    def embedded(self, collection: str) -> list[str]:
        """The samples whose vectors the collection should hold, in order of hash."""
        rows = self._ledger.select(
            "SELECT sample_hash FROM embedding WHERE collection = ? AND code = 0 ORDER BY sample_hash", (collection,)
        )
        return [str(name) for (name,) in rows]

    def num_embedded(self, collection: str) -> int:
        """How many they are."""
        return int(
            self._ledger.select("SELECT count(*) FROM embedding WHERE collection = ? AND code = 0", (collection,))[0][0]
        )

    def add_embeddings(self, collection: str, version: ModelVersion, embeddings: Sequence[SampleEmbedding]) -> None:
        """Writes which samples a collection holds."""
        key = ("collection", "sample_hash")
        columns = (*key, "model_digest", *STATUS, "truncated")
        rows = [
            (collection, item.sample_id, version.digest, *status_values(item.status), item.truncated)
            for item in embeddings
        ]
        names = [item.sample_id for item in embeddings]
        conflict = replacing("embedding", key, columns)
        self._absent.append(("embedding", collection), names, columns, rows, conflict=conflict)

    def embedding_failures(self, hashes: Sequence[str], collection: str) -> dict[str, str]:
        """Why samples are not in the collection, of those that could not be embedded into it."""
        rows = self._ledger.select(
            "SELECT w.key, e.message FROM wanted w JOIN embedding e ON e.sample_hash = w.key"
            " WHERE e.collection = ? AND e.code <> 0 ORDER BY w.position",
            (collection,),
            keys=list(hashes),
        )
        return dict(rows)

    def forget_embeddings(self, collection: str) -> None:
        """Strikes out a collection that the service has lost."""
        self._ledger.execute("DELETE FROM embedding WHERE collection = ?", (collection,))

    def add_neighborhoods(
        self, set_digest: str, model_digest: str, k: int, statistics: Sequence[NeighborStatistics]
    ) -> None:
        """Writes the nearest neighbours of all samples of a set, in the place of an earlier search, which may have been
        made without samples that could not be embedded then."""
        rows = [
            (
                set_digest,
                model_digest,
                k,
                item.sample_id,
                json.dumps([{"sample_hash": n.sample_id, "cosine": n.cosine} for n in item.neighbors]),
            )
            for item in statistics
        ]
        columns = ("set_digest", "model_digest", "k", "sample_hash", "neighbors")
        conflict = "ON CONFLICT DO UPDATE SET neighbors = excluded.neighbors"
        self._ledger.append("neighborhood", columns, rows, conflict=conflict)

    def neighborhoods(self, set_digest: str, model_digest: str, k: int) -> dict[str, tuple[tuple[str, float], ...]]:
        """By hash, the nearest other samples (hash, cosine), nearest first; empty where they were not asked for yet."""
        rows = self._ledger.select(
            "SELECT sample_hash, neighbors FROM neighborhood WHERE set_digest = ? AND model_digest = ? AND k = ?",
            (set_digest, model_digest, k),
        )
        return {
            sample_hash: tuple((n["sample_hash"], n["cosine"]) for n in json.loads(neighbors))
            for sample_hash, neighbors in rows
        }

    # ---- rewrites

    def unwritten(self, keys: Sequence[RewriteKey]) -> list[RewriteKey]:
        """The rewrites that were not made yet, or failed and may be retried."""
        done = {key for key, (_, retryable) in self._rewrites(keys).items() if not retryable}
        return [key for key in keys if key not in done]

    def add_rewrites(
        self, keys: Sequence[RewriteKey], rewrites: Sequence[Rewrite], results: Sequence[str | None]
    ) -> None:
        """Writes what became of rewrites; `results` are the new samples' hashes, None where rejected."""
        unique = tuple(RewriteKey.__slots__)
        columns = (*unique, "result_hash", *STATUS, "attempts")
        rows = [
            (
                *astuple(key),
                result,
                *status_values(rewrite.status),
                json.dumps([asdict(attempt) for attempt in rewrite.attempts], ensure_ascii=False),
            )
            for key, rewrite, result in zip(keys, rewrites, results, strict=True)
        ]
        self._ledger.append("rewrite", columns, rows, conflict=replacing("rewrite", unique, columns))

    def _rewrites(self, keys: Sequence[RewriteKey]) -> dict[RewriteKey, tuple[str | None, bool]]:
        wanted = set(keys)
        names = ", ".join(f"r.{name}" for name in RewriteKey.__slots__)
        rows = self._ledger.select(
            f"SELECT {names}, r.result_hash, r.retryable FROM rewrite r"
            " WHERE r.sample_hash IN (SELECT key FROM wanted)",
            keys=sorted({key.sample_hash for key in keys}),
        )
        found = {RewriteKey(*row[:6]): (row[6], row[7]) for row in rows}
        return {key: value for key, value in found.items() if key in wanted}

    def _missing(self, place: Place, condition: str, hashes: Sequence[str], or_else: str = "false") -> list[str]:
        table, *parameters = place
        rows = self._ledger.select(
            f"SELECT w.key, s.sample_hash IS NULL FROM wanted w LEFT JOIN {table} s"
            f" ON s.sample_hash = w.key AND {condition}"
            f" WHERE s.sample_hash IS NULL OR s.retryable OR ({or_else}) ORDER BY w.position",
            parameters,
            keys=hashes,
        )
        self._absent.note(place, (name for name, absent in rows if absent))
        return [name for name, _ in rows]


def _more(score: SampleScore) -> tuple[float | None, ...]:
    alone = score.unconditional
    without = (
        (None, None, None) if alone is None else (alone.mean_nll if alone.num_tokens else None, alone.ifd, alone.pmi)
    )
    return (score.mean_probability, score.min_probability, *without)


def _turn(turn: object) -> dict[str, object]:
    return {name: getattr(turn, name) for name in ("message_index", "mean_nll", "num_tokens")}
