"""What a run did to the model, in one honest sentence. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from burnish.coordinator.arms import ArmKind
from burnish.coordinator.policy.contrast import Contrast, contrast
from burnish.report.short_data import Arm, Outcome, Verdict

NUMBERS = {2: "two", 3: "three", 4: "four", 5: "five"}


def verdict(arms: Sequence[Arm], *, held_out: bool, finished: bool) -> Verdict:
    """Of the arms of a run, with their losses on held-out data, where it was given any. A difference counts from more
    than one standard error over the held-out samples on, and against chance only outside the controls' range."""
    run = _of(arms, ArmKind.RUN)
    everything, chance = _of(arms, ArmKind.ALL), _of(arms, ArmKind.RANDOM)
    if not held_out:
        return Verdict(Outcome.UNTOLD, "Whether this made a better model cannot be told: no held-out data were given.")
    if run is None:
        why = "this run trains no model on what it made" if finished else "the run has not trained its model yet"
        return Verdict(Outcome.UNTOLD, f"Whether this made a better model cannot be told: {why}.")
    drawn = "all rows in another order" if draws_are_all_rows(arms) else "as many random rows"
    if everything is not None and _same(run, everything):
        found = Verdict(
            Outcome.KEPT, "Nothing gained, nothing lost: all rows were kept, as a training on all rows has them."
        )
    elif chance is None:
        found = _without_controls(run, everything)
    else:
        found = _against_chance(run, chance, everything, drawn)
    if training_harmed(arms):
        if found.outcome is Outcome.BETTER:
            sentence = "Better than all rows and than chance, but no gain"
            found = Verdict(
                Outcome.MIXED, f"{sentence}: this run's model is worse than the model as it came.", found.because
            )
        else:
            found = _adding(found, "This run's model is worse than the model as it came, too.")
    if better := trusted_better(arms):
        apart = _briefly(between(better, run))
        found = _adding(found, f"A model trained on {better.name} is better than this run's: its loss is {apart} it.")
    return found


def _adding(found: Verdict, sentence: str) -> Verdict:
    return replace(found, because=f"{found.because} {sentence}".lstrip())


def training_harmed(arms: Sequence[Arm]) -> bool:
    """Whether the run's model is worse than the base model, by more than one standard error."""
    run, base = _of(arms, ArmKind.RUN), _of(arms, ArmKind.BASE)
    if run is None or base is None:
        return False
    apart = between(run, base)
    return apart.told and apart.difference > 0


def trusted_better(arms: Sequence[Arm]) -> Arm | None:
    """What else trusted rows were used for, alone or with all others, where that made a better model than the run's,
    than all rows did and than the base model, each by more than two standard errors: of several tried the best is
    better by luck, and errors over rows do not hold the luck of a training."""
    rivals = [one for kind in (ArmKind.RUN, ArmKind.ALL, ArmKind.BASE) if (one := _of(arms, kind)) is not None]
    if _of(arms, ArmKind.RUN) is None:
        return None

    def beats_all(one: Arm) -> bool:
        found = [between(one, rival) for rival in rivals]
        return all(apart.error is not None and apart.difference < -2 * apart.error for apart in found)

    others = [one for kind in (ArmKind.MIXED, ArmKind.TRUSTED) if (one := _of(arms, kind)) is not None]
    return min(filter(beats_all, others), key=lambda one: one.losses[0], default=None)


def draws_are_all_rows(arms: Sequence[Arm]) -> bool:
    """Whether as many random rows as the run's model was trained on are all there are, so that controls differ in the
    order of training alone."""
    chance, everything = _of(arms, ArmKind.RANDOM), _all_rows(arms)
    return chance is not None and everything is not None and chance.rows >= everything


def _all_rows(arms: Sequence[Arm]) -> int | None:
    """How many rows there are to train on; where no model was trained on them alone, by that of them and the trusted
    ones. None where neither is there."""
    everything, mixed, trusted = (_of(arms, kind) for kind in (ArmKind.ALL, ArmKind.MIXED, ArmKind.TRUSTED))
    if everything is not None:
        return everything.rows
    return None if mixed is None or trusted is None else mixed.rows - trusted.rows or None


def between(one: Arm, other: Arm, index: int = 0) -> Contrast:
    """The first model of `one` against a model of `other`; without an error where scores by sample are missing."""
    found = contrast(one.scores[0], other.scores[index]) if one.scores and other.scores else None
    return found or Contrast(one.losses[0] - other.losses[index], None)


def _same(run: Arm, everything: Arm) -> bool:
    """Whether both are one model: as many rows, and the same losses to the last digit."""
    return (run.rows, *run.losses) == (everything.rows, *everything.losses) and list(run.scores) == list(
        everything.scores
    )


