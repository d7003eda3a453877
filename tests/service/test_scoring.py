"""ScoreSamples, LoadModel and GetInfo over real gRPC on the fake engine."""

from __future__ import annotations

import math
from pathlib import Path

import grpc
import grpc.aio
import numpy as np
import pytest

from burnish.api.common.v1 import common_pb2
from burnish.api.scoring.v1 import scoring_pb2, scoring_pb2_grpc
from burnish_services.engine.chat import tokenize_sample
from burnish_services.engine.fake import FakeTokenizer, write_fake_model
from burnish_services.engine.tokenizer import ChatMessage
from tests.service.support import failure_of, sample


@pytest.fixture
def stub(channel: grpc.aio.Channel) -> scoring_pb2_grpc.ScoringServiceAsyncStub:
    return scoring_pb2_grpc.ScoringServiceStub(channel)


async def score(stub, *samples, **fields):
    return await stub.ScoreSamples(scoring_pb2.ScoreSamplesRequest(samples=samples, **fields))


async def test_info_states_engine_model_and_limits(stub, model: Path) -> None:
    reply = await stub.GetInfo(scoring_pb2.GetInfoRequest())
    assert reply.info.engine.startswith("fake/")
    assert reply.info.model.uri == str(model)
    assert reply.info.limits.max_message_bytes == 64 * 2**20
    assert reply.info.limits.max_items > 0
    assert reply.info.limits.max_sequence_tokens == 8192
    assert len(reply.prompt_digests["judge"]) == 16
    assert reply.score_method == "fake"


async def test_score_counts_exactly_the_response_tokens(stub) -> None:
    reply = await score(stub, sample("a", "What is water?", "It is wet."), return_tokens=True)
    (result,) = reply.scores
    tokens = tokenize_sample(
        FakeTokenizer(), [ChatMessage("user", "What is water?"), ChatMessage("assistant", "It is wet.")]
    )
    turn = tokens.turns[0]
    assert result.sample_id == "a"
    assert result.status.code == 0
    assert result.num_tokens == turn.end - turn.start
    assert result.num_sequence_tokens == len(tokens.ids)
    ids = np.frombuffer(result.turns[0].token_ids, dtype="<i4")
    logprobs = np.frombuffer(result.turns[0].logprobs, dtype="<f4")
    assert ids.tolist() == tokens.ids[turn.start : turn.end]
    assert len(logprobs) == result.num_tokens
    assert result.sum_nll == pytest.approx(-float(logprobs.sum(dtype=np.float64)))
    assert result.mean_nll == pytest.approx(result.sum_nll / result.num_tokens)
    assert result.perplexity == pytest.approx(math.exp(result.mean_nll))
    assert reply.timing.prompt_tokens == len(tokens.ids)


async def test_tokens_are_left_out_unless_asked_for(stub) -> None:
    reply = await score(stub, sample("a", "Hello", "Hi"))
    assert not reply.scores[0].turns[0].token_ids
    assert not reply.scores[0].turns[0].logprobs


async def test_what_else_can_be_asked_for_comes_with_the_same_losses(stub) -> None:
    conversation = sample("a", "One two?", "First answer.", "Three?", "The second one.")
    (plain,) = (await score(stub, conversation)).scores
    (full,) = (
        await score(
            stub,
            conversation,
            return_tokens=True,
            score_unconditional=True,
            score_distribution=True,
            mean_hidden_state=scoring_pb2.TOKEN_SPAN_USER,
        )
    ).scores
    assert full.mean_nll == plain.mean_nll
    logprobs = np.concatenate([np.frombuffer(turn.logprobs, dtype="<f4") for turn in full.turns])
    assert plain.mean_probability == pytest.approx(np.exp(logprobs).mean())
    assert plain.min_probability == pytest.approx(np.exp(logprobs.min()))
    assert not plain.HasField("unconditional")
    assert not plain.HasField("mean_entropy")
    assert not plain.HasField("mean_margin")
    assert plain.mean_hidden_state == b""
    # The fake tokenizer's texts begin with a BOS, so every response token is predicted without the prompt too.
    without = full.unconditional
    assert without.num_tokens == full.num_tokens
    assert without.ifd == pytest.approx(full.mean_nll / without.mean_nll)
    assert without.pmi == pytest.approx(without.mean_nll - full.mean_nll)
    assert full.mean_entropy > 0
    assert 0 <= full.mean_margin <= 1
    assert np.frombuffer(full.mean_hidden_state, dtype="<f4").shape == (64,)


async def test_a_span_that_does_not_exist_is_refused(stub) -> None:
    failure = await failure_of(score(stub, sample("a", "Hello", "Hi"), mean_hidden_state=9))
    assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "BAD_SPAN")


async def test_turns_add_up(stub) -> None:
    reply = await score(
        stub, sample("a", "One?", "First answer.", "Two?", "The second one, longer.", system="Be kind.")
    )
    (result,) = reply.scores
    assert [turn.message_index for turn in result.turns] == [2, 4]
    assert sum(turn.num_tokens for turn in result.turns) == result.num_tokens
    assert math.fsum(turn.sum_nll for turn in result.turns) == pytest.approx(result.sum_nll)


