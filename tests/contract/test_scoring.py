"""What every engine must do when it scores given tokens, whichever way it does it."""

from __future__ import annotations

import asyncio
import math

import numpy as np
import pytest

from burnish_services.embedding.coverage.binarise import standardise, top_k
from burnish_services.engine.base import (
    ActivationPooling,
    Activations,
    EngineFailure,
    RankRequest,
    ScoreRequest,
    Task,
    TokenScores,
)
from burnish_services.engine.chat import prompt_ids, tokenize_sample
from burnish_services.engine.tokenizer import ChatMessage
from tests.contract.conftest import Rig, Rigs

pytestmark = pytest.mark.asyncio(loop_scope="session")

QUESTION = [ChatMessage("user", "Name three colours of the rainbow.")]
ANSWER = ChatMessage("assistant", "Red, green and blue.")


def sample_ids(rig: Rig) -> list[int]:
    return tokenize_sample(rig.engine.tokenizer, [*QUESTION, ANSWER]).ids


async def scored(rig: Rig, *requests: ScoreRequest) -> list[TokenScores]:
    results = await rig.engine.score(requests)
    assert all(isinstance(result, TokenScores) for result in results), results
    return results  # type: ignore[return-value]


async def scores(rig: Rig, *requests: ScoreRequest) -> list[np.ndarray]:
    return [result.logprobs for result in await scored(rig, *requests)]


def needs_one_pass(rig: Rig) -> None:
    if rig.engine.score_method == "prompt_logprobs":
        pytest.skip("vLLM's own prompt_logprobs gives nothing but the tokens' log-probabilities")


def close(left: np.ndarray, right: np.ndarray) -> bool:
    return left.shape == right.shape and bool(np.allclose(left, right, atol=1e-4, rtol=0))


async def test_it_says_how_it_scores(scoring: Rig) -> None:
    method = {"fake": "fake", "transformers": "forward", "vllm": "plugin"}[scoring.kind]
    assert scoring.engine.score_method == ("prompt_logprobs" if scoring.engine.task is Task.GENERATE else method)


async def test_scores_are_log_probabilities_of_what_was_asked_for(scoring: Rig) -> None:
    ids = sample_ids(scoring)
    whole, tail, last, none = await scores(
        scoring, *(ScoreRequest(ids, first) for first in (1, 10, len(ids) - 1, len(ids)))
    )
    assert whole.dtype == np.float32
    assert (len(whole), len(tail), len(last), len(none)) == (len(ids) - 1, len(ids) - 10, 1, 0)
    assert (whole <= 0).all()
    assert close(whole[9:], tail)
    assert close(whole[-1:], last)


async def test_a_score_does_not_depend_on_its_neighbours_nor_on_what_was_asked_before(scoring: Rig) -> None:
    ids = sample_ids(scoring)
    requests = [ScoreRequest(ids[:length], min(3, length)) for length in (2, 30, len(ids), 7, len(ids))]
    together = await scores(scoring, *requests)
    alone = [(await scores(scoring, request))[0] for request in requests]
    backwards = (await scores(scoring, *reversed(requests)))[::-1]
    for one, two, three in zip(together, alone, backwards, strict=True):
        assert close(one, two)
        assert close(one, three)
        if scoring.exact:
            assert (one == two).all()
            assert (one == three).all()


async def test_sequences_of_all_lengths_come_back_in_order(scoring: Rig) -> None:
    """A prefix that many share; those that begin in one step and end in another have a test below."""
    ids = sample_ids(scoring)
    whole = (await scores(scoring, ScoreRequest(ids * 8)))[0]
    lengths = [1 + (37 * index) % (8 * len(ids)) for index in range(15 if scoring.kind == "vllm" else 5)]
    found = await scores(scoring, *(ScoreRequest((ids * 8)[:length], max(1, length - 20)) for length in lengths))
    for length, part in zip(lengths, found, strict=True):
        assert close(part, whole[max(1, length - 20) - 1 : length - 1]), length


