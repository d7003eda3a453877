"""select: the samples of a file that together cover it best, in order."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from burnish._client import Client
from burnish._coverage_types import (
    ActivationPooling,
    CoverageCandidate,
    CoverageObjective,
    CoverageOptimizer,
    CoverageSelection,
    CoverageSettings,
    FeatureRule,
    FeatureWeighting,
)
from burnish._errors import PreconditionFailed, UsageError
from burnish._types import Sample, TokenSpan
from burnish.cli.data import Reading, with_reading
from burnish.cli.objective import Objective
from burnish.cli.output import command, complain, errors, lines_to, write_line
from burnish.cli.per_sample import LimitOption, ModelOption, OutOption, State, parts
from burnish.cli.progress import Bars
from burnish.cli.services import ServiceChoice, with_services
from burnish.coordinator.content import sample_hash
from burnish.coordinator.coverage import (
    CALIBRATION_FINISHED,
    ON_VECTORS,
    FeatureChoice,
    budget_size,
    features_collection,
    parse_budget,
    selection_notes,
)


@command
@with_reading
@with_services
def select(
    services: ServiceChoice,
    reading: Reading,
    model: ModelOption,
    budget: Annotated[
        str, typer.Option("--budget", help="How many: a number, or a share such as 15% or 0.15.", metavar="N")
    ] = "15%",
    out: OutOption = None,
    objective: Annotated[
        Objective, typer.Option("--objective", help="What the selection should be good at.")
    ] = Objective.LOG,
    optimizer: Annotated[
        CoverageOptimizer | None,
        typer.Option(
            "--optimizer", help="Default: lazy up to 100,000 samples (facility_location: 3,000), stochastic beyond."
        ),
    ] = None,
    rule: Annotated[
        FeatureRule, typer.Option("--rule", help="When a neuron counts as active on a sample.")
    ] = FeatureRule.STANDARDIZED_TOP_K,
    k: Annotated[int | None, typer.Option("-k", "--top-k", help="Active neurons of each layer.", min=1)] = None,
    pooling: Annotated[
        ActivationPooling,
        typer.Option("--pooling", help="How several tokens become one; max means max_signed for above_zero."),
    ] = ActivationPooling.MAX,
    tokens: Annotated[TokenSpan, typer.Option("--tokens", help="Whose activations count.")] = TokenSpan.RESPONSE,
    weighting: Annotated[
        FeatureWeighting, typer.Option("--weighting", help="How much a feature counts: all alike, or rare ones more.")
    ] = FeatureWeighting.UNIFORM,
    calibration_size: Annotated[
        int, typer.Option("--calibration-size", help="Samples that show what is usual for a neuron.", min=2)
    ] = 2000,
    witnesses: Annotated[
        bool, typer.Option("--witnesses", help="Also a line for each sample left out: who stands for it.")
    ] = False,
    seed: Annotated[int, typer.Option("--seed", help="Seed of all that is random.", min=0)] = 0,
    limit: LimitOption = None,
) -> None:
    """The samples that together cover the file best, by what the model's neurons do on them (MADS-style).

    One JSON line per selected sample, in order of picking: `id`, `rank`, `gain`; every beginning of the list is a
    selection too. With --witnesses then a line for each sample left out: `id`, `nearest`, `cosine`. Duplicates count
    once. What the selection covers against random ones is said at the end.
    """
    samples = reading.samples(limit)
    rows: dict[str, list[str]] = {}  # ids by content
    distinct: dict[str, Sample] = {}
    for sample in samples:
        content = sample_hash(sample.messages)
        rows.setdefault(content, []).append(sample.id)
        distinct.setdefault(content, Sample(content, sample.messages))
    number = budget_of(budget, len(distinct))
    choice = None
    wanted = CoverageObjective(objective.value)
    if wanted not in ON_VECTORS:
        choice = FeatureChoice(rule, k, pooling, tokens, calibration_size=calibration_size, seed=seed)
    settings = CoverageSettings(objective=wanted, optimizer=optimizer, weighting=weighting, seed=seed)
    with services.client(["embedding"], model, State) as client, Bars() as bars:
        filled = fill(client, model, list(distinct.values()), choice, bars)
        stored = [name for name in distinct if name not in filled.failed]
        if not stored:
            raise UsageError(f"not one of {len(samples)} samples can be read; the first: {first_of(filled.failed)}")
        found = client.embedding.select(
            filled.collection,
            number,
            [CoverageCandidate(name) for name in stored],
            settings=settings,
            return_witnesses=witnesses,
            num_random_curves=3,
        )
    with lines_to(out) as stream:
        for rank, one in enumerate(found.selected, start=1):
            write_line(stream, {"id": rows[one.sample_id][0], "rank": rank, "gain": one.gain})
        if witnesses:
            for line in left_out(found, rows):
                write_line(stream, line)
    for sentence in summary(found, len(samples), len(distinct)):
        errors.print(sentence, markup=False)
    if filled.failed:
        complain(f"{len(filled.failed)} samples were left aside; the first: {first_of(filled.failed)}")
        raise typer.Exit(1)


@dataclass(frozen=True, slots=True)
class Filled:
    """A collection with all samples in it but those that failed, each with why."""

    collection: str
    failed: Mapping[str, str]


def fill(client: Client, model: str, samples: Sequence[Sample], choice: FeatureChoice | None, bars: Bars) -> Filled:
    """Embeds samples, named by content, with features where there is a `choice`."""
    version = client.embedding.load_model(model)
    by_id = {sample.id: sample for sample in samples}
    calibration = ""
    if choice is not None and choice.is_calibrated:
        ids = choice.calibration_ids(list(by_id))
        calibration = choice.calibration_name(version, ids)
        if not client.embedding.create_calibration(calibration, activations=choice.activations).version:
            try:
                for part in bars.over("calibrate", parts([by_id[name] for name in ids]), total=len(ids), size=len):
                    client.embedding.measure(part, calibration, model=model)
            except PreconditionFailed as error:
                if error.reason != CALIBRATION_FINISHED:  # by another command: the name says of the same samples
                    raise
            client.embedding.finish_calibration(calibration)
    features = None if choice is None else choice.feature_settings(calibration)
    collection = features_collection(version, TokenSpan.ALL, choice, calibration)
    client.embedding.create_collection(collection, source=TokenSpan.ALL, features=features)
    failed: dict[str, str] = {}
    for part in bars.over("embed", parts(samples), total=len(samples), size=len):
        batch = client.embedding.embed(part, model=model, collection=collection, truncate=True)
        failed |= {e.sample_id: e.status.message for e in batch.embeddings if not e.status.ok}
    return Filled(collection, failed)


def budget_of(text: str, total: int) -> int:
    """How many of `total`: a number, or a share, at least 1. Raises UsageError."""
    try:
        budget = parse_budget(text)
    except ValueError as error:
        raise UsageError(f"--budget: {error}") from None
    return budget_size(budget, total)


def left_out(found: CoverageSelection, rows: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
    """A line for each row that was not selected; further copies of one that was are stood for by it."""
    lines: list[dict[str, Any]] = []
    for one in found.selected:
        first, *copies = rows[one.sample_id]
        lines += [{"id": copy, "nearest": first, "cosine": 1.0} for copy in copies]
    for witness in found.witnesses:
        nearest = rows[witness.nearest_id][0]
        lines += [{"id": row, "nearest": nearest, "cosine": witness.cosine} for row in rows[witness.sample_id]]
    return lines


def summary(found: CoverageSelection, num_rows: int, num_distinct: int) -> list[str]:
    """What came of it, in sentences."""
    said = [f"Selected {len(found.selected)} of {num_distinct} different samples ({num_rows} rows)."]
    if found.curve is not None and found.random_curves and found.selected:
        chance = [curve.value[-1] for curve in found.random_curves]
        features = [curve.num_features[-1] for curve in found.random_curves]
        ahead = found.curve.value[-1] / statistics.mean(chance) - 1
        said.append(
            f"They have {found.curve.num_features[-1]} of {found.num_features} features, three random selections of"
            f" that size {min(features)} to {max(features)}; the objective is {ahead:+.1%} against their mean."
        )
    return said + [f"Note: {note}" for note in selection_notes(found.length_correlation, found.hub_share)]


def first_of(failed: Mapping[str, str]) -> str:
    """The first reason."""
    return next(iter(failed.values()))
