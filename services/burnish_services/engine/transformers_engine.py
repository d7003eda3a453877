"""`TransformersEngine`: the Engine protocol on Hugging Face transformers, for reference and where vLLM is not.

Owns the thread that the model computes in; the mathematics is in `torch_model.py`. Calls are served one after the
other; a cancelled call stops at the next sequence or token.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from burnish_services.engine.base import (
    EngineDead,
    EngineFailure,
    EngineSettings,
    GenerateRequest,
    Generation,
    LoadedModel,
    RankRequest,
    ScoreRequest,
    Task,
    TokenScores,
)
from burnish_services.engine.continuation import Continuation
from burnish_services.engine.failures import (
    NOT_FINITE,
    checked,
    checked_generation,
    checked_scores,
    no_neurons,
    refused,
)
from burnish_services.engine.hf_tokenizer import HfTokenizer
from burnish_services.engine.model_digests import model_digest
from burnish_services.engine.model_shapes import check_same_shape, shape_of
from burnish_services.engine.models import check_model_directory, resolve_uri
from burnish_services.engine.settings import context_length, count_cores
from burnish_services.engine.torch_model import TorchModel
from burnish_services.runtime.threads import while_wanted

Result = TypeVar("Result")
_NOT_FINITE = "the next token's logits are not finite; the weights or the device are at fault"


class TransformersEngine:
    """Implements `Engine`."""

    def __init__(self, settings: EngineSettings) -> None:
        self._settings = settings
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="transformers-engine")
        self._torch: TorchModel | None = None
        self._tokenizer: HfTokenizer | None = None
        self._model: LoadedModel | None = None
        self._shape: dict[str, Any] | None = None  # of the first weights, and so of all
        self._closed = False

    @property
    def name(self) -> str:
        """See `Engine`."""
        return f"transformers/{transformers.__version__}"

    @property
    def task(self) -> Task:
        """See `Engine`."""
        return self._settings.task

    @property
    def score_method(self) -> str:
        """See `Engine`."""
        return "forward"

    @property
    def model(self) -> LoadedModel:
        """See `Engine`."""
        if self._model is None:
            raise RuntimeError("the engine is not started")
        return self._model

    @property
    def tokenizer(self) -> HfTokenizer:
        """See `Engine`."""
        if self._tokenizer is None:
            raise RuntimeError("the engine is not started")
        return self._tokenizer

    async def start(self) -> None:
        """See `Engine`."""
        if self._settings.cpu_cores:
            torch.set_num_threads(count_cores(self._settings.cpu_cores))
        path = await asyncio.to_thread(resolve_uri, self._settings.model)
        digest = await asyncio.to_thread(model_digest, path)
        await self.swap(str(path), digest)

    async def close(self) -> None:
        """See `Engine`."""
        self._closed = True
        await asyncio.to_thread(self._executor.shutdown, cancel_futures=True)
        self._torch = None

    async def check_health(self) -> None:
        """See `Engine`."""
        if self._closed:
            raise EngineDead("the engine is closed")

    async def swap(self, uri: str, digest: str) -> None:
        """See `Engine`."""
        await self._compute(lambda cancel: self._load(Path(uri), digest))

    async def score(self, requests: Sequence[ScoreRequest]) -> list[TokenScores | EngineFailure]:
        """See `Engine`."""
        neurons = self.model.neurons
        failures = [self._refused(request.token_ids) or no_neurons(request, neurons) for request in requests]
        valid = [request for request, failure in zip(requests, failures, strict=True) if failure is None]
        scores = iter(await self._compute(lambda cancel: self._loaded.score(valid, cancel)))
        return [failure or checked_scores(next(scores)) for failure in failures]

    async def rank(self, requests: Sequence[RankRequest]) -> list[NDArray[np.float32] | EngineFailure]:
        """See `Engine`."""
        failures = [self._refused(request.token_ids) for request in requests]
        valid = [request for request, failure in zip(requests, failures, strict=True) if failure is None]
        scores = iter(await self._compute(lambda cancel: self._loaded.rank(valid, cancel)))
        return [failure or checked(next(scores)) for failure in failures]

    async def generate(self, requests: Sequence[GenerateRequest]) -> list[Generation | EngineFailure]:
        """See `Engine`."""
        return await self._compute(lambda cancel: self._generate(requests, cancel))

    async def embed(self, sequences: Sequence[Sequence[int]]) -> list[NDArray[np.float32] | EngineFailure]:
        """See `Engine`."""
        failures = [self._refused(ids) for ids in sequences]
        valid = [ids for ids, failure in zip(sequences, failures, strict=True) if failure is None]
        vectors = iter(await self._compute(lambda cancel: self._loaded.embed(valid, cancel)))
        return [failure or checked(next(vectors)) for failure in failures]

    # --- in the engine's thread --------------------------------------------------------------------------------

    @property
    def _loaded(self) -> TorchModel:
        if self._torch is None:
            raise EngineDead("the engine holds no weights")
        return self._torch

    def _load(self, path: Path, digest: str) -> None:
        check_model_directory(path)
        if self._shape is None:
            self._shape = shape_of(path)
        check_same_shape(self._shape, path)
        tokenizer = HfTokenizer(path, self._settings.chat_template)
        self._torch = None  # two sets of weights at a time might not fit
        loaded = TorchModel(path, self._settings.dtype, self._settings.batch_tokens)
        length = context_length(self._settings.max_model_len, loaded.context)
        self._torch, self._tokenizer = loaded, tokenizer
        self._model = LoadedModel(str(path), digest, loaded.dtype, length, loaded.vocab_size, loaded.neurons)

    def _generate(
        self, requests: Sequence[GenerateRequest], cancel: threading.Event
    ) -> list[Generation | EngineFailure]:
        failures = [self._refused(request.token_ids, room=1) for request in requests]
        valid = [request for request, failure in zip(requests, failures, strict=True) if failure is None]
        context = self.model.max_model_len
        made = [Continuation(request, context - len(request.token_ids), self.tokenizer) for request in valid]
        broken = self._loaded.sample(valid, [one.add for one in made], cancel)
        ended = iter(
            EngineFailure(NOT_FINITE, _NOT_FINITE) if place in broken else checked_generation(one.generation())
            for place, one in enumerate(made)
        )
        return [failure or next(ended) for failure in failures]

    def _refused(self, ids: Sequence[int], room: int = 0) -> EngineFailure | None:
        return refused(ids, self.model.max_model_len - room, self.model.vocab_size)

    async def _compute(self, work: Callable[[threading.Event], Result]) -> Result:
        """Runs `work` in the engine's thread; tells it when the caller has been cancelled."""
        if self._closed:
            raise EngineDead("the engine is closed")
        return await while_wanted(self._executor, work)
