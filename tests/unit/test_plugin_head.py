"""The plugin's head: log-probabilities block by block are those of the whole vocabulary."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace

import pytest
import torch

from burnish_services.engine.vllm_plugin import head
from burnish_services.engine.vllm_plugin.head import Head, score, score_by_logits

ROWS, HIDDEN, VOCABULARY = 37, 24, 1000


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that rows and vocabulary come in several pieces, the last ones smaller."""
    monkeypatch.setattr(head, "MOST_ROWS", 16)
    monkeypatch.setattr(head, "_BLOCK", 64)
    monkeypatch.setitem(head.LOGITS_HELD, "cpu", 16 * 64 * 3)


def inputs(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(ROWS, HIDDEN, generator=generator)
    weight = torch.randn(VOCABULARY, HIDDEN, generator=generator)
    return hidden.to(dtype), weight.to(dtype), torch.randint(VOCABULARY, (ROWS,), generator=generator)


def expected(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """By definition, in float64."""
    logprobs = logits.double().log_softmax(dim=1)
    probabilities = logprobs.exp()
    entropy = torch.special.entr(probabilities).sum(dim=1)
    first, second = probabilities.topk(2, dim=1).values.unbind(dim=1)
    return torch.stack([logprobs[range(len(targets)), targets], entropy, first - second], dim=1).float()


@pytest.mark.parametrize("variant", ["plain", "bias", "scaled", "capped"])
def test_blocks_add_up_to_the_whole(variant: str) -> None:
    hidden, weight, targets = inputs()
    bias = torch.linspace(-2, 2, VOCABULARY) if variant == "bias" else None
    plain = Head(weight, bias, 0.25 if variant == "scaled" else 1.0, 5.0 if variant == "capped" else None)
    logits = torch.nn.functional.linear(hidden, weight, bias)
    logits = torch.tanh(logits / 5) * 5 if variant == "capped" else logits * plain.scale
    wanted = expected(logits, targets)
    torch.testing.assert_close(score(plain, hidden, targets), wanted[:, :1], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(score(plain, hidden, targets, distribution=True), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch compiles for a CPU with g++")
def test_a_compiled_reduction_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, weight, targets = inputs(torch.bfloat16)
    compiled, blocks = head._compiled_sum(), []

    def counted(products: torch.Tensor, exact: torch.Tensor, scale: float) -> torch.Tensor:
        blocks.append(products.shape)
        return compiled(products, exact, scale)

    monkeypatch.setattr(head, "_compiled_sum", lambda: counted)
    for scale in (1.0, 0.25):
        plain = Head(weight, scale=scale)
        found = score(replace(plain, compiled=True), hidden, targets)
        torch.testing.assert_close(found, score(plain, hidden, targets), rtol=1e-5, atol=1e-5)
    assert len(blocks) > 2 * 3, "compiled, for both scales and all three parts of the rows, in more than one block"
    one = score(Head(weight, compiled=True), hidden[:1], targets[:1])
    torch.testing.assert_close(one, score(Head(weight), hidden[:1], targets[:1]))


def test_a_head_that_only_gives_logits_gives_the_same() -> None:
    hidden, weight, targets = inputs()
    wanted, asked = expected(hidden @ weight.T, targets), []

    def logits_of(rows: torch.Tensor) -> torch.Tensor:
        asked.append(len(rows))
        return rows @ weight.T

    torch.testing.assert_close(
        score_by_logits(logits_of, VOCABULARY, hidden, targets), wanted[:, :1], rtol=1e-5, atol=1e-5
    )
    found = score_by_logits(logits_of, VOCABULARY, hidden, targets, distribution=True)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    assert max(asked) * VOCABULARY <= head.LOGITS_HELD["cpu"], "never more logits than may be held"
    assert sum(asked) == 2 * ROWS


def test_numbers_beyond_float32_s_exponentials_stay_finite() -> None:
    hidden, weight, targets = inputs()
    found = score(Head(weight * 100), hidden, targets, distribution=True)
    torch.testing.assert_close(found, expected(hidden @ (weight * 100).T, targets), rtol=1e-4, atol=1e-2)


def test_a_target_too_unlikely_for_one_exponential_is_scored_all_the_same() -> None:
    hidden, weight, _ = inputs()
    logits = hidden @ weight.T * 100
    unlikely = logits.argmin(dim=1)
    found, wanted = score(Head(weight * 100), hidden, unlikely), expected(logits, unlikely)[:, :1]
    assert wanted.max() < -500, "or nothing would overflow"
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-2)


def test_a_nearly_certain_token_keeps_its_digits() -> None:
    """p = 1 / (1 + 3·e^-20): in float32, 1 − p and the log of p are 0; the loss is not."""
    weight = torch.zeros(4, 2)
    weight[2] = torch.tensor([0.0, 20.0])
    found = score(Head(weight), torch.tensor([[0.0, 1.0]]), torch.tensor([2]))
    torch.testing.assert_close(found, torch.tensor([[-3 * math.exp(-20)]]), rtol=1e-5, atol=0.0)


def test_bfloat16_weights_are_reduced_in_float32() -> None:
    hidden, weight, targets = inputs(torch.bfloat16)
    found = score(Head(weight), hidden, targets)
    assert found.dtype == torch.float32
    assert (found - expected(hidden.float() @ weight.float().T, targets)[:, :1]).abs().max() < 0.05


def test_no_rows_no_scores() -> None:
    hidden, weight, targets = inputs()
    assert score(Head(weight), hidden[:0], targets[:0]).shape == (0, 1)
    found = score_by_logits(lambda rows: rows @ weight.T, VOCABULARY, hidden[:0], targets[:0], distribution=True)
    assert found.shape == (0, 3)
