"""Numbers proved: both real engines give what the transformers engine in float32 gave when the golden values were
made, before and after weights are swapped in place; vLLM in bfloat16 keeps within a stated distance.

Golden values are made anew by `python -m tests.golden.make`.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from burnish_services.engine.base import EngineSettings, ScoreRequest, Task, TokenScores
from burnish_services.engine.factory import create_engine
from burnish_services.engine.hf_tokenizer import HfTokenizer
from burnish_services.engine.model_digests import model_digests
from burnish_services.engine.number_formats import has_bfloat16
from burnish_services.engine.tokenizer import ChatMessage
from tests.contract.conftest import Rig
from tests.golden.cases import CONTEXT, GOLDEN, MODEL, conversations, tokenized

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="session")]

# Nats, as (mean of a sample's response tokens, any one token). Noise on the weights makes sharper distributions.
FLOAT32 = {"base": (1e-5, 1e-4), "perturbed": (2e-5, 1e-4)}
# vLLM's own prompt_logprobs, the fallback, adds up a vocabulary less exactly (torch's log_softmax on a CPU).
PROMPT_LOGPROBS = (5e-5, 1e-4)
BFLOAT16 = (0.1, 0.75)
# And of how unlikely a token is: where a CPU has no AMX, products are less exact (1.37 nats off for a token at -6.06).
BFLOAT16_SHARE = 0.15
_FEW = 8  # response tokens; a mean over fewer is hardly surer than one of them, and depends on what is in the batch
VECTOR_TOLERANCE = 2e-3  # of a vector's length
FULL = "full-context"
_SHORT = 60  # tokens; longer sequences take minutes where products in bfloat16 are emulated


@pytest.fixture(scope="session")
def golden() -> dict[str, Any]:
    loaded = json.loads(GOLDEN.read_text())
    weights = model_digests(MODEL.resolve()).weights
    assert weights == loaded["models"]["base"]["weights"], f"{MODEL} is not the model that golden values were made with"
    return loaded


def real(rig: Rig) -> Rig:
    if rig.kind == "fake":
        pytest.skip("the fake engine has no golden values")
    return rig


async def test_a_model_s_own_template_is_told_one_date_whatever_the_day_is(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = HfTokenizer(MODEL)
    monkeypatch.setattr(tokenizer, "_template", "{{ strftime_now('%d %b %Y') }}")
    assert tokenizer.render([ChatMessage("user", "Q")], add_generation_prompt=False) == "26 Jul 2024"


async def test_tokens_and_masks_are_the_golden_ones(golden: dict[str, Any]) -> None:
    tokenizer = HfTokenizer(MODEL)
    samples = tokenized(tokenizer)
    assert samples.keys() == golden["samples"].keys()
    for name, sample in samples.items():
        assert sample.ids == golden["samples"][name]["ids"], name
        turns = [[turn.message_index, turn.start, turn.end] for turn in sample.turns]
        assert turns == golden["samples"][name]["turns"], name


async def test_response_tokens_decode_to_the_answers() -> None:
    tokenizer = HfTokenizer(MODEL)
    for name, messages in conversations().items():
        sample = tokenized(tokenizer)[name]
        answers = [message.content for message in messages if message.role == "assistant"]
        for answer, turn in zip(answers, sample.turns, strict=True):
            text = tokenizer.decode(sample.ids[turn.start : turn.end])
            # A token that begins in the header ("\n" and the content's first blank) counts.
            assert text.lstrip("\n") == answer.lstrip("\n"), name
            assert sample.ids[turn.end - 1] in tokenizer.stop_token_ids, name


def compare(
    golden: dict[str, Any],
    model: str,
    name: str,
    found: np.ndarray,
    tolerances: tuple[float, float],
    share: float = 0.0,
) -> None:
    """Checks one sample's log-probabilities, and says how far they are off; a token's may be off by `share` of its own
    besides."""
    expected = np.array(golden["models"][model]["logprobs"][name], np.float64)
    assert found.shape == expected.shape
    response = np.zeros(len(expected), bool)
    for _, start, end in golden["samples"][name]["turns"]:
        response[start - 1 : end - 1] = True
    distance = abs(found[response].mean(dtype=np.float64) - expected[response].mean())
    furthest = (np.abs(found - expected) - share * np.abs(expected)).max()
    print(f"{model} {name}: mean {distance:.2e}, token {furthest:.2e}")
    assert distance <= tolerances[0], (model, name)
    assert furthest <= tolerances[1], (model, name)


async def test_answers_are_the_golden_ones_before_and_after_swaps(scoring: Rig, golden: dict[str, Any]) -> None:
    rig = real(scoring)
    names = list(golden["samples"])
    assert len(golden["samples"][FULL]["ids"]) == rig.engine.model.max_model_len
    for model, path in (("base", rig.first), ("perturbed", rig.second), ("base", rig.first)):
        assert model_digests(path).weights == golden["models"][model]["weights"]
        async with rig.host.using(rig.named(path)):
            await compare_losses(rig, golden, model, names)
            if rig.engine.task is Task.POOL:
                await compare_vectors(rig, golden, model, names)
        names = [name for name in names if name != FULL]  # once is enough; it is half of all tokens


async def compare_losses(rig: Rig, golden: dict[str, Any], model: str, names: list[str]) -> None:
    results = await rig.engine.score([ScoreRequest(golden["samples"][name]["ids"]) for name in names])
    for name, found in zip(names, results, strict=True):
        assert isinstance(found, TokenScores)
        exact = rig.engine.score_method != "prompt_logprobs"
        compare(golden, model, name, found.logprobs, FLOAT32[model] if exact else PROMPT_LOGPROBS)


async def compare_vectors(rig: Rig, golden: dict[str, Any], model: str, names: list[str]) -> None:
    expected = golden["models"][model]["embeddings"]
    asked = [name for name in expected if name in names]
    results = await rig.engine.embed([golden["samples"][name]["ids"] for name in asked])
    for name, found in zip(asked, results, strict=True):
        assert isinstance(found, np.ndarray)
        wanted = np.array(expected[name])
        assert np.linalg.norm(found - wanted) <= VECTOR_TOLERANCE * np.linalg.norm(wanted), (model, name)


async def test_a_single_token_scores_the_same_alone(scoring: Rig, golden: dict[str, Any]) -> None:
    rig = real(scoring)
    ids = golden["samples"]["one-word"]["ids"]
    async with rig.host.using(rig.named(rig.first)):
        (found,) = await rig.engine.score([ScoreRequest(ids, len(ids) - 1)])
    assert isinstance(found, TokenScores)
    assert abs(found.logprobs[0] - golden["models"]["base"]["logprobs"]["one-word"][-1]) <= FLOAT32["base"][1]


async def test_vllm_in_bfloat16_keeps_within_the_stated_distance(golden: dict[str, Any]) -> None:
    engine = create_engine("vllm", EngineSettings(str(MODEL), Task.POOL, dtype="bfloat16", max_model_len=CONTEXT))
    samples = {n: s["ids"] for n, s in golden["samples"].items() if has_bfloat16() or len(s["ids"]) <= _SHORT}
    assert len(samples) > 3
    await engine.start()
    try:
        results = await engine.score([ScoreRequest(ids) for ids in samples.values()])
    finally:
        await engine.close()
    for name, found in zip(samples, results, strict=True):
        assert isinstance(found, TokenScores)
        few = sum(end - start for _, start, end in golden["samples"][name]["turns"]) < _FEW
        compare(golden, "base", name, found.logprobs, (BFLOAT16[1], BFLOAT16[1]) if few else BFLOAT16, BFLOAT16_SHARE)
