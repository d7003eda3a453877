"""The measuring steps: loss under given weights, ratings by the model itself, nearest neighbours, held-out loss.

Each works on the distinct samples of a data set and leaves what it found in the ledger, keyed by content; what it
returns is read back from there, so that a step taken up again gives the same as one that was never interrupted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from burnish._coverage_types import FeatureSettings
from burnish._types import (
    EmbedBatch,
    JudgeBatch,
    JudgeMode,
    ModelRef,
    ModelVersion,
    Sample,
    Sampling,
    ScoreBatch,
    TokenSpan,
)
from burnish.coordinator.content import digest_of, sample_hash, set_digest
from burnish.coordinator.errors import StepFailed
from burnish.coordinator.findings import JudgeKey, Parts
from burnish.coordinator.policy.middo import recall_note
from burnish.coordinator.records import ModelRecord, ScoreRecord
from burnish.coordinator.steps.read import holdout_hashes
from burnish.coordinator.steps.stage import (
    AnyRun,
    Stage,
    expect_as_before,
    same_prompts,
    same_version,
    version_detail,
    version_from,
)

ROWS_PER_READ = 2000
# Entries of 80 bytes (a hash, a cosine, what frames them) that are well within a message of 64 MiB, the default.
NEIGHBORS_A_REPLY = 600_000


async def base_model(run: AnyRun) -> ModelRef:
    """The base model, by place and digest; its digest is what the scoring service found when the run began. Raises
    StepFailed where the service computes otherwise than for another run of the ledger."""
    record = run.book.model(0, "base")
    if record is None:
        version = await run.client.scoring.load_model(ModelRef(run.settings.model))
        expect_as_before(run, "scoring", version)  # another run of the ledger may have measured under these weights
        record = ModelRecord(0, "base", run.settings.model, version.digest, None, None, None, version_detail(version))
        with run.book.transaction():
            run.book.add_model(record)
    return ModelRef(record.uri, record.digest)


async def selector_model(run: AnyRun, uri: str) -> ModelRef:
    """The model whose neurons are looked at, by place and digest; its digest is what the embedding service found when
    it was first asked, so that another one in its place is noticed when the run goes on."""
    record = run.book.model(0, "selector")
    if record is None:
        version = await run.client.embedding.load_model(ModelRef(uri))
        record = ModelRecord(0, "selector", uri, version.digest, None, None, None, version_detail(version))
        with run.book.transaction():
            run.book.add_model(record)
    return ModelRef(record.uri, record.digest)


async def score(
    run: AnyRun, round_number: int, name: str, model: ModelRef, hashes: Sequence[str]
) -> Mapping[str, float | None]:
    """L(x, y; theta): mean loss of each sample under `model`, nats per response token; None where it failed."""
    stage = run.stage(round_number, name)
    version = await _scored(run, stage, model, hashes)
    return run.book.findings.losses(hashes, version)


async def score_in_detail(
    run: AnyRun, round_number: int, name: str, model: ModelRef, hashes: Sequence[str], parts: Parts
) -> tuple[Mapping[str, ScoreRecord], Mapping[str, str]]:
    """All that is kept of each sample's score under `model`, `parts` of it asked for; and why the others have none."""
    stage = run.stage(round_number, name)
    version = await _scored(run, stage, model, hashes, parts)
    return run.book.findings.scores(hashes, version), run.book.findings.score_failures(hashes, version)


async def evaluate(run: AnyRun, round_number: int, model: ModelRef) -> None:
    """Held-out loss of `model`, nats per response token, into its model record. Nothing without held-out data."""
    hashes = holdout_hashes(run)
    if not hashes:
        return
    stage = run.stage(round_number, "evaluate")
    if stage.done:
        return
    with stage.working():
        version = await score_missing(run, stage, model, hashes)
        record = run.book.model(round_number, "trained" if round_number else "base")
        if record is not None and record.eval_loss is None:
            loss = run.book.findings.mean_loss(hashes, version)
            with run.book.transaction():
                run.book.set_eval_loss(record, loss)


