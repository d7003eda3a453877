"""confidence: how sure a model is that the responses in a file are right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer

from burnish._confidence_types import ConfidenceEstimate, ConfidenceTier
from burnish._types import Sample, Sampling
from burnish.cli.data import Reading, with_reading
from burnish.cli.output import command
from burnish.cli.partial import check_free
from burnish.cli.per_sample import (
    Answers,
    LimitOption,
    MadeBy,
    ModelOption,
    OutOption,
    SeedOption,
    State,
    Work,
    each_sample,
)
from burnish.cli.services import ServiceChoice, with_services


@command
@with_reading
@with_services
def confidence(
    services: ServiceChoice,
    reading: Reading,
    model: ModelOption,
    out: OutOption = None,
    tier: Annotated[
        ConfidenceTier,
        typer.Option(
            "--tier", help="The model's own verdict (fast), and sampled answers (standard), and an NLI model."
        ),
    ] = ConfidenceTier.FAST,
    alpha: Annotated[
        float, typer.Option("--alpha", help="Weight of similarity against exact match.", min=0, max=1)
    ] = 0.8,
    beta: Annotated[
        float, typer.Option("--beta", help="Weight of sampled answers against the verdict.", min=0, max=1)
    ] = 0.7,
    answers: Annotated[int, typer.Option("--answers", help="Answers sampled per prompt.", min=1, max=32)] = 5,
    temperature: Annotated[float, typer.Option("--temperature", help="Of the answers, 0 to 2.")] = 1.0,
    max_tokens: Annotated[int, typer.Option("--max-tokens", help="Most tokens of an answer.", min=1)] = 256,
    min_mass: Annotated[
        float, typer.Option("--min-mass", help="Least probability of a verdict's letters.", min=0, max=1)
    ] = 0.5,
    seed: SeedOption = 0,
    limit: LimitOption = None,
) -> None:
    """How sure a model is that every sample's last response is right: BSDetector's confidence, as CLEAR uses it.

    One JSON line per sample: `id`, `confidence` in 0 to 1, its parts `consistency` and `reflection`, `covered_mass` of
    the verdict's letters, the response's `mean_nll`, and the sampled `answers`.
    """
    check_free(out)
    samples = reading.samples(limit)
    options: dict[str, Any] = {
        "tier": tier,
        "alpha": alpha,
        "beta": beta,
        "num_answers": answers,
        "sampling": Sampling(temperature=temperature, max_tokens=max_tokens, seed=seed),
        "min_covered_mass": min_mass,
    }
    with services.client(["scoring"], model, State) as client:

        def send(part: Sequence[Sample]) -> Answers:
            batch = client.scoring.confidence(part, model=model, **options)
            estimates = [(one.sample_id, one.status, _record(one)) for one in batch.estimates]
            return Answers(batch.model, estimates, batch.prompt_digest)

        def made_by() -> MadeBy:
            version, info = client.scoring.load_model(model), client.scoring.info()
            nli = info.nli_model_digest if tier is ConfidenceTier.FULL else ""
            return MadeBy(version, info.prompt_digests.get("confidence", ""), nli)

        each_sample(Work("confidence", "scoring", options, send, made_by), samples, out)


def _record(one: ConfidenceEstimate) -> dict[str, Any]:
    names = ("confidence", "consistency", "reflection", "covered_mass", "mean_nll", "mean_probability")
    kept = ("text", "exact_match", "similarity", "agreement")
    answers = [{name: asdict(answer)[name] for name in kept} for answer in one.answers]
    return {name: getattr(one, name) for name in names} | {"answers": answers}