async def test_one_bad_item_fails_alone(scoring: Rig) -> None:
    ids = sample_ids(scoring)
    limit = scoring.engine.model.max_model_len
    full = (ids * (limit // len(ids) + 1))[:limit]
    bad = {"TOO_LONG": [*full, 5], "EMPTY": [], "BAD_TOKEN": [5, scoring.engine.model.vocab_size]}
    results = await scoring.engine.score([ScoreRequest(ids), *map(ScoreRequest, bad.values()), ScoreRequest(ids)])
    assert [r.reason if isinstance(r, EngineFailure) else "" for r in results] == ["", *bad, ""]
    ranks = await scoring.engine.rank([RankRequest(one, [5, 6]) for one in (ids, *bad.values())])
    assert [r.reason if isinstance(r, EngineFailure) else "" for r in ranks] == ["", *bad]
    assert await scoring.engine.score([]) == []
    assert await scoring.engine.rank([]) == []


async def test_candidates_for_the_next_token_have_the_probabilities_that_scoring_them_gives(scoring: Rig) -> None:
    ids = prompt_ids(scoring.engine.tokenizer, QUESTION)
    candidates = [40, 7, 300, 7]
    (ranked,) = await scoring.engine.rank([RankRequest(ids, candidates)])
    assert isinstance(ranked, np.ndarray)
    assert (ranked.dtype, ranked.shape) == (np.float32, (4,))
    assert ranked[1] == ranked[3]
    assert np.exp(ranked[:3]).sum() <= 1.0
    if scoring.kind != "fake":  # whose opinions on the next token are not those on a given one
        each = await scores(scoring, *(ScoreRequest([*ids, token], len(ids)) for token in candidates))
        assert close(ranked, np.concatenate(each))


async def test_prompts_ranked_together_are_ranked_as_alone(scoring: Rig) -> None:
    ids = sample_ids(scoring)
    requests = [RankRequest(ids[:length], [40, 7, 300][: 1 + length % 3]) for length in range(3, len(ids), 8)]
    together = await scoring.engine.rank(requests)
    for request, found in zip(requests, together, strict=True):
        (alone,) = await scoring.engine.rank([request])
        assert isinstance(found, np.ndarray)
        assert isinstance(alone, np.ndarray)
        assert close(found, alone)


async def test_a_distribution_comes_with_the_scores(scoring: Rig) -> None:
    needs_one_pass(scoring)
    ids = sample_ids(scoring)
    full, plain = await scored(scoring, ScoreRequest(ids, 5, distribution=True), ScoreRequest(ids, 5))
    assert close(full.logprobs, plain.logprobs)
    assert (plain.entropies, plain.margins) == (None, None)
    assert full.entropies is not None
    assert full.margins is not None
    assert len(full.entropies) == len(full.margins) == len(ids) - 5
    assert ((full.entropies >= 0) & (full.entropies <= math.log(scoring.engine.model.vocab_size))).all()
    assert ((full.margins >= 0) & (full.margins <= 1)).all()
    # A token likelier than one half is the likeliest, and the second has at most the rest.
    sure = np.exp(full.logprobs) > 0.5
    assert sure.any()
    assert (full.margins[sure] >= 2 * np.exp(full.logprobs[sure]) - 1 - 1e-4).all()


async def test_a_mean_hidden_state_comes_from_the_same_pass(scoring: Rig) -> None:
    needs_one_pass(scoring)
    ids = sample_ids(scoring)
    whole, parts, begin = await scored(
        scoring,
        ScoreRequest(ids, 5, mean_hidden=[(0, len(ids))]),
        ScoreRequest(ids, 5, mean_hidden=[(2, 5), (9, 12)]),
        ScoreRequest(ids, len(ids), mean_hidden=[(0, 4)]),
    )
    (embedded, first) = await scoring.engine.embed([ids, ids[:4]])
    assert np.allclose(whole.mean_hidden, embedded, atol=2e-3, rtol=1e-3)
    assert np.allclose(begin.mean_hidden, first, atol=2e-3, rtol=1e-3), "what comes later changes nothing"
    assert parts.mean_hidden is not None
    assert not np.allclose(parts.mean_hidden, embedded, atol=1e-2)
    assert close(parts.logprobs, whole.logprobs)


async def test_many_callers_at_once(scoring: Rig) -> None:
    ids = sample_ids(scoring)
    (expected,) = await scores(scoring, ScoreRequest(ids))
    results = await asyncio.gather(*(scores(scoring, ScoreRequest(ids)) for _ in range(8)))
    assert all(close(result[0], expected) for result in results)


@pytest.mark.parametrize("scoring", [("fake", Task.POOL)], indirect=True)
async def test_a_sequence_may_fill_the_context_to_the_last_token(scoring: Rig) -> None:
    """Of the real engines test_golden.py tells."""
    limit = scoring.engine.model.max_model_len
    (found,) = await scores(scoring, ScoreRequest((sample_ids(scoring) * limit)[:limit]))
    assert len(found) == limit - 1


@pytest.mark.parametrize("scoring", [("fake", Task.POOL)], indirect=True)
async def test_other_weights_answer_otherwise_and_the_first_come_back(scoring: Rig) -> None:
    """Of the real engines test_golden.py tells."""
    ids, seen = sample_ids(scoring), []
    for model in (scoring.first, scoring.second, scoring.first):
        async with scoring.host.using(scoring.named(model)) as version:
            assert version.uri == str(model)
            seen += await scores(scoring, ScoreRequest(ids))
    assert np.abs(seen[0] - seen[1]).max() > 0.01
    assert close(seen[0], seen[2])


def neurons_of(scores: TokenScores) -> np.ndarray:
    assert scores.activations is not None
    return scores.activations


async def test_activations_come_from_the_same_pass_and_are_pooled_over_positions(pooling: Rig) -> None:
    ids = sample_ids(pooling)[:24]
    ends, whole = [(1, 9), (20, len(ids))], [(0, len(ids))]

    def asking(spans: list[tuple[int, int]], how: ActivationPooling = ActivationPooling.MAX) -> ScoreRequest:
        return ScoreRequest(ids, len(ids), activations=Activations(spans, how))

    positions = [asking([(at, at + 1)], ActivationPooling.MAX_SIGNED) for at in range(len(ids))]
    found = await scored(
        pooling,
        asking(ends),
        asking(ends, ActivationPooling.MEAN),
        asking(ends, ActivationPooling.MAX_SIGNED),
        ScoreRequest(ids, 5, distribution=True, mean_hidden=whole, activations=Activations(whole)),
        *positions,
    )
    assert {neurons_of(one).shape for one in found} == {pooling.engine.model.neurons}
    each = np.stack([neurons_of(one) for one in found[4:]])  # a position's own activations
    inside = each[[at for span in ends for at in range(*span)]]
    assert np.allclose(neurons_of(found[0]), np.abs(inside).max(axis=0), atol=1e-4)
    assert np.allclose(neurons_of(found[1]), np.abs(inside).mean(axis=0), atol=1e-4)
    assert np.allclose(neurons_of(found[2]), inside.max(axis=0), atol=1e-4)
    assert (each.min(), each.max()) != (0, 0)
    (plain,) = await scored(pooling, ScoreRequest(ids, 5, distribution=True, mean_hidden=whole))
    assert close(found[3].logprobs, plain.logprobs)
    assert found[3].mean_hidden is not None
    assert plain.mean_hidden is not None
    assert close(found[3].mean_hidden, plain.mean_hidden)
    assert plain.activations is None
    assert np.allclose(neurons_of(found[3]), np.abs(each).max(axis=0), atol=1e-4)


async def test_activations_of_sequences_read_in_parts_are_those_of_the_whole(pooling: Rig) -> None:
    """More tokens than a step takes: some sequences begin in one step and end in another."""
    ids = (sample_ids(pooling) * 9)[:400]
    how = list(ActivationPooling)
    lengths = range(400, 310, -10) if pooling.kind == "vllm" else (97, 60)
    requests = [
        ScoreRequest(ids[:length], length - 5, activations=Activations([(1, 30), (40, length)], how[length % 3]))
        for length in lengths
    ]
    together = await scored(pooling, *requests)
    for request, one in zip(requests, together, strict=True):
        (alone,) = await scored(pooling, request)
        assert np.allclose(neurons_of(one), neurons_of(alone), atol=1e-3)
        assert close(one.logprobs, alone.logprobs)
        if pooling.exact:
            assert (neurons_of(one) == neurons_of(alone)).all()


async def test_activations_asked_for_and_given_up_do_no_harm(pooling: Rig) -> None:
    ids = sample_ids(pooling)
    request = ScoreRequest(ids, 5, activations=Activations([(1, len(ids))]))
    given_up = [asyncio.ensure_future(pooling.engine.score([request] * 8)) for _ in range(3)]
    for number, task in enumerate(given_up):
        await asyncio.sleep(0.02 * number)
        task.cancel()
    await asyncio.gather(*given_up, return_exceptions=True)
    first, second = await scored(pooling, request, request)
    assert np.allclose(neurons_of(first), neurons_of(second), atol=1e-4)


async def test_an_engine_shows_its_neurons_or_says_that_it_does_not(scoring: Rig) -> None:
    ids = sample_ids(scoring)
    (result,) = await scoring.engine.score([ScoreRequest(ids, activations=Activations([(1, 5)]))])
    if scoring.engine.model.neurons is None:
        assert scoring.engine.task is Task.GENERATE, "one that was started for single passes shows them"
        assert isinstance(result, EngineFailure)
        assert result.reason == "UNSUPPORTED"
    else:
        assert isinstance(result, TokenScores)
        assert neurons_of(result).shape == scoring.engine.model.neurons


@pytest.mark.engine
async def test_vllm_and_transformers_agree_on_what_the_neurons_do(rigs: Rigs) -> None:
    reference, product = [await rigs.get(kind, Task.POOL) for kind in ("transformers", "vllm")]
    ids = (sample_ids(reference) * 4)[:200]
    for how in ActivationPooling:
        request = ScoreRequest(ids, len(ids), activations=Activations([(1, 20), (50, len(ids))], how))
        expected, found = [neurons_of((await scored(rig, request))[0]) for rig in (reference, product)]
        assert np.allclose(found, expected, atol=1e-3, rtol=1e-3), np.abs(found - expected).max()


@pytest.mark.engine
async def test_vllm_and_transformers_agree_on_which_neurons_stand_out(rigs: Rigs) -> None:
    """The features of MADS-style selection: against what is usual over a few samples, the top 32 of each layer."""
    answers = ["Red, green and blue.", "A boat sails on the river.", "for i in range(10):"]
    conversations = [[*QUESTION, ChatMessage("assistant", f"{one} {two}")] for one in answers for two in answers]
    active = []
    for kind in ("transformers", "vllm"):
        rig = await rigs.get(kind, Task.POOL)
        samples = [tokenize_sample(rig.engine.tokenizer, one) for one in conversations]
        spans = [[(turn.start, turn.end) for turn in sample.turns] for sample in samples]
        requests = [
            ScoreRequest(sample.ids, len(sample.ids), activations=Activations(span))
            for sample, span in zip(samples, spans, strict=True)
        ]
        pooled = np.stack([neurons_of(one) for one in await scored(rig, *requests)])
        mean, std = pooled.mean(axis=0, dtype=np.float64), pooled.std(axis=0, dtype=np.float64)
        active.append([set(np.nonzero(_top(standardise(one, mean, std)))[0].tolist()) for one in pooled])
    shared = [len(one & two) / len(one) for one, two in zip(*active, strict=True)]
    assert min(shared) >= 0.99, shared


def _top(scores: np.ndarray) -> np.ndarray:
    """Which neurons are among the 32 largest of their layer, flat."""
    ids = top_k(scores, 32).reshape(len(scores), 32)
    flags = np.zeros(scores.shape, bool)
    flags[np.arange(len(scores))[:, None], ids] = True
    return flags.ravel()
