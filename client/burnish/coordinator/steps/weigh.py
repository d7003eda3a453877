"""Steps `weigh` and `decide` of bilevel selection: the weights that were learnt, and what follows for every row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from burnish._errors import NotFound
from burnish.coordinator.errors import StepFailed
from burnish.coordinator.policy.assembly import DataRow
from burnish.coordinator.policy.bilevel import Split, Weight, weigh_rows
from burnish.coordinator.steps.stage import AnyRun
from burnish.coordinator.steps.validation import BdsRun


async def weigh(run: AnyRun, round_number: int) -> Mapping[str, Weight]:
    """By row, what the round's training has learnt in the end; what it had learnt after each epoch is in the ledger.
    Raises StepFailed where the training service does not know the run any more."""
    stage = run.stage(round_number, "weigh")
    if not stage.done:
        record = run.book.model(round_number, "trained")
        assert record is not None
        assert record.training_run is not None
        with stage.working():
            try:
                training = await run.client.training.get(record.training_run)
                async for snapshot in training.sample_weights(run.book.last_weight_step(round_number)):
                    with run.book.transaction():
                        run.book.add_weights(round_number, snapshot)
                        stage.advance(len(snapshot.ids), total=stage.items_done + len(snapshot.ids))
                    stage.show()
                    run.stop_here()
            except NotFound as error:
                raise StepFailed(
                    f"The training service does not know run {record.training_run} any more, and with it the weights"
                    f" that it learnt. Has its state directory changed? Begin a new run with another --out. ({error})"
                ) from error
    return run.book.weights(round_number)


def decide_rows(
    run: BdsRun, round_number: int, rows: Sequence[DataRow], split: Split, weights: Mapping[str, Weight]
) -> None:
    """One action for every row, written down once."""
    stage = run.stage(round_number, "decide")
    if stage.done:
        return
    with stage.working():
        if run.book.decisions(round_number):
            return  # killed between the decisions and the note that the step is done
        with run.book.transaction():
            stage.expect_within(len(rows))
            run.book.add_decisions(round_number, weigh_rows(rows, split, weights, run.settings.keep))
            stage.advance(len(rows))
