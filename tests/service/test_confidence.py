"""EstimateConfidence, ComparePairs and JudgeSamples in logit mode over real gRPC on the fake engine."""

from __future__ import annotations

import grpc
import grpc.aio
import pytest

from burnish.api.common.v1 import common_pb2
from burnish.api.scoring.v1 import scoring_pb2, scoring_pb2_grpc
from burnish.coordinator.policy.confidence import Evidence, SampledAnswer, Weights, combined
from tests.service.support import failure_of, sample

SAMPLES = [sample("a", "What is water?", "It is wet."), sample("b", "Name a colour.", "Red.", system="Be brief.")]
STANDARD = scoring_pb2.CONFIDENCE_TIER_STANDARD


@pytest.fixture
def stub(channel: grpc.aio.Channel) -> scoring_pb2_grpc.ScoringServiceAsyncStub:
    return scoring_pb2_grpc.ScoringServiceStub(channel)


async def estimates(stub, *samples, **fields):
    reply = await stub.EstimateConfidence(scoring_pb2.EstimateConfidenceRequest(samples=samples, **fields))
    assert [one.sample_id for one in reply.estimates] == [one.id for one in samples]
    return reply.estimates


async def test_the_fast_tier_reflects_without_sampling(stub) -> None:
    for one in await estimates(stub, *SAMPLES):
        assert one.status.code == 0
        assert len(one.reflections) == 6
        for verdict in one.reflections:
            assert sum(verdict.probabilities) == pytest.approx(1.0)
        expected = sum(v.probabilities[0] + v.probabilities[2] / 2 for v in one.reflections) / 6
        assert one.reflection == one.confidence == pytest.approx(expected)
        assert not one.HasField("consistency")
        assert not one.answers
        assert one.covered_mass == pytest.approx(0.9, abs=1e-5)  # what the fake engine gives to the letters
        assert 0 < one.min_probability <= one.mean_probability < 1
        assert one.mean_nll > 0


async def test_the_likelihoods_are_those_of_scoring(stub) -> None:
    scores = (await stub.ScoreSamples(scoring_pb2.ScoreSamplesRequest(samples=SAMPLES))).scores
    for one, score in zip(await estimates(stub, *SAMPLES), scores, strict=True):
        assert (one.mean_nll, one.min_probability) == (score.mean_nll, score.min_probability)
        assert one.mean_probability == pytest.approx(score.mean_probability)


async def test_orders_are_turned_back(stub) -> None:
    """The same letters in three orders stand for different verdicts, so equal letters may not give equal verdicts."""
    (one,) = await estimates(stub, SAMPLES[0])
    assert len({tuple(verdict.probabilities) for verdict in one.reflections}) == 6


async def test_the_standard_tier_adds_answers_of_the_model_s_own(stub) -> None:
    fields = {"tier": STANDARD, "num_answers": 4, "sampling": common_pb2.SamplingParameters(seed=3)}
    for one in await estimates(stub, *SAMPLES, **fields):
        assert len(one.answers) == 4
        read = [answer for answer in one.answers if answer.status.code == 0]
        for answer in one.answers:
            assert (answer.text == "") == (answer.status.reason == "UNPARSEABLE")
        if read:
            observed = sum(answer.agreement for answer in read) / len(read)
            assert one.consistency == pytest.approx(observed)
            assert one.confidence == pytest.approx(0.7 * observed + 0.3 * one.reflection)
        else:
            assert one.confidence == one.reflection
    there, back = await estimates(stub, *SAMPLES, **fields), await estimates(stub, *reversed(SAMPLES), **fields)
    assert [one.confidence for one in there] == [one.confidence for one in reversed(back)]


async def test_samples_of_one_prompt_share_its_answers(stub) -> None:
    twins = [sample("x", "What is water?", "It is wet."), sample("y", "What is water?", "It is dry.")]
    fields = {"tier": STANDARD, "sampling": common_pb2.SamplingParameters(seed=3)}
    one, other = await estimates(stub, *twins, **fields)
    assert [answer.reply for answer in one.answers] == [answer.reply for answer in other.answers]
    reply = await stub.EstimateConfidence(scoring_pb2.EstimateConfidenceRequest(samples=twins, **fields))
    (alone,) = await estimates(stub, twins[0], **fields)
    generated = (
        await stub.EstimateConfidence(scoring_pb2.EstimateConfidenceRequest(samples=twins[:1], **fields))
    ).timing.generated_tokens
    assert reply.timing.generated_tokens == generated
    assert alone.confidence == one.confidence


async def test_failures_stay_with_their_samples(stub) -> None:
    good, empty, long = await estimates(
        stub, SAMPLES[0], sample("e", "Q", ""), sample("l", "Q", "word " * 9000), tier=STANDARD
    )
    assert (good.status.code, empty.status.reason, long.status.reason) == (0, "EMPTY_RESPONSE", "TOO_LONG")
    (doubtful,) = await estimates(stub, SAMPLES[0], min_covered_mass=0.95)
    assert doubtful.status.reason == "NOTHING_TO_GO_BY"
    assert "0.90" in doubtful.status.message


@pytest.mark.parametrize(
    "fields",
    [
        {"alpha": -0.1},
        {"beta": 1.5},
        {"likelihood_weight": 2.0},
        {"num_answers": 0},
        {"min_covered_mass": 9},
        {"tier": 7},
    ],
)
async def test_values_out_of_range_are_refused(stub, fields: dict[str, float]) -> None:
    failure = await failure_of(
        stub.EstimateConfidence(scoring_pb2.EstimateConfidenceRequest(samples=SAMPLES, **fields))
    )
    assert failure.code == grpc.StatusCode.INVALID_ARGUMENT


