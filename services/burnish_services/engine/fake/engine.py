"""`FakeEngine`: the Engine protocol on fake models."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import struct
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from burnish_services.engine.base import (
    ActivationPooling,
    Activations,
    EngineDead,
    EngineFailure,
    EngineSettings,
    GenerateRequest,
    Generation,
    LoadedModel,
    ModelLoadError,
    RankRequest,
    Sampling,
    ScoreRequest,
    Task,
    TokenScores,
)
from burnish_services.engine.failures import checked, checked_generation, checked_scores, refused
from burnish_services.engine.fake import numbers, replies
from burnish_services.engine.fake.model import FakeModel, read_fake_model
from burnish_services.engine.fake.tokenizer import END_OF_TURN, VOCAB_SIZE, FakeTokenizer
from burnish_services.engine.model_digests import model_digest
from burnish_services.engine.models import CARD_FILE, resolve_uri

DEFAULT_MAX_MODEL_LEN = 8192


class FakeEngine:
    """Implements `Engine`."""

    def __init__(self, settings: EngineSettings) -> None:
        self._settings = settings
        self._tokenizer = FakeTokenizer(settings.chat_template)
        self._end_token = self._tokenizer.encode(END_OF_TURN).ids[0]
        self._model: LoadedModel | None = None
        self._fake = FakeModel("none")
        self._numbers_digest = ""  # whose numbers are given: differs from the model's where the load was stale
        self._canary_calls = 0  # left until a model whose fault is to kill the engine does so
        self._dead = False

    @property
    def name(self) -> str:
        """See `Engine`."""
        return _name()

    @property
    def task(self) -> Task:
        """See `Engine`."""
        return self._settings.task

    @property
    def score_method(self) -> str:
        """See `Engine`."""
        return "fake"

    @property
    def model(self) -> LoadedModel:
        """See `Engine`."""
        if self._model is None:
            raise RuntimeError("the engine is not started")
        return self._model

    @property
    def tokenizer(self) -> FakeTokenizer:
        """See `Engine`."""
        return self._tokenizer

    async def start(self) -> None:
        """See `Engine`."""
        path = resolve_uri(self._settings.model)
        await self.swap(str(path), model_digest(path))

    async def close(self) -> None:
        """See `Engine`."""

    async def check_health(self) -> None:
        """See `Engine`."""
        if self._dead:
            raise EngineDead("the fake engine was told to die")

    async def swap(self, uri: str, digest: str) -> None:
        """See `Engine`."""
        fake = read_fake_model(resolve_uri(uri))
        if fake.fault == "load":
            raise ModelLoadError(f"{uri}: this fake model cannot be loaded, by its own wish")
        await asyncio.sleep(fake.latency_seconds)
        if fake.fault != "stale" or self._model is None:
            self._fake, self._numbers_digest = fake, digest
        has_card = (Path(uri) / CARD_FILE).is_file()
        self._canary_calls = 2 if has_card else 1
        dtype = "float32" if self._settings.dtype == "auto" else self._settings.dtype
        length = self._settings.max_model_len or DEFAULT_MAX_MODEL_LEN
        self._model = LoadedModel(uri, digest, dtype, length, VOCAB_SIZE, numbers.NEURONS)

    async def score(self, requests: Sequence[ScoreRequest]) -> list[TokenScores | EngineFailure]:
        """See `Engine`."""
        await self._work()
        return [self._refused(request.token_ids) or checked_scores(self._score_one(request)) for request in requests]

    async def rank(self, requests: Sequence[RankRequest]) -> list[NDArray[np.float32] | EngineFailure]:
        """See `Engine`."""
        await self._work()
        return [self._refused(request.token_ids) or checked(self._rank_one(request)) for request in requests]

    async def generate(self, requests: Sequence[GenerateRequest]) -> list[Generation | EngineFailure]:
        """See `Engine`."""
        await self._work()
        return [self._refused(request.token_ids, room=1) or self._generate_one(request) for request in requests]

    async def embed(self, sequences: Sequence[Sequence[int]]) -> list[NDArray[np.float32] | EngineFailure]:
        """See `Engine`."""
        await self._work()
        return [
            self._refused(ids) or checked(self._spoil(numbers.embedding(ids, self._numbers_digest)))
            for ids in sequences
        ]

    async def _work(self) -> None:
        self._canary_calls -= 1
        if self._fake.fault == "dead" and self._canary_calls < 0:
            self._dead = True
        await self.check_health()
        # Other tasks run in between, as they would while a real engine works.
        await asyncio.sleep(self._fake.latency_seconds)

    def _refused(self, ids: Sequence[int], room: int = 0) -> EngineFailure | None:
        return refused(ids, self.model.max_model_len - room, VOCAB_SIZE)

    def _score_one(self, request: ScoreRequest) -> TokenScores:
        ids, digest = request.token_ids, self._numbers_digest
        logprobs = self._spoil(numbers.token_logprobs(ids, digest, self._fake.skill)[request.first_scored :])
        entropies, margins = numbers.distribution(logprobs) if request.distribution else (None, None)
        inside = [token for span in request.mean_hidden for token in ids[slice(*span)]]
        mean = self._spoil(numbers.embedding(inside, digest)) if inside else None
        neurons = None if request.activations is None else self._spoil(_pooled(ids, request.activations, digest))
        return TokenScores(logprobs, entropies, margins, mean, neurons)

    def _rank_one(self, request: RankRequest) -> NDArray[np.float32]:
        return self._spoil(numbers.candidate_logprobs(request.token_ids, request.candidates, self._numbers_digest))

    def _spoil(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.full_like(values, np.nan) if self._fake.fault == "nan" else values

    def _generate_one(self, request: GenerateRequest) -> Generation | EngineFailure:
        sampling = request.sampling
        choice = _choice(self._numbers_digest, request.token_ids, sampling)
        text = replies.reply(self._tokenizer.decode(request.token_ids), choice, self._fake.skill)
        for stop in sampling.stop:
            text = text.split(stop, 1)[0]
        ids = [*self._tokenizer.encode(text).ids, self._end_token]
        room = min(sampling.max_tokens, self.model.max_model_len - len(request.token_ids))
        reason = "stop" if len(ids) <= room else "length"
        kept = ids[:room]
        logprobs = None
        if request.logprobs:
            ids = [*request.token_ids, *kept]
            chosen = numbers.token_logprobs(ids, self._numbers_digest, self._fake.skill)[len(request.token_ids) :]
            logprobs = tuple(float(x) for x in self._spoil(chosen))
        return checked_generation(Generation(self._tokenizer.decode(kept), tuple(kept), reason, logprobs))


@functools.cache  # every reply states it, and looking it up takes as long as a whole reply
def _name() -> str:
    try:
        return f"fake/{version('burnish')}"
    except PackageNotFoundError:
        return "fake/0"


def _pooled(ids: Sequence[int], asked: Activations, digest: str) -> NDArray[np.float32]:
    values = numbers.activations([token for span in asked.spans for token in ids[slice(*span)]], digest)
    match asked.pooling:
        case ActivationPooling.MAX:
            return np.abs(values).max(axis=0)
        case ActivationPooling.MEAN:
            return np.abs(values).mean(axis=0)
        case ActivationPooling.MAX_SIGNED:
            return values.max(axis=0)


def _choice(digest: str, ids: Sequence[int], sampling: Sampling) -> bytes:
    """32 bytes that decide what is said; greedy decoding knows no seed."""
    seed = 0 if sampling.temperature == 0.0 else 1 + (sampling.seed or 0)
    hasher = hashlib.blake2b(digest.encode(), digest_size=32)
    hasher.update(np.asarray(ids, dtype="<i8").tobytes())
    hasher.update(struct.pack("<ddiq", sampling.temperature, sampling.top_p, sampling.top_k, 0) if seed else b"")
    hasher.update(seed.to_bytes(16, "little"))
    return hasher.digest()
