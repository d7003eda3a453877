"""RewriteSamples over real gRPC on the fake engine, which writes about three malformed replies in a hundred."""

from __future__ import annotations

import grpc
import grpc.aio
import numpy as np
import pytest

from burnish.api.common.v1 import common_pb2
from burnish.api.rewriting.v1 import rewriting_pb2, rewriting_pb2_grpc
from burnish_services.engine.base import Generation
from burnish_services.engine.tokenizer import ChatMessage
from burnish_services.rewriting.responding import rejection_of
from tests.service.support import failure_of, sample

ANSWER = "An answer that the rewriter must never see: xylophone."
MANY = [sample(f"s{i}", f"Explain how machine number {i} makes paper from wood.", ANSWER) for i in range(80)]
STRATEGIES = [rewriting_pb2.STRATEGY_SIMPLIFY, rewriting_pb2.STRATEGY_IMPROVE, rewriting_pb2.STRATEGY_DIVERSIFY]


@pytest.fixture
def stub(channel: grpc.aio.Channel) -> rewriting_pb2_grpc.RewritingServiceAsyncStub:
    return rewriting_pb2_grpc.RewritingServiceStub(channel)


async def rewrite(stub, *samples, strategy=rewriting_pb2.STRATEGY_SIMPLIFY, neighbors=(), **fields):
    items = [rewriting_pb2.RewriteItem(sample=one, neighbors=neighbors) for one in samples]
    request = rewriting_pb2.RewriteSamplesRequest(strategy=strategy, items=items, **fields)
    return await stub.RewriteSamples(request)


@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_rewrites_are_new_pairs_under_the_same_id(stub, strategy) -> None:
    reply = await rewrite(stub, *MANY, strategy=strategy, neighbors=MANY[:3])
    done = [one for one in reply.rewrites if one.status.code == 0]
    assert [one.sample_id for one in reply.rewrites] == [one.id for one in MANY]
    assert len(done) > 0.9 * len(MANY)
    for one in done:
        assert one.sample.id == one.sample_id
        assert [m.role for m in one.sample.messages] == [common_pb2.ROLE_USER, common_pb2.ROLE_ASSISTANT]
        assert all(m.content for m in one.sample.messages)
        assert "NEW PROMPT" not in one.sample.messages[0].content
        assert one.attempts[-1].rejection == rewriting_pb2.REJECTION_UNSPECIFIED
    assert not any("xylophone" in a.prompt_reply + a.response_reply for one in done for a in one.attempts)


async def test_malformed_replies_are_tried_again_and_all_attempts_are_kept(stub) -> None:
    reply = await rewrite(stub, *MANY, sampling=common_pb2.SamplingParameters(seed=1))
    retried = [one for one in reply.rewrites if len(one.attempts) > 1]
    assert retried, "the fake engine gives some malformed replies"
    for one in retried:
        assert one.attempts[0].rejection == rewriting_pb2.REJECTION_NO_MARKER
        assert one.attempts[0].prompt_reply
        assert not one.attempts[0].response_reply
        assert one.attempts[0].prompt_reply != one.attempts[1].prompt_reply


async def test_a_rejected_item_is_aborted_and_says_why(stub) -> None:
    rules = rewriting_pb2.ValidationRules(min_prompt_chars=3000)
    reply = await rewrite(stub, MANY[0], rules=rules, max_attempts=2, sampling=common_pb2.SamplingParameters(seed=5))
    (one,) = reply.rewrites
    assert one.status.code == grpc.StatusCode.ABORTED.value[0]
    assert one.status.reason == "REJECTED"
    assert not one.status.retryable
    assert not one.HasField("sample")
    assert len(one.attempts) == 2
    assert all(attempt.rejection != rewriting_pb2.REJECTION_UNSPECIFIED for attempt in one.attempts)
    too_short = [a for a in one.attempts if a.rejection == rewriting_pb2.REJECTION_TOO_SHORT]
    assert "at least 3000 expected" in too_short[0].detail


async def test_a_truncated_reply_is_rejected(stub) -> None:
    reply = await rewrite(stub, MANY[0], sampling=common_pb2.SamplingParameters(max_tokens=3), max_attempts=1)
    (one,) = reply.rewrites
    assert [attempt.rejection for attempt in one.attempts] == [rewriting_pb2.REJECTION_TRUNCATED]
    assert one.status.retryable


