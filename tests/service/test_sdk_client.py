"""Every call of the SDK against fake services over real gRPC, once with each client."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

import burnish
from burnish import (
    AsyncClient,
    Client,
    ClientOptions,
    ConfidenceTier,
    Dimension,
    FinishReason,
    JudgeMode,
    Message,
    ModelRef,
    Prompt,
    ResponsePair,
    RewriteItem,
    Role,
    RunSpec,
    RunState,
    Sample,
    Sampling,
    Strategy,
    Target,
    TokenSpan,
    UsageError,
    ValidationRules,
    Winner,
)
from burnish.testing import FakeServices

QUICK = ClientOptions(initial_backoff=0.01, max_backoff=0.05, connect_timeout=2.0, reconnect_timeout=2.0)


class OffLoop:
    """The synchronous client (or a part of it), each call made in a thread, so that tests can await both clients."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._inner, name)
        if inspect.isgeneratorfunction(getattr(value, "__func__", None)) or name == "watch":
            return lambda *given, **named: self._iterate(value(*given, **named))
        if callable(value):
            return lambda *given, **named: self._call(value, *given, **named)
        return OffLoop(value) if type(value).__module__ in SERVICE_MODULES else value

    async def _call(self, function: Callable[..., Any], *given: Any, **named: Any) -> Any:
        result = await asyncio.to_thread(function, *given, **named)
        if isinstance(result, tuple):
            return tuple(OffLoop(r) if isinstance(r, burnish.Run) else r for r in result)
        return OffLoop(result) if isinstance(result, burnish.Run) else result

    async def _iterate(self, iterator: Iterator[Any]) -> AsyncIterator[Any]:
        end = object()
        while (item := await asyncio.to_thread(next, iterator, end)) is not end:
            yield item


SERVICE_MODULES = {f"burnish._{name}" for name in ("scoring", "embedding", "rewriting", "training")}


@pytest.fixture
def fakes() -> Iterator[FakeServices]:
    with FakeServices() as running:
        yield running


@pytest.fixture(params=["async", "sync"])
async def client(request: pytest.FixtureRequest, fakes: FakeServices) -> AsyncIterator[Any]:
    if request.param == "async":
        async with AsyncClient(fakes.endpoints, options=QUICK) as client:
            yield client
    else:
        with Client(fakes.endpoints, options=QUICK) as client:
            yield OffLoop(client)


def sample(name: str, prompt: str = "How many legs has a cat?", response: str = "It has four of them") -> Sample:
    return Sample(name, (Message(Role.USER, prompt), Message(Role.ASSISTANT, response)))


async def test_score(client: Any) -> None:
    batch = await client.scoring.score([sample("a"), sample("b", response="")], model="/models/one")
    assert batch.model.uri == "/models/one"
    assert batch.model.digest.startswith("sha256:")
    good, bad = batch.scores
    assert (good.sample_id, good.status.ok, good.num_tokens) == ("a", True, 5)
    assert good.perplexity == pytest.approx(np.exp(good.mean_nll))
    assert good.turns[0].logprobs is None
    assert (bad.sample_id, bad.status.reason, bad.mean_nll, bad.turns) == ("b", "EMPTY_RESPONSE", None, ())
    assert batch.timing.engine_seconds == 1.5


async def test_score_with_tokens(client: Any) -> None:
    (score,) = (await client.scoring.score([sample("a")], return_tokens=True)).scores
    (turn,) = score.turns
    assert turn.message_index == 1
    assert turn.token_ids.tolist() == [0, 1, 2, 3, 4]
    assert turn.logprobs.dtype == np.float32
    assert -turn.logprobs.sum() == pytest.approx(score.sum_nll, rel=1e-6)


async def test_score_with_all_that_can_be_asked_for(client: Any) -> None:
    (plain,) = (await client.scoring.score([sample("a")])).scores
    assert 0 < plain.min_probability <= plain.mean_probability < 1
    assert (plain.unconditional, plain.mean_entropy, plain.mean_margin) == (None, None, None)
    assert plain.mean_hidden_state is None
    (full,) = (
        await client.scoring.score(
            [sample("a")], unconditional=True, distribution=True, mean_hidden_state=TokenSpan.RESPONSE
        )
    ).scores
    assert full.unconditional.ifd == pytest.approx(full.mean_nll / full.unconditional.mean_nll)
    assert full.unconditional.pmi == pytest.approx(full.unconditional.mean_nll - full.mean_nll)
    assert (full.mean_entropy, full.mean_margin) == (full.mean_nll, full.mean_probability)
    assert (full.mean_hidden_state.dtype, full.mean_hidden_state.ndim) == (np.dtype(np.float32), 1)
    assert (await client.scoring.info()).score_method == "fake"


