"""The commands that look at services, and that keep some."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from burnish import Client, Endpoints, NotInstalled
from burnish.cli import serve
from burnish.testing import FakeServices
from tests.e2e.commands import burnish, complained


@pytest.fixture
def hasty(tmp_path: Path) -> Path:
    """Settings by which nobody waits for services that are not there."""
    path = tmp_path / "hasty.toml"
    path.write_text("connect_timeout = 0.2\n", encoding="utf-8")
    return path


@pytest.fixture
def nowhere() -> Iterator[str]:
    """An address at which nothing listens."""
    with closing(socket.socket()) as unused:
        unused.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{unused.getsockname()[1]}"


def test_the_doctor_tells_which_services_answer(fakes: FakeServices, hasty: Path, nowhere: str) -> None:
    done = burnish(
        *("doctor", "--json", "--engine", "fake", "--config", hasty),
        *("--scoring-endpoint", fakes.address, "--training-endpoint", nowhere),
    )
    found = json.loads(done.stdout)
    assert (done.exit_code, found["ok"], found["engine"], found["advice"]) == (3, False, "fake", "")
    assert {role: (one["address"], one["ok"]) for role, one in found["services"].items()} == {
        "scoring": (fakes.address, True),
        "training": (nowhere, False),
    }
    assert found["services"]["scoring"]["says"] == "Burnish 0.0.0, fake/0, holds fake://held"
    assert nowhere in found["services"]["training"]["says"]
    assert found["packages"].keys() >= {"grpcio", "torch", "vllm", "umap-learn"}
    assert found["packages"]["grpcio"]


def test_the_doctor_of_services_none_of_which_can_be_reached(hasty: Path, nowhere: str) -> None:
    done = burnish("doctor", "--engine", "fake", "--config", hasty, "--endpoint", nowhere)
    assert done.exit_code == 3
    said = [line.split() for line in done.stdout.splitlines()]
    told = [words[0] for words in said if words[1:2] == [f"{nowhere}:"]]
    assert told == ["scoring", "embedding", "rewriting", "training"]
    assert "Services started here would run on the fake engine." in done.stdout


def test_the_doctor_of_what_is_well_and_of_what_has_no_engine(
    fakes: FakeServices, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_here() -> str:
        raise NotInstalled("No engine is installed; do this.")

    monkeypatch.setattr(serve, "detect_engine", none_here)
    done = burnish("doctor", "--json")
    found = json.loads(done.stdout)
    assert (done.exit_code, found["ok"], found["engine"]) == (1, False, None)
    assert "No engine is installed; do this." in burnish("doctor").stdout
    assert burnish("doctor", "--engine", "fake").exit_code == 0
    done = burnish("doctor", "--json", "--endpoint", fakes.address)
    assert (done.exit_code, json.loads(done.stdout)["ok"]) == (0, True), "what runs elsewhere needs no engine here"


def test_up_keeps_services_until_it_is_told_to_stop(tmp_path: Path) -> None:
    complained(burnish("up", "--engine", "fake"), 2, "--model is needed")
    command = [sys.executable, "-m", "burnish", "up", "--json", "--engine", "fake", "--roles", "training"]
    with subprocess.Popen([*command, "--state-dir", str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            text = ""
            for line in process.stdout:
                text += line
                if line == "}\n":
                    break
            told = json.loads(text)
            assert (told["engine"], len(told["pids"]), told["addresses"].keys()) == ("fake", 1, {"training"})
            with Client(Endpoints(training=told["addresses"]["training"])) as client:
                assert client.training.info().engine.startswith("fake/")
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
            assert process.stdout.read() == ""
        finally:
            process.kill()
    assert (tmp_path / "training.log").is_file()


def test_up_takes_no_addresses_and_looks_at_the_model_first(tmp_path: Path) -> None:
    result = burnish("up", "--engine", "transformers", "--model", tmp_path, "--state-dir", tmp_path / "state")
    complained(result, 2, "is no model: expected a directory")
    assert not (tmp_path / "state").exists()
    assert burnish("up", "--endpoint", "127.0.0.1:9", "--model", tmp_path).exit_code == 2
    assert "No such option: --endpoint" in burnish("up", "--endpoint", "127.0.0.1:9").stderr
