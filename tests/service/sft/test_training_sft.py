"""Real fine-tuning of a tiny model over real gRPC: what is learnt, what is published, and what a crash changes."""

from __future__ import annotations

import asyncio
import hashlib
import json
import resource
import threading
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from google.rpc import code_pb2

from burnish.api.training.v1 import training_pb2
from burnish_services.engine.model_digests import model_digest
from burnish_services.runtime.config import ServerSettings
from tests.service.training_support import Client, before_training, client_of, sample, spec, worker_process, write_jsonl

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.light]

# Fifteen steps over three epochs, whose last step has but one batch.
HOW = {
    "per_device_batch_size": 4,
    "gradient_accumulation_steps": 2,
    "num_epochs": 3,
    "learning_rate": 2e-3,
    "checkpoint_steps": 4,
}


@pytest.fixture
def eval_data(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "eval.jsonl", [sample(index) for index in range(100, 106)])


def digest_of_file(path: Path) -> str:
    return f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


def curve(events: list[training_pb2.WatchRunResponse]) -> dict[int, tuple[float, float]]:
    """The last loss and learning rate told for each step."""
    return {e.run.progress.step: (e.run.progress.loss, e.run.progress.learning_rate) for e in events}


async def test_training_learns_and_a_crash_changes_nothing(
    settings: ServerSettings, base: Path, data: Path, eval_data: Path
) -> None:
    from burnish_services.engine.hf_tokenizer import HfTokenizer

    asked = spec(base, data, **{**HOW, "num_epochs": 5})  # long enough that what ends it early comes in time
    asked.eval_data_uri = str(eval_data)
    async with client_of(settings) as client:
        calm = await client.watch((await client.create("calm", asked)).run_id)
        disturbed = await client.create("disturbed", asked)
        for step in (2, 6):  # before the first checkpoint, and after it
            await client.until_step(disturbed.run_id, step)
            (await worker_process()).kill()
            await asyncio.sleep(0.2)
        await client.until_step(disturbed.run_id, 10)
        # Now the server stops and another one takes over.
    async with client_of(settings) as client:
        rough = await client.watch(disturbed.run_id)

    last = calm[-1].run
    assert last.state == training_pb2.STATE_SUCCEEDED, last.error
    assert last.progress.step == last.progress.total_steps == 25
    assert last.progress.learning_rate < HOW["learning_rate"] / 20
    assert last.result.eval_loss < before_training(calm) - 1
    assert last.progress.memory_bytes > 10_000_000
    assert last.chat_template_digest == HfTokenizer(base).template_digest

    ended = rough[-1].run
    assert ended.state == training_pb2.STATE_SUCCEEDED, ended.error
    assert ended.num_resumes == 3
    assert curve(rough) == curve(calm)
    assert ended.result.model.digest == last.result.model.digest
    assert ended.result.train_loss == last.result.train_loss
    assert ended.result.eval_loss == last.result.eval_loss
    assert ended.result.num_tokens == last.result.num_tokens


async def test_the_loss_is_the_one_that_scoring_gives(client: Client, base: Path, data: Path, tmp_path: Path) -> None:
    from burnish_services.engine.base import ScoreRequest
    from burnish_services.engine.chat import tokenize_sample
    from burnish_services.engine.hf_tokenizer import HfTokenizer
    from burnish_services.engine.tokenizer import ChatMessage
    from burnish_services.engine.torch_model import TorchModel

    turns = [
        {"role": "system", "content": "Count."},
        {"role": "user", "content": "What is number 1?"},
        {"role": "assistant", "content": "It is one."},
        {"role": "user", "content": "And another?"},
        {"role": "assistant", "content": "It is the number two, the number two."},
    ]
    mixed = write_jsonl(tmp_path / "mixed.jsonl", [{"messages": turns}, sample(1), sample(22), sample(333)])
    asked = spec(base, mixed, per_device_batch_size=2, gradient_accumulation_steps=2, learning_rate=1e-12)
    asked.eval_data_uri = str(mixed)
    events = await client.watch((await client.create("losses", asked)).run_id)
    assert events[-1].run.state == training_pb2.STATE_SUCCEEDED, events[-1].run.error

    tokenizer = HfTokenizer(base)
    total, count = 0.0, 0
    for line in mixed.read_text().splitlines():
        messages = [ChatMessage(turn["role"], turn["content"]) for turn in json.loads(line)["messages"]]
        tokens = tokenize_sample(tokenizer, messages)
        (scores,) = TorchModel(base, "float32").score([ScoreRequest(tokens.ids)], threading.Event())
        for turn in tokens.turns:
            total -= float(scores.logprobs[turn.start - 1 : turn.end - 1].sum())
            count += turn.end - turn.start
    assert before_training(events) == pytest.approx(total / count, abs=1e-4)
    # All four samples are one step, so its loss is the same mean.
    assert events[-1].run.result.train_loss == pytest.approx(total / count, abs=1e-4)


