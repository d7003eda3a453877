"""On a GPU, and with --batch-tokens on a CPU, the transformers engine computes several sequences at a time: in float32
it makes no difference beyond rounding."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from burnish_services.engine.base import GenerateRequest, ModelLoadError, Sampling, ScoreRequest
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


def test_sequences_are_scored_together_as_alone_where_that_is_asked_for(tmp_path: Path) -> None:
    from burnish_services.engine.torch_model import TorchModel

    folder = write_tiny_model(tmp_path / "m", dtype="float32")
    requests = [ScoreRequest(list(range(3, 3 + length)), 2, distribution=True) for length in (5, 40, 17, 17, 90)]
    alone, together = TorchModel(folder), TorchModel(folder, batch_tokens=128)
    assert alone.batch_tokens == 0, "the default on a CPU"
    sizes = [len(batch) for batch in together._batches([len(one.token_ids) for one in requests], threading.Event())]
    assert sizes == [1, 3, 1]
    found = zip(alone.score(requests, threading.Event()), together.score(requests, threading.Event()), strict=True)
    for one, other in found:
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-5)
        assert one.entropies == pytest.approx(other.entropies, abs=1e-5)


def test_what_is_yet_to_be_written_counts_where_prompts_are_continued_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from burnish_services.engine.torch_model import TorchModel

    model = TorchModel(write_tiny_model(tmp_path / "m", dtype="float32", context=64), "float32", batch_tokens=128)
    sizes: list[int] = []

    def sample_together(requests: list[GenerateRequest], *_: object) -> set[int]:
        sizes.append(len(requests))
        return set()

    monkeypatch.setattr(model, "_sample_together", sample_together)
    for max_tokens in (2, 28, 1000):  # 32 sequences of 4 and 4 of 32 tokens fit; no sequence outgrows the context
        requests = [GenerateRequest([3, 4], Sampling(max_tokens=max_tokens))] * 4
        model.sample(requests, [lambda *_: False] * 4, threading.Event())
    assert sizes == [4, 4, 2, 2]


def test_a_row_that_has_ended_is_not_computed_beyond_the_context(tmp_path: Path) -> None:
    """Learned positions have no more places than the context; the shorter rows go on without it."""
    from transformers import GPT2Config, GPT2LMHeadModel

    from burnish_services.engine.torch_model import TorchModel

    config = GPT2Config(vocab_size=64, n_positions=32, n_embd=16, n_layer=1, n_head=2)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    model = TorchModel(tmp_path, "float32")
    model.batch_tokens = 256
    requests = [GenerateRequest(list(range(length)), Sampling(temperature=0.0, max_tokens=12)) for length in (30, 20)]
    said: list[list[int]] = [[], []]

    def take(place: int, token: int) -> bool:
        said[place].append(token)
        return len(said[place]) < (2, 12)[place]

    takes = [lambda token, _, place=place: take(place, token) for place in range(2)]
    assert model.sample(requests, takes, threading.Event()) == set()
    assert [len(one) for one in said] == [2, 12]


def test_files_that_lack_tensors_are_refused(tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    from burnish_services.engine.torch_model import TorchModel

    folder = write_tiny_model(tmp_path / "m", dtype="float32")
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelLoadError, match=r"lack 1 of the tensors that \w+ has, such as model\.norm\.weight"):
        TorchModel(folder, "float32")
