"""A server process with all four roles on the fake engine, and in it what requests can name: models, a collection with
vectors, a calibration, training runs in every state."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from hypothesis import strategies as st

from burnish.api.common.v1 import common_pb2
from burnish.api.embedding.v1 import embedding_pb2, embedding_pb2_grpc
from burnish.api.training.v1 import training_pb2, training_pb2_grpc
from burnish_services.engine.fake import write_fake_model
from burnish_services.engine.model_digests import model_digest
from tests.fuzz.messages import Words
from tests.fuzz.vitals import Vitals
from tests.service.support import sample
from tests.service.training_support import sample as training_row
from tests.service.training_support import spec, write_jsonl

_ENVIRONMENT = {
    # Streams that the client leaves are ended a moment later; refusing for that is admission's business, not this.
    "BURNISH_TRAINING_MAX_CONCURRENT_REQUESTS": "256",
    "BURNISH_TRAINING_FAKE_STEP_SECONDS": "0.05",
    "BURNISH_TRAINING_RESTART_DELAY": "0",
    "BURNISH_TRAINING_DATA_SCHEMES": "file",  # requests name buckets, and nothing here may reach for them
    "BURNISH_EMBEDDING_SEARCH_DEVICE": "cpu",
}
_START_SECONDS = 60.0
_COLLECTION, _CALIBRATION = "stored", "finished"
_ENDED = {training_pb2.STATE_SUCCEEDED, training_pb2.STATE_FAILED, training_pb2.STATE_CANCELLED}


@dataclass
class World:
    """One server and what is in it."""

    directory: Path
    process: subprocess.Popen[bytes]
    address: str
    channel: grpc.Channel
    models: list[Path] = field(default_factory=list)
    run_ids: list[str] = field(default_factory=list)
    _sent: _Sent = field(default_factory=lambda: _Sent())

    @property
    def log(self) -> list[dict[str, object]]:
        """The server's log, a record a line; a line that is none is a record of level `stray`."""
        return [_record(line) for line in (self.directory / "stderr.txt").read_text("utf-8").split("\n") if line]

    @property
    def calls_logged(self) -> int:
        """Calls that have ended, each of which has one line."""
        with (self.directory / "stderr.txt").open(encoding="utf-8") as lines:
            return sum('"message": "call"' in line for line in lines)

    @property
    def calls_sent(self) -> int:
        """Calls that were made over the channel, and that our code answers."""
        return self._sent.count

    def settled(self, seconds: float = 60.0) -> Vitals:
        """What the server holds once no call is open, or so much later."""
        give_up = time.monotonic() + seconds
        while (vitals := Vitals.of(self)).open_calls and time.monotonic() < give_up:
            time.sleep(0.1)
        return vitals

    def complaints(self) -> list[str]:
        """Lines of the log that no request may cause: errors, tracebacks, what is no record at all."""
        bad = {"error", "critical", "stray"}
        return [json.dumps(record)[:3000] for record in self.log if record["level"] in bad or "traceback" in record]

    def is_serving(self) -> bool:
        """Whether the server says that it serves."""
        stub = health_pb2_grpc.HealthStub(self.channel)
        reply = stub.Check(health_pb2.HealthCheckRequest(), timeout=30)
        return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)

    def prepare(self) -> None:
        """Makes what requests name and is not there (any more), and ends runs that would go on for ever."""
        self._prepare_embedding()
        self._cancel_running()

    def words(self) -> Words:
        """Good values of fields."""
        first, second, broken, moody = map(str, self.models)
        digests = [model_digest(path) for path in self.models[:2]]
        names = st.sampled_from([_COLLECTION, _COLLECTION, _COLLECTION, "features", "features", "other", "spare"])
        calibrations = st.sampled_from([_CALIBRATION, _CALIBRATION, _CALIBRATION, "measuring", "spare"])
        # More than one letter in some, so that they are not told apart and one id stands twice.
        ids = st.sampled_from(["a", "b", "c", "s0", "s1", "s2", "s3", "s4", "s5", "not-there"])
        stored = st.sampled_from([*(f"s{number}" for number in range(24)), "not-there"])
        data = st.sampled_from([str(self.directory / name) for name in ("data.jsonl", "data.jsonl", "bad.jsonl")])
        empty_or = st.sampled_from(["", "", "", *digests])
        return Words(
            fields={
                "uri": st.sampled_from([first, first, first, "", second, f"file://{second}", broken, moody]),
                "digest": empty_or,
                "burnish.api.training.v1.UploadDataRequest.digest": st.just(""),
                "id": ids,
                "sample_id": stored,
                "sample_ids": stored,
                "selected_ids": stored,
                "collection": names,
                "burnish.api.embedding.v1.Collection.name": names,
                "name": st.one_of(names, calibrations),
                "burnish.api.embedding.v1.Calibration.name": calibrations,
                "calibration": calibrations,
                "page_token": st.sampled_from(["", "", "stored"]),
                "burnish.api.training.v1.ListRunsRequest.page_token": st.sampled_from(["", "", "3"]),
                "page_size": st.sampled_from([0, 1, 10]),
                "max_tokens": st.sampled_from([16, 32, 64]),
                "length_boundaries": st.integers(1, 60),
                "budget": st.sampled_from([1, 2, 3, 10]),
                "group": st.sampled_from(["", "one", "two"]),
                "key": st.sampled_from(["", "one", "two"]),
                "quality": st.sampled_from([0.0, 0.5, 1.0]),
                "decay": st.sampled_from([0.0, 0.5]),
                "epsilon": st.sampled_from([0.0, 0.1]),
                "max_similarity": st.sampled_from([0.5, 1.0]),
                "repetition_penalty": st.just(1.0),
                "request_id": st.sampled_from([f"request-{number}" for number in range(12)]),
                "run_id": st.sampled_from([*self.run_ids, *self.run_ids, "no-such-run"]),
                "data_uri": data,
                "eval_data_uri": data,
                "validation_data_uri": data,
                "responses_uri": data,
                "data_digest": st.just(""),
                "validation_data_digest": st.just(""),
                "responses_digest": st.just(""),
                "output_uri": st.sampled_from(
                    ["", "", "published/one", "published/deeper/two", "published/../../three"]
                ),
                "num_epochs": st.sampled_from([1.0, 0.5]),
                "lr_scheduler": st.sampled_from(["cosine", "linear", "constant"]),
                "dtype": st.sampled_from(["float32", "bfloat16"]),
                "weighting": st.sampled_from(["sigmoid", "softmax"]),
                "response_weighting": st.sampled_from(["raw", "uniform", "self_normalized"]),
                "max_sequence_tokens": st.sampled_from([64, 1024]),
                "max_steps": st.sampled_from([1, 2, 4]),
                "publish_best": st.just(False),
                "temperature": st.sampled_from([0.0, 0.7, 1.0]),
                "top_p": st.sampled_from([0.9, 1.0]),
                "per_device_batch_size": st.sampled_from([1, 4]),
                "gradient_accumulation_steps": st.sampled_from([1, 2]),
                "max_loss_ratio": st.sampled_from([0.0, 3.0]),
                "rank": st.sampled_from([1, 16]),
                "burnish.api.training.v1.Lora.alpha": st.just(16.0),
                "burnish.api.training.v1.SelfRefinement.temperature": st.just(1.0),
                "dropout": st.just(0.0),
                "refresh_steps": st.sampled_from([1, 2]),
                "checkpoint_steps": st.just(1),
                "learning_rate": st.sampled_from([1e-4, 1.0]),
                "selector_learning_rate": st.just(1.0),
                "burnish.api.embedding.v1.FeatureSettings.threshold": st.sampled_from([0.0, 0.5]),
                "num_answers": st.sampled_from([1, 2]),
                "max_length_ratio": st.sampled_from([0.0, 1.5]),
                "max_attempts": st.sampled_from([0, 1]),
                "min_prompt_chars": st.sampled_from([0, 1]),
                "min_response_chars": st.sampled_from([0, 1]),
                "max_prompt_chars": st.sampled_from([100, 10_000]),
                "max_response_chars": st.sampled_from([100, 10_000]),
                "num_responses": st.sampled_from([0, 1, 1, 2]),
                "warmup_ratio": st.sampled_from([0.0, 0.1]),
                "first": _TEXTS,
                "second": _TEXTS,
                "content": _TEXTS,
                "chunk": st.sampled_from([b'{"id": "a"}\n', b"\n", b""]),
            },
            messages={
                "burnish.api.common.v1.Sample": _SAMPLES,
                "burnish.api.rewriting.v1.Prompt": _PROMPTS,
                _ACTIVATIONS.DESCRIPTOR.full_name: st.just(_ACTIVATIONS),
            },
        )

    def _prepare_embedding(self) -> None:
        stub = embedding_pb2_grpc.EmbeddingServiceStub(self.channel)
        model = common_pb2.ModelRef(uri=str(self.models[0]))
        samples = [sample(f"s{n}", f"Question {n}?", f"Answer {n} and {n * n}.") for n in range(24)]
        _unless_there(
            lambda: stub.CreateCollection(
                embedding_pb2.CreateCollectionRequest(collection=embedding_pb2.Collection(name=_COLLECTION))
            )
        )
        _unless_there(
            lambda: stub.EmbedSamples(
                embedding_pb2.EmbedSamplesRequest(model=model, collection=_COLLECTION, samples=samples)
            )
        )
        named = embedding_pb2.Calibration(name=_CALIBRATION)
        _unless_there(
            lambda: stub.CreateCalibration(embedding_pb2.CreateCalibrationRequest(calibration=named)),
            lambda: stub.MeasureSamples(
                embedding_pb2.MeasureSamplesRequest(model=model, calibration=_CALIBRATION, samples=samples)
            ),
            lambda: stub.FinishCalibration(embedding_pb2.FinishCalibrationRequest(name=_CALIBRATION)),
        )
        features = embedding_pb2.FeatureSettings(calibration=_CALIBRATION)
        collection = embedding_pb2.Collection(name="features", features=features)
        _unless_there(
            lambda: stub.CreateCollection(embedding_pb2.CreateCollectionRequest(collection=collection)),
            lambda: stub.EmbedSamples(
                embedding_pb2.EmbedSamplesRequest(model=model, collection="features", samples=samples)
            ),
        )

    def prepare_training(self) -> None:
        """Runs that succeeded, with and without weights, and one that pauses."""
        stub = training_pb2_grpc.TrainingServiceStub(self.channel)
        base, data = self.models[0], self.directory / "data.jsonl"
        weighted = spec(base, data, max_steps=2)
        weighted.bilevel.validation_data_uri = str(data)
        paused = training_pb2.RunSpec()
        paused.CopyFrom(weighted)
        paused.hyperparameters.max_steps = 4
        paused.refinement.warmup_steps = 1
        asked = {"plain": spec(base, data, max_steps=1), "weighted": weighted, "paused": paused}
        for name, wanted in asked.items():
            run = stub.CreateRun(training_pb2.CreateRunRequest(request_id=name, spec=wanted), timeout=60).run
            self.run_ids.append(run.run_id)
            for event in stub.WatchRun(training_pb2.WatchRunRequest(run_id=run.run_id), timeout=120):
                if event.run.state in _ENDED | {training_pb2.STATE_PAUSED}:
                    break

    def _cancel_running(self) -> None:
        stub = training_pb2_grpc.TrainingServiceStub(self.channel)
        for run in stub.ListRuns(training_pb2.ListRunsRequest(page_size=100), timeout=60).runs:
            if run.state in (training_pb2.STATE_RUNNING, training_pb2.STATE_PENDING):
                stub.CancelRun(training_pb2.CancelRunRequest(run_id=run.run_id), timeout=60)


