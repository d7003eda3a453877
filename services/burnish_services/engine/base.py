"""The Engine protocol: what a model on a device can do for the services. Knows no RPC, no recipe, no prompt.

An engine holds one set of weights at a time and answers in token ids; text becomes tokens in `chat.py`, and which
weights are wanted is decided in `hosting.py`. Three engines implement it: `vllm` (the product), `transformers` (the
readable reference) and `fake` (deterministic, milliseconds). `tests/contract/` runs the same tests on all three.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from burnish_services.engine.tokenizer import ChatTokenizer


class Task(StrEnum):
    """What an engine is started for; vLLM builds one kind of model runner or the other, never both."""

    GENERATE = "generate"  # generate(), token by token; score() and rank() too, though not at its best
    POOL = "pool"  # score(), rank() and embed(): one pass over given tokens


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """How an engine is started. `model` is a directory in the Hugging Face layout."""

    model: str
    task: Task = Task.GENERATE
    dtype: str = "auto"  # auto | bfloat16 | float16 | float32
    max_model_len: int | None = None  # tokens; None: the model's own context
    memory_bytes: int | None = None  # KV cache; None: the engine's default
    gpu_memory_utilization: float = 0.9  # vllm on GPUs only: share of a GPU's memory that this engine takes, (0, 1]
    tensor_parallel_size: int = 1  # vllm only: devices that each layer is divided among
    # transformers only: tokens computed together, >= 0; 0: every sequence alone; None: so on a CPU, 16,384 on a GPU
    batch_tokens: int | None = None
    compile: bool = False  # vllm only: slower start, faster steps
    cpu_cores: str | None = None  # vllm CPU only: cores to bind, such as "0-1"
    chat_template: str | None = None  # name of a built-in template or a file; None: the model's own


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """The weights that an engine holds."""

    uri: str
    digest: str  # "sha256:" + 64 hex
    dtype: str
    max_model_len: int  # tokens
    vocab_size: int
    # (layers, feed-forward neurons of each) whose activations can be asked for; None: they cannot, as it was started.
    neurons: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Sampling:
    """Sampling parameters with every default resolved; ranges as in burnish.api.common.v1.SamplingParameters."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_tokens: int = 256
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()


class ActivationPooling(StrEnum):
    """How a neuron's activations a_t at several positions t become one number."""

    MAX = "max"  # max |a_t|
    MEAN = "mean"  # mean |a_t|
    MAX_SIGNED = "max_signed"  # max a_t


@dataclass(frozen=True, slots=True)
class Activations:
    """Asks for the activations of all feed-forward neurons, the inputs of each layer's down projection, pooled over
    positions (`spans`: ranges [start, end), disjoint, not empty, at least one)."""

    spans: Sequence[tuple[int, int]]
    pooling: ActivationPooling = ActivationPooling.MAX


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """One sequence to score: log p(token_ids[i] | token_ids[:i]) is wanted for i >= first_scored (>= 1).

    From the same pass, where asked: what the model thought of all other tokens at these positions (`distribution`), the
    mean over positions of the last hidden state (`mean_hidden`: ranges [start, end), disjoint, not empty), and what its
    neurons did (`activations`). With first_scored = len(token_ids) these alone.
    """

    token_ids: Sequence[int]
    first_scored: int = 1
    distribution: bool = False
    mean_hidden: Sequence[tuple[int, int]] = ()
    activations: Activations | None = None


@dataclass(frozen=True, slots=True)
class TokenScores:
    """Of n = len(token_ids) - first_scored positions, float32 arrays of shape (n,); what was not asked for is None."""

    logprobs: NDArray[np.float32]  # nats, <= 0
    entropies: NDArray[np.float32] | None = None  # nats, in [0, log vocabulary]
    margins: NDArray[np.float32] | None = None  # probability of the likeliest token less that of the second, [0, 1]
    mean_hidden: NDArray[np.float32] | None = None  # (hidden_size,), after the final norm, not normalised
    activations: NDArray[np.float32] | None = None  # `LoadedModel.neurons`


@dataclass(frozen=True, slots=True)
class RankRequest:
    """One prompt and the tokens whose probabilities of coming next are wanted."""

    token_ids: Sequence[int]
    candidates: Sequence[int]  # token ids, at least one


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """One prompt to continue; with `logprobs`, how likely the model found every token that was chosen."""

    token_ids: Sequence[int]
    sampling: Sampling
    logprobs: bool = False


