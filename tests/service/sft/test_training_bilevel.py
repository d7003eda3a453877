"""Weights, adapters and bilevel selection on a tiny real model over real gRPC."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from burnish.api.training.v1 import training_pb2
from burnish_services.runtime.config import ServerSettings
from burnish_services.training.core import Lora
from burnish_services.training.state import RunError
from tests.service.training_support import Client, before_training, client_of, sample, spec, worker_process, write_jsonl

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.light]

HOW: dict[str, Any] = {
    "per_device_batch_size": 4,
    "gradient_accumulation_steps": 2,
    "num_epochs": 3,
    "learning_rate": 2e-3,
    "checkpoint_steps": 4,
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Sixty samples, every third of which answers with what has nothing to do with the question."""
    rows = [sample(index, "zebra quilt xylophone" * 2 if index % 3 == 0 else "") for index in range(60)]
    return write_jsonl(tmp_path / "data.jsonl", rows)


@pytest.fixture
def validation(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "validation.jsonl", [sample(index) for index in range(100, 110)])


async def weights(client: Client, run_id: str) -> list[tuple[int, dict[str, float]]]:
    """The snapshots: (step, logit by id)."""
    found: dict[int, dict[str, float]] = {}
    async for part in client.stub.ReadSampleWeights(training_pb2.ReadSampleWeightsRequest(run_id=run_id)):
        found.setdefault(part.step, {}).update({one.id: one.logit for one in part.weights})
    return sorted(found.items())


def auc(logits: dict[str, float]) -> float:
    clean = [value for name, value in logits.items() if int(name[1:]) % 3]
    noisy = [value for name, value in logits.items() if not int(name[1:]) % 3]
    return float(np.mean([[a > b for b in noisy] for a in clean]))


async def test_noise_is_weighed_down(client: Client, base: Path, data: Path, validation: Path) -> None:
    asked = spec(base, data, **HOW)
    asked.bilevel.validation_data_uri = str(validation)
    run = await client.finished((await client.create("sigmoid", asked)).run_id)
    assert run.state == training_pb2.STATE_SUCCEEDED, run.error
    learnt = await weights(client, run.run_id)
    assert [step for step, _ in learnt] == [8, 16, 24], "after each epoch"
    assert auc(learnt[-1][1]) >= 0.9


async def test_a_crash_changes_nothing_of_what_is_learnt(
    settings: ServerSettings, base: Path, data: Path, validation: Path
) -> None:
    """With all that a step has of its own: adapters, an auxiliary model, moments of the selector."""
    asked = spec(base, data, **{**HOW, "num_epochs": 1.5})
    asked.lora.rank = 4
    asked.bilevel.CopyFrom(
        training_pb2.BilevelSelection(validation_data_uri=str(validation), weighting="softmax", auxiliary=True)
    )
    async with client_of(settings) as client:
        calm = await client.finished((await client.create("calm", asked)).run_id)
        disturbed = await client.create("disturbed", asked)
        await client.until_step(disturbed.run_id, 6)
        (await worker_process()).kill()
        rough = await client.finished(disturbed.run_id)
        learnt, again = await weights(client, calm.run_id), await weights(client, rough.run_id)
    assert calm.state == rough.state == training_pb2.STATE_SUCCEEDED, (calm.error, rough.error)
    assert rough.num_resumes == 1
    assert [step for step, _ in learnt] == [8, 12]
    assert learnt[0] != learnt[1]
    assert again == learnt
    assert rough.result.model.digest == calm.result.model.digest


async def test_a_missing_or_changed_validation_set_is_named(
    client: Client, base: Path, data: Path, validation: Path
) -> None:
    asked = spec(base, data)
    for uri, digest, said in (
        (str(validation) + ".gone", "", "bilevel.validation_data_uri"),
        (str(validation), "sha256:" + "0" * 64, r"bilevel\.validation_data_uri.* expected sha256:000"),
        (str(validation), "md5:1", "bilevel.validation_data_digest: is 'md5:1'"),
        ("", "", "bilevel.validation_data_uri: is empty"),
    ):
        asked.bilevel.validation_data_uri, asked.bilevel.validation_data_digest = uri, digest
        with pytest.raises(grpc.aio.AioRpcError, match=said):
            await client.create("asked", asked)


