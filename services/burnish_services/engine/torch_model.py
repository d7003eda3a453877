"""A causal language model on torch: scores, embeddings and sampling, one plain function each.

The readable reference that golden values come from. Blocking; `transformers_engine.py` calls it in a thread. On a CPU
every sequence is computed alone, so that no number depends on what else is asked and a run can be repeated byte for
byte; on a GPU sequences of similar length are computed together.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM

from burnish_services.engine.base import (
    ActivationPooling,
    Activations,
    GenerateRequest,
    ModelLoadError,
    RankRequest,
    ScoreRequest,
    TokenScores,
)
from burnish_services.engine.neurons import NeuronRecorder, pooled
from burnish_services.engine.sampling import choose_token, new_generator

_GPU_BATCH_TOKENS = 16_384
_HEAD_ROWS = 512  # positions whose logits are held at a time: rows × vocabulary float32
_PROBE = (1, 2, 3, 5, 8, 13, 21)


class Cancelled(RuntimeError):
    """The caller no longer wants the result."""


class NotFinite(ArithmeticError):
    """The model's logits hold NaN, so no token can be drawn."""


class TorchModel:
    """One set of weights on the best device of this machine."""

    def __init__(self, directory: Path, dtype: str = "auto") -> None:
        """Loads the weights. Raises ModelLoadError."""
        try:
            self._model: Any = AutoModelForCausalLM.from_pretrained(
                str(directory),
                dtype=dtype if dtype == "auto" else getattr(torch, dtype),
                attn_implementation="sdpa",
                local_files_only=True,
            )
        except Exception as error:  # transformers raises anything here, from KeyError to OSError
            raise ModelLoadError(f"the weights in {directory} cannot be loaded: {error!r}") from error
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._model.to(self.device).eval()
        self.dtype = str(self._model.dtype).removeprefix("torch.")
        config = self._model.config.get_text_config()
        self.vocab_size = int(config.vocab_size)
        self.context = int(getattr(config, "max_position_embeddings", None) or 1 << 20)
        self._softcap = getattr(config, "final_logit_softcapping", None)
        self._recorder = NeuronRecorder(self._model)
        self.neurons = self._recorder.shape
        self._check_logits(directory)

    @torch.inference_mode()
    def score(self, requests: Sequence[ScoreRequest], cancel: threading.Event) -> list[TokenScores]:
        """What `ScoreRequest` asks for, of each."""
        results: dict[int, TokenScores] = {}
        for batch in self._batches([request.token_ids for request in requests], cancel):
            hidden, layers = self._pass([requests[index] for index in batch])
            for row, index in enumerate(batch):
                scores, asked = self._score_one(requests[index], hidden[row]), requests[index].activations
                neurons = _activations([inputs[row] for inputs in layers], asked) if asked else None
                results[index] = replace(scores, activations=neurons)
        return [results[index] for index in range(len(requests))]

    @torch.inference_mode()
    def rank(self, requests: Sequence[RankRequest], cancel: threading.Event) -> list[NDArray[np.float32]]:
        """For each prompt: log p of its candidates as the next token."""
        results: dict[int, NDArray[np.float32]] = {}
        for batch in self._batches([request.token_ids for request in requests], cancel):
            hidden = self._hidden([requests[index].token_ids for index in batch])
            for row, index in enumerate(batch):
                logprobs = _log_softmax(self._logits(hidden[row, len(requests[index].token_ids) - 1]))
                results[index] = logprobs[list(requests[index].candidates)].cpu().numpy()
        return [results[index] for index in range(len(requests))]

    @torch.inference_mode()
    def embed(self, sequences: Sequence[Sequence[int]], cancel: threading.Event) -> list[NDArray[np.float32]]:
        """For each sequence: the mean over its tokens of the last hidden state, after the final norm."""
        results: dict[int, NDArray[np.float32]] = {}
        for batch in self._batches(sequences, cancel):
            hidden = self._hidden([sequences[index] for index in batch])
            for row, index in enumerate(batch):
                mean = hidden[row, : len(sequences[index])].float().mean(dim=0)
                results[index] = mean.cpu().numpy()
        return [results[index] for index in range(len(sequences))]

    @torch.inference_mode()
    def sample(
        self, request: GenerateRequest, stop_ids: frozenset[int], cancel: threading.Event
    ) -> Iterator[tuple[int, float | None]]:
        """Tokens that follow the prompt, one at a time, ending with one of `stop_ids`; without end otherwise. Where
        asked for, each with its log-probability (nats) before any sampling parameter."""
        sampling = request.sampling
        generator = new_generator(sampling.seed)
        seen = list(request.token_ids)
        step, cache = torch.tensor([seen], device=self.device), None
        while True:
            _raise_if(cancel)
            output = self._model(input_ids=step, past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache = output.past_key_values
            logits = output.logits[0, -1].float().cpu()
            if logits.isnan().any():
                raise NotFinite("the next token's logits are not finite; the weights or the device are at fault")
            token = choose_token(logits, seen, sampling, generator)
            yield token, float(_log_softmax(logits)[token]) if request.logprobs else None
            if token in stop_ids:
                return
            seen.append(token)
            step = torch.tensor([[token]], device=self.device)

    def _batches(self, sequences: Sequence[Sequence[int]], cancel: threading.Event) -> Iterator[list[int]]:
        """Indices of sequences to compute together, longest first, so that too little memory shows at once."""
        limit = 0 if self.device.type == "cpu" else _GPU_BATCH_TOKENS
        batch: list[int] = []
        for index in sorted(range(len(sequences)), key=lambda index: -len(sequences[index])):
            if batch and (len(batch) + 1) * len(sequences[batch[0]]) > limit:
                _raise_if(cancel)
                yield batch
                batch = []
            batch.append(index)
        if batch:
            _raise_if(cancel)
            yield batch

    def _pass(self, requests: Sequence[ScoreRequest]) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Last hidden states, and, where a request asks for activations, the inputs of all down projections by layer,
        each (sequences, longest, neurons)."""
        sequences = [request.token_ids for request in requests]
        if not any(request.activations for request in requests):
            return self._hidden(sequences), []
        self._recorder.start()
        try:
            hidden, layers = self._hidden(sequences), self._recorder.take()
        finally:
            self._recorder.stop()
        assert layers is not None, "a layer's down projection was not used"
        return hidden, layers

    def _hidden(self, sequences: Sequence[Sequence[int]]) -> torch.Tensor:
        """Last hidden states, (sequences, longest, hidden size); those behind a sequence's end mean nothing."""
        longest = max(len(ids) for ids in sequences)
        padded = [[*ids, *[0] * (longest - len(ids))] for ids in sequences]
        # Attention is causal and padding stands on the right: no real token sees any, so no mask is needed.
        output = self._model.base_model(input_ids=torch.tensor(padded, device=self.device), use_cache=False)
        hidden: torch.Tensor = output.last_hidden_state
        return hidden

    def _score_one(self, request: ScoreRequest, hidden: torch.Tensor) -> TokenScores:
        ids, first = request.token_ids, request.first_scored
        targets = torch.tensor(ids[first:], dtype=torch.int64, device=self.device)
        columns: list[list[torch.Tensor]] = [[], [], []]
        # The hidden state one position before a token predicts it.
        for rows, wanted in zip(
            hidden[first - 1 : len(ids) - 1].split(_HEAD_ROWS), targets.split(_HEAD_ROWS), strict=True
        ):
            logprobs = _log_softmax(self._logits(rows))
            columns[0].append(logprobs.gather(1, wanted[:, None])[:, 0])
            if request.distribution:
                probabilities = logprobs.exp()
                columns[1].append(torch.special.entr(probabilities).sum(dim=1))
                likeliest, second = probabilities.topk(2, dim=1).values.unbind(dim=1)
                columns[2].append(likeliest - second)
        logprobs, entropies, margins = (torch.cat(parts).cpu().numpy() if parts else None for parts in columns)
        mean = None
        if request.mean_hidden:
            mean = torch.cat([hidden[slice(*span)] for span in request.mean_hidden]).float().mean(dim=0).cpu().numpy()
        assert logprobs is not None
        return TokenScores(logprobs, entropies, margins, mean)

    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self._model.get_output_embeddings()(hidden)
        if self._softcap:
            logits = torch.tanh(logits / self._softcap) * self._softcap
        return logits

    @torch.inference_mode()
    def _check_logits(self, directory: Path) -> None:
        """Raises ModelLoadError where the model makes its logits in a way that `_logits` does not know."""
        ids = [token % self.vocab_size for token in _PROBE]
        expected = self._model(input_ids=torch.tensor([ids], device=self.device), use_cache=False).logits[0]
        found = self._logits(self._hidden([ids])[0])
        if not torch.allclose(found.float(), expected.float(), rtol=1e-3, atol=1e-3, equal_nan=True):
            raise ModelLoadError(
                f"the transformers engine cannot score {directory}: {type(self._model).__name__} does more between the "
                "last hidden state and the logits than apply its head; use the vllm engine"
            )


def _activations(layers: Sequence[torch.Tensor], asked: Activations) -> NDArray[np.float32]:
    values = torch.stack([pooled(inputs, asked.spans, asked.pooling) for inputs in layers])
    if asked.pooling is ActivationPooling.MEAN:
        values /= sum(end - start for start, end in asked.spans)
    return values.cpu().numpy()


def _log_softmax(logits: torch.Tensor) -> torch.Tensor:
    """In float32. torch's own log_softmax adds up a vocabulary less exactly on a CPU: it was off by up to 5e-5."""
    values = logits.float()
    return values - values.logsumexp(dim=-1, keepdim=True)


def _raise_if(cancel: threading.Event) -> None:
    if cancel.is_set():
        raise Cancelled
