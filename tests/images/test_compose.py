"""deploy/compose.yaml: by the Compose specification, careful with rights, and what it says really starts."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from compose_spec import PyOptions

from burnish._settings import Settings
from burnish_services.engine.fake import write_fake_model
from burnish_services.runtime.config import ALL_ROLES, ServerSettings
from tools.images.recipe import ROOT, TARGETS, Image, Recipe

FILE = ROOT / "deploy/compose.yaml"
TEXT = FILE.read_text()
OURS = (*ALL_ROLES, "coordinator")


def filled(text: str, **variables: str) -> str:
    """The text with ${NAME:-default} replaced, as Compose does it."""
    return re.sub(r"\$\{(\w+):-([^}]*)\}", lambda found: variables.get(found[1]) or found[2], text)


def services(**variables: str) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = yaml.safe_load(filled(TEXT, **variables))["services"]
    for service in found.values():
        # Compose reads what is left empty as an empty text.
        service["environment"] = {key: "" if v is None else v for key, v in service.get("environment", {}).items()}
    return found


def image_of(service: dict[str, Any], device: str = "cuda") -> Image:
    name = service["image"].removeprefix("burnish/").split(":")[0]
    assert name in TARGETS
    return Recipe({"BASE": "x", "DEVICE": device}).image(name)


def test_it_is_a_compose_file_and_a_word_that_compose_does_not_know_would_be_found() -> None:
    options = PyOptions(apply_merge=True)
    assert set(options.from_yaml(filled(TEXT)).service_names()) >= set(OURS)
    with pytest.raises(ValueError, match="read_onyl"):
        options.from_yaml(filled(TEXT).replace("read_only", "read_onyl"))


@pytest.mark.parametrize("name", sorted(services()))
def test_every_service_has_as_few_rights_as_it_can(name: str) -> None:
    service = services()[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "cap_add", "network_mode", "pid", "ipc", "user"} & set(service)
    for port in service.get("ports", []):
        assert port.startswith("127.0.0.1:"), "published to this machine alone"
    for volume in service.get("volumes", []):
        assert "docker.sock" not in volume
    tag = service["image"].split(":")[-1]
    assert re.search(r"\d+\.\d+", tag), "neither latest nor nothing"


@pytest.mark.parametrize("role", ALL_ROLES)
def test_a_service_stops_after_its_grace_and_what_it_writes_is_mounted(role: str) -> None:
    service = services()[role]
    stop, grace = (
        int(service["stop_grace_period"].removesuffix("s")),
        float(service["environment"]["BURNISH_SERVER_GRACE"]),
    )
    assert stop >= grace + 15
    writable = {volume.split(":")[1] for volume in service["volumes"] if not volume.endswith(":ro")}
    writable |= {mount.split(":")[0] for mount in service["tmpfs"]}
    assert writable - {"/tmp"} == {"/state"} | ({"/runs"} if role == "training" else set())  # noqa: S108
    (device,) = service["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]


def test_the_variables_that_it_sets_are_known() -> None:
    servers = {f"BURNISH_SERVER_{name.upper()}" for name in ServerSettings.model_fields}
    client = {f"BURNISH_{name.upper()}" for name in Settings.model_fields}
    for name in OURS:
        known = servers | {"BURNISH_EMBEDDING_STORE_URI"} if name in ALL_ROLES else client
        assert {word for word in services()[name]["environment"] if word.startswith("BURNISH_")} <= known


def test_prometheus_asks_every_service_where_it_answers() -> None:
    (job,) = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())["scrape_configs"]
    port = services()["scoring"]["environment"]["BURNISH_SERVER_METRICS_PORT"]
    assert job["static_configs"][0]["targets"] == [f"{role}:{port}" for role in ALL_ROLES]
    for volume in services()["prometheus"]["volumes"] + services()["grafana"]["volumes"]:
        source = volume.split(":")[0]
        assert not source.startswith(".") or (FILE.parent / source).exists()


class Container:
    """A service's process here: the image's entry point and environment under those of the Compose file, on the fake
    engine, with its paths in a folder and free ports."""

    def __init__(self, name: str, folder: Path, model: Path, **variables: str) -> None:
        service = services(**variables)[name]
        image = image_of(service, "cpu")
        self._folder = folder
        environment = {**image.env, **{key: str(value) for key, value in service["environment"].items()}}
        environment |= {"BURNISH_SERVER_ENGINE": "fake", "BURNISH_SERVER_MODEL": str(model), "BURNISH_SERVER_PORT": "0"}
        environment |= {
            "BURNISH_SERVER_METRICS_PORT": "0",
            "PYTHONPATH": os.environ.get("PYTHONPATH", "client:services"),
        }
        # Other machines would reach what listens on all addresses.
        environment["BURNISH_SERVER_HOST"] = "127.0.0.1"
        environment["BURNISH_SERVER_READY_FILE"] = str(folder / f"{name}.json")
        for place in ("state", "models", "data", "runs"):
            (folder / place).mkdir(exist_ok=True)
        self.environment = {key: self._here(value) for key, value in environment.items()} | {"PATH": os.environ["PATH"]}
        self._ready = folder / f"{name}.json"
        self._log = folder / f"{name}.log"
        command = [sys.executable, *image.entrypoint.words[1:], *service.get("command", [])]
        with self._log.open("w") as log:
            self.process = subprocess.Popen(command, env=self.environment, cwd=ROOT, stdout=log, stderr=log)
        self._test = service["healthcheck"]["test"]
        self._said: dict[str, Any] = {}

    def _here(self, text: str) -> str:
        return re.sub(r"(^|,)/(state|models|data|runs)(?=[/,]|$)", rf"\1{self._folder}/\2", text)

    @property
    def log(self) -> str:
        return self._log.read_text()

    def ready(self) -> dict[str, Any]:
        """What it says of itself once it answers; also when it has stopped since."""
        give_up = time.monotonic() + 120
        while not self._said and not self._ready.exists():
            assert self.process.poll() is None, self.log
            assert time.monotonic() < give_up, self.log
            time.sleep(0.05)
        self._said = self._said or json.loads(self._ready.read_text())
        return self._said

    def address(self) -> str:
        """Where it answers."""
        return str(self.ready()["address"])

    def health(self) -> subprocess.CompletedProcess[str]:
        """The Compose file's own check, at the port that it really has."""
        kind, program, *words = self._test
        assert (kind, program) == ("CMD", "python")
        words = [self.address() if word == "127.0.0.1:50051" else word for word in words]
        command = [sys.executable, *words]
        return subprocess.run(command, env=self.environment, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "models").mkdir()
    return write_fake_model(tmp_path / "models/base")