async def test_confidence(client: Any) -> None:
    batch = await client.scoring.confidence(
        [sample("a"), sample("b", response="")], tier=ConfidenceTier.STANDARD, beta=0.5, num_answers=3
    )
    good, bad = batch.estimates
    assert (bad.status.reason, bad.confidence, bad.answers) == ("EMPTY_RESPONSE", None, ())
    assert len(good.answers) == 3
    assert good.consistency == pytest.approx(sum(answer.agreement for answer in good.answers) / 3)
    assert good.confidence == pytest.approx(0.5 * good.consistency + 0.5 * good.reflection)
    assert [len(choice.probabilities) for choice in good.reflections] == [3] * 6
    assert (good.mean_nll, good.mean_probability, good.min_probability) == (1.5, 0.4, 0.01)
    assert len(batch.prompt_digest) == 16
    (fast,) = (await client.scoring.confidence([sample("a")])).estimates
    assert (fast.consistency, fast.answers) == (None, ())
    with pytest.raises(UsageError, match="fast, full, standard"):
        await client.scoring.confidence([sample("a")], tier="best")


async def test_compare(client: Any) -> None:
    prompt = (Message(Role.USER, "Why?"),)
    pairs = [ResponsePair("p", prompt, "one", "two"), ResponsePair("q", prompt, "two", "one")]
    batch = await client.scoring.compare([*pairs, ResponsePair("r", prompt, "one", "")], max_length_ratio=2.0)
    one, other, bad = batch.preferences
    assert one.p_second == pytest.approx(1 - other.p_second)
    assert {one.winner, other.winner} == {Winner.FIRST, Winner.SECOND}
    assert [len(order.probabilities) for order in one.orders] == [3, 3]
    assert (bad.status.reason, bad.p_second, bad.winner) == ("EMPTY_RESPONSE", None, None)
    assert batch.flip_rate == 0.0


async def test_judge_by_logits(client: Any) -> None:
    batch = await client.scoring.judge([sample("a")], mode=JudgeMode.LOGIT)
    assert len(batch.judgments[0].ratings) == 6
    for rating in batch.judgments[0].ratings:
        assert rating.digits is not None
        expected = sum(digit * share for digit, share in enumerate(rating.digits.probabilities)) * 10 / 9
        assert rating.value == pytest.approx(expected)


async def test_judge(client: Any, fakes: FakeServices) -> None:
    batch = await client.scoring.judge(
        [sample("a"), sample("b")],
        dimensions=[Dimension.CLARITY, Dimension.FACTUALITY],
        targets=[Target.RESPONSE],
        sampling=Sampling(temperature=0.0, max_tokens=16, seed=7),
    )
    assert [[r.dimension for r in j.ratings] for j in batch.judgments] == [["clarity", "factuality"]] * 2
    assert {r.target for j in batch.judgments for r in j.ratings} == {Target.RESPONSE}
    assert batch.prompt_digest == (await client.scoring.info()).prompt_digests["judge"]
    (request,) = fakes.requests("JudgeSamples")
    assert request.sampling.HasField("temperature")
    assert not request.sampling.HasField("top_p")
    assert request.sampling.seed == 7


async def test_a_rating_without_a_number_has_none(client: Any) -> None:
    batch = await client.scoring.judge([sample(str(i), prompt=f"q{i}") for i in range(30)])
    ratings = [rating for judgment in batch.judgments for rating in judgment.ratings]
    assert len(ratings) == 30 * 6
    missing = [rating for rating in ratings if rating.value is None]
    assert missing
    assert {rating.status.reason for rating in missing} == {"UNPARSEABLE"}
    assert all(rating.status.ok for rating in ratings if rating.value is not None)


async def test_info(client: Any) -> None:
    info = await client.scoring.info()
    assert (info.engine, info.limits.max_items, info.model.uri) == ("fake/0", 256, "fake://held")
    assert (await client.rewriting.info()).prompt_versions[Strategy.IMPROVE].startswith("improve/")
    assert (await client.embedding.info()).limits == (await client.training.info()).limits == info.limits