_ACTIVATIONS = embedding_pb2.ActivationSettings()
_TEXTS = st.sampled_from(["What is 2 + 2?", "It is 4.", "Write a poem about the sea.", "日本語 äß 𝒳", "a " * 300, "  "])


@st.composite
def _conversations(draw: Callable[[st.SearchStrategy[object]], object]) -> list[common_pb2.Message]:
    count = draw(st.sampled_from([2, 2, 2, 1, 4]))
    assert isinstance(count, int)
    return [
        common_pb2.Message(role=(common_pb2.ROLE_USER, common_pb2.ROLE_ASSISTANT)[turn % 2], content=str(draw(_TEXTS)))
        for turn in range(count)
    ]


_IDS = st.sampled_from(["a", "b", "c"])
_SAMPLES = st.builds(lambda name, turns: common_pb2.Sample(id=name, messages=turns), _IDS, _conversations())


def _prompt(name: str, text: str) -> object:
    from burnish.api.rewriting.v1 import rewriting_pb2

    return rewriting_pb2.Prompt(id=name, messages=[common_pb2.Message(role=common_pb2.ROLE_USER, content=text)])


_PROMPTS = st.builds(_prompt, _IDS, _TEXTS)


def _unless_there(*steps: Callable[[], object]) -> None:
    try:
        for step in steps:
            step()
    except grpc.RpcError as error:
        if error.code() not in (grpc.StatusCode.ALREADY_EXISTS, grpc.StatusCode.FAILED_PRECONDITION):
            raise


