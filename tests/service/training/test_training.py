"""Training runs over real gRPC, with the fake trainer: the resource, its events, and every way to end."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import threading
from pathlib import Path

import grpc
import pytest
from google.rpc import code_pb2

from burnish.api.common.v1 import common_pb2
from burnish.api.training.v1 import training_pb2
from burnish_services.engine.fake import write_fake_model
from burnish_services.engine.model_digests import model_digest
from burnish_services.runtime.config import ServerSettings
from burnish_services.runtime.role import RoleUnavailable
from burnish_services.training import servicer, supervisor
from burnish_services.training.data import file_digest
from burnish_services.training.runs import Run
from tests.service.support import failure_of
from tests.service.training_support import Client, client_of, sample, spec, worker_process, write_jsonl
from tests.waiting import until


async def test_a_run_trains_and_publishes(client: Client, base: Path, data: Path) -> None:
    asked = spec(base, data, per_device_batch_size=2, gradient_accumulation_steps=2, num_epochs=2)
    run = await client.create("round-1", asked)
    assert run.spec == asked
    assert run.state in (training_pb2.STATE_PENDING, training_pb2.STATE_RUNNING)

    events = await client.watch(run.run_id)
    assert [event.event for event in events] == list(range(1, len(events) + 1))
    last = events[-1].run
    assert last == await client.get(run.run_id)
    assert last.state == training_pb2.STATE_SUCCEEDED, last.error
    assert last.progress.step == last.progress.total_steps == 20
    assert last.result.num_samples == 40
    assert last.result.data_digest == file_digest(data)
    assert last.num_resumes == 0

    published = Path(last.result.model.uri)
    assert model_digest(published) == last.result.model.digest != model_digest(base)
    card = json.loads((published / "burnish.json").read_text())
    assert card["base_digest"] == model_digest(base)
    assert card["canary"]["mean_nll"] > 0
    losses = [event.run.progress.loss for event in events if event.run.progress.step and event.run.progress.loss]
    assert last.result.train_loss == pytest.approx(sum(dict.fromkeys(losses)) / 20, rel=0.1)
    left = {path.name for path in (published.parent).iterdir()}
    assert left == {"spec.json", "events.jsonl", "worker.log", "result.json", "model"}


async def test_a_run_that_cannot_be_read_is_named_to_whoever_asks_for_it_again(
    settings: ServerSettings, base: Path, data: Path
) -> None:
    async with client_of(settings) as client:
        run_id = (await client.create("damaged", spec(base, data))).run_id
        await client.finished(run_id)
    place = settings.state_dir / "training" / run_id
    (place / "spec.json").write_text("{")
    async with client_of(settings) as client:
        failure = await failure_of(client.create("damaged", spec(base, data)))
        assert (failure.code.name, failure.reason) == ("FAILED_PRECONDITION", "RUN_DAMAGED")
        assert str(place) in failure.message
        shutil.rmtree(place)  # as the message says
        assert (await client.finished((await client.create("other", spec(base, data))).run_id)).result.num_samples == 40


async def test_a_place_that_cannot_be_written_is_told_before_anything_is_trained(
    client: Client, base: Path, data: Path
) -> None:
    asked = spec(base, data)
    asked.output_uri = "/proc/model"
    failure = await failure_of(client.create("nowhere", asked))
    assert (failure.code.name, failure.reason) == ("INVALID_ARGUMENT", "BAD_OUTPUT")


async def test_the_same_request_is_the_same_run(client: Client, base: Path, data: Path) -> None:
    first, second = await asyncio.gather(*(client.create("same", spec(base, data)) for _ in range(2)))
    assert first.run_id == second.run_id
    await client.finished(first.run_id)
    await asyncio.to_thread(data.unlink)  # a request asked again needs nothing but its id
    again = await client.create("same", spec(base, data))
    assert again.state == training_pb2.STATE_SUCCEEDED

    with pytest.raises(grpc.aio.AioRpcError, match="another specification") as error:
        await client.create("same", spec(base, data, seed=1))
    assert error.value.code() is grpc.StatusCode.ALREADY_EXISTS


async def test_equal_specs_make_equal_models_and_others_do_not(
    client: Client, base: Path, data: Path, tmp_path: Path
) -> None:
    runs = [
        await client.create("a", spec(base, data)),
        await client.create("b", spec(base, data)),
        await client.create("c", spec(base, data, seed=1)),
        await client.create("d", spec(base, write_jsonl(tmp_path / "other.jsonl", [sample(1)]))),
    ]
    digests = [(await client.finished(run.run_id)).result.model.digest for run in runs]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


async def test_a_watch_resumes_where_it_broke_off(client: Client, base: Path, data: Path) -> None:
    run = await client.create("watched", spec(base, data))
    everything = await client.watch(run.run_id)
    for start in (1, 2, len(everything)):
        assert await client.watch(run.run_id, start) == everything[start - 1 :]
    assert await client.watch(run.run_id, len(everything) + 1) == []


async def test_events_that_a_server_has_lost_are_said_to_be_gone(client: Client, base: Path, data: Path) -> None:
    run = await client.create("r", spec(base, data))
    await client.finished(run.run_id)
    number = len(await client.watch(run.run_id))
    with pytest.raises(grpc.aio.AioRpcError, match=f"has {number} events, and those from {number + 2} on") as error:
        await client.watch(run.run_id, number + 2)
    assert error.value.code() is grpc.StatusCode.FAILED_PRECONDITION


async def test_a_page_of_runs_ends_before_it_is_too_large(
    client: Client, base: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servicer, "_MAX_PAGE_BYTES", 10)
    runs = [await client.create(name, spec(base, data)) for name in "abc"]
    found, token = [], None
    while token != "":
        page = await client.stub.ListRuns(training_pb2.ListRunsRequest(page_token=token or ""))
        assert len(page.runs) == 1
        found += [run.run_id for run in page.runs]
        token = page.next_page_token
    assert found == [run.run_id for run in reversed(runs)]


async def test_runs_are_listed_newest_first_a_page_at_a_time(client: Client, base: Path, data: Path) -> None:
    ids = [(await client.create(f"r{index}", spec(base, data))).run_id for index in range(5)]
    found: list[str] = []
    token = ""
    while True:
        page = await client.stub.ListRuns(training_pb2.ListRunsRequest(page_size=2, page_token=token))
        assert 1 <= len(page.runs) <= 2
        found += [run.run_id for run in page.runs]
        token = page.next_page_token
        if not token:
            break
        if len(found) == 2:  # a run made in between moves nothing
            await client.create("newer", spec(base, data))
    assert found == ids[::-1]
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await client.stub.ListRuns(training_pb2.ListRunsRequest(page_token="x"))
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_running_run_is_cancelled_at_once_and_leaves_nothing(
    settings: ServerSettings, base: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BURNISH_TRAINING_FAKE_STEP_SECONDS", "0.2")
    async with client_of(settings) as client:
        long = spec(base, data, num_epochs=50, checkpoint_steps=1)
        first, queued = await client.create("long", long), await client.create("queued", long)
        await client.until_step(first.run_id, 2)
        worker = await worker_process()

        asked = await client.stub.CancelRun(training_pb2.CancelRunRequest(run_id=queued.run_id))
        assert asked.run.state == training_pb2.STATE_CANCELLED
        await client.stub.CancelRun(training_pb2.CancelRunRequest(run_id=first.run_id))
        ended = await asyncio.wait_for(client.finished(first.run_id), 30)
        assert ended.state == training_pb2.STATE_CANCELLED
        assert not worker.is_running()
        left = {path.name for path in (settings.state_dir / "training" / first.run_id).iterdir()}
        assert left == {"spec.json", "events.jsonl", "worker.log"}

        again = await client.stub.CancelRun(training_pb2.CancelRunRequest(run_id=first.run_id))
        assert again.run == ended


async def test_a_cancelled_run_stays_so_whatever_becomes_of_the_server(
    settings: ServerSettings, base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CancelRun has answered, and the server dies while it still asks a store whether the model is there."""
    monkeypatch.setenv("BURNISH_TRAINING_FAKE_STEP_SECONDS", "0.05")
    died, asking = tmp_path / "died", threading.Event()

    def asked(run: Run) -> None:
        if not died.exists():
            shutil.copytree(settings.state_dir, died)
        asking.set()

    monkeypatch.setattr(supervisor, "_published", asked)
    async with client_of(settings) as client:
        run = await client.create("cancelled", spec(base, data, num_epochs=20, checkpoint_steps=1))
        await client.until_step(run.run_id, 2)
        await client.stub.CancelRun(training_pb2.CancelRunRequest(run_id=run.run_id))
        assert (await client.finished(run.run_id)).state == training_pb2.STATE_CANCELLED
    monkeypatch.undo()
    assert asking.is_set()
    async with client_of(settings.model_copy(update={"state_dir": died})) as client:
        ended = await client.finished(run.run_id)
    assert ended.state == training_pb2.STATE_CANCELLED
    left = {path.name for path in (died / "training" / run.run_id).iterdir()}
    assert left == {"spec.json", "events.jsonl", "worker.log"}