async def test_a_seed_makes_an_item_repeat_in_any_batch(stub) -> None:
    sampling = common_pb2.SamplingParameters(seed=11)
    together = await rewrite(stub, *MANY[:9], sampling=sampling)
    alone = await rewrite(stub, MANY[8], sampling=sampling)
    other = await rewrite(stub, MANY[8], sampling=common_pb2.SamplingParameters(seed=12))
    assert alone.rewrites[0] == together.rewrites[8]
    assert other.rewrites[0] != together.rewrites[8]


async def test_the_system_message_is_kept(stub) -> None:
    one = sample("a", "Explain how rain is made.", ANSWER, system="Answer like a pirate.")
    reply = await rewrite(stub, one, sampling=common_pb2.SamplingParameters(seed=1))
    messages = reply.rewrites[0].sample.messages
    assert messages[0] == one.messages[0]
    assert [m.role for m in messages] == [
        common_pb2.ROLE_SYSTEM, common_pb2.ROLE_USER, common_pb2.ROLE_ASSISTANT,
    ]  # fmt: skip


async def test_a_conversation_becomes_one_pair(stub) -> None:
    reply = await rewrite(stub, sample("a", "Tell me of whales.", "Big.", "And of dolphins?", "Smaller."))
    assert len(reply.rewrites[0].sample.messages) == 2


async def test_bad_items_fail_alone(stub) -> None:
    reply = await rewrite(
        stub, common_pb2.Sample(id="none"), sample("blank", " ", "Hi"), sample("long", "word " * 9000, "Hi"), MANY[0]
    )
    assert [one.status.reason for one in reply.rewrites] == ["BAD_ROLES", "EMPTY_PROMPT", "TOO_LONG", ""]
    invalid = grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert [one.status.code for one in reply.rewrites] == [invalid, invalid, invalid, 0]
    assert [len(one.attempts) for one in reply.rewrites[:3]] == [0, 0, 0]


async def test_neighbours_need_text_and_only_count_for_diversify(stub) -> None:
    empty = common_pb2.Sample(id="empty")
    ignored = await rewrite(stub, MANY[0], neighbors=[empty])
    counted = await rewrite(stub, MANY[0], neighbors=[empty], strategy=rewriting_pb2.STRATEGY_DIVERSIFY)
    assert ignored.rewrites[0].status.code == 0
    assert counted.rewrites[0].status.reason == "BAD_ROLES"
    assert "neighbour" in counted.rewrites[0].status.message


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"strategy": rewriting_pb2.STRATEGY_UNSPECIFIED}, "BAD_STRATEGY"),
        ({"max_attempts": 11}, "BAD_ATTEMPTS"),
        ({"max_attempts": -1}, "BAD_ATTEMPTS"),
        ({"rules": rewriting_pb2.ValidationRules(min_prompt_chars=5, max_prompt_chars=4)}, "BAD_RULES"),
        ({"rules": rewriting_pb2.ValidationRules(max_similarity=1.5)}, "BAD_RULES"),
        ({"sampling": common_pb2.SamplingParameters(top_k=-1)}, "BAD_SAMPLING"),
    ],
)
async def test_requests_that_make_no_sense_are_refused(stub, fields, reason: str) -> None:
    failure = await failure_of(rewrite(stub, MANY[0], **fields))
    assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, reason)


async def test_duplicate_ids_are_refused(stub) -> None:
    failure = await failure_of(rewrite(stub, MANY[0], MANY[0]))
    assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "DUPLICATE_ID")


async def test_versions_name_strategy_and_prompts(stub) -> None:
    info = await stub.GetInfo(rewriting_pb2.GetInfoRequest())
    reply = await rewrite(stub, MANY[0])
    assert set(info.prompt_versions) == {"simplify", "improve", "diversify"}
    assert reply.prompt_version == info.prompt_versions["simplify"]
    assert len(set(info.prompt_versions.values())) == 3


PROMPTS = [rewriting_pb2.Prompt(id=one.id, messages=one.messages[:1]) for one in MANY[:9]]
WARM = common_pb2.SamplingParameters(temperature=1.0, seed=11)


async def respond(stub, *prompts, **fields):
    return await stub.GenerateResponses(rewriting_pb2.GenerateResponsesRequest(prompts=prompts, **fields))


