"""A disk that takes nothing more, under services in a process of their own: it is said, nothing is lost, and work
goes on once there is room."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from burnish import Client, Message, ModelRef, Overloaded, Role, RunSpec, Sample
from burnish.local import LocalServices
from burnish_services.engine.fake import write_fake_model
from tests.service.training_support import sample, write_jsonl
from tests.small_disk import fill, small_disk


@pytest.fixture
def disk() -> Iterator[Path]:
    """A file system of one megabyte."""
    with small_disk(1) as folder:
        yield folder


def batch(number: int) -> list[Sample]:
    return [
        Sample(f"s{number}-{i}", (Message(Role.USER, f"Question {number} {i}?"), Message(Role.ASSISTANT, "Yes.")))
        for i in range(20)
    ]


def test_services_say_that_the_disk_is_full_and_go_on_when_it_is_not(disk: Path, tmp_path: Path) -> None:
    model = write_fake_model(tmp_path / "model", seed=1)
    data = write_jsonl(tmp_path / "data.jsonl", [sample(index) for index in range(10)])
    with (
        LocalServices(engine="fake", model=model, state_dir=disk / "state") as local,
        Client(local.endpoints) as client,
    ):
        client.embedding.create_collection("c")
        client.embedding.embed(batch(0), collection="c")
        ballast = fill(disk)
        with pytest.raises(Overloaded, match=r"disk is full.*--state-dir.*DISK_FULL"):
            client.embedding.embed(batch(1), collection="c")
        with pytest.raises(Overloaded, match="DISK_FULL"):
            client.training.create(RunSpec(ModelRef(str(model)), str(data)))
        with pytest.raises(Overloaded, match="DISK_FULL"):
            client.training.upload(b'{"messages": []}\n' * 1000)
        assert client.embedding.get_collection("c").num_vectors == 20
        assert client.scoring.score(batch(1)).scores[0].status.ok, "what needs no disk goes on"
        ballast.unlink()
        client.embedding.embed(batch(1), collection="c")
        assert client.embedding.get_collection("c").num_vectors == 40
        run = client.training.create(RunSpec(ModelRef(str(model)), str(data)))
        assert run.result().model.digest
