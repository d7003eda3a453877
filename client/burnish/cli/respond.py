"""respond: what a model says to the prompts in a file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from burnish._response_types import Prompt, PromptResponses
from burnish._types import Role, Sample, Sampling
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
def respond(
    services: ServiceChoice,
    reading: Reading,
    model: ModelOption,
    out: OutOption = None,
    responses: Annotated[
        int, typer.Option("--responses", help="Responses to each prompt; more than 1 needs --temperature.", min=1)
    ] = 1,
    temperature: Annotated[float, typer.Option("--temperature", help="Softmax temperature, 0 to 2.")] = 0.0,
    max_tokens: Annotated[int, typer.Option("--max-tokens", help="Most tokens of a response.", min=1)] = 512,
    seed: SeedOption = 0,
    limit: LimitOption = None,
) -> None:
    """What a model answers where every sample's last response stands: candidates to compare it with.

    One JSON line per sample: `id` and `responses`, each with `text`, `finish_reason` (stop or length), `num_tokens` and
    `mean_logprob` in nats.
    """
    check_free(out)
    samples = reading.samples(limit)
    sampling = Sampling(temperature=temperature, max_tokens=max_tokens, seed=seed)
    options: dict[str, Any] = {"num_responses": responses, "sampling": sampling}
    with services.client(["rewriting"], model, State) as client:

        def send(part: Sequence[Sample]) -> Answers:
            batch = client.rewriting.respond([_prompt(sample) for sample in part], model=model, **options)
            return Answers(batch.model, [(one.prompt_id, one.status, _record(one)) for one in batch.results])

        def made_by() -> MadeBy:
            return MadeBy(client.rewriting.load_model(model))

        each_sample(Work("respond", "rewriting", options, send, made_by), samples, out)


def _prompt(sample: Sample) -> Prompt:
    """Everything before the last response."""
    answered = sample.messages and sample.messages[-1].role is Role.ASSISTANT
    return Prompt(sample.id, sample.messages[:-1] if answered else sample.messages)


def _record(one: PromptResponses) -> dict[str, Any]:
    names = ("text", "finish_reason", "num_tokens", "mean_logprob")
    return {"responses": [{name: getattr(response, name) for name in names} for response in one.responses]}
