"""Clients of other languages, generated from the protos, against real servers: docs/clients.md as its readers run it.

`make test` has TypeScript where node and npm are; `make clients` has Go and grpcurl too.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
from asyncio.subprocess import PIPE
from collections.abc import Iterator
from pathlib import Path

import grpc
import grpc.aio
import numpy as np
import pytest

from burnish import Client, ModelRef, RunSpec
from burnish.api.common.v1 import common_pb2
from burnish.api.scoring.v1 import scoring_pb2, scoring_pb2_grpc
from burnish.api.training.v1 import training_pb2, training_pb2_grpc
from burnish.testing import FakeServices
from burnish_services.engine.fake import write_fake_model
from tests.clients.languages import LANGUAGES, Language, environment, grpcurl_path, run
from tests.clients.servers import TOKEN, security, server

TEXTS = ("row-1", "What is 2 + 2?", "It is 4.")
SCORE = "burnish.api.scoring.v1.ScoringService/ScoreSamples"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_fake_model(tmp_path_factory.mktemp("models") / "quick", name="quick", seed=1)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Iterator[str]:
    with server(tmp_path_factory.mktemp("plain") / "server", model) as started:
        yield started


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Iterator[str]:
    """A server that takes one call at a time."""
    with server(tmp_path_factory.mktemp("busy") / "server", model, "--max-calls", "1") as started:
        yield started


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Iterator[dict[str, str]]:
    """What a client's environment says of a server with TLS and tokens."""
    folder = tmp_path_factory.mktemp("guarded")
    arguments, env = security(folder)
    with server(folder / "server", model, *arguments) as started:
        yield env | {"BURNISH_SCORING_ENDPOINT": started}


@pytest.fixture(scope="module", params=list(LANGUAGES))
def language(request: pytest.FixtureRequest) -> Language:
    return LANGUAGES[request.param]()


@pytest.fixture(scope="module", params=["typescript", "go"])
def generated(request: pytest.FixtureRequest) -> Language:
    return LANGUAGES[request.param]()


def numbers(text: str) -> list[float]:
    """What an example printed of a score: mean_nll, perplexity, log-probabilities."""
    if text.startswith("{"):
        (score,) = json.loads(text)["scores"]
        (turn,) = score["turns"]
        mean_nll = score.get("mean_nll") or score["meanNll"]  # by grpcurl's release
        return [mean_nll, score["perplexity"], *np.frombuffer(base64.b64decode(turn["logprobs"]), "<f4")]
    sample_id, *words = re.sub(r"[\[\],]", " ", text).split()
    assert sample_id == TEXTS[0]
    return [float(word) for word in words]


@pytest.fixture(scope="module")
def expected(address: str) -> list[float]:
    """The same by the raw stub, whose bytes are read as docs/clients.md says."""
    messages = [
        common_pb2.Message(role=role, content=text)
        for role, text in ((common_pb2.ROLE_USER, TEXTS[1]), (common_pb2.ROLE_ASSISTANT, TEXTS[2]))
    ]
    request = scoring_pb2.ScoreSamplesRequest(
        samples=[common_pb2.Sample(id=TEXTS[0], messages=messages)], return_tokens=True
    )
    with grpc.insecure_channel(address) as channel:
        (score,) = scoring_pb2_grpc.ScoringServiceStub(channel).ScoreSamples(request).scores
    (turn,) = score.turns
    logprobs = np.frombuffer(turn.logprobs, "<f4")
    assert len(logprobs) == turn.num_tokens
    assert np.isclose(-logprobs.mean(), score.mean_nll)
    return [score.mean_nll, score.perplexity, *logprobs]


def test_the_same_call_gives_the_same_scores(language: Language, address: str, expected: list[float]) -> None:
    done = run(language.score, *TEXTS, env={"BURNISH_SCORING_ENDPOINT": address})
    assert done.returncode == 0, done.stderr
    assert numbers(done.stdout) == pytest.approx(expected, rel=1e-6)


def test_a_failed_item_says_why(language: Language, address: str) -> None:
    done = run(language.score, "row-1", "Hello", "", env={"BURNISH_SCORING_ENDPOINT": address})
    assert done.returncode == 0, done.stderr
    assert "EMPTY_RESPONSE" in done.stdout


@pytest.mark.parametrize(
    ("env", "told"),
    [({}, "127.0.0.1:50051"), ({"BURNISH_SCORING_ENDPOINT": "http://127.0.0.1:50051"}, "is not a gRPC address")],
)
def test_pythons_example_ends_with_a_sentence(env: dict[str, str], told: str) -> None:
    """Without an endpoint it asks the one that the page names, where somebody may answer or not."""
    done = run(LANGUAGES["python"]().score, *TEXTS, env=env | {"BURNISH_CONNECT_TIMEOUT": "0.2"})
    assert "Traceback" not in done.stderr
    assert (done.returncode == 0 and not env) or told in done.stderr


def test_a_failed_call_names_its_reason_and_the_field(generated: Language, address: str) -> None:
    done = run(generated.score, "i" * 300, "Hello", "Hi", env={"BURNISH_SCORING_ENDPOINT": address})
    assert done.returncode == 1
    assert re.match(r"InvalidArgument BAD_ID \[?samples\[0\]\]? the id of samples\[0\] has 300 bytes", done.stderr)