def _of(arms: Sequence[Arm], kind: ArmKind) -> Arm | None:
    return next((arm for arm in arms if arm.kind is kind and arm.losses), None)


def _without_controls(run: Arm, everything: Arm | None) -> Verdict:
    if everything is None:
        return Verdict(
            Outcome.UNTOLD,
            "Whether this made a better model cannot be told: nothing was trained to compare it with, neither on all"
            " rows nor on random ones.",
        )
    found = between(run, everything)
    because = f"{_apart(found, 'that of all rows')}."
    if found.told and found.difference > 0:
        return Verdict(Outcome.WORSE, "It did not help: a model trained on all rows, as they came, is better.", because)
    if found.told:
        sentence = "This run's model is better than one trained on all rows; whether that is more than chance cannot be"
    else:
        sentence = "This run's model cannot be told from one trained on all rows; whether chance did as well cannot be"
    return Verdict(Outcome.UNTOLD, f"{sentence} told: no random control was trained.", because)


def _against_chance(run: Arm, chance: Arm, everything: Arm | None, drawn: str) -> Verdict:
    """`drawn`: what the random controls were trained on, in words."""
    loss, low, high = run.losses[0], min(chance.losses), max(chance.losses)
    count = len(chance.losses)
    controls = f"the {NUMBERS.get(count, count)} random controls" if count > 1 else "the random control"
    place = chance.losses.index(low if loss < low else high)
    found = [between(run, chance, number) for number in range(count)]
    nearest = found[place]
    if low <= loss <= high:
        return Verdict(
            Outcome.CHANCE,
            f"Not to be told from chance: this run's model is no better than models trained on {drawn}.",
            f"Its loss of {loss:.4f} lies within the range of {controls}, {low:.4f} to {high:.4f}."
            + _beside(run, everything),
        )
    # The nearest first. One that is further off may be less sure: its rows differ more.
    unclear = [one for one in (nearest, *found) if not one.told or (one.difference < 0) != (loss < low)]
    if unclear:
        which = "the nearest of" if unclear[0] is nearest else "one of"
        return Verdict(
            Outcome.CHANCE,
            f"Not to be told from chance: this run's model is about as good as models trained on {drawn}.",
            f"{_apart(unclear[0], f'that of {which} {controls}')}: too little to tell." + _beside(run, everything),
        )
    if loss > high:
        return Verdict(
            Outcome.WORSE,
            f"It did not help: this run's model is worse than every model trained on {drawn}.",
            f"{_apart(nearest, f'that of the worst of {controls}')}." + _beside(run, everything),
        )
    luck = f"One more random control would be below {controls} one time in {NUMBERS.get(count + 1, count + 1)}."
    than_chance = f"better than every model trained on {drawn}"
    if everything is None:
        return Verdict(
            Outcome.MIXED,
            f"Better than chance: this run's model is {than_chance}. Whether all rows would do better still cannot be"
            " told, for none was trained on them.",
            f"{_apart(nearest, f'that of the best of {controls}')}. {luck}",
        )
    apart = between(run, everything)
    because = f"{_apart(apart, 'that of all rows')}; {_briefly(nearest)} that of the best of {controls}. {luck}"
    if apart.told and apart.difference < 0:
        return Verdict(
            Outcome.BETTER,
            f"It worked: this run's model is better than one trained on all rows, and {than_chance}.",
            because,
        )
    other = "worse than one trained on all rows" if apart.told else "not to be told from one trained on all rows"
    return Verdict(
        Outcome.MIXED, f"Better than chance, but no gain: this run's model is {than_chance}, and {other}.", because
    )


def _apart(found: Contrast, other: str) -> str:
    """The difference in a sentence that says what a standard error is, without its full stop."""
    side = f"Its loss is {abs(found.difference):.4f} {_side(found)} {other}"
    if found.error is None:
        return f"{side}; how far that strays with other held-out rows is not known"
    return f"{side}, {_times(found)} its standard error (how far such a difference strays with other held-out rows)"


def _briefly(found: Contrast) -> str:
    times = "" if found.error is None else f", {_times(found)} its error,"
    return f"{abs(found.difference):.4f}{times} {_side(found)}"


def _side(found: Contrast) -> str:
    return "below" if found.difference < 0 else "above"


def _times(found: Contrast) -> str:
    return f"{abs(found.difference) / found.error:.1f} times" if found.error else "any number of times"


def _beside(run: Arm, everything: Arm | None) -> str:
    """What all rows say, where chance has the say."""
    if everything is None:
        return ""
    apart = between(run, everything)
    if not apart.told:
        return " A model trained on all rows cannot be told from it either."
    return f" A model trained on all rows is {'better' if apart.difference > 0 else 'worse'}."