@pytest.fixture
def start(tmp_path: Path, model: Path) -> Iterator[Any]:
    started: list[Container] = []

    def begin(name: str, **variables: str) -> Container:
        started.append(Container(name, tmp_path, model, **variables))
        return started[-1]

    yield begin
    for container in started:
        if container.process.poll() is None:
            container.process.kill()
            container.process.wait()


def test_what_it_says_starts_and_its_checks_tell_so(start: Any) -> None:
    containers = {role: start(role) for role in ALL_ROLES}
    for role, container in containers.items():
        healthy = container.health()
        assert healthy.returncode == 0, healthy.stderr + container.log
        assert container.ready()["roles"] == [role]
    for container in containers.values():
        container.process.send_signal(signal.SIGTERM)
    for container in containers.values():
        assert container.process.wait(timeout=60) == 0, container.log
    gone = container.health()
    assert gone.returncode == 1
    assert "does not answer" in gone.stderr


def test_the_fewer_gpus_of_its_comment_are_one_process_of_three_roles_that_the_command_finds(start: Any) -> None:
    said = TEXT[TEXT.index("#   EMBEDDING_ROLES=") : TEXT.index("# (with the same variables")]
    variables = dict(word.split("=", 1) for word in re.findall(r"[A-Z_]+=\S+", said))
    three, training = start("embedding", **variables), start("training", **variables)
    where = {"embedding:50051": three.address(), "training:50051": training.address()}
    coordinator = services(**variables)["coordinator"]
    endpoints = {key: where[value] for key, value in coordinator["environment"].items() if value in where}
    assert len(endpoints) == 4
    environment = {**os.environ, **endpoints}
    doctor = subprocess.run(
        [sys.executable, "-m", "burnish", *coordinator["command"], "--json"],
        env=environment, cwd=three.environment["BURNISH_SERVER_STATE_DIR"], capture_output=True, text=True, check=False,
    )  # fmt: skip
    found = json.loads(doctor.stdout)
    assert doctor.returncode == 0, found
    assert set(found["services"]) == set(ALL_ROLES)
    assert all(answer["ok"] for answer in found["services"].values())