def test_a_call_over_tls_needs_a_token(language: Language, guarded: dict[str, str], expected: list[float]) -> None:
    done = run(language.score, *TEXTS, env=guarded)
    assert done.returncode == 0, done.stderr
    assert numbers(done.stdout) == pytest.approx(expected, rel=1e-6)
    stranger = run(language.score, *TEXTS, env=guarded | {"BURNISH_TOKEN": ""})
    assert stranger.returncode != 0
    assert re.search("TOKEN_MISSING|Unauthenticated", stranger.stderr)  # grpcurl's own, of reflection
    assert TOKEN not in done.stderr + stranger.stderr


async def test_a_refused_call_waits_as_long_as_the_server_says(
    generated: Language, busy: str, expected: list[float]
) -> None:
    """An upload that does not go on takes the only place until the client has said that it is waiting."""
    async with grpc.aio.insecure_channel(busy) as channel:
        upload = training_pb2_grpc.TrainingServiceStub(channel).UploadData()
        await upload.write(training_pb2.UploadDataRequest(chunk=b"{"))
        waiting = await asyncio.create_subprocess_exec(
            *generated.score, *TEXTS, env=environment({"BURNISH_SCORING_ENDPOINT": busy}), stdout=PIPE, stderr=PIPE
        )
        try:
            assert waiting.stderr is not None
            assert re.match(rb"TOO_MANY_CALLS: trying again in \d", await waiting.stderr.readline())
            upload.cancel()
            out, err = await waiting.communicate()
        finally:
            if waiting.returncode is None:
                waiting.kill()
    assert waiting.returncode == 0, err.decode()
    assert numbers(out.decode()) == pytest.approx(expected, rel=1e-6)


async def test_a_server_that_is_away_is_waited_for(generated: Language) -> None:
    with FakeServices() as once:  # a free port
        pass
    waiting = await asyncio.create_subprocess_exec(
        *generated.score, *TEXTS, env=environment({"BURNISH_SCORING_ENDPOINT": once.address}), stdout=PIPE, stderr=PIPE
    )
    try:
        assert waiting.stderr is not None
        assert re.match(rb"Unavailable: trying again in \d", await waiting.stderr.readline())
        with once:
            out, err = await waiting.communicate()
            assert len(once.requests("ScoreSamples")) == 1
    finally:
        if waiting.returncode is None:
            waiting.kill()
    assert waiting.returncode == 0, err.decode()
    assert out.decode().startswith(TEXTS[0])


def test_a_training_run_is_watched_to_its_end(generated: Language, address: str, model: Path, tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    messages = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi, how are you?"}]
    data.write_text("".join(json.dumps({"id": f"s{i}", "messages": messages}) + "\n" for i in range(8)))
    with Client(address) as client:
        run_id = client.training.create(RunSpec(ModelRef(str(model)), str(data))).run_id
    done = run(generated.watch, run_id, env={"BURNISH_TRAINING_ENDPOINT": address})
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines() if line[0].isdigit()]
    assert [int(line[0].rstrip("n")) for line in lines] == list(range(1, len(lines) + 1))
    assert lines[-1][1].removeprefix("STATE_") == "SUCCEEDED"
    assert int(lines[-1][2].rstrip("n")) >= 1


async def test_a_watch_goes_on_after_a_break(generated: Language, tmp_path: Path) -> None:
    with FakeServices(finish_runs=False) as fakes:
        with Client(fakes.address) as client:
            run_id = client.training.create(RunSpec(ModelRef("model"), "data.jsonl")).run_id
        watching = await asyncio.create_subprocess_exec(
            *generated.watch,
            run_id,
            env=environment({"BURNISH_TRAINING_ENDPOINT": fakes.address}),
            stdout=PIPE,
            stderr=PIPE,
        )
        try:
            assert watching.stdout is not None
            assert watching.stderr is not None
            seen = [await watching.stdout.readline()]
            fakes.stop()
            assert re.match(rb"\w+: trying again in \d", await watching.stderr.readline())
            fakes.finish_runs = True
            fakes.start()
            out, err = await watching.communicate()
        finally:
            if watching.returncode is None:
                watching.kill()
    assert watching.returncode == 0, err.decode()
    lines = [line.decode().split() for line in [*seen, *out.splitlines(keepends=True)] if line[:1].isdigit()]
    assert [int(line[0].rstrip("n")) for line in lines] == list(range(1, len(lines) + 1))
    assert lines[-1][1].removeprefix("STATE_") == "SUCCEEDED"


def test_grpcurl_finds_the_services_and_reads_the_details_of_errors(address: str) -> None:
    grpcurl = (grpcurl_path(), "-plaintext")
    listed = run(grpcurl, address, "list", env={})
    assert "burnish.api.scoring.v1.ScoringService" in listed.stdout.split(), listed.stderr
    described = run(grpcurl, address, "describe", "burnish.api.scoring.v1.ScoreSamplesRequest", env={})
    assert "return_tokens" in described.stdout
    failed = run(grpcurl, address, SCORE, env={})
    assert failed.returncode != 0
    for word in ("InvalidArgument", '"reason":"EMPTY_BATCH"', '"field":"samples"'):
        assert word in failed.stderr, failed.stderr
