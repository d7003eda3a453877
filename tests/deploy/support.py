"""What tests of the chart look for in its manifests."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from burnish._settings import Settings
from tools.chart.rendering import Manifest

SERVICES = ("scoring", "embedding", "rewriting", "training")
# Whether these services train on several machines.
HAS_NODES = importlib.util.find_spec("burnish_services.training.follower") is not None
# Whether models may be in object storage.
HAS_OBJECTS = "models_uri" in Settings.model_fields
# The least that the chart takes.
LEAST: dict[str, Any] = {"insecure": True, "model": "s3://models/small"}
# Servers and coordinator that share no volume.
OBJECTS: dict[str, Any] = {
    "insecure": True,
    "model": "s3://burnish/models/base",
    "storage": {
        "objects": {
            "roots": ["s3://burnish/models"],
            "writeRoots": ["s3://burnish/runs"],
            "endpoint": "https://objects.example.com",
            "region": "us-east-1",
            "credentialsSecret": "burnish-objects",
        }
    },
    "embedding": {"storeUri": "s3://burnish/vectors", "state": {"kind": "emptyDir"}},
    "coordinator": {"enabled": True, "data": ["s3://burnish/data/alpaca.jsonl"], "options": {"rounds": 1}},
}
# Everything on, for what the profiles leave out.
EVERYTHING: dict[str, Any] = {
    "model": "/models/small",
    "tls": {"secretName": "tls", "requireClientCertificates": True},
    "tokens": {"secretName": "tokens", "guardHealth": True},
    "storage": {
        "models": {"enabled": True},
        "runs": {"enabled": True},
        "objects": {"roots": ["s3://a/b"], "writeRoots": ["s3://a/c"], "credentialsSecret": "s3", "allowHttp": True},
    },
    "server": {
        "options": {"max-message-bytes": 1048576, "compile": False},
        "extraEnv": [{"name": "NCCL_DEBUG", "value": "WARN"}],
        "priorityClassName": "high",
        "runtimeClassName": "nvidia",
        "nodeSelector": {"gpu": "yes"},
        "tolerations": [{"operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "initContainers": [{"name": "wait", "image": "busybox"}],
    },
    "scoring": {"replicas": 3, "settings": {"max_items": 128}, "strategy": {"maxSurge": "25%"}},
    "rewriting": {"autoscaling": {"kind": "hpa", "minReplicas": 2}},
    "training": {"settings": {"data_schemes": "file,s3"}},
    "coordinator": {
        "enabled": True,
        "data": ["demo"],
        "tokenSecret": "token",
        "clientCertificateSecret": "client",
        "ttlSecondsAfterFinished": 3600,
        "options": {"rounds": 2, "axis": ["hard", "sparse"], "packing": True},
    },
    "networkPolicy": {"clientNamespaces": [{"kubernetes.io/metadata.name": "pipelines"}]},
    "monitoring": {
        "podMonitor": {"enabled": True},
        "prometheusRule": {"enabled": True},
        "dashboard": {"enabled": True},
    },
}


@dataclass(frozen=True)
class Pod:
    """A pod that a manifest makes: who makes it, how many, with which metadata and spec."""

    owner: str
    metadata: dict[str, Any]
    spec: dict[str, Any]

    @property
    def labels(self) -> dict[str, str]:
        return dict(self.metadata["labels"])

    @property
    def component(self) -> str:
        return self.labels["app.kubernetes.io/component"]

    @property
    def container(self) -> dict[str, Any]:
        (container,) = self.spec["containers"]
        return dict(container)


def pods(manifests: Sequence[Manifest]) -> Iterator[Pod]:
    """Every pod of a release."""
    for manifest in manifests:
        owner = f"{manifest['kind']}/{manifest['metadata']['name']}"
        if manifest["kind"] == "Pod":
            yield Pod(owner, manifest["metadata"], manifest["spec"])
        elif manifest["kind"] == "JobSet":
            for job in manifest["spec"]["replicatedJobs"]:
                template = job["template"]["spec"]["template"]
                yield Pod(f"{owner}/{job['name']}", template["metadata"], template["spec"])
        elif "template" in manifest.get("spec", {}):
            template = manifest["spec"]["template"]
            yield Pod(owner, template["metadata"], template["spec"])


def of_kind(manifests: Sequence[Manifest], *kinds: str) -> list[Manifest]:
    return [manifest for manifest in manifests if manifest["kind"] in kinds]


def selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """What a label selector says of a pod's labels."""
    wanted = selector.get("matchLabels", {})
    expressions = selector.get("matchExpressions", [])
    assert all(expression["operator"] == "In" for expression in expressions)
    return all(labels.get(key) == value for key, value in wanted.items()) and all(
        labels.get(expression["key"]) in expression["values"] for expression in expressions
    )
