"""The containers of every profile really start, pass the probes that their manifests declare, work a run together, and
stop within the time that their manifests give them."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trustme

from burnish_services.engine.fake import write_fake_model
from tests.deploy.cluster import Container, hosts
from tests.deploy.names import name_server
from tests.deploy.support import HAS_NODES, HAS_OBJECTS, OBJECTS, SERVICES, of_kind, pods
from tests.e2e.support import alpaca, write_jsonl
from tests.service.object_store import put, s3_server
from tools.chart.rendering import PROFILES, profile, render

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="all of 127.0.0.0/8 is this machine's on Linux only"),
]

TOKEN = "t" * 40
CASES = {name: profile(name) for name in PROFILES} | ({"objects": OBJECTS} if HAS_OBJECTS else {})


@dataclass
class Cluster:
    """A profile's containers, with what they are told that they would not be told in Kubernetes."""

    containers: list[Container]
    change: Callable[[str], str]

    def of(self, component: str) -> Container:
        (found,) = [c for c in self.containers if c.pod.component == component]
        return found

    @property
    def followers(self) -> list[Container]:
        return [c for c in self.containers if c.pod.component == "follower"]

    @property
    def servers(self) -> list[Container]:
        return [self.of(service) for service in SERVICES]


def write_secrets(folder: Path, manifests: list[dict[str, Any]], endpoint: str) -> None:
    """Every Secret that a profile has somebody make."""
    ca = trustme.CA()
    for certificate in of_kind(manifests, "Certificate"):
        made = ca.issue_cert(*certificate["spec"]["dnsNames"])
        place = folder / certificate["spec"]["secretName"]
        place.mkdir(parents=True)
        (place / "tls.crt").write_bytes(b"".join(blob.bytes() for blob in made.cert_chain_pems))
        made.private_key_pem.write_to_path(str(place / "tls.key"))
        ca.cert_pem.write_to_path(str(place / "ca.crt"))
    digest = hashlib.sha256(TOKEN.encode()).hexdigest()
    files = {
        "burnish-tokens/tokens.toml": f'[[token]]\nname = "run"\nsha256 = "{digest}"\nscopes = ["all"]\n',
        "burnish-token/token": TOKEN,
        "burnish-objects/AWS_ACCESS_KEY_ID": "test",
        "burnish-objects/AWS_SECRET_ACCESS_KEY": "test",
        # The store of this test has no certificate.
        "burnish-objects/AWS_ENDPOINT_URL": endpoint,
        "burnish-objects/AWS_ALLOW_HTTP": "true",
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


@pytest.fixture(params=CASES)
def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Cluster]:
    values = CASES[request.param]
    manifests = render(values)
    with s3_server() as endpoint:
        write_secrets(tmp_path / "secrets", manifests, endpoint)
        containers = [
            Container(pod, tmp_path, manifests, tmp_path / "secrets")
            for pod in pods(manifests) if pod.component != "follower" or HAS_NODES
        ]  # fmt: skip
        if values["model"].startswith("s3://"):
            for path in write_fake_model(tmp_path / "model", skill=0.3).iterdir():
                put(endpoint, f"models/base/{path.name}", path.read_bytes())
        for container in containers:
            if "/models" in container.places:
                write_fake_model(container.places["/models"] / Path(values["model"]).name, skill=0.3)
        data = write_jsonl(tmp_path / "data.jsonl", alpaca(12))
        addresses = hosts(containers, manifests)
        put(endpoint, "data/alpaca.jsonl", data.read_bytes())
        with name_server(addresses) as port:
            yield Cluster(containers, lambda text: changed(text, data, addresses, port, endpoint))
            for container in containers:
                container.kill()


def changed(text: str, data: Path, addresses: dict[str, str], port: int, endpoint: str) -> str:
    """The engine, the data, the object store, and how to ask for names."""
    text = re.sub(r"^--engine=\w+$", "--engine=fake", text)
    text = re.sub(r"^--data=(?!s3:).*$", f"--data={data}", text)
    text = text.replace("https://objects.example.com", endpoint)
    # The leader's own name, under which followers meet it.
    text = re.sub(r"^[\w-]+-leader-0-0\.[\w-]+(?=:\d+$)", "127.0.0.1", text)
    text = text.replace("dns:///", f"dns://127.0.0.1:{port}/")
    # `helm test` asks without a scheme of gRPC's.
    found = re.match(r"^([\w.-]+):\d+=", text)
    return text.replace(found[1], addresses[found[1]]) if found and found[1] in addresses else text


def start_coordinator(cluster: Cluster) -> Container:
    coordinator = cluster.of("coordinator")
    # It only passes on what servers call the model.
    models = cluster.of("scoring").mapped
    coordinator.start(lambda text: cluster.change(models(text) if "--model=" in text else text))
    return coordinator


def start_services(cluster: Cluster) -> None:
    for server in cluster.servers:
        address = server.address
        server.start(lambda text, own=address: cluster.change(re.sub(r"^--host=0\.0\.0\.0$", f"--host={own}", text)))
    for follower in cluster.followers:
        follower.start(cluster.change)


def test_a_profile_works(cluster: Cluster, request: pytest.FixtureRequest) -> None:
    # Before there is any service, as it is where they are scaled from nothing: it waits.
    coordinator = start_coordinator(cluster)
    start_services(cluster)
    if "cpu-demo" in request.node.name:
        # Its pod is lost; another one goes on. That this is 130 is what the Job's policy goes by.
        coordinator.wait_to_say("Beginning run")
        coordinator.terminate()
        assert coordinator.stopped() == 130, coordinator.log
        start_coordinator(cluster)
        coordinator.wait_to_say("Going on with run")
    for server in cluster.servers:
        for kind in ("livenessProbe", "startupProbe", "readinessProbe"):
            server.wait_for(kind)
    cluster.of("test").start(cluster.change)
    for container in (cluster.of("test"), coordinator):
        assert container.end() == 0, "\n".join([container.log, *(server.log for server in cluster.servers)])
    assert "model   " in coordinator.log
    out = next(place for path, place in coordinator.places.items() if re.fullmatch("/runs/[a-z]+", path))
    assert json.loads((out / "status.json").read_text())["state"] == "done"
    shared = cluster.of("training").places.get("/runs")
    assert shared is None or list((shared / out.name / "models").glob("round-*/burnish.json"))
    running = [*cluster.servers, *cluster.followers]
    for container in running:
        container.terminate()
    for container in running:
        # A Job whose pod ends with 0 would be done for good; see templates/training-nodes.yaml.
        expected = 143 if container.pod.owner.startswith("JobSet/") else 0
        assert container.stopped() == expected, container.log