@pytest.mark.parametrize("service", ["scoring", "embedding", "rewriting"])
async def test_load_model(client: Any, service: str) -> None:
    version = await getattr(client, service).load_model(ModelRef("/models/two"))
    assert version.uri == "/models/two"


async def test_a_reply_s_version_names_the_model_of_the_next_call(client: Any, fakes: FakeServices) -> None:
    version = (await client.scoring.score([sample("a")], model="/models/one")).model
    await client.scoring.score([sample("a")], model=version)
    request = fakes.requests("ScoreSamples")[-1]
    assert (request.model.uri, request.model.digest) == (version.uri, version.digest)


async def test_a_wrong_digest_is_refused(client: Any) -> None:
    with pytest.raises(burnish.PreconditionFailed, match="the digest of /models/one is sha256:"):
        await client.scoring.score([sample("a")], model=ModelRef("/models/one", "sha256:" + "0" * 64))


async def test_collections(client: Any) -> None:
    for name in ("beta", "alpha"):
        await client.embedding.create_collection(name)
    assert [c.name for c in await client.embedding.list_collections()] == ["alpha", "beta"]
    empty = await client.embedding.get_collection("alpha")
    assert (empty.model, empty.num_vectors) == (None, 0)
    assert empty.create_time.tzinfo is not None
    await client.embedding.delete_collection("beta")
    await client.embedding.delete_collection("beta")
    with pytest.raises(burnish.NotFound, match=r"embedding service at .* no collection 'beta'"):
        await client.embedding.get_collection("beta")


async def test_embed_and_neighbors(client: Any) -> None:
    await client.embedding.create_collection("c")
    samples = [sample(str(i), prompt=f"question {i // 2}") for i in range(6)] + [sample("empty", prompt="")]
    batch = await client.embedding.embed(samples, model="m", collection="c", return_vectors=True)
    assert batch.num_stored == 6
    assert batch.embeddings[0].vector.shape == (8,)
    assert (batch.embeddings[6].status.reason, batch.embeddings[6].vector) == ("EMPTY_PROMPT", None)
    assert (await client.embedding.embed(samples, model="m", collection="c")).num_stored == 0
    found = await client.embedding.neighbor_statistics("c", ["0", "1", "2", "3"], k=1)
    assert (found.recall, found.num_cells) == (1.0, 0)
    statistics = found.statistics
    assert [entry.sample_id for entry in statistics] == ["0", "1", "2", "3"]
    assert statistics[0].neighbors[0].sample_id == "1"
    assert statistics[0].mean_cosine == pytest.approx(1.0)
    assert len((await client.embedding.neighbor_statistics("c")).statistics) == 6
    part = await client.embedding.neighbor_statistics("c", ["0", "1", "2", "3"], k=1, query_ids=["2"])
    assert part.statistics == (statistics[2],)
    with pytest.raises(burnish.PreconditionFailed, match="nowhere"):
        await client.embedding.neighbor_statistics("c", ["nowhere"])


async def test_rewrite(client: Any, fakes: FakeServices) -> None:
    items = [RewriteItem(sample("a"), (sample("n"),)), RewriteItem(sample("b", prompt="please reject this"))]
    batch = await client.rewriting.rewrite(
        items, Strategy.DIVERSIFY, max_attempts=2, rules=ValidationRules(min_prompt_chars=0, max_similarity=0.5)
    )
    done, rejected = batch.rewrites
    assert done.sample.id == "a"
    assert done.sample.response.startswith("an answer to diversify")
    assert (rejected.sample, rejected.status.reason, rejected.attempts[0].rejection) == (None, "REJECTED", "copy")
    assert batch.prompt_version.startswith("diversify/")
    (request,) = fakes.requests("RewriteSamples")
    assert request.max_attempts == 2
    assert request.rules.HasField("min_prompt_chars")
    assert not request.rules.HasField("max_response_chars")
    assert request.items[0].neighbors[0].id == "n"


