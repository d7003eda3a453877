"""Steps `weigh` and `decide` of bilevel selection: the weights that were learnt, and what follows for every row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from burnish._errors import NotFound
from burnish._training import AsyncRun
from burnish.coordinator.errors import StepFailed
from burnish.coordinator.policy.assembly import DataRow
from burnish.coordinator.policy.bilevel import Split, Weight, weigh_rows
from burnish.coordinator.policy.refinement import consensus, refine_verdicts
from burnish.coordinator.refreshes import OnlineRecord, answer_of
from burnish.coordinator.steps.runs import BdsRun
from burnish.coordinator.steps.stage import AnyRun


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
                await fetch_weights(run, round_number, training)
            except NotFound as error:
                raise StepFailed(
                    f"The training service does not know run {record.training_run} any more, and with it the weights"
                    " that it learnt: it forgets runs BURNISH_TRAINING_KEEP_ENDED_SECONDS after their end (90 days"
                    " unless its operator says otherwise), or its state directory has changed. Run the same command"
                    f" again: it trains this once more. ({error})"
                ) from error
            found = run.book.weights(round_number)
            with run.book.transaction():
                # Those that a coordinator wrote down which was killed before it noted the step's end count once.
                stage.advance(len(found) - stage.items_done, total=len(found))
    return run.book.weights(round_number)


async def fetch_weights(run: AnyRun, round_number: int, training: AsyncRun) -> None:
    """Writes down what a training has learnt since it was last asked."""
    async for snapshot in training.sample_weights(run.book.last_weight_step(round_number)):
        with run.book.transaction():
            run.book.add_weights(round_number, snapshot)
        run.stop_here()


def last_answers(run: AnyRun, round_number: int) -> Mapping[str, tuple[str, str]]:
    """By row, the sample with the answer that takes the place of its response, and why it is that one: of the answers
    that the round's training learnt from last."""
    learnt = [one for one in run.book.refreshes.of_round(round_number) if not one.stopped]
    if not learnt:
        return {}
    records: dict[str, list[OnlineRecord]] = {}
    for record in run.book.refreshes.answers(round_number, learnt[-1].step):
        records.setdefault(record.row_id, []).append(record)
    found = {}
    prompts = list(dict.fromkeys(one[0].prompt_hash for one in records.values()))
    said = run.book.beliefs.responses(prompts, learnt[-1].key)
    for row_id, asked in records.items():
        by_number = {one.number: one for one in said[asked[0].prompt_hash]}
        answers = [answer_of(row_id, by_number[one.number]) for one in asked]
        best = consensus(answers)
        if best is not None:
            answer, votes = best
            name = next(one.sample_hash for one in asked if one.number == answer.number)
            assert name is not None
            found[row_id] = (name, f"The model's own answer takes its place; {votes} of {len(asked)} say the same.")
    return found


def decide_rows(
    run: BdsRun,
    round_number: int,
    rows: Sequence[DataRow],
    split: Split,
    weights: Mapping[str, Weight],
    answers: Mapping[str, tuple[str, str]] = MappingProxyType({}),
) -> None:
    """One action for every row, written down once; `answers`: of the model's own, by row, as `last_answers` has
    them."""
    stage = run.stage(round_number, "decide")
    if stage.done:
        return
    with stage.working():
        if run.book.decisions(round_number):
            return  # killed between the decisions and the note that the step is done
        with run.book.transaction():
            stage.expect_within(len(rows))
            verdicts = weigh_rows(rows, split, weights, run.settings.keep)
            run.book.add_decisions(round_number, refine_verdicts(verdicts, answers))
            stage.advance(len(rows))
