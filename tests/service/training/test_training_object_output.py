"""Models that training publishes to object storage (moto, the real protocol): whole or not there, whatever is killed
when."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from burnish.api.training.v1 import training_pb2 as pb
from burnish_services.engine import objects
from burnish_services.engine.base import ModelLoadError
from burnish_services.engine.model_cache import ModelCache
from burnish_services.engine.model_digests import model_digest
from burnish_services.engine.model_store import ModelStore
from burnish_services.engine.object_models import list_model
from burnish_services.engine.object_places import ObjectPlace
from burnish_services.runtime.config import ServerSettings
from burnish_services.training import delivery
from burnish_services.training.state import RunError
from tests.service.object_store import BUCKET, Gate, names_below, put, put_model, read
from tests.service.support import failure_of
from tests.service.training_support import Client, client_of, spec, worker_process
from tests.waiting import until


def to(base: str | Path, data: Path, key: str, **more: Any) -> pb.RunSpec:
    asked = spec(Path("unused"), data, **({"gradient_accumulation_steps": 1} | more))
    asked.base_model.uri = str(base)
    asked.output_uri = f"s3://{BUCKET}/{key}"
    return asked


def digest_there(uri: str, cache: Path) -> str:
    with ModelStore(ModelCache(cache, 2**30)).lease(uri) as lease:
        return model_digest(lease.path)


async def created(client: Client, gate: Gate, held: str, request_id: str, asked: pb.RunSpec) -> pb.Run:
    """The run, once a request of its worker waits at the gate."""
    gate.hold(held)
    run = await client.create(request_id, asked)
    assert await asyncio.to_thread(gate.waiting.wait, 60)
    return run


async def test_what_is_published_there_is_what_would_be_published_here(
    store: str, client: Client, base: Path, data: Path, tmp_path: Path
) -> None:
    uri = put_model(store, "base", base)
    asked = to(uri, data, "made/here")
    run = await client.finished((await client.create("there", asked)).run_id)
    assert run.state == pb.STATE_SUCCEEDED, run.error
    here = await client.finished((await client.create("here", spec(base, data, gradient_accumulation_steps=1))).run_id)
    assert run.result.model.uri == asked.output_uri
    assert run.result.model.digest == here.result.model.digest == digest_there(asked.output_uri, tmp_path / "cache")
    assert names_below(store, "made/here") == ["made/here/burnish.json", "made/here/fake_model.json"]
    assert json.loads(read(store, "made/here/burnish.json"))["digest"] == run.result.model.digest
    assert not (client.server.settings.state_dir / "training" / run.run_id / "model").exists()
    # Trained on from there, and to the same place again: the same model.
    assert (await client.create("again", asked)).run_id != run.run_id
    refused = await failure_of(client.create("other", to(asked.output_uri, data, "made/here")))
    assert (refused.code.name, refused.reason) == ("FAILED_PRECONDITION", "OUTPUT_EXISTS")


async def test_a_worker_and_a_server_that_are_killed_while_they_publish_publish_in_the_end(
    store: str, gate: Gate, settings: ServerSettings, base: Path, data: Path, tmp_path: Path
) -> None:
    gate.hold("PUT .*killed/out/fake_model.json")
    asked = to(base, data, "killed/out")
    async with client_of(settings) as client:
        run = await client.create("killed", asked)
        for _ in range(2):
            assert await asyncio.to_thread(gate.waiting.wait, 60)
            gate.waiting.clear()
            with pytest.raises(ModelLoadError, match="may not be whole yet"):
                list_model(ObjectPlace.parse(asked.output_uri))
            (await worker_process()).kill()
        assert await asyncio.to_thread(gate.waiting.wait, 60)
        trained = read(store, "killed/out/burnish.json")
    gate.open()
    async with client_of(settings) as client:
        ended = await client.finished(run.run_id)
        assert ended.state == pb.STATE_SUCCEEDED, ended.error
        assert ended.result.model.digest == digest_there(asked.output_uri, tmp_path / "cache")
    assert read(store, "killed/out/burnish.json") == trained, "nothing was trained or written anew"
    assert not any(".burnish" in name for name in names_below(store, "killed"))


async def test_an_outage_when_it_publishes_is_waited_for(
    store: str, gate: Gate, client: Client, base: Path, data: Path
) -> None:
    run = await created(client, gate, "PUT .*outage/out/.burnish-publishing", "outage", to(base, data, "outage/out"))
    gate.refuse("outage", 503)
    gate._open.set()
    log = client.server.settings.state_dir / "training" / run.run_id / "worker.log"
    await until(lambda: "trying again" in log.read_text(), 60)
    gate.open()
    assert (await client.finished(run.run_id)).state == pb.STATE_SUCCEEDED


async def test_a_run_that_is_cancelled_while_it_publishes_leaves_the_place_free(
    store: str, gate: Gate, client: Client, base: Path, data: Path
) -> None:
    run = await created(
        client, gate, "PUT .*cancelled/out/fake_model.json", "cancelled", to(base, data, "cancelled/out")
    )
    await client.stub.CancelRun(pb.CancelRunRequest(run_id=run.run_id))
    assert (await client.finished(run.run_id)).state == pb.STATE_CANCELLED
    assert not (client.server.settings.state_dir / "training" / run.run_id / "model").exists()
    gate.open()  # what the worker had sent comes to be after its end
    again = await client.create("again", to(base, data, "cancelled/out"))
    assert (await client.finished(again.run_id)).state == pb.STATE_SUCCEEDED
    assert names_below(store, "cancelled") == ["cancelled/out/burnish.json", "cancelled/out/fake_model.json"]


async def test_a_run_that_is_cancelled_once_its_model_is_there_has_made_it(
    store: str, gate: Gate, client: Client, base: Path, data: Path
) -> None:
    run = await created(client, gate, "PUT .*late/out/fake_model.json", "late", to(base, data, "late/out"))
    gate.open()
    gate.hold("POST .*delete")  # of the claim
    assert await asyncio.to_thread(gate.waiting.wait, 60)
    await client.stub.CancelRun(pb.CancelRunRequest(run_id=run.run_id))
    assert (await client.finished(run.run_id)).state == pb.STATE_SUCCEEDED
    assert len(names_below(store, "late")) == 3
    gate.open()
    await until(lambda: names_below(store, "late") == ["late/out/burnish.json", "late/out/fake_model.json"], 60)
    folder = client.server.settings.state_dir / "training" / run.run_id
    await until(lambda: not (folder / "placed").exists() and not (folder / "model").exists(), 60)


async def test_a_place_that_the_store_did_not_let_clear_is_cleared_by_the_next_server(
    store: str, gate: Gate, settings: ServerSettings, base: Path, data: Path
) -> None:
    gate.hold("PUT .*silent/out/fake_model.json")
    async with client_of(settings) as client:
        run = await client.create("silent", to(base, data, "silent/out"))
        assert await asyncio.to_thread(gate.waiting.wait, 60)
        gate.refuse("silent", 503)
        await client.stub.CancelRun(pb.CancelRunRequest(run_id=run.run_id))
        assert (await client.finished(run.run_id)).state == pb.STATE_CANCELLED
        assert (settings.state_dir / "training" / run.run_id / "placed").is_file()
    gate.open()
    async with client_of(settings) as client:
        await until(lambda: not names_below(store, "silent"), 60)
        again = await client.create("again", to(base, data, "silent/out"))
        assert (await client.finished(again.run_id)).state == pb.STATE_SUCCEEDED


async def test_the_model_of_a_pause_is_where_others_read_it_until_the_run_has_ended(
    store: str, client: Client, base: Path, data: Path, tmp_path: Path
) -> None:
    asked = to(base, data, "paused/out", num_epochs=2)
    asked.bilevel.validation_data_uri = str(data)
    asked.refinement.SetInParent()
    run = await client.create("paused", asked)
    await until_state(client, run.run_id, pb.STATE_PAUSED)
    pause = (await client.get(run.run_id)).pause
    assert pause.model.uri == f"{asked.output_uri}/.paused/{run.run_id}/step-{pause.step}"
    assert digest_there(pause.model.uri, tmp_path / "cache") == pause.model.digest
    await client.stub.ResumeRun(pb.ResumeRunRequest(run_id=run.run_id, step=pause.step, last=True))
    ended = await client.finished(run.run_id)
    assert ended.state == pb.STATE_SUCCEEDED, ended.error
    assert names_below(store, "paused") == ["paused/out/burnish.json", "paused/out/fake_model.json"]


async def until_state(client: Client, run_id: str, state: int) -> None:
    async for event in client.stub.WatchRun(pb.WatchRunRequest(run_id=run_id)):
        if event.run.state == state:
            return
        assert event.run.state not in (pb.STATE_FAILED, pb.STATE_SUCCEEDED), event.run.error
    raise AssertionError("the run ended")


async def test_places_where_nothing_can_be_put_are_told_before_anything_is_trained(
    store: str, gate: Gate, client: Client, base: Path, data: Path
) -> None:
    put(store, "taken/out/notes.txt", b"mine")
    put(store, "claimed/out/.burnish-publishing.json", b'{"run_id": "another", "digest": ""}')
    gate.refuse("(PUT|prefix=).*denied", 403)
    cases = {
        "taken/out": ("FAILED_PRECONDITION", "OUTPUT_EXISTS"),
        "taken": ("FAILED_PRECONDITION", "OUTPUT_EXISTS"),
        "claimed/out": ("FAILED_PRECONDITION", "OUTPUT_EXISTS"),
        "denied/out": ("FAILED_PRECONDITION", "OUTPUT_DENIED"),
        "a/../b": ("INVALID_ARGUMENT", "BAD_OUTPUT"),
        "": ("INVALID_ARGUMENT", "BAD_OUTPUT"),
    }
    for key, expected in cases.items():
        failure = await failure_of(client.create("refused", to(base, data, key)))
        assert (failure.code.name, failure.reason) == expected, failure.message
    missing = to(base, data, "x")
    missing.output_uri = "s3://no-such-bucket/x"
    assert (await failure_of(client.create("refused", missing))).reason == "OUTPUT_NOT_FOUND"
    gate.refuse("unreachable", 503)
    failure = await failure_of(client.create("refused", to(base, data, "unreachable/out")))
    assert (failure.code.name, failure.reason) == ("UNAVAILABLE", "OUTPUT_UNREACHABLE")


class Killed(BaseException):
    """What ends a process on the spot, as far as the code that it runs can tell."""


_DIGEST = "sha256:" + "1" * 64


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Files as a model has them."""
    model = tmp_path / "model"
    model.mkdir()
    for name in ("burnish.json", "tokenizer.json", "model-1.safetensors", "model-2.safetensors", "config.json"):
        (model / name).write_bytes(name.encode() * 9)
    (model / "burnish.json").write_text(json.dumps({"digest": _DIGEST}))
    return model


