"""A cluster of hosts with Burnish on them, as an autoscaler and an operator treat it: replicas of a service are added,
drained and killed, each on a host of its own, and a name follows those that are ready."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.scale.hosts import NAMES, NETWORK, STORE, Host, Network, network

ROOT = Path(__file__).parents[2]
PORT, STORE_PORT, METRICS_PORT = 50051, 9000, 9090
BUCKET = "burnish"
STORE_URL = f"http://{NETWORK}.{STORE}:{STORE_PORT}"
# How every host reaches the store; nothing else of the store is anywhere.
STORE_ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_REGION": "us-east-1",
    "AWS_ENDPOINT_URL": STORE_URL,
    "AWS_ALLOW_HTTP": "true",
    "AWS_EC2_METADATA_DISABLED": "true",
    "PYTHONPATH": os.pathsep.join([str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]).rstrip(os.pathsep),
}


_UPLOAD = """
import pathlib, sys, boto3
store = boto3.client("s3")
store.create_bucket(Bucket=sys.argv[1])
for file in pathlib.Path("objects").rglob("*"):
    if file.is_file():
        store.upload_file(str(file), sys.argv[1], str(file.relative_to("objects")))
"""


@dataclass(eq=False)
class Pod:
    """A process on a host of its own."""

    host: Host
    process: subprocess.Popen[bytes]
    service: str = ""
    log: str = "log"

    @property
    def ready_file(self) -> Path:
        """Written once it serves."""
        return self.host.folder / "ready.json"

    @property
    def said(self) -> str:
        """All that it wrote."""
        return (self.host.folder / self.log).read_text(errors="replace")

    def answered(self, method: str = "") -> int:
        """Calls of a method that it answered, or of all."""
        return sum(f"{method} " in line and "code=OK" in line for line in self.said.splitlines())

    def wait_ready(self, seconds: float = 60.0) -> None:
        """Returns once it serves."""
        _until(self.ready_file.exists, self, seconds)

    def end(self, number: signal.Signals = signal.SIGTERM, seconds: float = 60.0) -> int:
        """Sends a signal and waits; the exit code."""
        self.process.send_signal(number)
        return self.process.wait(seconds)


@dataclass
class Cluster:
    """The hosts, what runs on them, and which of them a service's name leads to."""

    network: Network
    names_file: Path
    pods: list[Pod] = field(default_factory=list)
    _numbers: dict[str, int] = field(default_factory=dict)

    def pod(
        self,
        service: str,
        *words: str,
        number: int = 0,
        environment: Mapping[str, str] | None = None,
        volumes: Mapping[str, Path] | None = None,
    ) -> Pod:
        """Starts a Python process on a new host."""
        self._numbers[service] = self._numbers.get(service, 0) + 1
        host = self.network.host(f"{service}-{self._numbers[service]}", number)
        variables = STORE_ENVIRONMENT | dict(environment or {})
        process = self.network.start(host, *words, log="log", environment=variables, volumes=volumes)
        pod = Pod(host, process, service)
        self.pods.append(pod)
        return pod

    def replica(self, service: str, *options: str, volumes: Mapping[str, Path] | None = None, **env: str) -> Pod:
        """Starts one of a service; `join` once it is ready."""
        here = self.network.here
        words = ["-m", "burnish_services", "--engine", "fake", "--roles", service, "--host", "0.0.0.0", "--insecure"]
        words += ["--port", str(PORT), "--metrics-port", str(METRICS_PORT), "--ready-file", str(here / "ready.json")]
        words += ["--state-dir", str(here / "state"), *options]
        return self.pod(service, *words, environment=env, volumes=volumes)

    def join(self, *pods: Pod) -> None:
        """Waits until they serve, and has their services' names lead to them as well."""
        for pod in pods:
            pod.wait_ready()
        self._publish()

    def drain(self, pod: Pod) -> int:
        """As Kubernetes ends a pod: its name forgets it, it gets SIGTERM. The exit code."""
        self.pods.remove(pod)
        self._publish()
        return pod.end()

    def kill(self, pod: Pod) -> None:
        """As when a node is lost; its name forgets it afterwards."""
        self.pods.remove(pod)
        pod.end(signal.SIGKILL)
        self._publish()

    def put(self, objects: Mapping[str, bytes]) -> None:
        """Puts objects into the store, from a host; makes the bucket before."""
        folder = self.network.volume("objects")
        for key, content in objects.items():
            (folder / key).parent.mkdir(parents=True, exist_ok=True)
            (folder / key).write_bytes(content)
        pod = self.pod("uploader", "-c", _UPLOAD, BUCKET, volumes={"objects": folder})
        assert pod.process.wait(60) == 0, pod.said

    def of(self, service: str) -> list[Pod]:
        """Those of a service that have not been ended."""
        return [pod for pod in self.pods if pod.service == service]

    def _publish(self) -> None:
        leads: dict[str, list[str]] = {"store": [f"{NETWORK}.{STORE}"]}
        for pod in self.pods:
            leads.setdefault(f"burnish-{pod.service}", [])
            if pod.ready_file.exists():
                leads[f"burnish-{pod.service}"].append(pod.host.address)
        draft = self.names_file.with_suffix(".new")
        draft.write_text(json.dumps(leads))
        draft.rename(self.names_file)

    def close(self) -> None:
        """Ends everything that runs."""
        for pod in self.pods:
            for process in _family(pod.process.pid):
                process.kill()
            pod.process.wait()


@contextmanager
def cluster(base: Path) -> Iterator[Cluster]:
    """Hosts with a name server and an S3 server, and nothing else yet."""
    with network(base) as hosts:
        made = Cluster(hosts, base / "all/hosts/names-1/names.json")
        try:
            address = f"{NETWORK}.{NAMES}"
            names = made.pod("names", "-m", "tests.scale.names", address, str(hosts.here / "names.json"), number=NAMES)
            made._publish()
            serve = f"from moto.server import main; main(['-H', '{NETWORK}.{STORE}', '-p', '{STORE_PORT}'])"
            store = made.pod("store", "-c", serve, number=STORE)
            for pod, sign in ((names, ""), (store, "Running on")):
                _until(lambda pod=pod, sign=sign: sign in pod.said, pod, 60.0)
            yield made
        finally:
            made.close()


def _until(condition: Callable[[], bool], pod: Pod, seconds: float) -> None:
    give_up = time.monotonic() + seconds
    while not condition():
        assert pod.process.poll() is None, f"{pod.host} ended with {pod.process.returncode}:\n{pod.said[-3000:]}"
        assert time.monotonic() < give_up, f"{pod.host} was not there after {seconds} s:\n{pod.said[-3000:]}"
        time.sleep(0.02)


def _family(pid: int) -> list[psutil.Process]:
    try:
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []
