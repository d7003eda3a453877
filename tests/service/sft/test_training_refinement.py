"""Online self-refinement on a tiny real model over real gRPC: pauses, the model's own responses, and going on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from burnish.api.training.v1 import training_pb2
from burnish_services.engine.chat import prompt_ids
from burnish_services.engine.hf_tokenizer import HfTokenizer
from burnish_services.engine.model_digests import model_digest
from burnish_services.engine.tokenizer import ChatMessage
from burnish_services.runtime.config import ServerSettings
from tests.service.training_support import ENDED, Client, client_of, sample, spec, worker_process, write_jsonl

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.light]

ROWS = [sample(index) for index in range(24)]
ASKED = ("s1", "s5", "s9")  # the questions that are answered anew
HOW: dict[str, Any] = {
    "per_device_batch_size": 4,
    "gradient_accumulation_steps": 1,
    "num_epochs": 2,
    "learning_rate": 2e-3,
    "checkpoint_steps": 100,
}


@pytest.fixture
def asked(base: Path, tmp_path: Path) -> training_pb2.RunSpec:
    made = spec(base, write_jsonl(tmp_path / "data.jsonl", ROWS), **HOW)
    made.bilevel.validation_data_uri = str(
        write_jsonl(tmp_path / "validation.jsonl", [sample(index) for index in range(100, 108)])
    )
    made.refinement.CopyFrom(training_pb2.SelfRefinement(warmup_steps=3, refresh_steps=5, min_effective_share=0))
    return made


async def until_paused(client: Client, run_id: str, step: int = 0) -> training_pb2.Run:
    """The run once it waits, after at least `step` steps, or has ended."""
    call = client.stub.WatchRun(training_pb2.WatchRunRequest(run_id=run_id))
    async for event in call:
        run = event.run
        if (run.state == training_pb2.STATE_PAUSED and run.pause.step >= step) or run.state in ENDED:
            call.cancel()
            return run
    raise AssertionError("the stream ended before the run did")


def respond(pause: training_pb2.Pause, path: Path, *, count: int = 2) -> Path:
    """Responses to the questions, sampled token by token from the model at the pause, with their log-probabilities."""
    import torch

    from burnish_services.engine.torch_model import TorchModel

    place = Path(pause.model.uri)
    assert model_digest(place) == pause.model.digest
    tokenizer, model = HfTokenizer(place), TorchModel(place, "float32")
    random = np.random.default_rng(pause.step)
    lines = []
    for row in ROWS:
        if row["id"] not in ASKED:
            continue
        prompt = prompt_ids(tokenizer, [ChatMessage(**turn) for turn in row["messages"][:-1]])
        responses = []
        for _ in range(count):
            ids: list[int] = []
            logprobs: list[float] = []
            while len(ids) < 6:
                with torch.no_grad():
                    logits = model._model(input_ids=torch.tensor([prompt + ids])).logits[0, -1].double()
                likely = torch.log_softmax(logits, -1)
                ids.append(int(random.choice(len(likely), p=likely.exp().numpy())))
                logprobs.append(float(likely[ids[-1]]))
            responses.append({"token_ids": ids, "logprobs": logprobs})
        lines.append({"id": row["id"], "messages": row["messages"][:-1], "responses": responses})
    lines.append({"id": "nobody", "messages": [{"role": "user", "content": "Who?"}], "responses": []})
    return write_jsonl(path, lines)


async def go_on(client: Client, run: training_pb2.Run, responses: Path, *, last: bool = False) -> None:
    request = training_pb2.ResumeRunRequest(run_id=run.run_id, step=run.pause.step, last=last)
    request.responses_uri = str(responses)
    await client.stub.ResumeRun(request)


async def test_a_run_pauses_learns_from_its_own_responses_and_a_crash_changes_nothing(
    settings: ServerSettings, asked: training_pb2.RunSpec, tmp_path: Path
) -> None:
    async with client_of(settings) as client:
        created = await client.create("calm", asked)
        paused = await until_paused(client, created.run_id)
        assert (paused.pause.step, paused.pause.reason) == (3, "schedule")
        responses = respond(paused.pause, tmp_path / "responses.jsonl")
        await go_on(client, paused, responses, last=True)
        calm = await client.finished(created.run_id)
        disturbed = await client.create("disturbed", asked)
        await until_paused(client, disturbed.run_id)
    # The server stops while the run waits, and another one takes over.
    async with client_of(settings) as client:
        paused = await until_paused(client, disturbed.run_id)
        assert paused.state == training_pb2.STATE_PAUSED
        with pytest.raises(grpc.aio.AioRpcError, match="paused after step 3 last, not after step 8"):
            await client.stub.ResumeRun(training_pb2.ResumeRunRequest(run_id=paused.run_id, step=8))
        await go_on(client, paused, responses, last=True)
        await go_on(client, paused, responses, last=True)  # asked twice, as after a lost answer
        await client.until_step(disturbed.run_id, 6)
        (await worker_process()).kill()
        rough = await client.finished(disturbed.run_id)
    assert calm.state == rough.state == training_pb2.STATE_SUCCEEDED, (calm.error, rough.error)
    assert calm.progress.step == 12
    assert (calm.num_resumes, rough.num_resumes) == (0, 1), "a pause is no interruption"
    assert rough.result.model.digest == calm.result.model.digest
    assert not list((settings.state_dir / "training").rglob("paused")), "cleaned up"


def test_right_after_generation_the_trainer_finds_the_generators_log_probabilities(base: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from burnish_services.training.loss import ResponseLoss, collate
    from burnish_services.training.pool import read_pool

    pause = training_pb2.Pause(step=1)
    pause.model.uri, pause.model.digest = str(base), model_digest(base)
    path = respond(pause, tmp_path / "pool.jsonl")
    pool = read_pool(path, HfTokenizer(base), 512, [row["id"] for row in ROWS])
    assert sorted(pool.responses) == [1, 5, 9]
    loss = ResponseLoss(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32))
    for responses in pool.responses.values():
        losses, owners = loss.nll(collate([one.sample for one in responses]))
        for place, one in enumerate(responses):
            now = -losses[owners == place].detach().numpy()
            assert np.abs(now - one.generator).max() < 1e-3


async def test_a_run_pauses_sooner_where_its_responses_are_stale(
    settings: ServerSettings, asked: training_pb2.RunSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the responses are said to have been as good as certain when they were generated; now they are not. One
    process trains it, though others would be trained by two."""
    monkeypatch.setenv("BURNISH_TRAINING_PROCESSES", "2")
    asked.refinement.CopyFrom(training_pb2.SelfRefinement(warmup_steps=1, refresh_steps=1000, min_effective_share=0.9))
    asked.hyperparameters.num_epochs, asked.hyperparameters.checkpoint_steps = 8, 10
    async with client_of(settings) as client:
        calm, killed = await client.create("calm", asked), await client.create("killed", asked)
        paused = await until_paused(client, calm.run_id)
        lines = [json.loads(line) for line in respond(paused.pause, tmp_path / "fresh").read_text().splitlines()]
        for line in lines:
            for response in line["responses"][1:]:
                response["logprobs"] = [-0.001] * len(response["logprobs"])
        stale = write_jsonl(tmp_path / "stale.jsonl", lines)
        await go_on(client, paused, stale)
        expected = await until_paused(client, calm.run_id, 2)
        await client.stub.CancelRun(training_pb2.CancelRunRequest(run_id=calm.run_id))
        await go_on(client, await until_paused(client, killed.run_id), stale)
        await client.until_step(killed.run_id, 25)
        (await worker_process()).kill()  # what was seen of the responses so far is in its checkpoint
        again = await until_paused(client, killed.run_id, 2)
        assert again.pause.reason == "stale", again
        assert 0 < again.pause.effective_share < 0.9
        assert (again.pause.step, again.pause.effective_share) == (expected.pause.step, expected.pause.effective_share)
        await client.stub.CancelRun(training_pb2.CancelRunRequest(run_id=killed.run_id))


async def test_what_cannot_be_refined_is_refused(settings: ServerSettings, asked: training_pb2.RunSpec) -> None:
    async with client_of(settings) as client:
        waits = await client.create("waits", asked)
        with pytest.raises(grpc.aio.AioRpcError, match="has never paused"):
            await client.stub.ResumeRun(training_pb2.ResumeRunRequest(run_id=waits.run_id, step=3))
        asked.refinement.response_weighting = "best"
        with pytest.raises(grpc.aio.AioRpcError, match="is 'best', expected one of self_normalized"):
            await client.create("weighting", asked)
        asked.ClearField("bilevel")
        with pytest.raises(grpc.aio.AioRpcError, match="refinement: is set; expected `bilevel` with it"):
            await client.create("alone", asked)
        await client.stub.CancelRun(training_pb2.CancelRunRequest(run_id=waits.run_id))
