"""What a specification means: defaults, refusals, order of the data, schedule."""

from __future__ import annotations

import math
from dataclasses import fields, replace

import pytest

from burnish.api.training.v1 import training_pb2
from burnish_services.training.core import (
    Hyperparameters,
    LoraSpec,
    Plan,
    Refinement,
    RunSpec,
    SpecError,
    check_spec,
    epoch_order,
    fit_processes,
    is_spike,
    lr_factor,
    plan,
    plan_lora,
    shared_out,
    step_batches,
    total_steps,
    validation_batch,
)


def test_every_hyperparameter_of_the_proto_has_a_default_in_the_plan() -> None:
    names = [field.name for field in training_pb2.Hyperparameters.DESCRIPTOR.fields]
    assert names == [f.name for f in fields(Hyperparameters)] == [f.name for f in fields(Plan)]


def test_unset_fields_take_the_defaults_that_the_proto_states() -> None:
    assert plan(Hyperparameters()) == Plan(
        num_epochs=1,
        max_steps=None,
        learning_rate=2e-5,
        warmup_ratio=0.03,
        lr_scheduler="cosine",
        per_device_batch_size=4,
        gradient_accumulation_steps=8,
        weight_decay=0,
        max_grad_norm=1,
        max_sequence_tokens=4096,
        dtype="float32",
        seed=0,
        checkpoint_steps=None,
        gradient_checkpointing=False,
        max_loss_ratio=3.0,
        eval_steps=0,
        publish_best=False,
        packing=False,
    )
    zeros = plan(Hyperparameters(max_grad_norm=0, warmup_ratio=0, weight_decay=0.5, seed=7))
    assert (zeros.max_grad_norm, zeros.warmup_ratio, zeros.weight_decay, zeros.seed) == (0, 0, 0.5, 7)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_epochs", 0),
        ("num_epochs", math.inf),
        ("max_steps", 0),
        ("learning_rate", 0),
        ("learning_rate", math.nan),
        ("warmup_ratio", 1.1),
        ("lr_scheduler", "polynomial"),
        ("max_loss_ratio", 0.5),
        ("eval_steps", -1),
        ("per_device_batch_size", 0),
        ("gradient_accumulation_steps", 0),
        ("weight_decay", -0.1),
        ("max_grad_norm", -1),
        ("max_sequence_tokens", 1),
        ("dtype", "float16"),
        ("checkpoint_steps", 0),
    ],
)
def test_values_out_of_range_are_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(SpecError, match=f"hyperparameters.{name}") as error:
        plan(replace(Hyperparameters(), **{name: value}))  # type: ignore[arg-type]
    assert "expected" in str(error.value)


def test_a_specification_needs_a_base_and_data_and_whole_digests() -> None:
    good = RunSpec(base_uri="m", data_uri="d", data_digest="sha256:" + 64 * "a")
    assert check_spec(good) == Plan()
    for bad, field in (
        (replace(good, base_uri=""), "base_model.uri"),
        (replace(good, data_uri=""), "data_uri"),
        (replace(good, data_digest="sha256:" + 63 * "a"), "data_digest"),
        (replace(good, base_digest="md5:" + 64 * "a"), "base_model.digest"),
        (replace(good, data_uri="/data/" + "./" * 4000), "data_uri"),
        (replace(good, output_uri="/" + "x" * 5000), "output_uri"),
    ):
        with pytest.raises(SpecError) as error:
            check_spec(bad)
        assert error.value.field == field


@pytest.mark.parametrize("named", [["q_proj"] * 65, ["q" * 257]])
def test_names_of_adapted_layers_are_few_and_short(named: list[str]) -> None:
    assert plan_lora(LoraSpec(target_modules=("q_proj",) * 64)).target_modules
    with pytest.raises(SpecError, match=r"lora\.target_modules: has .* expected at most 64"):
        plan_lora(LoraSpec(target_modules=tuple(named)))


@pytest.mark.parametrize(
    ("samples", "changes", "steps"),
    [
        (32, {}, 1),
        (33, {}, 2),
        (33, {"num_epochs": 2}, 4),
        (64, {"num_epochs": 0.5}, 1),
        (320, {"num_epochs": 3, "max_steps": 7}, 7),
        (320, {"max_steps": 700}, 10),
        (1, {"num_epochs": 0.01}, 1),
        (320, {"num_epochs": 1.1}, 11),  # though 1.1 * 10 is above 11 as doubles
    ],
)
def test_steps_are_counted_as_the_trainer_does(samples: int, changes: dict[str, float], steps: int) -> None:
    assert total_steps(replace(Plan(), **changes), samples) == steps  # type: ignore[arg-type]


def test_an_epoch_has_every_sample_once_and_batches_of_like_length() -> None:
    small = replace(Plan(), per_device_batch_size=2, gradient_accumulation_steps=4)
    lengths = [(index * 37) % 101 + 5 for index in range(30)]
    order = epoch_order(lengths, small, 0)
    assert sorted(order) == list(range(30))
    for start in range(0, 30, 8):
        step = [lengths[index] for index in order[start : start + 8]]
        assert step == sorted(step, reverse=True)
    others = [epoch_order(lengths, small, 1), epoch_order(lengths, replace(small, seed=1), 0)]
    assert all(set(other[:8]) != set(order[:8]) for other in others)
    assert epoch_order(lengths, small, 0) == order


