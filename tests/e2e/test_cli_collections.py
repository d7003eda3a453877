"""`burnish collections`: what the embedding service keeps is listed, and what is old goes."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from burnish import Client, FeatureRule, FeatureSettings, Message, Role, Sample
from burnish._embedding import Embedding
from burnish.api.embedding.v1 import embedding_pb2
from burnish.testing import FakeServices, _embedding
from burnish_services.engine.fake import write_fake_model
from tests.e2e.commands import burnish, complained

SAMPLES = [
    Sample(f"s{number}", (Message(Role.USER, f"Question {number}?"), Message(Role.ASSISTANT, "Yes.")))
    for number in range(3)
]
AGES = {"old": 40, "older": 50, "stray": 45, "new": 1}  # days


@pytest.fixture
def kept(fakes: FakeServices, client: Client, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of a service with collections and calibrations, which are so many days old as the first word of
    their names says."""

    def aged(made: embedding_pb2.Collection | embedding_pb2.Calibration) -> None:
        age = timedelta(days=AGES[made.name.partition("-")[0]])
        made.create_time.FromDatetime(datetime.now(UTC) - age)

    original = _embedding.FakeEmbedding._collection

    def collection(self: _embedding.FakeEmbedding, name: str, context: object) -> embedding_pb2.Collection:
        made = original(self, name, context)  # type: ignore[arg-type]
        aged(made)
        return made

    monkeypatch.setattr(_embedding.FakeEmbedding, "_collection", collection)
    service = client.embedding
    for name in ("old-usual", "older-usual", "stray-usual", "new-usual"):
        service.create_calibration(name)
        service.measure(SAMPLES, name)
        service.finish_calibration(name)
    for name, calibration in (("old-a", "old-usual"), ("older-b", "older-usual"), ("new-c", "old-usual")):
        service.create_collection(name, features=FeatureSettings(FeatureRule.STANDARDIZED_TOP_K, calibration))
        service.embed(SAMPLES, collection=name)
    service.create_collection("new-plain")
    for calibration in fakes._state.calibrations.values():
        aged(calibration)
    return fakes.address


def names(client: Client) -> tuple[list[str], list[str]]:
    service = client.embedding
    return [one.name for one in service.list_collections()], [one.name for one in service.list_calibrations()]


def test_all_that_is_kept_is_listed(kept: str, client: Client) -> None:
    before = names(client)
    done = burnish("collections", "--embedding-endpoint", kept)
    assert done.exit_code == 0
    *lines, last = done.stdout.splitlines()
    assert [line.partition(":")[0] for line in lines] == [*before[0], *before[1]]
    assert lines[1].startswith("new-plain: 0 × 0 (0.0 MiB), user, no weights yet, created ")
    assert last == "4 collections with 0.0 MiB of vectors, 4 calibrations."
    found = json.loads(burnish("collections", "--embedding-endpoint", kept, "--json").stdout)
    assert [one["name"] for one in found["collections"]] == before[0]
    assert [one["name"] for one in found["calibrations"]] == before[1]
    (old,) = [one for one in found["collections"] if one["name"] == "old-a"]
    assert (old["num_vectors"], old["dimension"], old["vector_bytes"]) == (3, 8, 3 * 8 * 4)
    assert (old["features"]["calibration"], old["model"]["uri"]) == ("old-usual", "fake://held")
    assert datetime.fromisoformat(old["create_time"]) < datetime.now(UTC) - timedelta(days=39)
    assert found["deleted"] is False
    assert names(client) == before, "looking deletes nothing"


def test_what_is_old_is_named_first_and_goes_when_that_is_said(kept: str, client: Client) -> None:
    before = names(client)
    told = burnish("collections", "--embedding-endpoint", kept, "--older-than", "30d").stdout.splitlines()
    assert names(client) == before
    done = burnish("collections", "--embedding-endpoint", kept, "--older-than", "30d", "--delete")
    assert done.exit_code == 0
    assert done.stdout.splitlines()[:-1] == [f"Deleted {line}" for line in told[:-1]]
    # A collection that stays is of old-usual, so that it stays too.
    gone = ["old-a", "older-b", "older-usual", "stray-usual"]
    assert [line.partition(":")[0] for line in told[:-1]] == gone
    assert told[-1] == "2 collections with 0.0 MiB of vectors, 2 calibrations, older than 30d."
    assert done.stdout.splitlines()[-1] == f"Deleted {told[-1]}"
    assert names(client) == (["new-c", "new-plain"], ["new-usual", "old-usual"])
    again = burnish("collections", "--embedding-endpoint", kept, "--older-than", "30d", "--delete")
    assert again.stdout.splitlines() == [
        "Deleted 0 collections with 0.0 MiB of vectors, 0 calibrations, older than 30d."
    ]


def test_a_collection_made_meanwhile_keeps_its_calibration(
    kept: str, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Embedding.delete_collection

    def delete(self: Embedding, name: str) -> None:
        original(self, name)
        self.create_collection("new-late", features=FeatureSettings(calibration="older-usual"))

    monkeypatch.setattr(Embedding, "delete_collection", delete)
    done = burnish("collections", "--embedding-endpoint", kept, "--older-than", "30d", "--delete", "--json")
    found = json.loads(done.stdout)
    assert [one["name"] for one in found["collections"]] == ["old-a", "older-b"]
    assert [one["name"] for one in found["calibrations"]] == ["stray-usual"]
    assert found["deleted"] is True
    assert "older-usual" in names(client)[1]


def test_wrong_usage_deletes_nothing(kept: str, client: Client) -> None:
    before = names(client)
    complained(burnish("collections", "--embedding-endpoint", kept, "--delete"), 2, "--delete needs --older-than")
    done = burnish("collections", "--embedding-endpoint", kept, "--delete", "--older-than", "30")
    complained(done, 2, "expected a number of hours, days or weeks")
    complained(burnish("collections"), 2, "no address for the embedding service is configured")
    assert names(client) == before


def test_a_service_is_started_here_where_a_model_is_given(tmp_path: Path) -> None:
    model = write_fake_model(tmp_path / "model", seed=1)
    here = ("collections", "--engine", "fake", "--model", model, "--state-dir", tmp_path / "state")
    done = burnish(*here)
    assert (done.exit_code, done.stdout) == (0, "0 collections with 0.0 MiB of vectors, 0 calibrations.\n")
