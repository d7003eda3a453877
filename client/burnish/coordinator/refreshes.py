"""What one run of online self-refinement keeps of its pauses: how the model's answers were, and which are learnt from.
The answers themselves are content, in `beliefs.py`; writing belongs inside `Ledger.transaction()`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Any

from burnish.coordinator.beliefs import ResponseKey, Said
from burnish.coordinator.ledger import Ledger
from burnish.coordinator.policy.refinement import Answer, Vitals


@dataclass(frozen=True, slots=True)
class RefreshRecord:
    """One pause after `step` steps, for `reason`. `effective_share`: how much of the answers before still counted;
    `key`: what the new ones are kept under; `stopped`: why nothing is learnt from answers from here on, or empty."""

    step: int
    reason: str
    effective_share: float | None
    key: ResponseKey
    vitals: Vitals
    stopped: str


@dataclass(frozen=True, slots=True)
class OnlineRecord:
    """One answer to a row's question: what it is kept under, the conversation that ends in it, None where nothing was
    said, and why it is not learnt from, or empty."""

    row_id: str
    number: int
    prompt_hash: str
    sample_hash: str | None
    rejection: str


@dataclass(frozen=True, slots=True)
class AnswerStory:
    """One answer to a row's question at a pause, in words."""

    step: int
    number: int
    text: str
    rejection: str


def answer_of(row_id: str, said: Said) -> Answer:
    """A recorded response as an answer to a row's question."""
    if said.text is None or said.mean_logprob is None:
        return Answer(row_id, said.number, rejection=said.reason or "empty")
    return Answer(row_id, said.number, said.text.strip(), said.num_tokens or 0, said.mean_logprob, said.rejection)


_KEY = ("model_digest", "template_digest", "params_digest")
_VITALS = (
    "num_questions",
    "num_answers",
    "num_accepted",
    "num_answered",
    "entropy",
    "length",
    "distinct_share",
    "divergence",
)


class Refreshes:
    """The tables `refresh` and `online_response` of one run."""

    def __init__(self, ledger: Ledger, run_id: str) -> None:
        self._ledger = ledger
        self._run_id = run_id

    def add(self, round_number: int, refresh: RefreshRecord, answers: Sequence[OnlineRecord]) -> None:
        """Writes a pause down, with its answers."""
        columns = ("run_id", "round", "step", "reason", "effective_share", *_KEY, *_VITALS, "stopped")
        cells = (refresh.step, refresh.reason, refresh.effective_share, *astuple(refresh.key), *astuple(refresh.vitals))
        self._ledger.append("refresh", columns, [(self._run_id, round_number, *cells, refresh.stopped)])
        rows = [(self._run_id, round_number, refresh.step, *astuple(one)) for one in answers]
        self._ledger.append("online_response", ("run_id", "round", "step", *OnlineRecord.__slots__), rows)

    def of_round(self, round_number: int) -> list[RefreshRecord]:
        """The pauses of a round so far, in order."""
        rows = self._ledger.select(
            f"SELECT step, reason, effective_share, {', '.join((*_KEY, *_VITALS))}, stopped FROM refresh"
            " WHERE run_id = ? AND round = ? ORDER BY step",
            (self._run_id, round_number),
        )
        return [_refresh(*row) for row in rows]

    def answers(self, round_number: int, step: int) -> list[OnlineRecord]:
        """The answers of a pause, in the order of the data."""
        names = ", ".join(f"o.{name}" for name in OnlineRecord.__slots__)
        rows = self._ledger.select(
            f"SELECT {names} FROM online_response o JOIN dataset_row d USING (run_id, round, row_id)"
            " WHERE o.run_id = ? AND o.round = ? AND o.step = ? ORDER BY d.position, o.number",
            (self._run_id, round_number, step),
        )
        return [OnlineRecord(*row) for row in rows]

    def rejections(self, round_number: int, step: int) -> dict[str, int]:
        """How many answers of a pause are not learnt from, by reason."""
        rows = self._ledger.select(
            "SELECT rejection, count(*) FROM online_response WHERE run_id = ? AND round = ? AND step = ?"
            " AND rejection <> '' GROUP BY rejection ORDER BY count(*) DESC, rejection",
            (self._run_id, round_number, step),
        )
        return dict(rows)

    def story(self, round_number: int, row_id: str) -> list[AnswerStory]:
        """The answers to one row's question, pause by pause."""
        rows = self._ledger.select(
            "SELECT o.step, o.number, coalesce(s.messages ->> '$[#-1].content', ''), o.rejection FROM online_response o"
            " LEFT JOIN sample s USING (sample_hash)"
            " WHERE o.run_id = ? AND o.round = ? AND o.row_id = ? ORDER BY o.step, o.number",
            (self._run_id, round_number, row_id),
        )
        return [AnswerStory(*row) for row in rows]


def _refresh(step: int, reason: str, effective_share: float | None, *cells: Any) -> RefreshRecord:
    """A pause from its columns."""
    key, told, stopped = cells[: len(_KEY)], cells[len(_KEY) : -1], cells[-1]
    return RefreshRecord(step, reason, effective_share, ResponseKey(*key), Vitals(*told), stopped)
