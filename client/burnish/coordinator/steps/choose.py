"""Step `choose` of filtering: which share of the rows is trained on in the end, and by which of two signals, by models
that tried several."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

from burnish._errors import PreconditionFailed
from burnish._types import ModelRef
from burnish.coordinator.errors import DataError, StepFailed
from burnish.coordinator.findings import Parts
from burnish.coordinator.policy.assembly import DataRow
from burnish.coordinator.policy.choice import LEAST_JUDGES, Tried, choose
from burnish.coordinator.policy.contrast import Scores, contrast
from burnish.coordinator.policy.signals import Signal, value_of
from burnish.coordinator.policy.verdict import STAYS, Verdict
from burnish.coordinator.recipes.filter.settings import FilterSettings
from burnish.coordinator.steps.hold import cover
from burnish.coordinator.steps.measure import score_in_detail
from burnish.coordinator.steps.rank import Measured, rank, weights_by
from burnish.coordinator.steps.runs import FilterRun
from burnish.coordinator.steps.train import prune, train

_NO_NEURONS = "CALIBRATION_TOO_SMALL"  # of not one sample: those of a mixture of experts are not to be read


@dataclass(frozen=True, slots=True)
class Part:
    """The best `share` of the rows, 1 for all of them, by `signal`; with `held`, of these only that share of all rows,
    those that cover them best, counting by rank."""

    signal: Signal
    share: float
    held: float | None = None


def check_judges(settings: FilterSettings, trusted: Sequence[DataRow]) -> None:
    """Raises DataError where so few trusted rows judge that no share can be chosen, before anything is trained."""
    different = len({row.sample_hash for row in trusted})
    if settings.tried() and different < LEAST_JUDGES:
        raise DataError(
            f"The trusted rows that judge which share is taken are {different} different ones; expected at least"
            f" {LEAST_JUDGES}, and a hundred tell more. Give more of them (--trusted), or say yourself how many rows"
            " stay (recipe filter: --keep)."
        )


async def choose_share(
    run: FilterRun,
    round_number: int,
    round_of: Callable[[Part], int],
    base: ModelRef,
    training: Sequence[DataRow],
    trusted: Sequence[DataRow],
    found: Measured,
) -> Part:
    """What is trained on: what the settings say, or, where several shares are tried, what the trusted rows do
    (`policy/choice.py`): the largest whose model does as well on them as the best. With a rival, the middle share is
    tried by both signals; what else is tried by the rival where it is better there by more than one standard error.
    `round_of`: where what is tried is trained. Raises StepFailed where fewer than two different trusted rows could be
    scored."""
    settings = run.settings
    if not settings.tried():
        return Part(settings.signal, settings.keep)
    stage = run.stage(round_number, "choose")
    if stage.done:
        return taken(run, round_number)
    losses: dict[Part, Scores] = {}

    async def judge(one: Part) -> Scores:
        rows, weights = await _of_part(run, round_of(one), base, training, found, one)
        model = await train(run, round_of(one), base, rows, weights=weights)
        losses[one] = await _on_trusted(run, round_of(one), model, trusted)
        return losses[one]

    nothing = await judge(Part(settings.signal, 1.0))
    signal = settings.signal
    if settings.rival is not None and _ranks(settings.rival, found):
        own = await judge(Part(signal, settings.middle()))
        rivals = await judge(Part(settings.rival, settings.middle()))
        apart = contrast(rivals, own)
        if apart is not None and apart.told and apart.difference < 0:
            signal = settings.rival
    elif settings.rival is not None:
        run.observer.noted(f"Signal {settings.rival} ranks too few of the rows; only {signal} is tried.")
    for share in settings.tried():
        if Part(signal, share) not in losses:
            await judge(Part(signal, share))
    covering = Part(signal, max(settings.shares), settings.middle())
    if settings.covers() and _leaves_out(run, training, found, covering):
        try:
            await judge(covering)
        except PreconditionFailed as error:
            if error.reason != _NO_NEURONS:
                raise
            run.observer.noted(f"What covers the best {covering.share:.0%} cannot be told, and is not tried: {error}")
    with stage.working():
        stage.expect(len(losses))
        # Of several of one size the plain one of the better signal first, then what covers.
        tried = sorted(losses, key=lambda one: (-(one.held or one.share), one.signal is not signal, one.held or 0.0))
        try:
            choice = choose(nothing, [losses[one] for one in tried[1:]], settings.errors)
        except ValueError as error:
            raise StepFailed(
                f"No share can be chosen: {error}; at least two are needed. Give more of them, or other ones that are"
                " not too long."
            ) from error
        best = tried[choice.place]
        told = [{**asdict(one), **asdict(of)} for one, of in zip(tried, choice.tried, strict=True)]
        with run.book.transaction():
            stage.note({**asdict(best), "tried": told})
            stage.advance(len(losses))
    some_gone = len(_best(run, training, found, best.signal, 1.0)) < len(training)
    run.observer.noted(_said(best, choice.tried[choice.place], settings, some_gone=some_gone))
    return best


def taken(run: FilterRun, round_number: int) -> Part:
    """What is trained on, once it is known."""
    settings = run.settings
    if not settings.tried():
        return Part(settings.signal, settings.keep)
    detail = run.stage(round_number, "choose").detail
    held = detail.get("held")
    signal, share = Signal(str(detail["signal"])), float(str(detail["share"]))
    return Part(signal, share, None if held is None else float(str(held)))


def does_nothing(run: FilterRun, round_number: int) -> bool:
    """Whether all rows are trained on as they are, since no share was found to be better."""
    return bool(run.settings.tried()) and taken(run, round_number).share == 1.0


def prune_tried(run: FilterRun, rounds: Iterable[int], last: ModelRef) -> None:
    """Deletes the models of what was tried and not taken, where only the last is to be kept."""
    for number in rounds:
        if str(run.paths.model(number)) != last.uri:
            prune(run, number)


def _ranks(signal: Signal, found: Measured) -> bool:
    """Whether most rows have a value by it."""
    values = [value_of(signal, one) for one in found.samples.values()]
    return 2 * sum(value is not None for value in values) > len(values)


def _said(best: Part, found: Tried, settings: FilterSettings, *, some_gone: bool) -> str:
    """`some_gone`: rows without a value, which none of what was tried has."""
    every = "all rows that have a value" if some_gone else "all rows"
    if best.share == 1.0:
        return (
            f"No share is better than {every} by more than {settings.errors:g} standard errors on the trusted rows:"
            f" {every} are kept."
        )
    by = "" if settings.rival is None else f" by {best.signal}"
    kept = f"The best {best.share:.0%}{by} are kept"
    if best.held is not None:
        kept = f"Of the best {best.share:.0%}{by}, {best.held:.0%} of all rows are kept, which cover them best"
    return f"{kept}: on the trusted rows the loss is {-found.difference:.4f} ± {found.error:.4f} below that of {every}."


async def _of_part(
    run: FilterRun, round_number: int, base: ModelRef, training: Sequence[DataRow], found: Measured, one: Part
) -> tuple[Sequence[DataRow], Mapping[str, float] | None]:
    """The rows of a part, and what each counts while it is trained on. Of all rows they count alike; those that have no
    value are not among them where they are to go. What covers is written down at `round_number`."""
    ranked = _best(run, training, found, one.signal, one.share)
    rows: Sequence[DataRow] = [row for row in training if row.row_id in ranked]
    if one.held is not None:
        size = len(_best(run, training, found, one.signal, one.held))
        rows = await cover(run, round_number, base, rows, size)
    elif not run.settings.weighted or one.share == 1.0:
        return rows, None
    return rows, weights_by(one.signal, [ranked[row.row_id] for row in rows])


def _leaves_out(run: FilterRun, training: Sequence[DataRow], found: Measured, one: Part) -> bool:
    """Whether a share has more rows than would be held of it."""
    assert one.held is not None
    largest, held = (len(_best(run, training, found, one.signal, share)) for share in (one.share, one.held))
    return largest > held


def _best(
    run: FilterRun, training: Sequence[DataRow], found: Measured, signal: Signal, share: float
) -> dict[str, Verdict]:
    """The rows of a share, by id."""
    _, ranked = rank(run, training, found, signal, share)
    return {one.row_id: one for one in ranked if one.actions[0] in STAYS}


async def _on_trusted(run: FilterRun, round_number: int, model: ModelRef, trusted: Sequence[DataRow]) -> Scores:
    hashes = list(dict.fromkeys(row.sample_hash for row in trusted))
    scores, _ = await score_in_detail(run, round_number, "score_trusted", model, hashes, Parts.LOSS)
    return {name: (one.sum_nll, one.num_tokens) for name, one in scores.items()}
