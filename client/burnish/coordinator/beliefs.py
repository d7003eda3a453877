"""What models believe, say and prefer, as the ledger keeps it: confidences, candidate responses, preferences.

Keyed by content, shared by all runs of a ledger, written once; like `findings.py`, which has scores and rewrites.
Writing belongs inside `Ledger.transaction()`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass

from burnish._confidence_types import ConfidenceEstimate
from burnish._confidence_types import Preference as Answered
from burnish._response_types import PromptResponses
from burnish.coordinator.absent import Absent
from burnish.coordinator.findings import STATUS, replacing, status_values
from burnish.coordinator.ledger import Ledger
from burnish.coordinator.policy.clear import Preference
from burnish.coordinator.policy.confidence import Evidence, SampledAnswer


@dataclass(frozen=True, slots=True)
class ConfidenceKey:
    """Under what confidence is estimated."""

    model_digest: str
    template_digest: str
    prompt_digest: str
    params_digest: str


@dataclass(frozen=True, slots=True)
class ResponseKey:
    """Under what prompts are responded to."""

    model_digest: str
    template_digest: str
    params_digest: str


@dataclass(frozen=True, slots=True)
class PreferenceKey:
    """Under what responses are compared."""

    model_digest: str
    template_digest: str
    prompt_digest: str


@dataclass(frozen=True, slots=True)
class Said:
    """One recorded response; without text where `reason` says why there is none. `rejection`: what is wrong with it,
    where that was asked for."""

    number: int
    text: str | None
    finish_reason: str | None
    reason: str
    mean_logprob: float | None
    num_tokens: int | None
    rejection: str


class Beliefs:
    """The content tables of one ledger that CLEAR fills, and BMO the responses. Order of results is that of the hashes
    given."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._absent = Absent(ledger)

    # ---- confidence

    def unestimated(self, hashes: Sequence[str], key: ConfidenceKey) -> list[str]:
        """The samples without an estimate, or with a failure that may be retried."""
        return self._missing("confidence", "sample_hash", key, hashes)

    def add_estimates(self, key: ConfidenceKey, estimates: Sequence[ConfidenceEstimate]) -> None:
        """Writes estimates; `sample_id` is the sample's hash."""
        unique = ("sample_hash", *ConfidenceKey.__slots__)
        columns = (*unique, "verdicts", "answers", "mean_nll", "mean_probability", *STATUS)
        rows = [
            (
                one.sample_id,
                *astuple(key),
                json.dumps([[*v.probabilities, v.covered_mass] for v in one.reflections]) if one.status.ok else None,
                json.dumps(_answers(one), ensure_ascii=False) if one.status.ok else None,
                one.mean_nll,
                one.mean_probability,
                *status_values(one.status),
            )
            for one in estimates
        ]
        names = [one.sample_id for one in estimates]
        conflict = replacing("confidence", unique, columns)
        self._absent.append(("confidence", key), names, columns, rows, conflict=conflict)

    def evidence(self, hashes: Sequence[str], key: ConfidenceKey) -> dict[str, Evidence]:
        """What was measured of each sample; absent where it failed."""
        rows = self._ledger.select(
            "SELECT s.sample_hash, s.verdicts, s.answers, s.mean_nll, s.mean_probability"
            f" FROM wanted w JOIN confidence s ON s.sample_hash = w.key AND {_matching(key)} WHERE s.code = 0"
            " ORDER BY w.position",
            astuple(key),
            keys=hashes,
        )
        return {row[0]: _evidence(*row[1:]) for row in rows}

    # ---- responses

    def unanswered(self, prompts: Sequence[str], key: ResponseKey, count: int) -> list[str]:
        """The prompts that were not responded to `count` times, as after a repair that some of these were lost to, or
        failed and may be retried."""
        return self._missing("response", "prompt_hash", key, prompts, count)

    def add_responses(self, key: ResponseKey, results: Sequence[PromptResponses]) -> None:
        """Writes responses; `prompt_id` is the prompt's hash."""
        unique = ("prompt_hash", *ResponseKey.__slots__, "number")
        columns = (*unique, "text", "finish_reason", "token_ids", "logprobs", "rejection", *STATUS)
        rows: list[tuple[object, ...]] = []
        for result in results:
            status = status_values(result.status)
            if not result.status.ok:
                rows.append((result.prompt_id, *astuple(key), 1, None, None, None, None, "", *status))
            for number, one in enumerate(result.responses, start=1):
                tokens = None if one.token_ids is None else one.token_ids.tolist()
                logprobs = None if one.logprobs is None else one.logprobs.tolist()
                said = (one.text, one.finish_reason.value, tokens, logprobs, one.rejection)
                rows.append((result.prompt_id, *astuple(key), number, *said, *status))
        names = [str(row[0]) for row in rows]
        conflict = replacing("response", unique, columns)
        self._absent.append(("response", key), names, columns, rows, conflict=conflict)

    def responses(self, prompts: Sequence[str], key: ResponseKey) -> dict[str, list[Said]]:
        """By prompt, what was said, in order."""
        rows = self._ledger.select(
            "SELECT s.prompt_hash, s.number, s.text, s.finish_reason, s.reason, list_avg(s.logprobs), len(s.token_ids),"
            " s.rejection"
            f" FROM wanted w JOIN response s ON s.prompt_hash = w.key AND {_matching(key)}"
            " ORDER BY w.position, s.number",
            astuple(key),
            keys=prompts,
        )
        found: dict[str, list[Said]] = {}
        for prompt, *said in rows:
            found.setdefault(prompt, []).append(Said(*said))
        return found

    def response_tokens(
        self, prompts: Sequence[str], key: ResponseKey
    ) -> dict[tuple[str, int], tuple[list[int], list[float]]]:
        """By prompt and number, a response's tokens and what its generator gave each, in nats; those that were kept."""
        rows = self._ledger.select(
            "SELECT s.prompt_hash, s.number, s.token_ids, s.logprobs"
            f" FROM wanted w JOIN response s ON s.prompt_hash = w.key AND {_matching(key)}"
            " WHERE s.token_ids IS NOT NULL AND s.logprobs IS NOT NULL",
            astuple(key),
            keys=prompts,
        )
        return {(prompt, number): (ids, logprobs) for prompt, number, ids, logprobs in rows}

    # ---- preferences

    def uncompared(self, pairs: Sequence[tuple[str, str]], key: PreferenceKey) -> list[tuple[str, str]]:
        """The (sample, candidate) pairs that were not compared, or failed and may be retried."""
        done = {pair for pair, (_, retryable) in self._preferences(pairs, key).items() if not retryable}
        return [pair for pair in pairs if pair not in done]

    def add_preferences(
        self, key: PreferenceKey, pairs: Sequence[tuple[str, str]], preferences: Sequence[Answered]
    ) -> None:
        """Writes the verdicts on pairs."""
        unique = ("sample_hash", "candidate_hash", *PreferenceKey.__slots__)
        columns = (*unique, "orders", "log_length_ratio", *STATUS)
        rows = [
            (
                *pair,
                *astuple(key),
                json.dumps([[*o.probabilities, o.covered_mass] for o in one.orders]) if one.status.ok else None,
                one.log_length_ratio,
                *status_values(one.status),
            )
            for pair, one in zip(pairs, preferences, strict=True)
        ]
        self._ledger.append("preference", columns, rows, conflict=replacing("preference", unique, columns))

    def preferences(
        self, pairs: Sequence[tuple[str, str]], key: PreferenceKey
    ) -> dict[tuple[str, str], Preference | str]:
        """By pair, how it was judged, or the reason why it was not."""
        return {pair: value for pair, (value, _) in self._preferences(pairs, key).items()}

    def _preferences(
        self, pairs: Iterable[tuple[str, str]], key: PreferenceKey
    ) -> Mapping[tuple[str, str], tuple[Preference | str, bool]]:
        wanted = set(pairs)
        rows = self._ledger.select(
            "SELECT s.sample_hash, s.candidate_hash, s.orders, s.log_length_ratio, s.reason, s.retryable"
            f" FROM wanted w JOIN preference s ON s.sample_hash = w.key AND {_matching(key)}",
            astuple(key),
            keys=sorted({sample for sample, _ in wanted}),
        )
        return {
            (sample, candidate): (reason if orders is None else preference_of(orders, ratio), retryable)
            for sample, candidate, orders, ratio, reason, retryable in rows
            if (sample, candidate) in wanted
        }

    def _missing(
        self, table: str, column: str, key: ConfidenceKey | ResponseKey, wanted: Sequence[str], count: int = 1
    ) -> list[str]:
        """Those of `wanted` that have fewer than `count` rows, none of which says that it failed for good."""
        rows = self._ledger.select(
            f"SELECT w.key, count(s.{column}) FROM wanted w"
            f" LEFT JOIN {table} s ON s.{column} = w.key AND {_matching(key)}"
            " GROUP BY w.key, w.position HAVING coalesce(bool_or(s.retryable), false)"
            f" OR (count(s.{column}) < {count:d} AND NOT coalesce(bool_or(s.code <> 0), false))"
            " ORDER BY w.position",
            astuple(key),
            keys=wanted,
        )
        self._absent.note((table, key), (name for name, there in rows if not there))
        return [name for name, _ in rows]


