"""Natural-language inference: does one text contradict another? A pair classifier on transformers.

Pairs are encoded as pairs by the model's own tokenizer, the longer text cut first where both do not fit, and computed
in batches of similar length. Checkpoints differ in which class means contradiction; their configuration says it.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from burnish_services.engine.base import ModelLoadError
from burnish_services.engine.model_digests import model_digest
from burnish_services.engine.untrusted import NO_CODE, SAFE_WEIGHTS, cannot_load, whole
from burnish_services.runtime.threads import while_wanted

_MAX_TOKENS = 512


class Contradictions(Protocol):
    """Judges pairs of texts."""

    @property
    def digest(self) -> str:
        """Of its weights, "sha256:" and 64 hexadecimal digits."""

    async def contradictions(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """p(contradiction) of each (premise, hypothesis), in [0, 1]."""


class NliModel:
    """Implements `Contradictions`; one thread computes."""

    def __init__(self, directory: Path, batch_size: int) -> None:
        """Loads the model. Raises ModelLoadError where there is none, or none with a class for contradiction."""
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(str(directory), **NO_CODE)
            loaded: Any = AutoModelForSequenceClassification.from_pretrained(
                str(directory), output_loading_info=True, **SAFE_WEIGHTS
            )
        except Exception as error:  # transformers raises anything here, from KeyError to OSError
            raise cannot_load("the NLI model", directory, error) from error
        self._model: Any = whole(loaded, directory)
        self._digest = model_digest(directory)
        self._class = contradiction_class(self._model.config.id2label)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._model.to(self._device).eval()
        self._batch_size = batch_size
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="nli")

    @property
    def digest(self) -> str:
        """See `Contradictions`."""
        return self._digest

    async def contradictions(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """See `Contradictions`."""
        return await while_wanted(self._executor, lambda unwanted: self._compute(pairs, unwanted))

    def close(self) -> None:
        """Ends the thread once its work is done."""
        self._executor.shutdown(cancel_futures=True)

    @torch.inference_mode()
    def _compute(self, pairs: Sequence[tuple[str, str]], unwanted: threading.Event) -> list[float]:
        order = sorted(range(len(pairs)), key=lambda index: sum(map(len, pairs[index])))
        found = [0.0] * len(pairs)
        limit = min(_MAX_TOKENS, int(self._tokenizer.model_max_length))
        for start in range(0, len(order), self._batch_size):
            if unwanted.is_set():
                break
            part = order[start : start + self._batch_size]
            inputs = self._tokenizer(
                [pairs[index][0] for index in part],
                [pairs[index][1] for index in part],
                padding=True,
                truncation="longest_first",
                max_length=limit,
                return_tensors="pt",
            ).to(self._device)
            probabilities = self._model(**inputs).logits.float().softmax(dim=-1)[:, self._class].tolist()
            for index, probability in zip(part, probabilities, strict=True):
                found[index] = probability
        return found


def contradiction_class(labels: dict[int, str]) -> int:
    """The number of the class that is called contradiction, whatever its case. Raises ModelLoadError."""
    found = [number for number, label in labels.items() if "contradict" in str(label).lower()]
    if len(found) != 1:
        raise ModelLoadError(
            f"the NLI model's classes are {list(labels.values())}; expected exactly one named like `contradiction`"
        )
    return int(found[0])