@pytest.fixture
def left(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many more requests are made before the process is killed; below 0: it is not."""
    left = [-1]

    def mortal(function: Callable[..., Any]) -> Callable[..., Any]:
        def act(*given: Any, **named: Any) -> Any:
            if left[0] == 0:
                raise Killed
            left[0] -= 1
            return function(*given, **named)

        return act

    for name in (
        "create_object",
        "put_object",
        "remove_object",
        "remove_below",
        "upload",
        "list_objects",
        "read_small",
    ):
        monkeypatch.setattr(delivery, name, mortal(getattr(objects, name)))
    return left


def test_killed_before_any_request_it_is_never_taken_for_whole_and_finishes_the_next_time(
    store: str, tmp_path: Path, model: Path, left: list[int]
) -> None:
    for requests in range(100):
        output = ObjectPlace("s3", BUCKET, f"mortal/{requests}")
        left[0] = requests
        try:
            delivery.deliver(model, output, _DIGEST, "run-1")
        except Killed:
            names = set(names_below(store, output.key))
            if f"{output.key}/config.json" in names:
                assert {f"{output.key}/{path.name}" for path in model.iterdir()} <= names
            left[0] = -1
            if names:
                with pytest.raises(RunError, match="another run is publishing there"):
                    delivery.deliver(tmp_path, output, "sha256:" + "2" * 64, "run-2")
            delivery.deliver(model, output, _DIGEST, "run-1")
        else:
            break
        assert names_below(store, output.key) == sorted(f"{output.key}/{path.name}" for path in model.iterdir())
    assert requests > 8, "every request was once the last"


def test_files_of_another_model_of_the_same_run_are_not_taken_for_its_own(
    store: str, tmp_path: Path, model: Path, left: list[int]
) -> None:
    other, digest = tmp_path / "other", "sha256:" + "2" * 64
    shutil.copytree(model, other)
    for name in ("model-1.safetensors", "model-2.safetensors"):
        (other / name).write_bytes((other / name).read_bytes()[::-1])  # of one size
    (other / "burnish.json").write_text(json.dumps({"digest": digest}))
    for requests in range(1, 100):
        output = ObjectPlace("s3", BUCKET, f"again/{requests}")
        left[0] = 9  # the first one's weights are there, and its marks are not
        with pytest.raises(Killed):
            delivery.deliver(model, output, _DIGEST, "run-1")
        left[0] = requests
        try:
            delivery.deliver(other, output, digest, "run-1")
        except Killed:
            left[0] = -1
            delivery.deliver(other, output, digest, "run-1")
        else:
            break
        finally:
            left[0] = -1
        for path in other.iterdir():
            assert objects.read_small(output / path.name) == path.read_bytes(), path.name
    assert requests > 8, "every request was once the last"


def test_killed_before_any_request_that_clears_a_place_it_can_be_cleared_the_next_time(
    store: str, model: Path, left: list[int]
) -> None:
    for requests in range(100):
        output = ObjectPlace("s3", BUCKET, f"cleared/{requests}")
        left[0] = 8
        with pytest.raises(Killed):  # while it publishes
            delivery.deliver(model, output, _DIGEST, "run-1")
        left[0] = -1
        delivery.deliver_paused(model, output, "run-1", 3)
        paused = delivery.deliver_paused(model, output, "run-2", 3)
        assert len(names_below(store, output.key)) > 11
        left[0] = requests
        try:
            delivery.abandon(output, "run-1")
        except Killed:
            left[0] = -1
            delivery.abandon(output, "run-1")
        else:
            break
        assert names_below(store, output.key) == names_below(store, paused.key), "another run's pause"
        delivery.deliver(model, output, _DIGEST, "run-2")
        delivery.abandon(output, "run-1")
        assert delivery.is_delivered(output, _DIGEST, "run-2"), "which run-1 has no claim to"
    assert requests > 4, "every request was once the last"