def preference_of(orders: str, log_length_ratio: float) -> Preference:
    """A preference from its columns."""
    first, second = ((tuple(values[:3]), values[3]) for values in json.loads(orders))
    return Preference((first[0], second[0]), (first[1], second[1]), log_length_ratio)


def _evidence(verdicts: str, answers: str, mean_nll: float, mean_probability: float) -> Evidence:
    asked = json.loads(verdicts)
    return Evidence(
        verdicts=tuple((v[0], v[1], v[2]) for v in asked),
        masses=tuple(v[3] for v in asked),
        answers=tuple(SampledAnswer(**answer) for answer in json.loads(answers)),
        mean_nll=mean_nll,
        mean_probability=mean_probability,
    )


def _answers(estimate: ConfidenceEstimate) -> list[dict[str, object]]:
    """What is kept of the sampled answers: the whole reply only where no answer could be read from it."""
    return [
        asdict(
            SampledAnswer(
                text=answer.text,
                similarity=answer.similarity,
                exact_match=answer.exact_match,
                reply="" if answer.status.ok else answer.reply,
                reason=answer.status.reason,
            )
        )
        for answer in estimate.answers
    ]


def _matching(key: ConfidenceKey | ResponseKey | PreferenceKey) -> str:
    return " AND ".join(f"s.{name} = ?" for name in type(key).__slots__)
