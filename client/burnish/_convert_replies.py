"""From each service's reply messages to the SDK's dataclasses. Raises ValueError for what breaks the contract."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from google.protobuf.message import Message

from burnish import _types as t
from burnish._convert import (
    DIMENSIONS,
    STATES,
    TARGETS,
    floats,
    ints,
    optional_float,
    optional_time,
    optional_version,
    ref_from_proto,
    sample_from_proto,
    seconds,
    status_from_proto,
)
from burnish._convert_coverage import SOURCES, features_from_proto
from burnish._training_types import BilevelSelection, Lora, SampleWeights, SelfRefinement
from burnish._words import enum_words
from burnish.api.embedding.v1 import embedding_pb2
from burnish.api.rewriting.v1 import rewriting_pb2
from burnish.api.scoring.v1 import scoring_pb2
from burnish.api.training.v1 import training_pb2

REJECTIONS = {0: "", **enum_words(rewriting_pb2.Rejection.DESCRIPTOR)}


# --- scoring ----------------------------------------------------------------------------------------------------------


def score_from_proto(score: scoring_pb2.SampleScore) -> t.SampleScore:
    """One sample's scores; a failed sample has no numbers."""
    status = status_from_proto(score.status)
    if not status.ok:
        return t.SampleScore(score.sample_id, status)
    return t.SampleScore(
        sample_id=score.sample_id,
        status=status,
        mean_nll=score.mean_nll,
        sum_nll=score.sum_nll,
        perplexity=score.perplexity,
        num_tokens=score.num_tokens,
        num_sequence_tokens=score.num_sequence_tokens,
        turns=tuple(_turn(turn) for turn in score.turns),
        mean_probability=score.mean_probability,
        min_probability=score.min_probability,
        unconditional=_unconditional(score.unconditional) if score.HasField("unconditional") else None,
        mean_entropy=optional_float(score, "mean_entropy"),
        mean_margin=optional_float(score, "mean_margin"),
        mean_hidden_state=floats(score.mean_hidden_state),
    )


def _unconditional(score: scoring_pb2.UnconditionalScore) -> t.UnconditionalScore:
    return t.UnconditionalScore(
        score.mean_nll,
        score.num_tokens,
        optional_float(score, "ifd"),
        optional_float(score, "pmi"),
    )


def _turn(turn: scoring_pb2.TurnScore) -> t.TurnScore:
    token_ids, logprobs = ints(turn.token_ids), floats(turn.logprobs)
    for name, array in (("token ids", token_ids), ("log-probabilities", logprobs)):
        if array is not None and len(array) != turn.num_tokens:
            raise ValueError(f"a turn of {turn.num_tokens} tokens came with {len(array)} {name}")
    return t.TurnScore(turn.message_index, turn.mean_nll, turn.sum_nll, turn.num_tokens, token_ids, logprobs)


def choice_from_proto(choice: scoring_pb2.Choice) -> t.Choice:
    """A choice between answers."""
    return t.Choice(tuple(choice.probabilities), choice.covered_mass)


def judgment_from_proto(judgment: scoring_pb2.SampleJudgment) -> t.SampleJudgment:
    """One sample's ratings; a rating without a number stays without."""
    ratings = tuple(
        t.Rating(
            dimension=DIMENSIONS.word(rating.dimension),
            target=TARGETS.word(rating.target),
            value=optional_float(rating, "value"),
            status=status_from_proto(rating.status),
            reply=rating.reply,
            digits=choice_from_proto(rating.digits) if rating.HasField("digits") else None,
        )
        for rating in judgment.ratings
    )
    return t.SampleJudgment(judgment.sample_id, status_from_proto(judgment.status), ratings)


# --- embedding --------------------------------------------------------------------------------------------------------


def collection_from_proto(collection: embedding_pb2.Collection) -> t.Collection:
    """A collection; `model` is None while it is empty."""
    return t.Collection(
        name=collection.name,
        model=optional_version(collection),
        dimension=collection.dimension,
        num_vectors=collection.num_vectors,
        create_time=optional_time(collection, "create_time"),
        source=SOURCES.word(collection.source) if collection.source else t.TokenSpan.USER,
        features=features_from_proto(collection.features) if collection.HasField("features") else None,
        num_features=collection.num_features,
    )


def embedding_from_proto(embedding: embedding_pb2.SampleEmbedding) -> t.SampleEmbedding:
    """One sample's embedding."""
    status = status_from_proto(embedding.status)
    if not status.ok:
        return t.SampleEmbedding(embedding.sample_id, status)
    return t.SampleEmbedding(
        embedding.sample_id, status, floats(embedding.vector), embedding.num_tokens, embedding.truncated
    )


def neighborhoods_from_proto(reply: embedding_pb2.GetNeighborStatisticsResponse) -> t.NeighborBatch:
    """All neighbourhoods of a reply, and how they were sought."""
    return t.NeighborBatch(
        optional_version(reply),
        tuple(neighbors_from_proto(statistics) for statistics in reply.statistics),
        reply.search.recall if reply.HasField("search") else 1.0,
        reply.search.num_queries,
        reply.search.num_cells,
        reply.search.num_probed,
    )