async def test_what_is_published_can_be_served_and_is_not_the_base(
    client: Client, base: Path, data: Path, tmp_path: Path
) -> None:
    import torch
    from safetensors.torch import load_file

    from burnish_services.engine.base import EngineSettings, ScoreRequest, TokenScores
    from burnish_services.engine.canary import check_card, mean_nll
    from burnish_services.engine.transformers_engine import TransformersEngine

    asked = spec(base, data, **{**HOW, "learning_rate": 1e-5, "num_epochs": 1})
    asked.output_uri = str(tmp_path / "models" / "tuned")
    run = await client.finished((await client.create("published", asked)).run_id)
    assert run.state == training_pb2.STATE_SUCCEEDED, run.error
    tuned = Path(run.result.model.uri)

    before, after = load_file(base / "model.safetensors"), load_file(tuned / "model.safetensors")
    assert {name: (t.dtype, t.shape) for name, t in before.items()} == {n: (t.dtype, t.shape) for n, t in after.items()}
    # Weights moved by less than bfloat16 can tell; rounded to the nearest, few would have moved at all.
    moved = torch.cat([(after[name] != before[name]).flatten() for name in before])
    drift = torch.cat([(after[name].double() - before[name].double()).flatten() for name in before])
    assert 0.01 < moved.double().mean() < 0.9
    assert drift.abs().mean() < 5 * HOW["learning_rate"]
    card = json.loads((tuned / "burnish.json").read_text())
    assert card["hyperparameters"]["seed"] == 0
    assert {"burnish", "torch", "transformers"} <= card["versions"].keys()
    assert (card["environment"]["device"], card["environment"]["threads"]) == ("cpu", 1)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (tuned / name).read_bytes() == (base / name).read_bytes()

    engine = TransformersEngine(EngineSettings(model=str(tuned)))
    await engine.start()
    await check_card(engine, tuned)
    assert engine.model.digest == run.result.model.digest == model_digest(tuned)
    (scores,) = await engine.score([ScoreRequest([5, 6, 7, 8])])
    assert isinstance(scores, TokenScores)
    assert mean_nll(scores.logprobs) > 0
    await engine.close()


async def test_mixed_precision_learns_what_float32_learns(
    client: Client, base: Path, data: Path, eval_data: Path
) -> None:
    async def trained(name: str, dtype: str) -> tuple[training_pb2.Run, float]:
        asked = spec(base, data, **HOW, dtype=dtype)
        asked.eval_data_uri = str(eval_data)
        events = await client.watch((await client.create(name, asked)).run_id)
        return events[-1].run, before_training(events)

    (plain, before), (mixed, same), (again, _) = [
        await trained(name, dtype) for name, dtype in (("plain", "float32"), ("mixed", "mixed"), ("again", "mixed"))
    ]
    assert same == before, "what is measured is not rounded"
    assert mixed.state == training_pb2.STATE_SUCCEEDED, mixed.error
    card = json.loads((Path(mixed.result.model.uri) / "burnish.json").read_text())
    assert card["hyperparameters"]["dtype"] == "mixed"
    # Products were rounded, so that the curves differ, and by no more than that.
    assert mixed.result.train_loss != plain.result.train_loss
    assert mixed.result.train_loss == pytest.approx(plain.result.train_loss, abs=0.02)
    assert mixed.result.model.digest == again.result.model.digest


