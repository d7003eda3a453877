"""JudgeSamples over real gRPC on the fake engine."""

from __future__ import annotations

from pathlib import Path

import grpc
import grpc.aio
import pytest

from burnish.api.common.v1 import common_pb2
from burnish.api.scoring.v1 import scoring_pb2, scoring_pb2_grpc
from burnish_services.engine.fake import write_fake_model
from tests.service.support import failure_of, sample

MANY = [sample(f"s{i}", f"What is the number after {i}?", f"It is {i + 1}.") for i in range(60)]


@pytest.fixture
def stub(channel: grpc.aio.Channel) -> scoring_pb2_grpc.ScoringServiceAsyncStub:
    return scoring_pb2_grpc.ScoringServiceStub(channel)


async def judge(stub, *samples, **fields):
    return await stub.JudgeSamples(scoring_pb2.JudgeSamplesRequest(samples=samples, **fields))


async def test_six_ratings_in_order_dimensions_outermost(stub) -> None:
    reply = await judge(stub, sample("a", "Why is the sky blue?", "Because of scattering."))
    found = [(rating.dimension, rating.target) for rating in reply.judgments[0].ratings]
    assert found == [(dimension, target) for dimension in (1, 2, 3) for target in (1, 2)]
    assert len(reply.prompt_digest) == 16


async def test_most_replies_parse_and_the_others_have_no_value(stub) -> None:
    reply = await judge(stub, *MANY)
    ratings = [rating for judgment in reply.judgments for rating in judgment.ratings]
    parsed = [rating for rating in ratings if rating.status.code == 0]
    failed = [rating for rating in ratings if rating.status.code != 0]
    assert len(parsed) > 0.9 * len(ratings)
    assert all(rating.HasField("value") and 0 <= rating.value <= 10 for rating in parsed)
    assert failed, "the fake engine gives some malformed replies"
    for rating in failed:
        assert rating.status.reason == "UNPARSEABLE"
        assert not rating.HasField("value")
        assert rating.reply


async def test_a_request_that_names_no_model_is_judged_by_the_one_that_scores(stub, tmp_path: Path) -> None:
    """Each of a server's engines holds weights of its own; a caller knows of one model."""
    other = common_pb2.ModelRef(uri=str(write_fake_model(tmp_path / "other", name="other", seed=2)))
    one = sample("a", "Why?", "So.")
    await judge(stub, one)
    scored = await stub.ScoreSamples(scoring_pb2.ScoreSamplesRequest(model=other, samples=[one]))
    for mode in (scoring_pb2.JUDGE_MODE_GENERATED, scoring_pb2.JUDGE_MODE_LOGIT):
        reply = await judge(stub, one, mode=mode)
        assert reply.model.digest == scored.model.digest
    digest = common_pb2.ModelRef(digest=scored.model.digest)
    assert (await judge(stub, one, model=digest)).model.digest == scored.model.digest


async def test_a_subset_can_be_asked_for(stub) -> None:
    reply = await judge(
        stub,
        sample("a", "Hello", "Hi"),
        dimensions=[scoring_pb2.DIMENSION_FACTUALITY],
        targets=[scoring_pb2.TARGET_PROMPT],
    )
    (rating,) = reply.judgments[0].ratings
    assert (rating.dimension, rating.target) == (scoring_pb2.DIMENSION_FACTUALITY, scoring_pb2.TARGET_PROMPT)


async def test_ratings_do_not_depend_on_the_rest_of_the_batch(stub) -> None:
    sampling = common_pb2.SamplingParameters(seed=7)
    together = await judge(stub, *MANY[:10], sampling=sampling)
    for index in (0, 9):
        alone = await judge(stub, MANY[index], sampling=sampling)
        assert alone.judgments[0] == together.judgments[index]


async def test_another_seed_gives_other_replies(stub) -> None:
    replies = [
        [r.reply for j in (await judge(stub, *MANY[:10], sampling=sampling)).judgments for r in j.ratings]
        for sampling in (common_pb2.SamplingParameters(seed=1), common_pb2.SamplingParameters(seed=2))
    ]
    assert replies[0] != replies[1]


async def test_bad_items_fail_alone(stub) -> None:
    reply = await judge(
        stub, common_pb2.Sample(id="none"), sample("blank", "  ", "Hi"), sample("long", "word " * 9000, "Hi"), MANY[0]
    )
    none, blank, long, good = reply.judgments
    assert (none.status.reason, blank.status.reason) == ("BAD_ROLES", "EMPTY_PROMPT")
    assert not none.ratings
    assert long.status.code == 0
    assert {rating.status.reason for rating in long.ratings} == {"TOO_LONG"}
    assert not any(rating.HasField("value") for rating in long.ratings)
    assert len(good.ratings) == 6


async def test_a_sample_without_an_answer_can_be_judged_by_its_prompt(stub) -> None:
    reply = await judge(stub, sample("a", "Why is the sky blue?"), targets=[scoring_pb2.TARGET_PROMPT])
    assert len(reply.judgments[0].ratings) == 3

    both = await judge(stub, sample("a", "Why is the sky blue?"))
    reasons = {(rating.target, rating.status.reason) for rating in both.judgments[0].ratings}
    assert (scoring_pb2.TARGET_RESPONSE, "EMPTY_RESPONSE") in reasons
    assert (scoring_pb2.TARGET_PROMPT, "EMPTY_RESPONSE") not in reasons


@pytest.mark.parametrize(
    ("field", "value"), [("temperature", 2.5), ("top_p", 0.0), ("max_tokens", 0), ("repetition_penalty", 0.5)]
)
async def test_sampling_out_of_range_is_refused(stub, field: str, value: float) -> None:
    sampling = common_pb2.SamplingParameters(**{field: value})
    failure = await failure_of(judge(stub, MANY[0], sampling=sampling))
    assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "BAD_SAMPLING")
    assert field in failure.message


async def test_an_unknown_dimension_is_refused(stub) -> None:
    failure = await failure_of(judge(stub, MANY[0], dimensions=[scoring_pb2.DIMENSION_UNSPECIFIED]))
    assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "BAD_DIMENSION")


async def test_ratings_name_the_weights(stub, model: Path) -> None:
    reply = await judge(stub, MANY[0], model=common_pb2.ModelRef(uri=str(model)))
    assert reply.model.uri == str(model)
    assert reply.timing.generated_tokens > 0