async def test_weights_count_as_they_are_given(client: Client, base: Path, tmp_path: Path) -> None:
    """One step's loss is the weighted mean over response tokens; what weighs nothing is left out and named."""
    from burnish_services.engine.base import ScoreRequest
    from burnish_services.engine.chat import tokenize_sample
    from burnish_services.engine.hf_tokenizer import HfTokenizer
    from burnish_services.engine.tokenizer import ChatMessage
    from burnish_services.engine.torch_model import TorchModel

    rows = [{**sample(index), "weight": weight} for index, weight in enumerate((3.0, 0.5, 0, 1))]
    bad = [{**sample(9), "weight": value} for value in (-1, "much", True)]
    mixed = write_jsonl(tmp_path / "weighted.jsonl", rows + bad)
    asked = spec(base, mixed, per_device_batch_size=2, learning_rate=1e-12)
    run = await client.finished((await client.create("weighted", asked)).run_id)
    assert run.state == training_pb2.STATE_SUCCEEDED, run.error
    assert list(run.result.skipped) == ["s2", "s9", "s9", "s9"]

    tokenizer, total, count = HfTokenizer(base), 0.0, 0.0
    for row in (rows[0], rows[1], rows[3]):
        tokens = tokenize_sample(tokenizer, [ChatMessage(**turn) for turn in row["messages"]])
        (scores,) = TorchModel(base, "float32").score([ScoreRequest(tokens.ids)], threading.Event())
        for turn in tokens.turns:
            total -= row["weight"] * float(scores.logprobs[turn.start - 1 : turn.end - 1].sum())
            count += row["weight"] * (turn.end - turn.start)
    assert run.result.train_loss == pytest.approx(total / count, abs=1e-4)


async def test_adapters_are_merged_into_a_model_that_serves(
    client: Client, base: Path, data: Path, validation: Path
) -> None:
    from safetensors.torch import load_file

    asked = spec(base, data, **{**HOW, "learning_rate": 1e-2})
    asked.eval_data_uri = str(validation)
    asked.lora.CopyFrom(training_pb2.Lora(rank=4, dropout=0.1, target_modules=["q_proj", "v_proj"]))
    events = await client.watch((await client.create("adapters", asked)).run_id)
    run = events[-1].run
    assert run.state == training_pb2.STATE_SUCCEEDED, run.error
    assert run.result.eval_loss < before_training(events) - 0.1
    before, after = (
        {name: tensor for path in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(path).items()}
        for folder in (base, Path(run.result.model.uri))
    )
    changed = {name for name in before if not before[name].equal(after[name])}
    assert before.keys() == after.keys()
    assert {name.split(".")[-2] for name in changed} == {"q_proj", "v_proj"}


def test_layers_that_are_not_there_are_named(base: Path) -> None:
    from transformers import AutoModelForCausalLM

    from burnish_services.training.lora import add_adapters

    lora = Lora(rank=4, alpha=8.0, dropout=0.0, target_modules=("attn_c",), adapter_only=False)
    with pytest.raises(RunError, match="q_proj") as refused:
        add_adapters(AutoModelForCausalLM.from_pretrained(base), lora, seed=0)
    assert refused.value.failure.reason == "BAD_TARGET_MODULES"


async def test_a_rank_of_nothing_is_refused(client: Client, base: Path, data: Path) -> None:
    asked = spec(base, data)
    asked.lora.rank = 0
    with pytest.raises(grpc.aio.AioRpcError, match=r"lora\.rank: is 0, expected a whole number in \[1, 1024\]"):
        await client.create("rank", asked)