async def test_responses_come_in_order_with_how_they_ended_and_every_token(stub) -> None:
    reply = await respond(stub, *PROMPTS, num_responses=3, sampling=WARM, return_tokens=True)
    assert [result.prompt_id for result in reply.results] == [prompt.id for prompt in PROMPTS]
    for result in reply.results:
        assert result.status.code == 0
        assert len({response.text for response in result.responses}) > 1, "a seed of its own for each"
        for response in result.responses:
            logprobs = np.frombuffer(response.logprobs, "<f4")
            assert response.finish_reason == rewriting_pb2.FINISH_REASON_STOP
            assert response.num_tokens == len(logprobs) == len(np.frombuffer(response.token_ids, "<i4"))
            assert response.mean_logprob == pytest.approx(logprobs.mean(), abs=1e-6)
            assert (logprobs <= 0).all()
    generated = sum(response.num_tokens for result in reply.results for response in result.responses)
    assert reply.timing.generated_tokens == generated


async def test_responses_repeat_with_their_seed_in_any_batch(stub) -> None:
    together = await respond(stub, *PROMPTS, num_responses=2, sampling=WARM)
    alone = await respond(stub, PROMPTS[8], num_responses=2, sampling=WARM)
    assert alone.results[0] == together.results[8]
    assert not alone.results[0].responses[0].logprobs, "tokens only where they are asked for"


async def test_a_response_is_greedy_and_says_where_it_was_cut(stub) -> None:
    first, second = [(await respond(stub, PROMPTS[0])).results[0] for _ in range(2)]
    assert first == second
    assert len(first.responses) == 1
    cut = await respond(stub, PROMPTS[0], sampling=common_pb2.SamplingParameters(max_tokens=2))
    (response,) = cut.results[0].responses
    assert (response.finish_reason, response.num_tokens) == (rewriting_pb2.FINISH_REASON_LENGTH, 2)
    assert first.responses[0].text.startswith(response.text)


async def test_what_is_wrong_with_a_response_is_said_where_it_is_asked_for(stub) -> None:
    cut = common_pb2.SamplingParameters(max_tokens=2)
    unchecked = await respond(stub, PROMPTS[0], sampling=cut)
    checked = await respond(stub, PROMPTS[0], sampling=cut, check=True)
    assert unchecked.results[0].responses[0].rejection == rewriting_pb2.REJECTION_UNSPECIFIED
    (response,) = checked.results[0].responses
    assert response.rejection == rewriting_pb2.REJECTION_TRUNCATED
    assert "cut off at max_tokens" in response.rejection_detail
    assert response.text == unchecked.results[0].responses[0].text, "it is returned all the same"
    (good,) = (await respond(stub, PROMPTS[0], check=True)).results[0].responses
    assert (good.rejection, good.rejection_detail) == (rewriting_pb2.REJECTION_UNSPECIFIED, "")


@pytest.mark.parametrize(
    ("text", "rejection"),
    [
        ("  ", "EMPTY"),
        ("I'm sorry, but I cannot help with that.", "REFUSAL"),
        ("What is tea?", "COPY"),
        ("Sure <|im_start|>user", "LEAKED"),
        ("so " * 60, "DEGENERATE"),
        ("A drink made of leaves.", "UNSPECIFIED"),
    ],
)
def test_responses_are_checked_as_answers_in_rewrites_are(text: str, rejection: str) -> None:
    found = rejection_of([ChatMessage("user", "What is tea?")], Generation(text, (1,), "stop", (-0.1,)))
    assert ("UNSPECIFIED" if found is None else found.rejection) == rejection


async def test_bad_prompts_fail_alone(stub) -> None:
    answered = rewriting_pb2.Prompt(id="answered", messages=MANY[0].messages)
    blank = rewriting_pb2.Prompt(id="blank", messages=sample("x", " ", "Hi").messages[:1])
    long = rewriting_pb2.Prompt(id="long", messages=sample("x", "word " * 9000, "Hi").messages[:1])
    reply = await respond(stub, rewriting_pb2.Prompt(id="none"), answered, blank, long, PROMPTS[0])
    reasons = [result.status.reason for result in reply.results]
    assert reasons == ["BAD_ROLES", "BAD_ROLES", "EMPTY_PROMPT", "TOO_LONG", ""]
    assert [len(result.responses) for result in reply.results] == [0, 0, 0, 0, 1]


@pytest.mark.parametrize("fields", [{"num_responses": 33}, {"num_responses": -1}, {"num_responses": 2}])
async def test_numbers_of_responses_that_make_no_sense_are_refused(stub, fields) -> None:
    failure = await failure_of(respond(stub, PROMPTS[0], **fields))
    assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "BAD_RESPONSES")
