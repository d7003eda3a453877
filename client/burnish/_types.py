"""What goes into and comes out of the SDK: plain frozen dataclasses, no protobuf.

Names and meanings are those of protos/burnish/api; a failed item carries an ItemStatus that is not `ok`, and its
numbers are None, never a default.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from burnish._training_types import BilevelSelection, Lora, SelfRefinement

if TYPE_CHECKING:
    from burnish._coverage_types import FeatureSettings


class Role(StrEnum):
    """Who speaks."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"


class Dimension(StrEnum):
    """What a judge rates."""

    CLARITY = "clarity"
    COMPLETENESS = "completeness"
    FACTUALITY = "factuality"


class Target(StrEnum):
    """What a judge is shown."""

    PROMPT = "prompt"
    RESPONSE = "response"


class JudgeMode(StrEnum):
    """How a judge's rating is read."""

    GENERATED = "generated"  # from the first number in a sampled reply, as published
    LOGIT = "logit"  # from the probabilities of digits, in one pass; other prompts, so other ratings


class TokenSpan(StrEnum):
    """Which tokens of a conversation are averaged over."""

    USER = "user"
    RESPONSE = "response"
    ALL = "all"


class NeighborMetric(StrEnum):
    """What makes samples near."""

    COSINE = "cosine"
    EUCLIDEAN = "euclidean"


class Strategy(StrEnum):
    """What a rewrite is for."""

    SIMPLIFY = "simplify"
    IMPROVE = "improve"
    DIVERSIFY = "diversify"


class RunState(StrEnum):
    """Where a training run is in its life."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    PAUSED = "paused"

    @property
    def ended(self) -> bool:
        """True where the run will not change any more."""
        return self in (RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED)


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Sample:
    """One training sample; `id` is unique within a call."""

    id: str
    messages: tuple[Message, ...]

    @property
    def user_text(self) -> str:
        """The user messages, joined by line breaks."""
        return "\n".join(m.content for m in self.messages if m.role is Role.USER)

    @property
    def response(self) -> str:
        """The last assistant message; empty where there is none."""
        return next((m.content for m in reversed(self.messages) if m.role is Role.ASSISTANT), "")


@dataclass(frozen=True, slots=True)
class ModelRef:
    """Weights wanted: a directory that the service can read, or a place in object storage (s3://, gs:// or az:// with
    bucket and prefix), and, optionally, the digest that they must have."""

    uri: str = ""
    digest: str = ""


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """Weights that produced a reply."""

    uri: str
    digest: str
    engine: str
    dtype: str
    chat_template_digest: str


@dataclass(frozen=True, slots=True)
class ItemStatus:
    """What became of one item; `code` is a google.rpc.Code number, 0 for OK."""

    code: int = 0
    reason: str = ""
    message: str = ""
    retryable: bool = False

    @property
    def ok(self) -> bool:
        """True where the item succeeded."""
        return self.code == 0


@dataclass(frozen=True, slots=True)
class Sampling:
    """Sampling parameters; None takes the RPC's default."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    max_tokens: int | None = None
    repetition_penalty: float | None = None
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class Timing:
    """Where a call's time went, in seconds, and the tokens it cost."""

    queue_seconds: float = 0.0
    engine_seconds: float = 0.0
    model_swap_seconds: float = 0.0
    prompt_tokens: int = 0
    generated_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Limits:
    """What a server accepts."""

    max_items: int
    max_message_bytes: int
    max_sequence_tokens: int
    max_concurrent_requests: int
    max_tokens_in_flight: int = 0  # not limited
    max_bytes_in_flight: int = 0  # not stated
    max_concurrent_streams: int = 0  # none, or not stated


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """What a server is and can do."""

    version: str
    engine: str
    model: ModelVersion | None
    limits: Limits
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ScoringInfo(ServerInfo):
    """What a scoring server is. `score_method` is how scores are made: plugin, prompt_logprobs (slower, losses only),
    forward or fake. `prompt_digests` is what the `prompt_digest` of `judge`, `rate` (the judge's logit mode),
    `confidence` and `compare` will be; `nli_model_digest` is empty without an NLI model."""

    score_method: str = ""
    prompt_digests: Mapping[str, str] = field(default_factory=dict)
    nli_model_digest: str = ""


