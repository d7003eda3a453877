"""On a GPU the transformers engine continues several prompts at a time. Here on a CPU: it makes no difference."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from burnish_services.engine.base import GenerateRequest, Sampling
from tests.tiny_model import ARCHITECTURES, write_tiny_model

pytestmark = pytest.mark.engine


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_prompts_of_different_lengths_are_continued_together_as_alone(architecture: str, tmp_path: Path) -> None:
    from burnish_services.engine.torch_model import TorchModel

    model = TorchModel(write_tiny_model(tmp_path / "m", architecture=architecture, dtype="float32"), "float32")
    requests = [
        GenerateRequest(
            list(range(3, 3 + length)), Sampling(temperature=warm, max_tokens=9, seed=length), logprobs=True
        )
        for length, warm in ((5, 0.0), (40, 1.0), (17, 1.0), (17, 0.7), (90, 1.0))
    ]

    def said(batch_tokens: int) -> list[list[tuple[int, float]]]:
        found: list[list[tuple[int, float]]] = [[] for _ in requests]

        def take(place: int, token: int, logprob: float | None) -> bool:
            assert logprob is not None
            found[place].append((token, logprob))
            return len(found[place]) < 4 + place  # some end before others

        takes = [lambda t, p, place=place: take(place, t, p) for place in range(len(requests))]
        model.batch_tokens = batch_tokens
        assert model.sample(requests, takes, threading.Event()) == set()
        return found

    alone, together = said(0), said(10_000)
    assert [len(one) for one in together] == [4, 5, 6, 7, 8]
    for one, other in zip(alone, together, strict=True):
        assert [token for token, _ in one] == [token for token, _ in other]
        assert [p for _, p in one] == pytest.approx([p for _, p in other], abs=1e-4)
