"""The README is run as a newcomer would run it: its commands and its Python, on the fake engine, in an empty folder."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from burnish.local import LocalServices
from burnish_services.engine.fake import write_fake_model

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SERVERS = ("burnish up", "python -m burnish_services")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    lines = [re.split(r"(?:^| )#", line)[0].strip() for block in blocks("") for line in block.splitlines()]
    return [line for line in lines if line]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the README assumes: a data set and a model in the current folder."""
    folder = tmp_path_factory.mktemp("newcomer")
    write_fake_model(folder / "my-model", name="readme", seed=7, skill=0.5)
    rows = [{"instruction": f"Say the word number {n}", "input": "", "output": f"word {n}"} for n in range(48)]
    (folder / "alpaca.json").write_text(json.dumps(rows))
    return folder


@pytest.fixture(scope="module")
def environment() -> dict[str, str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"PATH": path, "BURNISH_ENGINE": "fake", "BURNISH_SERVER_ENGINE": "fake"}


def test_every_block_is_of_a_kind_that_is_tested() -> None:
    assert set(re.findall(r"^```(\w+)$", README, re.MULTILINE)) == {"python"}


def test_the_first_commands_are_make_targets() -> None:
    made = [shlex.split(c) for c in commands() if c.startswith("make ")]
    assert [c[1] for c in made] == ["demo", "test"]
    for command in made:
        subprocess.run([*command, "--dry-run"], cwd=ROOT, check=True, capture_output=True, timeout=60)


def test_every_command_runs(folder: Path, environment: dict[str, str]) -> None:
    ran = []
    for command in commands():
        if command.startswith(("make ", *SERVERS)):
            continue
        of_so_few = command.replace("--holdout 300 --check 150", "--holdout 12 --check 12")
        done = subprocess.run(
            shlex.split(of_so_few),
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        ran.append(command.split()[1])
        if ran == ["split"]:  # what a person does next, who finds that all are right
            (folder / "data" / "to-check.jsonl").rename(folder / "data" / "checked.jsonl")
    assert ran == ["split", "run", "status", "resume", "report", "explain", "export", "run", "run", "run"]
    assert (folder / "runs" / "first" / "report.html").is_file()
    assert (folder / "polished" / "dataset_info.json").is_file()


@pytest.mark.parametrize("start", SERVERS)
def test_every_server_starts_and_stops(start: str, folder: Path, environment: dict[str, str]) -> None:
    command = shlex.split(next(c for c in commands() if c.startswith(start)))
    if "--port" in command:  # another test may hold the port at this moment
        command[command.index("--port") + 1] = "0"
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        assert process.stdout is not None
        seen = next((line for line in process.stdout if "endpoint" in line or "serving" in line.lower()), None)
        assert seen, "the server said nothing of being ready"
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 0


@pytest.fixture(scope="module")
def scoring_address(folder: Path) -> Iterator[str]:
    services = LocalServices(["scoring"], state_dir=folder / "state", model=folder / "my-model", engine="fake")
    with services:
        yield services.endpoints.scoring


def test_the_python_runs(scoring_address: str) -> None:
    (source,) = blocks("python")
    source = source.replace("127.0.0.1:50051", scoring_address)
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    sample_id, mean_nll, perplexity = done.stdout.split()
    assert sample_id == "1"
    assert float(mean_nll) > 0
    assert float(perplexity) > 1
