"""What stands on disk after a crash at any moment: events, runs, checkpoints, published models."""

from __future__ import annotations

import errno
import json
import os
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from burnish_services.engine.fake import write_fake_model
from burnish_services.engine.model_digests import model_digest
from burnish_services.engine.models import copy_all_but_weights
from burnish_services.training import checkpoints, publish
from burnish_services.training.core import Hyperparameters, Plan, RunSpec
from burnish_services.training.events import EventLog
from burnish_services.training.runs import RequestConflict, Resolved, Run, RunStore
from burnish_services.training.state import Progress, Result, RunError, RunState, Snapshot, begun, progressed

SPEC = RunSpec(base_uri="base", data_uri="data")


def resolved(tmp_path: Path, output: str = "out") -> Resolved:
    return Resolved(
        plan=Plan(),
        base=tmp_path / "base",
        base_digest="sha256:base",
        data=tmp_path / "data.jsonl",
        data_digest="sha256:data",
        eval_data=None,
        output=tmp_path / output,
        trainer="fake",
    )


def made(tmp_path: Path, request: str = "r") -> Run:
    store = RunStore(tmp_path / "runs")
    store.load()
    return store.create(request, SPEC, resolved(tmp_path))


def steps(log: EventLog, count: int) -> None:
    for step in range(count):
        log.append(progressed(Snapshot(), Progress(step=step, loss=1 / (step + 1))), float(step), durable=False)