@dataclass(frozen=True, slots=True)
class RewritingInfo(ServerInfo):
    """What a rewriting server is; `prompt_versions` is what RewriteBatch.prompt_version will be, by strategy."""

    prompt_versions: Mapping[Strategy, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TurnScore:
    """The score of one assistant turn; `token_ids` (int32) and `logprobs` (float32) only if asked for."""

    message_index: int
    mean_nll: float
    sum_nll: float
    num_tokens: int
    token_ids: NDArray[np.int32] | None = None
    logprobs: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True)
class UnconditionalScore:
    """Responses without their prompts, nats per token; `ifd` and `pmi` compare the same tokens with and without.

    `ifd`: mean loss given the prompt over mean loss without it (arXiv 2308.12032); `pmi`: log p(y|x) - log p(y). None
    where there is nothing to compare.
    """

    mean_nll: float
    num_tokens: int
    ifd: float | None = None
    pmi: float | None = None


@dataclass(frozen=True, slots=True)
class SampleScore:
    """The scores of one sample, nats; None where `status` is not ok or what was not asked for.

    `mean_hidden_state` has shape (hidden_size,), float32, not normalised.
    """

    sample_id: str
    status: ItemStatus
    mean_nll: float | None = None
    sum_nll: float | None = None
    perplexity: float | None = None
    num_tokens: int = 0
    num_sequence_tokens: int = 0
    turns: tuple[TurnScore, ...] = ()
    mean_probability: float | None = None
    min_probability: float | None = None
    unconditional: UnconditionalScore | None = None
    mean_entropy: float | None = None
    mean_margin: float | None = None
    mean_hidden_state: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True)
class ScoreBatch:
    """Reply of `scoring.score`."""

    model: ModelVersion
    scores: tuple[SampleScore, ...]
    timing: Timing


@dataclass(frozen=True, slots=True)
class Choice:
    """Probabilities of a question's answers, which add up to 1, and the mass that they had together before that, in
    [0, 1]: where it is small the model did not mean to answer."""

    probabilities: tuple[float, ...]
    covered_mass: float


@dataclass(frozen=True, slots=True)
class Rating:
    """One rating; `value` in [0, 10], None where the judge gave no number. `digits`, 0 to 9, in logit mode only."""

    dimension: Dimension
    target: Target
    value: float | None
    status: ItemStatus
    reply: str
    digits: Choice | None = None


@dataclass(frozen=True, slots=True)
class SampleJudgment:
    """The ratings of one sample."""

    sample_id: str
    status: ItemStatus
    ratings: tuple[Rating, ...] = ()


@dataclass(frozen=True, slots=True)
class JudgeBatch:
    """Reply of `scoring.judge`."""

    model: ModelVersion
    judgments: tuple[SampleJudgment, ...]
    prompt_digest: str
    timing: Timing


@dataclass(frozen=True, slots=True)
class Collection:
    """A set of vectors from the same weights, and of features where it was created with them."""

    name: str
    model: ModelVersion | None
    dimension: int
    num_vectors: int
    create_time: datetime | None
    source: TokenSpan = TokenSpan.USER
    features: FeatureSettings | None = None
    num_features: int = 0


@dataclass(frozen=True, slots=True)
class SampleEmbedding:
    """The embedding of one sample; `vector` float32 of shape (dimension,), only if asked for."""

    sample_id: str
    status: ItemStatus
    vector: NDArray[np.float32] | None = None
    num_tokens: int = 0
    truncated: bool = False


@dataclass(frozen=True, slots=True)
class EmbedBatch:
    """Reply of `embedding.embed`."""

    model: ModelVersion
    embeddings: tuple[SampleEmbedding, ...]
    num_stored: int
    timing: Timing


@dataclass(frozen=True, slots=True)
class Neighbor:
    """A neighbour and its cosine similarity, in [-1, 1], or, by that metric, its distance, >= 0."""

    sample_id: str
    cosine: float
    distance: float = 0.0


@dataclass(frozen=True, slots=True)
class NeighborStatistics:
    """How close one sample's nearest neighbours are."""

    sample_id: str
    mean_cosine: float
    neighbors: tuple[Neighbor, ...]
    mean_distance: float = 0.0


@dataclass(frozen=True, slots=True)
class NeighborBatch:
    """Neighbourhoods, and how they were sought: exactly where `num_cells` is 0; otherwise in the `num_probed` nearest
    cells of so many, which found the share `recall` of the true neighbours of `num_queries` samples."""

    model: ModelVersion | None  # None: the collection is empty
    statistics: tuple[NeighborStatistics, ...]
    recall: float = 1.0
    num_queries: int = 0
    num_cells: int = 0
    num_probed: int = 0