async def test_respond(client: Any, fakes: FakeServices) -> None:
    asked = [Prompt(str(n), (Message(Role.USER, text),)) for n, text in enumerate(["one", "", "endless"])]
    batch = await client.rewriting.respond(
        asked, num_responses=2, sampling=Sampling(temperature=1.0, seed=4), return_tokens=True
    )
    one, empty, endless = batch.results
    assert [result.prompt_id for result in batch.results] == ["0", "1", "2"]
    assert [response.finish_reason for response in one.responses] == [FinishReason.STOP] * 2
    assert (empty.status.reason, empty.responses) == ("EMPTY_PROMPT", ())
    assert endless.responses[0].finish_reason is FinishReason.LENGTH
    for response in one.responses:
        assert response.token_ids.shape == response.logprobs.shape == (response.num_tokens,)
        assert response.mean_logprob == pytest.approx(response.logprobs.mean(), abs=1e-6)
    (request,) = fakes.requests("GenerateResponses")
    assert (request.num_responses, request.sampling.seed, request.return_tokens) == (2, 4, True)
    (plain,) = (await client.rewriting.respond(asked[:1])).results
    assert (len(plain.responses), plain.responses[0].logprobs) == (1, None)


async def test_a_run_from_creation_to_result(client: Any) -> None:
    run = await client.training.create(RunSpec(ModelRef("base"), "data.jsonl", output_uri="/out"), "first")
    assert run.snapshot.spec.hyperparameters == burnish.Hyperparameters()
    events = [event async for event in run.watch()]
    assert [event.number for event in events] == [1, 2, 3, 4]
    assert events[-1].run.state is RunState.SUCCEEDED
    result = await run.result()
    assert result.model.uri == "/out"
    assert (await client.training.get(run.run_id)).snapshot.result == result
    assert (await run.refresh()).state.ended


async def test_watching_from_a_later_event(client: Any) -> None:
    run = await client.training.create(RunSpec(ModelRef("base"), "data.jsonl"))
    assert [event.number async for event in run.watch(3)] == [3, 4]
    assert [event.number async for event in run.watch(5)] == []


async def test_a_run_that_pauses_goes_on_once_it_is_told_to(client: Any) -> None:
    spec = RunSpec(ModelRef("base"), "data.jsonl", refinement=burnish.SelfRefinement(refresh_steps=1))
    run = await client.training.create(spec, "refining")
    assert run.snapshot.spec == spec
    assert run.snapshot.state is RunState.PAUSED
    assert run.snapshot.pause.step == 1
    with pytest.raises(burnish.PreconditionFailed):
        await run.resume(2, "responses.jsonl")
    await run.resume(1, "responses.jsonl")
    assert run.snapshot.pause.step == 2
    assert run.snapshot.pause.reason == "schedule"
    await run.resume(2, last=True)
    assert (await run.result()).num_samples == 10


async def test_answers_that_the_service_cannot_read_are_uploaded(
    client: Any, fakes: FakeServices, tmp_path: Path
) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_bytes(b"{}\n")
    spec = RunSpec(ModelRef("base"), "data.jsonl", refinement=burnish.SelfRefinement(refresh_steps=1))
    run = await client.training.create(spec, "refining")
    for step in (1, 2):
        fakes.fail_next("ResumeRun", grpc.StatusCode.NOT_FOUND, reason="DATA_NOT_FOUND")
        if step == 1:
            with pytest.raises(burnish.NotFound):
                await run.resume(step, str(path))
            fakes.fail_next("ResumeRun", grpc.StatusCode.NOT_FOUND, reason="DATA_NOT_FOUND")
        await run.resume(step, str(path), upload=True, last=step == 2)
    uris = [request.responses_uri.split(":")[0] for request in fakes.requests("ResumeRun")]
    assert uris == [str(path), str(path), "upload", str(path), "upload"]


