"""score, judge, embed, rewrite: each capability alone, on a file. One JSON line per sample, in file order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import typer

from burnish._types import (
    Dimension,
    ItemStatus,
    JudgeMode,
    NeighborStatistics,
    Rewrite,
    RewriteItem,
    Sample,
    SampleJudgment,
    SampleScore,
    Sampling,
    Strategy,
    Target,
)
from burnish.cli.data import Reading, with_reading
from burnish.cli.output import command, tell
from burnish.cli.partial import check_free
from burnish.cli.per_sample import (
    Answer,
    Answers,
    LimitOption,
    MadeBy,
    ModelOption,
    OutOption,
    SeedOption,
    State,
    Work,
    each_sample,
    parts,
    write_answers,
)
from burnish.cli.progress import Bars
from burnish.cli.services import ServiceChoice, with_services
from burnish.coordinator.policy.middo import recall_note
from burnish.coordinator.steps.measure import neighbor_parts


@command
@with_reading
@with_services
def score(
    services: ServiceChoice,
    reading: Reading,
    model: ModelOption,
    out: OutOption = None,
    tokens: Annotated[bool, typer.Option("--tokens", help="Also every response token's log-probability.")] = False,
    ifd: Annotated[
        bool, typer.Option("--ifd", help="Also IFD and PMI: the responses are scored without their prompts too.")
    ] = False,
    distribution: Annotated[
        bool, typer.Option("--distribution", help="Also the mean entropy and margin of the model's distributions.")
    ] = False,
    limit: LimitOption = None,
) -> None:
    """Loss and perplexity of every sample's responses under a model.

    One JSON line per sample: `id`, `mean_nll` and `sum_nll` in nats, `perplexity`, `num_tokens`, `mean_probability`,
    `min_probability`, `turns`; with --ifd `ifd` and `pmi`, with --distribution `mean_entropy` and `mean_margin`.
    """
    check_free(out)
    samples = reading.samples(limit)
    options: dict[str, Any] = {"return_tokens": tokens, "unconditional": ifd, "distribution": distribution}
    with services.client(["scoring"], model, State) as client:

        def send(part: Sequence[Sample]) -> Answers:
            batch = client.scoring.score(part, model=model, **options)
            scores = [(one.sample_id, one.status, _score_record(one, distribution)) for one in batch.scores]
            return Answers(batch.model, scores)

        def made_by() -> MadeBy:
            return MadeBy(client.scoring.load_model(model))

        each_sample(Work("score", "scoring", options, send, made_by), samples, out)


def _score_record(one: SampleScore, distribution: bool) -> dict[str, Any]:
    without = one.unconditional
    turns = [
        {"message_index": t.message_index, "mean_nll": t.mean_nll, "num_tokens": t.num_tokens}
        | ({} if t.logprobs is None else {"logprobs": [round(float(x), 6) for x in t.logprobs]})
        | ({} if t.token_ids is None else {"token_ids": t.token_ids.tolist()})
        for t in one.turns
    ]
    return (
        {
            "mean_nll": one.mean_nll,
            "sum_nll": one.sum_nll,
            "perplexity": one.perplexity,
            "num_tokens": one.num_tokens,
            "mean_probability": one.mean_probability,
            "min_probability": one.min_probability,
        }
        | ({"ifd": without.ifd, "pmi": without.pmi} if without else {})
        | ({"mean_entropy": one.mean_entropy, "mean_margin": one.mean_margin} if distribution else {})
        | {"turns": turns}
    )


@command
@with_reading
@with_services
def judge(
    services: ServiceChoice,
    reading: Reading,
    model: ModelOption,
    out: OutOption = None,
    dimension: Annotated[
        list[Dimension] | None, typer.Option("--dimension", help="Rate only this; may be repeated.")
    ] = None,
    target: Annotated[list[Target] | None, typer.Option("--target", help="Show only this; may be repeated.")] = None,
    mode: Annotated[
        JudgeMode,
        typer.Option(
            "--mode",
            help="Read the first number of a reply (generated), or the digits' probabilities (logit): quicker.",
        ),
    ] = JudgeMode.GENERATED,
    temperature: Annotated[float, typer.Option("--temperature", help="Softmax temperature, 0 to 2.")] = 0.1,
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", help="Most tokens of a reply; the number comes first.", min=1)
    ] = 16,
    seed: SeedOption = 0,
    limit: LimitOption = None,
) -> None:
    """The model's own ratings of every sample: clarity, completeness, factuality, each for prompt and response.

    One JSON line per sample: `id` and `ratings`, each with `value` in 0 to 10, or null where the reply had no
    number, or no reply could be had: then `error` says why. `reply` or `covered_mass` says what it was read from.
    The ratings of the two modes are made with other prompts and are never to be mixed.
    """
    check_free(out)
    samples = reading.samples(limit)
    options: dict[str, Any] = {
        "dimensions": dimension or (),
        "targets": target or (),
        "sampling": Sampling(temperature=temperature, max_tokens=max_tokens, seed=seed),
        "mode": mode,
    }
    with services.client(["scoring"], model, State) as client:

        def send(part: Sequence[Sample]) -> Answers:
            batch = client.scoring.judge(part, model=model, **options)
            judgments = [(one.sample_id, one.status, _ratings_record(one)) for one in batch.judgments]
            return Answers(batch.model, judgments, batch.prompt_digest)

        def made_by() -> MadeBy:
            version, prompts = client.scoring.load_model(model), client.scoring.info().prompt_digests
            return MadeBy(version, prompts.get("rate" if mode is JudgeMode.LOGIT else "judge", ""))

        each_sample(Work("judge", "scoring", options, send, made_by), samples, out)


def _ratings_record(one: SampleJudgment) -> dict[str, Any]:
    ratings = [
        {"dimension": r.dimension, "target": r.target, "value": r.value}
        | ({"reply": r.reply} if r.digits is None else {"covered_mass": r.digits.covered_mass})
        | ({} if r.status.ok else {"error": r.status.message})
        for r in one.ratings
    ]
    return {"ratings": ratings}


@command
@with_reading
@with_services
def embed(
    services: ServiceChoice,
    reading: Reading,
    model: ModelOption,
    collection: Annotated[str, typer.Option("--collection", help="Collection to fill; made where it is missing.")],
    out: OutOption = None,
    k: Annotated[int, typer.Option("-k", "--neighbors", help="Nearest neighbours per sample.", min=1, max=100)] = 2,
    recall: Annotated[
        float | None,
        typer.Option(
            "--recall", help="True neighbours to find, up to 1; default: all up to 100,000 samples, then 0.95."
        ),
    ] = None,
    truncate: Annotated[bool, typer.Option("--truncate", help="Cut texts that are longer than the context.")] = False,
    limit: LimitOption = None,
) -> None:
    """Embeds every sample's user text into a collection, and lists each one's nearest neighbours in this file.

    One JSON line per sample: `id`, `mean_cosine` to the k nearest in -1 to 1, and `neighbors`.
    """
    samples = reading.samples(limit)
    with services.client(["embedding"], model, State) as client:
        client.embedding.create_collection(collection)
        failed: dict[str, ItemStatus] = {}
        with Bars() as bars:
            for part in bars.over("embed", parts(samples), total=len(samples), size=len):
                batch = client.embedding.embed(part, model=model, collection=collection, truncate=truncate)
                failed |= {e.sample_id: e.status for e in batch.embeddings if not e.status.ok}
        stored = [sample.id for sample in samples if sample.id not in failed]
        statistics: dict[str, NeighborStatistics] = {}
        found = None
        for queries in neighbor_parts(stored, k) if stored else ():
            found = client.embedding.neighbor_statistics(collection, stored, k=k, recall=recall, query_ids=queries)
            statistics |= {one.sample_id: one for one in found.statistics}
        if found is not None and found.num_cells:
            tell(f"note: {recall_note(found.recall, found.num_queries)}")

        def lines() -> Iterator[Answer]:
            for sample in samples:
                one = statistics.get(sample.id)
                record = (
                    {}
                    if one is None
                    else {
                        "mean_cosine": one.mean_cosine,
                        "neighbors": [{"id": n.sample_id, "cosine": n.cosine} for n in one.neighbors],
                    }
                )
                yield sample.id, failed.get(sample.id, ItemStatus()), record

        write_answers(lines(), len(samples), out)


@command
@with_reading
@with_services
def rewrite(
    services: ServiceChoice,
    reading: Reading,
    model: ModelOption,
    strategy: Annotated[
        Strategy, typer.Option("--strategy", help="What the rewrite is for: easier, better, or new and different.")
    ],
    out: OutOption = None,
    attempts: Annotated[int, typer.Option("--attempts", help="Tries before giving up.", min=1, max=10)] = 3,
    temperature: Annotated[float, typer.Option("--temperature", help="Softmax temperature, 0 to 2.")] = 1.0,
    max_tokens: Annotated[int | None, typer.Option("--max-tokens", help="Most tokens of a reply.", min=1)] = None,
    seed: SeedOption = 0,
    limit: LimitOption = None,
) -> None:
    """Rewrites every sample: a new prompt and a new answer, checked before they are accepted.

    One JSON line per sample: `id`, `messages` of the accepted rewrite or null, and `attempts` with the reason of each
    rejection. With `--strategy diversify` the samples before and after in the file serve as neighbours.
    """
    check_free(out)
    samples = reading.samples(limit)
    place = {sample.id: index for index, sample in enumerate(samples)}
    options: dict[str, Any] = {
        "strategy": strategy,
        "sampling": Sampling(temperature=temperature, max_tokens=max_tokens, seed=seed),
        "max_attempts": attempts,
    }

    def item(sample: Sample) -> RewriteItem:
        if strategy is not Strategy.DIVERSIFY:
            return RewriteItem(sample)
        index = place[sample.id]
        return RewriteItem(sample, tuple(samples[max(0, index - 1) : index] + samples[index + 1 : index + 2]))

    with services.client(["rewriting"], model, State) as client:

        def send(part: Sequence[Sample]) -> Answers:
            batch = client.rewriting.rewrite([item(sample) for sample in part], model=model, **options)
            rewrites = [(one.sample_id, one.status, _rewrite_record(one)) for one in batch.rewrites]
            return Answers(batch.model, rewrites, batch.prompt_version)

        def made_by() -> MadeBy:
            version, prompts = client.rewriting.load_model(model), client.rewriting.info().prompt_versions
            return MadeBy(version, prompts[strategy])

        each_sample(Work("rewrite", "rewriting", options, send, made_by), samples, out)


def _rewrite_record(one: Rewrite) -> dict[str, Any]:
    messages = one.sample and [{"role": m.role, "content": m.content} for m in one.sample.messages]
    tries = [{"rejection": a.rejection, "detail": a.detail} for a in one.attempts]
    return {"messages": messages, "attempts": tries}
