"""The steps of MADS-style selection: from samples to a core set.

What a service keeps is named by content, so that another run with the same weights and settings finds it again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from burnish._coverage_types import CoverageCandidate, CoverageSelection, MeasureBatch
from burnish._errors import PreconditionFailed
from burnish._types import ModelRef, TokenSpan
from burnish.coordinator.coverage import CALIBRATION_FINISHED, FeatureChoice, features_collection, selection_notes
from burnish.coordinator.errors import StepFailed
from burnish.coordinator.policy.assembly import DataRow
from burnish.coordinator.policy.coverage import Nearest, Picked, verdicts
from burnish.coordinator.steps.measure import embed_missing, expect_collection, samples_of
from burnish.coordinator.steps.runs import MadsRun
from burnish.coordinator.steps.stage import AnyRun, same_version, version_detail

NUM_RANDOM_CURVES = 3
_MANY_UNREAD = 0.01  # share of the samples that a reader is to be told of


async def calibrate(
    run: AnyRun, round_number: int, selector: ModelRef, choice: FeatureChoice, hashes: Sequence[str]
) -> str:
    """The name of a finished calibration of the selector on a part of the samples; empty where none is wanted."""
    if not choice.is_calibrated:
        return ""
    stage = run.stage(round_number, "calibrate")
    ids = choice.calibration_ids(hashes)
    service = run.client.embedding
    version = await service.load_model(selector)
    name = choice.calibration_name(version, ids)
    there = await service.create_calibration(
        name, activations=choice.activations, length_boundaries=choice.length_boundaries
    )
    if stage.done and there.version:
        return name
    measured: set[str] = set()

    async def send(batch: Sequence[str]) -> MeasureBatch:
        return await service.measure(samples_of(run, batch), name, model=selector)

    def store(batch: Sequence[str], reply: MeasureBatch) -> None:
        same_version(version, reply.model, "embedding")
        measured.update(one.sample_id for one in reply.measurements if not one.status.retryable)

    with stage.working():
        # What was measured before a kill, the service knows; it leaves that out by itself.
        stage.expect(len(ids), known=len(ids) if there.version else 0, detail={"model": version_detail(version)})
        if not there.version:
            try:
                await stage.in_batches(lambda: [name for name in ids if name not in measured], send, store)
            except PreconditionFailed as error:
                if error.reason != CALIBRATION_FINISHED:  # by another run: the name says of the same samples
                    raise
            await service.finish_calibration(name)
    return name


async def compute_features(
    run: AnyRun,
    round_number: int,
    selector: ModelRef,
    choice: FeatureChoice | None,
    calibration: str,
    hashes: Sequence[str],
) -> str:
    """The collection that holds vectors, and features where there is a `choice`, of all samples that the selector can
    read."""
    stage = run.stage(round_number, "features")
    version = await run.client.embedding.load_model(selector)
    collection = features_collection(version, TokenSpan.ALL, choice, calibration)
    features = None if choice is None else choice.feature_settings(calibration)
    await expect_collection(run, collection, source=TokenSpan.ALL, features=features)
    if stage.done and not run.book.findings.unembedded(hashes, collection):
        return collection
    with stage.working():
        detail = {"calibration": calibration}
        await embed_missing(run, stage, version, selector, collection, hashes, detail, truncate=True)
    return collection


async def select_rows(run: MadsRun, round_number: int, collection: str, rows: Sequence[DataRow], size: int) -> None:
    """One action for every row, written down once, with what the selection covers in the step's detail. Raises
    StepFailed where no sample could be read."""
    stage = run.stage(round_number, "select")
    if stage.done:
        return
    with stage.working():
        if run.book.decisions(round_number):
            return  # killed between the decisions and the note that the step is done
        hashes = list(dict.fromkeys(row.sample_hash for row in rows))
        failed = run.book.findings.embedding_failures(hashes, collection)
        readable = [CoverageCandidate(name) for name in hashes if name not in failed]
        if not readable:
            first = next(iter(failed.values()))
            raise StepFailed(f"Not one of {len(hashes)} samples could be read by the selector; the first: {first}")
        found = await run.client.embedding.select(
            collection,
            size,
            readable,
            settings=run.settings.coverage(),
            return_witnesses=True,
            num_random_curves=NUM_RANDOM_CURVES,
        )
        picked = {one.sample_id: Picked(rank, one.gain) for rank, one in enumerate(found.selected, start=1)}
        nearest = {one.sample_id: Nearest(one.nearest_id, one.cosine) for one in found.witnesses}
        decided = verdicts(rows, picked, nearest, failed)
        with run.book.transaction():
            stage.expect_within(len(rows), detail=selection_detail(collection, found))
            run.book.add_decisions(round_number, decided)
            stage.advance(len(rows))
        if len(failed) > _MANY_UNREAD * len(hashes):
            run.observer.noted(_unread_note(failed, len(hashes)))
        for note in selection_notes(found.length_correlation, found.hub_share):
            run.observer.noted(note)


def _unread_note(failed: Mapping[str, str], num_samples: int) -> str:
    example, _ = Counter(failed.values()).most_common(1)[0]
    return f"{len(failed)} of {num_samples} samples could not be read and cannot be selected; most often: {example}."


def selection_detail(collection: str, found: CoverageSelection) -> dict[str, object]:
    """What the ledger keeps of a selection beside its rows."""
    return {
        "collection": collection,
        "optimizer": None if found.optimizer is None else found.optimizer.value,
        "curve": None if found.curve is None else asdict(found.curve),
        "random_curves": [asdict(curve) for curve in found.random_curves],
        "num_features": found.num_features,
        "length_correlation": found.length_correlation,
        "hub_share": found.hub_share,
    }
