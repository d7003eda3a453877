"""What every engine must do when it writes."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import numpy as np
import pytest

from burnish_services.engine.base import EngineFailure, GenerateRequest, Generation, Sampling, ScoreRequest, TokenScores
from burnish_services.engine.chat import prompt_ids, tokenize_sample
from burnish_services.engine.tokenizer import ChatMessage
from tests.contract.conftest import Rig

pytestmark = pytest.mark.asyncio(loop_scope="session")

QUESTION = [ChatMessage("user", "Name three colours of the rainbow.")]
ANSWER = ChatMessage("assistant", "Red, green and blue.")


def sample_ids(rig: Rig) -> list[int]:
    return tokenize_sample(rig.engine.tokenizer, [*QUESTION, ANSWER]).ids


async def generated(rig: Rig, *samplings: Sampling, prompt: list[int] | None = None) -> list[Generation]:
    ids = prompt or prompt_ids(rig.engine.tokenizer, QUESTION)
    results = await rig.engine.generate([GenerateRequest(ids, sampling) for sampling in samplings])
    assert all(isinstance(result, Generation) for result in results), results
    return results  # type: ignore[return-value]


async def test_it_says_what_it_is(generating: Rig) -> None:
    assert generating.engine.name.split("/")[0] == generating.kind
    assert generating.engine.name.split("/")[1]
    model = generating.engine.model
    assert (model.uri, model.dtype, model.max_model_len) == (str(generating.first), "float32", 1024)
    await generating.host.check_health()


async def test_one_bad_item_fails_alone(generating: Rig) -> None:
    ids = sample_ids(generating)
    limit = generating.engine.model.max_model_len
    full = (ids * (limit // len(ids) + 1))[:limit]
    sampling = Sampling(max_tokens=3)
    replies = await generating.engine.generate([GenerateRequest(i, sampling) for i in (ids, full, [*full, 5], [])])
    assert [r.reason if isinstance(r, EngineFailure) else "" for r in replies] == ["", "TOO_LONG", "TOO_LONG", "EMPTY"]
    assert await generating.engine.generate([]) == []


async def test_text_is_what_its_tokens_say_without_special_ones(generating: Rig) -> None:
    (reply,) = await generated(generating, Sampling(temperature=0.0, max_tokens=300))
    assert reply.text == generating.engine.tokenizer.decode(reply.token_ids)
    assert "<|" not in reply.text
    assert reply.finish_reason == "stop", "a short answer ends by itself"
    again, cut = await generated(
        generating, Sampling(temperature=0.0, max_tokens=300), Sampling(temperature=0.0, max_tokens=3)
    )
    assert again == reply
    assert (cut.token_ids, cut.finish_reason) == (reply.token_ids[:3], "length")


async def test_a_stop_text_ends_the_reply_before_itself(generating: Rig) -> None:
    (reply,) = await generated(generating, Sampling(temperature=0.0, max_tokens=300))
    stop = reply.text.split()[2]
    (stopped,) = await generated(generating, Sampling(temperature=0.0, max_tokens=300, stop=("@@@", stop)))
    assert stopped.text == reply.text.split(stop)[0]
    assert stopped.finish_reason == "stop"


async def test_seeds_repeat_and_differ(generating: Rig) -> None:
    seeds = [Sampling(seed=seed, max_tokens=8, top_k=50, top_p=0.95) for seed in (1, 2, (1 << 64) - 1)]
    first = await generated(generating, *seeds)
    assert len({reply.token_ids for reply in first}) > 1
    if generating.exact:
        assert (await generated(generating, *reversed(seeds)))[::-1] == first
    else:
        assert await generated(generating, *seeds) == first


async def test_all_that_a_request_says_of_sampling_is_heeded(generating: Rig) -> None:
    if generating.kind == "fake":
        pytest.skip("the fake engine draws replies, not tokens")
    greedy, hot = Sampling(temperature=0.0, max_tokens=24), Sampling(temperature=1.5, seed=4, max_tokens=24)
    asked = [greedy, hot, replace(hot, top_k=1), replace(hot, top_p=1e-6), replace(greedy, repetition_penalty=2.0)]
    # One after the other, as vLLM's numbers depend on what else is in a batch.
    replies = [(await generated(generating, sampling))[0].token_ids for sampling in asked]
    first, free, likeliest, nucleus, penalised = replies
    assert free != first, "else the next two prove nothing"
    assert (likeliest, nucleus) == (first, first)
    assert penalised != first


async def test_log_probabilities_are_those_of_the_chosen_tokens_before_sampling(generating: Rig) -> None:
    prompt = prompt_ids(generating.engine.tokenizer, QUESTION)
    warm = Sampling(temperature=1.5, top_k=20, seed=3, max_tokens=12)
    greedy = Sampling(temperature=0.0, max_tokens=12, stop=(" and",))
    requests = [GenerateRequest(prompt, sampling, logprobs=True) for sampling in (warm, greedy)]
    for reply in await generating.engine.generate(requests):
        assert isinstance(reply, Generation)
        assert reply.logprobs is not None
        ids = [*prompt, *reply.token_ids]
        (scores,) = await generating.engine.score([ScoreRequest(ids, first_scored=len(prompt))])
        assert isinstance(scores, TokenScores)
        np.testing.assert_allclose(reply.logprobs, scores.logprobs, atol=2e-3)


async def test_a_reply_fills_the_context_and_no_more(generating: Rig) -> None:
    limit = generating.engine.model.max_model_len
    ids = sample_ids(generating)
    prompt = (ids * (limit // len(ids) + 1))[: limit - 1]
    (reply,) = await generated(generating, Sampling(max_tokens=50, seed=1), prompt=prompt)
    assert len(reply.token_ids) == 1


async def test_scoring_and_writing_go_side_by_side(generating: Rig) -> None:
    ids = sample_ids(generating)
    results = await asyncio.gather(
        *(generating.engine.score([ScoreRequest(ids)]) for _ in range(4)),
        generated(generating, Sampling(seed=1, max_tokens=8)),
        *(generating.engine.score([ScoreRequest(ids)]) for _ in range(4)),
    )
    losses = [one.logprobs for (one,) in results if isinstance(one, TokenScores)]
    assert len(losses) == 8
    assert np.ptp(losses, axis=0).max() <= 1e-4


async def test_a_cancelled_call_frees_the_engine(generating: Rig) -> None:
    if generating.kind == "fake":
        pytest.skip("the fake engine writes any reply at once")
    long = Sampling(temperature=1.0, seed=1, max_tokens=900, repetition_penalty=1.2)
    call = asyncio.create_task(generated(generating, *[long] * 8))
    await asyncio.sleep(0.5)
    assert not call.done()
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    begin = time.monotonic()
    await generated(generating, Sampling(max_tokens=1))
    assert time.monotonic() - begin < 10, "eight replies of 900 tokens would take longer"


async def test_other_weights_answer_otherwise_and_the_first_come_back(generating: Rig) -> None:
    greedy, seen = Sampling(temperature=0.0, max_tokens=20), []
    for model in (generating.first, generating.second, generating.first):
        async with generating.host.using(generating.named(model)) as version:
            assert version.uri == str(model)
            seen += await generated(generating, greedy)
    assert seen[0] != seen[1]
    assert seen[0] == seen[2]
