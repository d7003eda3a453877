"""Step `hold`: where more rows would go on than the set's size allows, those go on that cover all of them best."""

from __future__ import annotations

from collections.abc import Sequence

from burnish._coverage_types import CoverageCandidate, CoverageSettings
from burnish._types import ModelRef
from burnish.coordinator.content import derive_seed
from burnish.coordinator.errors import StepFailed
from burnish.coordinator.policy.assembly import DataRow
from burnish.coordinator.policy.coverage import Held, Nearest, hold
from burnish.coordinator.steps.cover import calibrate, compute_features
from burnish.coordinator.steps.project import project
from burnish.coordinator.steps.runs import HoldRun


async def hold_size(
    run: HoldRun, round_number: int, base: ModelRef, following: Sequence[DataRow], *, draw: bool = False
) -> Sequence[DataRow]:
    """The rows of `following` that go on. All of them where they are few enough, or any number may go on. `draw`: see
    `cover`."""
    size = run.settings.held_rows(len(run.book.rows(1)))
    if size is None or len(following) <= size:
        return following
    known = bool(run.book.held(round_number))
    held = await cover(run, round_number, base, following, size, draw=draw)
    if not known:
        run.observer.noted(
            f"Round {round_number}: {len(following)} rows would go on; {size} do, which cover them best."
        )
    return held


async def cover(
    run: HoldRun,
    round_number: int,
    base: ModelRef,
    following: Sequence[DataRow],
    size: int = 0,
    *,
    draw: bool = False,
    as_in: int | None = None,
) -> Sequence[DataRow]:
    """The `size` rows of `following` that cover all of them best, or those that did in the round `as_in`; written down
    once. With `draw` the vectors that are made for it make the round's picture, too."""
    stage = run.stage(round_number, "hold")
    held = run.book.held(round_number)
    if not held:
        collection, hashes = await _features(run, round_number, base, following)
        if draw:
            await project(run, round_number, collection, hashes)
        with stage.working():
            stage.expect(len(following))
            if as_in is not None:
                held = run.book.held(as_in)
                if not held:
                    raise StepFailed(f"Which rows cover the others best is not in round {as_in}; begin a new run.")
            else:
                held = await _choose(run, round_number, collection, hashes, following, size)
            with run.book.transaction():
                run.book.add_held(round_number, held)
                stage.advance(len(following))
    elif not stage.done:
        with stage.working():  # killed between the rows and the note that the step is done
            pass
    kept = {one.row_id for one in held if one.kept}
    return [row for row in following if row.row_id in kept]


async def _features(
    run: HoldRun, round_number: int, base: ModelRef, following: Sequence[DataRow]
) -> tuple[str, list[str]]:
    """The collection with the features of all different samples of `following`, and these. Calibrated on the source, so
    that every round counts in the same features, and reads only what is new."""
    choice = run.settings.hold_features()
    source = [row.sample_hash for row in run.book.rows(1)]
    calibration = await calibrate(run, round_number, base, choice, source)
    hashes = list(dict.fromkeys(row.sample_hash for row in following))
    return await compute_features(run, round_number, base, choice, calibration, hashes), hashes


async def _choose(
    run: HoldRun, round_number: int, collection: str, hashes: Sequence[str], following: Sequence[DataRow], size: int
) -> list[Held]:
    unread = run.book.findings.embedding_failures(hashes, collection)
    readable = [CoverageCandidate(name) for name in hashes if name not in unread]
    if not readable:
        return hold(following, size, [], {}, unread)
    found = await run.client.embedding.select(
        collection,
        min(size, len(readable)),
        readable,
        settings=CoverageSettings(seed=derive_seed(run.settings.seed, round_number, "hold")),
        return_witnesses=True,
    )
    nearest = {one.sample_id: Nearest(one.nearest_id, one.cosine) for one in found.witnesses}
    return hold(following, size, [one.sample_id for one in found.selected], nearest, unread)