async def _scored(
    run: AnyRun, stage: Stage, model: ModelRef, hashes: Sequence[str], parts: Parts = Parts.LOSS
) -> ModelVersion:
    """Has all of `hashes` scored under `model`; returns the version that did it."""
    if stage.done:
        return version_from(stage.detail)
    with stage.working():
        return await score_missing(run, stage, model, hashes, parts=parts)


async def score_missing(
    run: AnyRun,
    stage: Stage,
    model: ModelRef,
    hashes: Sequence[str],
    *,
    parts: Parts = Parts.LOSS,
    before: int = 0,
) -> ModelVersion:
    """Has those of `hashes` scored under `model` of whose score the ledger lacks any of `parts`, as the work of a stage
    that did `before` items when it was taken earlier; returns the version that did it."""
    findings = run.book.findings
    alone = parts >= Parts.UNCONDITIONAL

    async def send(batch: Sequence[str]) -> ScoreBatch:
        return await run.client.scoring.score(samples_of(run, batch), model=model, unconditional=alone)

    def store(batch: Sequence[str], reply: ScoreBatch) -> None:
        same_version(version, reply.model, "scoring")
        # Probabilities come with every score.
        findings.add_scores(version, reply.scores, max(parts, Parts.PROBABILITIES))

    version = await run.client.scoring.load_model(model)
    known = len(hashes) - len(findings.unscored(hashes, version, parts))
    stage.expect(before + len(hashes), known=before + known, detail={"model": version_detail(version)})
    await stage.in_batches(lambda: findings.unscored(hashes, version, parts), send, store)
    return version


async def judge(
    run: AnyRun,
    round_number: int,
    model: ModelRef,
    hashes: Sequence[str],
    sampling: Sampling | None,
    *,
    name: str = "judge",
) -> Mapping[str, Mapping[tuple[str, str], float | None]]:
    """The six ratings of each sample by `model`, in [0, 10]; None where it gave no number. Without `sampling` they are
    read from the digits' probabilities instead of from replies. `name` is the step's."""
    stage = run.stage(round_number, name)
    if stage.done:
        return run.book.findings.ratings(hashes, JudgeKey(**stage.words("key")))
    findings = run.book.findings
    mode = JudgeMode.LOGIT if sampling is None else JudgeMode.GENERATED

    async def send(batch: Sequence[str]) -> JudgeBatch:
        return await run.client.scoring.judge(samples_of(run, batch), model=model, sampling=sampling, mode=mode)

    def store(batch: Sequence[str], reply: JudgeBatch) -> None:
        same_version(version, reply.model, "scoring")
        same_prompts(key.prompt_digest, reply.prompt_digest, "scoring")
        findings.add_ratings(key, reply.judgments)

    with stage.working():
        version = await run.client.scoring.load_model(model)
        info = await run.client.scoring.info()
        prompts = info.prompt_digests.get("judge" if sampling is not None else "rate", "")
        params = {"mode": mode.value} if sampling is None else asdict(sampling)
        key = JudgeKey(version.digest, version.chat_template_digest, prompts, digest_of(params))
        missing = findings.unjudged(hashes, key)
        detail = {"model": version_detail(version), "key": asdict(key), "sampling": params}
        stage.expect(len(hashes), known=len(hashes) - len(missing), detail=detail)
        await stage.in_batches(lambda: findings.unjudged(hashes, key), send, store)
    return findings.ratings(hashes, key)


async def neighbors(
    run: AnyRun, round_number: int, model: ModelRef, hashes: Sequence[str], k: int
) -> Mapping[str, tuple[tuple[str, float], ...]]:
    """The k nearest other samples of each, (hash, cosine), nearest first, by `model`'s own vectors; a sample that could
    not be embedded is absent."""
    everything = set_digest(hashes)
    stage = run.stage(round_number, "embed")
    if not stage.done:
        with stage.working():
            await _embed(run, stage, model, hashes, everything, k)
    return run.book.findings.neighborhoods(everything, model.digest, k)