async def test_uploads(client: Any, fakes: FakeServices, tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(b'{"id": "a"}\n' * 100_000)
    fakes.fail_next("UploadData", grpc.StatusCode.UNAVAILABLE, times=2)
    uploaded = await client.training.upload(path)
    assert (uploaded.size, uploaded.num_lines) == (1_200_000, 100_000)
    assert uploaded.uri == f"upload:{uploaded.digest}"
    assert len(fakes.requests("UploadData")) == 3
    once = (piece for piece in (b"{}\n", b"", b"{}"))
    fakes.fail_next("UploadData", grpc.StatusCode.UNAVAILABLE)
    assert (await client.training.upload(once)).num_lines == 2, "what can be read once can be sent twice"
    # Many times: gRPC may lose the status of a server that answers while it is still being sent to.
    fakes.fail_next("UploadData", grpc.StatusCode.RESOURCE_EXHAUSTED, "the disk is full", reason="DISK_FULL", times=99)
    with pytest.raises(burnish.Overloaded, match=r"the disk is full \[RESOURCE_EXHAUSTED, DISK_FULL\]"):
        await client.training.upload(b"{}")


async def test_data_that_the_service_cannot_read_is_uploaded(client: Any, fakes: FakeServices, tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(b"{}\n")
    spec = RunSpec(ModelRef("base"), str(path), bilevel=burnish.BilevelSelection(str(path)))
    for _ in range(2):
        fakes.fail_next("CreateRun", grpc.StatusCode.NOT_FOUND, reason="DATA_NOT_FOUND")
        run = await client.training.create(spec, "named", upload=True)
        assert run.snapshot.spec.data_uri.startswith("upload:sha256:")
        assert run.snapshot.spec.bilevel.validation_data_uri == run.snapshot.spec.data_uri
    # Also where the service has come to see the path meanwhile.
    assert (await client.training.create(spec, "named", upload=True)).run_id == run.run_id
    assert len(fakes.requests("UploadData")) == 1
    assert len(await client.training.list()) == 1
    for reason in ("MODEL_NOT_FOUND", ""):
        fakes.fail_next("CreateRun", grpc.StatusCode.NOT_FOUND, reason=reason)
        with pytest.raises(burnish.NotFound):
            await client.training.create(spec, "other", upload=True)


async def test_creating_a_run_twice_gives_the_same_run(client: Any) -> None:
    spec = RunSpec(ModelRef("base"), "data.jsonl")
    first = await client.training.create(spec, "once")
    again = await client.training.create(spec, "once")
    other = await client.training.create(spec)
    assert first.run_id == again.run_id != other.run_id
    assert {run.run_id for run in await client.training.list()} == {first.run_id, other.run_id}
    with pytest.raises(burnish.AlreadyExists, match="another spec"):
        await client.training.create(RunSpec(ModelRef("base"), "else.jsonl"), "once")


async def test_cancelling_a_run(client: Any, fakes: FakeServices) -> None:
    fakes.finish_runs = False
    run = await client.training.create(RunSpec(ModelRef("base"), "data.jsonl"))
    with pytest.raises(burnish.DeadlineExceeded, match=r"has not ended within 0.1 s. It goes on"):
        await run.result(timeout=0.1)
    assert (await run.cancel()).state is RunState.CANCELLED
    with pytest.raises(burnish.RunFailed, match=f"training run {run.run_id} was cancelled at step 3 of 3") as caught:
        await run.result()
    assert caught.value.run.state is RunState.CANCELLED


async def test_a_failed_run_says_why(client: Any) -> None:
    run = await client.training.create(RunSpec(ModelRef("base"), "fail.jsonl"))
    with pytest.raises(burnish.RunFailed, match=r"failed at step 3 of 3: .* \[LOSS_NOT_FINITE\]"):
        await run.result()


async def test_a_broken_watch_goes_on_where_it_was(client: Any, fakes: FakeServices) -> None:
    run = await client.training.create(RunSpec(ModelRef("base"), "data.jsonl"))
    fakes.fail_next("WatchRun", grpc.StatusCode.UNAVAILABLE, times=2)
    assert [event.number async for event in run.watch(2)] == [2, 3, 4]
    assert [request.from_event for request in fakes.requests("WatchRun")] == [2, 2, 2]


async def test_wrong_values_are_usage_errors(client: Any) -> None:
    with pytest.raises(burnish.UsageError, match=r"sampling.top_k = 1.5 cannot be sent"):
        await client.scoring.judge([sample("a")], sampling=Sampling(top_k=1.5))  # type: ignore[arg-type]
    with pytest.raises(burnish.UsageError, match="'speed' is no Dimension"):
        await client.scoring.judge([sample("a")], dimensions=["speed"])
    with pytest.raises(burnish.UsageError, match="timeout is 0"):
        await client.scoring.score([sample("a")], timeout=0)
    with pytest.raises(burnish.UsageError, match="model is a int"):
        await client.scoring.score([sample("a")], model=3)


async def test_a_closed_client_says_so(client: Any) -> None:
    await client.scoring.info()
    await client.close()
    await client.close()
    with pytest.raises(burnish.UsageError, match="this client is closed"):
        await client.embedding.info()