@dataclass(frozen=True, slots=True)
class RewriteItem:
    """One sample to rewrite and, for DIVERSIFY, its neighbours, nearest first."""

    sample: Sample
    neighbors: tuple[Sample, ...] = ()


@dataclass(frozen=True, slots=True)
class ValidationRules:
    """What a rewrite must satisfy; None takes the service's default (see rewriting.proto)."""

    min_prompt_chars: int | None = None
    max_prompt_chars: int | None = None
    min_response_chars: int | None = None
    max_response_chars: int | None = None
    max_similarity: float | None = None
    allow_language_change: bool = False


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt at a rewrite; `rejection` is a lower-case word of the proto's Rejection, empty if accepted."""

    rejection: str
    detail: str
    prompt_reply: str
    response_reply: str


@dataclass(frozen=True, slots=True)
class Rewrite:
    """What became of one item; `sample` is None where it was rejected."""

    sample_id: str
    status: ItemStatus
    sample: Sample | None = None
    attempts: tuple[Attempt, ...] = ()


@dataclass(frozen=True, slots=True)
class RewriteBatch:
    """Reply of `rewriting.rewrite`."""

    model: ModelVersion
    rewrites: tuple[Rewrite, ...]
    prompt_version: str
    timing: Timing


@dataclass(frozen=True, slots=True)
class Hyperparameters:
    """How to train; None takes the service's default (see training.proto)."""

    num_epochs: float | None = None
    max_steps: int | None = None
    learning_rate: float | None = None
    warmup_ratio: float | None = None
    lr_scheduler: str | None = None
    per_device_batch_size: int | None = None
    gradient_accumulation_steps: int | None = None
    weight_decay: float | None = None
    max_grad_norm: float | None = None
    max_sequence_tokens: int | None = None
    dtype: str | None = None
    seed: int | None = None
    checkpoint_steps: int | None = None
    gradient_checkpointing: bool | None = None
    max_loss_ratio: float | None = None
    eval_steps: int | None = None
    publish_best: bool | None = None
    packing: bool | None = None


@dataclass(frozen=True, slots=True)
class RunSpec:
    """Everything that determines a training run's result."""

    base_model: ModelRef
    data_uri: str
    data_digest: str = ""
    output_uri: str = ""
    hyperparameters: Hyperparameters = field(default_factory=Hyperparameters)
    eval_data_uri: str = ""
    lora: Lora | None = None
    bilevel: BilevelSelection | None = None
    refinement: SelfRefinement | None = None


@dataclass(frozen=True, slots=True)
class RunProgress:
    """How far a training run is; losses in nats per response token."""

    step: int = 0
    total_steps: int = 0
    loss: float | None = None
    learning_rate: float | None = None
    tokens_per_second: float | None = None
    eval_loss: float | None = None
    seconds_left: float | None = None
    memory_bytes: int = 0
    device_memory_bytes: int = 0


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a training run made."""

    model: ModelRef
    train_loss: float
    eval_loss: float | None
    num_samples: int
    skipped: tuple[str, ...]
    data_digest: str
    num_tokens: int
    seconds: float
    published_step: int = 0


@dataclass(frozen=True, slots=True)
class Pause:
    """Where a run waits for new responses: after `step` optimiser steps, for those of `model`, for `reason` `schedule`
    or `stale`. `effective_share`: how much of what it had still counted, in [0, 1]; None where that is not known."""

    step: int
    model: ModelRef
    reason: str
    effective_share: float | None = None


@dataclass(frozen=True, slots=True)
class RunSnapshot:
    """A training run at one moment."""

    run_id: str
    request_id: str
    spec: RunSpec
    state: RunState
    progress: RunProgress
    result: RunResult | None
    error: ItemStatus | None
    create_time: datetime | None
    start_time: datetime | None
    end_time: datetime | None
    num_resumes: int
    pause: Pause | None = None  # the last one
    waiting_for: str = ""  # besides its turn: machines that are not there or not ready, in words
    chat_template_digest: str = ""  # that conversations are read by; empty until a worker has begun


@dataclass(frozen=True, slots=True)
class RunEvent:
    """One numbered event of a training run."""

    number: int
    time: datetime
    run: RunSnapshot
