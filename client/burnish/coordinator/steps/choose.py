"""Step `choose` of filtering: which share of the rows is trained on in the end, by models that tried several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from burnish._types import ModelRef
from burnish.coordinator.errors import StepFailed
from burnish.coordinator.findings import Parts
from burnish.coordinator.policy.assembly import DataRow
from burnish.coordinator.policy.choice import choose
from burnish.coordinator.policy.contrast import Scores
from burnish.coordinator.steps.measure import score_in_detail
from burnish.coordinator.steps.rank import FilterRun, Measured, rank, weights_by
from burnish.coordinator.steps.train import prune, train


async def choose_share(
    run: FilterRun,
    round_number: int,
    first_tried: int,
    base: ModelRef,
    training: Sequence[DataRow],
    trusted: Sequence[DataRow],
    found: Measured,
) -> float:
    """The share that is kept, 1 for all rows: what the settings say, or, where several are tried, the largest whose
    model does as well on the trusted rows as the best of them (`policy/choice.py`). What models are trained on is the
    rounds from `first_tried` on, all rows first. Raises StepFailed where fewer than two different trusted rows could be
    scored."""
    settings = run.settings
    shares = (1.0, *settings.tried())
    if len(shares) == 1:
        return settings.keep
    stage = run.stage(round_number, "choose")
    if stage.done:
        return share_taken(run, round_number)
    losses = {}
    for place, share in enumerate(shares):
        rows, weights = _of_share(run, training, found, share)
        model = await train(run, first_tried + place, base, rows, weights=weights)
        losses[share] = await _on_trusted(run, first_tried + place, model, trusted)
    with stage.working():
        stage.expect(len(shares))
        shares = tuple(sorted(losses, reverse=True))
        try:
            choice = choose(losses[1.0], [losses[share] for share in shares[1:]], settings.errors)
        except ValueError as error:
            raise StepFailed(
                f"No share can be chosen: {error}; at least two are needed. Give more of them, or other ones that are"
                " not too long."
            ) from error
        taken = shares[choice.place]
        tried = [{"share": share, **asdict(one)} for share, one in zip(shares, choice.tried, strict=True)]
        with run.book.transaction():
            stage.note({"share": taken, "tried": tried})
            stage.advance(len(shares))
    if taken == 1.0:
        run.observer.noted(
            f"No share is better than all rows by more than {settings.errors:g} standard errors on the trusted rows:"
            " all rows are kept."
        )
    else:
        one = choice.tried[choice.place]
        run.observer.noted(
            f"The best {taken:.0%} are kept: on the trusted rows the loss is {-one.difference:.4f} ± {one.error:.4f}"
            " below that of all rows."
        )
    return taken


def share_taken(run: FilterRun, round_number: int) -> float:
    """The share that is kept, once it is known."""
    return float(str(run.stage(round_number, "choose").detail["share"])) if run.settings.tried() else run.settings.keep


def does_nothing(run: FilterRun, round_number: int) -> bool:
    """Whether all rows are trained on as they are, since no share was found to be better."""
    return bool(run.settings.tried()) and share_taken(run, round_number) == 1.0


def prune_tried(run: FilterRun, first_tried: int, taken: ModelRef) -> None:
    """Deletes the models of the shares that were not taken, where only the last is to be kept."""
    for number in range(first_tried, first_tried + 1 + len(run.settings.tried())):
        if str(run.paths.model(number)) != taken.uri:
            prune(run, number)


def _of_share(
    run: FilterRun, training: Sequence[DataRow], found: Measured, share: float
) -> tuple[Sequence[DataRow], Mapping[str, float] | None]:
    """The rows of a share, and what each counts while it is trained on. Of all rows they count alike; those that have
    no value are not among them where they are to go."""
    _, ranked = rank(run, training, found, share)
    weights = weights_by(run.settings.signal, ranked)
    rows = [row for row in training if row.row_id in weights]
    return rows, weights if run.settings.weighted and share < 1.0 else None


async def _on_trusted(run: FilterRun, round_number: int, model: ModelRef, trusted: Sequence[DataRow]) -> Scores:
    hashes = list(dict.fromkeys(row.sample_hash for row in trusted))
    scores, _ = await score_in_detail(run, round_number, "score_trusted", model, hashes, Parts.LOSS)
    return {name: (one.sum_nll, one.num_tokens) for name, one in scores.items()}