async def test_a_loss_that_is_not_finite_names_the_samples(client: Client, base: Path, data: Path) -> None:
    run = await client.finished((await client.create("hot", spec(base, data, **{**HOW, "learning_rate": 1e35}))).run_id)
    assert run.state == training_pb2.STATE_FAILED
    assert (run.error.code, run.error.reason) == (code_pb2.DATA_LOSS, "NOT_FINITE")
    assert "samples: s" in run.error.message


async def test_what_a_full_disk_has_stopped_is_gone_on_with(
    client: Client, base: Path, data: Path, eval_data: Path
) -> None:
    """Its weights, learnt ones and the best are those of a run that nothing happened to. The worker's files are limited
    to fewer bytes than its checkpoint has; the kernel answers as a full disk does."""
    asked = spec(base, data, **HOW, eval_steps=2, publish_best=True)
    asked.eval_data_uri = str(eval_data)
    asked.bilevel.validation_data_uri = str(eval_data)
    calm = await client.watch((await client.create("calm", asked)).run_id)
    run = await client.create("full", asked)
    await client.until_step(run.run_id, 5)
    (await worker_process()).rlimit(psutil.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
    ended = await client.finished(run.run_id)
    assert ended.state == training_pb2.STATE_FAILED
    assert (ended.error.code, ended.error.reason) == (code_pb2.RESOURCE_EXHAUSTED, "DISK_FULL"), ended.error
    assert "Its last checkpoint, after step 4, is kept" in ended.error.message
    events = await client.watch((await client.create("again", asked)).run_id)
    last = events[-1].run
    assert last.state == training_pb2.STATE_SUCCEEDED, last.error
    assert min(event.run.progress.step for event in events if event.run.progress.total_steps) == 4
    assert {step: told for step, told in curve(events).items() if step > 4} == {
        step: told for step, told in curve(calm).items() if step > 4
    }
    assert last.result.model.digest == calm[-1].run.result.model.digest
    assert last.result.published_step == calm[-1].run.result.published_step


async def test_a_loss_out_of_all_proportion_stops_the_run_and_names_the_sample(
    client: Client, base: Path, tmp_path: Path
) -> None:
    """One sentence over and over, until what is left of the tiny model cannot even imagine another."""
    from burnish_services.training.core import Plan, epoch_order

    rows = [sample(1) | {"id": f"usual{index}"} for index in range(40)] + [sample(1, "zebra quilt xylophone " * 3)]
    how = {"per_device_batch_size": 1, "gradient_accumulation_steps": 1, "learning_rate": 1e-2}
    plan = Plan(**how)  # type: ignore[arg-type]
    seed = next(seed for seed in range(100) if epoch_order([1] * 41, replace(plan, seed=seed), 0).index(40) > 30)
    data = write_jsonl(tmp_path / "data.jsonl", rows)
    asked = spec(base, data, **how, seed=seed, max_loss_ratio=1.2)
    run = await client.finished((await client.create("spike", asked)).run_id)
    assert run.error.reason == "LOSS_SPIKE"
    assert "samples: s1. Nothing is published" in run.error.message
    assert 30 < run.progress.step < 41


async def test_the_best_weights_are_published_where_that_is_asked_for(
    settings: ServerSettings, base: Path, eval_data: Path, tmp_path: Path
) -> None:
    """Trained on answers that have nothing to do with those it is measured on, the model gets worse all the time."""
    data = write_jsonl(tmp_path / "wrong.jsonl", [sample(index, "zebra quilt xylophone") for index in range(36)])
    asked = spec(base, data, **HOW, eval_steps=3, publish_best=True)
    asked.eval_data_uri = str(eval_data)
    async with client_of(settings) as client:
        events = await client.watch((await client.create("best", asked)).run_id)
    run = events[-1].run
    assert run.state == training_pb2.STATE_SUCCEEDED, run.error
    measured = {e.run.progress.step: e.run.progress.eval_loss for e in events if e.run.progress.step % 3 == 0}
    best = min((3, 6, 9, 12, 15), key=lambda step: measured[step] if step < 15 else 1e9)
    assert run.result.published_step == best
    card = json.loads((Path(run.result.model.uri) / "burnish.json").read_text())
    assert card["eval_data_digest"] == digest_of_file(eval_data)
    assert run.result.eval_loss == pytest.approx(measured[best], abs=0.02)
    assert not list((settings.state_dir / "training").rglob("best.safetensors")), "cleaned up"
