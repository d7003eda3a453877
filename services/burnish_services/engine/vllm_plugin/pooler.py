"""From hidden states to what each request asked for: the pooler of the scoring models.

vLLM calls it after every step with the hidden states of all requests in the batch, of which each may be a whole prompt
or a part of one. Positions are scored as they come and only numbers are kept between steps, never hidden states: the
row of position p predicts token p + 1, and the prompt's tokens are known from the start. All scored rows of a step go
through the head together, however many requests they belong to.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from vllm.model_executor.layers.pooler import Pooler, PoolingParamsUpdate
from vllm.v1.outputs import PoolerOutput
from vllm.v1.pool.metadata import PoolingMetadata

from burnish_services.engine.base import ActivationPooling
from burnish_services.engine.neurons import NeuronRecorder, pooled
from burnish_services.engine.vllm_plugin import TASK, head
from burnish_services.engine.vllm_plugin.asked import MISSING, Asked

logger = logging.getLogger(__name__)

# Rows on which the head alone is compared with the model's own logits, and how far apart log-probabilities may be, in
# nats: in 16 bits, logits of the size of 20 are rounded to 0.06.
_PROBE = 8
_AGREEMENT, _AGREEMENT_16_BITS = 1e-3, 0.2


@dataclass(slots=True)
class _Part:
    """The tokens of one request in this step: positions [start, end) of its prompt, rows from `row` on."""

    asked: Asked
    result: torch.Tensor  # filled in place, step by step
    ids: torch.Tensor
    start: int
    end: int
    row: int

    def rows(self, spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        """The rows of this step at the positions in `spans`, as ranges."""
        shift = self.row - self.start
        inside = [(max(first, self.start), min(last, self.end)) for first, last in spans]
        return [(first + shift, last + shift) for first, last in inside if first < last]


@dataclass(slots=True)
class _Scored:
    """Rows to put through the head, their targets, and where in which result the numbers belong."""

    rows: list[torch.Tensor] = field(default_factory=list)
    targets: list[torch.Tensor] = field(default_factory=list)
    places: list[tuple[_Part, int, int]] = field(default_factory=list)

    def add(self, part: _Part) -> None:
        first = part.asked.first_scored
        if first is None:
            return
        begin, end = max(part.start + 1, first), min(part.end + 1, len(part.ids))  # tokens that rows here predict
        if begin >= end:
            return
        self.rows.append(torch.arange(begin - 1 - part.start, end - 1 - part.start) + part.row)
        self.targets.append(part.ids[begin:end])
        self.places.append((part, begin - first, end - begin))


class ScoringPooler(Pooler):
    """Holds no weights. `logits_of` is the model's own way from hidden states to logits, `head_of` gives its head where
    that is a plain matrix. Whether the head alone makes the model's logits is found out on the first rows. `recorder`
    keeps what the neurons did in the step that this is called after, where requests ask for that. `compiled`: the
    engine compiles what it can."""

    def __init__(
        self,
        logits_of: head.Logits,
        vocab_size: int,
        head_of: Callable[[], head.Head | None],
        recorder: NeuronRecorder | None = None,
        *,
        compiled: bool,
    ) -> None:
        super().__init__()
        self.recorder = recorder
        self._num_neurons = math.prod(recorder.shape) if recorder is not None and recorder.shape else 0
        self._logits_of = logits_of
        self._vocab_size = vocab_size
        self._head_of = head_of
        self._is_plain: bool | None = None
        self._compiled = compiled
        self._is_warm = False

    def get_supported_tasks(self) -> Set[Any]:
        """See vLLM's Pooler."""
        return {TASK}

    def get_pooling_updates(self, task: Any) -> PoolingParamsUpdate:
        """See vLLM's Pooler."""
        return PoolingParamsUpdate(requires_token_ids=True)

    def forward(self, hidden_states: torch.Tensor, pooling_metadata: PoolingMetadata) -> PoolerOutput:
        """One float32 tensor per request, laid out as `Asked` says; None for a prompt that goes on next step."""
        self._warm_up(hidden_states)
        parts = self._parts(pooling_metadata, hidden_states)
        plain, full = _Scored(), _Scored()
        for part in parts:
            (full if part.asked.distribution else plain).add(part)
        self._fill(plain, hidden_states, distribution=False)
        self._fill(full, hidden_states, distribution=True)
        self._rank(parts, hidden_states)
        for part in parts:
            self._add_mean_hidden(part, hidden_states)
        self._add_activations(parts, hidden_states.shape[1])
        finished = pooling_metadata.get_pooling_cursor().get_finished_mask()
        for state, done in zip(pooling_metadata.pooling_states, finished, strict=True):
            if done:
                state.clean()
        return [part.result if done else None for part, done in zip(parts, finished, strict=True)]

    def _warm_up(self, hidden: torch.Tensor) -> None:
        """In the first step, which is the engine's own trial: has the head compiled before anybody waits for it, and on
        a GPU takes the memory that it will need, so that the engine does not give that to its cache."""
        if self._is_warm or len(hidden) < 2:  # one row alone is not compiled
            return
        self._is_warm = True
        plain = self._plain()
        if plain is None or (hidden.device.type == "cpu" and not self._compiled):
            return
        rows = hidden[: head.MOST_ROWS]
        targets = torch.zeros(len(rows), dtype=torch.long, device=rows.device)
        try:
            head.score(plain, rows, targets)
        except torch._dynamo.exc.TorchDynamoException as error:
            self._compiled = False
            logger.warning("the head is not compiled, which costs speed only: %s", error)
        if hidden.device.type != "cpu":
            head.score(plain, rows, targets, distribution=True)

    def _plain(self) -> head.Head | None:
        plain = self._head_of() if self._is_plain is not False else None
        return plain if plain is None else replace(plain, compiled=self._compiled)

    def _score(self, hidden: torch.Tensor, targets: torch.Tensor, *, distribution: bool) -> torch.Tensor:
        plain = self._plain()
        if plain is not None and self._is_plain is None:
            few = hidden[:_PROBE], targets[:_PROBE]
            own = head.score_by_logits(self._logits_of, self._vocab_size, *few)
            ours = head.score(plain, *few)
            apart = _AGREEMENT if hidden.dtype == torch.float32 else _AGREEMENT_16_BITS
            self._is_plain = torch.allclose(ours, own, rtol=0.01, atol=apart, equal_nan=True)
        if plain is not None and self._is_plain:
            return head.score(plain, hidden, targets, distribution=distribution)
        return head.score_by_logits(self._logits_of, self._vocab_size, hidden, targets, distribution=distribution)

    def _fill(self, scored: _Scored, hidden_states: torch.Tensor, *, distribution: bool) -> None:
        if not scored.places:
            return
        rows, targets = (
            torch.cat(some).to(hidden_states.device, non_blocking=True) for some in (scored.rows, scored.targets)
        )
        hidden = hidden_states.index_select(0, rows)
        columns = self._score(hidden, targets, distribution=distribution).unbind(dim=1)
        done = 0
        for part, at, count in scored.places:
            stride = part.asked.num_scored(len(part.ids))
            for index, column in enumerate(columns):
                part.result[at + index * stride : at + index * stride + count] = column[done : done + count]
            done += count

    def _rank(self, parts: list[_Part], hidden_states: torch.Tensor) -> None:
        due = [part for part in parts if part.asked.candidates and part.end == len(part.ids)]
        size = head.rows_held(hidden_states, self._vocab_size)
        for some in (due[first : first + size] for first in range(0, len(due), size)):
            last = torch.tensor([part.row + part.end - part.start - 1 for part in some], device=hidden_states.device)
            logits = self._logits_of(hidden_states.index_select(0, last)).float()
            for part, row, total in zip(some, logits, logits.logsumexp(dim=1), strict=True):
                at = self._offset(part, 3, hidden_states.shape[1])
                chosen = torch.tensor(part.asked.candidates, device=row.device)
                part.result[at : at + len(chosen)] = row[chosen] - total

    def _add_mean_hidden(self, part: _Part, hidden_states: torch.Tensor) -> None:
        spans = part.asked.mean_hidden
        if not spans:
            return
        at = self._offset(part, 4, hidden_states.shape[1])
        count = _length(spans)
        for first, last in part.rows(spans):
            part.result[at : at + hidden_states.shape[1]] += hidden_states[first:last].float().sum(dim=0) / count

    def _add_activations(self, parts: list[_Part], hidden_size: int) -> None:
        asking = [(part, rows) for part in parts if (rows := part.rows(part.asked.activations))]
        if not asking:
            return
        layers = None if self.recorder is None else self.recorder.take()
        for part, rows in asking:
            kept = part.result[self._offset(part, 5, hidden_size) :]
            if layers is None:  # nobody waits any more: recording ended with the request
                kept.fill_(math.nan)
                continue
            pooling = ActivationPooling(part.asked.pooling)
            new = torch.cat([pooled(inputs, rows, pooling) for inputs in layers])
            if pooling is ActivationPooling.MEAN:
                kept += new / _length(part.asked.activations)
            else:
                torch.maximum(kept, new, out=kept)

    def _offset(self, part: _Part, before: int, hidden_size: int) -> int:
        """Where in the result the part after the first `before` ones begins."""
        return sum(part.asked.sizes(len(part.ids), hidden_size, self._num_neurons)[:before])

    def _parts(self, metadata: PoolingMetadata, hidden_states: torch.Tensor) -> list[_Part]:
        cursor = metadata.get_pooling_cursor()
        counts, ends = cursor.num_scheduled_tokens_cpu.tolist(), cursor.seq_lens_cpu.tolist()
        parts, row = [], 0
        for params, ids, state, count, end in zip(
            metadata.pooling_params,
            metadata.get_prompt_token_ids_cpu(),
            metadata.pooling_states,
            counts,
            ends,
            strict=True,
        ):
            asked = Asked.from_extra(params.extra_kwargs)
            # What vLLM keeps for a request between steps; here it holds the unfinished result.
            kept = state.hidden_states_cache
            if not kept:
                kept.append(self._empty(asked, len(ids), hidden_states))
            parts.append(_Part(asked, kept[0], ids, end - count, end, row))
            row += count
        return parts

    def _empty(self, asked: Asked, num_tokens: int, hidden_states: torch.Tensor) -> torch.Tensor:
        *scores, hidden, neurons = asked.sizes(num_tokens, hidden_states.shape[1], self._num_neurons)
        least = -math.inf if asked.pooling == ActivationPooling.MAX_SIGNED else 0.0
        filled = [(sum(scores), MISSING), (hidden, 0.0), (neurons, least)]
        return torch.cat([torch.full((size,), value, device=hidden_states.device) for size, value in filled])


def _length(spans: Sequence[tuple[int, int]]) -> int:
    return sum(end - start for start, end in spans)
