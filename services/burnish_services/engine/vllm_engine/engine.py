"""`VllmEngine`: the Engine protocol on vLLM."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Awaitable, Coroutine, Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from burnish_services.engine.base import (
    EngineDead,
    EngineFailure,
    EngineSettings,
    GenerateRequest,
    Generation,
    LoadedModel,
    ScoreRequest,
    Task,
)
from burnish_services.engine.failures import ENGINE_ERROR, checked, refused
from burnish_services.engine.hf_tokenizer import HfTokenizer
from burnish_services.engine.models import check_model_directory, check_same_shape, model_digest, read_json, resolve_uri
from burnish_services.engine.settings import cache_bytes_per_token, context_length, model_context
from burnish_services.engine.vllm_engine import environment

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

    async def score(self, requests: Sequence[ScoreRequest]) -> list[NDArray[np.float32] | EngineFailure]:
        """See `Engine`."""
        return await _together([self._score_one(request) for request in requests])

    async def generate(self, requests: Sequence[GenerateRequest]) -> list[Generation | EngineFailure]:
        """See `Engine`."""
        return await _together([self._generate_one(request) for request in requests])

    async def embed(self, sequences: Sequence[Sequence[int]]) -> list[NDArray[np.float32] | EngineFailure]:
        """See `Engine`."""
        return await _together([self._embed_one(ids) for ids in sequences])

    # --- one request -------------------------------------------------------------------------------------------

    async def _score_one(self, request: ScoreRequest) -> NDArray[np.float32] | EngineFailure:
        ids = request.token_ids
        return self._refused(ids) or await self._checked(self._running.score(ids, request.first_scored))

    async def _embed_one(self, ids: Sequence[int]) -> NDArray[np.float32] | EngineFailure:
        return self._refused(ids) or await self._checked(self._running.embed(ids))

    async def _generate_one(self, request: GenerateRequest) -> Generation | EngineFailure:
        from burnish_services.engine.vllm_engine.client import RequestFailed

        ids, sampling = request.token_ids, request.sampling
        failure = self._refused(ids, room=1)
        if failure is not None:
            return failure
        room = min(sampling.max_tokens, self.model.max_model_len - len(ids))
        output = self._running.sample(ids, sampling, room, self.tokenizer.stop_token_ids, stream=bool(sampling.stop))
        reached, tokens = False, list[int]()
        try:
            async with aclosing(output):
                async for tokens, reached in output:  # noqa: B007
                    # vLLM has no tokenizer here, so texts to stop at are looked for as the tokens come.
                    text = self.tokenizer.decode(tokens) if sampling.stop else ""
                    found = [at for at in (text.find(stop) for stop in sampling.stop) if at >= 0]
                    if found:
                        return Generation(text[: min(found)], tuple(tokens), "stop")
        except RequestFailed as error:
            return EngineFailure(ENGINE_ERROR, str(error), retryable=True)
        return Generation(self.tokenizer.decode(tokens), tuple(tokens), "stop" if reached else "length")

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
        from burnish_services.engine.vllm_engine.client import VERSION, VllmClient

        path = resolve_uri(self._settings.model)
        check_model_directory(path)
        digest = model_digest(path)
        self._tokenizer = HfTokenizer(path, self._settings.chat_template)
        config = read_json(path / "config.json")
        context = context_length(self._settings.max_model_len, model_context(config))
        client = VllmClient(self._settings, str(path), context, cache_bytes_per_token(config, self._settings.dtype))
        self._client, self._name = client, f"vllm/{VERSION}"
        self._model = LoadedModel(str(path), digest, client.dtype, context, client.vocab_size)
        return client

    def _prepare_swap(self, path: Path) -> HfTokenizer:
        check_model_directory(path)
        check_same_shape(Path(self.model.uri), path)
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
