"""Packing and logits made in parts, on tiny real models: the same losses and gradients as the plain way."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from burnish_services.engine.chat import tokenize_sample
from burnish_services.engine.hf_tokenizer import HfTokenizer
from burnish_services.engine.tokenizer import ChatMessage
from burnish_services.training.data import TrainingSample
from tests.service.training_support import sample

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.light]


@pytest.fixture(scope="module")
def samples(base: Path) -> list[TrainingSample]:
    """Of different lengths; the third has two turns to learn from."""
    tokenizer = HfTokenizer(base)
    rows = [sample(1), sample(22, "Short."), sample(333, "It goes on and on and on, for longer than all others.")]
    rows[2]["messages"] += [{"role": "user", "content": "More?"}, {"role": "assistant", "content": "No more."}]
    turns = [[ChatMessage(**turn) for turn in row["messages"]] for row in rows]
    return [TrainingSample(row["id"], tokenize_sample(tokenizer, t)) for row, t in zip(rows, turns, strict=True)]


def measure(model: Any, samples: Sequence[TrainingSample], *, packing: bool) -> tuple[Any, Any, Any]:
    """Losses of the samples' response tokens, whose they are, and the gradient of all weights for their sum."""
    import torch

    from burnish_services.training.loss import ResponseLoss, collate

    model.zero_grad()
    losses, owners = ResponseLoss(model).nll(collate(samples, packing=packing))
    losses.sum().backward()
    gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    return losses.detach(), owners, gradient


def load(base: Path, attention: str = "sdpa") -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation=attention)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_packed_samples_see_only_themselves(base: Path, samples: list[TrainingSample], attention: str) -> None:
    import torch

    model = load(base, attention)
    padded, packed = (measure(model, samples, packing=packing) for packing in (False, True))
    assert padded[1].tolist() == packed[1].tolist()
    assert len(padded[0]) == sum(one.tokens.num_response_tokens for one in samples)
    torch.testing.assert_close(packed[0], padded[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(packed[2], padded[2], atol=1e-4, rtol=1e-4)
    alone = torch.cat([measure(model, [one], packing=True)[0] for one in samples])
    torch.testing.assert_close(packed[0], alone, atol=1e-5, rtol=1e-5)


def test_logits_made_in_parts_are_never_there_at_once(
    base: Path, samples: list[TrainingSample], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from burnish_services.training import loss as module

    model = load(base)
    whole = measure(model, samples, packing=True)
    largest: list[int] = []
    model.get_output_embeddings().register_forward_hook(lambda *given: largest.append(given[2].numel()))
    vocabulary = model.config.vocab_size
    monkeypatch.setattr(module, "MAX_LOGITS_BYTES", 4 * vocabulary * 5)  # of five tokens
    parts = measure(model, samples, packing=True)
    torch.testing.assert_close(parts[0], whole[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(parts[2], whole[2], atol=1e-4, rtol=1e-4)
    hidden = model.config.hidden_size * len(whole[0])
    assert max(largest) <= max(5 * vocabulary, hidden)
    assert len(largest) > 2 * (len(whole[0]) // 5), "once forward and once again backward"


def test_where_weights_are_shared_out_a_batch_is_one_pass_whatever_its_size(
    base: Path, samples: list[TrainingSample], monkeypatch: pytest.MonkeyPatch
) -> None:
    from burnish_services.training import loss as module

    model = load(base)
    calls: list[int] = []
    model.get_output_embeddings().register_forward_hook(lambda *given: calls.append(1))
    monkeypatch.setattr(module, "MAX_LOGITS_BYTES", 1)
    module.ResponseLoss(model, in_parts=False).nll(module.collate(samples))
    assert len(calls) == 1, "another process, with smaller samples, would wait for the others for ever"


def test_a_model_that_does_something_to_its_logits_makes_them_whole(
    base: Path, samples: list[TrainingSample], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from burnish_services.training import loss as module

    model = load(base)
    plain = type(model).forward

    def capped(self: Any, *given: Any, **named: Any) -> Any:
        output = plain(self, *given, **named)
        output.logits = 3 * torch.tanh(output.logits / 3)
        return output

    monkeypatch.setattr(type(model), "forward", capped)
    whole = measure(model, samples, packing=False)
    monkeypatch.setattr(module, "MAX_LOGITS_BYTES", 1)
    torch.testing.assert_close(measure(model, samples, packing=False)[0], whole[0], atol=1e-6, rtol=1e-6)


def test_mixed_precision_too_never_has_all_logits_at_once(
    base: Path, samples: list[TrainingSample], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from accelerate.utils import convert_outputs_to_fp32

    from burnish_services.training import loss as module

    model = load(base)
    # As accelerate has it: the model's forward pass under autocast, and float32 of what comes out.
    rounded = torch.autocast("cpu", torch.bfloat16)
    model.forward = convert_outputs_to_fp32(rounded(model.forward))
    monkeypatch.setattr(module, "MAX_LOGITS_BYTES", 4 * model.config.vocab_size * 5)  # of five tokens
    largest: list[int] = []
    model.get_output_embeddings().register_forward_hook(lambda *given: largest.append(given[2].numel()))
    with torch.autocast("cpu", torch.bfloat16):
        losses, _, gradient = measure(model, samples, packing=True)
    assert max(largest) <= max(5 * model.config.vocab_size, model.config.hidden_size * len(losses))
    exact = measure(load(base), samples, packing=True)
    assert losses.dtype is torch.float32
    torch.testing.assert_close(losses, exact[0], atol=0.05, rtol=0.01)
    assert (gradient - exact[2]).norm() < 0.05 * exact[2].norm()