def neighbors_from_proto(statistics: embedding_pb2.NeighborStatistics) -> t.NeighborStatistics:
    """One sample's neighbours."""
    neighbors = tuple(t.Neighbor(n.sample_id, n.cosine, n.distance) for n in statistics.neighbors)
    return t.NeighborStatistics(statistics.sample_id, statistics.mean_cosine, neighbors, statistics.mean_distance)


# --- rewriting --------------------------------------------------------------------------------------------------------


def rewrite_from_proto(rewrite: rewriting_pb2.Rewrite) -> t.Rewrite:
    """What became of one item."""
    status = status_from_proto(rewrite.status)
    if status.ok and not rewrite.HasField("sample"):
        raise ValueError(f"the rewrite of {rewrite.sample_id!r} is OK but has no sample")
    return t.Rewrite(
        sample_id=rewrite.sample_id,
        status=status,
        sample=sample_from_proto(rewrite.sample) if status.ok else None,
        attempts=tuple(
            t.Attempt(rejection_word(a.rejection), a.detail, a.prompt_reply, a.response_reply) for a in rewrite.attempts
        ),
    )


def rejection_word(number: int) -> str:
    """The proto's word for why a text was rejected; empty where it was not."""
    # A reason that a newer server knows and this client does not is still a rejection: named by its number.
    return REJECTIONS.get(number, f"unknown_{number}")


# --- training ---------------------------------------------------------------------------------------------------------


def run_from_proto(run: training_pb2.Run) -> t.RunSnapshot:
    """A training run at one moment."""
    return t.RunSnapshot(
        run_id=run.run_id,
        request_id=run.request_id,
        spec=run_spec_from_proto(run.spec),
        state=STATES.word(run.state),
        progress=_progress(run.progress),
        result=_result(run.result) if run.HasField("result") else None,
        error=status_from_proto(run.error) if run.HasField("error") else None,
        create_time=optional_time(run, "create_time"),
        start_time=optional_time(run, "start_time"),
        end_time=optional_time(run, "end_time"),
        num_resumes=run.num_resumes,
        pause=_pause(run.pause) if run.HasField("pause") else None,
        waiting_for=run.waiting_for,
        chat_template_digest=run.chat_template_digest,
    )


def _pause(pause: training_pb2.Pause) -> t.Pause:
    return t.Pause(pause.step, ref_from_proto(pause.model), pause.reason, optional_float(pause, "effective_share"))


def run_spec_from_proto(spec: training_pb2.RunSpec) -> t.RunSpec:
    """A run's specification; hyperparameters that were not set are None."""
    return t.RunSpec(
        base_model=ref_from_proto(spec.base_model),
        data_uri=spec.data_uri,
        data_digest=spec.data_digest,
        output_uri=spec.output_uri,
        hyperparameters=t.Hyperparameters(**_set_fields(spec.hyperparameters)),
        eval_data_uri=spec.eval_data_uri,
        lora=_lora(spec.lora) if spec.HasField("lora") else None,
        bilevel=BilevelSelection(**_set_fields(spec.bilevel)) if spec.HasField("bilevel") else None,
        refinement=SelfRefinement(**_set_fields(spec.refinement)) if spec.HasField("refinement") else None,
    )


def _lora(lora: training_pb2.Lora) -> Lora:
    return Lora(**{**_set_fields(lora), "target_modules": tuple(lora.target_modules)})


def _set_fields(message: Message) -> dict[str, Any]:
    return {field.name: value for field, value in message.ListFields()}


def weights_from_proto(parts: Sequence[training_pb2.ReadSampleWeightsResponse]) -> SampleWeights:
    """A whole snapshot from its parts."""
    samples = [sample for part in parts for sample in part.weights]
    return SampleWeights(
        step=parts[0].step,
        ids=tuple(sample.id for sample in samples),
        weights=np.array([sample.weight for sample in samples], dtype=np.float32),
        logits=np.array([sample.logit for sample in samples], dtype=np.float32),
    )


def _progress(progress: training_pb2.Progress) -> t.RunProgress:
    return t.RunProgress(
        step=progress.step,
        total_steps=progress.total_steps,
        loss=optional_float(progress, "loss"),
        learning_rate=optional_float(progress, "learning_rate"),
        tokens_per_second=optional_float(progress, "tokens_per_second"),
        eval_loss=optional_float(progress, "eval_loss"),
        seconds_left=seconds(progress.time_left) if progress.HasField("time_left") else None,
        memory_bytes=progress.memory_bytes,
        device_memory_bytes=progress.device_memory_bytes,
    )


def _result(result: training_pb2.RunResult) -> t.RunResult:
    return t.RunResult(
        model=ref_from_proto(result.model),
        train_loss=result.train_loss,
        eval_loss=optional_float(result, "eval_loss"),
        num_samples=result.num_samples,
        skipped=tuple(result.skipped),
        data_digest=result.data_digest,
        num_tokens=result.num_tokens,
        seconds=seconds(result.duration),
        published_step=result.published_step,
    )


def event_from_proto(event: training_pb2.WatchRunResponse) -> t.RunEvent:
    """One event of a run. Raises ValueError where it has no time."""
    time = optional_time(event, "time")
    if time is None:
        raise ValueError(f"event {event.event} has no time")
    return t.RunEvent(event.event, time, run_from_proto(event.run))