class _Sent(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
):  # type: ignore[misc]
    """Counts the calls to services of ours, each of which leaves a line in the log as it ends."""

    def __init__(self) -> None:
        self.count = 0

    def intercept_unary_unary(self, continuation: Callable[..., object], details: object, request: object) -> object:
        """See the base class."""
        self.count += str(getattr(details, "method", "")).startswith("/burnish.")
        return continuation(details, request)

    intercept_unary_stream = intercept_stream_unary = intercept_unary_unary


@contextmanager
def world(directory: Path) -> Iterator[World]:
    """A started server for the length of a block; ended by its id, whatever happens."""
    directory.mkdir(parents=True, exist_ok=True)
    models = [
        write_fake_model(directory / "models" / "first", name="first", seed=1),
        write_fake_model(directory / "models" / "second", name="second", seed=2),
        write_fake_model(directory / "models" / "broken", name="broken", fault="load"),
        write_fake_model(directory / "models" / "moody", name="moody", fault="nan"),
    ]
    (directory / "published").mkdir()
    write_jsonl(directory / "data.jsonl", [training_row(number) for number in range(12)])
    write_jsonl(directory / "bad.jsonl", [{"messages": []}, training_row(1), 7])
    ready = directory / "ready.json"
    with (directory / "stderr.txt").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "burnish_services", "--engine", "fake", "--roles", "all", "--model", str(models[0]),
             "--state-dir", str(directory / "state"), "--ready-file", str(ready), "--log-format", "json",
             "--max-message-bytes", str(1 << 20), "--read-roots", str(directory),
             "--write-roots", str(directory / "published")],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=directory, env={**os.environ, **_ENVIRONMENT},
        )  # fmt: skip
    try:
        address = _address(process, ready, directory)
        sent = _Sent()
        with grpc.insecure_channel(address) as plain:
            made = World(directory, process, address, grpc.intercept_channel(plain, sent), models, _sent=sent)
            made.prepare_training()
            made.prepare()
            yield made
    finally:
        process.terminate()
        try:
            process.wait(timeout=40)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _address(process: subprocess.Popen[bytes], ready: Path, directory: Path) -> str:
    give_up = time.monotonic() + _START_SECONDS
    while not ready.exists():
        told = (directory / "stderr.txt").read_text("utf-8")
        assert process.poll() is None, told
        assert time.monotonic() < give_up, f"not ready after {_START_SECONDS} s: {told}"
        time.sleep(0.02)
    return str(json.loads(ready.read_text("utf-8"))["address"])


def _record(line: str) -> dict[str, object]:
    try:
        record = json.loads(line)
    except ValueError:
        record = None
    return record if isinstance(record, dict) and "level" in record else {"level": "stray", "line": line}


def levels(records: list[dict[str, object]]) -> Counter[object]:
    """How many lines the log has of each level."""
    return Counter(record["level"] for record in records)