@pytest.mark.parametrize(("processes", "batch", "passes"), [(1, 4, 8), (8, 4, 8), (16, 2, 16), (32, 1, 32)])
def test_batches_that_nobody_asked_for_fit_the_processes(processes: int, batch: int, passes: int) -> None:
    fitted = fit_processes(Plan(), Hyperparameters(), processes)
    assert (fitted.per_device_batch_size, fitted.gradient_accumulation_steps) == (batch, passes)
    assert replace(fitted, per_device_batch_size=4, gradient_accumulation_steps=8) == Plan()


@pytest.mark.parametrize(
    ("asked", "processes"),
    [
        (Hyperparameters(), 3),
        (Hyperparameters(), 64),
        (Hyperparameters(per_device_batch_size=4), 16),
        (Hyperparameters(gradient_accumulation_steps=8), 16),
    ],
)
def test_batches_that_cannot_be_shared_are_refused(asked: Hyperparameters, processes: int) -> None:
    with pytest.raises(SpecError, match=f"is 8, expected a multiple of {processes}"):
        fit_processes(plan(asked), asked, processes)


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("processes", [1, 2, 4])
@pytest.mark.parametrize("count", range(1, 17))
def test_a_step_has_each_sample_once_in_as_many_batches_for_each_process(
    count: int, processes: int, packing: bool
) -> None:
    four = replace(Plan(), per_device_batch_size=4, gradient_accumulation_steps=4, packing=packing)
    batches = step_batches(range(count), four)
    assert len(batches) == math.ceil(count / 4)
    assert max(map(len, batches)) <= 4
    assert sorted(index for batch in batches for index in batch) == list(range(count))
    shares = [shared_out(batches, rank, processes) for rank in range(processes)]
    assert {len(share) for share in shares} == {math.ceil(len(batches) / processes)}
    dealt = [batch for turn in zip(*shares, strict=True) for batch in turn]
    assert dealt == batches + [[]] * (len(dealt) - len(batches))


def test_packed_batches_are_dealt_and_others_are_of_like_length() -> None:
    four = replace(Plan(), per_device_batch_size=4, gradient_accumulation_steps=2)
    packed = replace(four, packing=True)
    assert step_batches(range(8), four) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert step_batches(range(8), packed) == [[0, 2, 4, 6], [1, 3, 5, 7]]
    assert step_batches(range(5), four) == [[0, 1, 2, 3], [4]]
    assert step_batches(range(5), packed) == [[0, 2, 4], [1, 3]]


def test_the_rate_rises_then_falls_and_is_never_nought() -> None:
    schedule = replace(Plan(), warmup_ratio=0.2)
    for name in ("cosine", "linear", "constant"):
        factors = [lr_factor(replace(schedule, lr_scheduler=name), step, 10) for step in range(10)]
        assert factors[:3] == [pytest.approx(1 / 3), pytest.approx(2 / 3), 1.0]
        assert all(0 < factor <= 1 for factor in factors)
        assert factors[2:] == sorted(factors[2:], reverse=True)
    assert [lr_factor(replace(schedule, lr_scheduler="linear"), step, 10) for step in (6, 9)] == [0.5, 0.125]
    assert lr_factor(schedule, 6, 10) == pytest.approx(0.5)
    assert lr_factor(replace(schedule, lr_scheduler="constant"), 9, 10) == 1.0
    assert lr_factor(replace(schedule, warmup_ratio=0), 0, 1) == 1.0
    assert lr_factor(replace(schedule, warmup_ratio=1), 3, 4) == pytest.approx(4 / 5)


def test_a_spike_is_out_of_all_proportion_to_every_loss_before() -> None:
    usual = [2.0, 1.5, 1.8, 1.2, 1.1, 1.4, 1.0, 0.9]
    assert is_spike(6.1, usual, 3.0)
    assert not is_spike(5.9, usual, 3.0)
    assert is_spike(5.9, usual, 2.0)
    assert not is_spike(100.0, usual, 0.0), "asked never to stop"
    assert not is_spike(100.0, usual[:7], 3.0), "too few to tell"
    assert not is_spike(0.9, [0.01] * 50, 3.0), "a set that is nearly known by heart meets a sample that is not"


def test_the_best_weights_can_only_be_published_where_they_are_measured() -> None:
    spec = RunSpec("base", "data", hyperparameters=Hyperparameters(publish_best=True, eval_steps=5))
    with pytest.raises(
        SpecError, match="publish_best: is true; expected false, or eval_steps >= 1 and an eval_data_uri"
    ):
        check_spec(spec)
    assert check_spec(replace(spec, eval_data_uri="held.jsonl")).publish_best


def test_validation_samples_come_in_turn_and_follow_from_the_step_alone() -> None:
    steps = [validation_batch(10, 4, 7, step) for step in range(4)]
    assert all(len(set(step)) == 4 for step in steps)
    assert not set(steps[0]) & set(steps[1]), "none twice before the others had their turn"
    assert steps[2:] == [validation_batch(10, 4, 7, step) for step in (2, 3)]
    assert sorted(validation_batch(3, 8, 7, 5)) == [0, 1, 2], "all, where there are fewer than a step takes"


def test_a_run_pauses_after_each_pass_unless_it_is_told_otherwise() -> None:
    def pauses(**steps: int) -> list[int]:
        return [step for step in range(1, 31) if Refinement(**steps).is_due(step, 10)]

    assert pauses() == [10, 20, 30]
    assert pauses(warmup_steps=0) == [1, 11, 21]
    assert pauses(refresh_steps=4) == [10, 14, 18, 22, 26, 30]
    assert pauses(warmup_steps=5, refresh_steps=20) == [5, 25]
