"""A run over hosts that share a network and an S3-compatible store and nothing else, while an autoscaler and lost nodes
change under it what there is of every role. The data set is that of a run on one machine."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from burnish.local import LocalServices
from burnish_services.engine.fake import write_fake_model
from tests.chaos.commands import Command
from tests.chaos.network import why_not
from tests.e2e.support import alpaca, digest_of_final, write_jsonl
from tests.scale.cluster import BUCKET, PORT, Cluster, Pod, cluster
from tests.waiting import until

pytestmark = pytest.mark.skipif(bool(why := why_not()), reason=why)

DATA, BASE, MODELS, VECTORS = (f"s3://{BUCKET}/{name}" for name in ("data.jsonl", "base", "models", "vectors"))
SERVICES = ("scoring", "embedding", "rewriting", "training")
ORDER = ("train", "score_pre", "score_post", "embed", "judge", "refine")
HOW = ("--rounds", "2", "--accumulation", "1", "--seed", "7", "--items-per-batch", "1", "--batches-in-flight", "4")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scale")


@pytest.fixture(scope="module")
def model(folder: Path) -> Path:
    return write_fake_model(folder / "base", name="base", seed=1, skill=0.3, latency_seconds=0.1)


@pytest.fixture(scope="module")
def data(folder: Path) -> Path:
    return write_jsonl(folder / "data.jsonl", alpaca(30))


@pytest.fixture(scope="module")
def undisturbed(model: Path, data: Path, folder: Path) -> str:
    """Digest of what the run makes on one machine."""
    with LocalServices(engine="fake", model=model, state_dir=folder / "state") as local:
        # Which samples share a batch changes nothing, but how long it takes here.
        how = (*HOW, "--items-per-batch", "16")
        command = Command("middo", str(local.endpoints.scoring), model, data, folder / "alone", *how)
        assert command.ended() == 0, command.errors
    return digest_of_final(folder / "alone")


class Deployment:
    """The services on their hosts, and a run's command on another."""

    def __init__(self, made: Cluster) -> None:
        self.made = made
        self.runs, self.queue = made.network.volume("run"), made.network.volume("training")

    def replica(self, service: str) -> Pod:
        """One more of a service; its state is its host's, but for training's queue, which is a volume."""
        options = ["--model", BASE, "--read-roots", MODELS] if service != "training" else ["--read-roots", BASE]
        environment = {}
        if service == "training":
            options += ["--write-roots", MODELS]
        elif service == "embedding":
            environment = {"BURNISH_EMBEDDING_STORE_URI": VECTORS}
        volumes = {"state": self.queue} if service == "training" else {}
        return self.made.replica(service, *options, volumes=volumes, **environment)

    def scale(self, *, during: Pod | None = None, **more: int) -> None:
        """Adds replicas, and waits until they serve. `during`: a run's command, which stands still meanwhile, so that
        how far it gets does not depend on how long processes take to start here."""
        if during is not None:
            during.process.send_signal(signal.SIGSTOP)
        self.made.join(*[self.replica(service) for service, count in more.items() for _ in range(count)])
        if during is not None:
            during.process.send_signal(signal.SIGCONT)

    def command(self) -> Pod:
        """Starts the run, or goes on with it, on a host of its own."""
        words = ["-m", "burnish", "run", "middo", "--data", DATA, "--model", BASE, "--models-uri", MODELS]
        words += ["--out", str(self.made.network.here / "run/out"), *HOW]
        for service in SERVICES:
            words += [f"--{service}-endpoint", f"burnish-{service}:{PORT}"]
        return self.made.pod("coordinator", *words, volumes={"run": self.runs})

    async def reaches(self, command: Pod, round_number: int, step: str, done: int = 1) -> None:
        """Waits until so many items of a step are done, or the run is beyond it."""

        def there() -> bool:
            assert command.process.poll() is None, command.said[-3000:]
            now = self.status()
            at = (now.get("round", 0), ORDER.index(now["name"]) if now.get("name") in ORDER else -1)
            wanted = (round_number, ORDER.index(step))
            return at > wanted or (at == wanted and int(now["done"]) >= done)

        await until(there, 120)

    def status(self) -> dict[str, Any]:
        """The step that the run is in."""
        try:
            return json.loads((self.runs / "out/status.json").read_text()).get("step") or {}
        except (OSError, ValueError):
            return {}


@pytest.fixture(scope="module")
def deployment(model: Path, data: Path, folder: Path) -> Iterator[Deployment]:
    with cluster(folder) as made:
        base = {f"base/{path.name}": path.read_bytes() for path in model.iterdir()}
        made.put(base | {"data.jsonl": data.read_bytes()})
        yield Deployment(made)


async def test_every_role_comes_and_goes_under_a_run(deployment: Deployment, undisturbed: str) -> None:
    made = deployment.made
    deployment.scale(scoring=3, rewriting=2, embedding=1, training=1)
    began = {service: made.of(service) for service in SERVICES}
    command = deployment.command()

    # A node with a replica is lost, the run goes on with the others, and one comes instead.
    await deployment.reaches(command, 1, "score_pre", 4)
    made.kill(began["scoring"][0])
    await deployment.reaches(command, 1, "score_pre", 8)
    deployment.scale(scoring=1, during=command)

    # The only ones of two roles are lost with their nodes, and come back on others.
    await deployment.reaches(command, 1, "embed", 4)
    made.kill(began["embedding"][0])
    deployment.scale(embedding=1)
    made.kill(began["training"][0])
    deployment.scale(training=1)

    # As an autoscaler has it: fewer, then more.
    await deployment.reaches(command, 1, "judge", 4)
    assert made.drain(began["scoring"][1]) == 0
    await deployment.reaches(command, 1, "refine", 2)
    deployment.scale(rewriting=1, during=command)
    assert made.drain(began["rewriting"][0]) == 0

    # The command's own node is lost; its volume is put into another.
    await deployment.reaches(command, 2, "score_pre", 2)
    made.kill(command)
    command = deployment.command()
    assert command.process.wait(180) == 0, command.said[-3000:]

    assert digest_of_final(deployment.runs / "out") == undisturbed
    assert all(pod.answered() > 0 for pods in began.values() for pod in pods)
    late = [pod for service in SERVICES for pod in made.of(service) if pod not in began[service]]
    assert [pod.service for pod in late] == ["scoring", "embedding", "rewriting", "training"]
    assert all(pod.answered() > 0 for pod in late), "what is added is given work"
    assert all(pod.end() == 0 for service in SERVICES for pod in made.of(service))


def test_a_host_sees_no_file_of_another(deployment: Deployment) -> None:
    made = deployment.made
    there = made.pod("other", "-c", "import pathlib; pathlib.Path('mine').write_text('x')")
    assert there.process.wait(30) == 0
    everywhere = str(there.host.folder.parents[1])
    here = made.pod("other", "-c", "import pathlib, sys; print(list(pathlib.Path(sys.argv[1]).iterdir()))", everywhere)
    assert here.process.wait(30) == 0
    assert (there.host.folder / "mine").exists()
    assert here.said.strip() == "[]"
