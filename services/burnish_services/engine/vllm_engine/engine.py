"""`VllmEngine`: the Engine protocol on vLLM."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Awaitable, Coroutine, Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
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
from burnish_services.engine.failures import (
    ENGINE_ERROR,
    UNSUPPORTED,
    checked,
    checked_generation,
    checked_scores,
    no_neurons,
    refused,
)
from burnish_services.engine.hf_tokenizer import HfTokenizer
from burnish_services.engine.model_config import (
    cache_bytes_per_token,
    model_context,
    read_text_config,
    short_factors_context,
)
from burnish_services.engine.model_digests import model_digest
from burnish_services.engine.model_shapes import (
    Tensors,
    built_in_of,
    check_same_built_in,
    check_same_shape,
    check_same_tensors,
    shape_of,
    tensors_of,
)
from burnish_services.engine.models import check_model_directory, read_json, resolve_uri
from burnish_services.engine.settings import context_length
from burnish_services.engine.vllm_engine import environment
from burnish_services.engine.vllm_plugin.asked import Asked

if TYPE_CHECKING:
    from burnish_services.engine.vllm_engine.client import VllmClient

Result = TypeVar("Result")


class VllmEngine:
    """Implements `Engine`. Started for one task; vLLM runs in child processes of this one."""

    def __init__(self, settings: EngineSettings) -> None:
        """Raises ImportError where vLLM is not installed."""
        if importlib.util.find_spec("vllm") is None:
            raise ImportError("No module named 'vllm'")
        self._settings = settings
        self._client: VllmClient | None = None
        self._tokenizer: HfTokenizer | None = None
        self._model: LoadedModel | None = None
        self._shape: dict[str, Any] = {}  # of the first weights, and so of all
        self._tensors: Tensors = {}
        self._name = "vllm"
        self._closed = False

    @property
    def name(self) -> str:
        """See `Engine`; without the version before `start`."""
        return self._name

    @property
    def task(self) -> Task:
        """See `Engine`."""
        return self._settings.task

    @property
    def score_method(self) -> str:
        """See `Engine`."""
        if self._client is None:
            return ""
        if self.task is Task.GENERATE:
            return "prompt_logprobs"
        return "plugin" if self._client.has_plugin else ""

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
        client = await asyncio.to_thread(self._start)
        await client.prepare()
        self._model = replace(self.model, neurons=client.neurons)

    async def close(self) -> None:
        """See `Engine`."""
        self._closed = True
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def check_health(self) -> None:
        """See `Engine`."""
        self._running.check_health()

    async def swap(self, uri: str, digest: str) -> None:
        """See `Engine`."""
        running, path = self._running, Path(uri)
        tokenizer = await asyncio.to_thread(self._prepare_swap, path)
        await running.reload(uri)
        self._tokenizer = tokenizer
        self._model = replace(self.model, uri=uri, digest=digest)

    async def score(self, requests: Sequence[ScoreRequest]) -> list[TokenScores | EngineFailure]:
        """See `Engine`."""
        return await _together([self._score_one(request) for request in requests])

    async def rank(self, requests: Sequence[RankRequest]) -> list[NDArray[np.float32] | EngineFailure]:
        """See `Engine`."""
        return await _together([self._rank_one(request) for request in requests])

    async def generate(self, requests: Sequence[GenerateRequest]) -> list[Generation | EngineFailure]:
        """See `Engine`."""
        return await _together([self._generate_one(request) for request in requests])

    async def embed(self, sequences: Sequence[Sequence[int]]) -> list[NDArray[np.float32] | EngineFailure]:
        """See `Engine`."""
        return await _together([self._embed_one(ids) for ids in sequences])

    # --- one request -------------------------------------------------------------------------------------------

    async def _score_one(self, request: ScoreRequest) -> TokenScores | EngineFailure:
        from burnish_services.engine.vllm_engine.client import RequestFailed

        failure = self._refused(request.token_ids)
        if failure is None and not self._running.has_plugin and (request.distribution or request.mean_hidden):
            failure = EngineFailure(
                UNSUPPORTED,
                "entropies, margins and mean hidden states come with scores from Burnish's vLLM plugin only; here "
                f"scores are made by {self.score_method!r}: ask for scores alone",
            )
        failure = failure or no_neurons(request, self.model.neurons)
        if failure is not None:
            return failure
        try:
            return checked_scores(await self._scores(request))
        except RequestFailed as error:
            return EngineFailure(ENGINE_ERROR, str(error), retryable=True)

    async def _scores(self, request: ScoreRequest) -> TokenScores:
        ids, first = request.token_ids, request.first_scored
        if not self._running.has_plugin:
            return TokenScores(await self._running.score(ids, first))
        none = np.empty(0, np.float32)
        wanted = request.activations
        asked = Asked(first_scored=first, distribution=request.distribution, mean_hidden=tuple(request.mean_hidden))
        if wanted is not None:
            asked = replace(asked, activations=tuple(wanted.spans), pooling=wanted.pooling.value)
        if first >= len(ids) and not asked.whole:
            return TokenScores(none, *((none, none) if request.distribution else ()))
        logprobs, entropies, margins, _, mean, neurons = await self._running.ask(ids, asked)
        return TokenScores(
            logprobs,
            entropies if request.distribution else None,
            margins if request.distribution else None,
            mean if request.mean_hidden else None,
            neurons.reshape(self.model.neurons) if wanted is not None else None,
        )

    async def _rank_one(self, request: RankRequest) -> NDArray[np.float32] | EngineFailure:
        running, ids, candidates = self._running, request.token_ids, tuple(request.candidates)
        return self._refused(ids) or await self._checked(
            self._ranks(ids, candidates) if running.has_plugin else running.rank(ids, candidates)
        )

    async def _ranks(self, ids: Sequence[int], candidates: tuple[int, ...]) -> NDArray[np.float32]:
        return (await self._running.ask(ids, Asked(candidates=candidates)))[3]

    async def _embed_one(self, ids: Sequence[int]) -> NDArray[np.float32] | EngineFailure:
        return self._refused(ids) or await self._checked(self._running.embed(ids))

    async def _generate_one(self, request: GenerateRequest) -> Generation | EngineFailure:
        from burnish_services.engine.vllm_engine.client import RequestFailed

        ids, sampling = request.token_ids, request.sampling
        failure = self._refused(ids, room=1)
        if failure is not None:
            return failure
        room = min(sampling.max_tokens, self.model.max_model_len - len(ids))
        output = self._running.sample(request, room, self.tokenizer.stop_token_ids)
        reached = False
        tokens: tuple[int, ...] = ()
        logprobs: tuple[float, ...] | None = None
        try:
            async with aclosing(output):
                async for tokens, logprobs, reached in output:  # noqa: B007
                    # vLLM has no tokenizer here, so texts to stop at are looked for as the tokens come.
                    text = self.tokenizer.decode(tokens) if sampling.stop else ""
                    found = [at for at in (text.find(stop) for stop in sampling.stop) if at >= 0]
                    if found:
                        return checked_generation(Generation(text[: min(found)], tokens, "stop", logprobs))
        except RequestFailed as error:
            return EngineFailure(ENGINE_ERROR, str(error), retryable=True)
        reason = "stop" if reached else "length"
        return checked_generation(Generation(self.tokenizer.decode(tokens), tokens, reason, logprobs))

    async def _checked(self, work: Awaitable[NDArray[np.float32]]) -> NDArray[np.float32] | EngineFailure:
        from burnish_services.engine.vllm_engine.client import RequestFailed

        try:
            return checked(await work)
        except RequestFailed as error:
            return EngineFailure(ENGINE_ERROR, str(error), retryable=True)

    def _refused(self, ids: Sequence[int], room: int = 0) -> EngineFailure | None:
        return refused(ids, self.model.max_model_len - room, self.model.vocab_size)

    # --- starting and swapping, off the event loop -------------------------------------------------------------

    @property
    def _running(self) -> VllmClient:
        if self._client is None:
            raise EngineDead("the engine is closed" if self._closed else "the engine is not started")
        return self._client

    def _start(self) -> VllmClient:
        environment.prepare()
        from burnish_services.engine.number_formats import format_to_compute_in
        from burnish_services.engine.vllm_engine.client import VERSION, VllmClient

        settings = replace(self._settings, dtype=format_to_compute_in(self._settings.dtype))
        path = resolve_uri(settings.model)
        check_model_directory(path)
        digest = model_digest(path)
        self._tokenizer = HfTokenizer(path, self._settings.chat_template)
        config = read_text_config(path)
        self._shape, self._tensors, self._built_in = shape_of(path), tensors_of(path), built_in_of(path)
        context = context_length(self._settings.max_model_len, model_context(config))
        if self.task is Task.GENERATE and context == short_factors_context(config):
            context -= 1  # vLLM is started for one token more, and would read every text with the long factors
        architecture = str((read_json(path / "config.json").get("architectures") or [""])[0])
        cache_bytes = cache_bytes_per_token(config, settings.dtype)
        client = VllmClient(settings, str(path), architecture, context, cache_bytes)
        self._client, self._name = client, f"vllm/{VERSION}"
        self._model = LoadedModel(str(path), digest, client.dtype, context, client.vocab_size)
        return client

    def _prepare_swap(self, path: Path) -> HfTokenizer:
        check_model_directory(path)
        check_same_shape(self._shape, path)
        check_same_built_in(self._built_in, path)
        check_same_tensors(self._tensors, path)
        return HfTokenizer(path, self._settings.chat_template)


async def _together(work: Sequence[Coroutine[None, None, Result]]) -> list[Result]:
    """All results in order; where one raises or the caller is cancelled, the others are aborted in the engine."""
    tasks = [asyncio.ensure_future(item) for item in work]
    try:
        return list(await asyncio.gather(*tasks))
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
