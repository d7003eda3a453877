"""What to do after reading a report, in one line. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from burnish.coordinator.arms import ARM_ROUNDS, ArmKind, ArmRounds
from burnish.report.short_data import Arm, Outcome, Verdict
from burnish.report.verdict import between, training_harmed, trusted_better

FEW = 100  # held-out rows, below which a difference has to be large to be seen


def with_controls(recipe: str, settings: Mapping[str, object]) -> str:
    """How to repeat the command of a run so that random rows are trained on: of recipes that do so themselves these are
    settings, which make another run, and some can be told not to compare at all."""
    if ARM_ROUNDS.get(recipe, ArmRounds()).random is None:
        return "with --compare"
    compare = "--compare and " if "compare" in settings else ""
    return f"with {compare}--random-subsets 3 in a new folder (--out)"


def next_step(verdict: Verdict, arms: list[Arm], *, control: str, held_out: int, finished: bool) -> str:
    """The first rule that fits. `control`: how to repeat the command so that random rows are trained on."""
    kinds = {arm.kind for arm in arms if arm.losses}
    if not finished:
        return "The run is not finished. Repeat the same command: it goes on where it stopped."
    if not held_out:
        return (
            "Give held-out data (--holdout): a few hundred rows like those the model will meet, none of which are in"
            " the training data. Without them nobody can say whether this run did any good."
        )
    if ArmKind.RUN not in kinds:
        return "Train on the result (final/) and on the data as they came, and compare both on data held out."
    if better := trusted_better(arms):
        how = "for as many steps as this run's model took" if better.kind is ArmKind.TRUSTED else "with these settings"
        return f"Train on {better.name} instead, {how}: that made a better model, which is below, under Models."
    if training_harmed(arms):
        return (
            "Do not use this run's model: the model as it came is better. Train more gently (a lower --learning-rate,"
            " fewer --epochs) before judging the data."
        )
    if verdict.outcome is Outcome.KEPT:
        return (
            "Train on all rows as they are: no other set was found to be better. Another signal, or another recipe, may"
            " find what this one did not; where trusted rows judge (--trusted), more of them tell finer differences."
        )
    if verdict.outcome is Outcome.WORSE:
        fewer = {arm.kind: arm for arm in arms if arm.losses}
        everything = fewer.get(ArmKind.ALL)
        apart = None if everything is None else between(fewer[ArmKind.RUN], everything)
        if apart is not None and apart.told and apart.difference < 0:
            return (
                "Do not use this result: as many rows drawn at random make a better model. All rows make a worse one:"
                " fewer help here, and which ones does not matter. See whether fewer steps, or a lower --learning-rate,"
                " do as well."
            )
        instead = "train on all rows as they came"
        if apart is not None and not apart.told:
            instead = "all rows as they came, or random ones, do as well or better"
        return f"Do not use this result: {instead}. Below, see what was dropped or rewritten, and why."
    if ArmKind.RANDOM not in kinds:
        return f"Repeat the same command {control}: models trained on random rows show what chance does."
    if verdict.outcome is Outcome.BETTER:
        return "Use the result: the data set is in final/, and the model trained on it is the last one under Models."
    few = f" There are only {held_out} held-out rows: give more of them (--holdout), for they tell finer differences."
    if verdict.outcome is Outcome.CHANCE:
        return "Do not rely on this result." + (few if held_out < FEW else " Try other settings, or another recipe.")
    if ArmKind.ALL not in kinds:
        return "See whether all rows do better: train on them as well."
    return "Train on all rows where they can be afforded; where fewer must do, use this result rather than random rows."
