"""Step `decide`: the pure policy, from what the ledger holds to decisions in the ledger."""

from __future__ import annotations

from collections.abc import Sequence

from burnish.coordinator.policy.middo import Action, Axis, Decision, RowSignals, decide
from burnish.coordinator.steps.runs import MiddoRun


def decide_round(run: MiddoRun, round_number: int, signals: Sequence[RowSignals]) -> list[Decision]:
    """H, S and Q of a round, and what follows for each row; written down once and read back from then on."""
    stage = run.stage(round_number, "decide")
    decided = [
        Decision(
            record.row_id,
            tuple(Axis(word) for word in record.axes),
            tuple(Action(word) for word in record.actions),
            record.signals,
            record.reasons,
            record.hints,
        )
        for record in run.book.decisions(round_number)
    ]
    if stage.done:
        return decided
    with stage.working():
        stage.expect(len(signals), known=len(decided))
        if not decided:
            plan = decide(signals, run.settings.policy(), round_number=round_number)
            with run.book.transaction():
                run.book.add_thresholds(round_number, plan.thresholds)
                run.book.add_decisions(round_number, plan.decisions)
                stage.advance(len(signals))
            decided = list(plan.decisions)
            for line in plan.thresholds:
                if line.tau is None:
                    run.observer.noted(
                        f"Round {round_number}: no line could be drawn on {line.signal}; {line.num_values} of"
                        f" {len(signals)} rows have a value. Nothing is selected by it."
                    )
                elif line.num_excluded:
                    run.observer.noted(
                        f"Round {round_number}: {line.num_excluded} of {len(signals)} rows have no {line.signal}, and"
                        " are not judged by it."
                    )
    return decided