async def test_the_full_tier_needs_a_model_for_it(stub) -> None:
    request = scoring_pb2.EstimateConfidenceRequest(samples=SAMPLES, tier=scoring_pb2.CONFIDENCE_TIER_FULL)
    failure = await failure_of(stub.EstimateConfidence(request))
    assert (failure.code, failure.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "NLI_NOT_CONFIGURED")


def pair(name: str, first: str, second: str, prompt: str = "Why is the sky blue?") -> scoring_pb2.ResponsePair:
    message = common_pb2.Message(role=common_pb2.ROLE_USER, content=prompt)
    return scoring_pb2.ResponsePair(id=name, prompt=[message], first=first, second=second)


async def test_preferences_do_not_depend_on_who_comes_first(stub) -> None:
    texts = ["Because of scattering.", "Blue light scatters most in air.", "It is not.", "The sea is mirrored in it."]
    pairs = [pair(f"{i}{j}", texts[i], texts[j]) for i in range(4) for j in range(4) if i != j]
    reply = await stub.ComparePairs(scoring_pb2.ComparePairsRequest(pairs=pairs))
    found = {one.pair_id: one for one in reply.preferences}
    for name, one in found.items():
        assert one.status.code == 0
        assert one.p_second == pytest.approx(1 - found[name[::-1]].p_second, abs=1e-6)
        assert one.flipped == found[name[::-1]].flipped
        assert [len(order.probabilities) for order in one.orders] == [3, 3]
    assert reply.flip_rate == sum(one.flipped for one in found.values()) / 12
    assert {one.winner for one in found.values()} > {scoring_pb2.WINNER_TIE}


async def test_pairs_that_cannot_be_compared_fail_alone(stub) -> None:
    reply = await stub.ComparePairs(
        scoring_pb2.ComparePairsRequest(
            pairs=[
                pair("good", "one", "two"),
                pair("empty", "one", " "),
                pair("asked", "one", "two", prompt=""),
                scoring_pb2.ResponsePair(id="bare", first="one", second="two"),
            ]
        )
    )
    reasons = [one.status.reason for one in reply.preferences]
    assert reasons == ["", "EMPTY_RESPONSE", "EMPTY_PROMPT", "BAD_ROLES"]
    failure = await failure_of(
        stub.ComparePairs(scoring_pb2.ComparePairsRequest(pairs=[pair("a", "b", "c")], max_length_ratio=0.5))
    )
    assert failure.code == grpc.StatusCode.INVALID_ARGUMENT


async def test_logit_ratings_need_no_sampling_and_have_no_gaps(stub) -> None:
    request = scoring_pb2.JudgeSamplesRequest(samples=SAMPLES, mode=scoring_pb2.JUDGE_MODE_LOGIT)
    reply = await stub.JudgeSamples(request)
    for judgment in reply.judgments:
        assert [(r.dimension, r.target) for r in judgment.ratings] == [(d, t) for d in (1, 2, 3) for t in (1, 2)]
        for rating in judgment.ratings:
            expected = sum(d * p for d, p in enumerate(rating.digits.probabilities)) * 10 / 9
            assert rating.value == pytest.approx(expected)
            assert 0 <= rating.value <= 10
            assert rating.reply == ""
    assert reply.timing.generated_tokens == 0
    generated = await stub.JudgeSamples(scoring_pb2.JudgeSamplesRequest(samples=SAMPLES))
    assert generated.prompt_digest != reply.prompt_digest, "ratings of the two modes are never mixed"
    assert (await stub.JudgeSamples(request)).judgments == reply.judgments
    bad = scoring_pb2.JudgeSamplesRequest(samples=SAMPLES, mode=9)
    assert (await failure_of(stub.JudgeSamples(bad))).reason == "BAD_MODE"


async def test_what_cannot_be_rated_is_named_in_both_modes(stub) -> None:
    for mode in (scoring_pb2.JUDGE_MODE_GENERATED, scoring_pb2.JUDGE_MODE_LOGIT):
        reply = await stub.JudgeSamples(
            scoring_pb2.JudgeSamplesRequest(samples=[sample("e", "", "A"), sample("n", "Q", " ")], mode=mode)
        )
        assert reply.judgments[0].status.reason == "EMPTY_PROMPT"
        assert [rating.status.reason for rating in reply.judgments[1].ratings] == ["", "EMPTY_RESPONSE"] * 3


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("beta", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("likelihood", [0.0, 0.4])
async def test_the_coordinator_makes_the_same_confidence_of_the_same_evidence(
    stub, alpha: float, beta: float, likelihood: float
) -> None:
    """The formula stands twice, see docs/decisions/0004; here both meet."""
    fields = {"tier": STANDARD, "num_answers": 4, "sampling": common_pb2.SamplingParameters(seed=3)}
    weights = {"alpha": alpha, "beta": beta, "likelihood_weight": likelihood}
    for mass in (0.5, 0.95):  # the fake engine's letters have 0.9
        for one in await estimates(stub, *SAMPLES, **fields, **weights, min_covered_mass=mass):
            if one.status.code:
                continue
            evidence = Evidence(
                verdicts=tuple((v.probabilities[0], v.probabilities[1], v.probabilities[2]) for v in one.reflections),
                masses=tuple(v.covered_mass for v in one.reflections),
                answers=tuple(
                    SampledAnswer(a.text, a.similarity, a.exact_match)
                    if a.status.code == 0
                    else SampledAnswer("", None, None)
                    for a in one.answers
                ),
                mean_nll=one.mean_nll,
                mean_probability=one.mean_probability,
            )
            found = combined(evidence, Weights(alpha, beta, likelihood, mass))
            assert found == pytest.approx(one.confidence, abs=1e-12)