async def test_one_server_at_a_time_has_a_state_directory(settings: ServerSettings, client: Client) -> None:
    with pytest.raises(RoleUnavailable, match=r"the state of training in .* is in use by this very process"):
        async with client_of(settings):
            pass


async def test_a_model_is_named_by_its_whole_path(
    settings: ServerSettings, base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    async with client_of(settings.model_copy(update={"state_dir": Path("here")})) as client:
        run = await client.finished((await client.create("relative", spec(base, data))).run_id)
    assert Path(run.result.model.uri).parents[2] == tmp_path / "here"


async def test_steps_that_are_worked_again_are_counted_once(
    settings: ServerSettings, base: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BURNISH_TRAINING_FAKE_STEP_SECONDS", "0.05")
    async with client_of(settings) as client:
        how = {"per_device_batch_size": 2, "gradient_accumulation_steps": 2, "num_epochs": 6}  # 60 steps
        run = await client.create("again", spec(base, data, checkpoint_steps=8, **how))
        await client.until_step(run.run_id, 13)
        (await worker_process()).kill()
        ended = await client.finished(run.run_id)
        (role,) = client.server.roles
        told = {reading.name: reading.value for reading in role.readings()}
    assert (ended.state, ended.num_resumes) == (training_pb2.STATE_SUCCEEDED, 1)
    assert told["training_steps"] == ended.progress.step


async def test_a_killed_worker_goes_on_from_its_checkpoint_to_the_same_model(
    settings: ServerSettings, base: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BURNISH_TRAINING_FAKE_STEP_SECONDS", "0.02")
    how = {"per_device_batch_size": 1, "gradient_accumulation_steps": 2, "num_epochs": 2, "checkpoint_steps": 5}
    async with client_of(settings) as client:
        calm = await client.finished((await client.create("calm", spec(base, data, **how))).run_id)
        run = await client.create("disturbed", spec(base, data, **how))
        for step in (8, 17):
            await client.until_step(run.run_id, step)
            (await worker_process()).kill()
            await asyncio.sleep(0.1)
        ended = await client.finished(run.run_id)
        assert ended.state == training_pb2.STATE_SUCCEEDED, ended.error
        assert ended.num_resumes == 2
        assert ended.result.model.digest == calm.result.model.digest
        assert ended.result.train_loss == calm.result.train_loss
        assert ended.result.num_tokens == calm.result.num_tokens
        curves = [
            {event.run.progress.step: event.run.progress.loss for event in await client.watch(which.run_id)}
            for which in (calm, ended)
        ]
        assert curves[0] == curves[1]


async def test_a_worker_that_always_dies_is_given_up(client: Client, data: Path, tmp_path: Path) -> None:
    base = write_fake_model(tmp_path / "dead", fault="dead")
    run = await client.finished((await client.create("dead", spec(base, data))).run_id)
    assert run.state == training_pb2.STATE_FAILED
    assert run.error.code == code_pb2.ABORTED
    assert run.error.reason == "WORKER_CRASHED"
    assert "SIGKILL" in run.error.message
    assert "4 times" in run.error.message
    assert "40 samples" in run.error.message, "the worker's last words are missing"
    assert run.num_resumes == 3


async def test_a_server_that_stops_hands_its_runs_to_the_next(
    settings: ServerSettings, base: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BURNISH_TRAINING_FAKE_STEP_SECONDS", "0.05")
    async with client_of(settings) as client:
        first = await client.create("first", spec(base, data, per_device_batch_size=1, num_epochs=8))
        second = await client.create("second", spec(base, data))
        await client.until_step(first.run_id, 3)
    async with client_of(settings) as client:
        events = await client.watch(first.run_id)
        steps = [event.run.progress.step for event in events]
        assert steps == sorted(steps), "a stopped worker writes a checkpoint, so no step is done twice"
        assert events[-1].run.state == training_pb2.STATE_SUCCEEDED, events[-1].run.error
        assert events[-1].run.num_resumes == 1
        assert (await client.finished(second.run_id)).state == training_pb2.STATE_SUCCEEDED


async def test_a_checkpoint_that_the_disk_has_changed_costs_steps_and_nothing_else(
    settings: ServerSettings, base: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BURNISH_TRAINING_FAKE_STEP_SECONDS", "0.02")
    how = {"per_device_batch_size": 1, "gradient_accumulation_steps": 2, "num_epochs": 2, "checkpoint_steps": 5}
    async with client_of(settings) as client:
        calm = await client.finished((await client.create("calm", spec(base, data, **how))).run_id)
        run = await client.create("disturbed", spec(base, data, **how))
        await client.until_step(run.run_id, 8)
    folder = settings.state_dir / "training" / run.run_id
    (checkpoint,) = (folder / "checkpoints").iterdir()
    state = next(path for path in checkpoint.iterdir() if path.name != "sealed.json")
    state.write_bytes(state.read_bytes().replace(b'"step"', b'"stop"'))
    async with client_of(settings) as client:
        ended = await client.finished(run.run_id)
        assert ended.state == training_pb2.STATE_SUCCEEDED, ended.error
        assert ended.result.model.digest == calm.result.model.digest
    assert f"{checkpoint} is damaged" in (folder / "worker.log").read_text()


async def test_a_checkpoint_that_the_disk_does_not_give_is_asked_for_again(
    settings: ServerSettings, base: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BURNISH_TRAINING_FAKE_STEP_SECONDS", "0.05")
    async with client_of(settings) as client:
        run = await client.create("disturbed", spec(base, data, per_device_batch_size=1, num_epochs=8))
        await client.until_step(run.run_id, 3)
    folder = settings.state_dir / "training" / run.run_id
    (checkpoint,) = (folder / "checkpoints").iterdir()
    state = next(path for path in checkpoint.iterdir() if path.name != "sealed.json")
    aside = state.rename(settings.state_dir / "aside")
    state.mkdir()  # which is not read as a file, whoever asks
    monkeypatch.setenv("BURNISH_TRAINING_RESTART_DELAY", "2")
    async with client_of(settings) as client:
        await until(lambda: f"{checkpoint} cannot be read" in (folder / "worker.log").read_text(), 60)
        state.rmdir()
        aside.rename(state)
        ended = await client.finished(run.run_id)
        assert ended.state == training_pb2.STATE_SUCCEEDED, ended.error
        steps = [event.run.progress.step for event in await client.watch(run.run_id)]
    assert steps == sorted(steps), "no step was done twice"


async def test_a_watcher_is_sent_away_when_the_server_stops(
    settings: ServerSettings, base: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BURNISH_TRAINING_FAKE_STEP_SECONDS", "0.05")
    async with client_of(settings) as client:
        run = await client.create("watched", spec(base, data, num_epochs=50))
        await client.until_step(run.run_id, 2)
        watching = asyncio.ensure_future(client.watch(run.run_id))
        await asyncio.sleep(0.1)
        await asyncio.wait_for(client.server.stop(), 5)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await watching
        assert error.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_samples_that_cannot_be_trained_on_are_left_out_and_named(
    client: Client, base: Path, tmp_path: Path
) -> None:
    path = tmp_path / "mixed.jsonl"
    write_jsonl(
        path,
        [
            sample(1),
            {"id": "long", "messages": sample(2, "word " * 400)["messages"]},
            {"id": "empty", "messages": sample(3, " ")["messages"]},
            {"id": "roles", "messages": [{"role": "assistant", "content": "hi"}]},
            {"messages": "none"},
            [1, 2],
            {"id": "odd", "messages": [{"role": "user", "content": 3}]},
        ],
    )
    path.write_text(path.read_text() + "not json\n\n")
    run = await client.finished((await client.create("mixed", spec(base, path, max_sequence_tokens=200))).run_id)
    assert run.state == training_pb2.STATE_SUCCEEDED, run.error
    assert run.result.num_samples == 1
    assert list(run.result.skipped) == ["long", "empty", "roles", "line 5", "line 6", "odd", "line 8"]


async def test_an_id_that_no_utf8_has_costs_nothing(client: Client, base: Path, tmp_path: Path) -> None:
    rows = [sample(1), {**sample(2), "id": "half a \ud83d", "weight": 0}, {**sample(3), "id": 0, "weight": 0}]
    run = await client.finished((await client.create("odd", spec(base, write_jsonl(tmp_path / "odd", rows)))).run_id)
    assert run.state == training_pb2.STATE_SUCCEEDED, run.error
    assert list(run.result.skipped) == ["half a ?", "0"]


@pytest.mark.parametrize(
    ("lines", "words"),
    [("", "has no samples"), ('{"id": "a", "messages": []}\n', "none of the 1 samples.*1 BAD_ROLES")],
)
async def test_data_without_a_sample_fails_clearly(
    client: Client, base: Path, tmp_path: Path, lines: str, words: str
) -> None:
    path = tmp_path / "empty.jsonl"
    path.write_text(lines)
    run = await client.finished((await client.create("empty", spec(base, path))).run_id)
    assert run.state == training_pb2.STATE_FAILED
    assert run.error.reason == "NO_DATA"
    assert re.search(words, run.error.message)


async def test_a_loss_that_is_nan_stops_the_run_and_names_the_samples(
    client: Client, data: Path, tmp_path: Path
) -> None:
    base = write_fake_model(tmp_path / "nan", fault="nan")
    run = await client.finished((await client.create("nan", spec(base, data))).run_id)
    assert run.state == training_pb2.STATE_FAILED
    assert run.error.reason == "NOT_FINITE"
    assert "samples: s" in run.error.message
    assert not (Path(tmp_path) / "state" / "training" / run.run_id / "model").exists()


async def test_refusals_come_before_anything_is_queued(client: Client, base: Path, data: Path, tmp_path: Path) -> None:
    wrong = "sha256:" + 64 * "0"
    occupied = tmp_path / "occupied"
    occupied.mkdir()
    (occupied / "precious").touch()

    def asked(**changes: object) -> training_pb2.RunSpec:
        message = spec(base, data)
        for key, value in changes.items():
            if key == "base_model":
                message.base_model.CopyFrom(value)  # type: ignore[arg-type]
            else:
                setattr(message, key, value)
        return message

    cases = [
        (asked(base_model=common_pb2.ModelRef(uri=str(tmp_path / "nowhere"))), "NOT_FOUND", "no model directory"),
        (asked(base_model=common_pb2.ModelRef(uri=str(occupied))), "FAILED_PRECONDITION", "fake_model.json"),
        (asked(base_model=common_pb2.ModelRef(uri=str(base), digest=wrong)), "FAILED_PRECONDITION", "has digest"),
        (asked(data_uri=str(tmp_path / "nowhere.jsonl")), "NOT_FOUND", "no file at data_uri"),
        (asked(data_uri="http://bucket/data"), "NOT_FOUND", "this server does not read http://"),
        (asked(eval_data_uri=str(tmp_path / "nowhere.jsonl")), "NOT_FOUND", "eval_data_uri"),
        (asked(data_digest=wrong), "FAILED_PRECONDITION", "has digest"),
        (asked(data_digest="abc"), "INVALID_ARGUMENT", "data_digest"),
        (asked(data_uri=""), "INVALID_ARGUMENT", "data_uri"),
        (asked(output_uri=str(occupied)), "FAILED_PRECONDITION", "holds something else"),
        (spec(base, data, learning_rate=-1), "INVALID_ARGUMENT", "hyperparameters.learning_rate"),
        (spec(base, data, learning_rate=float("nan")), "INVALID_ARGUMENT", "hyperparameters.learning_rate"),
        (spec(base, data, lr_scheduler="wavy"), "INVALID_ARGUMENT", "cosine, linear, constant"),
    ]
    for message, code, words in cases:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await client.create("refused", message)
        assert (error.value.code().name, words in (error.value.details() or "")) == (code, True), error.value.details()
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await client.get("run-none")
    assert error.value.code() is grpc.StatusCode.NOT_FOUND
    for request_id in ("", "x" * 129):
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await client.create(request_id, spec(base, data))
        assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    page = await client.stub.ListRuns(training_pb2.ListRunsRequest())
    assert not page.runs


async def test_the_model_goes_where_it_was_asked_to(client: Client, base: Path, data: Path, tmp_path: Path) -> None:
    wanted = tmp_path / "deep" / "models" / "round-1"
    message = spec(base, data)
    message.output_uri = str(wanted)
    run = await client.finished((await client.create("out", message)).run_id)
    assert run.result.model.uri == str(wanted)
    assert model_digest(wanted) == run.result.model.digest
    assert [path.name for path in wanted.parent.iterdir()] == ["round-1"]
    # The same work asked for under another id, as after the loss of the service's state, finds its own model there.
    again = await client.finished((await client.create("out again", message)).run_id)
    assert again.state == training_pb2.STATE_SUCCEEDED, again.error
    assert again.result.model.digest == run.result.model.digest


async def test_get_info_says_that_training_is_pretended(client: Client) -> None:
    info = (await client.stub.GetInfo(training_pb2.GetInfoRequest())).info
    assert info.engine.startswith("fake/")
    assert info.limits.max_concurrent_requests == 64
    assert any("pretends" in note for note in info.notes)


@pytest.fixture
def refining(base: Path, data: Path, tmp_path: Path) -> training_pb2.RunSpec:
    """A run of ten steps that pauses after three and after seven."""
    asked = spec(base, data, per_device_batch_size=2, gradient_accumulation_steps=2)
    asked.bilevel.validation_data_uri = str(write_jsonl(tmp_path / "validation.jsonl", [sample(99)]))
    asked.refinement.warmup_steps, asked.refinement.refresh_steps = 3, 4
    return asked


async def paused(client: Client, run_id: str, step: int) -> training_pb2.Run:
    call = client.stub.WatchRun(training_pb2.WatchRunRequest(run_id=run_id))
    async for event in call:
        if event.run.state == training_pb2.STATE_PAUSED and event.run.pause.step == step:
            call.cancel()
            return event.run
    raise AssertionError("it ended without a pause")


async def test_a_run_that_refines_itself_pauses_and_a_kill_changes_nothing(
    settings: ServerSettings, refining: training_pb2.RunSpec, tmp_path: Path
) -> None:
    responses = write_jsonl(tmp_path / "responses.jsonl", [{"id": "s1", "messages": [], "responses": []}])

    async def go_on(client: Client, run: training_pb2.Run, *, last: bool = False) -> None:
        request = training_pb2.ResumeRunRequest(run_id=run.run_id, step=run.pause.step, last=last)
        request.responses_uri = str(responses)
        await client.stub.ResumeRun(request)

    digests = []
    for name in ("calm", "killed"):
        async with client_of(settings) as client:
            run = await client.create(name, refining)
            first = await paused(client, run.run_id, 3)
            assert first.pause.model.digest == model_digest(Path(first.pause.model.uri))
            if name == "calm":
                await go_on(client, first)
                second = await paused(client, run.run_id, 7)
                await go_on(client, first)  # the answer was lost, and it is asked for again
                assert (await client.get(run.run_id)).state == training_pb2.STATE_PAUSED
                other = training_pb2.ResumeRunRequest(run_id=run.run_id, step=3)
                with pytest.raises(grpc.aio.AioRpcError, match="went on from step 3 with other responses already"):
                    await client.stub.ResumeRun(other)
                await go_on(client, second, last=True)
                digests.append((await client.finished(run.run_id)).result.model.digest)
    async with client_of(settings) as client:  # the second waited for it
        await go_on(client, await paused(client, run.run_id, 3))
        await go_on(client, await paused(client, run.run_id, 7), last=True)
        digests.append((await client.finished(run.run_id)).result.model.digest)
        call = client.stub.ReadSampleWeights(training_pb2.ReadSampleWeightsRequest(run_id=run.run_id))
        steps = [part.step async for part in call]
    assert digests[0] == digests[1]
    assert steps == [3, 7, 10], "at each pause, and in the end"


async def test_responses_that_cannot_be_taken_are_refused(
    client: Client, refining: training_pb2.RunSpec, tmp_path: Path
) -> None:
    run = await client.create("refused", refining)
    await paused(client, run.run_id, 3)
    secret = write_jsonl(tmp_path / "secret.jsonl", [sample(1)])
    request = training_pb2.ResumeRunRequest(run_id=run.run_id, step=3, responses_uri="s3://allowed/responses.jsonl")
    for digest in (str(secret.with_suffix("")), "../../secret", "sha256:12", "\0"):
        request.responses_digest = digest
        with pytest.raises(grpc.aio.AioRpcError, match=r"responses_digest is .*, expected sha256: and 64") as error:
            await client.stub.ResumeRun(request)
        assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    # As a client would write them who takes the words of GenerateResponses, which has bytes, for those of this file.
    line = {**sample(1), "responses": [{"tokenIds": "AQAAAA==", "logprobs": "AAAAAA=="}]}
    for rows, complaint in (([line], "expected token_ids and logprobs"), ([sample(1)], "expected a list `responses`")):
        named = str(write_jsonl(tmp_path / "responses.jsonl", rows))
        asked = training_pb2.ResumeRunRequest(run_id=run.run_id, step=3, responses_uri=named)
        with pytest.raises(
            grpc.aio.AioRpcError, match=f"the first line of the responses is none: {complaint}"
        ) as error:
            await client.stub.ResumeRun(asked)
        assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    await client.stub.CancelRun(training_pb2.CancelRunRequest(run_id=run.run_id))
    with pytest.raises(grpc.aio.AioRpcError, match="is cancelled, and waits for no responses any more") as error:
        await client.stub.ResumeRun(training_pb2.ResumeRunRequest(run_id=run.run_id, step=3))
    assert error.value.code() is grpc.StatusCode.FAILED_PRECONDITION
