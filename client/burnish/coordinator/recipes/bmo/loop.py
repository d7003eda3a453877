"""Bilevel selection with online self-refinement on one page: as bilevel data selection (`recipes/bds/loop.py`), but for
some questions the model learns from its own answers instead of the data's responses.

While a model learns from D and V, and with that what each row of D is worth, its training pauses now and then. The
rewriting service gets the weights as they are then and answers the questions whose responses weigh least (or any);
what passes the checks goes into the pool, and the training goes on with it, each answer weighed by how likely it is now
against how likely it was when it was given. M is the model of that training: BMO's own. S is what it leaves: the rows
that are kept, and of the others those that were answered anew, with the answer that the model gave most often; plain
training on S is compared as in bilevel data selection.

The published method is known from its abstract; what is our derivation is named in docs/bilevel.md.
"""

from __future__ import annotations

from burnish.coordinator.recipes.bds.loop import D, S, begin, compare
from burnish.coordinator.steps.assemble import assemble_kept
from burnish.coordinator.steps.measure import evaluate
from burnish.coordinator.steps.refresh import Refresher
from burnish.coordinator.steps.runs import BmoRun
from burnish.coordinator.steps.train import train
from burnish.coordinator.steps.weigh import decide_rows, last_answers, weigh


async def bmo(run: BmoRun) -> None:
    """Trains M, assembles S, trains on it, and, where there is held-out data, on what it is to be compared with."""
    settings = run.settings
    rows, split, validation, base = await begin(run)
    refined = await train(
        run,
        D,
        base,
        split.training,
        hyperparameters=settings.learning_hyperparameters(D),
        bilevel=settings.selection(str(run.paths.validation), validation.digest),
        refinement=settings.refinement(),
        at_pause=Refresher(run, D, base, split.training).at_pause,
    )
    await evaluate(run, D, refined)  # M
    decide_rows(run, D, rows, split, await weigh(run, D), last_answers(run, D))
    assemble_kept(run, D, rows)

    await evaluate(run, S, await train(run, S, base))
    await compare(run, base, split, validation)
