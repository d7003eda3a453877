"""Bilevel data selection on one page: from the data set as it came to the rows that a validation set asks for, and the
model trained on them.

D is the data set, V the validation set: few samples that can be trusted, none of which, nor any with the same prompt,
is trained on. While a model learns from both, every row of D gets a weight that moves towards what lowers the loss on
V. S is the share of D with the largest ones; plain training on S is compared with what else could have been done:
training on D and V together, on V alone, and on random subsets of the size of S. What a step does is in `steps/`, what
is decided in `policy/bilevel.py`. Every step does only what the ledger lacks, so that a run may be killed at any moment
and gone on with.

The rounds of the ledger: 1 is D, with the model that weights were learnt with, 2 is S, and from 3 on what S is compared
with, which has models but no data set of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

from burnish._types import ModelRef
from burnish.coordinator.policy.assembly import DataRow
from burnish.coordinator.policy.bilevel import Split
from burnish.coordinator.policy.controls import draws
from burnish.coordinator.steps.arm import measure_draws, measure_trusted
from burnish.coordinator.steps.assemble import assemble_kept
from burnish.coordinator.steps.measure import base_model, evaluate
from burnish.coordinator.steps.read import read
from burnish.coordinator.steps.runs import BdsRun
from burnish.coordinator.steps.train import prune, steps_of, train
from burnish.coordinator.steps.validation import Validation, check_validation, split_validation
from burnish.coordinator.steps.weigh import decide_rows, weigh

D, S, DIRECT, VALIDATION_ONLY, RANDOM = 1, 2, 3, 4, 5


async def bds(run: BdsRun) -> None:
    """Learns weights, selects S, trains on it, and, where there is held-out data, on what it is to be compared with."""
    rows, split, validation, base = await begin(run)
    selection = run.settings.selection(str(run.paths.validation), validation.digest)
    how = run.settings.learning_hyperparameters(D)
    await evaluate(run, D, await train(run, D, base, split.training, hyperparameters=how, bilevel=selection))
    decide_rows(run, D, rows, split, await weigh(run, D))
    assemble_kept(run, D, rows)
    prune(run, D)

    await evaluate(run, S, await train(run, S, base))
    await compare(run, base, split, validation)


async def begin(run: BdsRun) -> tuple[Sequence[DataRow], Split, Validation, ModelRef]:
    """The rows of D, which of them are trained on, V, and the base model, which is measured."""
    check_validation(run)
    await read(run)
    rows = run.book.rows(D)
    split, validation = split_validation(run, D, rows)
    base = await base_model(run)
    await evaluate(run, 0, base)
    return rows, split, validation, base


async def compare(run: BdsRun, base: ModelRef, split: Split, validation: Validation) -> None:
    """Trains on what S is to be compared with, where there is held-out data to compare by."""
    settings = run.settings
    if not settings.holdout:
        run.observer.noted("Without --holdout there is nothing to compare by; only what was selected is trained on.")
        return
    if not settings.compare:
        return
    await measure_trusted(run, (DIRECT, VALIDATION_ONLY), base, split.training, validation.rows, steps_of(run, S))
    size = len(run.book.rows(S))
    await measure_draws(run, RANDOM, base, draws(split.training, size, settings.seed, settings.random_subsets))
