"""Between messages and dataclasses: nothing is lost, unset is not zero, arrays are little-endian."""

from __future__ import annotations

from dataclasses import fields
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from burnish import _convert as convert
from burnish import _convert_replies as replies
from burnish._errors import UsageError
from burnish._training_types import BilevelSelection, Lora, SelfRefinement
from burnish._types import (
    Hyperparameters,
    Message,
    ModelRef,
    ModelVersion,
    Role,
    RunSpec,
    RunState,
    Sample,
    Sampling,
    ValidationRules,
)
from burnish.api.common.v1 import common_pb2
from burnish.api.embedding.v1 import embedding_pb2
from burnish.api.rewriting.v1 import rewriting_pb2
from burnish.api.scoring.v1 import scoring_pb2
from burnish.api.training.v1 import training_pb2

TEXT = st.text(st.characters(codec="utf-8"), max_size=50)


@given(TEXT, st.lists(st.tuples(st.sampled_from(Role), TEXT), max_size=4))
def test_a_sample_comes_back_as_it_went(name: str, turns: list[tuple[Role, str]]) -> None:
    sample = Sample(name, tuple(Message(role, text) for role, text in turns))
    assert convert.sample_from_proto(convert.sample_to_proto(sample)) == sample


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Sampling, common_pb2.SamplingParameters),
        (ValidationRules, rewriting_pb2.ValidationRules),
        (Hyperparameters, training_pb2.Hyperparameters),
        (RunSpec, training_pb2.RunSpec),
        (Lora, training_pb2.Lora),
        (BilevelSelection, training_pb2.BilevelSelection),
        (SelfRefinement, training_pb2.SelfRefinement),
    ],
)
def test_what_is_asked_for_has_the_protos_fields(kind: type, message: type) -> None:
    assert {field.name for field in fields(kind)} == {field.name for field in message.DESCRIPTOR.fields}


def test_unset_stays_unset_and_zero_is_sent() -> None:
    sampling = convert.sampling_to_proto(Sampling(temperature=0.0, seed=0))
    assert sampling is not None
    assert [field.name for field, _ in sampling.ListFields()] == ["temperature", "seed"]
    assert convert.sampling_to_proto(None) is None


def test_a_run_spec_comes_back_as_it_went() -> None:
    spec = RunSpec(
        base_model=ModelRef("/base", "sha256:1"),
        data_uri="/data.jsonl",
        data_digest="sha256:2",
        output_uri="/out",
        hyperparameters=Hyperparameters(
            num_epochs=0.5, max_grad_norm=0.0, gradient_checkpointing=False, seed=2**64 - 1
        ),
        eval_data_uri="/eval.jsonl",
        lora=Lora(rank=8, dropout=0.0, target_modules=("q_proj", "v_proj")),
        bilevel=BilevelSelection("/valid.jsonl", weighting="softmax", auxiliary=False, penalty_decay=0.0),
        refinement=SelfRefinement(warmup_steps=0, temperature=0.5),
    )
    assert replies.run_spec_from_proto(convert.run_spec_to_proto(spec)) == spec
    empty = RunSpec(ModelRef("/base"), "/data.jsonl")
    assert replies.run_spec_from_proto(convert.run_spec_to_proto(empty)) == empty


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        (Hyperparameters(seed=-1), "hyperparameters.seed = -1"),
        (Hyperparameters(max_steps=2**40), "hyperparameters.max_steps = 1099511627776"),
        (Hyperparameters(dtype=16), "hyperparameters.dtype = 16"),  # type: ignore[arg-type]
    ],
)
def test_a_value_that_has_no_place_is_named(wrong: Hyperparameters, named: str) -> None:
    with pytest.raises(UsageError, match=f"{named} cannot be sent"):
        convert.run_spec_to_proto(RunSpec(ModelRef("/base"), "/data", hyperparameters=wrong))