async def _embed(run: AnyRun, stage: Stage, model: ModelRef, hashes: Sequence[str], everything: str, k: int) -> None:
    """Has all of `hashes`, whose set digest is `everything`, embedded, and their neighbours found."""
    findings, service = run.book.findings, run.client.embedding
    version = await service.load_model(model)
    collection = prompts_collection(version, everything)
    await expect_collection(run, collection)

    await embed_missing(run, stage, version, model, collection, hashes, {"k": k})
    names = findings.embedded(collection)
    if not names:
        return
    replies = [await service.neighbor_statistics(collection, k=k, query_ids=part) for part in neighbor_parts(names, k)]
    found, statistics = replies[0], [one for reply in replies for one in reply.statistics]
    if len(statistics) != len(names):
        raise StepFailed(
            f"Collection {collection} of the embedding service holds {len(statistics)} vectors; {len(names)} were"
            " stored for this data. Delete it there and run the same command again."
        )
    with run.book.transaction():
        findings.add_neighborhoods(everything, model.digest, k, statistics)
        if found.num_cells:
            stage.note({"recall": found.recall, "num_queries": found.num_queries})
    if found.num_cells:
        run.observer.noted(recall_note(found.recall, found.num_queries))


def neighbor_parts(names: Sequence[str], k: int) -> Sequence[Sequence[str]]:
    """Samples whose neighbours fit one reply each; empty for all of them at once, where they do."""
    most = max(1, NEIGHBORS_A_REPLY // (1 + k))
    return [()] if len(names) <= most else [names[at : at + most] for at in range(0, len(names), most)]


async def embed_missing(
    run: AnyRun,
    stage: Stage,
    version: ModelVersion,
    model: ModelRef,
    collection: str,
    hashes: Sequence[str],
    detail: Mapping[str, object],
    *,
    truncate: bool = False,
) -> None:
    """Has the collection hold those of `hashes` that the ledger does not know to be in it. `detail` is more to keep
    with the step than weights and collection."""
    findings = run.book.findings

    async def send(batch: Sequence[str]) -> EmbedBatch:
        return await run.client.embedding.embed(
            samples_of(run, batch), model=model, collection=collection, truncate=truncate
        )

    def store(batch: Sequence[str], reply: EmbedBatch) -> None:
        same_version(version, reply.model, "embedding")
        findings.add_embeddings(collection, version, reply.embeddings)

    missing = findings.unembedded(hashes, collection)
    kept = {"model": version_detail(version), "collection": collection, **detail}
    stage.expect(len(hashes), known=len(hashes) - len(missing), detail=kept)
    await stage.in_batches(lambda: findings.unembedded(hashes, collection), send, store)


async def expect_collection(
    run: AnyRun, collection: str, *, source: TokenSpan = TokenSpan.USER, features: FeatureSettings | None = None
) -> None:
    """Has the service hold the collection, and the ledger forget what is said to be in it where it is not."""
    held = await run.client.embedding.create_collection(collection, source=source, features=features)
    if held.num_vectors < run.book.findings.num_embedded(collection):
        run.observer.noted(f"The vectors of collection {collection} are gone from the service; embedding anew.")
        with run.book.transaction():
            run.book.findings.forget_embeddings(collection)


def prompts_collection(version: ModelVersion, digest_of_set: str) -> str:
    """The name of the collection of a model's vectors of prompts, by content: the same weights, computed alike, and the
    same samples have the same one."""
    computed = digest_of([version.engine.partition("/")[0], version.dtype])
    return f"m{version.digest.removeprefix('sha256:')[:16]}-{digest_of_set[:16]}-{computed[:8]}"


def samples_of(run: AnyRun, hashes: Sequence[str]) -> list[Sample]:
    """The conversations of these hashes, in order, as services want them."""
    found = run.book.samples(hashes)
    return [Sample(name, found[name]) for name in hashes]


def prompts_of(run: AnyRun, hashes: Sequence[str]) -> dict[str, str]:
    """By sample, the hash of its prompt: everything before the last response."""
    distinct = list(dict.fromkeys(hashes))
    found: dict[str, str] = {}
    for start in range(0, len(distinct), ROWS_PER_READ):
        part = distinct[start : start + ROWS_PER_READ]
        samples = run.book.samples(part)
        found |= {name: sample_hash(samples[name][:-1]) for name in part}
    return found
