"""What every engine must do when it scores and writes."""

from __future__ import annotations

import asyncio
import time

import numpy as np
import pytest

from burnish_services.engine.base import EngineFailure, GenerateRequest, Generation, Sampling, ScoreRequest
from burnish_services.engine.chat import prompt_ids, tokenize_sample
from burnish_services.engine.tokenizer import ChatMessage
from tests.contract.conftest import Rig

pytestmark = pytest.mark.asyncio(loop_scope="session")

QUESTION = [ChatMessage("user", "Name three colours of the rainbow.")]
ANSWER = ChatMessage("assistant", "Red, green and blue.")


def sample_ids(rig: Rig) -> list[int]:
    return tokenize_sample(rig.engine.tokenizer, [*QUESTION, ANSWER]).ids


async def scores(rig: Rig, *requests: ScoreRequest) -> list[np.ndarray]:
    results = await rig.engine.score(requests)
    assert not any(isinstance(result, EngineFailure) for result in results)
    return results  # type: ignore[return-value]


async def generated(rig: Rig, *samplings: Sampling, prompt: list[int] | None = None) -> list[Generation]:
    ids = prompt or prompt_ids(rig.engine.tokenizer, QUESTION)
    results = await rig.engine.generate([GenerateRequest(ids, sampling) for sampling in samplings])
    assert all(isinstance(result, Generation) for result in results), results
    return results  # type: ignore[return-value]


def close(left: np.ndarray, right: np.ndarray) -> bool:
    return left.shape == right.shape and bool(np.allclose(left, right, atol=1e-4, rtol=0))


async def test_it_says_what_it_is(generating: Rig) -> None:
    assert generating.engine.name.split("/")[0] == generating.kind
    assert generating.engine.name.split("/")[1]
    model = generating.engine.model
    assert (model.uri, model.dtype, model.max_model_len) == (str(generating.first), "float32", 1024)
    await generating.host.check_health()


async def test_scores_are_log_probabilities_of_what_was_asked_for(generating: Rig) -> None:
    ids = sample_ids(generating)
    whole, tail, last, none = await scores(
        generating, *(ScoreRequest(ids, first) for first in (1, 10, len(ids) - 1, len(ids)))
    )
    assert whole.dtype == np.float32
    assert (len(whole), len(tail), len(last), len(none)) == (len(ids) - 1, len(ids) - 10, 1, 0)
    assert (whole <= 0).all()
    assert close(whole[9:], tail)
    assert close(whole[-1:], last)


async def test_a_score_does_not_depend_on_its_neighbours(generating: Rig) -> None:
    ids = sample_ids(generating)
    requests = [ScoreRequest(ids[:length]) for length in (2, 30, len(ids), 7, len(ids))]
    together = await scores(generating, *requests)
    alone = [(await scores(generating, request))[0] for request in requests]
    backwards = (await scores(generating, *reversed(requests)))[::-1]
    for one, two, three in zip(together, alone, backwards, strict=True):
        assert close(one, two)
        assert close(one, three)
        if generating.exact:
            assert (one == two).all()
            assert (one == three).all()


async def test_one_bad_item_fails_alone(generating: Rig) -> None:
    ids = sample_ids(generating)
    limit = generating.engine.model.max_model_len
    full = (ids * (limit // len(ids) + 1))[:limit]
    bad = {"TOO_LONG": [*full, 5], "EMPTY": [], "BAD_TOKEN": [5, generating.engine.model.vocab_size]}
    results = await generating.engine.score([ScoreRequest(ids), *map(ScoreRequest, bad.values()), ScoreRequest(full)])
    assert [r.reason if isinstance(r, EngineFailure) else "" for r in results] == ["", *bad, ""]
    assert isinstance(results[-1], np.ndarray)
    assert len(results[-1]) == limit - 1, "a sequence may fill the context to the last token"
    sampling = Sampling(max_tokens=3)
    replies = await generating.engine.generate([GenerateRequest(i, sampling) for i in (ids, full, [*full, 5], [])])
    assert [r.reason if isinstance(r, EngineFailure) else "" for r in replies] == ["", "TOO_LONG", "TOO_LONG", "EMPTY"]


async def test_nothing_asked_nothing_answered(generating: Rig) -> None:
    assert await generating.engine.score([]) == []
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
    seeds = [Sampling(seed=seed, max_tokens=12, top_k=50, top_p=0.95) for seed in (1, 2, 3, (1 << 64) - 1)]
    first = await generated(generating, *seeds)
    assert len({reply.token_ids for reply in first}) > 1
    if generating.exact:
        assert (await generated(generating, *reversed(seeds)))[::-1] == first
    else:
        assert await generated(generating, *seeds) == first


async def test_a_reply_fills_the_context_and_no_more(generating: Rig) -> None:
    limit = generating.engine.model.max_model_len
    ids = sample_ids(generating)
    prompt = (ids * (limit // len(ids) + 1))[: limit - 1]
    (reply,) = await generated(generating, Sampling(max_tokens=50, seed=1), prompt=prompt)
    assert len(reply.token_ids) == 1


async def test_scoring_and_writing_go_side_by_side(generating: Rig) -> None:
    ids = sample_ids(generating)
    (expected,) = await scores(generating, ScoreRequest(ids))
    results = await asyncio.gather(
        *(scores(generating, ScoreRequest(ids)) for _ in range(4)),
        generated(generating, Sampling(seed=1, max_tokens=8)),
        *(scores(generating, ScoreRequest(ids)) for _ in range(4)),
    )
    assert all(close(result[0], expected) for result in results if isinstance(result[0], np.ndarray))


async def test_a_cancelled_call_frees_the_engine(generating: Rig) -> None:
    long = Sampling(temperature=1.0, seed=1, max_tokens=900, repetition_penalty=1.2)
    call = asyncio.create_task(generated(generating, *[long] * 8))
    await asyncio.sleep(0.5)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    begin = time.monotonic()
    await scores(generating, ScoreRequest(sample_ids(generating)))
    assert time.monotonic() - begin < 10, "eight replies of 900 tokens would take longer"


async def test_other_weights_answer_otherwise_and_the_first_come_back(generating: Rig) -> None:
    ids, greedy = sample_ids(generating), Sampling(temperature=0.0, max_tokens=12)
    seen = []
    for model in (generating.first, generating.second, generating.first):
        async with generating.host.using(generating.named(model)) as version:
            assert version.uri == str(model)
            seen.append((await scores(generating, ScoreRequest(ids)), await generated(generating, greedy)))
    (before,), reply_before = seen[0]
    (other,), _ = seen[1]
    (after,), reply_after = seen[2]
    assert np.abs(before - other).max() > 0.01
    assert close(before, after)
    assert reply_before == reply_after
