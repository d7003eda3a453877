"""Containers of the chart as processes of this machine, as their manifests say: command, arguments, environment, what
ConfigMaps, Secrets and volumes hold, ports and probes.

Mapped are the engine (to the fake one), the model, the places of mounts, and addresses: every pod has one of the
loopback network, so that ports are those of the manifests, and a name server knows them under their Services' names.
"""

from __future__ import annotations

import itertools
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.deploy.support import Pod
from tools.chart.rendering import NAMESPACE, Manifest

# Addresses of this test process alone; others may run beside it.
_NETWORK = f"127.{100 + os.getpid() % 100}.{os.getpid() // 100 % 250 + 1}"
_HOSTS = itertools.count(1)


class Container:
    """A pod's only container, begun with `start`."""

    def __init__(self, pod: Pod, folder: Path, configuration: Sequence[Manifest], secrets: Path) -> None:
        """`folder` is the cluster's storage, `secrets` has a folder of files for each Secret."""
        self.pod = pod
        self.address = f"{_NETWORK}.{next(_HOSTS)}"
        self._folder = folder
        self._own = folder / "pods" / re.sub(r"\W", "-", pod.owner)
        self._configuration = {m["metadata"]["name"]: m["data"] for m in configuration if m["kind"] == "ConfigMap"}
        self._secrets = secrets
        self._process: subprocess.Popen[bytes] | None = None
        self.places = {m["mountPath"]: self._place(m) for m in pod.container.get("volumeMounts", [])}

    def _place(self, mount: Mapping[str, Any]) -> Path:
        (volume,) = [v for v in self.pod.spec["volumes"] if v["name"] == mount["name"]]
        if "persistentVolumeClaim" in volume:
            place = self._folder / "claims" / volume["persistentVolumeClaim"]["claimName"] / mount.get("subPath", "")
        elif "secret" in volume:
            place = self._secrets / volume["secret"]["secretName"]
        else:
            place = self._own / mount["name"]
        place.mkdir(parents=True, exist_ok=True)
        return place

    def mapped(self, text: str) -> str:
        """A text with the places of mounts instead of their paths."""
        if not self.places:
            return text
        paths = "|".join(re.escape(path) for path in sorted(self.places, key=len, reverse=True))
        return re.sub(rf'(?<![\w.])({paths})(?=[/,"\s]|$)', lambda found: str(self.places[found.group(1)]), text)

    def start(self, change: Callable[[str], str]) -> None:
        """Starts it. `change` maps what the mounts do not: names of hosts, the engine, the model."""
        self._nest()
        self._write_configuration(change)
        container = self.pod.container
        variables = {entry["name"]: entry["value"] for entry in container.get("env", [])}
        if self.pod.component == "follower":
            variables["JOB_COMPLETION_INDEX"] = "0"  # as the controller of indexed Jobs does
        for source in container.get("envFrom", []):
            secret = self._secrets / source["secretRef"]["name"]
            variables |= {path.name: path.read_text() for path in secret.iterdir()}
        words = [*container["command"], *container["args"]]
        words = [change(self.mapped(word)) for word in words]
        assert words[0] == "python"
        directory = self._own / "work"
        directory.mkdir(parents=True, exist_ok=True)
        with self.log_path.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, *words[1:]],
                # Nothing of this process's environment but what an image has.
                env={name: change(self.mapped(value)) for name, value in variables.items()}
                | {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def _nest(self) -> None:
        """Mounts below mounts become links."""
        for outer, inner in itertools.permutations(self.places, 2):
            if inner.startswith(f"{outer}/"):
                link = self.places[outer] / inner.removeprefix(f"{outer}/")
                if not link.is_symlink():
                    link.symlink_to(self.places[inner])

    def _write_configuration(self, change: Callable[[str], str]) -> None:
        for volume in self.pod.spec.get("volumes", []):
            if "configMap" in volume:
                for name, text in self._configuration[volume["configMap"]["name"]].items():
                    (self._own / volume["name"] / name).write_text(change(self.mapped(text)))

    @property
    def log_path(self) -> Path:
        return self._own / "log.txt"

    @property
    def log(self) -> str:
        return f"{self.pod.owner}:\n{self.log_path.read_text(errors='replace')[-3000:]}"

    def probe(self, kind: str) -> bool:
        """What the kubelet would find: a plaintext call, without token, to the pod's address and the probe's port."""
        wanted = self.pod.container[kind]["grpc"]
        with grpc.insecure_channel(
            f"{self.address}:{wanted['port']}", options=[("grpc.enable_http_proxy", 0)]
        ) as channel:
            try:
                reply = health_pb2_grpc.HealthStub(channel).Check(
                    health_pb2.HealthCheckRequest(service=wanted.get("service", "")),
                    timeout=self.pod.container[kind]["timeoutSeconds"],
                )
            except grpc.RpcError:
                return False
            return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)

    def wait_for(self, kind: str, seconds: float = 90.0) -> None:
        """Returns once a probe passes."""
        give_up = time.monotonic() + seconds
        while not self.probe(kind):
            assert self._running.poll() is None, self.log
            assert time.monotonic() < give_up, f"{kind} did not pass; {self.log}"
            time.sleep(0.1)

    def wait_to_say(self, words: str, seconds: float = 120.0) -> None:
        """Returns once its log has these words."""
        give_up = time.monotonic() + seconds
        while words not in self.log_path.read_text(errors="replace"):
            assert self._running.poll() is None, self.log
            assert time.monotonic() < give_up, f"did not say {words!r}; {self.log}"
            time.sleep(0.05)

    @property
    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    def end(self) -> int:
        """Its exit code, once it has ended by itself; the test fails where that takes minutes."""
        return self._running.wait(180)

    def terminate(self) -> None:
        """SIGTERM."""
        self._running.send_signal(signal.SIGTERM)

    def stopped(self) -> int:
        """Its exit code after `terminate`; raises where the pod's grace is over before, when it would be killed."""
        return self._running.wait(self.pod.spec["terminationGracePeriodSeconds"])

    def kill(self) -> None:
        """Leaves nothing behind."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()


def hosts(containers: Sequence[Container], manifests: Sequence[Manifest]) -> dict[str, str]:
    """Addresses by the names of the Services that select them."""
    found = {}
    for service in manifests:
        if service["kind"] != "Service":
            continue
        wanted = service["spec"]["selector"].items()
        (container,) = [c for c in containers if wanted <= c.pod.labels.items()]
        found[f"{service['metadata']['name']}.{NAMESPACE}.svc.cluster.local"] = container.address
    return found