def numbers(path: Path) -> list[int]:
    """Numbers of all events that a new server finds."""
    with closing(EventLog(path).read_along(1)) as reader:
        return [event.number for event in reader.read(99)]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_events_are_read_back_as_they_were_written(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    assert log.last is None
    steps(log, 500)
    again = EventLog(tmp_path / "events.jsonl")
    assert again.last == log.last
    reader = again.read_along(490)
    assert [event.number for event in reader.read(6)] == [490, 491, 492, 493, 494, 495]
    assert [event.number for event in reader.read(6)] == [496, 497, 498, 499, 500]
    assert reader.read(6) == []
    steps(again, 1)
    assert [event.number for event in reader.read(6)] == [501]
    reader.close()


@pytest.mark.parametrize("torn", [b"{", b'{"number":3,"time":0.0', b"\0" * 100_000])
def test_an_event_torn_by_a_crash_is_cut_off(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "events.jsonl"
    steps(EventLog(path), 2)
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    log = EventLog(path)
    assert log.last is not None
    assert log.last.number == 2
    steps(log, 1)
    assert path.read_bytes().startswith(whole)
    assert numbers(path) == [1, 2, 3]


def test_a_damaged_log_is_named_not_guessed(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text('{"number": "x"}\n')
    with pytest.raises(ValueError, match=r"events\.jsonl is damaged"):
        EventLog(path)


def test_a_long_event_is_found_whole(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    steps(log, 2)
    result = Result("m", "d", 1.0, None, 1, tuple(f"sample-{index:06}" for index in range(50_000)), "d", 1)
    log.append(replace(Snapshot(), result=result), 5.0, durable=True)
    assert EventLog(log.path).last == log.last


def test_a_disk_that_takes_nothing_costs_no_event(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    steps(log, 1)
    reader = log.read_along(1)

    def full(self: EventLog, lines: bytes, durable: bool) -> None:
        with self.path.open("ab") as file:
            file.write(lines[:10])  # some of it may get through
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(EventLog, "_write", full)
        steps(log, 2)
        assert [event.number for event in reader.read(9)] == [1, 2, 3]
    steps(log, 1)
    assert [event.number for event in reader.read(9)] == [4]
    reader.close()
    assert numbers(log.path) == [1, 2, 3, 4]


def test_runs_are_found_again_in_their_order(tmp_path: Path) -> None:
    store = RunStore(tmp_path / "runs")
    store.load()
    runs = [store.create(f"request {index}", SPEC, resolved(tmp_path)) for index in range(3)]
    runs[1].update(begun(runs[1].snapshot, 5.0), 5.0)
    (tmp_path / "runs" / "run-broken").mkdir()
    (tmp_path / "runs" / ".new-run-1234").mkdir()

    again = RunStore(tmp_path / "runs")
    again.load()
    assert [run.record for run in again.oldest_first()] == [run.record for run in runs]
    assert [run.record.sequence for run in again.page(None, 2)] == [3, 2]
    assert [run.record.sequence for run in again.page(2, 2)] == [1]
    found = again.find("request 1", SPEC)
    assert found is not None
    assert found.snapshot.state is RunState.RUNNING
    assert again.find("request 9", SPEC) is None
    with pytest.raises(RequestConflict, match="another specification"):
        again.find("request 1", replace(SPEC, hyperparameters=Hyperparameters(seed=1)))
    assert not (tmp_path / "runs" / ".new-run-1234").exists()
    assert again.create("next", SPEC, resolved(tmp_path)).record.sequence == 4


async def test_a_run_that_is_removed_is_gone_or_whole_whatever_is_killed_when(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = RunStore(tmp_path / "runs")
    store.load()
    for request in ("old", "older", "newest"):
        store.create(request, SPEC, resolved(tmp_path))
    old, older = store.find("old", SPEC), store.find("older", SPEC)
    assert old is not None
    assert older is not None
    with monkeypatch.context() as killed:
        killed.setattr("shutil.rmtree", lambda *_, **__: None)
        await store.remove(old)
    assert store.find("old", SPEC) is None
    assert len(names(tmp_path / "runs")) == 3
    again = RunStore(tmp_path / "runs")
    again.load()
    assert [run.record.request_id for run in again.oldest_first()] == ["older", "newest"]
    assert len(names(tmp_path / "runs")) == 2

    def refuse(self: Path, target: Path) -> Path:
        raise OSError(errno.EACCES, os.strerror(errno.EACCES), str(self))

    with monkeypatch.context() as denied:
        denied.setattr(Path, "rename", refuse)
        with pytest.raises(OSError, match="Permission denied"):
            await store.remove(older)
    assert store.find("older", SPEC) is older
    await store.remove(older)
    assert len(names(tmp_path / "runs")) == 1
    assert store.create("old", SPEC, resolved(tmp_path)).record.sequence == 4


def test_only_a_sealed_checkpoint_counts(tmp_path: Path) -> None:
    def write(step: int) -> Path:
        path = checkpoints.checkpoint_path(tmp_path, step)
        path.mkdir()
        (path / "weights").write_bytes(b"w")
        return path

    assert checkpoints.newest(tmp_path / "nowhere") is None
    checkpoints.seal(write(9))
    write(10)  # the process is killed here
    found = checkpoints.newest(tmp_path)
    assert found is not None
    assert checkpoints.step_of(found) == 9
    assert names(tmp_path) == ["checkpoint-9"]
    checkpoints.seal(write(20))
    assert names(tmp_path) == ["checkpoint-20"]


@pytest.mark.parametrize("harm", ["flip", "cut", "remove", "seal"])
def test_a_damaged_checkpoint_is_named_and_not_used(
    tmp_path: Path, harm: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = checkpoints.checkpoint_path(tmp_path, 9)
    (path / "part").mkdir(parents=True)
    weights = path / "part" / "weights"
    weights.write_bytes(bytes(10_000))
    checkpoints.seal(path)
    assert checkpoints.newest(tmp_path) == path
    if harm == "flip":
        weights.write_bytes(bytes(5_000) + b"\1" + bytes(4_999))
    elif harm == "cut":
        weights.write_bytes(bytes(9_999))
    elif harm == "remove":
        weights.unlink()
    else:
        (path / "sealed.json").write_bytes(b"\0" * 30)
    assert checkpoints.newest(tmp_path) is None
    assert "checkpoint-9 is damaged" in caplog.text
    assert ("part/weights" in caplog.text) == (harm != "seal")
    assert not path.exists()


def test_a_checkpoint_that_the_disk_does_not_give_now_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = checkpoints.checkpoint_path(tmp_path, 9)
    path.mkdir()
    (path / "weights").write_bytes(b"w")
    checkpoints.seal(path)

    def fail(path: Path) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    for name in ("_crc", "_exists"):
        with monkeypatch.context() as broken:
            broken.setattr(checkpoints, name, fail)
            with pytest.raises(checkpoints.Unreadable, match=r"cannot be read: .*Input/output error.* the disk"):
                checkpoints.newest(tmp_path)
    assert checkpoints.newest(tmp_path) == path


def write_model(staging: Path) -> dict[str, Any]:
    write_fake_model(staging, seed=5)
    return {"canary": {}}


def result_of(digest: str) -> Result:
    return Result("out", digest, 1.0, None, 1, (), "d", 1)


def test_a_model_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    run = made(tmp_path)
    output = run.record.resolved.output

    def breaks(staging: Path) -> dict[str, Any]:
        write_fake_model(staging)
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        publish.publish(run.directory, run.record, breaks, result_of)
    assert not output.exists()
    assert publish.published(run.directory, run.record) is None

    made_result = publish.publish(run.directory, run.record, write_model, result_of)
    assert model_digest(output) == made_result.model_digest
    assert publish.published(run.directory, run.record) == made_result
    assert names(tmp_path) == ["out", "runs"]
    # A worker killed between the rename and telling anybody is begun anew and publishes the same once more.
    assert publish.publish(run.directory, run.record, write_model, result_of) == made_result


def test_another_model_in_the_way_is_left_alone(tmp_path: Path) -> None:
    run = made(tmp_path)
    write_fake_model(run.record.resolved.output, seed=99)
    before = model_digest(run.record.resolved.output)
    with pytest.raises(RunError, match="holds something else"):
        publish.publish(run.directory, run.record, write_model, result_of)
    assert model_digest(run.record.resolved.output) == before
    assert publish.published(run.directory, run.record) is None


def test_a_card_tells_whether_training_would_make_the_model_again(tmp_path: Path) -> None:
    record = made(tmp_path).record
    card = json.loads(json.dumps(publish.card(record, canary={}, training={}, packages=[], device="cpu")))
    assert card["hyperparameters"]["max_loss_ratio"] == Plan().max_loss_ratio
    same = replace(record.resolved, plan=Plan(checkpoint_steps=2, max_loss_ratio=9.0))
    assert publish.is_made_from(card, record.resolved)
    assert publish.is_made_from(card, same)
    assert not publish.is_made_from(card, replace(record.resolved, plan=Plan(seed=1)))
    assert not publish.is_made_from(card, replace(record.resolved, data_digest="sha256:other"))
    assert not publish.is_made_from(card | {"hyperparameters": 3}, record.resolved)
    assert not publish.is_made_from(card | {"lora": {"rank": 8}}, record.resolved), "adapters make other weights"
    assert not publish.is_made_from(card | {"processes": 2}, record.resolved)
    assert not publish.is_made_from({}, record.resolved)


def test_a_noted_result_counts_only_if_its_model_is_there(tmp_path: Path) -> None:
    run = made(tmp_path)
    run.directory.write_result(result_of("sha256:never renamed"))
    assert publish.published(run.directory, run.record) is None


def test_everything_but_weights_comes_from_the_base(tmp_path: Path) -> None:
    base, staging = tmp_path / "base", tmp_path / "staging"
    (base / "folder").mkdir(parents=True)
    staging.mkdir()
    for name in ("config.json", "tokenizer.json", "merges.txt", "LICENSE", "model.safetensors", "burnish.json"):
        (base / name).write_text("base")
    (base / "model.safetensors.index.json").write_text("base")
    (staging / "config.json").write_text("trained")
    copy_all_but_weights(base, staging)
    assert {path.name: path.read_text() for path in staging.iterdir()} == dict.fromkeys(
        ("config.json", "tokenizer.json", "merges.txt", "LICENSE"), "base"
    )