@dataclass(frozen=True, slots=True)
class Generation:
    """One continuation. `finish_reason` is "stop" or "length"."""

    text: str
    token_ids: tuple[int, ...]
    finish_reason: str
    # Where asked for: each token's, nats; the model's own, before temperature, penalty, top_k and top_p.
    logprobs: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class EngineFailure:
    """Why one request of a batch has no result; the others are not affected."""

    reason: str  # stable word, such as TOO_LONG or NOT_FINITE
    message: str
    retryable: bool = False


class EngineDead(RuntimeError):
    """The engine's process or device is gone; where `hosting.ModelHost` cannot start it anew, the server must stop."""


class EngineRestarting(RuntimeError):
    """The engine's process ended while it was used, and is being started anew; the same may be asked again."""


class ModelLoadError(RuntimeError):
    """Weights could not be loaded: not a model directory, another architecture, or unreadable. Says which and why.

    `reason` is a stable word for machines; the subclasses below and in `hosting.py` have words of their own.
    """

    reason = "MODEL_LOAD_FAILED"


class ModelNotFound(ModelLoadError):
    """There is no model at the uri."""

    reason = "MODEL_NOT_FOUND"


class ModelNotAllowed(ModelLoadError):
    """The uri is not among the places that callers may name."""

    reason = "PATH_NOT_ALLOWED"


class ModelUnreachable(ModelLoadError):
    """The object storage that the uri names does not answer, or not as it should; it may later."""

    reason = "MODEL_UNREACHABLE"


class ModelDenied(ModelLoadError):
    """The object storage that the uri names does not let this server read there."""

    reason = "MODEL_DENIED"


class ModelCacheFull(ModelLoadError):
    """A model from object storage does not fit into what this server keeps of them."""

    reason = "MODEL_CACHE_FULL"


class ModelDigestMismatch(ModelLoadError):
    """The model's content is not what the request said it must be."""

    reason = "MODEL_DIGEST_MISMATCH"


class ModelMismatch(ModelLoadError):
    """The weights have another architecture or shape than the engine was started with."""

    reason = "MODEL_MISMATCH"


class Engine(Protocol):
    """A model on a device. Methods may be called concurrently, except `swap`, which its caller must serialise
    against all others (`hosting.ModelHost` does)."""

    @property
    def name(self) -> str:
        """`vllm`, `transformers` or `fake`, then `/` and the version."""

    @property
    def task(self) -> Task:
        """What it was started for."""

    @property
    def score_method(self) -> str:
        """How `score` and `rank` work: `plugin`, `prompt_logprobs`, `forward` or `fake`; empty where they do not, as
        it was started. Known from `start` on."""

    @property
    def model(self) -> LoadedModel:
        """The weights held now. Raises RuntimeError before `start`."""

    @property
    def tokenizer(self) -> ChatTokenizer:
        """The held model's tokenizer and chat template."""

    async def start(self) -> None:
        """Loads the first weights. Raises ModelLoadError."""

    async def close(self) -> None:
        """Ends the engine and its processes; safe to call twice."""

    async def check_health(self) -> None:
        """Returns at once where the engine can work; raises EngineDead where it never will again."""

    async def swap(self, uri: str, digest: str) -> None:
        """Replaces all weights (and tokenizer and template) in place by those in directory `uri`, whose digest the
        caller has computed. The architecture must be the same. Raises ModelLoadError, after which the engine must be
        swapped again, successfully, before anything else is asked of it."""

    async def score(self, requests: Sequence[ScoreRequest]) -> list[TokenScores | EngineFailure]:
        """What the model thinks of `token_ids[first_scored:]`."""

    async def rank(self, requests: Sequence[RankRequest]) -> list[NDArray[np.float32] | EngineFailure]:
        """Log-probabilities (nats, <= 0) of the candidates as the next token: float32 of shape (candidates,) each.
        They do not add up to 1: other tokens are possible too."""

    async def generate(self, requests: Sequence[GenerateRequest]) -> list[Generation | EngineFailure]:
        """One continuation per request; special tokens are left out of `text`."""

    async def embed(self, sequences: Sequence[Sequence[int]]) -> list[NDArray[np.float32] | EngineFailure]:
        """Mean over all tokens of the last hidden state after the final norm: one float32 vector of shape
        (hidden_size,) each, not normalised."""
