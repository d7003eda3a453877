"""The loss: negative log-likelihood of response tokens, with logits computed at their positions only.

Owns batches (padding, labels) and the sums over them; not which tokens are response tokens (`engine/chat.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name

from burnish_services.training.data import TrainingSample

IGNORED = -100  # label of tokens without a loss, as everywhere in Hugging Face


def collate(samples: Sequence[TrainingSample]) -> dict[str, torch.Tensor]:
    """`input_ids` and `labels` of shape (samples, longest), padded on the right; labels are the tokens themselves at
    response tokens and IGNORED elsewhere.

    No attention mask: attention is causal, so no real token sees the padding behind it.
    """
    longest = max(len(sample.tokens.ids) for sample in samples)
    ids = torch.zeros(len(samples), longest, dtype=torch.long)
    labels = torch.full_like(ids, IGNORED)
    for row, sample in enumerate(samples):
        tokens = torch.tensor(sample.tokens.ids)
        ids[row, : len(tokens)] = tokens
        for turn in sample.tokens.turns:
            labels[row, turn.start : turn.end] = tokens[turn.start : turn.end]
    return {"input_ids": ids, "labels": labels}


class ResponseLogits:
    """Has a causal language model compute logits only where they are wanted.

    With small models the head is a third of the work, and most of its output would be thrown away. The hidden states
    are picked out just before the head, so whatever a model does to its logits afterwards still happens.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._positions: torch.Tensor | None = None
        model.get_output_embeddings().register_forward_pre_hook(self._pick)

    def nll(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Negative log-likelihood in nats, float32, of every response token of the batch in reading order, and the
        row that each stands in."""
        # The token at t is predicted at t - 1.
        rows, columns = (batch["labels"][:, 1:] != IGNORED).nonzero(as_tuple=True)
        targets = batch["labels"][rows, columns + 1]
        with self._at(rows * batch["labels"].shape[1] + columns):
            logits = self._model(input_ids=batch["input_ids"], use_cache=False).logits
        if logits.shape[:2] != (1, len(targets)):
            raise RuntimeError(f"{type(self._model).__name__} does not make its logits by its output embeddings alone")
        return F.cross_entropy(logits[0].float(), targets, reduction="none"), rows

    @contextmanager
    def _at(self, positions: torch.Tensor) -> Iterator[None]:
        self._positions = positions
        try:
            yield
        finally:
            self._positions = None

    def _pick(self, module: torch.nn.Module, arguments: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...] | None:
        if self._positions is None:
            return None
        hidden, *others = arguments
        return (hidden.flatten(0, 1).index_select(0, self._positions)[None], *others)


def sample_means(losses: torch.Tensor, rows: torch.Tensor, num_rows: int) -> torch.Tensor:
    """(num_rows,): the mean loss of each row's tokens, from what `ResponseLogits.nll` returns."""
    sums = torch.zeros(num_rows, device=losses.device).index_add(0, rows, losses)
    return sums / torch.bincount(rows, minlength=num_rows)


@torch.no_grad()
def mean_nll(logits: ResponseLogits, samples: Sequence[TrainingSample], batch_size: int, device: torch.device) -> float:
    """Mean over all response tokens of the samples, in nats."""
    ordered = sorted(samples, key=lambda sample: -len(sample.tokens.ids))
    total, count = 0.0, 0
    for start in range(0, len(ordered), batch_size):
        batch = {key: value.to(device) for key, value in collate(ordered[start : start + batch_size]).items()}
        losses, _ = logits.nll(batch)
        total += losses.double().sum().item()
        count += len(losses)
    return total / count
