"""Runs whose training service sees none of the client's files: what they train on is uploaded."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from burnish import Client, Endpoints
from burnish.local import LocalServices
from tests.e2e.conftest import FakeEngineServices
from tests.e2e.killing import Work, run_in_child
from tests.e2e.support import alpaca, digest_of_final, write_jsonl


@pytest.fixture(scope="module")
def blind(services: FakeEngineServices, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of services that read no data by its path."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("BURNISH_TRAINING_DATA_SCHEMES", "s3")
        state = tmp_path_factory.mktemp("blind")
        with LocalServices(engine="fake", model=services.model, state_dir=state) as local:
            yield local.endpoints.scoring


def test_a_run_ends_the_same_whether_the_service_sees_its_files_or_not(
    services: FakeEngineServices, blind: str, tmp_path: Path
) -> None:
    rows = alpaca(40)
    data = write_jsonl(tmp_path / "data.jsonl", rows)
    validation = write_jsonl(
        tmp_path / "validation.jsonl", [{**row, "output": "A trusted answer."} for row in rows[:4]]
    )
    settings = {
        "data": str(data),
        "validation": str(validation),
        "model": str(services.model),
        "seed": 3,
        "training": {"gradient_accumulation_steps": 1},
    }

    def run(address: str, out: str, killed_in: int = 0) -> int:
        return run_in_child(
            Work(address, "bds", settings, tmp_path / out, killed_after=("train", killed_in), begun=True)
        )

    with Client(Endpoints.at(services.address)) as client:
        earlier = {one.run_id for one in client.training.list()}
    assert run(services.address, "seen") == 0
    # Killed when the service has the run already: its name must not depend on how the data came.
    assert run(blind, "sent", killed_in=1) == -9
    assert run(blind, "sent") == 0
    assert digest_of_final(tmp_path / "sent") == digest_of_final(tmp_path / "seen")

    with Client(Endpoints.at(services.address)) as client:
        seen = [one for one in client.training.list() if one.run_id not in earlier]
    with Client(Endpoints.at(blind)) as client:
        sent = client.training.list()
    assert len(sent) == len(seen), "a run was not found again"
    assert {run.snapshot.spec.data_uri.partition(":")[0] for run in sent} == {"upload"}
    learning = sent[-1].snapshot
    assert learning.spec.bilevel is not None
    assert learning.spec.bilevel.validation_data_uri.startswith("upload:sha256:")
    assert learning.result is not None
    assert seen[-1].snapshot.result is not None
    assert learning.result.model.digest == seen[-1].snapshot.result.model.digest


def test_the_command_uploads_too(services: FakeEngineServices, blind: str, tmp_path: Path) -> None:
    data = write_jsonl(tmp_path / "data.jsonl", alpaca(12))
    digests = []
    for address, out in ((services.address, "seen"), (blind, "sent"), (blind, "sent")):
        command = [
            sys.executable,
            "-m",
            "burnish",
            "train",
            "--data",
            str(data),
            "--model",
            str(services.model),
            "--json",
        ]
        command += ["--eval-data", str(data), "--out", str(tmp_path / out), "--training-endpoint", address]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stderr
        digests.append(json.loads(done.stdout)["digest"])
    assert len(set(digests)) == 1
