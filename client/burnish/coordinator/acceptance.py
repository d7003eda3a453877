"""What became of the rewrites that a run of Middo asked for, where it asks more of them than rules.

Writing belongs inside `Ledger.transaction()`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass

from burnish.coordinator.ledger import Ledger
from burnish.coordinator.policy.acceptance import Acceptance


@dataclass(frozen=True, slots=True)
class Asked:
    """One rewrite that a decision asked for. `result_hash` is None where there is none, for `reason`."""

    row_id: str
    strategy: str
    sample_hash: str
    result_hash: str | None
    reason: str


class Acceptances:
    """The table `acceptance` of one run."""

    def __init__(self, ledger: Ledger, run_id: str) -> None:
        self._ledger = ledger
        self._run_id = run_id

    def asked(self, round_number: int) -> list[Asked]:
        """The rewrites that a round's decisions asked for, in the order of its rows."""
        rows = self._ledger.select(
            "SELECT f.row_id, f.strategy, f.sample_hash, w.result_hash, w.reason FROM refinement f JOIN rewrite w USING"
            " (sample_hash, strategy, context_digest, model_digest, prompt_version, params_digest)"
            " JOIN dataset_row d ON d.run_id = f.run_id AND d.round = f.round AND d.row_id = f.row_id"
            " WHERE f.run_id = ? AND f.round = ? ORDER BY d.position, f.strategy",
            (self._run_id, round_number),
        )
        return [Asked(*row) for row in rows]

    def add(self, round_number: int, acceptances: Sequence[Acceptance]) -> None:
        """Writes a round's verdicts."""
        columns = ("run_id", "round", *Acceptance.__slots__)
        rows = [(self._run_id, round_number, *astuple(one)) for one in acceptances]
        self._ledger.append("acceptance", columns, rows)

    def of_round(self, round_number: int) -> list[Acceptance]:
        """A round's verdicts, in the order of its rows; empty where rules alone decide."""
        names = ", ".join(f"a.{name}" for name in Acceptance.__slots__)
        rows = self._ledger.select(
            f"SELECT {names} FROM acceptance a JOIN dataset_row d USING (run_id, round, row_id)"
            " WHERE a.run_id = ? AND a.round = ? ORDER BY d.position, a.strategy",
            (self._run_id, round_number),
        )
        return [Acceptance(*row) for row in rows]