def test_a_model_is_a_path_a_reference_or_a_version(tmp_path) -> None:
    version = ModelVersion("/m", "sha256:1", "fake/0", "float32", "0" * 16)
    assert convert.model_to_proto(version) == common_pb2.ModelRef(uri="/m", digest="sha256:1")
    assert convert.model_to_proto(tmp_path).uri == str(tmp_path)
    assert convert.model_to_proto(None) == common_pb2.ModelRef()


def test_arrays_are_little_endian_and_read_only() -> None:
    array = convert.floats(bytes.fromhex("0000803f000000c0"))
    assert array is not None
    assert array.tolist() == [1.0, -2.0]
    assert array.dtype == np.float32
    assert not array.flags.writeable
    numbers = convert.ints(bytes.fromhex("01000000feffffff"))
    assert numbers is not None
    assert numbers.tolist() == [1, -2]
    assert convert.floats(b"") is None


def test_a_failed_score_has_no_numbers() -> None:
    status = common_pb2.ItemStatus(code=3, reason="EMPTY_RESPONSE", message="no text")
    score = replies.score_from_proto(scoring_pb2.SampleScore(sample_id="a", status=status, mean_nll=0.0))
    assert (score.mean_nll, score.sum_nll, score.perplexity, score.turns) == (None, None, None, ())
    assert score.status.reason == "EMPTY_RESPONSE"


def test_a_rating_of_zero_is_not_a_missing_rating() -> None:
    judgment = scoring_pb2.SampleJudgment(sample_id="a")
    judgment.ratings.add(dimension=1, target=2, value=0.0)
    judgment.ratings.add(dimension=1, target=1)
    assert [rating.value for rating in replies.judgment_from_proto(judgment).ratings] == [0.0, None]


def test_an_empty_collection_has_no_model() -> None:
    collection = replies.collection_from_proto(embedding_pb2.Collection(name="c"))
    assert (collection.model, collection.create_time) == (None, None)


def test_a_rewrite_that_is_ok_must_have_a_sample() -> None:
    with pytest.raises(ValueError, match="'a' is OK but has no sample"):
        replies.rewrite_from_proto(rewriting_pb2.Rewrite(sample_id="a"))


def test_a_rejection_this_client_does_not_know_is_still_one() -> None:
    rewrite = rewriting_pb2.Rewrite(sample_id="a", status=common_pb2.ItemStatus(code=10))
    rewrite.attempts.add().rejection = 77  # type: ignore[assignment]
    assert replies.rewrite_from_proto(rewrite).attempts[0].rejection == "unknown_77"


def test_a_run_keeps_its_times_and_what_is_not_known_yet() -> None:
    run = training_pb2.Run(run_id="r", state=training_pb2.STATE_RUNNING)
    run.create_time.FromJsonString("2026-01-02T03:04:05.5Z")
    run.progress.time_left.FromMilliseconds(1250)
    run.progress.loss = 0.0
    snapshot = replies.run_from_proto(run)
    assert snapshot.state is RunState.RUNNING
    assert snapshot.create_time == datetime(2026, 1, 2, 3, 4, 5, 500_000, tzinfo=UTC)
    assert (snapshot.start_time, snapshot.result, snapshot.error) == (None, None, None)
    assert (snapshot.progress.seconds_left, snapshot.progress.loss, snapshot.progress.eval_loss) == (1.25, 0.0, None)


def test_a_finished_run_has_its_result() -> None:
    run = training_pb2.Run(run_id="r", state=training_pb2.STATE_SUCCEEDED)
    run.result.model.uri, run.result.eval_loss = "/out", 0.0
    run.result.duration.FromMilliseconds(2500)
    run.result.skipped.append("line 3")
    result = replies.run_from_proto(run).result
    assert result is not None
    assert (result.model, result.seconds, result.eval_loss, result.skipped) == (ModelRef("/out"), 2.5, 0.0, ("line 3",))
