"""A causal language model on torch: scores, embeddings and sampling, one plain function each.

The readable reference that golden values come from. Blocking; `transformers_engine.py` calls it in a thread. On a CPU
every sequence is computed alone, so that no number depends on what else is asked and a run can be repeated byte for
byte; on a GPU sequences of similar length are computed together.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
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
from burnish_services.engine.model_config import model_context
from burnish_services.engine.neurons import NeuronRecorder, pooled
from burnish_services.engine.number_formats import format_to_compute_in
from burnish_services.engine.sampling import choose_token, new_generator
from burnish_services.engine.untrusted import SAFE_WEIGHTS, cannot_load, whole

_GPU_BATCH_TOKENS = 16_384
_HEAD_ROWS = 512  # positions whose logits are held at a time: rows × vocabulary float32
# Is given a token and its log-probability in nats, where that is asked for; says whether more are wanted.
Take = Callable[[int, float | None], bool]
_PROBE = (1, 2, 3, 5, 8, 13, 21)


class Cancelled(RuntimeError):
    """The caller no longer wants the result."""


class TorchModel:
    """One set of weights on the best device of this machine."""

    def __init__(self, directory: Path, dtype: str = "auto", batch_tokens: int | None = None) -> None:
        """Loads the weights. `batch_tokens`: as in EngineSettings. Raises ModelLoadError."""
        dtype = format_to_compute_in(dtype)
        try:
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                str(directory),
                dtype=dtype if dtype == "auto" else getattr(torch, dtype),
                attn_implementation="sdpa",
                output_loading_info=True,
                **SAFE_WEIGHTS,
            )
        except Exception as error:  # transformers raises anything here, from KeyError to OSError
            raise cannot_load("the weights", directory, error) from error
        self._model: Any = whole(loaded, directory)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._model.to(self.device).eval()
        self.dtype = str(self._model.dtype).removeprefix("torch.")
        # 0: every sequence alone. Scores then do not depend to the last bit on what else was asked for, and a run that
        # was killed ends with the same data. On a CPU that costs half of the speed (docs/engines.md).
        self.batch_tokens = (
            (0 if self.device.type == "cpu" else _GPU_BATCH_TOKENS) if batch_tokens is None else batch_tokens
        )
        config = self._model.config.get_text_config(decoder=True)
        self.vocab_size = int(config.vocab_size)
        self.context = model_context(config)
        self._softcap = getattr(config, "final_logit_softcapping", None)
        self._recorder = NeuronRecorder(self._model)
        self.neurons = self._recorder.shape
        self._check_logits(directory)

    @torch.inference_mode()
    def score(self, requests: Sequence[ScoreRequest], cancel: threading.Event) -> list[TokenScores]:
        """What `ScoreRequest` asks for, of each."""
        results: dict[int, TokenScores] = {}
        for batch in self._batches([len(request.token_ids) for request in requests], cancel):
            asked = [requests[index] for index in batch]
            hidden, layers = self._pass(asked)
            for row, (index, scores) in enumerate(zip(batch, self._scores(asked, hidden), strict=True)):
                wanted = asked[row].activations
                neurons = _activations([inputs[row] for inputs in layers], wanted) if wanted else None
                results[index] = replace(scores, activations=neurons)
        return [results[index] for index in range(len(requests))]

    @torch.inference_mode()
    def rank(self, requests: Sequence[RankRequest], cancel: threading.Event) -> list[NDArray[np.float32]]:
        """For each prompt: log p of its candidates as the next token."""
        results: dict[int, NDArray[np.float32]] = {}
        for batch in self._batches([len(request.token_ids) for request in requests], cancel):
            sequences = [requests[index].token_ids for index in batch]
            hidden = self._hidden(sequences)
            last = torch.stack([hidden[row, len(ids) - 1] for row, ids in enumerate(sequences)])
            for part, rows in zip(_parts(batch), last.split(_HEAD_ROWS), strict=True):
                logprobs = _log_softmax(self._logits(rows)).cpu()
                for row, index in enumerate(part):
                    results[index] = logprobs[row, list(requests[index].candidates)].numpy()
        return [results[index] for index in range(len(requests))]

    @torch.inference_mode()
    def embed(self, sequences: Sequence[Sequence[int]], cancel: threading.Event) -> list[NDArray[np.float32]]:
        """For each sequence: the mean over its tokens of the last hidden state, after the final norm."""
        results: dict[int, NDArray[np.float32]] = {}
        for batch in self._batches([len(ids) for ids in sequences], cancel):
            hidden = self._hidden([sequences[index] for index in batch])
            for row, index in enumerate(batch):
                mean = hidden[row, : len(sequences[index])].float().mean(dim=0)
                results[index] = mean.cpu().numpy()
        return [results[index] for index in range(len(sequences))]

    def sample(self, requests: Sequence[GenerateRequest], takes: Sequence[Take], cancel: threading.Event) -> set[int]:
        """Continues each prompt, a token at a time, for as long as its `take` wants more; returns the places of those
        whose logits were not finite, which ended there."""
        broken: set[int] = set()
        # The keys and values of what is yet to come take as much memory as the prompts'.
        lengths = [min(len(one.token_ids) + one.sampling.max_tokens, self.context) for one in requests]
        for batch in self._batches(lengths, cancel):
            found = self._sample_together(
                [requests[index] for index in batch], [takes[index] for index in batch], cancel
            )
            broken |= {batch[row] for row in found}
        return broken

    @torch.inference_mode()
    def _sample_together(
        self, requests: Sequence[GenerateRequest], takes: Sequence[Take], cancel: threading.Event
    ) -> set[int]:
        longest = max(len(request.token_ids) for request in requests)
        padding = [longest - len(request.token_ids) for request in requests]
        padded = [[0] * before + list(one.token_ids) for before, one in zip(padding, requests, strict=True)]
        step = torch.tensor(padded, device=self.device)
        # Padding stands on the left, where nothing must see it; without any, a mask would only cost time.
        mask = (torch.arange(longest, device=self.device) >= torch.tensor(padding, device=self.device)[:, None]).long()
        places: dict[str, torch.Tensor] = {}
        generators = [new_generator(request.sampling.seed) for request in requests]
        seen = [list(request.token_ids) for request in requests]
        going, broken, cache = set(range(len(requests))), set[int](), None
        while going:
            _raise_if(cancel)
            if any(padding):
                # Rows that have ended are computed along, and may have no place left.
                positions = (mask.cumsum(-1) - 1).clamp(min=0, max=self.context - 1)[:, -step.shape[1] :]
                places = {"attention_mask": mask, "position_ids": positions}
            output = self._model(input_ids=step, past_key_values=cache, use_cache=True, logits_to_keep=1, **places)
            cache = output.past_key_values
            logits = output.logits[:, -1].float().cpu()
            chosen = [0] * len(requests)
            for row in sorted(going):
                if (logits[row].isnan() | logits[row].isposinf()).any():
                    broken.add(row)
                    going.remove(row)
                    continue
                asked = requests[row]
                chosen[row] = choose_token(logits[row], seen[row], asked.sampling, generators[row])
                seen[row].append(chosen[row])
                logprob = float(_log_softmax(logits[row])[chosen[row]]) if asked.logprobs else None
                if not takes[row](chosen[row], logprob):
                    going.remove(row)
            step = torch.tensor(chosen, device=self.device)[:, None]
            mask = torch.cat([mask, mask.new_ones(len(requests), 1)], dim=1)
        return broken

    def _batches(self, lengths: Sequence[int], cancel: threading.Event) -> Iterator[list[int]]:
        """Indices of sequences to compute together, by their lengths: longest first, so that too little memory shows at
        once."""
        limit = self.batch_tokens
        batch: list[int] = []
        for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
            if batch and (len(batch) + 1) * lengths[batch[0]] > limit:
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

    def _scores(self, requests: Sequence[ScoreRequest], hidden: torch.Tensor) -> list[TokenScores]:
        """Of sequences that were read together. Their positions go through the head together, too: its weights, which
        are the most of a small model, are read once for all of them."""
        # The hidden state one position before a token predicts it.
        scored = [hidden[row, one.first_scored - 1 : len(one.token_ids) - 1] for row, one in enumerate(requests)]
        wanted = [token for one in requests for token in one.token_ids[one.first_scored :]]
        targets = torch.tensor(wanted, dtype=torch.int64, device=self.device)
        distribution = any(one.distribution for one in requests)
        parts: tuple[list[torch.Tensor], ...] = ([], [], [])
        for rows, expected in zip(torch.cat(scored).split(_HEAD_ROWS), targets.split(_HEAD_ROWS), strict=True):
            logprobs = _log_softmax(self._logits(rows))
            parts[0].append(logprobs.gather(1, expected[:, None])[:, 0])
            if distribution:
                probabilities = logprobs.exp()
                parts[1].append(torch.special.entr(probabilities).sum(dim=1))
                likeliest, second = probabilities.topk(2, dim=1).values.unbind(dim=1)
                parts[2].append(likeliest - second)
        logprobs, entropies, margins = (torch.cat(part).cpu().numpy() if part else None for part in parts)
        assert logprobs is not None
        found, start = [], 0
        for row, one in enumerate(requests):
            own = slice(start, start := start + len(scored[row]))
            scores = TokenScores(logprobs[own], mean_hidden=_mean_hidden(one, hidden[row]))
            if one.distribution and entropies is not None and margins is not None:
                scores = replace(scores, entropies=entropies[own], margins=margins[own])
            found.append(scores)
        return found

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


def _parts(batch: Sequence[int]) -> Iterator[Sequence[int]]:
    return (batch[at : at + _HEAD_ROWS] for at in range(0, len(batch), _HEAD_ROWS))


def _mean_hidden(request: ScoreRequest, hidden: torch.Tensor) -> NDArray[np.float32] | None:
    if not request.mean_hidden:
        return None
    mean: NDArray[np.float32] = (
        torch.cat([hidden[slice(*span)] for span in request.mean_hidden]).float().mean(dim=0).cpu().numpy()
    )
    return mean


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