async def test_bad_items_fail_alone_and_in_place(stub) -> None:
    reply = await score(
        stub,
        sample("good", "Hello", "Hi"),
        sample("empty", "Hello", "  "),
        sample("no answer", "Hello"),
        common_pb2.Sample(id="roles"),
        sample("long", "Hello", "word " * 9000),
        sample("also good", "Hello", "Hi"),
    )
    assert [s.sample_id for s in reply.scores] == ["good", "empty", "no answer", "roles", "long", "also good"]
    assert [s.status.reason for s in reply.scores] == ["", "EMPTY_RESPONSE", "BAD_ROLES", "BAD_ROLES", "TOO_LONG", ""]
    invalid = grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert [s.status.code for s in reply.scores] == [0, invalid, invalid, invalid, invalid, 0]
    assert all(s.mean_nll == 0 and not s.turns for s in reply.scores if s.status.code)
    assert "at most 8192" in reply.scores[4].status.message
    assert reply.scores[0].mean_nll == reply.scores[5].mean_nll > 0


async def test_an_unset_role_is_an_item_error(stub) -> None:
    unset = common_pb2.Sample(id="a", messages=[common_pb2.Message(content="Hello")])
    reply = await score(stub, unset)
    assert reply.scores[0].status.reason == "BAD_ROLES"


async def test_a_batch_in_which_nothing_can_be_scored_is_answered(stub) -> None:
    reply = await score(stub, sample("a", "Hello", ""))
    assert reply.scores[0].status.reason == "EMPTY_RESPONSE"


async def test_losses_that_are_not_finite_are_named(stub, tmp_path: Path) -> None:
    # A model whose canary is not finite is never served at all.
    bad = write_fake_model(tmp_path / "nan", fault="nan")
    failure = await failure_of(score(stub, sample("a", "Hello", "Hi"), model=common_pb2.ModelRef(uri=str(bad))))
    assert failure.code is grpc.StatusCode.FAILED_PRECONDITION
    assert failure.reason == "CANARY_FAILED"
    assert (await score(stub, sample("a", "Hello", "Hi"))).scores[0].status.code == 0


async def test_duplicate_ids_are_refused(stub) -> None:
    failure = await failure_of(score(stub, sample("a", "Hello", "Hi"), sample("a", "Bye", "Bye")))
    assert failure.code is grpc.StatusCode.INVALID_ARGUMENT
    assert failure.reason == "DUPLICATE_ID"
    assert "'a'" in failure.message
    assert not failure.retryable


@pytest.mark.parametrize("sample_id", ["", "x" * 257])
async def test_bad_ids_are_refused(stub, sample_id: str) -> None:
    failure = await failure_of(score(stub, sample(sample_id, "Hello", "Hi")))
    assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "BAD_ID")


async def test_an_empty_batch_is_refused(stub) -> None:
    failure = await failure_of(score(stub))
    assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "EMPTY_BATCH")


async def test_more_items_than_the_limit_are_refused(stub) -> None:
    most = (await stub.GetInfo(scoring_pb2.GetInfoRequest())).info.limits.max_items
    failure = await failure_of(score(stub, *(sample(str(i), "Hello", "Hi") for i in range(most + 1))))
    assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "TOO_MANY_ITEMS")
    assert str(most) in failure.message


async def test_load_model_swaps_and_says_so(stub, model: Path, tmp_path: Path) -> None:
    other = write_fake_model(tmp_path / "other", name="second", seed=2)
    before = await score(stub, sample("a", "Hello", "Hi"))
    loaded = await stub.LoadModel(scoring_pb2.LoadModelRequest(model=common_pb2.ModelRef(uri=f"file://{other}")))
    after = await score(stub, sample("a", "Hello", "Hi"))
    assert loaded.model.uri == str(other)
    assert loaded.timing.model_swap.ToNanoseconds() > 0
    assert after.model.digest == loaded.model.digest != before.model.digest
    assert after.scores[0].mean_nll != before.scores[0].mean_nll
    named = await score(stub, sample("a", "Hello", "Hi"), model=common_pb2.ModelRef(uri=str(model)))
    assert named.scores[0].mean_nll == before.scores[0].mean_nll


async def test_load_model_needs_a_uri(stub) -> None:
    failure = await failure_of(stub.LoadModel(scoring_pb2.LoadModelRequest()))
    assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "NO_MODEL")


async def test_a_model_that_is_not_there_is_not_found(stub, tmp_path: Path) -> None:
    wanted = common_pb2.ModelRef(uri=str(tmp_path / "nowhere"))
    failure = await failure_of(score(stub, sample("a", "Hello", "Hi"), model=wanted))
    assert (failure.code, failure.reason) == (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND")
    assert "nowhere" in failure.message


async def test_a_model_with_another_digest_is_refused(stub, model: Path) -> None:
    wanted = common_pb2.ModelRef(uri=str(model), digest="sha256:" + "0" * 64)
    failure = await failure_of(score(stub, sample("a", "Hello", "Hi"), model=wanted))
    assert (failure.code, failure.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "MODEL_DIGEST_MISMATCH")
    assert (await score(stub, sample("a", "Hello", "Hi"))).model.uri == str(model)


async def test_a_broken_model_leaves_the_old_one_serving(stub, model: Path, tmp_path: Path) -> None:
    broken = write_fake_model(tmp_path / "broken", fault="load")
    failure = await failure_of(score(stub, sample("a", "Hello", "Hi"), model=common_pb2.ModelRef(uri=str(broken))))
    assert (failure.code, failure.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "MODEL_LOAD_FAILED")
    assert (await score(stub, sample("a", "Hello", "Hi"))).model.uri == str(model)
