"""After a recipe has ended: models to compare the run's own with, where `--compare` or `--oracle` asks for them.

Nothing here changes what the run made, and the recipe knows nothing of it. All are trained as the run's own model was,
from the base model: on all rows of the source as they came; on as many random rows of it as the run's model was trained
on; and, where it is known which rows are wrong, on the right ones only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from burnish.coordinator.arms import ALL_ROWS, ARM_ROUNDS, RANDOM, RIGHT_ROWS, ArmRounds, arm_of, run_round
from burnish.coordinator.errors import DataError, InputError
from burnish.coordinator.history import RunHistory
from burnish.coordinator.policy.assembly import DataRow
from burnish.coordinator.policy.controls import draws
from burnish.coordinator.policy.verdict import SET_ASIDE
from burnish.coordinator.recipes.base import RecipeSettings, RunOptions
from burnish.coordinator.steps.arm import measure_arm
from burnish.coordinator.steps.measure import base_model
from burnish.coordinator.steps.stage import AnyRun
from burnish.coordinator.steps.train import ROWS, rows_digest
from burnish.coordinator.truth import read_truth


@dataclass(frozen=True, slots=True)
class ExtraArm:
    """One more model to train: at which round, on which rows; `seed` of its training where it is another one than the
    run's."""

    round: int
    rows: Sequence[DataRow]
    seed: int | None = None


def check_options(settings: RecipeSettings, options: RunOptions) -> None:
    """Raises InputError where what is asked for cannot be had by these settings."""
    asked = " and ".join(name for name in ("compare", "oracle") if getattr(options, name))
    if asked and not settings.holdout:
        raise InputError(f"{asked} compares by held-out data, and there are none; give them with --holdout.")


async def compare_afterwards(run: AnyRun) -> None:
    """Trains and measures what is asked for and not there yet. Raises DataError where the truth cannot be read."""
    history = run.book.history()
    if not (run.options.compare or run.options.oracle):
        return
    if run.book.model(run_round(history.run.config), "trained") is None:
        run.observer.noted("The run trained no model on what it made, so there is nothing to compare.")
        return
    base = await base_model(run)
    for arm in asked_for(history, run.settings, run.options):
        if not _measured(history, arm.round):
            name = arm_of(run.settings.RECIPE, history.run.config, arm.round).name
            run.observer.noted(f"To compare with: training on {name}, {len(arm.rows)} rows.")
        how = run.settings.hyperparameters(run_round(history.run.config))
        seeded = how if arm.seed is None else replace(how, seed=arm.seed)
        _expect_same(history, arm)
        await measure_arm(run, arm.round, base, arm.rows, hyperparameters=seeded)


def complete(history: RunHistory, settings: RecipeSettings, options: RunOptions) -> bool:
    """Whether all that is asked for has been trained and measured."""
    return all(
        _measured(history, arm.round) and _trained_on(history, arm.round) in (None, rows_digest(arm.rows))
        for arm in asked_for(history, settings, options)
    )


def asked_for(history: RunHistory, settings: RecipeSettings, options: RunOptions) -> list[ExtraArm]:
    """The models that are asked for beside those that the recipe trains by itself; none where the run has no model of
    its own. Always the same for the same run."""
    there = {model.round for model in history.models() if model.role == "trained"}
    last = run_round(history.run.config)
    if not (options.compare or options.oracle) or last not in there:
        return []
    aside = {one.row_id for one in history.decisions(1) if one.actions[0] in SET_ASIDE}
    rows = [row for row in history.rows(1) if row.row_id not in aside]
    own = ARM_ROUNDS.get(settings.RECIPE, ArmRounds())
    found = []
    if own.all_rows not in there or (options.compare and own.random is None):  # the recipe's own has another seed
        found.append(ExtraArm(ALL_ROWS, rows))
    if options.oracle:
        known = read_truth(history, options.truth)
        right = [row for row in rows if row.row_id in known and not known[row.row_id].flaw]
        found += [ExtraArm(RIGHT_ROWS, right)] if right else []
    if options.compare and own.random not in there:
        drawn = draws(rows, len(history.rows(last)), settings.seed, options.random_subsets)
        found += [ExtraArm(RANDOM + number, one.rows, one.seed) for number, one in enumerate(drawn)]
    return found


def _trained_on(history: RunHistory, round_number: int) -> str | None:
    """The digest of an arm's rows, once it is trained; None before, and where it was not noted."""
    model = next((one for one in history.models() if (one.round, one.role) == (round_number, "trained")), None)
    # Releases before this one noted it with the step that measured the model.
    step = next((one for one in history.steps() if (one.round, one.name) == (round_number, "evaluate")), None)
    found = next((one.detail[ROWS] for one in (model, step) if one is not None and ROWS in one.detail), None)
    return None if found is None else str(found)


def _expect_same(history: RunHistory, arm: ExtraArm) -> None:
    """Raises DataError where the truth has changed since a model was trained on the right rows."""
    if _trained_on(history, arm.round) not in (None, rows_digest(arm.rows)):
        raise DataError(
            "What is known to be right has changed since this run's model of the right rows was trained, which would be"
            " compared as if it had not. Give the file as it was (--truth), or begin a run in a new folder (--out)."
        )


def _measured(history: RunHistory, round_number: int) -> bool:
    return any((step.round, step.name, step.state) == (round_number, "evaluate", "done") for step in history.steps())
