"""What one run of CLEAR keeps of its rounds: who passed the filter, and which candidates were made. Content is in
`beliefs.py`; writing belongs inside `Ledger.transaction()`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass

from burnish.coordinator.ledger import Ledger


@dataclass(frozen=True, slots=True)
class CandidateRecord:
    """One candidate for a row. `rejection` is empty where it is to be compared."""

    row_id: str
    number: int
    candidate_hash: str | None
    rejection: str


class Curation:
    """The tables `filtered` and `candidate` of one run."""

    def __init__(self, ledger: Ledger, run_id: str) -> None:
        self._ledger = ledger
        self._run_id = run_id

    def add_filtered(self, round_number: int, row_ids: Sequence[str], passed: Sequence[bool | None]) -> None:
        """Writes who passed."""
        rows = [(self._run_id, round_number, *pair) for pair in zip(row_ids, passed, strict=True)]
        self._ledger.append("filtered", ("run_id", "round", "row_id", "passed"), rows)

    def filtered(self, round_number: int) -> dict[str, bool | None]:
        """By row, whether it passed; None where it has no value; empty before the filter."""
        query = "SELECT row_id, passed FROM filtered WHERE run_id = ? AND round = ?"
        return dict(self._ledger.select(query, (self._run_id, round_number)))

    def add_candidates(self, round_number: int, candidates: Sequence[CandidateRecord]) -> None:
        """Writes the candidates of a round; those that are there stay."""
        columns = ("run_id", "round", *CandidateRecord.__slots__)
        rows = [(self._run_id, round_number, *astuple(one)) for one in candidates]
        self._ledger.append("candidate", columns, rows, conflict="ON CONFLICT DO NOTHING")

    def candidates(self, round_number: int) -> list[CandidateRecord]:
        """The candidates of a round, by row and number."""
        names = ", ".join(CandidateRecord.__slots__)
        query = f"SELECT {names} FROM candidate WHERE run_id = ? AND round = ? ORDER BY row_id, number"
        return [CandidateRecord(*row) for row in self._ledger.select(query, (self._run_id, round_number))]
